"""The MCP server as an ASGI application, and how it is served on a port."""

import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import FrameType

import anyio.to_thread
import httpx
import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from dbos_mcp.errors import UsageError
from dbos_mcp.server.app import server_of
from dbos_mcp.server.callers import USER
from dbos_mcp.server.context import Sessions
from dbos_mcp.server.tools import TOOLS
from dbos_mcp.serving import limits
from dbos_mcp.serving.authentication import Authentication, Verifier, caller
from dbos_mcp.serving.guard import MOST_BODY_BYTES, Bodies, Guard
from dbos_mcp.serving.issuer import Expected, IssuerTokens, require_safe
from dbos_mcp.serving.limits import SessionLimit, Turns
from dbos_mcp.serving.metrics import Metrics
from dbos_mcp.serving.place import MCP_PATH, Place
from dbos_mcp.serving.protocol import PatientProtocol
from dbos_mcp.serving.tokens import TokenFile
from dbos_mcp.settings import Settings

HEALTH_PATH = "/healthz"
METRICS_PATH = "/metrics"
METADATA_PATH = "/.well-known/oauth-protected-resource"
"""Of RFC 9728, and public as it says: before it has a token, a client reads here who gives one. It
is there only where there is an issuer, and says nothing but the server's own address and that."""

GRACE_SECONDS = 15
"""So long those who wait for an answer get it after the server was told to end."""
KEEP_ALIVE_SECONDS = 30
MOST_CONNECTIONS = 4_000
MOST_HEAD_BYTES = 65_536
PREFLIGHT_HEADERS = ("authorization", "content-type", "mcp-protocol-version", "mcp-session-id")


@dataclass(frozen=True)
class App:
    asgi: ASGIApp
    authenticated: bool
    """Whether a token is asked for."""
    close_streams: Callable[[], None]
    """End what would go on for ever; who waits for an answer still gets it."""


def build_app(
    targets: Sequence[Settings],
    place: Place,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    issuer_transport: httpx.AsyncBaseTransport | None = None,
) -> App:
    """`transport` takes the place of the network to Conductor, `issuer_transport` to the issuer.

    Raises:
        UsageError: see `Place.require_safe`; or settings that do not go together.
        StoreError: the tokens cannot be read.
    """
    settings = targets[0]
    tokens, expected = TokenFile(settings.tokens_path), _expected(settings)
    issuer = None if expected is None else IssuerTokens(expected, transport=issuer_transport)
    authenticated = issuer is not None or tokens.any_good()
    place.require_safe(authenticated=authenticated)
    verifier = Verifier(tokens, issuer) if authenticated else None
    who = caller if authenticated else lambda: USER
    sessions = Sessions(targets, transport=transport, who=who)
    metrics = Metrics(sessions, [tool.name for tool in TOOLS])
    server = server_of(sessions, [metrics.calls, Turns(who)])
    resource = settings.http_url or place.url
    _add_routes(server, metrics, expected, resource)
    app: ASGIApp = _mcp_app(server)
    app = SessionLimit(app, server.session_manager)
    app = authentication = Authentication(
        Bodies(app),
        verifier,
        public=(HEALTH_PATH,) if expected is None else (HEALTH_PATH, *_metadata_paths(resource)),
        metadata_url=None if expected is None else _metadata_url(resource),
        on_failure=metrics.note_refusal,
    )
    if place.allowed_origins:
        app = CORSMiddleware(
            app,
            allow_origins=place.allowed_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=PREFLIGHT_HEADERS,
            expose_headers=["Mcp-Session-Id", "WWW-Authenticate"],
        )
    guard = Guard(
        app, hosts=place.hosts, origins=place.allowed_origins, on_refusal=metrics.note_refusal
    )
    return App(guard, authenticated, authentication.closing.set)


def _mcp_app(server: MCPServer[Sessions]) -> Starlette:
    """The SDK's. Its own guard would refuse hosts for their case, and is of this path alone."""
    app = server.streamable_http_app(
        streamable_http_path=MCP_PATH,
        max_request_body_size=MOST_BODY_BYTES,
        max_sessions=limits.MOST_SESSIONS,
        session_idle_timeout=limits.SESSION_IDLE_SECONDS,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    app.router.redirect_slashes = False
    return app


def _add_routes(
    server: MCPServer[Sessions], metrics: Metrics, expected: Expected | None, resource: str
) -> None:
    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def figures(_request: Request) -> Response:
        return Response(await metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    server.custom_route(HEALTH_PATH, ["GET"])(healthz)
    server.custom_route(METRICS_PATH, ["GET"])(figures)
    if expected is None:
        return

    async def metadata(_request: Request) -> Response:
        return JSONResponse(
            {
                "resource": resource,
                "authorization_servers": [expected.issuer],
                "scopes_supported": [expected.read_scope, expected.full_scope],
                "bearer_methods_supported": ["header"],
            }
        )

    for path in _metadata_paths(resource):
        server.custom_route(path, ["GET"])(metadata)


def _metadata_url(resource: str) -> str:
    """RFC 9728, section 3.1: the well-known path goes between the host and the resource's own."""
    return str(httpx.URL(resource).join(_metadata_paths(resource)[0]))


def _metadata_paths(resource: str) -> tuple[str, ...]:
    """With the path that clients see, and, where a proxy strips that, without it."""
    own = httpx.URL(resource).path.rstrip("/")
    return tuple(dict.fromkeys((METADATA_PATH + own, METADATA_PATH)))


def _expected(settings: Settings) -> Expected | None:
    """Raises UsageError: an issuer whose tokens could be meant for anybody, or be anybody's."""
    if settings.http_issuer is None:
        return None
    if settings.http_audience is None:
        raise UsageError(
            "DBOS_MCP_HTTP_AUDIENCE is missing.",
            hint="Give what the issuer writes into tokens for this server, and into no others.",
        )
    require_safe(settings.http_issuer)
    return Expected(
        settings.http_issuer,
        settings.http_audience,
        settings.http_read_scope,
        settings.http_full_scope,
    )


class _Server(uvicorn.Server):
    """Ends at a signal, with all answers given, and that is no failure."""

    def __init__(self, config: uvicorn.Config, close_streams: Callable[[], None]) -> None:
        super().__init__(config)
        self._close_streams = close_streams

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        anyio.to_thread.current_default_thread_limiter().total_tokens = limits.THREADS
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._close_streams()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own sends the signal to this process again when it has ended; and what it does
        at once cuts off the answers that the SDK streams."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def end(_signal: int, _frame: FrameType | None) -> None:
            self.force_exit = self.should_exit  # who asks twice means now
            self.should_exit = True

        before = {name: signal.signal(name, end) for name in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)


def listen(place: Place) -> tuple[Place, socket.socket]:
    """The place with the port that it got, if any was as good.

    Raises:
        UsageError: the address is taken, or none of this machine's.
    """
    host = "127.0.0.1" if place.host == "localhost" else place.host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, place.port), family=family, backlog=1024)
    except OSError as error:
        raise UsageError(
            f"{place.host}:{place.port} cannot be listened on: {error.strerror or error}.",
            hint="Choose another --port, or an address of this machine with --host.",
        ) from error
    return replace(place, port=listener.getsockname()[1]), listener


def run(app: App, place: Place, listener: socket.socket) -> None:
    """Until a signal comes. What goes wrong is logged."""
    _allow_many_files()
    # They tell of sessions by their ids, and of what strangers send, more than once a request.
    logging.getLogger("mcp").setLevel(logging.ERROR)
    http_server(app, place).run([listener])


def http_server(app: App, place: Place) -> uvicorn.Server:
    config = uvicorn.Config(
        app.asgi,
        http=PatientProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # with it, addresses would be in the log, and what somebody put there
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        limit_concurrency=MOST_CONNECTIONS,
        h11_max_incomplete_event_size=MOST_HEAD_BYTES,
        ssl_certfile=place.tls_certificate,
        ssl_keyfile=place.tls_key,
    )
    return _Server(config, app.close_streams)


def _allow_many_files() -> None:
    """A connection is an open file, and 1,024 of them are the usual limit."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + 1_000
    if soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
