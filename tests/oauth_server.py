"""An OAuth 2.0 authorization server on loopback: login by device code (RFC 8628), refresh tokens
that rotate and whose reuse ends the login (RFC 9700), access tokens signed with a key of its own.

Clients of any process ask it over HTTP. The test that runs it has the other end in hand: it
approves and denies, moves the clock, makes an endpoint fail, and reads what was asked.
"""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from html import escape
from itertools import count
from secrets import token_urlsafe
from typing import Any, Literal
from urllib.parse import parse_qsl

import anyio.lowlevel
import anyio.to_thread
import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from dbos_mcp.settings import Issuer
from tests.loopback import open_listener, served, url_of

DISCOVERY = "/.well-known/openid-configuration"
DEVICE = "/oauth/device/code"
TOKEN = "/oauth/token"
REVOKE = "/oauth/revoke"
JWKS = "/.well-known/jwks.json"
ACTIVATE = "/activate"

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
GRANTS = frozenset({DEVICE_GRANT, "refresh_token"})

CLIENT_ID = "dbos-mcp-tests"
AUDIENCE = "conductor-of-tests"


class Clock:
    """Seconds since the epoch; moves only when someone moves it, or sleeps by it."""

    def __init__(self) -> None:
        self.now = float(int(time.time()))
        self._planned: list[tuple[float, Callable[[], object]]] = []

    def __call__(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += seconds
        due = [action for at, action in self._planned if at <= self.now]
        self._planned = [(at, action) for at, action in self._planned if at > self.now]
        for action in due:
            action()

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Call it when that much time has gone by."""
        self._planned.append((self.now + seconds, action))

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.move(seconds)
        await anyio.lowlevel.checkpoint()


@dataclass
class OAuthRequest:
    path: str
    form: dict[str, str]
    at: float


@dataclass(frozen=True)
class Drop:
    """The line is cut instead of an answer: before the request was looked at, or, if `handled`,
    after all that it brings about."""

    handled: bool = False


@dataclass(frozen=True)
class Hold:
    """The request is handled, and its answer stays here until `release` is set."""

    arrived: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)


Fault = Response | Drop | Hold


@dataclass(frozen=True)
class Issued:
    """What a login has given its client."""

    access_token: str
    refresh_token: str | None
    expires_in: int


class _OAuthError(Exception):
    def __init__(self, name: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.name = name
        self.status = status


@dataclass
class _Login:
    """What a person has allowed a client. All of its refresh tokens are one family."""

    subject: str
    client_id: str
    audience: str
    scope: str
    revoked: bool = False


@dataclass
class _DeviceCode:
    user_code: str
    client_id: str
    audience: str
    scope: str
    expires_at: float
    interval: float
    polled_at: float
    state: Literal["pending", "approved", "denied", "used"] = "pending"
    subject: str = ""
    slow_down: bool = False


@dataclass
class _RefreshToken:
    login: _Login
    used: bool = False


class OAuthServer:
    """`url` is its issuer. Attributes without an underscore are the test's to change."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.clock = Clock()
        self.clients = {CLIENT_ID: GRANTS}
        """The public clients, and the grants that each may use."""
        self.audience: str | None = AUDIENCE
        """The one API that tokens are for; None if requests need not say."""
        self.interval = 5
        self.code_lifetime = 900
        self.token_lifetime = 86_400
        self.pending_status = 400
        """Auth0 says 403 for `authorization_pending` and `slow_down`."""
        self.rotation = True
        self.offline_access = True
        """Whether the scope `offline_access` gives a refresh token."""
        self.discovery: dict[str, Any] = {
            "issuer": url,
            "token_endpoint": self._at(TOKEN),
            "device_authorization_endpoint": self._at(DEVICE),
            "revocation_endpoint": self._at(REVOKE),
            "jwks_uri": self._at(JWKS),
            "grant_types_supported": sorted(GRANTS),
        }
        self.device_answer: dict[str, Any] = {}
        """Takes the place of what it would say by itself; None leaves a field out."""
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        """By the path that each is for, the next first."""
        self.requests: list[OAuthRequest] = []
        self.families_revoked = 0
        self.secrets: set[str] = set()
        """All codes and tokens that it ever gave."""
        self._device_codes: dict[str, _DeviceCode] = {}
        self._refresh_tokens: dict[str, _RefreshToken] = {}
        self._logins: dict[str, _Login] = {}  # by the id of an access token
        self._revoked: set[str] = set()
        self._user_codes = (f"WDJB-{number:04}" for number in count(1))
        self._lock = threading.RLock()
        self.app = Starlette(
            routes=[
                Route(DISCOVERY, self._endpoint(lambda _: JSONResponse(self.discovery))),
                Route(JWKS, self._endpoint(lambda _: JSONResponse({"keys": [self._public_jwk()]}))),
                Route(DEVICE, self._endpoint(self._authorize_device), methods=["POST"]),
                Route(TOKEN, self._endpoint(self._grant), methods=["POST"]),
                Route(REVOKE, self._endpoint(self._end), methods=["POST"]),
                Route(ACTIVATE, self._activate),
            ]
        )

    def _at(self, path: str) -> str:
        return self.url.rstrip("/") + path

    def as_issuer(self, client_id: str = CLIENT_ID, audience: str | None = AUDIENCE) -> Issuer:
        """As a client is told of it."""
        return Issuer(self.url, client_id, audience)

    # What the person does

    def approve(self, user_code: str, subject: str = "alice") -> None:
        with self._lock:
            code = self._by_user_code(user_code)
            assert code.state == "pending"
            code.state, code.subject = "approved", subject

    def deny(self, user_code: str) -> None:
        with self._lock:
            self._by_user_code(user_code).state = "denied"

    # What the server does on demand

    def expire(self, user_code: str) -> None:
        with self._lock:
            self._by_user_code(user_code).expires_at = self.clock()

    def slow_down(self, user_code: str) -> None:
        """Answer the next poll so, and hold its client to the longer interval from then on."""
        with self._lock:
            self._by_user_code(user_code).slow_down = True

    def issue(self, subject: str = "alice") -> Issued:
        """What a login has given whose browser part is over."""
        with self._lock:
            audience = self.audience or CLIENT_ID
            return self._issue(_Login(subject, CLIENT_ID, audience, "openid offline_access"))

    def revoke(self, token: str) -> None:
        """An access token alone, or with a refresh token the whole login (RFC 7009)."""
        with self._lock:
            if token in self._refresh_tokens:
                self._refresh_tokens[token].login.revoked = True
            else:
                self._revoked.add(self._decode(token)["jti"])

    def verify(self, token: str) -> dict[str, Any]:
        """The claims of an access token, as an API that trusts this server would check it.

        Raises:
            jwt.InvalidTokenError: it is not one, or not one any more.
        """
        claims = self._decode(token)
        with self._lock:
            if claims["exp"] <= self.clock():
                raise jwt.ExpiredSignatureError("The token has expired.")
            if claims["jti"] in self._revoked or self._logins[claims["jti"]].revoked:
                raise jwt.InvalidTokenError("The token was revoked.")
        return claims

    # What was asked

    def polls(self) -> list[OAuthRequest]:
        return self._asked_for(DEVICE_GRANT)

    def refreshes(self) -> list[OAuthRequest]:
        return self._asked_for("refresh_token")

    def _asked_for(self, grant: str) -> list[OAuthRequest]:
        with self._lock:
            return [asked for asked in self.requests if asked.form.get("grant_type") == grant]

    # The endpoints

    def _endpoint(self, handle: Callable[[dict[str, str]], Response]) -> Any:
        async def endpoint(request: Request) -> Response:
            pairs = parse_qsl((await request.body()).decode())
            form = dict(pairs)
            with self._lock:
                self.requests.append(OAuthRequest(request.url.path, form, self.clock()))
                faults = self.faults[request.url.path]
                fault = faults.popleft() if faults else None
                if isinstance(fault, Response):
                    return fault
                if isinstance(fault, Drop) and not fault.handled:
                    return _CutLine()
                try:
                    if len(form) < len(pairs):
                        raise _OAuthError("invalid_request", "A parameter came twice.")
                    answer = handle(form)
                except _OAuthError as error:
                    content = {"error": error.name, "error_description": str(error)}
                    answer = _json(content, error.status)
            if isinstance(fault, Hold):
                fault.arrived.set()
                await anyio.to_thread.run_sync(fault.release.wait, 30)
            return _CutLine() if isinstance(fault, Drop) else answer

        return endpoint

    def _authorize_device(self, form: dict[str, str]) -> Response:
        client_id = self._client_of(form, DEVICE_GRANT)
        audience = form.get("audience")
        if self.audience not in (None, audience):
            # As Auth0 says it; RFC 8707 has `invalid_target`.
            raise _OAuthError("access_denied", f"Service not found: {audience}", 403)
        device_code, user_code, now = token_urlsafe(32), next(self._user_codes), self.clock()
        self.secrets.add(device_code)
        self._device_codes[device_code] = _DeviceCode(
            user_code,
            client_id,
            audience or client_id,
            form.get("scope", ""),
            expires_at=now + self.code_lifetime,
            interval=self.interval,
            polled_at=now,
        )
        content = {
            "device_code": device_code,
            "user_code": user_code,
            "verification_uri": self._at(ACTIVATE),
            "verification_uri_complete": f"{self._at(ACTIVATE)}?user_code={user_code}",
            "expires_in": self.code_lifetime,
            "interval": self.interval,
        }
        content |= self.device_answer
        return _json({name: value for name, value in content.items() if value is not None})

    def _grant(self, form: dict[str, str]) -> Response:
        grant = _required(form, "grant_type")
        if grant not in GRANTS:
            raise _OAuthError("unsupported_grant_type", f"There is no grant {grant}.")
        client_id = self._client_of(form, grant)
        if grant == DEVICE_GRANT:
            issued = self._take_device_code(client_id, _required(form, "device_code"))
        else:
            issued = self._refresh(client_id, _required(form, "refresh_token"))
        content = {
            "access_token": issued.access_token,
            "refresh_token": issued.refresh_token,
            "expires_in": issued.expires_in,
            "token_type": "Bearer",
        }
        return _json({name: value for name, value in content.items() if value is not None})

    def _take_device_code(self, client_id: str, device_code: str) -> Issued:
        """Section 3.5 of RFC 8628."""
        code = self._device_codes.get(device_code)
        if code is None or code.client_id != client_id or code.state == "used":
            raise _OAuthError("invalid_grant", "The device code is unknown or was used.")
        now = self.clock()
        too_soon = now < code.polled_at + code.interval
        code.polled_at = now
        if now >= code.expires_at:
            raise _OAuthError("expired_token", "The device code has expired.")
        if code.state == "denied":
            raise _OAuthError("access_denied", "The user said no.")
        if code.state == "approved":
            code.state = "used"
            return self._issue(_Login(code.subject, client_id, code.audience, code.scope))
        if too_soon or code.slow_down:
            code.interval += 5
            code.slow_down = False
            raise _OAuthError("slow_down", "Polled too often.", self.pending_status)
        raise _OAuthError("authorization_pending", "Nobody has approved.", self.pending_status)

    def _refresh(self, client_id: str, token: str) -> Issued:
        known = self._refresh_tokens.get(token)
        if known is None or known.login.client_id != client_id or known.login.revoked:
            raise _OAuthError("invalid_grant", "The refresh token is unknown or was revoked.")
        if known.used:
            # One of two has stolen it, and nobody can say which (RFC 9700, section 4.14.2).
            known.login.revoked = True
            self.families_revoked += 1
            raise _OAuthError("invalid_grant", "The refresh token was used before.")
        known.used = self.rotation
        return self._issue(known.login, None if self.rotation else token)

    def _end(self, form: dict[str, str]) -> Response:
        """RFC 7009; only refresh tokens, as at Auth0. One that is not known has ended as well."""
        client_id = self._client_of(form)
        known = self._refresh_tokens.get(_required(form, "token"))
        if known is not None and known.login.client_id == client_id:
            known.login.revoked = True
        return Response()

    def _issue(self, login: _Login, refresh_token: str | None = None) -> Issued:
        now, token_id = int(self.clock()), token_urlsafe(8)
        claims = {
            "iss": self.url,
            "sub": login.subject,
            "aud": login.audience,
            "iat": now,
            "exp": now + self.token_lifetime,
            "jti": token_id,
            "scope": login.scope,
        }
        self._logins[token_id] = login
        if self.offline_access and "offline_access" in login.scope.split():
            refresh_token = refresh_token or token_urlsafe(32)
            self._refresh_tokens.setdefault(refresh_token, _RefreshToken(login))
        signed = jwt.encode(claims, _signing_key(), "RS256", {"kid": "tests"})
        self.secrets.update(filter(None, (signed, refresh_token)))
        return Issued(signed, refresh_token, self.token_lifetime)

    def _decode(self, token: str) -> dict[str, Any]:
        """By the signature, the issuer and the audience. Time is the clock's affair."""
        return jwt.decode(
            token,
            _signing_key().public_key(),
            algorithms=["RS256"],
            issuer=self.url,
            audience=self.audience or list(self.clients),
            options={
                "require": ["sub", "exp", "jti"],
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
            },
        )

    def _client_of(self, form: dict[str, str], grant: str | None = None) -> str:
        client_id = _required(form, "client_id")
        if client_id not in self.clients:
            raise _OAuthError("invalid_client", f"There is no client {client_id}.", 401)
        if grant is not None and grant not in self.clients[client_id]:
            raise _OAuthError("unauthorized_client", f"Not a grant of {client_id}: {grant}.")
        return client_id

    def _by_user_code(self, user_code: str) -> _DeviceCode:
        return next(c for c in self._device_codes.values() if c.user_code == user_code)

    def _public_jwk(self) -> dict[str, Any]:
        key = jwt.algorithms.RSAAlgorithm.to_jwk(_signing_key().public_key(), as_dict=True)
        return {**key, "use": "sig", "alg": "RS256", "kid": "tests"}

    async def _activate(self, request: Request) -> Response:
        code = escape(request.query_params.get("user_code", ""))
        return HTMLResponse(f"<!doctype html><title>Activate</title><p>Does it show {code}?")


@contextmanager
def running_oauth_server() -> Iterator[OAuthServer]:
    listener = open_listener()
    server = OAuthServer(url_of(listener) + "/")
    with served(server.app, listener):
        yield server


class _CutLine(Response):
    """Half an answer, after which the server closes the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return JSONResponse(content, status, {"Cache-Control": "no-store"})


def _required(form: dict[str, str], name: str) -> str:
    if name not in form:
        raise _OAuthError("invalid_request", f"{name} is missing.")
    return form[name]


@cache
def _signing_key() -> RSAPrivateKey:
    """Made once: it takes longer than a test."""
    return generate_private_key(public_exponent=65537, key_size=2048)
