"""Tokens of an OAuth issuer: signed by it, for us, now; and its keys, which change."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dbos_mcp.domain import Rights
from dbos_mcp.errors import UnavailableError, UsageError
from dbos_mcp.serving.app import build_app
from dbos_mcp.serving.issuer import (
    ASK_AGAIN_SECONDS,
    KEYS_GOOD_SECONDS,
    KEYS_USABLE_SECONDS,
    Expected,
    IssuerTokens,
    require_safe,
)
from dbos_mcp.serving.place import Place
from tests.server.conftest import Place as Shop
from tests.serving.conftest import headers_of, message, running, send

ISSUER = "https://issuer.example/"
AUDIENCE = "https://mcp.example.com/mcp"
EXPECTED = Expected(ISSUER, AUDIENCE, "dbos-mcp:read", "dbos-mcp:full")
NOW = 1_800_000_000.0


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def published(name: str, **more: object) -> dict[str, Any]:
    jwk = jwt.algorithms.RSAAlgorithm.to_jwk(rsa_key(name).public_key(), as_dict=True)
    return {**jwk, "kid": name, "use": "sig", "alg": "RS256", **more}


@dataclass
class Issuer:
    """What it publishes, and how often it was asked."""

    keys: list[dict[str, Any]] = field(default_factory=lambda: [published("first")])
    about: dict[str, Any] = field(
        default_factory=lambda: {"issuer": ISSUER, "jwks_uri": f"{ISSUER}keys"}
    )
    fault: Response | None = None
    asked: int = 0
    now: float = NOW

    def __post_init__(self) -> None:
        async def about(_: Request) -> Response:
            self.asked += 1
            return self.fault or JSONResponse(self.about)

        async def keys(_: Request) -> Response:
            return JSONResponse({"keys": self.keys})

        self.transport = httpx.ASGITransport(
            Starlette(
                routes=[
                    Route("/.well-known/openid-configuration", about),
                    Route("/keys", keys),
                ]
            )
        )

    def tokens(self) -> IssuerTokens:
        return IssuerTokens(EXPECTED, transport=self.transport, clock=lambda: self.now)


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


def claims(**changes: object) -> dict[str, Any]:
    given = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "exp": int(NOW) + 600,
        "scope": "openid dbos-mcp:read",
        **changes,
    }
    return {name: value for name, value in given.items() if value is not None}


def signed(
    given: Mapping[str, Any] | None = None,
    *,
    key: Any = None,
    algorithm: str = "RS256",
    **header: object,
) -> str:
    key = rsa_key("first") if key is None else key
    headers = {"kid": "first", "typ": "at+jwt", **header}
    return jwt.encode(
        dict(given or claims()),
        key,
        algorithm=algorithm,
        headers={name: value for name, value in headers.items() if value is not None},
    )


async def test_a_token_of_the_issuer_is_its_users(issuer: Issuer) -> None:
    tokens = issuer.tokens()
    for scope, rights in (
        ({"scope": "openid dbos-mcp:read"}, Rights.READ),
        ({"scope": "dbos-mcp:full dbos-mcp:read"}, Rights.FULL),
        ({"scope": None, "scp": ["dbos-mcp:full"]}, Rights.FULL),
        ({"scope": "openid", "permissions": ["dbos-mcp:read"]}, Rights.READ),
    ):
        verified = await tokens.verify(signed(claims(**scope)))
        assert verified is not None
        assert verified.principal is not None
        assert (verified.principal.name, verified.principal.rights) == ("alice", rights)
    assert issuer.asked == 1


async def test_a_token_without_a_scope_of_ours_allows_nothing(issuer: Issuer) -> None:
    verified = await issuer.tokens().verify(signed(claims(scope="openid xdbos-mcp:full")))
    assert verified is not None
    assert verified.principal is None


WRONG: dict[str, Callable[[], str]] = {
    "of another issuer": lambda: signed(claims(iss="https://evil.example/")),
    "for another audience": lambda: signed(claims(aud="https://other.example")),
    "for nobody": lambda: signed(claims(aud=None)),
    "of nobody": lambda: signed(claims(sub=None)),
    "without an end": lambda: signed(claims(exp=None)),
    "too old": lambda: signed(claims(exp=int(NOW) - 31)),
    "not yet good": lambda: signed(claims(nbf=4_000_000_000)),
    "of another key": lambda: signed(key=rsa_key("other")),
    "of a key that is not published": lambda: signed(key=rsa_key("other"), kid="other"),
    "unsigned": lambda: signed(key="", algorithm="none"),
    "signed with the public key": lambda: signed(
        key=published("first")["n"].encode(), algorithm="HS256"
    ),
    "of the wrong algorithm": lambda: signed(algorithm="RS512"),
    "of an elliptic key": lambda: signed(key=ec_key("first"), algorithm="ES256"),
    "an id token": lambda: signed(typ="logout+jwt"),
    "with a header that must be understood": lambda: signed(crit=["exp"]),
    "two parts": lambda: signed().rpartition(".")[0],
    "endless": lambda: signed(claims(more="x" * 20_000)),
    "no token": lambda: "a.b.c",
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_no_other_token_is_taken(issuer: Issuer, wrong: str) -> None:
    assert await issuer.tokens().verify(WRONG[wrong]()) is None


async def test_clocks_may_differ_by_half_a_minute(issuer: Issuer) -> None:
    assert await issuer.tokens().verify(signed(claims(exp=int(NOW) - 29))) is not None


async def test_a_secret_that_is_published_is_no_key(issuer: Issuer) -> None:
    """Else whoever reads it could sign."""
    issuer.keys = [{"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "first"}]
    with pytest.raises(UnavailableError):
        await issuer.tokens().verify(signed())


async def test_a_new_key_is_found_and_an_old_one_forgotten(issuer: Issuer) -> None:
    tokens = issuer.tokens()
    assert await tokens.verify(signed()) is not None
    issuer.keys = [published("second")]
    issuer.now += ASK_AGAIN_SECONDS
    assert await tokens.verify(signed(key=rsa_key("second"), kid="second")) is not None
    assert await tokens.verify(signed()) is None


async def test_names_that_are_made_up_cost_the_issuer_one_request_a_minute(issuer: Issuer) -> None:
    tokens = issuer.tokens()
    for number in range(20):
        assert await tokens.verify(signed(key=rsa_key("other"), kid=f"made-up-{number}")) is None
    assert issuer.asked == 1
    issuer.now += ASK_AGAIN_SECONDS
    for number in range(20):
        await tokens.verify(signed(kid=f"made-up-{number}"))
    assert issuer.asked == 2


async def test_the_keys_are_good_for_a_day_while_the_issuer_is_away(issuer: Issuer) -> None:
    tokens = issuer.tokens()
    token = signed(claims(exp=int(NOW + 10 * KEYS_USABLE_SECONDS)))
    assert await tokens.verify(token) is not None
    issuer.fault = Response(status_code=503)
    issuer.now += KEYS_GOOD_SECONDS
    assert await tokens.verify(token) is not None
    assert issuer.asked == 2
    issuer.now += KEYS_USABLE_SECONDS - KEYS_GOOD_SECONDS
    with pytest.raises(UnavailableError):
        await tokens.verify(token)
    issuer.fault = None
    issuer.now += ASK_AGAIN_SECONDS
    assert await tokens.verify(token) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"about": {"issuer": "https://evil.example/", "jwks_uri": f"{ISSUER}keys"}},
        {"about": {"issuer": ISSUER, "jwks_uri": "http://issuer.example/keys"}},
        {"about": {"issuer": ISSUER, "jwks_uri": ["x"]}},
        {"about": {"issuer": ISSUER}},
        {"fault": Response("<html>")},
        {"fault": Response("[]")},
        {"fault": Response(b"x" * 600_000)},
        {"fault": Response(status_code=302, headers={"Location": "https://evil.example/"})},
        {"keys": []},
        {"keys": ["x", {"kty": "RSA"}, {"kty": "RSA", "n": "!", "e": "AQAB"}]},
        {"keys": [published("first", use="enc")]},
    ],
)
async def test_what_an_issuer_says_wrong_lets_nobody_in(change: dict[str, Any]) -> None:
    with pytest.raises(UnavailableError, match="no token can be checked"):
        await Issuer(**change).tokens().verify(signed())


def test_keys_are_read_by_https_or_on_this_machine() -> None:
    for url in ("https://issuer.example", "http://localhost:8080", "http://127.0.0.1:1/x"):
        require_safe(url)
    for url in ("http://issuer.example", "ftp://x", "issuer", "http://localhost.evil.example"):
        with pytest.raises(UsageError):
            require_safe(url)


async def test_a_server_takes_its_tokens_and_tells_where_they_are_from(
    place: Shop, issuer: Issuer
) -> None:
    settings = place.settings.model_copy(update={"http_issuer": ISSUER, "http_audience": AUDIENCE})
    where = Place(allowed_hosts=["mcp.example.com"])
    app = build_app([settings], where, transport=place.wire, issuer_transport=issuer.transport)
    host = {"host": "mcp.example.com"}
    metadata = "https://mcp.example.com/.well-known/oauth-protected-resource/mcp"

    async def status(scope: str | None) -> tuple[int, str]:
        headers = {**headers_of("tools/list"), **host}
        if scope is not None:
            token = signed(claims(scope=scope, exp=int(time.time()) + 600))
            headers["authorization"] = f"Bearer {token}"
        answer = await send(app, "POST", "/mcp", headers, message("tools/list"))
        return answer.status, answer.headers.get("www-authenticate", "")

    async with running(app):
        assert (await status("dbos-mcp:read"))[0] == 200
        assert await status(None) == (401, f'Bearer resource_metadata="{metadata}"')
        refused, why = await status("openid")
        assert (refused, 'error="insufficient_scope"' in why) == (403, True)
        for path in ("/mcp", ""):
            told = await send(app, "GET", f"/.well-known/oauth-protected-resource{path}", host)
            assert told.json() == {
                "resource": "https://mcp.example.com/mcp",
                "authorization_servers": [ISSUER],
                "scopes_supported": ["dbos-mcp:read", "dbos-mcp:full"],
                "bearer_methods_supported": ["header"],
            }
        assert (await send(app, "GET", "/metrics", host)).status == 401


async def test_an_issuer_without_an_audience_is_refused(place: Shop) -> None:
    settings = place.settings.model_copy(update={"http_issuer": ISSUER})
    with pytest.raises(UsageError, match="DBOS_MCP_HTTP_AUDIENCE is missing"):
        build_app([settings], Place(), transport=place.wire)
