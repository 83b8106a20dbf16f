"""The login in two calls, against an issuer and a Conductor of our own."""

import json
from pathlib import Path

import httpx
import pytest
from httpx import Response

from dbos_mcp.settings import Settings
from tests.server.conftest import Serve, ToolFailedError


class Managed:
    """DBOS-managed Conductor and its issuer, as far as a login sees them."""

    def __init__(self) -> None:
        self.approved = False
        self.known_user = True
        self.tokens_seen: list[str] = []

    def __call__(self, request: httpx.Request) -> Response:
        match request.url.path.split("/")[-1]:
            case "openid-configuration":
                return Response(
                    200,
                    json={
                        "token_endpoint": "https://login.dbos.dev/oauth/token",
                        "device_authorization_endpoint": "https://login.dbos.dev/oauth/device/code",
                    },
                )
            case "code":
                return Response(
                    200,
                    json={
                        "device_code": "device-secret",
                        "user_code": "WDJB-MJHT",
                        "verification_uri": "https://login.dbos.dev/activate",
                        "verification_uri_complete": "https://login.dbos.dev/activate?c=WDJB-MJHT",
                        "expires_in": 600,
                        "interval": 1,
                    },
                )
            case "token" if self.approved:
                return Response(200, json={"access_token": "token-secret", "expires_in": 86400})
            case "token":
                return Response(400, json={"error": "authorization_pending"})
        self.tokens_seen.append(request.headers.get("authorization", ""))
        if request.url.path.endswith("/users/me"):
            if not self.known_user:
                return Response(404, json={}, headers={"content-type": "application/problem+json"})
            return Response(200, json={"name": "alice", "orgName": "acme"})
        return Response(200, json=[])


async def test_a_login_is_begun_approved_and_used(serve: Serve, tmp_path: Path) -> None:
    managed = Managed()
    async with serve(Settings(home=tmp_path), transport=httpx.MockTransport(managed)) as ask:
        begun = await ask("login")
        assert "url: https://login.dbos.dev/activate?c=WDJB-MJHT" in begun
        assert "host: login.dbos.dev" in begun
        assert "code: WDJB-MJHT" in begun
        assert "device-secret" not in begun
        with pytest.raises(ToolFailedError, match="still pending"):
            await ask("login_complete", timeout_seconds=1)
        managed.approved = True
        done = await ask("login_complete")
        assert done.startswith("Logged in as alice of acme.")
        assert "token-secret" not in done
        assert "0 applications" in await ask("list_applications")
    credentials = tmp_path / ".dbos-mcp" / "credentials"
    assert credentials.stat().st_mode & 0o777 == 0o600
    stored = json.loads(credentials.read_text())
    assert (stored["userName"], stored["organization"]) == ("alice", "acme")
    assert set(managed.tokens_seen) == {"Bearer token-secret"}
    assert (tmp_path / ".dbos-mcp" / "cloud.dbos.dev-acme.sqlite").exists()


async def test_a_user_whom_conductor_does_not_know_is_told_so(serve: Serve, tmp_path: Path) -> None:
    managed = Managed()
    managed.approved, managed.known_user = True, False
    async with serve(Settings(home=tmp_path), transport=httpx.MockTransport(managed)) as ask:
        await ask("login")
        assert "set DBOS_ORG" in await ask("login_complete")
        managed.known_user = True
        # The code was good for one grant, which is not lost by the first try.
        assert "alice" in await ask("login_complete")
