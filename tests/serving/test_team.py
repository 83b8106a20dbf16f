"""A team's server, asked by real clients over a port, in either protocol era."""

import logging
import threading

import anyio
import anyio.to_thread
import httpx
import pytest
from mcp import MCPError

from dbos_mcp.domain import Rights
from dbos_mcp.server.tools import TOOLS
from dbos_mcp.server.tools.define import CommandTool
from tests.server.conftest import JOBS, ToolFailedError, User, asking, confirmation_in
from tests.server.conftest import Place as Shop
from tests.serving.conftest import Team, headers_of, message
from tests.upstream import APP, Asked

COMMANDS = {tool.name for tool in TOOLS if isinstance(tool, CommandTool)}
LOGINS = {"login", "login_complete"}


async def test_each_token_sees_and_calls_the_tools_that_are_for_it(
    team: Team, place: Shop, era: str
) -> None:
    reads, full = team.token("reader", Rights.READ), team.token("ci", Rights.FULL)
    async with team.client(reads, era) as reader, team.client(full, era) as commander:
        seen = {tool.name for tool in (await reader.list_tools()).tools}
        assert seen == {tool.name for tool in TOOLS} - COMMANDS - LOGINS
        assert {tool.name for tool in (await commander.list_tools()).tools} == seen | COMMANDS
        assert not COMMANDS & {*(reader.instructions or "").replace(",", " ").split()}
        assert "cancel_workflow" in (commander.instructions or "")
        ask = asking(reader)
        for tool in sorted(COMMANDS):
            with pytest.raises(ToolFailedError, match=f"{tool} is not for this token. Nothing was"):
                await ask(tool, application_name=APP, workflow_id="job-000")
        for client in (reader, commander):
            with pytest.raises(ToolFailedError, match="login is not for this token"):
                await asking(client)("login")
        assert "shop" in await ask("list_applications")
        diagnosis = await ask("diagnose_workflow", application_name=APP, workflow_id="order-1005")
        assert "this token may only read" in diagnosis
    assert place.sent() == []


async def test_a_command_is_kept_with_who_asked_for_it(
    team: Team, place: Shop, era: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dbos_mcp.audit")
    reads, full = team.token("reader", Rights.READ), team.token("ci", Rights.FULL)
    call = {"application_name": APP, "workflow_id": ["job-000", "nobody"]}
    async with team.asking(full, era) as ask, team.asking(reads, era) as ask_only:
        await ask("cancel_workflow", **call)
        with pytest.raises(ToolFailedError):
            await ask_only("cancel_workflow", **call)
        history = await ask("get_workflow_history", application_name=APP, workflow_id="job-000")
    assert "cancel asked for by ci" in history
    told = [vars(record)["fields"] for record in caplog.records if record.name == "dbos_mcp.audit"]
    about = {"tool": "cancel_workflow", "application_name": APP, "workflows": 2}
    assert told == [
        {"who": "ci", **about, "outcome": "1 done, 1 not sent"},
        {"who": "reader", **about, "outcome": "refused"},
    ]
    assert place.sent() == ["job-000"]


async def test_a_confirmation_is_good_for_whoever_got_it(team: Team, place: Shop, era: str) -> None:
    call = {"application_name": APP, "workflow_id": JOBS}
    ci, alice = team.token("ci", Rights.FULL), team.token("alice", Rights.FULL)
    async with team.asking(ci, era) as ask, team.asking(alice, era) as another:
        confirm = confirmation_in(await ask("cancel_workflow", **call))
        with pytest.raises(ToolFailedError, match="was not given by this server"):
            await another("cancel_workflow", **call, confirm=confirm)
        assert place.sent() == []
        assert (await ask("cancel_workflow", **call, confirm=confirm)).startswith(
            "cancel: 30 of 30 done"
        )


async def test_the_user_is_asked_over_http(team: Team, place: Shop, era: str) -> None:
    user = User()
    async with team.asking(team.token("ci", Rights.FULL), era, user) as ask:
        done = await ask("cancel_workflow", application_name=APP, workflow_id=JOBS)
    assert len(user.shown) == 1
    assert done.startswith("cancel: 30 of 30 done\n")
    assert place.statuses(JOBS) == {"CANCELLED": 30}


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
OLDER = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-06-18"}


async def open_session(http: httpx.AsyncClient, url: str, token: str) -> dict[str, str]:
    """The headers of one, in the older era."""
    headers = {**OLDER, "authorization": f"Bearer {token}"}
    answer = await http.post(url, json=INITIALIZE, headers=headers)
    assert answer.status_code == 200
    return {**headers, "mcp-session-id": answer.headers["mcp-session-id"]}


async def test_a_session_is_of_the_token_that_opened_it(team: Team) -> None:
    ours, theirs = team.token("ours", Rights.READ), team.token("theirs", Rights.FULL)
    listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    async with httpx.AsyncClient(timeout=30) as http:
        session = await open_session(http, team.url, ours)
        stolen = {**session, "authorization": f"Bearer {theirs}"}
        assert (await http.post(team.url, json=listing, headers=stolen)).status_code == 404
        assert (await http.delete(team.url, headers=stolen)).status_code == 404
        assert (await http.get(team.url, headers=stolen)).status_code == 404
        assert (await http.post(team.url, json=listing, headers=session)).status_code == 200


async def test_a_revoked_token_is_refused_at_once(team: Team, era: str) -> None:
    token = team.token("leaver", Rights.READ)
    async with team.asking(token, era) as ask, httpx.AsyncClient(timeout=30) as http:
        await ask("list_applications")
        team.tokens.revoke("leaver")
        headers = {**headers_of("tools/list"), "authorization": f"Bearer {token}"}
        answer = await http.post(team.url, content=message("tools/list"), headers=headers)
        assert answer.status_code == 401
        with pytest.raises(MCPError, match="error response"):
            await ask("list_applications")


async def test_who_waits_for_an_answer_gets_it_when_the_server_ends(
    team: Team, place: Shop, era: str
) -> None:
    """And a stream, which would never end, does not keep it."""
    sent, go_on = anyio.Event(), threading.Event()
    loop_of_the_test = anyio.lowlevel.current_token()

    async def hold(asked: Asked) -> None:
        if asked.path.endswith("/cancel"):
            await anyio.to_thread.run_sync(
                lambda: anyio.from_thread.run_sync(sent.set, token=loop_of_the_test)
            )
            await anyio.to_thread.run_sync(go_on.wait, 30)

    place.wire.heard = hold
    answers: list[str] = []
    streams: list[bytes] = []
    token = team.token("ci", Rights.FULL)

    async def command() -> None:
        async with team.client(token, era) as client:
            await client.list_tools()  # else it does so behind the call
            answers.append(
                await asking(client)("cancel_workflow", application_name=APP, workflow_id="job-000")
            )

    async def listen(http: httpx.AsyncClient, session: dict[str, str], open_: anyio.Event) -> None:
        async with http.stream("GET", team.url, headers=session) as stream:
            assert stream.status_code == 200
            open_.set()
            streams.append(await stream.aread())

    with anyio.fail_after(60):
        async with httpx.AsyncClient(timeout=60) as http:
            session = await open_session(http, team.url, token)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(command)
                is_open = anyio.Event()
                tasks.start_soon(listen, http, session, is_open)
                await is_open.wait()
                await sent.wait()
                team.end()
                while not streams:  # noqa: ASYNC110 # it tells nobody but by ending
                    await anyio.sleep(0.01)
                assert answers == []
                assert team.thread.is_alive()
                go_on.set()
        await anyio.to_thread.run_sync(team.thread.join)
    assert answers[0].startswith("cancel: 1 of 1 done")
