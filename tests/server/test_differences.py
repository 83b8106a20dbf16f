"""What sets failed runs apart, and two runs side by side: over a real application in which one
currency is formatted wrongly."""

import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from mcp import Client
from sqlalchemy import select

from dbos_mcp.local_conductor.app import create_app
from dbos_mcp.local_conductor.system_database import SystemDatabase
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
from tests.server.conftest import Ask, Serve, asking, mirrored
from tests.upstream import APP, Tables, Wire, below, problem

SHOP = {"application_name": APP}
PAIR = {**SHOP, "workflow_id": "order-1-1", "other_workflow_id": "order-2-1"}
EUROS = "input.currency = EUR: 6 of 6 failed, 0 of 36 others."
FIRST = "The first step whose output differs in kind is format_amount, step 2, before"


@pytest.fixture(scope="module")
def payments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The system database of the application, which is gone."""
    database = tmp_path_factory.mktemp("payments") / "shop.sqlite"
    command = [sys.executable, "-m", "tests.postmortem.currency_application"]
    with subprocess.Popen(
        [*command, f"sqlite:///{database}"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
        finally:
            process.kill()
            process.stdin.close()
            process.wait()
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
    for part in payments.parent.glob("shop.sqlite*"):
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
        "Looked at the inputs of 6 failed and 36 other runs of post_payment that went well, and the"
        " outputs of the steps of 6 and 10, read live." in lines
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
        assert found.steps is not None
        assert found.steps.of_failed == OF_ONE.steps
        well = await explain_differences(Asker(session), runtime, APP, "order-2-1")
        assert (well.first_step, well.lines) == (None, ())
        nobody = await explain_differences(Asker(session), runtime, APP, "nobody")
        assert nobody.lines == ()
    finally:
        await session.close()


def test_what_nobody_asked_for_the_longest_is_forgotten_first() -> None:
    memory = Memory(most_characters=3_000)
    for name in "abc":
        memory.put(name, name.upper(), 400)
    assert memory.get("a") == "A"
    memory.put("d", "D", 400)
    assert [name in memory for name in "abcd"] == [True, False, True, True]
    memory.put("e", "E", 9_000)
    assert not any(name in memory for name in "abcde")
