"""What sets failed runs apart, and two runs side by side: over a real application in which one
currency is formatted wrongly."""

import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx
import pytest
from mcp import Client
from sqlalchemy import select

from dbos_mcp.conductor.models import ForkRequest
from dbos_mcp.local_conductor.app import create_app
from dbos_mcp.local_conductor.system_database import SystemDatabase
from dbos_mcp.server import differences, investigation
from dbos_mcp.server.app import build_server
from dbos_mcp.server.context import Asker, Session, opened_for
from dbos_mcp.server.differences import OF_ONE, explain_differences
from dbos_mcp.server.memory import Memory
from dbos_mcp.settings import Payloads, Settings
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.migrate import open_cache
from dbos_mcp.store.projections.steps import StepRow
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.tables import table_of
from tests.postmortem.applications import application
from tests.server.conftest import Ask, Serve, ToolFailedError, asking, mirrored
from tests.upstream import APP, Tables, Wire, below, open_site, problem

SHOP = {"application_name": APP}
PAIR = {**SHOP, "workflow_id": "order-1-1", "other_workflow_id": "order-2-1"}
EUROS = "input.currency = EUR: 6 of 6 failed, 0 of 36 others."
FIRST = "The first step whose output differs in kind is format_amount, step 2, before"


@pytest.fixture(scope="module")
def payments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The system database of the application, which is gone."""
    database = tmp_path_factory.mktemp("payments") / "shop.sqlite"
    with application("currency_application", database):
        pass
    return database


@pytest.fixture(scope="module")
def deep_orders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    database = tmp_path_factory.mktemp("deep") / "shop.sqlite"
    with application("deep_application", database):
        pass
    return database


@dataclass
class Bank:
    settings: Settings
    wire: Wire
    tables: Tables

    def payloads_asked(self) -> list[str]:
        """What was asked for by this module alone: inputs, or the steps of a workflow."""
        return [
            asked.path.split("/")[-2] if "/steps" in asked.path else "inputs"
            for asked in self.wire.asked
            if "/steps" in asked.path or asked.body.get("loadInput")
        ]


@pytest.fixture
async def bank(payments: Path, tmp_path: Path) -> AsyncIterator[Bank]:
    async with bank_of(payments, tmp_path) as bank:
        yield bank


@pytest.fixture
async def deep(deep_orders: Path, tmp_path: Path) -> AsyncIterator[Bank]:
    async with bank_of(deep_orders, tmp_path) as bank:
        yield bank


@asynccontextmanager
async def bank_of(leftover: Path, tmp_path: Path) -> AsyncIterator[Bank]:
    for part in leftover.parent.glob("shop.sqlite*"):
        shutil.copy(part, tmp_path / part.name)
    tables = Tables(tmp_path / "shop.sqlite")
    database = SystemDatabase(tables.url, [APP])
    settings = Settings.from_env(
        {"HOME": str(tmp_path), "DBOS_SYSTEM_DATABASE_URL": tables.url},
        cache=tmp_path / "cache.sqlite",
    )
    yield Bank(settings, Wire(httpx.ASGITransport(create_app(database))), tables)
    database.close()


@pytest.fixture
async def ask(bank: Bank) -> AsyncIterator[Ask]:
    async with Client(build_server(bank.settings, transport=bank.wire)) as client:
        ask = asking(client)
        await mirrored(ask)
        await ask("sync_now")
        yield ask


async def group_of(ask: Ask) -> dict[str, object]:
    answer = await ask("list_failures", **SHOP)
    (group,) = re.findall(r"^([0-9a-f]{10}) \|", answer, re.MULTILINE)
    return {**SHOP, "group": group}


def payloads_kept(cache: Cache) -> int:
    with cache.read() as connection:
        kept = [
            connection.execute(select(column).where(column.is_not(None))).all()
            for column in (table_of(WorkflowRow).c.input, table_of(StepRow).c.output)
        ]
    return sum(map(len, kept))


@pytest.mark.e2e
async def test_a_group_is_told_by_what_separates_it(ask: Ask, bank: Bank) -> None:
    answer = await ask("list_failures", **await group_of(ask))
    lines = answer.splitlines()
    assert EUROS in lines
    (first,) = (line for line in lines if line.startswith(FIRST))
    assert "post_to_ledger raised: <n>,<n> such as 1" in first
    assert "in 6 of 6 failed and 0 of 10 others, which have <n>.<n> such as 1" in first
    assert (
        "Looked at the inputs of 6 failed and 36 other runs of post_payment that went well about"
        " that time, and the outputs of the steps of 6 and 10, read live." in lines
    )
    (common,) = (line for line in lines if line.startswith("Not what separates them: "))
    assert "application_version '1.0' (6 of 6, 36 of 36)" in common
    assert "input.lines.length 1 (6 of 6, 36 of 36)" in common
    assert "currency" not in common
    assert len(answer.encode()) <= 8192


@pytest.mark.e2e
async def test_what_was_read_stays_in_memory_and_out_of_the_mirror(ask: Ask, bank: Bank) -> None:
    group = await group_of(ask)
    bank.wire.asked.clear()
    once = await ask("list_failures", **group)
    asked = bank.payloads_asked()
    assert asked.count("inputs") == 1
    assert len(asked) <= 1 + 6 + 10
    bank.wire.asked.clear()
    assert EUROS in await ask("list_failures", **group)
    assert bank.payloads_asked() == []
    assert "read live" in once
    cache = open_cache(bank.settings.cache_path(""), writable=False)
    assert payloads_kept(cache) == 0
    cache.close()


@pytest.mark.e2e
async def test_without_conductor_the_answer_says_what_it_did_not_look_at(
    ask: Ask, bank: Bank
) -> None:
    group = await group_of(ask)
    bank.wire.fault = below("", lambda: problem(403, "not for you"))
    answer = await ask("list_failures", **group)
    assert "Looked at 6 failed and 36 other runs of post_payment that went well" in answer
    assert "Not looked at: inputs and outputs: " in answer
    assert "application_version '1.0' (6 of 6, 36 of 36)" in answer
    assert "input." not in answer


@pytest.mark.e2e
async def test_what_could_be_read_is_told_and_the_rest_is_named(ask: Ask, bank: Bank) -> None:
    group = await group_of(ask)
    bank.wire.fault = below("/steps", lambda: problem(403, "not for you"))
    answer = await ask("list_failures", **group)
    assert EUROS in answer
    assert FIRST not in answer
    assert re.search(r"^Not looked at: outputs: .*not for you", answer, re.MULTILINE)
    bank.wire.fault = lambda _request: None
    bank.wire.asked.clear()
    assert FIRST in await ask("list_failures", **group)
    assert "inputs" not in bank.payloads_asked()


@pytest.mark.e2e
async def test_what_the_mirror_keeps_is_enough_offline(bank: Bank, serve: Serve) -> None:
    keeping = bank.settings.model_copy(update={"payloads": Payloads.ALL})
    async with serve(keeping, transport=bank.wire) as ask:
        await mirrored(ask)
        group = await group_of(ask)
        for _ in range(9):
            await ask("sync_now")
    async with serve(keeping.model_copy(update={"offline": True})) as ask:
        answer = await ask("list_failures", **group)
        assert EUROS in answer
        assert FIRST in answer
        assert "as the mirror keeps them" in answer
        assert "170,37 against 170.74" in await ask("compare_workflows", **PAIR)


@pytest.mark.e2e
async def test_two_runs_are_shown_side_by_side(ask: Ask) -> None:
    answer = await ask("compare_workflows", **PAIR)
    lines = answer.splitlines()
    assert lines[1:3] == [
        "one: order-1-1: ERROR, post_payment",
        "other: order-2-1: SUCCESS, post_payment",
    ]
    assert "status | ERROR | SUCCESS" in lines
    assert "inputs differ at 2 of 4 paths:" in lines
    assert "input.currency | EUR | USD" in lines
    assert "steps (3 in all, the first that differs in more than data is format_amount):" in lines
    (formatted,) = (line for line in lines if line.startswith("2 format_amount | "))
    assert formatted.endswith(" | differ in kind: 170,37 against 170.74")
    (raised,) = (line for line in lines if line.startswith("3 post_to_ledger | "))
    assert " | raised could not convert string to float: '170,37', " in raised
    assert lines[-1].endswith("live.")


@pytest.mark.e2e
async def test_where_a_child_is_what_differs_the_children_are_next(ask: Ask) -> None:
    answer = await ask(
        "compare_workflows", **SHOP, workflow_id="order-1", other_workflow_id="order-2"
    )
    assert (
        'Go on with compare_workflows(workflow_id="order-1-1", other_workflow_id="order-2-1").'
        in answer
    )


@pytest.mark.e2e
async def test_two_are_needed_to_compare(ask: Ask) -> None:
    with pytest.raises(ToolFailedError, match="Both ids are the same"):
        await ask("compare_workflows", **SHOP, workflow_id="order-1", other_workflow_id="order-1")
    with pytest.raises(ToolFailedError, match="no workflow 'order-99'"):
        await ask("compare_workflows", **SHOP, workflow_id="order-1", other_workflow_id="order-99")


@pytest.mark.e2e
async def test_what_private_mode_withholds_is_not_asked_for_again_and_said(
    ask: Ask, bank: Bank
) -> None:
    group = await group_of(ask)
    bank.tables.change("UPDATE operation_outputs SET output = NULL")
    cache = open_cache(bank.settings.cache_path(""))
    with cache.write() as connection:
        connection.exec_driver_sql("UPDATE application SET private_mode = 1")
    cache.close()
    answer = await ask("list_failures", **group)
    assert "Not looked at: outputs: the application is in private mode, which" in answer
    bank.wire.asked.clear()
    await ask("list_failures", **group)
    assert bank.payloads_asked() == []


@pytest.mark.e2e
async def test_outputs_that_are_withheld_are_not_the_same(ask: Ask, bank: Bank) -> None:
    bank.tables.change("UPDATE operation_outputs SET output = NULL")
    answer = await ask("compare_workflows", **PAIR)
    assert "the same" not in [line.split(" | ")[-1] for line in answer.splitlines()]
    assert "Not known of both: outputs: Conductor sent none." in answer


@pytest.mark.e2e
async def test_hostile_workflows_are_compared_within_eight_kilobytes(ask: Ask, bank: Bank) -> None:
    for side in ("order-1-1", "order-2-1"):
        bank.tables.change("DELETE FROM operation_outputs WHERE workflow_uuid = ?", side)
        for step in range(1, 200):
            bank.tables.add_step(
                side, step, f"{side}\u202e\n|" * 20, output="😀" * 500 + f"{side}{step}"
            )
        bank.tables.update(side, attributes=f'{{"{side}": "{"😀" * 900}"}}')
    await ask("sync_now")
    answer = await ask("compare_workflows", **PAIR, max_age_seconds=0)
    assert len(answer.encode()) <= 8192
    assert "\u202e" not in answer
    assert "more." in answer


@pytest.mark.e2e
async def test_one_failure_is_told_from_its_peers(bank: Bank) -> None:
    session = Session(bank.settings, transport=bank.wire)
    try:
        runtime = await opened_for(session, APP)
        await runtime.require_live().worker.run_until_read()
        found = await explain_differences(Asker(session), runtime, APP, "order-1-1")
        assert found.first_step == 2
        assert found.lines[0] == EUROS
        assert found.lines[1].startswith(FIRST)
        assert found.first_workflow_id == "order-1-1"
        assert [each.of_failed for each in found.steps] == [OF_ONE.steps]
        well = await explain_differences(Asker(session), runtime, APP, "order-2-1")
        assert (well.first_step, well.lines) == (None, ())
        nobody = await explain_differences(Asker(session), runtime, APP, "nobody")
        assert nobody.lines == ()
    finally:
        await session.close()


@pytest.mark.e2e
async def test_what_came_down_from_the_root_is_found_there_and_a_fork_from_there_mends_it(
    deep: Bank, tmp_path: Path
) -> None:
    async with Client(build_server(deep.settings, transport=deep.wire)) as client:
        ask = asking(client)
        await mirrored(ask)
        await ask("sync_now")
        group = await group_of(ask)
        deep.wire.asked.clear()
        told = [await ask("list_failures", **group)]
        assert deep.payloads_asked().count("inputs") == 3  # theirs, their parents', the roots'
        for workflow_id in ("order-1", "order-1-3", "order-1-3-2"):
            told.append(await ask("diagnose_workflow", **SHOP, workflow_id=workflow_id))
            assert (
                'fork_workflow(application_name="shop", workflow_id="order-1", start_step=2): '
                in told[-1]
            )
        assert "from a later step than 2 uses its wrong output again" in told[1]
        assert "A fork of order-1-3 from any step is given the same input again" in told[2]
        for answer in told:
            assert (
                "input.currency of the grandparent place_order = EUR: 6 of 6 failed, 0 of 36"
                in (answer)
            )
            assert (
                "differs in kind is format_amount, step 2 of the grandparent place_order" in answer
            )
            assert len(answer.encode()) <= 4096
    with application("deep_application", tmp_path / "shop.sqlite", "mended") as running:
        async with open_site(tmp_path / "shop.sqlite", tmp_path / "other.sqlite") as site:
            outcomes = {}
            for source, step in (("order-1", 2), ("order-1", 3), ("order-1-3-2", 1)):
                fork = f"{source} from {step}"
                request = ForkRequest(start_step=step, new_workflow_id=fork)
                await site.client.fork_workflow(APP, source, request)
                outcomes[fork] = running.end_of(fork)
    assert outcomes == {
        "order-1 from 2": "SUCCESS",
        "order-1 from 3": "ERROR",
        "order-1-3-2 from 1": "ERROR",
    }


class Hanging(httpx.AsyncBaseTransport):
    """Conductor that takes questions, and then never answers."""

    def __init__(self, wire: Wire) -> None:
        self.hangs = False
        self._wire = wire

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.hangs:
            await anyio.sleep_forever()
        return await self._wire.handle_async_request(request)


@pytest.mark.e2e
async def test_nobody_waits_for_a_conductor_that_never_answers(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(differences, "SECONDS", 0.01)
    monkeypatch.setattr(investigation, "READ_SECONDS", 0.01)
    conductor = Hanging(bank.wire)
    async with Client(build_server(bank.settings, transport=conductor)) as client:
        ask = asking(client)
        await mirrored(ask)
        await ask("sync_now")
        group = await group_of(ask)
        conductor.hangs = True
        with anyio.fail_after(60):
            answer = await ask("diagnose_workflow", **SHOP, workflow_id="order-1-1")
            assert "post_payment failed in step 3 post_to_ledger" in answer
            assert re.search(r"^not known: what only Conductor knows: it takes more", answer, re.M)
            for told in (answer, await ask("list_failures", **group)):
                assert "Not looked at: inputs and outputs: the rest takes more than" in told
            compared = await ask("compare_workflows", **PAIR)
        assert re.search(r"^Not known of both: inputs, .*the rest takes more than", compared, re.M)


def test_what_nobody_asked_for_the_longest_is_forgotten_first() -> None:
    memory = Memory(most_characters=3_000)
    for name in "abc":
        memory.put(name, name.upper(), 400)
    assert memory.get("a") == "A"
    memory.put("d", "D", 400)
    assert [name in memory for name in "abcd"] == [True, False, True, True]
    memory.put("e", "E", 9_000)
    assert not any(name in memory for name in "abcde")
