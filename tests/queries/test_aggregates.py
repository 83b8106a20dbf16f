"""Counts, failures, durations and waits by group, beside those of the window before."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, insert

from dbos_mcp.domain import FAILED, IN_FLIGHT, TERMINAL, WorkflowStatus
from dbos_mcp.errors import NotFoundError, UsageError
from dbos_mcp.queries.aggregates import Aggregates, Group, Numbers, Spread, get_aggregates
from dbos_mcp.queries.filters import WorkflowFilter
from dbos_mcp.queries.groupings import GROUPINGS, PERIODS_MS
from dbos_mcp.queries.workflows import WorkflowItem
from dbos_mcp.settings import DAY_MS
from dbos_mcp.store import projector
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.events import ApplicationObserved
from dbos_mcp.store.migrate import open_cache
from dbos_mcp.store.projections import workflow_counts
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.tables import table_of
from tests.plans import plan_of, statements_asked
from tests.store.factories import SHOP

NOW = 4 * DAY_MS
EVERYTHING = WorkflowFilter(**SHOP)
HOSTILE = "x\n\x1b[31m| 1 | 2'; DROP TABLE workflow; --\u202e"

Row = dict[str, Any]


@pytest.fixture
def cache(cache_path: Path) -> Iterator[Cache]:
    cache = open_cache(cache_path)
    with cache.write() as connection:
        shop = ApplicationObserved(**SHOP, application_id="a-1", status="AVAILABLE")
        projector.record(connection, [shop], recorded_at=1)
    try:
        yield cache
    finally:
        cache.close()


def row(created_at: int = NOW, status: str = "SUCCESS", **fields: Any) -> Row:
    return {
        "application_name": "shop",
        "created_at": created_at,
        "updated_at": created_at,
        "status": status,
        "workflow_name": None,
        "queue_name": None,
        "executor_id": None,
        "application_version": None,
        "schedule_name": None,
        "dequeued_at": None,
        "completed_at": None,
        "deleted_at": None,
        "priority": 0,
        "was_forked_from": False,
        "payloads_loaded": False,
        "input_loaded": False,
        "output_loaded": False,
        "content_hash": b"",
        "observed_at": 0,
        **fields,
    }


def hold(connection: Connection, rows: Iterable[Row]) -> None:
    connection.execute(table_of(WorkflowRow).delete())
    numbered = [{**one, "id": n, "workflow_id": f"w{n}"} for n, one in enumerate(rows)]
    if numbered:
        connection.execute(insert(WorkflowRow), numbered)


def ask(cache: Cache, rows: Iterable[Row], /, *group_by: str, **arguments: Any) -> Aggregates:
    names = WorkflowFilter.model_fields.keys() & arguments.keys()
    question = WorkflowFilter(**SHOP, **{name: arguments.pop(name) for name in names})
    with cache.write() as connection:
        hold(connection, rows)
        return get_aggregates(connection, question, group_by=group_by, now=NOW, **arguments)


def keys(found: Aggregates) -> list[object]:
    return [group.key[0] for group in found.groups]


# The same in plain Python


def spread(times: list[int]) -> Spread | None:
    def percentile(percent: int) -> int:
        return sorted(times)[math.ceil(len(times) * percent / 100) - 1]

    return Spread(percentile(50), percentile(95), max(times)) if times else None


def numbers_of(rows: Sequence[Row], *, measured: bool) -> Numbers:
    items = [WorkflowItem.model_construct(**one) for one in rows]
    times = [item.duration_ms for item in items if item.duration_ms is not None]
    waits = [
        max(0, item.dequeued_at - item.created_at) for item in items if item.dequeued_at is not None
    ]
    return Numbers(
        count=len(rows),
        in_flight=sum(one["status"] in IN_FLIGHT for one in rows),
        ended=sum(one["status"] in TERMINAL for one in rows),
        failed=sum(one["status"] in FAILED for one in rows),
        durations=spread(times) if measured else None,
        waits=spread(waits) if measured else None,
    )


def grouped(
    rows: Sequence[Row], group_by: Sequence[str], first: int, last: float, shift_ms: int = 0
) -> dict[tuple[Any, ...], list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for one in rows:
        if first <= one["created_at"] <= last and one["deleted_at"] is None:
            at = one["created_at"] + shift_ms
            periods = {name: at - at % length for name, length in PERIODS_MS.items()}
            groups[tuple((one | periods)[name] for name in group_by)].append(one)
    return groups


texts = st.sampled_from([None, "", "a", "a", "A", HOSTILE])
moments = st.integers(0, 10) | st.integers(0, NOW) | st.integers(0, 96).map(lambda n: n * 3_600_000)
statuses = st.sampled_from([*(status.value for status in WorkflowStatus), "PAUSED"])


@st.composite
def any_row(draw: st.DrawFn) -> Row:
    created_at = draw(moments)
    later = st.none() | st.integers(-5, 50).map(lambda ms: max(1, created_at + ms))
    return row(
        created_at,
        draw(statuses),
        workflow_name=draw(texts),
        queue_name=draw(texts),
        executor_id=draw(texts),
        application_version=draw(texts),
        schedule_name=draw(texts),
        dequeued_at=draw(later),
        completed_at=draw(later),
        deleted_at=draw(st.none() | st.none() | st.just(NOW)),
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    rows=st.lists(any_row(), max_size=40),
    group_by=st.lists(st.sampled_from(GROUPINGS), max_size=3, unique=True),
    window=st.tuples(st.none() | moments, st.none() | moments),
    status=st.just(()) | st.lists(statuses, min_size=1, max_size=2).map(tuple),
    durations=st.none() | st.booleans(),
    compare=st.sampled_from([None, False]),
    few_rows=st.sampled_from([0, 5, 1000]),
    order_by=st.sampled_from([None, "count", "failure_rate", "p95"]),
    are_counted=st.booleans(),
)
@example(
    rows=[row(1, "ERROR"), row(2, deleted_at=3), row(3, "PENDING", workflow_name="a"), row(4)],
    group_by=["status", "workflow_name"],
    window=(2, 4),
    status=(),
    durations=None,
    compare=None,
    few_rows=0,
    order_by=None,
    are_counted=False,
)
@example(
    rows=[row(0, "ENQUEUED")],
    group_by=[],
    window=(None, None),
    status=("DELAYED",),
    durations=None,
    compare=None,
    few_rows=0,
    order_by=None,
    are_counted=True,
)
def test_it_is_what_plain_python_finds(
    cache: Cache,
    rows: list[Row],
    group_by: list[str],
    window: tuple[int | None, int | None],
    status: tuple[str, ...],
    durations: bool | None,
    compare: bool | None,
    few_rows: int,
    order_by: Any,
    are_counted: bool,
) -> None:
    start, end = window
    if start is not None and (NOW if end is None else end) < start:
        start, end = end, start
    with cache.write() as connection:
        (workflow_counts.build if are_counted else workflow_counts.drop)(connection)
    found = ask(
        cache, rows, *group_by, start_time=start, end_time=end, status=status, order_by=order_by,
        durations=durations, compare=compare, few_rows=few_rows,
    )  # fmt: skip

    asked = [one for one in rows if not status or one["status"] in status]
    first, last = start or 0, math.inf if end is None else end
    length = (NOW if end is None else end) - first + 1
    ours = grouped(asked, group_by, first, last)
    compared = start is not None and compare is None and first >= length
    before = grouped(asked, group_by, first - length, first - 1, length) if compared else {}
    measured = found.measured
    assert {group.key: (group.numbers, group.before) for group in found.groups} == {
        key: (
            numbers_of(ours.get(key, []), measured=measured),
            numbers_of(before.get(key, []), measured=measured) if compared else None,
        )
        for key in ours.keys() | before.keys() | ({()} if not group_by else set())
    }
    assert len({group.key for group in found.groups}) == len(found.groups)
    everything = [one for group in ours.values() for one in group]
    assert found.total.numbers == numbers_of(everything, measured=measured)
    assert found.deleted == sum(
        one["deleted_at"] is not None and first - length * compared <= one["created_at"] <= last
        for one in asked
    )
    assert (found.before is not None) == compared
    if durations is not None and order_by != "p95":
        assert measured == durations
    assert_ordered(found.groups, group_by, order_by)


def assert_ordered(groups: list[Group], group_by: list[str], order_by: str | None) -> None:
    there = [group for group in groups if group.numbers.count]
    assert there == groups[: len(there)]
    periods = [place for place, name in enumerate(group_by) if name in PERIODS_MS]
    by: dict[str | None, list[Any]] = {
        None: [[group.key[place] for place in periods] for group in there],
        "count": [group.numbers.count for group in there],
        "failure_rate": [
            -1 if group.numbers.failure_rate is None else group.numbers.failure_rate
            for group in there
        ],
        "p95": [
            -1 if group.numbers.durations is None else group.numbers.durations.p95
            for group in there
        ],
    }
    assert by[order_by] == sorted(by[order_by], reverse=True)


# Percentiles


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([], None),
        ([0], Spread(0, 0, 0)),
        ([7], Spread(7, 7, 7)),
        ([1, 9], Spread(1, 9, 9)),
        ([4] * 1000, Spread(4, 4, 4)),
        (list(range(1, 101)), Spread(50, 95, 100)),
        (list(range(1, 22)), Spread(11, 20, 21)),
    ],
)
def test_a_percentile_is_a_time_that_one_of_them_took(
    times: list[int], expected: Spread | None
) -> None:
    assert Spread.of(times) == expected


def test_a_clock_that_goes_back_gives_no_negative_times(cache: Cache) -> None:
    skewed = row(NOW, dequeued_at=NOW - 30, completed_at=NOW - 90)
    numbers = ask(cache, [skewed]).total.numbers
    assert numbers.durations == numbers.waits == Spread(0, 0, 0)


# What is asked for


def test_durations_are_left_out_of_many_unless_asked_for(cache: Cache) -> None:
    rows = [row(completed_at=NOW + 5) for _ in range(4)]
    assert ask(cache, rows, "status", few_rows=4).measured
    many = ask(cache, rows, "status", few_rows=3)
    assert (many.measured, many.total.numbers.durations) == (False, None)
    for arguments in ({"durations": True}, {"order_by": "p95"}):
        asked = ask(cache, rows, "status", few_rows=3, **arguments)
        assert asked.total.numbers.durations == Spread(5, 5, 5)


def test_the_window_before_ends_where_the_other_begins(cache: Cache) -> None:
    rows = [row(at, "ERROR" if at < 500 else "SUCCESS") for at in range(400, 600, 10)]
    found = ask(cache, rows, start_time=500, end_time=549)
    assert (found.total.numbers.count, found.total.numbers.failure_rate) == (5, 0)
    before = found.total.before
    assert before is not None
    assert (before.count, before.failure_rate) == (5, 1)
    assert found.before is not None
    assert (found.before.start_time, found.before.end_time) == (450, 499)


def test_a_group_that_is_no_longer_there_is_compared_too(cache: Cache) -> None:
    rows = [row(NOW, workflow_name="new"), row(NOW - 15, workflow_name="old")]
    found = ask(cache, rows, "workflow_name", start_time=NOW - 10)
    assert keys(found) == ["new", "old"]
    assert [group.numbers.count for group in found.groups] == [1, 0]
    assert [group.before and group.before.count for group in found.groups] == [0, 1]


def test_groups_that_are_no_longer_there_come_last(cache: Cache) -> None:
    hour = PERIODS_MS["hour"]
    rows = [row(DAY_MS), row(hour)]
    found = ask(cache, rows, "hour", start_time=DAY_MS, end_time=2 * DAY_MS - 1)
    assert keys(found) == [DAY_MS, DAY_MS + hour]


def test_what_is_gone_upstream_does_not_count(cache: Cache) -> None:
    now, before = NOW, NOW - 15
    rows = [
        *(row(now, workflow_name=name, deleted_at=NOW) for name in ("a", "b")),
        *(row(at, workflow_name="b", deleted_at=NOW) for at in (now, before)),
        row(before, workflow_name="a"),
    ]
    for few_rows in (0, 10):
        found = ask(cache, rows, "workflow_name", start_time=NOW - 10, few_rows=few_rows)
        assert [(group.key, group.before and group.before.count) for group in found.groups] == [
            (("a",), 1)
        ]
        assert (found.total.numbers.count, found.deleted) == (0, 4)


def test_hours_are_compared_with_the_hours_as_much_before(cache: Cache) -> None:
    hour = PERIODS_MS["hour"]
    rows = [row(DAY_MS + n * hour + 1) for n in (0, 1, 1)] + [row(n * hour) for n in (0, 0, 1, 1)]
    found = ask(cache, rows, "hour", start_time=DAY_MS, end_time=2 * DAY_MS - 1)
    assert [
        (group.key, group.numbers.count, group.before and group.before.count)
        for group in found.groups
    ] == [((DAY_MS + hour,), 2, 2), ((DAY_MS,), 1, 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start_time": 6, "end_time": 5}, "ends before it begins"),
        ({"start_time": NOW + 1}, "ends before it begins"),
        ({"compare": True}, "Give a start_time"),
        ({"compare": True, "start_time": 0}, "Give a start_time"),
    ],
)
def test_a_window_that_cannot_be_is_refused(
    cache: Cache, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        ask(cache, [], "status", **arguments)


def test_an_application_that_was_never_listed_is_not_empty(cache: Cache) -> None:
    question = WorkflowFilter(application_name="shopp")
    with cache.read() as connection, pytest.raises(NotFoundError, match=r"Known: shop\."):
        get_aggregates(connection, question, group_by=(), now=NOW)


# How complete it is


# What it costs


@pytest.fixture
def plans(cache: Cache) -> Callable[..., list[str]]:
    """How SQLite goes about a question."""

    def explain(
        *group_by: str,
        few_rows: int = 0,
        durations: bool = False,
        are_counted: bool = False,
        **filters: Any,
    ) -> Any:
        with cache.write() as connection:
            hold(connection, [row(10)])
            if not are_counted:
                workflow_counts.drop(connection)
            question = WorkflowFilter(**SHOP, **filters)
            with statements_asked() as asked:
                get_aggregates(
                    connection, question, group_by=group_by, now=NOW, durations=durations,
                    few_rows=few_rows,
                )  # fmt: skip
            return [
                step
                for each in asked
                for step in plan_of(connection, each)
                if re.search(r"\bworkflow\b", step)
            ]

    return explain


COUNTED = set(GROUPINGS) - {"hour", "schedule_name"}


@pytest.mark.parametrize("group_by", sorted(COUNTED))
def test_what_the_store_has_counted_is_read_of_it(
    plans: Callable[..., list[str]], group_by: str
) -> None:
    filters = {"status": ("SUCCESS",), "executor_id": ("a",), "was_forked_from": False}
    (_is_wide,) = plans(group_by, are_counted=True, **filters)
    _is_wide, *cut = plans(
        group_by, are_counted=True, start_time=-DAY_MS - 5, end_time=2 * DAY_MS + 5, **filters
    )
    assert len(cut) == 2  # the days at both ends
    assert all("ix_workflow_" in step and "created_at>" in step for step in cut), cut


@pytest.mark.parametrize("group_by", [*GROUPINGS, None])
def test_a_short_time_is_read_by_the_index_of_times(
    plans: Callable[..., list[str]], group_by: str | None
) -> None:
    parts = [group_by] if group_by else []
    steps = plans(*parts, start_time=5, end_time=20, few_rows=10, durations=True)
    assert len(steps) == 2
    assert all("ix_workflow_created_at (application_name=? AND created_at>" in s for s in steps)


def test_many_are_counted_by_status_and_name_in_indexes_alone(
    plans: Callable[..., list[str]],
) -> None:
    bounds: list[dict[str, int]] = [{}, {"start_time": 5, "end_time": 20}]
    for filters in bounds:
        _narrow, *steps = plans("status", "workflow_name", **filters)
        assert "COVERING INDEX ix_workflow_workflow_name" in steps[0]
        assert all("ix_workflow_status (application_name=? AND status" in s for s in steps[1:3])


def test_a_filter_is_found_by_its_index_whatever_is_grouped_by(
    plans: Callable[..., list[str]],
) -> None:
    for name, value in (("status", "ERROR"), ("workflow_name", "a"), ("queue_name", "a")):
        for group_by in GROUPINGS:
            steps = plans(group_by, **{name: (value,)})
            assert f"ix_workflow_{name} (application_name=? AND {name}=?" in steps[-1], steps


def test_without_an_index_rows_are_read_in_the_order_of_the_table(
    plans: Callable[..., list[str]],
) -> None:
    assert plans("executor_id")[-1] == "SCAN workflow"
    assert "ix_workflow_created_at" in plans("workflow_name", executor_id=("a",))[-1]
