"""Every operation of ConductorClient against every fault that a network has: the right error with a
next step, credentials nowhere else, and at once well again when the fault is over.

The operations are the client's own methods, so that a new one is tried as well.
"""

import asyncio
import gzip
import inspect
import json
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import anyio
import httpx
import pytest
import stamina
import trustme
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from dbos_mcp.conductor import client as client_module
from dbos_mcp.conductor.client import REQUEST_SECONDS, ConductorClient
from dbos_mcp.conductor.credentials import Credentials
from dbos_mcp.conductor.identity import FixedIdentity
from dbos_mcp.conductor.models import Body
from dbos_mcp.conductor.oauth import Endpoints, IssuerClient
from dbos_mcp.conductor.traffic import Traffic
from dbos_mcp.errors import (
    AuthenticationError,
    ConductorError,
    DbosMcpError,
    LoginError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RejectedError,
    ResponseError,
    UnavailableError,
    UsageError,
)
from dbos_mcp.settings import Issuer
from tests.faulty_server import (
    Fault,
    FaultyServer,
    answer_of,
    dripping,
    reset_after,
    says,
    serving,
    silence,
)

TOKEN = "dbos_canary_77aa"
REFRESH_TOKEN = "refresh_canary_77aa"
PROBLEM = {"content-type": "application/problem+json"}
JSON = {"content-type": "application/json"}
PACKED = {**JSON, "content-encoding": "gzip"}

Call = Callable[[], Awaitable[object]]


@pytest.fixture(autouse=True)
def nothing_is_repeated() -> Iterator[None]:
    with stamina.set_testing(True, attempts=1):
        yield


def operations() -> dict[str, Callable[[ConductorClient], Awaitable[object]]]:
    """All public methods, with made-up arguments."""
    methods = inspect.getmembers(ConductorClient, inspect.iscoroutinefunction)
    return {
        name: partial(_call, method)
        for name, method in methods
        if not name.startswith("_") and name != "aclose"
    }


def _call(method: Callable[..., Awaitable[object]], client: ConductorClient) -> Awaitable[object]:
    required = {
        name: _made_up(hint)
        for name, hint in get_type_hints(method).items()
        if name != "return" and inspect.signature(method).parameters[name].default is inspect._empty
    }
    return method(client, **required)


def _made_up(hint: Any) -> object:
    if inspect.isclass(hint) and issubclass(hint, Body):
        fields = hint.model_fields.items()
        given = {key: _made_up(each.annotation) for key, each in fields if each.is_required()}
        return hint(**given, **({"limit": 5} if "limit" in hint.model_fields else {}))
    return {str: "x", int: 5}.get(hint, ["x"])


OPERATIONS = operations()


@dataclass(frozen=True)
class Expected:
    error: type[DbosMcpError]
    words: str = ""
    sent: bool = True
    """Whether a command may have run."""


def refusal(status: int, headers: dict[str, str] | None = None) -> Fault:
    said = json.dumps({"status": status, "detail": f"because of {TOKEN}"}).encode()
    return says(answer_of(status, said, {**PROBLEM, **(headers or {})}))


def _bomb() -> bytes:
    return gzip.compress(gzip.compress(b" " * 1_000_000))


FAULTS: dict[str, tuple[Fault, Expected]] = {
    "reset before an answer": (reset_after(), Expected(UnavailableError, "gave no answer")),
    "reset in the midst": (
        reset_after(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n[{"),
        Expected(UnavailableError, "gave no answer"),
    ),
    "closed in the midst": (
        says(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n[{"),
        Expected(UnavailableError, "gave no answer"),
    ),
    "half a chunk": (
        says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10\r\n[{"),
        Expected(UnavailableError, "gave no answer"),
    ),
    "not HTTP": (says(b"SSH-2.0-OpenSSH_9\r\n\r\n"), Expected(UnavailableError, "gave no answer")),
    "silent": (silence, Expected(UnavailableError, "timed out")),
    "dripping": (dripping, Expected(UnavailableError, "timed out")),
    "half a document": (
        says(answer_of(200, b'[{"id": "a", "na', JSON)),
        Expected(ResponseError, "not of API v2"),
    ),
    "HTML": (
        says(answer_of(200, b"<html>login</html>", {"content-type": "text/html"})),
        Expected(ResponseError, "text/html"),
    ),
    "another document": (
        says(answer_of(200, b'"nothing"', JSON)),
        Expected(ResponseError, "not of API v2"),
    ),
    "packed, but not": (
        says(answer_of(200, b"[]", PACKED)),
        Expected(ResponseError, "cannot be unpacked"),
    ),
    "packed twice": (
        says(answer_of(200, _bomb(), {**JSON, "content-encoding": "gzip, gzip"})),
        Expected(ResponseError, "cannot be unpacked"),
    ),
    "huge": (
        says(answer_of(200, b'"' + b"x" * 300_000 + b'"', JSON)),
        Expected(ResponseError, "not of API v2"),
    ),
    "a bomb": (
        says(answer_of(200, gzip.compress(b"[" + b" " * 1_500_000), PACKED)),
        Expected(ResponseError, "not of API v2"),
    ),
    "401": (refusal(401), Expected(AuthenticationError, "credentials", sent=False)),
    "403": (refusal(403), Expected(PermissionDeniedError, "", sent=False)),
    "404": (refusal(404), Expected(NotFoundError, "", sent=False)),
    "404 of something else": (
        says(answer_of(404, b"404 page not found")),
        Expected(ResponseError, "no API v2", sent=False),
    ),
    "409": (refusal(409), Expected(RejectedError, "409", sent=False)),
    "422": (refusal(422), Expected(RejectedError, "422", sent=False)),
    "429": (refusal(429), Expected(RateLimitError, "too many", sent=False)),
    "429 for a while": (
        refusal(429, {"retry-after": "0"}),
        Expected(RateLimitError, "too many", sent=False),
    ),
    "500": (refusal(500), Expected(ResponseError, "500")),
    "500, huge": (says(answer_of(500, b"x" * 300_000)), Expected(ResponseError, "500")),
    "502": (refusal(502), Expected(UnavailableError, "502")),
    "503": (refusal(503), Expected(UnavailableError, "", sent=False)),
    "504": (refusal(504), Expected(UnavailableError, "504")),
    "100 and no more": (says(b"HTTP/1.1 100 Continue\r\n\r\n"), Expected(UnavailableError, "")),
    **{
        str(status): (
            says(answer_of(status, b"", {"location": "https://elsewhere.test/"})),
            Expected(ResponseError, "elsewhere.test", sent=False),
        )
        for status in (301, 302, 303, 307, 308)
    },
}


def client_of(url: str, **options: Any) -> ConductorClient:
    identity = FixedIdentity(Credentials("acme", token=TOKEN), "Call `login`.")
    return ConductorClient(url, identity, patience_seconds=0, reads_per_second=100_000, **options)


async def error_of(call: Call) -> DbosMcpError:
    with pytest.raises(DbosMcpError) as caught:
        await call()
    return caught.value


def is_command(server: FaultyServer) -> bool:
    """By what was sent, and not by what the client thinks of it."""
    seen = server.seen[-1]
    return seen.method != "GET" and not seen.target.endswith(("/search", "/aggregates"))


@pytest.fixture(scope="module")
async def commands() -> set[str]:
    """The operations that are no reads, by what they send and not by what the client thinks."""
    found: set[str] = set()

    def note(request: httpx.Request) -> httpx.Response:
        if request.method != "GET" and not request.url.path.endswith(("/search", "/aggregates")):
            found.add(operation)
        return httpx.Response(500)

    async with client_of("http://conductor.test", transport=httpx.MockTransport(note)) as client:
        for operation, call in OPERATIONS.items():  # noqa: B007 - `note` reads it
            await error_of(partial(call, client))
    assert found
    assert found != OPERATIONS.keys()
    return found


@pytest.mark.parametrize("name", FAULTS)
async def test_each_operation_makes_of_a_fault_the_right_error_and_tells_no_secret(
    name: str,
    commands: set[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", 200_000)
    caplog.set_level(logging.DEBUG)
    fault, expected = FAULTS[name]
    seconds = 0.5 if expected.words == "timed out" else REQUEST_SECONDS
    transport = httpx.AsyncHTTPTransport(verify=False)

    async def one(operation: str, call: Callable[[ConductorClient], Awaitable[object]]) -> None:
        client = client_of(server.url, transport=transport, request_seconds=seconds)
        error = await error_of(partial(call, client))
        assert type(error) is expected.error, (operation, error)
        assert expected.words in error.message, operation
        assert error.hint, (operation, error)
        assert str(error).isprintable()
        assert len(str(error)) < 1000
        if isinstance(error, ConductorError):
            assert error.outcome_unknown == (expected.sent and operation in commands), operation
        assert TOKEN not in f"{error} {error!r} {error.__cause__!r}"

    async with (
        serving(FaultyServer(fault=fault)) as server,
        transport,
        anyio.create_task_group() as asking,
    ):
        tried = [
            operation
            for operation in OPERATIONS
            if not (name == "another document" and _says_nothing(operation))
        ]
        for operation in tried:
            asking.start_soon(one, operation, OPERATIONS[operation])
    assert len(server.seen) == len(tried)
    assert TOKEN not in caplog.text


def _says_nothing(operation: str) -> bool:
    """Any JSON is a success of a command that has nothing to tell."""
    returned: object = get_type_hints(getattr(ConductorClient, operation))["return"]
    return returned is type(None)


# Who is asked

TRUSTED = trustme.CA()
PAST = datetime(2020, 1, 1, tzinfo=UTC)
CERTIFICATES: dict[str, tuple[trustme.CA, str, datetime | None]] = {
    "self-signed": (trustme.CA(), "127.0.0.1", None),
    "of another host": (TRUSTED, "conductor.test", None),
    "expired": (TRUSTED, "127.0.0.1", PAST),
}


def tls_of(authority: trustme.CA, host: str, until: datetime | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    since = PAST - timedelta(days=9) if until else None
    authority.issue_cert(host, not_after=until, not_before=since).configure_cert(context)
    return context


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those certificates that the tests' authority signed, by the usual variable."""
    TRUSTED.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))


async def empty_list(scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse([])(scope, receive, send)


@pytest.mark.usefixtures("trusted")
async def test_a_certificate_of_an_authority_that_the_environment_names_is_trusted() -> None:
    tls = tls_of(TRUSTED, "127.0.0.1")
    async with serving(FaultyServer(empty_list), tls) as server, client_of(server.url) as client:
        assert await client.list_applications() == []
    assert server.seen[0].headers["authorization"] == f"Bearer {TOKEN}"


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("name", CERTIFICATES)
async def test_behind_a_wrong_certificate_nobody_is_asked_anything(name: str) -> None:
    tls = tls_of(*CERTIFICATES[name])
    async with serving(FaultyServer(empty_list), tls) as server, client_of(server.url) as client:
        for call in OPERATIONS.values():
            client.traffic = Traffic(patience_seconds=0, reads_per_second=100_000)
            error = await error_of(partial(call, client))
            assert isinstance(error, UnavailableError)
            assert "certificate" in error.message
            assert "SSL_CERT_FILE" in error.hint
            assert not error.outcome_unknown
        assert server.seen == []


@pytest.mark.parametrize("status", [302, 307])
@pytest.mark.parametrize("base", ["http", "https"])
@pytest.mark.usefixtures("trusted")
async def test_credentials_never_follow_a_redirect(status: int, base: str) -> None:
    tls = tls_of(TRUSTED, "127.0.0.1") if base == "https" else None
    async with serving(FaultyServer(empty_list)) as elsewhere:
        moved = says(answer_of(status, b"", {"location": f"{elsewhere.url}/v2?t={TOKEN}"}))
        server = FaultyServer(fault=moved)
        async with serving(server, tls), client_of(server.url) as client:
            for call in OPERATIONS.values():
                error = await error_of(partial(call, client))
                assert isinstance(error, ResponseError)
                assert "DBOS_URL" in error.hint
                assert TOKEN not in str(error)
    assert elsewhere.seen == []


async def test_where_nobody_listens_nothing_was_done_and_the_next_step_is_told() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        async with client_of(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            for call in OPERATIONS.values():
                client.traffic = Traffic(patience_seconds=0, reads_per_second=100_000)
                error = await error_of(partial(call, client))
                assert isinstance(error, UnavailableError)
                assert not error.outcome_unknown
                assert "DBOS_URL" in error.hint


@pytest.mark.parametrize("name", ["reset in the midst", "500", "401", "429", "half a document"])
async def test_when_a_fault_is_over_the_same_client_goes_on(name: str) -> None:
    async with serving(FaultyServer(empty_list)) as server, client_of(server.url) as client:
        for _ in range(2):
            server.fault = FAULTS[name][0]
            await error_of(client.list_applications)
            server.fault = None
            assert await client.list_applications() == []


# Proxies


@dataclass
class Proxy:
    """For CONNECT, and for whole URLs; it notes all that it sees."""

    refuses: bool = False
    port: int = 0
    saw: bytes = b""
    asked: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.saw += head
        method, target, _ = head.decode("latin-1").split("\r\n")[0].split(" ")
        self.asked.append(f"{method} {target}")
        if self.refuses:
            writer.write(answer_of(407))
            writer.close()
            return
        url = httpx.URL(target if "://" in target else f"https://{target}")
        inward, outward = await asyncio.open_connection(url.host, url.port)
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Go on\r\n\r\n")
        else:
            outward.write(head.replace(target.encode(), url.raw_path, 1))
        await asyncio.gather(self._pass(reader, outward), self._pass(inward, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while part := await reader.read(65536):
                self.saw += part
                writer.write(part)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def proxying(proxy: Proxy) -> AsyncIterator[Proxy]:
    under_way: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way.add(asyncio.get_running_loop().create_task(proxy.serve(reader, writer)))

    listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    proxy.port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listener.close()
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without the proxies of whoever runs the tests."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
async def test_through_a_proxy_credentials_pass_inside_tls_alone(
    environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variable: str
) -> None:
    caplog.set_level(logging.DEBUG)
    tls = tls_of(TRUSTED, "127.0.0.1")
    async with proxying(Proxy()) as proxy, serving(FaultyServer(empty_list), tls) as server:
        environment.setenv(variable, f"http://me:hunter2@127.0.0.1:{proxy.port}")
        async with client_of(server.url) as client:
            assert await client.list_applications() == []
    assert proxy.asked == [f"CONNECT {server.url.removeprefix('https://')}"]
    assert b"Proxy-Authorization: Basic" in proxy.saw
    assert TOKEN.encode() not in proxy.saw
    assert b"/v2/" not in proxy.saw
    assert "proxy-authorization" not in server.seen[0].headers
    assert "hunter2" not in caplog.text
    assert TOKEN not in caplog.text


async def test_without_tls_a_proxy_is_asked_for_the_whole_url_unless_the_host_is_excepted(
    environment: pytest.MonkeyPatch,
) -> None:
    async with proxying(Proxy()) as proxy, serving(FaultyServer(empty_list)) as server:
        environment.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        async with client_of(server.url) as client:
            assert await client.list_applications() == []
        assert proxy.asked == [f"GET {server.url}/v2/orgs/acme/apps"]
        environment.setenv("NO_PROXY", "example.test,127.0.0.1")
        async with client_of(server.url) as client:
            assert await client.list_applications() == []
        assert len(proxy.asked) == 1
        assert len(server.seen) == 2


@pytest.mark.parametrize("refuses", [True, False])
async def test_a_bad_proxy_is_named_with_its_variable_and_without_its_password(
    environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refuses: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    async with proxying(Proxy(refuses=True)) as proxy:
        port = proxy.port
        if refuses:
            environment.setenv("HTTPS_PROXY", f"http://me:hunter2@127.0.0.1:{port}")
            async with client_of("https://conductor.test") as client:
                error = await error_of(client.list_applications)
    if not refuses:  # nobody is there any more
        environment.setenv("HTTPS_PROXY", f"http://me:hunter2@127.0.0.1:{port}")
        async with client_of("https://conductor.test") as client:
            error = await error_of(partial(client.cancel_workflow, "shop", "w"))
    assert isinstance(error, UnavailableError)
    assert f"the proxy 127.0.0.1:{port}, which HTTPS_PROXY names" in error.message
    assert not error.outcome_unknown
    for text in (str(error), repr(error), caplog.text):
        assert "hunter2" not in text
        assert TOKEN not in text


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("HTTPS_PROXY", "socks5://me:hunter2@127.0.0.1:1", "HTTPS_PROXY"),
        ("ALL_PROXY", "gopher://me:hunter2@127.0.0.1", "ALL_PROXY"),
        ("https_proxy", "http://me:hunter2@127.0.0.1:port", "https_proxy"),
        ("SSL_CERT_FILE", "/nowhere.pem", "SSL_CERT_FILE"),
    ],
)
async def test_a_variable_that_cannot_be_used_is_named(
    environment: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    environment.setenv(variable, value)
    with pytest.raises(UsageError, match=words) as caught:
        client_of("https://conductor.test")
    assert "hunter2" not in f"{caught.value}{caught.value.__cause__!r}{caught.value.__context__!r}"


# The issuer of logins

OF_AN_ISSUER = [
    *("reset before an answer", "closed in the midst", "silent", "dripping", "half a document"),
    *(
        "HTML",
        "a bomb",
        "packed twice",
        "401",
        "404",
        "429",
        "429 for a while",
        "500",
        "503",
        "307",
    ),
]
SECONDS = {"silent": 0.3, "dripping": 0.3}


@pytest.mark.parametrize("operation", ["refresh", "revoke", "discover"])
async def test_an_issuer_that_fails_is_told_of_without_a_token(
    operation: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(FaultyServer()) as server:
        for name in OF_AN_ISSUER:
            if operation == "revoke" and name in ("half a document", "HTML"):
                continue  # any success is one
            server.fault, server.seen = FAULTS[name][0], []
            error = await error_of(_asking(server.url, operation, SECONDS.get(name, 20)))
            assert isinstance(error, LoginError | UnavailableError), name
            assert error.hint, name
            assert len(str(error)) < 1000
            assert len(server.seen) <= 1
            assert REFRESH_TOKEN not in f"{error} {error!r} {error.__cause__!r}"
            if name.startswith(("429", "5")):
                assert isinstance(error, UnavailableError), name
                assert error.retry_after_seconds == (0 if name == "429 for a while" else None)
    assert REFRESH_TOKEN not in caplog.text
    error = await error_of(_asking(server.url, operation, 20))
    assert isinstance(error, UnavailableError)


def _asking(url: str, operation: str, seconds: float) -> Call:
    issuer = IssuerClient(Issuer(url, "client", None), request_seconds=seconds)
    if operation == "discover":
        return issuer.discover
    issuer._endpoints = Endpoints(token_endpoint=f"{url}/t", revocation_endpoint=f"{url}/r")
    return partial(getattr(issuer, operation), REFRESH_TOKEN)
