"""That nobody takes what is there for all: with many calls, sessions, slow requests, or a token
that has ended."""

import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest
from mcp import MCPError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from dbos_mcp.domain import Rights
from dbos_mcp.server.callers import USER, Principal
from dbos_mcp.serving import limits
from dbos_mcp.serving.app import App, build_app, http_server, listen
from dbos_mcp.serving.authentication import Authentication, Verifier
from dbos_mcp.serving.guard import Bodies
from dbos_mcp.serving.limits import Turns
from dbos_mcp.serving.place import Place
from dbos_mcp.serving.protocol import PatientProtocol
from dbos_mcp.serving.tokens import TokenFile
from tests.server.conftest import Place as Shop
from tests.serving.conftest import running, send
from tests.serving.test_team import INITIALIZE, OLDER

ALICE, BOB = (Principal(name, name, Rights.READ) for name in ("alice", "bob"))


class Calls:
    """Calls that go on until they are let go."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.running: list[str] = []
        self.go_on = anyio.Event()

    async def call(self, name: str, tool: str = "list_workflows") -> None:
        async def next_(_: Any) -> None:
            self.running.append(name)
            await self.go_on.wait()

        context = SimpleNamespace(method="tools/call", params={"name": tool}, request_id=1)
        await self.turns(cast(Any, context), next_)


async def until_idle() -> None:
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


async def test_a_token_with_many_calls_leaves_the_others_their_turn() -> None:
    who = ALICE
    calls = Calls(Turns(lambda: who, at_once=2, most_waiting=3))
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(calls.call, "alice")
        await until_idle()
        assert calls.running == ["alice", "alice"]
        with pytest.raises(MCPError, match="Too many calls of one token wait already"):
            await calls.call("alice")
        who = BOB
        tasks.start_soon(calls.call, "bob")
        await until_idle()
        assert calls.running == ["alice", "alice", "bob"]
        who = USER
        for _ in range(9):
            tasks.start_soon(calls.call, "user")
        await until_idle()
        assert calls.running.count("user") == 9
        calls.go_on.set()
    assert calls.running.count("alice") == 5


async def test_of_sql_a_token_runs_one_statement_at_a_time() -> None:
    calls = Calls(Turns(lambda: ALICE))
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(calls.call, "sql", "query_sql")
        tasks.start_soon(calls.call, "list")
        await until_idle()
        assert sorted(calls.running) == ["list", "sql"]
        calls.go_on.set()


@pytest.fixture
async def app(place: Shop, tokens: TokenFile) -> AsyncIterator[App]:
    tokens.create("the-first", Rights.READ)
    app = build_app([place.settings], Place(), transport=place.wire)
    async with running(app):
        yield app


async def test_a_token_has_so_many_sessions(
    app: App, tokens: TokenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_SESSIONS_OF_ONE", 2)

    async def open_session(token: str) -> int:
        headers = {**OLDER, "host": "localhost:8321", "content-type": "application/json"}
        headers["authorization"] = f"Bearer {token}"
        return (await send(app, "POST", "/mcp", headers, json.dumps(INITIALIZE).encode())).status

    mine, yours = (tokens.create(name, Rights.READ)[0] for name in ("mine", "yours"))
    assert [await open_session(mine) for _ in range(3)] == [200, 200, 503]
    assert await open_session(yours) == 200


async def test_what_runs_on_ends_with_its_token(tokens: TokenFile) -> None:
    secret, _ = tokens.create("leaver", Rights.READ)
    begun = anyio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        begun.set()
        await anyio.sleep_forever()

    authentication = Authentication(
        endless, Verifier(tokens, None), public=(), look_again_seconds=0.01
    )
    app = App(authentication, True, authentication.closing.set)
    statuses: list[int] = []

    async def ask() -> None:
        headers = {"authorization": f"Bearer {secret}"}
        statuses.append((await send(app, "POST", "/mcp", headers)).status)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await begun.wait()
            tokens.revoke("leaver")
    assert statuses == [200]


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def unreached(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    sent: list[Any] = []

    async def never() -> Any:
        await anyio.sleep_forever()

    async def note(event: Any) -> None:
        sent.append(event)

    scope = {"type": "http", "method": "POST", "path": "/mcp", "headers": []}
    await Bodies(unreached, seconds=0.01)(scope, never, note)
    assert sent[0]["status"] == 408


async def _ok(_: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


@contextmanager
def impatient() -> Iterator[tuple[str, int]]:
    """A server that waits for nobody."""
    where, listener = listen(Place(port=0))
    app = App(Starlette(routes=[Route("/healthz", _ok)]), False, lambda: None)
    with listener:
        server = http_server(app, where)
        thread = threading.Thread(target=server.run, args=([listener],), name="impatient")
        thread.start()
        try:
            yield where.host, where.port
        finally:
            server.should_exit = True
            thread.join()


WHOLE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_a_request_that_does_not_begin_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatientProtocol, "head_seconds", 0.05)
    with impatient() as address:
        for part in (b"", WHOLE[:30]):
            with socket.create_connection(address, timeout=30) as slow:
                slow.sendall(part)
                assert slow.recv(4096) == b""  # the server has ended it
        with socket.create_connection(address, timeout=30) as slow:
            slow.sendall(WHOLE)
            heard = b""
            while not heard.endswith(b"ok"):
                heard += slow.recv(4096)
            slow.sendall(WHOLE[:30])
            assert slow.recv(4096) == b""
