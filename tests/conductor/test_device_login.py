"""Login by device code against an issuer of our own, on a clock of our own."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qs

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from dbos_mcp.conductor.client import ConductorClient
from dbos_mcp.conductor.credentials import Credentials
from dbos_mcp.conductor.device_login import DeviceAuthorization, DeviceLogin
from dbos_mcp.conductor.identity import FixedIdentity
from dbos_mcp.conductor.oauth import IssuerClient, RefusedError, Tokens
from dbos_mcp.errors import (
    AuthenticationError,
    DbosMcpError,
    LoginDeniedError,
    LoginError,
    LoginExpiredError,
    LoginPendingError,
    UnavailableError,
)
from dbos_mcp.local_conductor.app import create_app
from dbos_mcp.local_conductor.system_database import SystemDatabase
from dbos_mcp.settings import MANAGED_ISSUER, Issuer
from tests.loopback import served
from tests.oauth_server import OAuthServer
from tests.secured_conductor import Identity, SecuredConductor

DISCOVERY = {
    "issuer": "https://issuer.test/",
    "token_endpoint": "https://issuer.test/oauth/token",
    "device_authorization_endpoint": "https://issuer.test/oauth/device",
}
DEVICE = {
    "device_code": "device-canary",
    "user_code": "ABCD-EFGH",
    "verification_uri": "https://issuer.test/activate",
    "verification_uri_complete": "https://issuer.test/activate?user_code=ABCD-EFGH",
    "expires_in": 900,
    "interval": 5,
}
APPROVED = {"access_token": "access-canary", "refresh_token": "refresh-canary", "expires_in": 86400}


class Clock:
    """Moves only when someone sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


class FakeIssuer:
    """Answers polls with the given answers, in turn, and the last one for ever."""

    def __init__(
        self,
        *polls: Response | Mapping[str, object] | str,
        discovery: Response | None = None,
        device: Response | None = None,
    ) -> None:
        self.clock = Clock()
        self.discovery = discovery or JSONResponse(DISCOVERY)
        self.device = device or JSONResponse(DEVICE)
        self.polls = [self._answer(poll) for poll in polls]
        self.polled_at: list[float] = []
        self.forms: list[dict[str, str]] = []

    @staticmethod
    def _answer(poll: Response | Mapping[str, object] | str) -> Response:
        if isinstance(poll, Response):
            return poll
        if isinstance(poll, str):  # Auth0 says "pending" with 403, RFC 6749 with 400
            return JSONResponse({"error": poll, "error_description": "more"}, 403)
        return JSONResponse(poll)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await Request(scope, receive).body()).decode()
        self.forms.append({key: value for key, (value,) in parse_qs(body).items()})
        match scope["path"]:
            case "/.well-known/openid-configuration":
                answer = self.discovery
            case "/oauth/device":
                answer = self.device
            case path:
                assert path == "/oauth/token"
                self.polled_at.append(self.clock.now)
                answer = self.polls.pop(0) if len(self.polls) > 1 else self.polls[0]
        await answer(scope, receive, send)

    def authorization(self, issuer: Issuer | None = None) -> DeviceAuthorization:
        return DeviceAuthorization(
            issuer or Issuer("https://issuer.test/", "client", "audience"),
            transport=httpx.ASGITransport(self),
            clock=self.clock,
            sleep=self.clock.sleep,
        )


async def complete(issuer: FakeIssuer, timeout_seconds: float = 2000) -> Tokens:
    authorization = issuer.authorization()
    return await authorization.complete(
        await authorization.start(), timeout_seconds=timeout_seconds
    )


async def error_of_start(issuer: FakeIssuer, as_client: Issuer | None = None) -> DbosMcpError:
    with pytest.raises(DbosMcpError) as caught:
        await issuer.authorization(as_client).start()
    return caught.value


async def test_a_login_is_approved_in_the_browser_refreshed_and_known_to_conductor(
    oauth_server: OAuthServer, shop_database: Path
) -> None:
    issuer = oauth_server.as_issuer()
    authorization = DeviceAuthorization(
        issuer, clock=oauth_server.clock, sleep=oauth_server.clock.sleep
    )
    login = await authorization.start()
    with pytest.raises(LoginPendingError):
        await authorization.complete(login)
    oauth_server.approve(login.user_code, "alice")
    tokens = await authorization.complete(login)
    assert tokens.refresh_token is not None
    tokens = await IssuerClient(issuer).refresh(tokens.refresh_token)

    database = SystemDatabase(f"sqlite:///{shop_database}")
    conductor = SecuredConductor(create_app(database), oauth_server.verify)
    conductor.users["alice"] = Identity("acme")
    with closing(database), served(conductor) as url:
        async with ConductorClient(
            url, FixedIdentity(Credentials("acme", tokens.access_token))
        ) as client:
            assert (await client.get_current_user()).org_name == "acme"
            assert await client.list_applications() != []
            oauth_server.revoke(tokens.access_token)
            with pytest.raises(AuthenticationError):
                await client.list_applications()


async def test_a_started_login_has_the_code_to_show_and_keeps_the_device_code_to_itself() -> None:
    issuer = FakeIssuer()
    login = await issuer.authorization().start()
    assert login == DeviceLogin(
        user_code="ABCD-EFGH",
        verification_uri="https://issuer.test/activate",
        verification_uri_complete="https://issuer.test/activate?user_code=ABCD-EFGH",
        expires_at=1900.0,
        interval_seconds=5,
        device_code="device-canary",
    )
    assert "device-canary" not in repr(login)
    assert issuer.forms[-1] == {
        "client_id": "client",
        "scope": "openid offline_access",
        "audience": "audience",
    }


async def test_what_the_rfc_makes_optional_has_defaults() -> None:
    required = {key: DEVICE[key] for key in ("device_code", "user_code", "verification_uri")}
    issuer = FakeIssuer(device=JSONResponse(required))
    login = await issuer.authorization(Issuer("https://issuer.test", "client", None)).start()
    assert login.verification_uri_complete is None
    assert (login.interval_seconds, login.expires_at) == (5, 1600.0)
    assert "audience" not in issuer.forms[-1]


async def test_approval_gives_the_tokens_and_never_shows_them() -> None:
    issuer = FakeIssuer("authorization_pending", "authorization_pending", APPROVED)
    tokens = await complete(issuer)
    assert tokens == Tokens("access-canary", "refresh-canary", 86400)
    assert "canary" not in repr(tokens)
    assert issuer.polled_at == [1005, 1010, 1015]
    assert issuer.forms[-1] == {
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
        "device_code": "device-canary",
        "client_id": "client",
    }


async def test_a_refresh_token_may_be_missing() -> None:
    assert await complete(FakeIssuer({"access_token": "a", "token_type": "Bearer"})) == Tokens("a")


async def test_slow_down_adds_five_seconds_for_good() -> None:
    issuer = FakeIssuer("slow_down", "authorization_pending", "slow_down", APPROVED)
    await complete(issuer)
    assert issuer.polled_at == [1005, 1015, 1025, 1040]


@pytest.mark.parametrize(
    ("answer", "expected", "words"),
    [
        ("expired_token", LoginExpiredError, "expired"),
        ("access_denied", LoginDeniedError, "denied"),
        ("invalid_grant", RefusedError, "invalid_grant"),
        ("\x1b[2Jodd" + "x" * 5000, RefusedError, "odd"),
        (Response("<html>", 404), RefusedError, "HTTP status 404"),
        (JSONResponse({"error": {"a": 1}}, 400), RefusedError, "HTTP status 400"),
    ],
    ids=["expired_token", "access_denied", "invalid_grant", "odd", "HTML", "not a name"],
)
async def test_a_final_answer_ends_the_login_and_is_never_followed_by_a_poll(
    answer: Response | str, expected: type[LoginError], words: str
) -> None:
    issuer = FakeIssuer("authorization_pending", answer)
    authorization = issuer.authorization()
    login = await authorization.start()
    for _ in range(3):
        with pytest.raises(LoginError) as caught:
            await authorization.complete(login, timeout_seconds=2000)
        assert type(caught.value) is expected
        assert words in str(caught.value)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 300
    assert issuer.polled_at == [1005, 1010]


async def test_a_login_nobody_approves_expires_by_the_clock() -> None:
    issuer = FakeIssuer("authorization_pending")
    with pytest.raises(LoginExpiredError):
        await complete(issuer, timeout_seconds=10_000)
    assert issuer.clock.now == 1900
    assert issuer.polled_at[-1] < 1900


async def test_waiting_is_bounded_and_can_go_on_in_the_same_login() -> None:
    issuer = FakeIssuer("authorization_pending", "authorization_pending", APPROVED)
    authorization = issuer.authorization()
    login = await authorization.start()
    with pytest.raises(LoginPendingError, match="login_complete") as caught:
        await authorization.complete(login, timeout_seconds=12)
    assert caught.value.retryable
    assert issuer.clock.now == 1012
    assert await authorization.complete(login) == Tokens("access-canary", "refresh-canary", 86400)
    assert issuer.polled_at == [1005, 1010, 1015]


async def test_impatient_callers_neither_poll_faster_nor_wait_for_ever() -> None:
    issuer = FakeIssuer("slow_down", APPROVED)
    authorization = issuer.authorization()
    login = await authorization.start()
    pending = 0
    while True:
        try:
            await authorization.complete(login, timeout_seconds=1)
            break
        except LoginPendingError:
            pending += 1
    assert issuer.polled_at == [1005, 1015]
    assert pending >= 10


@pytest.mark.parametrize(
    "fault",
    [Response(status_code=500), Response("<html>", 502), JSONResponse({"error": "too_many"}, 429)],
    ids=["500", "502", "429"],
)
async def test_a_fault_of_the_issuers_is_not_the_end_of_the_login(fault: Response) -> None:
    issuer = FakeIssuer(fault, APPROVED)
    authorization = issuer.authorization()
    login = await authorization.start()
    with pytest.raises(UnavailableError, match="still valid") as caught:
        await authorization.complete(login)
    assert caught.value.retryable
    assert (await authorization.complete(login)).access_token == "access-canary"
    assert issuer.polled_at == [1005, 1010]


async def test_without_a_network_the_error_says_to_try_again() -> None:
    class Down(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("All connection attempts failed")

    with pytest.raises(UnavailableError, match=r"login\.dbos\.dev did not answer.*Try again"):
        await DeviceAuthorization(MANAGED_ISSUER, transport=Down()).start()


@pytest.mark.parametrize(
    ("discovery", "words"),
    [
        (JSONResponse({"token_endpoint": "https://issuer.test/oauth/token"}), "device code"),
        (JSONResponse({}), "not one of OAuth"),
        (Response("<html>", media_type="text/html"), "not one of OAuth"),
        (Response(status_code=404), "404"),
        (Response(status_code=302, headers={"Location": "https://evil.test/"}), "302"),
    ],
    ids=["no device grant", "no endpoints", "HTML", "404", "redirect"],
)
async def test_an_issuer_that_cannot_be_used_is_explained(discovery: Response, words: str) -> None:
    error = await error_of_start(FakeIssuer(discovery=discovery))
    assert isinstance(error, LoginError)
    assert words in error.message
    assert error.hint


async def test_an_issuer_that_refuses_to_start_is_named_by_its_oauth_error() -> None:
    refusal = JSONResponse({"error": "unauthorized_client"}, 403)
    error = await error_of_start(FakeIssuer(device=refusal))
    assert "unauthorized_client" in error.message


async def test_an_answer_that_is_not_oauths_shows_nothing_of_itself() -> None:
    issuer = FakeIssuer({"access_token": ["access-canary"]})
    with pytest.raises(LoginError) as caught:
        await complete(issuer)
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize(
    "url", ["http://evil.test/x", "ftp://issuer.test/x", "javascript:alert(1)", "", "https://\x00"]
)
async def test_an_address_that_is_not_https_is_refused(url: str) -> None:
    insecure = [
        FakeIssuer(discovery=JSONResponse({**DISCOVERY, "device_authorization_endpoint": url})),
        FakeIssuer(device=JSONResponse({**DEVICE, "verification_uri": url})),
    ]
    for issuer in insecure:
        assert isinstance(await error_of_start(issuer), LoginError)
    issuer = FakeIssuer(APPROVED, discovery=JSONResponse({**DISCOVERY, "token_endpoint": url}))
    with pytest.raises(LoginError):
        await complete(issuer)
    assert issuer.polled_at == []
    issuer = FakeIssuer()
    assert isinstance(await error_of_start(issuer, Issuer(url, "client", None)), LoginError)
    assert issuer.forms == []


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:9"])
async def test_on_this_machine_http_will_do(host: str) -> None:
    at = f"http://{host}/oauth"
    local = {"token_endpoint": f"{at}/token", "device_authorization_endpoint": f"{at}/device"}
    issuer = FakeIssuer(discovery=JSONResponse(local))
    login = await issuer.authorization(Issuer(f"http://{host}", "client", None)).start()
    assert login.user_code == "ABCD-EFGH"
