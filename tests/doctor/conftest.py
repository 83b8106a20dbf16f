"""A Conductor with logins, in front of two applications."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from dbos_mcp.settings import Settings
from tests.loopback import served
from tests.secured_conductor import READ, Identity, SecuredConductor

SECRET = "of the tests, and long enough for a signature"
MOMENT = "2026-11-20T10:00:00Z"
APPLICATIONS = [
    {"id": "1", "name": "shop", "status": "AVAILABLE"},
    {"id": "2", "name": "mail", "status": "UNAVAILABLE"},
]
EXECUTORS = [
    {"executorId": each, "status": status, "createdAt": MOMENT, "updatedAt": MOMENT}
    for each, status in (("a", "HEALTHY"), ("b", "DEAD"))
]


def token(subject: str, seconds: int = 3600) -> str:
    return jwt.encode({"sub": subject, "exp": int(time.time()) + seconds}, SECRET)


@dataclass
class Place:
    conductor: SecuredConductor
    applications: list[dict[str, Any]]
    settings: Settings
    """Of nobody yet."""

    def with_(self, **changes: object) -> Settings:
        return Settings.model_validate({**self.settings.model_dump(), **changes})

    def as_user(self, subject: str = "alice", seconds: int = 3600, **changes: object) -> Settings:
        return self.with_(token=token(subject, seconds), organization="acme", **changes)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    applications = list(APPLICATIONS)

    async def answer(request: Request) -> JSONResponse:
        return JSONResponse(EXECUTORS if request.url.path.endswith("executors") else applications)

    inner = Starlette(routes=[Route("/{path:path}", answer)])

    def verify(given: str) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(given, SECRET, algorithms=["HS256"])
        return claims

    conductor = SecuredConductor(inner, verify)
    conductor.users["alice"] = Identity("acme")
    conductor.users["reader"] = Identity("acme", frozenset({READ}))
    conductor.users["nobody"] = Identity("acme", frozenset())
    conductor.keys["dbos_key"] = Identity("acme")
    home = tmp_path / "home"
    home.mkdir()
    with served(conductor) as url:
        yield Place(
            conductor,
            applications,
            Settings(
                home=home, url=url, issuer_url="http://127.0.0.1:1", client_id="client-of-tests"
            ),
        )
