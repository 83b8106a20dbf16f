"""Answers that are to be no older than that: what Conductor is asked for them, and what not."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx
import pytest
from mcp import Client
from pytest import MonkeyPatch

from dbos_mcp.domain import now_ms
from dbos_mcp.local_conductor.app import create_app
from dbos_mcp.local_conductor.system_database import SystemDatabase
from dbos_mcp.server import lookup
from dbos_mcp.server.app import build_server
from dbos_mcp.settings import Settings
from dbos_mcp.sync.leadership import Leadership
from tests.answers import rows
from tests.server.conftest import Ask, ToolFailedError, asking
from tests.upstream import APP, Asked, Tables, Wire, open_site, problem, workflow

SHOP: dict[str, object] = {"application_name": APP}
ORDER = {**SHOP, "workflow_id": "order-1005"}
READS: dict[str, dict[str, object]] = {
    "list_applications": {},
    "list_executors": SHOP,
    "list_workflows": SHOP,
    "get_workflow": ORDER,
    "list_steps": ORDER,
    "get_workflow_aggregates": SHOP,
    "get_workflow_history": ORDER,
    "list_changes": {"since": "2026-11-21T00:00:00Z"},
}
HOUR = 3_600


@dataclass
class Old:
    """A server on a mirror that is an hour old; another process is to sync it, and does not. So
    every request is made for an answer."""

    client: Client
    ask: Ask
    wire: Wire
    tables: Tables
    settings: Settings

    def asked(self) -> list[str]:
        """What was asked since this was last called, without the organization."""
        asked = ["/".join(a.path.split("/")[-2:]) for a in self.wire.asked]
        self.wire.asked.clear()
        return asked


@pytest.fixture
async def old(
    shop_database: Path, cache_path: Path, tmp_path: Path, era: str
) -> AsyncIterator[Old]:
    async with open_site(shop_database, cache_path) as site:
        site.clock.ahead_ms = -HOUR * 1000
        await site.sync_until_steps_are_read()
    leader = Leadership(cache_path)
    assert leader.take()
    tables = Tables(shop_database)
    settings = Settings.from_env(
        {"HOME": str(tmp_path), "DBOS_SYSTEM_DATABASE_URL": tables.url}, cache=cache_path
    )
    database = SystemDatabase(tables.url, [APP, "bank"])
    wire = Wire(httpx.ASGITransport(create_app(database)))
    async with Client(build_server(settings, transport=wire), mode=era) as client:
        yield Old(client, asking(client), wire, tables, settings)
    leader.release()
    database.close()


async def test_without_it_and_while_it_is_fresh_enough_nothing_is_asked(old: Old) -> None:
    for tool, arguments in READS.items():
        assert "h ago)" in (await old.ask(tool, **arguments)).splitlines()[-1]
        answer = await old.ask(tool, **arguments, max_age_seconds=HOUR * 2)
        assert "Not as fresh" not in answer
    assert old.asked() == []


async def test_an_old_answer_is_not_called_live(old: Old) -> None:
    assert (await old.ask("list_executors", **SHOP)).endswith(
        "; no look since then; sync_now makes one."
    )


async def test_a_list_looks_at_its_application_first(old: Old) -> None:
    old.tables.add(workflow("brand-new", now_ms(), "ERROR"))
    answer = await old.ask("list_workflows", **SHOP, status="ERROR", max_age_seconds=60)
    assert rows(answer)[0]["workflow_id"] == "brand-new"
    assert answer.endswith("; live.")
    asked = old.asked()
    assert len(asked) <= 8  # with the text of the new error
    assert not [path for path in asked if "steps" in path or "bank" in path]
    for tool in ("list_workflows", "list_executors", "get_workflow_aggregates", "get_workflow"):
        await old.ask(tool, **READS[tool], max_age_seconds=60)
    assert old.asked() == []


async def test_the_list_of_applications_is_all_that_is_read_for_it(old: Old) -> None:
    answer = await old.ask("list_applications", max_age_seconds=0)
    assert [row["application_name"] for row in rows(answer)] == ["bank", "shop"]
    assert old.asked() == ["local/apps"]


async def test_changes_everywhere_look_at_every_application(old: Old) -> None:
    old.tables.end("restock-1", now_ms())
    answer = await old.ask("list_changes", since="-30m", max_age_seconds=0)
    assert rows(answer)[0]["change"] == "DELAYED → SUCCESS"
    assert answer.endswith("; live.")
    assert {"local/apps", "bank/executors"} <= set(old.asked())


async def test_of_one_workflow_only_that_is_read_and_once(old: Old) -> None:
    old.tables.end("restock-1", now_ms(), "CANCELLED")
    one = {**SHOP, "workflow_id": "restock-1"}
    answer = await old.ask("get_workflow", **one, max_age_seconds=60)
    assert answer.startswith("restock-1: CANCELLED")
    assert "\nThis workflow as of 20" in answer
    assert "; all else as of 20" in answer
    assert old.asked() == ["workflows/search"]
    history = await old.ask("get_workflow_history", **one, max_age_seconds=60)
    assert "DELAYED → CANCELLED" in history
    assert old.asked() == []
    await old.ask("get_workflow_history", **one, max_age_seconds=0)
    assert old.asked() == ["workflows/search"]


async def test_of_steps_the_workflow_and_its_steps_are_read(old: Old) -> None:
    old.tables.add_step("order-1005", 99, "afterwards")
    assert "afterwards" not in await old.ask("list_steps", **ORDER)
    assert old.asked() == []
    assert "afterwards" in await old.ask("list_steps", **ORDER, max_age_seconds=60)
    assert old.asked() == ["workflows/search", "order-1005/steps"]
    await old.ask("get_workflow", **ORDER, include="steps", max_age_seconds=60)
    assert old.asked() == []


async def test_what_is_gone_is_said_to_be_and_its_steps_are_not_asked_for(old: Old) -> None:
    old.tables.change("DELETE FROM workflow_status WHERE workflow_uuid = 'order-1005'")
    answer = await old.ask("list_steps", **ORDER, max_age_seconds=0)
    assert answer.startswith("6 of 6 steps of order-1005")
    assert old.asked() == ["workflows/search"]
    assert "deleted upstream" in await old.ask("get_workflow", **ORDER)


async def test_ten_questions_at_once_share_a_look(old: Old) -> None:
    async def ask() -> None:
        await old.ask("list_workflows", **SHOP, max_age_seconds=60)

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(ask)
    assert old.asked().count("local/apps") == 1


async def test_an_application_that_was_never_mirrored_is_loaded(old: Old) -> None:
    old.tables.add(workflow("loan-1", now_ms(), application_name="bank"))
    with pytest.raises(ToolFailedError, match=r"Known: shop\. As of 20.* \(1h ago\)"):
        await old.ask("list_workflows", application_name="bank")
    answer = await old.ask("list_workflows", application_name="bank", max_age_seconds=60)
    assert [row["workflow_id"] for row in rows(answer)] == ["loan-1"]


@pytest.mark.parametrize("tool", ["list_workflows", "get_workflow"])
async def test_an_application_that_nobody_knows_stays_an_error(old: Old, tool: str) -> None:
    arguments = {**READS[tool], "application_name": "shopp"}
    with pytest.raises(ToolFailedError, match="shopp"):
        await old.ask(tool, **arguments, max_age_seconds=0)


async def test_the_client_is_told_how_far_the_look_is(old: Old) -> None:
    told: list[str | None] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)

    arguments = {**SHOP, "max_age_seconds": 0}
    await old.client.call_tool("list_workflows", arguments, progress_callback=note)
    assert told[0] == "asking Conductor"


# What cannot be had


async def stale(old: Old) -> dict[str, str]:
    """What each tool answers, by the line of its freshness: it is that of the mirror."""
    answers = {}
    for tool, arguments in READS.items():
        answer = await old.ask(tool, **arguments, max_age_seconds=0)
        plain = await old.ask(tool, **arguments)
        assert answer.splitlines()[0] == plain.splitlines()[0]
        answers[tool] = answer.splitlines()[-1]
    return answers


async def test_while_conductor_is_away_the_mirror_answers_and_says_so(old: Old) -> None:
    old.wire.fault = lambda _request: problem(503, "no executor")
    for tool, line in (await stale(old)).items():
        assert "(1h ago)" in line, tool
        if tool != "list_changes":
            assert "Not as fresh as asked: " in line, tool
            assert "no executor" in line, tool


async def test_refused_credentials_are_not_sent_again(old: Old) -> None:
    old.wire.fault = lambda _request: problem(401, "expired")
    line = (await old.ask("list_workflows", **SHOP, max_age_seconds=0)).splitlines()[-1]
    assert "Not as fresh as asked: " in line
    assert "log in" in line.lower() or "DBOS_TOKEN" in line
    assert len(old.asked()) == 1
    for line in (await stale(old)).values():
        assert "the credentials were refused. Log in, or set others." in line
    assert old.asked() == []


async def test_a_conductor_that_is_slow_is_not_waited_for(
    old: Old, monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "LOOK_SECONDS", 0.05)

    async def hang(_asked: Asked) -> None:
        await anyio.sleep_forever()

    old.wire.heard = hang
    for tool in ("list_workflows", "get_workflow", "list_applications", "list_changes"):
        line = (await old.ask(tool, **READS[tool], max_age_seconds=0)).splitlines()[-1]
        assert "Not as fresh as asked: it takes more than " in line
        assert "sync_now waits longer" in line


async def test_offline_the_mirror_answers_and_says_so(old: Old) -> None:
    offline = old.settings.model_copy(update={"offline": True})
    async with Client(build_server(offline)) as client:
        ask = asking(client)
        for tool, arguments in READS.items():
            line = (await ask(tool, **arguments, max_age_seconds=60)).splitlines()[-1]
            assert "offline: answered from the cache alone" in line
            assert "Not as fresh as asked: start the server without --offline" in line
            assert "Not as fresh" not in await ask(tool, **arguments, max_age_seconds=2 * HOUR)


async def test_a_workflow_that_cannot_be_looked_up_is_not_found_in_a_mirror_of_when(
    old: Old,
) -> None:
    old.wire.fault = lambda _request: problem(503, "no executor")
    with pytest.raises(ToolFailedError) as failure:
        await old.ask("get_workflow", **SHOP, workflow_id="nope")
    assert "The mirror holds no workflow 'nope' of shop." in str(failure.value)
    assert "(1h ago)" in str(failure.value)
    assert "Not looked up at Conductor: " in str(failure.value)


@pytest.mark.parametrize("seconds", [-1, -0.001, "soon", [1]])
async def test_it_is_a_number_of_seconds(old: Old, seconds: object) -> None:
    with pytest.raises(ToolFailedError, match="max_age_seconds"):
        await old.ask("list_workflows", **SHOP, max_age_seconds=seconds)
    assert old.asked() == []


async def test_parts_of_seconds_will_do(old: Old) -> None:
    assert (await old.ask("list_executors", **SHOP, max_age_seconds=0.5)).endswith("; live.")
