"""Which steps and payloads are read, in which order, how often, and what is kept of them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dbos_mcp.domain import now_ms
from dbos_mcp.errors import UnavailableError
from dbos_mcp.queries.sync_status import steps_pending
from dbos_mcp.settings import DAY_MS, Payloads
from dbos_mcp.store import projector
from dbos_mcp.store.projections.steps import StepRow
from dbos_mcp.store.sync_state import StepDueRow, StepReadingRow
from dbos_mcp.sync import due, known
from dbos_mcp.sync.diff import MAX_PAYLOAD_CHARACTERS
from dbos_mcp.sync.due import (
    GRACE_MS,
    LONGEST_PAUSE_MS,
    MOST,
    READINGS_PER_CYCLE,
    REREAD_MS,
    SHARE,
    WALK_AT_ONCE,
    Priority,
)
from dbos_mcp.sync.steps import STEPS_REFUSED_PAUSE_MS
from tests.plans import plan_of, statements_asked
from tests.upstream import APP, Asked, Site, below, open_site, pickled, problem, workflow

HOUR_MS = 3_600_000
ERROR = {"status": "ERROR", "error": pickled(RuntimeError("no rate"))}


@pytest.fixture
async def empty(empty_database: Path, cache_path: Path) -> AsyncIterator[Site]:
    """An application without a workflow, and an empty mirror of it."""
    async with open_site(empty_database, cache_path) as site:
        yield site


async def asked_in_a_cycle(site: Site) -> list[str]:
    """The workflows whose steps one more cycle asks for."""
    site.wire.asked.clear()
    report = await site.sync()
    assert report.error is None
    return site.wire.steps_asked()


def waiting(site: Site) -> dict[Priority, list[str]]:
    """Whose steps are due by now, in the order in which they are read."""
    with site.cache.read() as connection:
        found = known.steps_due(connection, APP, now=site.clock(), limit=1000)
    return {urgency: ids for urgency, ids in found.items() if ids}


def pending(site: Site) -> int:
    with site.cache.read() as connection:
        return steps_pending(connection, APP, now=site.clock())


def reading(site: Site, workflow_id: str) -> dict[str, Any]:
    key = site.mirrored()[workflow_id]["id"]
    (row,) = [row for row in site.table(StepReadingRow) if row["workflow_key"] == key]
    return row


def contents(cache: Path) -> bytes:
    return cache.read_bytes()


def make_read_only(cache: Path) -> None:
    """Nobody can lock it any more."""
    lock = cache.with_name(cache.name + ".lock")
    lock.unlink()
    lock.mkdir()


# In which order, and how many


async def test_the_steps_of_every_workflow_are_read_in_the_end(site: Site) -> None:
    await site.sync_until_steps_are_read()
    read = {row["workflow_key"] for row in site.table(StepReadingRow)}
    rows = site.mirrored().values()
    assert read == {row["id"] for row in rows if row["status"] not in ("ENQUEUED", "DELAYED")}
    theirs = site.tables.rows("SELECT workflow_uuid, function_id FROM operation_outputs")
    ids = {row["id"]: row["workflow_id"] for row in rows}
    ours = [(ids[row["workflow_key"]], row["step_id"]) for row in site.table(StepRow)]
    assert sorted(ours) == sorted(theirs)
    with site.cache.write() as connection:
        assert all(table.equal for table in projector.rebuild(connection))


async def test_failed_and_running_workflows_of_a_history_are_queued_and_no_others(
    site: Site,
) -> None:
    site.wire.fault = below("/steps", lambda: problem(503))
    assert isinstance((await site.sync()).error, UnavailableError)
    rows = site.mirrored()
    queued = waiting(site)
    background = queued.pop(Priority.BACKGROUND)
    assert {urgency: set(ids) for urgency, ids in queued.items()} == {
        Priority.FAILED: {i for i, row in rows.items() if row["status"] == "ERROR"},
        Priority.IN_FLIGHT: {i for i, row in rows.items() if row["status"] == "PENDING"},
    }
    assert "order-1001" in background


async def test_the_classes_are_read_in_their_order(empty: Site) -> None:
    now = now_ms()
    empty.tables.add(
        workflow("ends", now - 1000, "PENDING"),
        workflow("runs", now - 900, "PENDING"),
        *(workflow(f"old-{n}", now - DAY_MS - n * 1000) for n in range(3)),
        workflow("waits", now - 800, "ENQUEUED", queue_name="emails"),
    )
    empty.wire.fault = below("/steps", lambda: problem(503))
    await empty.sync()
    empty.tables.end("ends", now - 700)
    empty.tables.add(
        workflow("failed-first", now - 600, **ERROR),
        workflow("failed-last", now - 500, **ERROR),
        workflow("ended-at-once", now - 400),
        workflow("late", now - 2 * HOUR_MS),
    )
    empty.tables.update("waits", attributes=None, updated_at=now)
    await empty.mirror.want_steps(APP, "old-2")
    await empty.sync()
    assert waiting(empty) == {
        Priority.FAILED: ["failed-last", "failed-first"],
        Priority.ASKED: ["old-2"],
        Priority.COMPLETED: ["ended-at-once", "ends"],
        Priority.IN_FLIGHT: ["runs"],
        Priority.BACKGROUND: ["old-0", "old-1"],
    }


async def test_a_cycle_reads_no_more_than_it_may_and_no_class_starves(empty: Site) -> None:
    now = now_ms()
    empty.tables.add(
        *(workflow(f"failed-{n}", now - n, **ERROR) for n in range(100)),
        *(workflow(f"running-{n}", now - n, "PENDING") for n in range(100)),
        *(workflow(f"ended-{n}", now - n) for n in range(100)),
    )
    read = await asked_in_a_cycle(empty)
    assert len(read) == READINGS_PER_CYCLE
    kinds = {kind: sum(i.startswith(kind) for i in read) for kind in ("running", "ended")}
    assert kinds == {"running": SHARE, "ended": SHARE}
    assert set(read) > {f"failed-{n}" for n in range(READINGS_PER_CYCLE - 2 * SHARE)}
    for _ in range(2):
        await asked_in_a_cycle(empty)
    assert Priority.FAILED in waiting(empty)
    await asked_in_a_cycle(empty)
    assert Priority.FAILED not in waiting(empty)


async def test_running_workflows_take_turns_and_leave_room(empty: Site) -> None:
    count = 3 * MOST[Priority.IN_FLIGHT]
    empty.tables.add(*(workflow(f"run-{n}", now_ms(), "PENDING") for n in range(count)))
    read: list[str] = []
    for _ in range(3):
        some = await asked_in_a_cycle(empty)
        assert len(some) == MOST[Priority.IN_FLIGHT]
        read += some
    assert len(set(read)) == count
    assert await asked_in_a_cycle(empty) == []


async def test_applications_share_the_readings_of_a_cycle(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(empty_database, cache_path, names=["attic", APP]) as site:
        for name in ("attic", APP):
            rows = (workflow(f"{name}-{n}", now_ms(), **ERROR) for n in range(100))
            site.tables.add(*({**row, "application_name": name} for row in rows))
        await site.sync()
        read = site.wire.steps_asked()
        assert len(read) == READINGS_PER_CYCLE
        assert sum(workflow_id.startswith("attic") for workflow_id in read) == len(read) // 2


# The background


async def test_the_background_goes_back_from_the_newest_a_few_at_a_time(empty: Site) -> None:
    now = now_ms()
    empty.tables.add(*(workflow(f"w-{n:02}", now - DAY_MS - n * 1000) for n in range(35)))
    most = MOST[Priority.BACKGROUND]
    for done in range(0, 35, most):
        expected = {f"w-{n:02}" for n in range(done, min(35, done + most))}
        assert set(await asked_in_a_cycle(empty)) == expected
    assert await asked_in_a_cycle(empty) == []
    assert pending(empty) == 0


async def test_the_walk_costs_no_row_of_the_queue_for_what_lies_before_it(empty: Site) -> None:
    now = now_ms()
    count = WALK_AT_ONCE + 50
    empty.tables.add(*(workflow(f"w-{n}", now - DAY_MS - n * 1000) for n in range(count)))
    await empty.sync()
    assert len(empty.table(StepDueRow)) == WALK_AT_ONCE - MOST[Priority.BACKGROUND]
    assert pending(empty) == count - MOST[Priority.BACKGROUND]


@pytest.mark.parametrize("restarts", [False, True])
async def test_the_walk_passes_over_no_workflow_of_one_millisecond(
    empty_database: Path, cache_path: Path, restarts: bool
) -> None:
    """Where a batch ends within a tie, and also when another process goes on."""
    moment = now_ms() - DAY_MS
    rows = [
        *(workflow(f"newer-{n}", moment + 1 + n) for n in range(WALK_AT_ONCE - 5)),
        *(workflow(f"tie-{n}", moment) for n in range(20)),
        *(workflow(f"older-{n}", moment - 1 - n) for n in range(5)),
    ]
    read: list[str] = []
    async with open_site(empty_database, cache_path) as site:
        site.tables.add(*rows)
        while some := await asked_in_a_cycle(site):
            read += some
            if restarts:
                break
    while restarts:
        async with open_site(empty_database, cache_path) as site:
            some = await asked_in_a_cycle(site)
            read += some
            restarts = bool(some)
    assert sorted(read) == sorted(row["workflow_uuid"] for row in rows)


async def test_what_comes_behind_the_walk_is_read_too(empty: Site) -> None:
    now = now_ms()
    empty.tables.add(*(workflow(f"w-{n}", now - DAY_MS - n * HOUR_MS) for n in range(3)))
    await empty.sync_until_steps_are_read()
    empty.tables.add(workflow("imported", now - DAY_MS - HOUR_MS))  # at the time of another
    await empty.mirror.refresh_workflows(APP, ["imported"])
    assert await asked_in_a_cycle(empty) == ["imported"]


async def test_a_history_that_is_extended_later_is_walked_too(
    empty_database: Path, cache_path: Path
) -> None:
    now = now_ms()
    async with open_site(empty_database, cache_path, history_ms=DAY_MS) as site:
        site.tables.add(workflow("new", now - HOUR_MS), workflow("old", now - 9 * DAY_MS))
        await site.sync_until_steps_are_read()
        assert "old" not in site.mirrored()
    async with open_site(empty_database, cache_path, history_ms=None) as site:
        assert await asked_in_a_cycle(site) == ["old"]
        assert site.table(StepDueRow) == []


async def test_a_workflow_that_the_walk_passed_in_flight_is_read_when_it_ends(
    empty: Site,
) -> None:
    long_ago = now_ms() - 10 * DAY_MS
    empty.tables.add(
        workflow("old", long_ago - 1), workflow("waits", long_ago, "ENQUEUED", queue_name="q")
    )
    await empty.sync_until_steps_are_read()
    assert pending(empty) == 0
    empty.tables.end("waits", now_ms())
    assert await asked_in_a_cycle(empty) == ["waits"]


async def test_the_first_workflow_of_an_application_is_read(empty: Site) -> None:
    assert await asked_in_a_cycle(empty) == []
    empty.tables.add(workflow("first", now_ms()))
    assert await asked_in_a_cycle(empty) == ["first"]


# How often


async def test_steps_are_read_at_the_end_and_once_more_after_the_grace_period(
    empty: Site,
) -> None:
    empty.tables.add(workflow("w", now_ms(), "PENDING"))
    await empty.sync_until_steps_are_read()
    empty.tables.end("w", now_ms() + 1, "CANCELLED")
    assert await asked_in_a_cycle(empty) == ["w"]
    empty.news()
    empty.tables.add_step("w", 1, "late")
    assert await asked_in_a_cycle(empty) == []
    empty.clock.ahead_ms += GRACE_MS
    assert await asked_in_a_cycle(empty) == ["w"]
    assert empty.news() == [("StepsObserved", "w")]
    empty.clock.ahead_ms += 10 * GRACE_MS
    assert await asked_in_a_cycle(empty) == []
    assert reading(empty, "w")["next_at"] is None


async def test_what_ended_long_ago_is_read_once(empty: Site) -> None:
    ago = now_ms() - 2 * HOUR_MS
    empty.tables.add(workflow("w", ago), workflow("failed", ago, **ERROR))
    assert set(await asked_in_a_cycle(empty)) == {"w", "failed"}
    empty.clock.ahead_ms += 10 * GRACE_MS
    assert await asked_in_a_cycle(empty) == []
    assert empty.table(StepDueRow) == []


async def test_the_steps_of_a_running_workflow_are_read_ever_more_rarely_until_they_change(
    empty: Site,
) -> None:
    empty.tables.add(workflow("w", now_ms(), "PENDING"))
    assert await asked_in_a_cycle(empty) == ["w"]
    for pause in (REREAD_MS, 2 * REREAD_MS, 4 * REREAD_MS):
        empty.clock.ahead_ms += pause - 5_000
        assert await asked_in_a_cycle(empty) == []
        empty.clock.ahead_ms += 10_000
        assert await asked_in_a_cycle(empty) == ["w"]
    empty.tables.add_step("w", 1, "charge")
    empty.clock.ahead_ms += LONGEST_PAUSE_MS
    empty.news()
    assert await asked_in_a_cycle(empty) == ["w"]
    assert empty.news() == [("StepsObserved", "w")]
    empty.clock.ahead_ms += REREAD_MS
    assert await asked_in_a_cycle(empty) == ["w"]


async def test_a_workflow_that_ends_within_the_second_of_its_start_is_read_at_its_end(
    empty: Site,
) -> None:
    """Where the database stamps whole seconds, its `updated_at` does not tell the two apart."""
    now = now_ms()
    empty.tables.add(workflow("w", now, "PENDING"))
    assert await asked_in_a_cycle(empty) == ["w"]
    empty.tables.end("w", now)
    assert await asked_in_a_cycle(empty) == ["w"]
    assert reading(empty, "w")["next_at"] is not None


async def test_a_workflow_that_is_resumed_is_due_again_and_a_rewind_discards_steps(
    empty: Site,
) -> None:
    ago = now_ms() - DAY_MS
    empty.tables.add(workflow("w", ago, **ERROR))
    empty.tables.add_step("w", 1, "quote")
    empty.tables.add_step("w", 2, "charge", "declined")
    await empty.sync_until_steps_are_read()
    empty.news()
    empty.tables.change("DELETE FROM operation_outputs WHERE function_id = 2")
    empty.tables.update(
        "w", status="ENQUEUED", updated_at=now_ms(), completed_at=None, queue_name="internal"
    )
    assert await asked_in_a_cycle(empty) == ["w"]
    assert [kind for kind, _ in empty.news()] == [
        "WorkflowChanged", "StepsDiscarded", "StepsObserved"
    ]  # fmt: skip
    assert await asked_in_a_cycle(empty) == []
    assert empty.table(StepDueRow) == []
    empty.tables.update("w", status="PENDING", updated_at=now_ms(), executor_id="shop-2")
    assert await asked_in_a_cycle(empty) == ["w"]


async def test_the_steps_of_a_deleted_workflow_are_not_due(empty: Site) -> None:
    empty.tables.add(workflow("w", now_ms(), "PENDING"))
    await empty.sync()
    empty.tables.change("DELETE FROM workflow_status")
    empty.clock.ahead_ms += HOUR_MS
    assert await asked_in_a_cycle(empty) == []
    assert empty.table(StepDueRow) == []
    await empty.mirror.want_steps(APP, "w")
    assert empty.table(StepDueRow) == []


@pytest.mark.parametrize("hours", [-30, 30])
async def test_a_clock_that_is_set_by_hours_holds_up_no_reading(empty: Site, hours: int) -> None:
    empty.tables.add(workflow("w", now_ms(), "PENDING"))
    await empty.sync()
    empty.clock.ahead_ms += hours * HOUR_MS
    assert await asked_in_a_cycle(empty) == ["w"]
    assert await asked_in_a_cycle(empty) == []


# Who asked


async def test_a_workflow_that_somebody_looked_at_is_queued_once(empty: Site) -> None:
    now = now_ms()
    empty.tables.add(*(workflow(f"w-{n}", now - DAY_MS - n * 1000) for n in range(30)))
    await empty.sync()
    for _ in range(2):
        await empty.mirror.want_steps(APP, "w-29")
        assert waiting(empty)[Priority.ASKED] == ["w-29"]
    assert "w-29" in await asked_in_a_cycle(empty)
    await empty.mirror.want_steps(APP, "w-29")
    assert Priority.ASKED not in waiting(empty)
    await empty.mirror.want_steps(APP, "nobody-knows-it")
    assert Priority.ASKED not in waiting(empty)


async def test_a_running_workflow_that_somebody_looks_at_is_read_soon(empty: Site) -> None:
    empty.tables.add(workflow("w", now_ms(), "PENDING"))
    await empty.sync()
    empty.clock.ahead_ms += 2 * REREAD_MS
    assert await asked_in_a_cycle(empty) == ["w"]  # and then after twice as long
    empty.clock.ahead_ms += REREAD_MS // 2
    await empty.mirror.want_steps(APP, "w")
    assert waiting(empty) == {}
    empty.clock.ahead_ms += REREAD_MS // 2
    await empty.mirror.want_steps(APP, "w")
    assert await asked_in_a_cycle(empty) == ["w"]


async def test_a_cache_that_somebody_else_writes_keeps_no_answer_waiting(site: Site) -> None:
    await site.sync()
    with site.cache.write():
        await site.mirror.want_steps(APP, "pick-shelf-2")


async def test_a_cache_that_cannot_be_written_fails_no_answer(site: Site, cache_path: Path) -> None:
    await site.sync()
    make_read_only(cache_path)
    await site.mirror.want_steps(APP, "pick-shelf-2")
    assert Priority.ASKED not in waiting(site)


# Refusals


async def test_steps_that_cannot_be_read_hold_up_nothing_else(site: Site) -> None:
    site.tables.add(*(workflow(i, now_ms(), **ERROR) for i in ("..", "odd", "even")))
    site.wire.fault = below("/odd/steps", lambda: problem(500))
    await site.sync_until_steps_are_read()
    assert site.differences() == {}
    assert any(row["error"] for row in site.table(StepRow))
    assert reading(site, "even")
    assert await asked_in_a_cycle(site) == []
    site.wire.fault = lambda _request: None
    site.clock.ahead_ms += STEPS_REFUSED_PAUSE_MS
    assert "odd" in await asked_in_a_cycle(site)


async def test_an_application_that_shows_no_steps_at_all_is_soon_asked_no_more(
    site: Site,
) -> None:
    site.tables.add(*(workflow(f"run-{n}", now_ms(), "PENDING") for n in range(50)))
    site.wire.fault = below("/steps", lambda: problem(500))
    assert (await site.sync()).error is None
    assert len([asked for asked in site.wire.asked if "/steps" in asked.path]) < 10


async def test_an_application_that_goes_away_while_steps_are_read_is_away(site: Site) -> None:
    site.wire.fault = below("/steps", lambda: problem(503))
    assert isinstance((await site.sync()).error, UnavailableError)
    assert site.state().offline_since is not None
    assert site.differences() == {}


async def test_steps_of_a_workflow_that_is_gone_upstream_are_kept(site: Site) -> None:
    await site.sync()
    held = site.table(StepRow)
    await site.client.delete_workflow(APP, "reconcile-1")
    site.news()

    assert await site.mirror.refresh_steps(APP, "reconcile-1") == 0

    assert site.table(StepRow) == held
    assert site.news() == [("WorkflowDeleted", "reconcile-1")]
    site.wire.asked.clear()
    assert await site.mirror.refresh_steps(APP, "reconcile-1") == 0
    assert site.wire.asked == []


async def test_a_rewind_discards_steps(site: Site) -> None:
    await site.sync()
    site.news()
    site.tables.change("DELETE FROM operation_outputs WHERE workflow_uuid = 'reconcile-1'")
    assert await site.mirror.refresh_steps(APP, "reconcile-1") == 2
    assert site.news() == [("StepsDiscarded", "reconcile-1"), ("StepsObserved", "reconcile-1")]


async def test_steps_read_before_the_end_was_seen_are_read_once_more_after_it(site: Site) -> None:
    await site.sync()

    def end(asked: Asked) -> None:
        if asked.path.endswith("/reconcile-1/steps"):
            site.wire.heard = lambda _asked: None
            error = pickled(RuntimeError("late"))
            site.tables.add_step("reconcile-1", 90, "late", "late")
            site.tables.end("reconcile-1", now_ms() + 1, "ERROR", error=error)

    site.wire.heard = end
    await site.mirror.refresh_steps(APP, "reconcile-1")
    await site.sync()
    assert "late" in {row["step_name"] for row in site.table(StepRow)}


# Payloads


ROW = {
    "inputs": pickled({"args": ("order-7",), "kwargs": {}}),
    "output": pickled("shipped"),
}


def texts(site: Site, workflow_id: str) -> tuple[str | None, str | None, str | None]:
    row = site.mirrored()[workflow_id]
    return row["input"], row["output"], row["error"]


def loads(site: Site) -> list[tuple[bool, bool]]:
    """`loadInput` and `loadOutput` of the searches that asked for either."""
    flags = [
        (bool(asked.body.get("loadInput")), bool(asked.body.get("loadOutput")))
        for asked in site.wire.asked
    ]
    return [pair for pair in flags if any(pair)]


def fill(site: Site) -> None:
    """One workflow of each sort, with every payload that it can have."""
    now = now_ms()
    site.tables.add(
        workflow("good", now, inputs=ROW["inputs"], output=ROW["output"]),
        workflow("bad", now, inputs=ROW["inputs"], **ERROR),
        workflow("busy", now, "PENDING", inputs=ROW["inputs"]),
    )
    for workflow_id in ("good", "bad", "busy"):
        site.tables.add_step(workflow_id, 1, "quote")
        site.tables.add_step(workflow_id, 2, "charge", "declined")
    site.tables.change(
        "UPDATE operation_outputs SET output = ? WHERE function_id = 1", pickled("12.50")
    )


INPUT = "{'args': ('order-7',), 'kwargs': {}}"
KEPT: dict[Payloads, dict[str, tuple[str | None, str | None, str | None]]] = {
    Payloads.NONE: dict.fromkeys(("good", "bad", "busy"), (None, None, None)),
    Payloads.ERRORS: {
        "good": (None, None, None),
        "bad": (None, None, "no rate"),
        "busy": (None, None, None),
    },
    Payloads.FAILED: {
        "good": (None, None, None),
        "bad": (INPUT, None, "no rate"),
        "busy": (None, None, None),
    },
    Payloads.ALL: {
        "good": (INPUT, "shipped", None),
        "bad": (INPUT, None, "no rate"),
        "busy": (INPUT, None, None),
    },
}
OUTPUTS_OF_STEPS = {
    Payloads.NONE: set(),
    Payloads.ERRORS: set(),
    Payloads.FAILED: {"bad"},
    Payloads.ALL: {"good", "bad", "busy"},
}
LOADS = {
    Payloads.NONE: [],
    Payloads.ERRORS: [(False, True)],
    Payloads.FAILED: [(True, True)],
    Payloads.ALL: [(True, False), (True, True)],
}


@pytest.mark.parametrize("policy", Payloads)
async def test_a_policy_keeps_and_asks_for_what_it_says_and_once(
    empty_database: Path, cache_path: Path, policy: Payloads
) -> None:
    async with open_site(empty_database, cache_path, payloads=policy) as site:
        fill(site)
        await site.sync()
        assert {i: texts(site, i) for i in ("good", "bad", "busy")} == KEPT[policy]
        assert sorted(loads(site)) == LOADS[policy]
        ids = {row["id"]: workflow_id for workflow_id, row in site.mirrored().items()}
        steps = site.table(StepRow)
        assert {
            ids[row["workflow_key"]] for row in steps if row["output"] == "12.50"
        } == OUTPUTS_OF_STEPS[policy]
        errors = {row["error"] for row in steps if row["step_name"] == "charge"}
        assert errors == ({None} if policy is Payloads.NONE else {"declined"})

        site.wire.asked.clear()
        site.news()
        site.clock.ahead_ms += REREAD_MS
        await site.sync()
        assert loads(site) == []
        assert site.news() == []
        with site.cache.write() as connection:
            assert all(table.equal for table in projector.rebuild(connection))


async def test_by_default_no_input_and_no_output_is_stored_anywhere(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(empty_database, cache_path) as site:
        fill(site)
        await site.sync_until_steps_are_read()
        assert site.table(StepRow)
        site.cache.checkpoint(wal_limit_bytes=0)
    stored = contents(cache_path)
    assert b"declined" in stored
    assert not any(secret in stored for secret in (b"order-7", b"shipped", b"12.50"))


async def test_the_input_of_a_running_workflow_is_asked_for_once_and_stays(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(empty_database, cache_path, payloads=Payloads.ALL) as site:
        site.tables.add(workflow("w", now_ms(), "ENQUEUED", queue_name="q", inputs=ROW["inputs"]))
        await site.sync()
        assert loads(site) == [(True, False)]
        site.wire.asked.clear()
        site.tables.update("w", status="PENDING", updated_at=now_ms() + 1)
        await site.sync()
        await site.sync()
        assert loads(site) == []
        site.tables.end("w", now_ms() + 2, output=ROW["output"])
        await site.sync()
        assert loads(site) == [(False, True)]
        assert texts(site, "w") == (INPUT, "shipped", None)


async def test_a_wider_policy_loads_what_is_missing_when_it_is_next_seen_and_once(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(empty_database, cache_path) as site:
        fill(site)
        await site.sync_until_steps_are_read()
    async with open_site(empty_database, cache_path, payloads=Payloads.ALL) as site:
        await site.sync_until_steps_are_read()
        assert {i: texts(site, i) for i in ("good", "bad", "busy")} == KEPT[Payloads.ALL]
        outputs = [row["output"] for row in site.table(StepRow) if row["step_name"] == "quote"]
        assert outputs.count("12.50") == 2  # those of the running one come with its next reading
        site.wire.asked.clear()
        site.news()
        await site.sync()
        assert loads(site) == []
        assert site.news() == []


async def test_a_narrower_policy_forgets_nothing(empty_database: Path, cache_path: Path) -> None:
    async with open_site(empty_database, cache_path, payloads=Payloads.ALL) as site:
        fill(site)
        await site.sync_until_steps_are_read()
    async with open_site(empty_database, cache_path, payloads=Payloads.NONE) as site:
        for workflow_id in ("good", "bad", "busy"):
            site.tables.update(workflow_id, priority=3, updated_at=now_ms() + 5)
        site.tables.add_step("busy", 3, "ship")
        await site.sync_until_steps_are_read()
        assert site.differences() == {}
        assert {i: texts(site, i) for i in ("good", "bad", "busy")} == KEPT[Payloads.ALL]
        outputs = [row["output"] for row in site.table(StepRow)]
        assert outputs.count("12.50") == 3
        with site.cache.write() as connection:
            assert all(table.equal for table in projector.rebuild(connection))


async def test_whole_payloads_are_asked_for_and_recorded_in_small_parts(
    empty_database: Path, cache_path: Path
) -> None:
    now = now_ms()
    async with open_site(empty_database, cache_path, payloads=Payloads.ALL) as site:
        site.tables.add(*(workflow(f"w-{n}", now - n, inputs=ROW["inputs"]) for n in range(120)))
        await site.sync()
        whole = [asked.body for asked in site.wire.asked if asked.body.get("loadInput")]
        assert [len(body["workflowIds"]) for body in whole] == [50, 50, 20]
        assert all(body["limit"] == len(body["workflowIds"]) for body in whole)
        assert {row["input"] for row in site.mirrored().values()} == {INPUT}
        assert site.state().history_complete


async def test_outputs_that_differ_in_memory_addresses_only_are_no_news(
    empty_database: Path, cache_path: Path
) -> None:
    def output(address: str) -> str:
        return pickled(f"<shop.Parcel object at {address}>")

    async with open_site(empty_database, cache_path, payloads=Payloads.ALL) as site:
        site.tables.add(workflow("w", now_ms(), output=output("0x7f3ab5c0d1e0")))
        site.tables.add_step("w", 1, "pack")
        change = "UPDATE operation_outputs SET output = ?"
        site.tables.change(change, output("0x7f3ab5c0d1e0"))
        await site.sync()
        site.news()
        site.tables.change(change, output("0x7f0000000010"))
        assert await site.mirror.refresh_steps(APP, "w") == 0
        assert site.news() == []


async def test_every_payload_is_cut_with_a_mark(empty_database: Path, cache_path: Path) -> None:
    long = "x" * MAX_PAYLOAD_CHARACTERS
    async with open_site(empty_database, cache_path, payloads=Payloads.ALL) as site:
        payload = pickled(long + "y" * 5000)
        site.tables.add(workflow("w", now_ms(), inputs=payload, output=payload))
        site.tables.add_step("w", 1, "pack")
        site.tables.change("UPDATE operation_outputs SET output = ?", payload)
        await site.sync()
        (step,) = site.table(StepRow)
        row = site.mirrored()["w"]
        for kept in (row["input"], row["output"], step["output"]):
            assert kept.startswith(long + "… [cut: 21000 characters")


async def test_error_texts_of_failures_are_mirrored_and_no_other_payload(site: Site) -> None:
    await site.sync()
    for row in site.mirrored().values():
        assert row["input"] is None
        assert row["output"] is None
        assert (row["error"] is not None) == (row["status"] == "ERROR")
    assert "'BT'" in site.mirrored()["order-1005"]["error"]


async def test_an_oversized_error_text_is_cut_with_a_mark(site: Site) -> None:
    text = "x" * MAX_PAYLOAD_CHARACTERS + "y" * 5000
    site.tables.add(
        workflow("verbose", now_ms(), "ERROR", error=pickled(RuntimeError(text))),
    )
    site.tables.add_step("verbose", 1, "talk", text)
    await site.sync()
    error = site.mirrored()["verbose"]["error"]
    assert error.startswith("x" * MAX_PAYLOAD_CHARACTERS + "… [cut: 21000 characters")
    (step,) = [row for row in site.table(StepRow) if row["step_name"] == "talk"]
    assert step["error"] == error
    site.news()
    await site.sync_until_steps_are_read()
    assert "verbose" not in {workflow_id for _, workflow_id in site.news()}


async def test_a_workflow_that_failed_anew_between_two_looks_shows_its_new_error(
    site: Site,
) -> None:
    site.tables.add(workflow("twice", now_ms(), "ERROR", error=pickled(RuntimeError("first"))))
    await site.sync()
    site.tables.end("twice", now_ms() + 1, "ERROR", error=pickled(RuntimeError("second")))
    await site.sync()
    assert site.mirrored()["twice"]["error"] == "second"


# Cost


async def test_the_queue_and_the_walk_go_by_index(site: Site) -> None:
    await site.sync()
    with site.cache.write() as connection:
        with statements_asked() as asked:
            known.steps_due(connection, APP, now=site.clock(), limit=40)
            steps_pending(connection, APP)
            known.needs_steps(connection, APP, "order-1001", now=site.clock())
            due.has_more(connection, APP)
            due.ask(connection, APP, "order-1001", now=site.clock())
            due.postpone(connection, APP, "order-1001", until=site.clock())
            due.walk(connection, APP, now=site.clock())
        assert len(asked) > 10
        for each in asked:
            steps = plan_of(connection, each)
            scans = ("SCAN workflow", "SCAN step", "USE TEMP B-TREE")
            assert not [step for step in steps if step.startswith(scans)], each


async def test_one_sync_reads_the_steps_of_every_failure_and_counts_workflows_once(
    site: Site,
) -> None:
    site.tables.add(
        *(workflow(f"failed-{n}", now_ms() - n, "ERROR") for n in range(2 * READINGS_PER_CYCLE))
    )
    seen = (await site.worker.run_until_read())[0]
    failed = {key for key, row in site.mirrored().items() if row["status"] == "ERROR"}
    assert failed <= set(site.wire.steps_asked())
    assert len(failed) > 2 * READINGS_PER_CYCLE
    with site.cache.read() as connection:
        assert not due.is_anything_urgent(connection, now=site.clock())
    assert seen.events == len(site.new_events()) - 1  # the application itself
    assert seen.workflows_seen < 2 * len(site.mirrored())


async def test_readings_in_the_background_are_no_news(site: Site) -> None:
    first = await site.sync()
    assert first.events > first.background_events
    last = first
    while pending(site):
        last = await site.sync()
    assert last.events == last.background_events > 0
