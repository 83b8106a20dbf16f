"""Every request that a page, a stranger or a slip could make: no foreign one reaches a tool."""

from collections.abc import AsyncIterator
from itertools import product

import pytest

from dbos_mcp.domain import Rights, now_ms
from dbos_mcp.serving.app import App, build_app
from dbos_mcp.serving.guard import MOST_BODY_BYTES
from dbos_mcp.serving.place import Place
from dbos_mcp.serving.tokens import TokenFile
from tests.server.conftest import Place as Shop
from tests.serving.conftest import headers_of, message, running, send

HOSTS = {
    "127.0.0.1:8321": True,
    "LOCALHOST:8321": True,
    "127.0.0.1": False,
    "localhost:9999": False,
    "rebound.example:8321": False,
    "localhost:8321.rebound.example": False,
    "": False,
}
ORIGINS = {
    None: True,
    "https://app.example.com": True,  # the one that is allowed
    "https://app.example.com.evil.example": False,
    "http://localhost:3000": False,
    "http://127.0.0.1:8321": False,
    "null": False,
}
CONTENT_TYPES = {
    "application/json": True,
    "Application/JSON; charset=utf-8": True,
    "text/plain": False,
    "application/x-www-form-urlencoded": False,
    "application/json, text/plain": False,
    None: False,
}
METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH", "TRACE")
PATHS = ("/mcp", "/mcp/", "/metrics", "/healthz", "/", "/.well-known/oauth-protected-resource")
TOKENS = {
    "none": False,
    "wrong": False,
    "misspelt": False,
    "revoked": False,
    "expired": False,
    "read": True,
    "full": True,
}
SHARE = 13
"""All that gets somewhere is sent, and of the rest one in so many: of each value in turn."""
FULL_PRODUCT = product(HOSTS, ORIGINS, CONTENT_TYPES, METHODS, PATHS, TOKENS)
CALL = message("tools/call", "list_applications")


@pytest.fixture
def authorizations(tokens: TokenFile) -> dict[str, str | None]:
    read, _ = tokens.create("read", Rights.READ)
    full, _ = tokens.create("full", Rights.FULL)
    revoked, _ = tokens.create("revoked", Rights.FULL)
    expired, _ = TokenFile(tokens.path, clock=lambda: now_ms() - 10_000).create(
        "expired", Rights.FULL, lasts_ms=5_000
    )
    tokens.revoke("revoked")
    return {
        "none": None,
        "wrong": f"Bearer {full[:-1]}{'A' if full[-1] != 'A' else 'B'}",
        "misspelt": f"Basic {full}",
        "revoked": f"Bearer {revoked}",
        "expired": f"Bearer {expired}",
        "read": f"Bearer {read}",
        "full": f"bearer {full}",
    }


@pytest.fixture
async def app(place: Shop, authorizations: dict[str, str | None]) -> AsyncIterator[App]:
    where = Place(allowed_origins=["https://app.example.com"])
    app = build_app([place.settings], where, transport=place.wire)
    async with running(app):
        yield app


def expected(
    host: str, origin: str | None, content_type: str | None, method: str, path: str, token: str
) -> int:
    if not HOSTS[host]:
        return 421
    if not ORIGINS[origin]:
        return 403
    if method in ("PUT", "PATCH", "TRACE"):
        return 405
    if method == "POST" and not CONTENT_TYPES[content_type]:
        return 415
    if path == "/healthz":
        return 200 if method in ("GET", "HEAD") else 405
    if not TOKENS[token]:
        return 401
    if path == "/metrics":
        return 200 if method in ("GET", "HEAD") else 405
    if path == "/mcp":
        return 200 if method == "POST" else 405
    return 404


async def test_no_foreign_request_reaches_a_tool(
    app: App, authorizations: dict[str, str | None]
) -> None:
    let_in = 0
    for number, combination in enumerate(FULL_PRODUCT):
        host, origin, content_type, method, path, token = combination
        status = expected(*combination)
        reaches_a_tool = status == 200 and path == "/mcp"
        if number % SHARE and not reaches_a_tool:
            continue
        headers = {**headers_of("tools/call", "list_applications"), "host": host}
        del headers["content-type"]
        varied = {
            "origin": origin,
            "content-type": content_type,
            "authorization": authorizations[token],
        }
        headers |= {name: value for name, value in varied.items() if value is not None}
        answer = await send(app, method, path, headers, CALL if method == "POST" else b"")
        assert answer.status == status, combination
        if status == 401:
            assert answer.headers["www-authenticate"].startswith("Bearer")
        let_in += reaches_a_tool
    assert let_in == 2 * 2 * 2 * 2  # hosts, origins, content types, tokens
    good = {"host": "localhost:8321", "authorization": authorizations["read"] or ""}
    figures = (await send(app, "GET", "/metrics", good)).body.decode()
    called = [line for line in figures.splitlines() if line.startswith("dbos_mcp_tool_calls_total")]
    assert called == [
        f'dbos_mcp_tool_calls_total{{outcome="ok",tool="list_applications"}} {let_in}.0'
    ]


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"host": ("localhost:8321", "localhost:8321")}, 421),
        ({"host": ()}, 421),
        ({"origin": ("https://app.example.com", "https://evil.example")}, 403),
        ({"sec-fetch-site": ("cross-site",)}, 403),
        ({"sec-fetch-site": ("same-site",)}, 403),
        ({"content-type": ("application/json", "text/plain")}, 415),
        ({"content-type": ("application/json; boundary=x",)}, 415),
        ({"content-length": (str(MOST_BODY_BYTES + 1),)}, 413),
        ({"authorization": ("Bearer a", "Bearer b")}, 401),
        ({"authorization": ("Bearer ",)}, 401),
    ],
)
async def test_what_is_said_twice_or_is_too_much_is_refused(
    app: App,
    authorizations: dict[str, str | None],
    changed: dict[str, tuple[str, ...]],
    status: int,
) -> None:
    headers = {**headers_of("tools/call", "list_applications"), "host": "localhost:8321"}
    headers["authorization"] = authorizations["full"] or ""
    pairs = [pair for pair in headers.items() if pair[0] not in changed]
    pairs += [(name, value) for name, values in changed.items() for value in values]
    assert (await send(app, "POST", "/mcp", pairs, CALL)).status == status


async def test_a_token_in_the_address_is_none(
    app: App, authorizations: dict[str, str | None]
) -> None:
    token = (authorizations["full"] or "").partition(" ")[2]
    headers = {**headers_of("tools/list"), "host": "localhost:8321"}
    for name in ("access_token", "token", "authorization"):
        path = f"/mcp?{name}={token}"
        assert (await send(app, "POST", path, headers, message("tools/list"))).status == 401


async def test_a_body_that_is_too_long_is_refused_before_anybody_reads_it(
    app: App, authorizations: dict[str, str | None]
) -> None:
    headers = {**headers_of("tools/list"), "host": "localhost:8321"}
    headers["authorization"] = authorizations["read"] or ""
    answer = await send(app, "POST", "/mcp", headers, b" " * (MOST_BODY_BYTES + 1))
    assert answer.status == 413


async def test_a_page_that_is_allowed_may_ask_what_it_may_send(app: App) -> None:
    asked = {
        "host": "localhost:8321",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,mcp-session-id",
    }
    allowed = await send(app, "OPTIONS", "/mcp", {**asked, "origin": "https://app.example.com"})
    assert allowed.status == 200
    assert allowed.headers["access-control-allow-origin"] == "https://app.example.com"
    foreign = await send(app, "OPTIONS", "/mcp", {**asked, "origin": "https://evil.example"})
    assert foreign.status == 403
    assert "access-control-allow-origin" not in foreign.headers


async def test_health_says_nothing_but_that(app: App) -> None:
    answer = await send(app, "GET", "/healthz", {"host": "localhost:8321"})
    assert (answer.status, answer.body) == (200, b"ok\n")


async def test_on_loopback_without_a_token_pages_and_other_names_are_still_refused(
    place: Shop,
) -> None:
    app = build_app([place.settings], Place(), transport=place.wire)
    assert not app.authenticated
    headers = {**headers_of("tools/call", "list_applications"), "host": "localhost:8321"}
    async with running(app):
        assert (await send(app, "POST", "/mcp", headers, CALL)).status == 200
        for change, status in (
            ({"host": "rebound.example:8321"}, 421),
            ({"origin": "http://localhost:8321"}, 403),
            ({"origin": "null"}, 403),
            ({"sec-fetch-site": "cross-site"}, 403),
            ({"content-type": "text/plain"}, 415),
        ):
            assert (await send(app, "POST", "/mcp", headers | change, CALL)).status == status
