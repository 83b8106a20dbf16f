"""A Conductor with logins in front of one without: who asks, and what they may (CONTRACT §5, §6).

It takes users' JWTs, as the authorization server of the tests signs them, and API keys. What is
allowed goes on to the Conductor behind it, which has one organization, `local`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import jwt
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

READ = "application.read"
WRITE = "application.write"
_READING_POSTS = ("/search", "/aggregates")
_ORGS = "/v2/orgs/"


@dataclass(frozen=True)
class Identity:
    """A registered user, or an API key."""

    organization: str
    permissions: frozenset[str] = frozenset({READ, WRITE})
    applications: frozenset[str] | None = None
    """Those that a key is limited to."""


@dataclass(frozen=True)
class ConductorRequest:
    method: str
    path: str
    token: str | None
    status: int


class SecuredConductor:
    """An ASGI app. `verify` gives the claims of a JWT, or raises jwt.InvalidTokenError."""

    def __init__(self, inner: ASGIApp, verify: Callable[[str], dict[str, Any]]) -> None:
        self._inner = inner
        self._verify = verify
        self.users: dict[str, Identity] = {}
        """By the subject of their tokens. A subject that is not here has not registered."""
        self.keys: dict[str, Identity] = {}
        """By the API key, which begins with `dbos_`."""
        self.past_limit = False
        """Whether the plan's limit is reached."""
        self.requests: list[ConductorRequest] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        method, path = scope["method"], scope["raw_path"].decode("latin-1")
        authorization = Headers(scope=scope).get("authorization", "")
        token = authorization.removeprefix("Bearer ") if authorization[:7] == "Bearer " else None

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.requests.append(ConductorRequest(method, path, token, message["status"]))
            await send(message)

        answer = self._answer(method, path, token)
        if answer is None:
            _, slash, below = path.removeprefix(_ORGS).partition("/")
            inner = f"{_ORGS}local{slash}{below}"
            scope = {**scope, "path": inner, "raw_path": inner.encode("latin-1")}
        await (answer or self._inner)(scope, receive, sending)

    def _answer(self, method: str, path: str, token: str | None) -> Response | None:
        """None when the request may go on."""
        subject = None
        if token is not None and token.startswith("dbos_"):
            identity = self.keys.get(token)
            if identity is None:
                return _problem(401, "The API key is not valid.")
        else:
            try:
                subject = str(self._verify(token or "")["sub"])
            except jwt.InvalidTokenError:
                return _problem(401, "The token is not valid.")
            identity = self.users.get(subject)
        if path == "/v2/users/me":
            return _profile(subject, identity, "past_limit" if self.past_limit else "team")
        if not path.startswith(_ORGS):
            return _problem(404, "There is no such path.")
        if identity is None:
            return _problem(403, "The user is not registered.")
        organization, _, below = path.removeprefix(_ORGS).partition("/")
        if organization != identity.organization:
            return _problem(404, "There is no such organization.")
        if self.past_limit:
            return _problem(403, "Forbidden.", {"X-DBOS-Error": "past_limit"})
        reads = method == "GET" or (method == "POST" and path.endswith(_READING_POSTS))
        # Which permission is missing is not said: Conductor promises no such words.
        if (READ if reads else WRITE) not in identity.permissions:
            return _problem(403, "Forbidden.")
        _, _, application = below.partition("/")
        application = application.partition("/")[0]
        limited_to = identity.applications
        if application and limited_to is not None and application not in limited_to:
            return _problem(403, "Forbidden.")
        return None


def _profile(subject: str | None, identity: Identity | None, plan: str) -> Response:
    if subject is None:
        return _problem(403, "An API key has no user.")
    if identity is None:
        return _problem(404, "The user is not registered.")
    return JSONResponse(
        {
            "name": subject,
            "email": f"{subject}@example.test",
            "orgName": identity.organization,
            "orgId": f"id-of-{identity.organization}",
            "role": {
                "name": "role_of_tests",
                "permissions": sorted(identity.permissions),
                "isGlobal": False,
            },
            "subscriptionPlan": plan,
            "createdAt": "2026-01-01T00:00:00Z",
        }
    )


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    problem = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return JSONResponse(problem, status, headers, media_type="application/problem+json")
