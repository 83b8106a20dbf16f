"""Events and read models move together, and the log alone can make the read models again."""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError, NoResultFound
from sqlmodel import SQLModel

from dbos_mcp.errors import SchemaTooNewError, StoreError
from dbos_mcp.store import event_log, projector
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.events import (
    ApplicationObserved,
    Event,
    ExecutorObserved,
    StepsDiscarded,
    StepsObserved,
    StepState,
    WorkflowState,
)
from dbos_mcp.store.projections import PROJECTIONS
from dbos_mcp.store.projections.base import Projection
from tests.store.conftest import opened
from tests.store.factories import (
    BORN,
    SHOP,
    changed,
    deleted,
    issued,
    observed,
    settled,
    steps,
)
from tests.store.strategies import any_event

TABLES = [table for projection in PROJECTIONS for table in projection.tables]


def record(cache: Cache, *events: Event, at: int = 1) -> list[event_log.Recorded]:
    with cache.write() as connection:
        return projector.record(connection, events, recorded_at=at)


def rows(cache: Cache, sql: str) -> list[tuple[Any, ...]]:
    with cache.read() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(sql)]


def everything(cache: Cache) -> dict[str, list[tuple[Any, ...]]]:
    names = ["event", "projection_checkpoint", *(str(table.__tablename__) for table in TABLES)]
    return {name: rows(cache, f"SELECT * FROM {name}") for name in names}


def rebuild(cache: Cache) -> dict[str, bool]:
    """Which tables came out equal."""
    with cache.write() as connection:
        return {table.table: table.equal for table in projector.rebuild(connection)}


ALL_EQUAL = {str(table.__tablename__): True for table in TABLES}
COUNTED = {"workflow", "workflow_count"}
"""What a change that goes past the log leaves different: its triggers are there all the same."""


def an_application(status: str = "AVAILABLE") -> ApplicationObserved:
    return ApplicationObserved(**SHOP, application_id="a-1", status=status)


def an_executor(status: str = "HEALTHY") -> ExecutorObserved:
    return ExecutorObserved(
        **SHOP, executor_id="e-1", status=status, created_at=BORN, updated_at=BORN
    )


RICH = (
    an_application(),
    an_executor(),
    observed("order-1", queue_name="couriers"),
    observed("order-2", status="SUCCESS"),
    steps("order-1", "pay", "pack", "ship"),
    changed("order-1", status="ERROR", error="boom", payloads_loaded=True),
    issued("c-1", command="fork", arguments={"start_step": 1}),
    settled("c-1", new_workflow_id="order-3"),
    an_application("UNAVAILABLE"),
    an_executor("DEAD"),
    StepsDiscarded(**SHOP, workflow_id="order-1", step_ids=(1, 2)),
    steps("order-1", "pay", "pack again"),
    deleted("order-2"),
    observed("order-1", application_name="other shop"),
    changed("order-1", status="ERROR"),
    observed("order-2", status="PENDING"),
    issued("c-2"),
    settled("c-2", outcome="unknown", detail="no answer"),
    issued("c-3"),
)


def test_each_event_reaches_its_read_model(cache: Cache) -> None:
    record(cache, *RICH, at=9)
    assert rows(cache, "SELECT application_name, status FROM application") == [
        ("shop", "UNAVAILABLE")
    ]
    assert rows(cache, "SELECT executor_id, status FROM executor") == [("e-1", "DEAD")]
    assert rows(
        cache, "SELECT id, application_name, workflow_id, status FROM workflow ORDER BY id"
    ) == [
        (3, "shop", "order-1", "ERROR"),
        (4, "shop", "order-2", "PENDING"),
        (14, "other shop", "order-1", "PENDING"),
    ]
    assert rows(cache, "SELECT workflow_key, step_id, step_name FROM step ORDER BY 1, 2") == [
        (3, 0, "pay"),
        (3, 1, "pack again"),
    ]
    assert rows(
        cache, "SELECT command_id, outcome, detail, new_workflow_id FROM command ORDER BY id"
    ) == [
        ("c-1", "done", None, "order-3"),
        ("c-2", "unknown", "no answer", None),
        ("c-3", None, None, None),
    ]
    assert rows(cache, "SELECT DISTINCT position FROM projection_checkpoint") == [(len(RICH),)]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__tablename__)
def test_a_rebuild_gives_the_live_rows(cache: Cache, table: type[SQLModel]) -> None:
    for n, event in enumerate(RICH):  # one at a time; a rebuild takes them together
        record(cache, event, at=n)
    with cache.write() as connection:
        live = projector.digest(connection, table)
        projector.rebuild(connection)
        assert projector.digest(connection, table) == live
        assert live[0] > 0


def test_a_rebuild_reports_its_progress_and_what_it_found(cache: Cache) -> None:
    record(cache, *(observed(f"order-{n}") for n in range(2500)))
    seen: list[tuple[int, int]] = []
    with cache.write() as connection:
        rebuilt = projector.rebuild(connection, lambda done, total: seen.append((done, total)))
    assert seen == [(1000, 2500), (2000, 2500), (2500, 2500)]
    assert ("workflow", 2500, True) in rebuilt


@pytest.mark.parametrize(
    ("tampering", "noticed"),
    [
        ("UPDATE workflow SET updated_at = 0 WHERE id = 3", {"workflow"}),
        ("UPDATE workflow SET priority = 'high' WHERE id = 3", {"workflow"}),
        ("UPDATE workflow SET payloads_loaded = 'maybe' WHERE id = 3", {"workflow"}),
        ("UPDATE workflow SET content_hash = x'00' WHERE id = 3", {"workflow"}),
        ("UPDATE workflow SET was_forked_from = 'maybe' WHERE id = 3", COUNTED),
        ("UPDATE workflow SET status = 'SUCCESS' WHERE id = 3", COUNTED),
        ("DELETE FROM workflow WHERE id = 4", COUNTED),
        ("UPDATE workflow_count SET count = count + 1 WHERE status = 'ERROR'", {"workflow_count"}),
        (
            "INSERT INTO workflow SELECT 99, 'x', workflow_id, created_at, updated_at,"
            " completed_at, status, workflow_name, class_name, config_name, owning_application,"
            " authenticated_user, assumed_role, authenticated_roles, application_version,"
            " executor_id, queue_name, queue_partition_key, priority, deduplication_id,"
            " parent_workflow_id, forked_from, was_forked_from, schedule_name, attributes,"
            " dequeued_at, delay_until, deadline, timeout_ms, payloads_loaded, input, output,"
            " error, content_hash, observed_at, deleted_at, input_loaded, output_loaded"
            " FROM workflow WHERE id = 3",
            COUNTED,
        ),
    ],
    ids=[
        *("changed", "text for a number", "text for a flag", "hash", "text for a counted flag"),
        *("changed and counted", "removed", "count", "added"),
    ],
)
def test_a_tampered_read_model_is_noticed_and_repaired(
    cache: Cache, cache_path: Path, tampering: str, noticed: set[str]
) -> None:
    record(cache, *RICH)
    before = everything(cache)
    with closing(sqlite3.connect(cache_path, isolation_level=None)) as other:
        other.execute(tampering)
    assert rebuild(cache) == ALL_EQUAL | dict.fromkeys(noticed, False)
    assert everything(cache) == before
    assert rebuild(cache) == ALL_EQUAL


def test_steps_without_their_workflow_are_repaired_too(cache: Cache, cache_path: Path) -> None:
    record(cache, *RICH)
    before = everything(cache)
    with closing(sqlite3.connect(cache_path, isolation_level=None)) as other:
        other.execute("DELETE FROM workflow")
    assert rebuild(cache) == {**ALL_EQUAL, "workflow": False, "workflow_count": False}
    assert everything(cache) == before


@pytest.mark.parametrize(
    ("events", "fault"),
    [
        ([observed("a"), steps("b", "pay")], NoResultFound),
        ([steps("a", "pay"), observed("a")], NoResultFound),
        ([observed("a"), issued("c"), issued("c")], IntegrityError),
    ],
    ids=["steps of nothing", "steps before their workflow", "one command twice"],
)
def test_events_in_an_impossible_order_leave_nothing(
    cache: Cache, events: Sequence[Event], fault: type[Exception]
) -> None:
    record(cache, observed("before"))
    before = everything(cache)
    with pytest.raises(fault):
        record(cache, *events)
    assert everything(cache) == before
    record(cache, observed("after"))


def test_a_projection_that_fails_leaves_neither_event_nor_rows(cache: Cache) -> None:
    def fail(connection: Connection, batch: Sequence[event_log.Recorded]) -> None:
        raise ZeroDivisionError

    broken = (*PROJECTIONS, Projection("broken", 1, (), fail))
    with cache.write() as connection:
        projector.catch_up(connection, broken)  # the log is empty: nothing to fail at
    before = everything(cache)
    with pytest.raises(ZeroDivisionError), cache.write() as connection:
        projector.record(connection, [observed()], recorded_at=1, projections=broken)
    assert everything(cache) == before


def counting(version: int, seen: list[int]) -> Projection:
    def apply(connection: Connection, batch: Sequence[event_log.Recorded]) -> None:
        seen.extend(recorded.position for recorded in batch)

    return Projection("counting", version, (), apply)


def test_a_new_or_changed_projection_is_given_the_whole_log(cache: Cache) -> None:
    record(cache, observed("a"), observed("b"))
    for version in (1, 2):
        seen: list[int] = []
        projections = (*PROJECTIONS, counting(version, seen))
        with cache.write() as connection:
            assert projector.catch_up(connection, projections) == ["counting"]
            assert seen == [1, 2]
            assert projector.catch_up(connection, projections) == []
            assert seen == [1, 2]


def test_opening_rebuilds_what_older_code_wrote(cache_path: Path) -> None:
    with opened(cache_path) as cache:
        record(cache, *RICH)
        before = everything(cache)
    with closing(sqlite3.connect(cache_path, isolation_level=None)) as other:
        other.execute("UPDATE projection_checkpoint SET version = 0 WHERE name = 'workflows'")
        other.execute("UPDATE workflow SET status = 'as of old'")
    with opened(cache_path) as cache:
        assert everything(cache) == before


def test_opening_rebuilds_what_is_not_at_the_end_of_the_log(cache_path: Path) -> None:
    with opened(cache_path) as cache:
        record(cache, *RICH)
        before = everything(cache)
        with cache.write() as connection:
            event_log.append(connection, [observed("order-9")], recorded_at=1)
        with pytest.raises(StoreError, match="read models of the cache are behind its log"):
            record(cache, observed("order-10"))
    with opened(cache_path) as cache:
        after = everything(cache)
        assert len(after["workflow"]) == len(before["workflow"]) + 1
        record(cache, observed("order-10"))


def test_a_program_that_was_overtaken_by_a_newer_one_stops_writing(cache: Cache) -> None:
    record(cache, observed("a"))
    newer = [replace(p, version=p.version + 1) for p in PROJECTIONS]
    with cache.write() as connection:
        projector.catch_up(connection, newer)
    before = everything(cache)
    with pytest.raises(SchemaTooNewError, match="newer version of dbos-mcp"):
        record(cache, observed("b"))
    assert everything(cache) == before


def error_of(cache: Cache) -> tuple[Any, ...]:
    (row,) = rows(cache, "SELECT status, error, payloads_loaded FROM workflow")
    return row


def test_a_look_without_payloads_keeps_a_known_error_while_the_status_stays(cache: Cache) -> None:
    record(cache, observed(status="ERROR", error="boom", payloads_loaded=True))
    record(cache, changed(status="ERROR", priority=7))
    assert error_of(cache) == ("ERROR", "boom", 1)
    record(cache, changed(status="PENDING"))
    assert error_of(cache) == ("PENDING", None, 0)
    record(cache, changed(status="ERROR"))
    assert error_of(cache) == ("ERROR", None, 0)


def test_a_look_with_payloads_replaces_a_known_error(cache: Cache) -> None:
    record(cache, observed(status="ERROR", error="boom", payloads_loaded=True))
    record(cache, changed(status="ERROR", error="bang", payloads_loaded=True))
    assert error_of(cache) == ("ERROR", "bang", 1)
    record(cache, changed(status="ERROR", error=None, payloads_loaded=True))
    assert error_of(cache) == ("ERROR", None, 1)


def test_an_input_stays_when_the_status_moves_on_and_an_output_does_not(cache: Cache) -> None:
    record(cache, observed(status="PENDING", input="1", input_loaded=True))
    record(cache, changed(status="SUCCESS", output="2", output_loaded=True))
    select = "SELECT input, input_loaded, output, output_loaded FROM workflow"
    assert rows(cache, select) == [("1", 1, "2", 1)]
    record(cache, changed(status="ENQUEUED"))
    assert rows(cache, select) == [("1", 1, None, 0)]


def test_another_workflow_of_an_id_that_was_deleted_has_none_of_its_payloads(cache: Cache) -> None:
    loaded: dict[str, Any] = {"input_loaded": True, "payloads_loaded": True}
    record(cache, observed(status="ERROR", input="1", error="boom", **loaded), deleted())
    record(cache, observed(status="ERROR"))
    assert rows(cache, "SELECT input, input_loaded, error, payloads_loaded FROM workflow") == [
        (None, 0, None, 0)
    ]


def test_a_deleted_workflow_stays_marked_with_its_last_state_and_its_steps(cache: Cache) -> None:
    record(cache, observed(status="SUCCESS"), steps("order-1", "pay"), at=1)
    record(cache, deleted(), at=2)
    columns = "SELECT id, status, observed_at, deleted_at FROM workflow"
    assert rows(cache, columns) == [(1, "SUCCESS", 2, 2)]
    assert rows(cache, "SELECT step_name FROM step") == [("pay",)]
    record(cache, observed(status="PENDING"), at=3)
    assert rows(cache, columns) == [(1, "PENDING", 3, None)]


def test_a_rewind_of_more_steps_than_a_statement_has_parameters(cache: Cache) -> None:
    record(cache, observed(), steps("order-1", *(f"step {n}" for n in range(33_000))))
    record(cache, StepsDiscarded(**SHOP, workflow_id="order-1", step_ids=tuple(range(1, 33_000))))
    assert rows(cache, "SELECT step_id FROM step") == [(0,)]


def test_an_empty_list_of_steps_empties_them(cache: Cache) -> None:
    record(cache, observed(), steps("order-1", "pay"), steps("order-1"))
    record(cache, StepsDiscarded(**SHOP, workflow_id="order-1", step_ids=()))
    assert rows(cache, "SELECT * FROM step") == []


def test_recording_nothing_does_nothing(cache: Cache) -> None:
    before = everything(cache)
    assert record(cache) == []
    assert everything(cache) == before


# What a sync may see, in an order that it may see it in: the state of three workflows in two
# applications, and what came before decides which event is possible.

IDS = st.sampled_from(["w1", "w2", "w3"])
APPLICATIONS = st.sampled_from(["shop", "other"])
STATUSES = st.sampled_from(["PENDING", "SUCCESS", "ERROR"])
LOOKS = st.fixed_dictionaries(
    {"status": STATUSES, "priority": st.integers(0, 3)},
    optional={
        **{flag: st.just(True) for flag in WorkflowState.LOADED.values()},
        **{name: st.sampled_from(["boom", "bang"]) for name in WorkflowState.LOADED},
        "queue_name": st.sampled_from(["q", None]),
    },
)
STEPS = st.lists(
    st.tuples(st.sampled_from(["pay", "ship"]), st.none() | st.just("failed")), max_size=4
)
Make = Callable[[set[tuple[str, str]], int], list[Event]]


def _look(application: str, workflow_id: str, fields: dict[str, Any]) -> Make:
    def make(known: set[tuple[str, str]], _: int) -> list[Event]:
        kind = changed if (application, workflow_id) in known else observed
        known.add((application, workflow_id))
        return [kind(workflow_id, application_name=application, **fields)]

    return make


def _vanish(application: str, workflow_id: str) -> Make:
    return lambda known, _: [deleted(workflow_id).model_copy(update=_of(application))]


def _list_steps(application: str, workflow_id: str, listed: list[tuple[str, Any]]) -> Make:
    states = tuple(
        StepState(step_id=n, step_name=name, error=error) for n, (name, error) in enumerate(listed)
    )
    event = StepsObserved(**_of(application), workflow_id=workflow_id, steps=states)
    return lambda known, _: [event] if (application, workflow_id) in known else []


def _rewind(application: str, workflow_id: str, step_ids: set[int]) -> Make:
    event = StepsDiscarded(**_of(application), workflow_id=workflow_id, step_ids=tuple(step_ids))
    return lambda known, _: [event] if (application, workflow_id) in known else []


def _command(workflow_id: str, answered: bool) -> Make:
    def make(_: set[tuple[str, str]], n: int) -> list[Event]:
        asked = issued(f"c-{n}", workflow_id=workflow_id)
        return [asked, settled(f"c-{n}", workflow_id=workflow_id)] if answered else [asked]

    return make


def _of(application: str) -> dict[str, Any]:
    return {"application_name": application}


def _just(event: Event) -> Make:
    return lambda _known, _n: [event]


MOMENTS = st.one_of(
    st.builds(_look, APPLICATIONS, IDS, LOOKS),
    st.builds(_look, APPLICATIONS, IDS, LOOKS),
    st.builds(_vanish, APPLICATIONS, IDS),
    st.builds(_list_steps, APPLICATIONS, IDS, STEPS),
    st.builds(_rewind, APPLICATIONS, IDS, st.sets(st.integers(0, 4), max_size=3)),
    st.builds(_command, IDS, st.booleans()),
    any_event(ApplicationObserved).map(_just),
    any_event(ExecutorObserved).map(_just),
)


def expected_workflows(recorded: Sequence[event_log.Recorded]) -> dict[tuple[str, str], Any]:
    """The read model of workflows, folded by hand."""
    state: dict[tuple[str, str], Any] = {}
    for position, recorded_at, event in recorded:
        key = (event.application_name, event.workflow_id or "")
        match event.kind:
            case "WorkflowObserved" | "WorkflowChanged":
                seen: Any = event
                known = state.get(key)
                payloads: dict[str, Any] = {}
                for name, flag in WorkflowState.LOADED.items():
                    source = vars(seen)
                    stays = known and (name == "input" or known["status"] == seen.status)
                    if stays and known and known["deleted_at"] is None and not source[flag]:
                        source = known
                    payloads |= {name: source[name], flag: source[flag]}
                state[key] = {
                    "id": known["id"] if known else position,
                    "status": seen.status,
                    "priority": seen.priority,
                    "queue_name": seen.queue_name,
                    **payloads,
                    "deleted_at": None,
                }
            case "WorkflowDeleted" if key in state:
                state[key]["deleted_at"] = recorded_at
    return state


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(moments=st.lists(st.tuples(MOMENTS, st.booleans()), max_size=40))
def test_whatever_is_seen_the_rows_are_right_and_a_rebuild_gives_them_again(
    tmp_path_factory: pytest.TempPathFactory,
    blank_cache: Path,
    moments: list[tuple[Make, bool]],
) -> None:
    path = tmp_path_factory.mktemp("log") / "cache.sqlite"
    path.write_bytes(blank_cache.read_bytes())
    with opened(path) as cache:
        known: set[tuple[str, str]] = set()
        recorded: list[event_log.Recorded] = []
        batch: list[Event] = []
        for n, (make, flush) in enumerate(moments):
            batch += make(known, n)
            if flush:
                recorded += record(cache, *batch, at=n)
                batch = []
        recorded += record(cache, *batch, at=len(moments))
        before = everything(cache)
        assert [row[0] for row in before["event"]] == list(range(1, len(recorded) + 1))

        with cache.read() as connection:
            selected = connection.exec_driver_sql(
                "SELECT application_name, workflow_id, id, status, priority, queue_name, input,"
                " output, error, input_loaded, output_loaded, payloads_loaded, deleted_at"
                " FROM workflow"
            ).mappings()
            live = {}
            for row in selected:
                fields = dict(row)
                live[fields.pop("application_name"), fields.pop("workflow_id")] = fields
        assert live == expected_workflows(recorded)

        assert rebuild(cache) == ALL_EQUAL
        assert everything(cache) == before
