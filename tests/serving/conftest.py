"""A server over HTTP for a team: on a port of this machine with real clients, or its application
alone, asked without a network."""

import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx
import httpx2
import pytest
import uvicorn
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from dbos_mcp.domain import Rights
from dbos_mcp.serving.app import App, build_app, http_server, listen
from dbos_mcp.serving.place import Place
from dbos_mcp.serving.tokens import TokenFile
from dbos_mcp.settings import Settings
from tests.server.conftest import Ask, User, asking, era, place  # noqa: F401
from tests.server.conftest import Place as Shop

VERSION = "2026-07-28"


def message(method: str, name: str | None = None, **arguments: object) -> bytes:
    """A request of the newer era, which needs no session."""
    params: dict[str, Any] = {
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": VERSION,
            "io.modelcontextprotocol/clientCapabilities": {},
        }
    }
    if name is not None:
        params |= {"name": name, "arguments": arguments}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()


def headers_of(method: str, name: str | None = None) -> dict[str, str]:
    return {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": VERSION,
        "mcp-method": method,
        **({"mcp-name": name} if name is not None else {}),
    }


@dataclass
class Answer:
    status: int
    headers: httpx.Headers = field(default_factory=httpx.Headers)
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)


async def send(
    app: App,
    method: str,
    path: str,
    headers: Sequence[tuple[str, str]] | Mapping[str, str],
    body: bytes = b"",
) -> Answer:
    """What the application answers. As on a wire: no header comes by itself."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path.partition("?")[0],
        "raw_path": path.partition("?")[0].encode(),
        "query_string": path.partition("?")[2].encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in pairs],
        "server": ("127.0.0.1", 8321),
        "client": ("127.0.0.1", 50000),
    }
    asked = False
    gone = anyio.Event()
    answer = Answer(0)

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def heard(event: Any) -> None:
        if event["type"] == "http.response.start":
            answer.status = event["status"]
            answer.headers = httpx.Headers(event["headers"])
        else:
            answer.body += event.get("body", b"")

    await app.asgi(scope, receive, heard)
    return answer


@asynccontextmanager
async def running(app: App) -> AsyncIterator[None]:
    """Between its startup and its shutdown, as a server would have it."""
    started, ended = anyio.Event(), anyio.Event()
    to_end = anyio.Event()
    events: Iterator[tuple[str, anyio.Event | None]] = iter(
        [("lifespan.startup", None), ("lifespan.shutdown", to_end)]
    )

    async def receive() -> dict[str, Any]:
        kind, when = next(events)
        if when is not None:
            await when.wait()
        return {"type": kind}

    async def heard(event: Any) -> None:
        assert not event["type"].endswith("failed"), event
        (started if event["type"] == "lifespan.startup.complete" else ended).set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(app.asgi, {"type": "lifespan", "asgi": {}}, receive, heard)  # type: ignore[arg-type]
        await started.wait()
        yield
        app.close_streams()
        to_end.set()
        await ended.wait()


@dataclass
class Team:
    """The server, and the tokens that it takes."""

    url: str
    tokens: TokenFile
    server: uvicorn.Server
    thread: threading.Thread

    def token(self, name: str, rights: Rights) -> str:
        return self.tokens.create(name, rights)[0]

    @asynccontextmanager
    async def client(
        self, token: str, mode: str = "auto", user: User | None = None
    ) -> AsyncIterator[Client]:
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=30) as http,
            Client(
                streamable_http_client(self.url, http_client=http),
                mode=mode,
                elicitation_callback=user,
            ) as client,
        ):
            yield client

    @asynccontextmanager
    async def asking(
        self, token: str, mode: str = "auto", user: User | None = None
    ) -> AsyncIterator[Ask]:
        async with self.client(token, mode, user) as client:
            yield asking(client)

    def end(self) -> None:
        """As a signal would."""
        self.server.should_exit = True


@pytest.fixture
def tokens(place: Shop) -> TokenFile:  # noqa: F811
    return TokenFile(place.settings.tokens_path)


@contextmanager
def served(settings: Settings, transport: httpx.AsyncBaseTransport) -> Iterator[Team]:
    where, listener = listen(Place(port=0))
    with listener:
        app = build_app([settings], where, transport=transport)
        server = http_server(app, where)
        thread = threading.Thread(target=server.run, args=([listener],), name="team")
        thread.start()
        try:
            yield Team(where.url, TokenFile(settings.tokens_path), server, thread)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def team(place: Shop, tokens: TokenFile) -> Iterator[Team]:  # noqa: F811
    tokens.create("the-first", Rights.READ)  # with it, tokens are asked for
    with served(place.settings, place.wire) as team:
        yield team
