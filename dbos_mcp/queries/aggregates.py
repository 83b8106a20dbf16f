"""Workflows in numbers: counts, failures, durations and waits by group, beside those of before."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Self

from sqlalchemy import ColumnElement, Connection, func, literal_column, or_, select
from sqlmodel import col

from dbos_mcp.domain import FAILED, IN_FLIGHT, TERMINAL, WorkflowStatus
from dbos_mcp.errors import UsageError
from dbos_mcp.queries import day_counts
from dbos_mcp.queries.applications import require_application
from dbos_mcp.queries.filters import WorkflowFilter
from dbos_mcp.queries.groupings import COLUMNS, PERIODS_MS, OrderBy
from dbos_mcp.store.projections.workflow_counts import DAY_MS
from dbos_mcp.store.projections.workflows import WorkflowRow

FEW_ROWS = 100_000
"""A window of at most so many workflows is read row by row within 150 ms."""

Key = tuple[str | int | None, ...]

_EVER = -(2**63)
_FIRST, _LAST = -(2**63) // DAY_MS * DAY_MS, 2**63 // DAY_MS * DAY_MS + DAY_MS - 1
"""The bounds of days that hold any time."""
_COUNTED = {*COLUMNS, "day"} - {"schedule_name"}
_USUAL = WorkflowStatus.SUCCESS.value
_IN_TABLE_ORDER = "+workflow.application_name"
"""Without an index: one that leaves nothing out would have the rows be read in its own order."""


@dataclass(frozen=True)
class Spread:
    """Percentiles by nearest rank, in milliseconds: each is a time that one of them took."""

    p50: int
    p95: int
    max: int

    @classmethod
    def of(cls, times: Sequence[int]) -> Self | None:
        """Of sorted times."""
        if not times:
            return None
        p50, p95 = (times[(len(times) * percent + 99) // 100 - 1] for percent in (50, 95))
        return cls(p50, p95, times[-1])


@dataclass(frozen=True)
class Numbers:
    """`failed` (ERROR, MAX_RECOVERY_ATTEMPTS_EXCEEDED) is a part of `ended`. Durations are those of
    `WorkflowItem.duration_ms`, waits from creation to the dequeueing; None: there is none, or
    nobody measured."""

    count: int = 0
    in_flight: int = 0
    ended: int = 0
    failed: int = 0
    durations: Spread | None = None
    waits: Spread | None = None

    @property
    def failure_rate(self) -> float | None:
        return self.failed / self.ended if self.ended else None


@dataclass(frozen=True)
class Group:
    key: Key
    """Of what it was grouped by, in that order; a period by its first millisecond."""
    numbers: Numbers
    before: Numbers | None
    """Of the same group in the window before."""


@dataclass(frozen=True)
class Aggregates:
    groups: list[Group]
    total: Group
    measured: bool
    """Whether durations and waits were looked at."""
    before: WorkflowFilter | None
    """The same question about the window before."""
    deleted: int
    """How many are left out of both windows, because they are gone upstream."""


def get_aggregates(
    connection: Connection,
    question: WorkflowFilter,
    *,
    group_by: Sequence[str],
    now: int,
    order_by: OrderBy | None = None,
    durations: bool | None = None,
    compare: bool | None = None,
    few_rows: int = FEW_ROWS,
) -> Aggregates:
    """The largest groups first; periods the newest first, unless `order_by` is given. `durations`
    take long over many rows: None measures them where there are few, or `order_by` needs them.
    `compare` is by default whether there is a `start_time`. Workflows that are gone upstream do not
    count.

    Raises:
        NotFoundError: an application that was never listed.
        UsageError: the window ends before it begins, or nothing is before it.
    """
    require_application(connection, question.application_name)
    windows = _windows(question, now, compare)
    wide = [_is_wide(connection, window, few_rows) for window, _ in windows]
    measured = order_by == "p95" or (durations if durations is not None else not any(wide))
    tallies = [
        _tally(connection, window, group_by, is_wide, measured, shift_ms)
        for (window, shift_ms), is_wide in zip(windows, wide, strict=True)
    ]
    groups = _compared(tallies)
    groups.sort(key=_order(group_by, order_by))
    (total,) = _compared([{(): _Tally.sum_of(tally.values())} for tally in tallies])
    first, _ = windows[-1]
    return Aggregates(
        groups=groups,
        total=total,
        measured=measured,
        before=first if first is not question else None,
        deleted=sum(tally.deleted for window in tallies for tally in window.values()),
    )


def _windows(
    question: WorkflowFilter, now: int, compare: bool | None
) -> list[tuple[WorkflowFilter, int]]:
    """The question's, and the one before: as long, and up to it. Each with how much later the
    question's is."""
    windows = [(question, 0)]
    start, end = question.start_time, question.end_time
    length = 0 if start is None else (now if end is None else end) - start + 1
    if start is not None and length <= 0:
        raise UsageError(
            "The window ends before it begins.",
            hint="start_time is the earlier one, end_time the later one, or left out for now.",
        )
    if start is not None and start >= length and compare is not False:
        before = question.model_copy(update={"start_time": start - length, "end_time": start - 1})
        windows.append((before, length))
    elif compare:
        raise UsageError(
            "There is no window before that of all times.",
            hint="Give a start_time: what is compared is as much time before it.",
        )
    return windows


@dataclass
class _Tally:
    count: int = 0
    in_flight: int = 0
    ended: int = 0
    failed: int = 0
    deleted: int = 0
    durations: list[int] = field(default_factory=list)
    """Sorted, as the waits."""
    waits: list[int] = field(default_factory=list)

    @classmethod
    def sum_of(cls, tallies: Collection[Self]) -> Self:
        return cls(
            count=sum(tally.count for tally in tallies),
            in_flight=sum(tally.in_flight for tally in tallies),
            ended=sum(tally.ended for tally in tallies),
            failed=sum(tally.failed for tally in tallies),
            deleted=sum(tally.deleted for tally in tallies),
            durations=sorted(chain.from_iterable(tally.durations for tally in tallies)),
            waits=sorted(chain.from_iterable(tally.waits for tally in tallies)),
        )

    def add(self, status: str, *, there: int, deleted: int) -> None:
        """So many more of one status."""
        self.count += there
        self.deleted += deleted
        self.in_flight += there if status in IN_FLIGHT else 0
        self.ended += there if status in TERMINAL else 0
        self.failed += there if status in FAILED else 0

    def numbers(self) -> Numbers:
        return Numbers(
            self.count,
            self.in_flight,
            self.ended,
            self.failed,
            Spread.of(self.durations),
            Spread.of(self.waits),
        )


_Tallies = dict[Key, _Tally]


def _compared(windows: Sequence[_Tallies]) -> list[Group]:
    """Every group that has workflows in one of the windows, the second of which is that before."""
    now, *before = windows
    return [
        Group(
            key,
            now.get(key, _Tally()).numbers(),
            before[0].get(key, _Tally()).numbers() if before else None,
        )
        for key in dict.fromkeys(chain.from_iterable(windows))
        if not key or any(window[key].count for window in windows if key in window)
    ]


def _order(group_by: Sequence[str], order_by: OrderBy | None) -> Callable[[Group], Any]:
    periods = [index for index, name in enumerate(group_by) if name in PERIODS_MS]

    def place(group: Group) -> Any:
        numbers = group.numbers
        match order_by:
            case None:
                first: Any = [-int(group.key[index] or 0) for index in periods]
            case "count":
                first = 0
            case "failure_rate":
                rate = numbers.failure_rate
                first = 1 if rate is None else -rate
            case "p95":
                first = -(-1 if numbers.durations is None else numbers.durations.p95)
        before = group.before.count if group.before else 0
        names = [(part is not None, part) for part in group.key]
        return not numbers.count, first, -numbers.count, -before, names

    return place


def _is_wide(connection: Connection, question: WorkflowFilter, few_rows: int) -> bool:
    one = select(col(WorkflowRow.id)).where(*_of_the_time(question).conditions())
    return connection.execute(one.offset(few_rows).limit(1)).first() is not None


def _of_the_time(question: WorkflowFilter) -> WorkflowFilter:
    """All workflows of its window."""
    return WorkflowFilter(
        application_name=question.application_name,
        start_time=question.start_time,
        end_time=question.end_time,
    )


def _tally(
    connection: Connection,
    question: WorkflowFilter,
    group_by: Sequence[str],
    wide: bool,
    measured: bool,
    shift_ms: int,
) -> _Tallies:
    """`shift_ms` moves the periods of the window before onto those that it is compared with."""
    if not measured and _is_counted(connection, question, group_by, shift_ms):
        return _from_counts(connection, question, group_by, shift_ms)
    if question != _of_the_time(question):
        # A bound, even of nothing, has the planner take the index of a filter, or else of the time.
        begins = _EVER if question.start_time is None else question.start_time
        bounded = question.model_copy(update={"start_time": begins})
        return _read(connection, bounded.conditions(), group_by, measured, shift_ms)
    if wide and not measured and {"status", "workflow_name"}.issuperset(group_by):
        return _counted(connection, question, group_by)
    conditions = _conditions(question, _IN_TABLE_ORDER) if wide else question.conditions()
    return _read(connection, conditions, group_by, measured, shift_ms)


def _is_counted(
    connection: Connection, question: WorkflowFilter, group_by: Sequence[str], shift_ms: int
) -> bool:
    application, *parts = question.indexed_conditions()
    assert application.counted is not None
    return (
        all(part.counted is not None for part in parts)
        and _COUNTED.issuperset(group_by)
        and ("day" not in group_by or shift_ms % DAY_MS == 0)
        and day_counts.all_of(connection, application.counted) is not None
    )


def _from_counts(
    connection: Connection, question: WorkflowFilter, group_by: Sequence[str], shift_ms: int
) -> _Tallies:
    """By the counts of whole days; of those that are cut, the workflows are read."""
    begins = _FIRST if question.start_time is None else question.start_time
    ends = _LAST if question.end_time is None else question.end_time
    first, behind = -(-begins // DAY_MS), (ends + 1) // DAY_MS  # the whole days
    if first >= behind:
        return _read(connection, question.conditions(), group_by, False, shift_ms)
    tallies = _none(group_by)
    for kind, state, deleted, count in day_counts.by_kind(
        connection, question, group_by, range(first, behind)
    ):
        tally = tallies[
            tuple(
                part * DAY_MS + shift_ms if name == "day" else part
                for name, part in zip(group_by, kind, strict=True)
            )
        ]
        tally.add(state, there=0 if deleted else count, deleted=count if deleted else 0)
    cut = [(begins, first * DAY_MS - 1)] if question.start_time is not None else []
    cut += [(behind * DAY_MS, ends)] if question.end_time is not None else []
    for start, end in cut:
        window = question.model_copy(update={"start_time": start, "end_time": end})
        if start <= end:
            read = _read(connection, window.conditions(), group_by, False, shift_ms)
            for key, tally in read.items():
                tallies[key] = _Tally.sum_of([tallies[key], tally])
    return tallies


def _read(
    connection: Connection,
    conditions: Iterable[ColumnElement[bool]],
    group_by: Sequence[str],
    measured: bool,
    shift_ms: int,
) -> _Tallies:
    """By reading every row. The times of a group come as one JSON text: that and sorting them here
    takes a third of the time of SQL's window functions."""
    created, dequeued = col(WorkflowRow.created_at), col(WorkflowRow.dequeued_at)
    completed, status = col(WorkflowRow.completed_at), col(WorkflowRow.status)
    there = col(WorkflowRow.deleted_at).is_(None)
    keys: list[ColumnElement[Any]] = [
        _period(created + shift_ms, PERIODS_MS[name]) if name in PERIODS_MS else _ungrouped(name)
        for name in group_by
    ]
    values: list[Any] = [
        func.count().filter(there),
        *(func.count().filter(there, status.in_(these)) for these in (IN_FLIGHT, TERMINAL, FAILED)),
        func.count(col(WorkflowRow.deleted_at)),
    ]
    if measured:
        started = func.coalesce(dequeued, created)
        values += [
            func.json_group_array(func.max(0, end - begin)).filter(there, end.is_not(None))
            for begin, end in ((started, completed), (created, dequeued))
        ]
    rows = connection.execute(
        select(*keys, *values)
        .where(*conditions)
        .group_by(*(literal_column(str(place)) for place in range(1, len(keys) + 1)))
    )
    width = len(keys)
    return {
        tuple(row[:width]): _Tally(
            *row[width : width + 5], *(sorted(json.loads(times)) for times in row[width + 5 :])
        )
        for row in rows
    }


def _none(group_by: Sequence[str]) -> defaultdict[Key, _Tally]:
    """Without a grouping there is one group, also of no workflows, as in SQL."""
    tallies: defaultdict[Key, _Tally] = defaultdict(_Tally)
    if not group_by:
        tallies[()] = _Tally()
    return tallies


def _period(time: ColumnElement[int], length: int) -> ColumnElement[int]:
    """The first millisecond of a time's; the remainder of a time before the epoch is negative."""
    return time - (time % length + length) % length


def _counted(connection: Connection, question: WorkflowFilter, group_by: Sequence[str]) -> _Tallies:
    """All workflows of a window by status and name, hardly reading a row: by name in its index,
    without those that are not SUCCESS or are deleted, which are few and looked at."""
    status, name = col(WorkflowRow.status), col(WorkflowRow.workflow_name)
    by_index = _conditions(question, "workflow.application_name")
    others = or_(status < _USUAL, status > _USUAL)
    gone = [*_conditions(question, _IN_TABLE_ORDER), col(WorkflowRow.deleted_at).is_not(None)]
    counts: Counter[tuple[str, str | None]] = Counter()
    for workflow_name, count in connection.execute(
        select(name, func.count()).where(*by_index).group_by(name)
    ):
        counts[_USUAL, workflow_name] += count
    both = select(status, name, func.count()).group_by(
        _ungrouped("status"), _ungrouped("workflow_name")
    )
    for state, workflow_name, count in connection.execute(both.where(*by_index, others)):
        counts[state, workflow_name] += count
        counts[_USUAL, workflow_name] -= count
    deleted = {
        (state, workflow_name): count
        for state, workflow_name, count in connection.execute(both.where(*gone))
    }
    tallies = _none(group_by)
    for (state, workflow_name), count in counts.items():
        values = {"status": state, "workflow_name": workflow_name}
        tally = tallies[tuple(values[part] for part in group_by)]
        of_these = deleted.get((state, workflow_name), 0)
        tally.add(state, there=count - of_these, deleted=of_these)
    return tallies


def _ungrouped(column: str) -> ColumnElement[Any]:
    """A column whose index is not taken for the grouping's sake, but left to find the rows."""
    return literal_column(f"+workflow.{column}")


def _conditions(question: WorkflowFilter, application_name: str) -> list[ColumnElement[bool]]:
    """Of a window, written so that no index of times is used."""
    application: ColumnElement[str] = literal_column(application_name)
    created: ColumnElement[int] = literal_column("+workflow.created_at")
    conditions = [application == question.application_name]
    if question.start_time is not None:
        conditions.append(created >= question.start_time)
    if question.end_time is not None:
        conditions.append(created <= question.end_time)
    return conditions
