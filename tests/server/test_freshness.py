"""Every answer says of when it is: over all tools, and where there is nothing to show."""

import json
import re
from pathlib import Path

import pytest
from mcp import Client
from mcp_types import TextResourceContents

from dbos_mcp.domain import format_time
from dbos_mcp.queries.freshness import last_seen
from dbos_mcp.server.addresses import SYNC_STATUS
from dbos_mcp.server.app import build_server
from dbos_mcp.server.tools import TOOLS
from dbos_mcp.settings import DAY_MS, Settings
from dbos_mcp.store import projector, sync_state
from dbos_mcp.store.events import ApplicationObserved
from dbos_mcp.store.migrate import HEAD, open_cache
from tests.server.conftest import JOBS, Place, Serve, ToolFailedError, asking, mirrored
from tests.store.factories import BORN, SHOP, observed
from tests.store.test_versions import migrated_by_a_newer_version

MIRROR = re.compile(r"As of 20\d\d-\S+Z \(\S+( \S+)? ago\); .*live\.$", re.IGNORECASE)
LIVE = re.compile(r"Read live from Conductor at 20\d\d-\S+Z\.$")
ONE = {**SHOP, "workflow_id": "order-1005"}
CALLS: dict[str, list[dict[str, object]]] = {
    "list_applications": [{}],
    "list_executors": [SHOP],
    "list_workflows": [SHOP, {**SHOP, "status": "CANCELLED"}],
    "get_workflow": [
        ONE,
        {**ONE, "include": ["steps", "history", "children", "payload"]},
        {**ONE, "as_of": "-9d"},
        {**ONE, "as_of": "now"},
    ],
    "list_steps": [ONE, {**ONE, "step_id": 5, "include_output": True}],
    "get_workflow_aggregates": [SHOP, {**SHOP, "start_time": "-1m"}],
    "cancel_workflow": [{**SHOP, "workflow_id": JOBS[0]}],
    "resume_workflow": [{**SHOP, "workflow_id": JOBS[1]}],
    "fork_workflow": [ONE],
    "get_workflow_history": [ONE, {**ONE, "after_position": 10**9}],
    "list_changes": [{}, SHOP, {"since": "now"}],
    "list_failures": [{**SHOP, "since": "-9d"}, {**SHOP, "since": "now"}],
    "diagnose_workflow": [ONE],
    "compare_workflows": [{**ONE, "other_workflow_id": "order-1001"}],
    "query_sql": [{"sql": "SELECT 1"}, {"sql": "SELECT * FROM failures", "format": "json"}],
    "describe_schema": [{}, {"view": "steps"}],
    "sync_status": [{}, SHOP],
    "sync_now": [{}, SHOP],
    "fork_from_failure": [ONE],
    "list_queues": [SHOP],
    "list_schedules": [SHOP],
    "manage_schedule": [{**SHOP, "schedule_name": "nightly-report", "action": "resume"}],
    "list_application_versions": [SHOP],
    "set_latest_application_version": [{**SHOP, "application_version": "1.4.0"}],
    "get_workflow_data": [ONE],
}
WITHOUT = {"login", "login_complete"}
"""They tell nothing of workflows."""
PREVIEWED = {"cancel_workflow", "resume_workflow", "fork_workflow", "delete_workflow"}


async def test_the_answer_of_every_tool_ends_with_it(place: Place, era: str) -> None:
    assert set(CALLS) | WITHOUT | {"delete_workflow"} == {tool.name for tool in TOOLS}
    async with place.asking(era) as ask:
        await mirrored(ask)
        await ask("sync_now")
        for tool, calls in CALLS.items():
            for arguments in calls:
                line = (await ask(tool, **arguments)).splitlines()[-1]
                assert MIRROR.search(line) or LIVE.fullmatch(line), (tool, arguments, line)


async def test_a_preview_says_when_it_was_read(place: Place) -> None:
    async with place.asking() as ask:
        for tool in sorted(PREVIEWED):
            shown = await ask(tool, **SHOP, workflow_id=JOBS)
            assert any(LIVE.fullmatch(line) for line in shown.splitlines()), tool


async def test_the_resource_ends_with_it(shop_settings: Settings, era: str) -> None:
    async with Client(build_server(shop_settings), mode=era) as client:
        await mirrored(asking(client))
        (content,) = (await client.read_resource(SYNC_STATUS)).contents
    assert isinstance(content, TextResourceContents)
    assert MIRROR.search(content.text.splitlines()[-1])


@pytest.fixture
def sent(cache_path: Path, tmp_path: Path) -> Settings:
    """A cache with a shop that was mirrored since `BORN`, and a bank that was only listed."""
    cache = open_cache(cache_path)
    with cache.write() as connection:
        for name in ("bank", "shop"):
            application = ApplicationObserved(
                application_name=name, application_id=name, status="AVAILABLE"
            )
            projector.record(connection, [application], recorded_at=BORN + 10)
        projector.record(connection, [observed("order-1")], recorded_at=BORN + 10)
        state = {"covered_since": BORN, "succeeded_at": BORN + 10, "history_complete": True}
        sync_state.update(connection, "shop", state)
        sync_state.update(connection, "", {"succeeded_at": BORN + 20})
    cache.close()
    return Settings(home=tmp_path, cache=cache_path, offline=True)


AS_OF_SHOP = f"As of {format_time(BORN + 10)} ("
AS_OF_LIST = f"As of {format_time(BORN + 20)} ("


@pytest.mark.parametrize(
    ("tool", "arguments", "as_of"),
    [
        ("get_workflow", {**SHOP, "workflow_id": "nope"}, AS_OF_SHOP),
        ("list_steps", {**SHOP, "workflow_id": "nope"}, AS_OF_SHOP),
        ("get_workflow_history", {**SHOP, "workflow_id": "nope"}, AS_OF_SHOP),
        ("list_workflows", {"application_name": "shopp"}, AS_OF_LIST),
        ("list_executors", {"application_name": "shopp"}, AS_OF_LIST),
        ("get_workflow_aggregates", {"application_name": "shopp"}, AS_OF_LIST),
        ("list_changes", {"application_name": "shopp"}, AS_OF_LIST),
        ("sync_status", {"application_name": "shopp"}, AS_OF_LIST),
    ],
)
async def test_what_is_not_found_is_not_found_in_a_mirror_of_when(
    sent: Settings, serve: Serve, era: str, tool: str, arguments: dict[str, str], as_of: str
) -> None:
    async with serve(sent, era=era) as ask:
        with pytest.raises(ToolFailedError) as failure:
            await ask(tool, **arguments)
    assert as_of in str(failure.value)
    assert "; offline: answered from the cache alone" in str(failure.value)


async def test_offline_times_count_from_the_last_look(sent: Settings, serve: Serve) -> None:
    """What was sent may be read a year later."""
    assert sent.cache is not None
    cache = open_cache(sent.cache)
    with cache.write() as connection:
        failed = observed("order-2", status="ERROR", error="no", completed_at=BORN + 10_000)
        projector.record(connection, [failed], recorded_at=BORN + 20_000)
        look = {"attempted_at": BORN + 20_000, "last_error": None}
        sync_state.update(connection, "shop", look)
    cache.close()
    async with serve(sent) as ask:
        failures = await ask("list_failures", **SHOP)
        assert f"from {format_time(BORN + 20_000 - DAY_MS)} to {format_time(BORN + 20_000)}" in (
            failures
        )
        assert failures.startswith("1 workflow of shop failed")
        assert failures.endswith(
            "offline: answered from the cache alone; `now` and times such as -24h count from then."
        )
        assert (await ask("list_workflows", **SHOP, start_time="-1h")).startswith("2 of 2")
        assert (await ask("list_workflows", **SHOP, start_time="-1s")).startswith("0 of 0")
        groups = await ask("get_workflow_aggregates", **SHOP, start_time="-1h")
        assert f"created {format_time(BORN + 20_000 - DAY_MS // 24)} to" in groups
        assert "order-2" in await ask("list_changes")
        order = {**SHOP, "workflow_id": "order-2", "include": "steps"}
        assert "ERROR" in await ask("get_workflow", **order, as_of="now")
    cache = open_cache(sent.cache)
    with cache.write() as connection:
        assert last_seen(connection, "shop") == last_seen(connection) == BORN + 20_000
        assert last_seen(connection, "bank") is None
        # It was tried for days, in vain.
        sync_state.update(connection, "shop", {"attempted_at": BORN + 9 * DAY_MS})
        assert last_seen(connection, "shop") == BORN + 10 + 600_000
    cache.close()


async def test_no_more_is_said_than_is_known(sent: Settings, serve: Serve) -> None:
    async with serve(sent) as ask:
        bank = await ask("list_workflows", application_name="bank")
        everywhere = await ask("list_changes", after_position=0)
        listed = await ask("list_applications")
    assert bank.splitlines()[-2:] == [
        "The first load has only begun: much may be missing. sync_status shows how far.",
        "The first look is not finished; offline: answered from the cache alone.",
    ]
    assert everywhere.splitlines()[-1].startswith(AS_OF_SHOP)
    assert everywhere.endswith("; but bank is not looked at yet.")
    assert "bank | AVAILABLE | 0 | 0 | 0 | loading" in listed
    assert AS_OF_LIST in listed


async def test_an_answer_that_reaches_behind_the_mirror_says_so_once(
    sent: Settings, serve: Serve, era: str
) -> None:
    inside, behind = format_time(BORN), format_time(BORN - 1)
    missing = f"Ended workflows created before {inside} may be missing;"
    async with serve(sent, era=era) as ask:
        for tool in ("list_workflows", "get_workflow_aggregates"):
            narrow = {} if tool == "list_workflows" else {"compare": False}
            for arguments, reaches in (
                ({}, True),
                ({"start_time": behind}, True),
                ({"start_time": inside}, False),
                ({"status": "PENDING"}, False),
            ):
                answer = await ask(tool, **SHOP, **narrow, **arguments)
                assert answer.count(missing) == reaches, (tool, arguments)
        assert missing in await ask("get_workflow_aggregates", **SHOP, start_time=inside)
        assert missing not in await ask("list_workflows", **SHOP, workflow_id="order-1")
        assert missing in await ask("list_workflows", **SHOP, workflow_id=["order-1", "order-2"])
        begins = f"The mirror's log begins at {format_time(BORN + 10)}: "
        assert begins in await ask("list_changes", since=BORN + 9)
        assert begins not in await ask("list_changes", since=BORN + 10)
        history = await ask("get_workflow_history", **SHOP, workflow_id="order-1")
        assert f"its states before {format_time(BORN + 10)} were not seen." in history
        as_json = json.loads(await _text(sent, "list_workflows", **SHOP, format="json"))
    assert as_json["freshness"]["may_lack"].startswith(missing)


async def _text(settings: Settings, tool: str, **arguments: object) -> str:
    async with Client(build_server(settings)) as client:
        (content,) = (await client.call_tool(tool, arguments)).content
    return str(getattr(content, "text", ""))


async def test_an_older_server_answers_from_a_newer_cache_and_says_what_to_do(
    sent: Settings, serve: Serve, cache_path: Path
) -> None:
    """Migrated before it starts, or while it runs: it reads on, and asks Conductor nothing."""
    online = sent.model_copy(update={"offline": False})
    only_read = "this one only reads it, and syncs nothing. Use the newest version"
    async with serve(online) as running:
        migrated_by_a_newer_version(cache_path, readable_from=HEAD)
        async with serve(online) as started:
            for ask in (running, started):
                await ask("list_workflows", **SHOP)  # the first to be told, where it runs
                assert only_read in await ask("list_workflows", **SHOP)
                assert only_read in await ask("query_sql", sql="SELECT 1")
                assert only_read in await ask("sync_status")
                with pytest.raises(ToolFailedError, match=only_read):
                    await ask("sync_now")
