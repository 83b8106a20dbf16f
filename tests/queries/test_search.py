"""Whatever way a search takes, it finds what a walk over all rows finds, in order, page by page."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, cycle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select

from dbos_mcp.queries import search
from dbos_mcp.queries.filters import WorkflowFilter
from dbos_mcp.queries.paging import Cursor, Order, OrderBy, name_of
from dbos_mcp.queries.search import Place, find
from dbos_mcp.store import indexes, projector
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.events import Event, StepsObserved, StepState, WorkflowDeleted
from dbos_mcp.store.projections import workflow_counts
from dbos_mcp.store.projections.steps import StepRow
from dbos_mcp.store.projections.workflow_counts import DAY_MS
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.tables import table_of
from tests.plans import plan_of, statements_asked
from tests.queries import predicates
from tests.queries.predicates import (
    ERRORS,
    IDS,
    KEYS,
    NAMES,
    OTHER_TIMES,
    SCALARS,
    STATUSES,
    VALUES,
    matches,
)
from tests.store.conftest import opened
from tests.store.factories import BORN, SHOP, observed

APP = SHOP["application_name"]
ORDERS = [Order(by, descending) for by in OrderBy for descending in (True, False)]
VALUES_OF = {
    OrderBy.CREATED: lambda row: row["created_at"],
    OrderBy.COMPLETED: lambda row: row["completed_at"],
    OrderBy.DURATION: predicates.duration,
    OrderBy.QUEUE_WAIT: predicates.queue_wait,
}

NewCache = Callable[[object], Path]
numbers = count()

maybe = st.none() | st.sampled_from(NAMES)
OTHER_DAYS = [*OTHER_TIMES, -(2**62), 2**62]
soon = st.integers(BORN - 3, BORN + 12)
some_json = st.dictionaries(
    st.sampled_from(KEYS), st.sampled_from([*SCALARS, [1], {"customer": "acme"}]), max_size=3
)
attributes = st.none() | st.one_of(
    some_json.map(json.dumps),
    some_json.map(lambda value: json.dumps(value, ensure_ascii=False)),
    st.sampled_from(["", "{", "[]", '["customer"]', "null", '"customer"', '{"customer": acme}']),
)
workflows = st.fixed_dictionaries(
    {
        "status": st.sampled_from(STATUSES),
        "created_at": st.integers(BORN, BORN + 4) | st.sampled_from(OTHER_DAYS),
        "updated_at": soon,
        "completed_at": st.none() | soon,
        "dequeued_at": st.none() | soon,
        "was_forked_from": st.booleans(),
        "attributes": attributes,
        "error": st.none() | st.sampled_from(ERRORS),
        "payloads_loaded": st.just(True),
        **dict.fromkeys(
            (
                *("workflow_name", "queue_name", "executor_id", "application_version"),
                *("authenticated_user", "parent_workflow_id", "forked_from", "schedule_name"),
            ),
            maybe,
        ),
    }
)
steps = st.dictionaries(st.sampled_from(NAMES), st.booleans(), max_size=3)
populations = st.dictionaries(
    st.sampled_from(IDS) | st.text("ab", min_size=3, max_size=5),
    st.tuples(workflows, steps, st.booleans()),
    max_size=20,
)
filters = st.lists(st.sampled_from(sorted(VALUES)), unique=True, max_size=4).flatmap(
    lambda names: st.fixed_dictionaries({name: VALUES[name] for name in names})
)


def events_of(population: Mapping[str, Any], application_name: str = APP) -> list[Event]:
    events: list[Event] = []
    for workflow_id, (fields, steps, deleted) in population.items():
        subject: Any = {"application_name": application_name, "workflow_id": workflow_id}
        events.append(observed(**subject, **fields))
        if steps:
            states = tuple(
                StepState(step_id=n, step_name=name, error="failed" if failed else None)
                for n, (name, failed) in enumerate(steps.items())
            )
            events.append(StepsObserved(**subject, steps=states))
        if deleted:
            events.append(WorkflowDeleted(**subject))
    return events


def record(cache: Cache, events: Sequence[Event]) -> None:
    with cache.write() as connection:
        projector.record(connection, events, recorded_at=BORN + 2)


def rows_of(connection: Connection) -> list[dict[str, Any]]:
    rows = [
        {**row, "steps": {}} for row in connection.execute(select(table_of(WorkflowRow))).mappings()
    ]
    by_key = {row["id"]: row for row in rows}
    for step in connection.execute(select(table_of(StepRow))):
        by_key[step.workflow_key]["steps"][step.step_name] = step.error is not None
    return [row for row in rows if row["application_name"] == APP]


def expected(connection: Connection, asked: Mapping[str, Any], order: Order) -> list[Place]:
    places = [
        (VALUES_OF[order.by](row), row["id"]) for row in rows_of(connection) if matches(row, asked)
    ]
    return sorted(
        ((value, key) for value, key in places if value is not None), reverse=order.descending
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    populations,
    populations,
    populations,
    filters,
    st.sampled_from(ORDERS),
    st.sampled_from([0, 2, 1000]),
    st.sampled_from([0, 2, 1000]),
    st.sampled_from([1, 3, 50]),
    st.sampled_from(["all there", "without counts", "bare"]),
)
def test_a_search_finds_what_a_walk_over_all_rows_finds(
    new_cache: NewCache,
    population: Mapping[str, Any],
    later: Mapping[str, Any],
    others: Mapping[str, Any],
    asked: dict[str, Any],
    order: Order,
    few: int,
    narrow: int,
    limit: int,
    helped: str,
) -> None:
    """Whatever changed, came back or was deleted `later`."""
    question = WorkflowFilter(application_name=APP, **asked)
    with opened(new_cache(next(numbers))) as cache:
        record(cache, events_of(population))
        record(cache, [*events_of(others, "other"), *events_of(later)])
        with cache.write() as connection:
            if helped != "all there":
                workflow_counts.drop(connection)
            if helped == "bare":
                indexes.drop(connection)
        with cache.read() as connection:
            places = expected(connection, asked, order)
            shown: list[Place] = []
            cursor = None
            while True:
                page = find(
                    connection,
                    question,
                    order,
                    limit=limit,
                    after=cursor,
                    few=few,
                    narrow=narrow,
                )
                assert page.total == len(places)
                assert page.left == len(places) - len(shown)
                shown += page.places
                if page.left <= limit:
                    break
                cursor = Cursor(*shown[-1], name_of(question, order), 0)
            assert shown == places


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.tuples(workflows, steps, st.just(False)), min_size=2, max_size=24),
    st.sampled_from(ORDERS),
    st.sampled_from([0, 1000]),
    st.sampled_from([1, 2, 5]),
    st.lists(st.integers(1, 4), min_size=1),
)
def test_pages_show_every_workflow_once_while_others_are_added(
    new_cache: NewCache,
    population: Sequence[Any],
    order: Order,
    few: int,
    limit: int,
    batches: Sequence[int],
) -> None:
    """Those that were there at the first page; the new ones at most once."""
    question = WorkflowFilter(application_name=APP)
    coming = {f"w{n}": made for n, made in enumerate(population)}
    with opened(new_cache(next(numbers))) as cache:

        def add(count: int) -> None:
            record(cache, events_of({key: coming.pop(key) for key in list(coming)[:count]}))

        add(len(coming) // 2)
        with cache.read() as connection:
            first = expected(connection, {}, order)
        shown: list[Place] = []
        cursor, left, batch = None, 1, cycle(batches)
        while left > 0:
            with cache.read() as connection:
                page = find(connection, question, order, limit=limit, after=cursor, few=few)
            shown += page.places
            left = page.left - len(page.places)
            if shown:
                cursor = Cursor(*shown[-1], name_of(question, order), 0)
            add(next(batch))
        assert len(shown) == len(set(shown))
        assert shown == sorted(shown, reverse=order.descending)
        assert set(first) <= set(shown)


def test_what_was_found_is_found_again_without_looking_until_the_log_grows(cache: Cache) -> None:
    question = WorkflowFilter(application_name=APP, status=("PENDING",))
    record(cache, [observed("one")])

    def total() -> tuple[int, int]:
        with statements_asked() as asked, cache.read() as connection:
            found = find(connection, question, Order(), limit=10).total
        return found, sum("FROM workflow" in statement for statement, _ in asked)

    (first, looks), (second, no_looks) = total(), total()
    assert (first, second) == (1, 1)
    assert looks > no_looks == 0
    record(cache, [observed("two")])
    assert total()[0] == 2


@pytest.mark.parametrize("huge", [2**63, -(2**63) - 1])
def test_a_number_that_no_column_holds_is_refused(huge: int) -> None:
    with pytest.raises(ValueError, match="start_time"):
        WorkflowFilter(application_name=APP, start_time=huge)


# Cost

BY_INDEX: dict[str, tuple[Any, str]] = {
    "workflow_id": (("a",), "ux_workflow"),
    "workflow_id_prefix": (("a",), "ux_workflow"),
    "workflow_name": (("pay",), "ix_workflow_workflow_name"),
    "status": (("ERROR",), "ix_workflow_status"),
    "queue_name": (("pay",), "ix_workflow_queue_name"),
    "parent_workflow_id": (("a",), "ix_workflow_parent_workflow_id"),
    "forked_from": (("a",), "ix_workflow_forked_from"),
    "authenticated_user": (("acme",), "ix_workflow_authenticated_user"),
    "schedule_name": (("pay",), "ix_workflow_schedule_name"),
    "start_time": (BORN, "ix_workflow_created_at"),
    "end_time": (BORN, "ix_workflow_created_at"),
    "completed_after": (BORN, "ix_workflow_completed_at"),
    "completed_before": (BORN + 2, "ix_workflow_completed_at"),
    "dequeued_after": (BORN, "ix_workflow_completed_at"),
    "dequeued_before": (BORN + 1, "ix_workflow_completed_at"),
    "min_duration": (1, "ix_workflow_completed_at"),
    "max_duration": (1, "ix_workflow_completed_at"),
    "min_queue_wait": (1, "ix_workflow_completed_at"),
    "max_queue_wait": (1, "ix_workflow_completed_at"),
    "has_parent": (True, "ix_workflow_parent_workflow_id"),
    "queues_only": (True, "ix_workflow_"),
    "active_at": (BORN, "ix_workflow_c"),  # by the creation, or by the end
    "error_contains": ("BT", "ix_workflow_error"),
    "deleted_upstream": (True, "ix_workflow_deleted_at"),
    "was_forked_from": (True, "ix_workflow_was_forked_from"),
    "attributes": ((("customer", "acme"),), "ix_workflow_attributes"),
    "has_failed_step": (True, "ix_step_error"),
    "step_name": (("pay",), "ix_step_step_name"),
}
NOT_COUNTED_BY_INDEX_ALONE = {
    *("workflow_id_prefix", "active_at", "error_contains", "attributes"),
    *("has_failed_step", "step_name", "was_forked_from", "deleted_upstream", "queues_only"),
}
KNOWN: dict[str, Any] = {
    "workflow_name": ("pay",),
    "status": ("ERROR",),
    "queue_name": ("pay",),
    "executor_id": ("pay",),
    "application_version": ("a",),
    "has_parent": True,
    "was_forked_from": True,
    "queues_only": True,
    "deleted_upstream": True,
}
"""What is counted without looking at workflows or their indexes."""


def plans_of(cache: Cache, **asked: Any) -> dict[str, list[str]]:
    """The steps of SQLite's plan for each statement of a search."""
    question = WorkflowFilter(application_name=APP, **{"deleted_upstream": False, **asked})
    with cache.read() as connection:
        with statements_asked() as statements:
            found = find(connection, question, Order(), limit=5, few=1)
        assert found.total > 1
        return {
            each[0]: plan_of(connection, each) for each in statements if "FROM workflow " in each[0]
        }


@pytest.fixture
def cache(cache_path: Path) -> Iterator[Cache]:
    with opened(cache_path) as cache:
        yield cache


@pytest.fixture
def some_of_everything(cache: Cache) -> Cache:
    fields = {
        **dict.fromkeys(("workflow_name", "queue_name", "schedule_name", "executor_id"), "pay"),
        **dict.fromkeys(("parent_workflow_id", "forked_from", "application_version"), "a"),
        "authenticated_user": "acme",
        "attributes": '{"customer": "acme"}',
        "dequeued_at": BORN + 1,
        "error": "KeyError: 'BT'",
        "payloads_loaded": True,
        "was_forked_from": True,
    }
    ended: dict[str, Any] = {
        f"a{n}": ({**fields, "status": "ERROR", "completed_at": BORN + 2}, {"pay": True}, n > 3)
        for n in range(6)
    }
    running: dict[str, Any] = {
        f"b{n}": ({**fields, "status": "PENDING", "created_at": BORN - 1}, {}, False)
        for n in range(3)
    }
    others: dict[str, Any] = {
        f"c{n}": ({"created_at": BORN - DAY_MS}, {}, False) for n in range(99)
    }
    record(cache, events_of(ended | running | others | {"a": ended["a1"]}))
    return cache


def test_every_filter_is_said_to_have_an_index_or_counts() -> None:
    fields = WorkflowFilter.model_fields.keys() - {"application_name"}
    assert BY_INDEX.keys() | KNOWN.keys() == fields


@pytest.mark.parametrize("name", KNOWN)
def test_what_the_store_has_counted_is_not_counted_again(
    some_of_everything: Cache, name: str
) -> None:
    plans = plans_of(some_of_everything, **{name: KNOWN[name]})
    assert not [statement for statement in plans if "count(*)" in statement]
    for steps in plans.values():
        assert not any(step.startswith("SCAN") for step in steps), steps


def test_of_a_day_that_is_cut_an_index_is_read(some_of_everything: Cache) -> None:
    for asked in ({"start_time": BORN}, {"end_time": BORN}):
        plans = plans_of(some_of_everything, **asked, executor_id=("pay",))
        counts = [steps for statement, steps in plans.items() if "count(*)" in statement]
        assert len(counts) == 1
        assert "ix_workflow_created_at (application_name=? AND created_at>" in counts[0][0]


@pytest.mark.parametrize("name", sorted(BY_INDEX.keys() - {"workflow_id"}))
@pytest.mark.parametrize("are_counted", [True, False])
def test_a_filter_goes_by_its_index(
    some_of_everything: Cache, name: str, are_counted: bool
) -> None:
    if not are_counted:
        with some_of_everything.write() as connection:
            workflow_counts.drop(connection)
    value, index = BY_INDEX[name]
    plans = plans_of(some_of_everything, **{name: value})
    counts = [steps for statement, steps in plans.items() if "count(*)" in statement]
    assert counts or (are_counted and name in KNOWN)
    for steps in counts:
        assert any(f" {index}" in step for step in steps), steps
    for steps in plans.values():
        assert not any(step.startswith("SCAN workflow") for step in steps), steps
    if name not in NOT_COUNTED_BY_INDEX_ALONE:
        looks = [step for steps in counts for step in steps if " workflow " in step]
        assert all("COVERING INDEX" in step for step in looks), looks


def test_one_id_goes_by_its_index(some_of_everything: Cache) -> None:
    plans = plans_of(some_of_everything, workflow_id=("a0", "a1"))
    assert all("ux_workflow" in steps[0] for steps in plans.values() if len(steps) == 1)


def test_each_start_of_an_id_is_a_range_of_the_index(some_of_everything: Cache) -> None:
    plans = plans_of(some_of_everything, workflow_id_prefix=("a", "b"))
    for steps in plans.values():
        ranges = [
            step for step in steps if "ux_workflow (application_name=? AND workflow_id>" in step
        ]
        assert len(ranges) == 2, steps


def test_of_two_indexes_the_one_that_leaves_fewer_rows_is_taken(cache: Cache) -> None:
    fields = {"status": "SUCCESS", "workflow_name": "pay"}
    record(cache, [observed(f"w{n}", **fields) for n in range(30)])
    record(cache, [observed(f"r{n}", **{**fields, "workflow_name": "refund"}) for n in range(3)])
    plans = plans_of(cache, status=("SUCCESS",), workflow_name=("refund",))
    assert plans
    assert all("ix_workflow_workflow_name" in steps[0] for steps in plans.values())


def test_the_thresholds_are_of_a_large_mirror() -> None:
    assert search.FEW < search.NARROW
