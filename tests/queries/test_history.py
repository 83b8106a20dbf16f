"""What the log tells of one workflow: its states, their causes, and how it stood then."""

import random
from pathlib import Path
from typing import Any

import pytest

from dbos_mcp.conductor.models import ForkRequest
from dbos_mcp.domain import now_ms
from dbos_mcp.errors import NotFoundError
from dbos_mcp.queries.history import (
    AsOf,
    HistoryEntry,
    advance,
    advance_steps,
    entries_of,
    get_as_of,
    get_history,
)
from dbos_mcp.queries.steps import FAILURES, StepItem, list_steps
from dbos_mcp.queries.workflow import ANCESTORS, get_workflow
from dbos_mcp.settings import DAY_MS, Payloads
from dbos_mcp.store import event_log
from dbos_mcp.store.event_log import Recorded
from dbos_mcp.store.events import CommandIssued, Event, StepsDiscarded
from dbos_mcp.store.projections.workflows import WorkflowRow
from tests.plans import plan_of, statements_asked
from tests.store.factories import BORN, SHOP, changed, deleted, issued, observed, settled
from tests.upstream import APP, Site, open_site, pickled, workflow


def history_of(site: Site, workflow_id: str) -> list[HistoryEntry]:
    with site.cache.read() as connection:
        return get_history(connection, APP, workflow_id)


def at(site: Site, workflow_id: str, instant: int) -> AsOf:
    with site.cache.read() as connection:
        return get_as_of(connection, APP, workflow_id, instant)


def entries(*events: Event, **about: Any) -> list[HistoryEntry]:
    """The history that these events tell, each a second after the one before."""
    recorded = [Recorded(n, BORN + 1000 * n, event) for n, event in enumerate(events, 1)]
    return list(entries_of(recorded, **about))


def causes(*events: Event, **about: Any) -> list[str | None]:
    return [entry.cause for entry in entries(*events, **about) if entry.cause]


# The history


async def test_the_history_is_in_order_and_has_both_clocks(site: Site) -> None:
    await site.sync()
    started = site.mirrored()["reconcile-1"]["updated_at"]
    site.clock.ahead_ms = 7_200_000
    await site.commands.cancel(APP, ["reconcile-1"])
    await site.commands.fork(APP, ["reconcile-1"], ForkRequest(new_workflow_id="again"))
    await site.client.delete_workflow(APP, "reconcile-1")
    await site.mirror.refresh_workflows(APP, ["reconcile-1"])
    with site.cache.read() as connection:
        history = get_history(connection, APP, "reconcile-1")
    assert [(entry.kind, entry.what) for entry in history] == [
        ("WorkflowObserved", "PENDING (executor shop-1)"),
        ("StepsObserved", "2 steps"),
        ("CommandIssued", "cancel asked for"),
        ("CommandSettled", "done"),
        ("WorkflowChanged", "CANCELLED (executor shop-1)"),
        ("CommandIssued", "fork asked for"),
        ("CommandSettled", "done, as again"),
        ("WorkflowChanged", "CANCELLED (executor shop-1)"),
        ("WorkflowDeleted", "gone upstream"),
    ]
    assert [entry.position for entry in history] == sorted(entry.position for entry in history)
    assert history[0].occurred_at == started
    assert history[2].recorded_at - history[0].recorded_at >= 7_200_000
    assert history[2].occurred_at is None
    assert [entry.cause for entry in history] == [
        "first seen", None, None, None, "our cancel", None, None, "our fork",
        "deleted by somebody, or by retention",
    ]  # fmt: skip


async def test_only_what_changed_is_told_with_what_it_was(site: Site) -> None:
    await site.sync()
    site.clock.ahead_ms = 1000
    site.tables.update("pick-shelf-2", status="PENDING", started_at_epoch_ms=1_790_000_000_000,
                       updated_at=now_ms(), executor_id="shop-7")  # fmt: skip
    await site.sync()
    before, after, *_ = history_of(site, "pick-shelf-2")
    told = {change.field: (change.old, change.new) for change in after.changes}
    assert told.pop("updated_at") == (before.occurred_at, after.occurred_at)
    assert told == {
        "status": ("ENQUEUED", "PENDING"),
        "executor_id": ("shop-1", "shop-7"),
        "dequeued_at": (None, 1_790_000_000_000),
    }
    assert (after.cause, after.unseen, after.late_ms) == ("dequeued", (), None)


def last_change(site: Site, workflow_id: str) -> HistoryEntry:
    """Its steps may have been read after it."""
    return [entry for entry in history_of(site, workflow_id) if entry.changes][-1]


async def test_a_cancel_of_ours_is_told_from_somebody_elses(site: Site) -> None:
    await site.sync()
    await site.commands.cancel(APP, ["pick-shelf-1"])
    site.tables.end("pick-shelf-2", now_ms() + 1, "CANCELLED", queue_name=None)
    await site.sync()
    assert history_of(site, "pick-shelf-1")[-1].cause == "our cancel"
    assert history_of(site, "pick-shelf-2")[-1].cause == "cancelled by somebody"


async def test_a_fork_of_ours_is_told_from_somebody_elses(site: Site) -> None:
    await site.sync()
    await site.commands.fork(APP, ["order-1001"], ForkRequest(new_workflow_id="ours"))
    await site.client.fork_workflow(APP, "order-1002", ForkRequest(new_workflow_id="theirs"))
    await site.sync()
    assert history_of(site, "ours")[0].cause == "our fork"
    assert last_change(site, "order-1001").cause == "our fork"
    assert history_of(site, "theirs")[0].cause == "forked"
    assert last_change(site, "order-1002").cause == "forked by somebody"


async def test_a_change_that_was_seen_late_says_how_late_and_what_must_lie_between(
    site: Site,
) -> None:
    await site.sync()
    ended_at = now_ms()
    site.tables.end("pick-shelf-2", ended_at, started_at_epoch_ms=ended_at - 5)
    site.clock.ahead_ms = 3_600_000
    await site.sync()
    last = next(entry for entry in history_of(site, "pick-shelf-2") if entry.changes)
    assert (last.cause, last.unseen) == ("succeeded", ("PENDING",))
    assert last.late_ms is not None
    assert 3_600_000 <= last.late_ms == last.recorded_at - ended_at


QUEUED: dict[str, Any] = {"queue_name": "q", "dequeued_at": BORN + 5, "executor_id": "e-1"}
INTERNAL: dict[str, Any] = {"status": "ENQUEUED", "queue_name": "_dbos_internal_queue"}
LATER: dict[str, Any] = {"updated_at": BORN + 10}
OVER: dict[str, Any] = {**LATER, "completed_at": BORN + 10}


@pytest.mark.parametrize(
    ("old", "new", "cause", "unseen"),
    [
        ({"status": "ENQUEUED"}, {"status": "PENDING", **QUEUED}, "dequeued", ()),
        ({"status": "ENQUEUED"}, {"status": "SUCCESS", **OVER}, "succeeded", ("PENDING",)),
        ({"status": "ENQUEUED"}, {"status": "CANCELLED", **OVER}, "cancelled by somebody", ()),
        ({"status": "DELAYED"}, {"status": "ENQUEUED"}, "its delay was over", ()),
        ({"status": "DELAYED"}, {"status": "PENDING", **QUEUED}, "dequeued", ("ENQUEUED",)),
        ({"status": "DELAYED"}, {"status": "ERROR", **OVER}, "failed", ("ENQUEUED", "PENDING")),
        ({**QUEUED}, {**QUEUED, "dequeued_at": BORN + 9, **LATER}, "recovered", ("ENQUEUED",)),
        ({"executor_id": "e-1"}, {"executor_id": "e-2"}, "recovered", ()),
        ({**QUEUED}, {"status": "ENQUEUED", "queue_name": "q", **LATER}, "recovered", ()),
        ({**QUEUED}, {"status": "ENQUEUED", "queue_name": "r", **LATER}, "resumed", ()),
        ({**QUEUED, "deadline": 9}, {"status": "ENQUEUED", "queue_name": "q"}, "resumed", ()),
        ({}, {**INTERNAL, **LATER}, "recovered, or resumed", ()),
        ({"status": "CANCELLED", **OVER}, {**INTERNAL, **LATER}, "resumed", ()),
        ({"status": "CANCELLED", **OVER}, {"status": "PENDING"}, "resumed", ("ENQUEUED",)),
        ({"status": "CANCELLED"}, {"status": "SUCCESS", **OVER}, "resumed, and succeeded",
         ("ENQUEUED", "PENDING")),
        ({"status": "ERROR"}, {"status": "ERROR", **OVER}, "rewound, and failed",
         ("ENQUEUED", "PENDING")),
        ({"status": "MAX_RECOVERY_ATTEMPTS_EXCEEDED"}, {"status": "CANCELLED", **OVER},
         "cancelled by somebody", ()),
        ({"status": "SUCCESS"}, {**INTERNAL}, "rewound", ()),
        ({}, {"status": "MAX_RECOVERY_ATTEMPTS_EXCEEDED", **OVER}, "recovered too often", ()),
        ({}, {"status": "CANCELLED", "deadline": BORN + 3, **OVER}, "timed out", ()),
        ({}, {"attributes": "{}", **LATER}, "attributes set", ()),
        ({}, {"error": "boom", "payloads_loaded": True}, "payload read", ()),
        ({}, {"payloads_loaded": True}, "payload asked for; there was none", ()),
        ({}, {"created_at": BORN + 1}, "another workflow of the same id", ()),
        ({}, {"status": "HIBERNATED"}, "changed upstream", ()),
    ],
)  # fmt: skip
def test_the_cause_of_a_change_is_read_from_the_fields(
    old: dict[str, Any], new: dict[str, Any], cause: str, unseen: tuple[str, ...]
) -> None:
    first, second = entries(observed(**old), changed(**new))
    assert (first.cause, second.cause) == ("first seen", cause)
    assert second.unseen == unseen


def test_a_rewind_is_told_by_the_steps_that_are_gone() -> None:
    gone = StepsDiscarded(**SHOP, workflow_id="order-1", step_ids=(1,))
    again = (observed(status="CANCELLED"), changed(**INTERNAL))
    assert causes(*again, gone) == ["first seen", "rewound"]
    assert causes(*again, changed(), gone) == ["first seen", "resumed", "dequeued"]


@pytest.mark.parametrize(
    ("events", "cause"),
    [
        ([issued(), settled()], "our cancel"),
        ([issued(), settled(outcome="unknown")], "our cancel, whose answer never came"),
        ([issued()], "our cancel, whose answer never came"),
        ([issued(), settled(outcome="failed")], "cancelled by somebody"),
        ([issued(command="fork"), settled()], "cancelled by somebody"),
        ([issued(), settled(), changed(executor_id="e-2")], "cancelled by somebody"),
    ],
)
def test_a_command_is_the_cause_of_the_first_state_behind_it_that_fits(
    events: list[Event], cause: str
) -> None:
    ended = changed(status="CANCELLED", **OVER)
    told = entries(observed(), *events, ended)
    assert told[-1].cause == cause
    again = entries(observed(), *events, ended, changed(), changed(status="CANCELLED", **OVER))
    assert again[-1].cause == "cancelled by somebody"


@pytest.mark.parametrize(
    ("status", "age_ms", "cause"),
    [
        ("PENDING", 9 * DAY_MS, "deleted by somebody"),
        ("SUCCESS", 9 * DAY_MS, "retention, by its age"),
        ("SUCCESS", 1000, "deleted by somebody, or by retention"),
    ],
)
def test_a_deletion_is_retentions_when_its_time_had_come(
    status: str, age_ms: int, cause: str
) -> None:
    last = observed(status=status, completed_at=BORN - age_ms)
    assert entries(last, deleted(), retention_ms=7 * DAY_MS)[-1].cause == cause
    seen_again = entries(last, deleted(), observed())[-1]
    assert seen_again.cause == "seen again after it was gone"
    assert seen_again.unseen == ()


# At an instant


async def test_as_of_shows_each_state_from_the_moment_it_was_seen(site: Site) -> None:
    await site.sync()
    first_seen = history_of(site, "reconcile-1")[0].recorded_at
    site.clock.ahead_ms = 3_600_000
    await site.commands.cancel(APP, ["reconcile-1"])
    cancelled = history_of(site, "reconcile-1")[-1]
    site.clock.ahead_ms = 7_200_000
    await site.client.delete_workflow(APP, "reconcile-1")
    await site.mirror.refresh_workflows(APP, ["reconcile-1"])

    before = at(site, "reconcile-1", first_seen - 1)
    assert (before.workflow, before.entries, before.first_seen_at) == (None, 0, first_seen)
    running = at(site, "reconcile-1", cancelled.recorded_at - 1)
    assert running.workflow is not None
    assert (running.workflow.status, running.workflow.deleted_at) == ("PENDING", None)
    assert [step.step_id for step in running.steps] == [1, 2]
    assert running.next is not None
    assert running.next.position == cancelled.position
    stopped = at(site, "reconcile-1", cancelled.recorded_at)
    assert stopped.workflow is not None
    assert (stopped.workflow.status, stopped.workflow.deleted_at) == ("CANCELLED", None)
    assert stopped.next is None
    gone = at(site, "reconcile-1", site.clock())
    assert gone.workflow is not None
    assert gone.workflow.deleted_at is not None
    assert gone.entries == gone.total == len(history_of(site, "reconcile-1"))


async def test_a_clock_that_was_set_back_hides_nothing_that_was_recorded_before(
    site: Site,
) -> None:
    site.clock.ahead_ms = 3_600_000
    await site.sync()
    site.clock.ahead_ms = 0
    await site.commands.cancel(APP, ["pick-shelf-1"])
    then = at(site, "pick-shelf-1", now_ms())
    assert then.workflow is not None
    assert then.workflow.status == "CANCELLED"


def live_equals_log(site: Site, workflow_id: str) -> None:
    """The row, its steps, and the row that is folded from the log, in all columns."""
    with site.cache.read() as connection:
        live = get_workflow(connection, APP, workflow_id).workflow
        steps_now: list[StepItem] = list_steps(connection, APP, workflow_id).items
        then = get_as_of(connection, APP, workflow_id, site.clock() + 1)
        recorded = event_log.read_workflow(connection, APP, workflow_id)
    assert then.workflow == live
    assert then.steps == steps_now
    known = None
    kept: tuple[Any, ...] = ()
    for entry in recorded:
        known, kept = advance(known, entry), advance_steps(kept, entry)
    assert known is not None
    (row,) = (row for row in site.table(WorkflowRow) if row["workflow_id"] == workflow_id)
    folded = {**vars(known.state), "id": known.key, "observed_at": known.observed_at,
              "deleted_at": known.deleted_at, "content_hash": row["content_hash"]}  # fmt: skip
    assert {name: folded[name] for name in row} == row


async def test_what_the_log_says_of_now_is_what_the_mirror_holds_whatever_happens(
    shop_database: Path, cache_path: Path
) -> None:
    """Random transitions by plain SQL and by commands, with payloads, deletions and rewinds."""
    dice = random.Random(20261121)
    statuses = ["PENDING", "ENQUEUED", "DELAYED", "SUCCESS", "ERROR", "CANCELLED"]
    ids = ["pick-shelf-1", "order-1005", "order-1001", "reconcile-1"]
    async with open_site(shop_database, cache_path, payloads=Payloads.FAILED) as site:
        await site.sync()
        exported = {i: site.tables.named("SELECT * FROM workflow_status WHERE workflow_uuid = ?", i)
                    for i in ids}  # fmt: skip
        for number in range(25):
            site.clock.ahead_ms += 1000
            workflow_id = dice.choice(ids)
            there = workflow_id in site.tables.ids()
            match dice.randrange(5):
                case 0 if there:
                    site.tables.change(
                        "DELETE FROM workflow_status WHERE workflow_uuid = ?", workflow_id
                    )
                case 1 if there:
                    await site.commands.cancel(APP, [workflow_id])
                case 2 if there:
                    site.tables.change(
                        "DELETE FROM operation_outputs WHERE workflow_uuid = ? AND function_id > ?",
                        *(workflow_id, dice.randrange(1, 5)),
                    )
                case _ if there:
                    site.tables.update(workflow_id, status=dice.choice(statuses),
                                       updated_at=now_ms() + number)  # fmt: skip
                case _:
                    site.tables.add(*exported[workflow_id])
            await site.mirror.refresh_workflows(APP, ids)
            await site.mirror.refresh_steps(APP, workflow_id)
            for one in ids:
                live_equals_log(site, one)
        kinds = {entry.kind for one in ids for entry in history_of(site, one)}
    assert kinds >= {"WorkflowObserved", "WorkflowChanged", "WorkflowDeleted", "StepsObserved",
                     "StepsDiscarded", "CommandIssued"}  # fmt: skip


# Relatives and steps


async def test_parents_are_followed_to_the_root_and_not_round_in_circles(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(empty_database, cache_path) as site:
        now = now_ms()
        site.tables.add(
            workflow("root", now),
            workflow("middle", now, parent_workflow_id="root"),
            workflow("leaf", now, parent_workflow_id="middle"),
            workflow("orphan", now, parent_workflow_id="unknown"),
            workflow("snake-1", now, parent_workflow_id="snake-2"),
            workflow("snake-2", now, parent_workflow_id="snake-1"),
            workflow("self", now, parent_workflow_id="self"),
            *(workflow(f"deep-{n}", now, parent_workflow_id=f"deep-{n - 1}") for n in range(60)),
        )
        await site.sync()

        def ancestors(workflow_id: str) -> tuple[list[str], str | None]:
            with site.cache.read() as connection:
                found = get_workflow(connection, APP, workflow_id).ancestors
            return [item.workflow_id for item in found.items], found.ends_with

        assert ancestors("leaf") == (["root", "middle"], None)
        assert ancestors("root") == ([], None)
        assert ancestors("orphan") == ([], "unknown is not mirrored")
        assert ancestors("snake-1") == (["snake-2"], "snake-1 is its own ancestor")
        assert ancestors("self") == ([], "self is its own ancestor")
        deep, ends_with = ancestors("deep-59")
        assert (len(deep), deep[-1]) == (ANCESTORS, "deep-58")
        assert ends_with == "deep-8 and perhaps more above it"


async def test_steps_are_summed_up_with_the_slowest_and_the_first_that_failed(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(empty_database, cache_path) as site:
        site.tables.add(workflow("w", now_ms(), "ERROR", error=pickled(RuntimeError("no"))))
        for number in range(1, 10):
            site.tables.add_step("w", number, f"try-{number}", "no" if number > 2 else None)
        site.tables.add_step("w", 10, "DBOS.sleep")
        site.tables.change("UPDATE operation_outputs SET completed_at_epoch_ms = 9000"
                           " WHERE function_id IN (2, 4)")  # fmt: skip
        site.tables.change("UPDATE operation_outputs SET completed_at_epoch_ms = 99000"
                           " WHERE function_id = 10")  # fmt: skip
        await site.sync()
        with site.cache.read() as connection:
            summary = get_workflow(connection, APP, "w").steps
    assert (summary.count, summary.failed) == (10, 7)
    assert summary.slowest is not None
    assert (summary.slowest.step_name, summary.slowest.duration_ms) == ("try-2", 8000)
    assert [step.step_id for step in summary.failures] == list(range(3, 3 + FAILURES))
    assert summary.read_at is not None


# Cost


async def test_one_workflow_is_read_by_index(site: Site) -> None:
    await site.sync()
    with site.cache.read() as connection:
        with statements_asked() as asked:
            get_workflow(connection, APP, "order-1005-5")
            get_history(connection, APP, "order-1005")
            get_as_of(connection, APP, "order-1005", now_ms())
        assert len(asked) > 10
        for each in asked:
            statement, details = each[0], plan_of(connection, each)
            scans = ("SCAN workflow", "SCAN step", "SCAN event", "SCAN command")
            assert not [line for line in details if line.startswith(scans)], statement
            assert "event" not in statement or "B-TREE" not in str(details), statement


async def test_an_unknown_workflow_has_no_history(site: Site) -> None:
    command = CommandIssued(**SHOP, workflow_id="nobody", command_id="c", command="cancel")
    await site.sync()
    with site.cache.write() as connection:
        site.mirror.record(connection, [command])
    for ask in (lambda: history_of(site, "nobody"), lambda: at(site, "nobody", now_ms())):
        with pytest.raises(NotFoundError, match="holds no workflow 'nobody'"):
            ask()
