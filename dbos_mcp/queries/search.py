"""Which workflows a question is about: how many there are, and a page of their places in an order.

SQLite plans without knowing how many rows a condition leaves, and a wrong guess reads a million
rows one by one. So the way is chosen here, by what each would have to look at. The counts that the
store keeps of every day and kind say that within a millisecond; where they say all that is asked
about, they are the answer, and elsewhere they tell the days on which there is something to find.
While the store keeps none, indexes are counted up to a limit.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from sqlalchemy import Column, ColumnElement, Connection, Engine, Select, func, or_, select
from sqlalchemy.sql import visitors

from dbos_mcp.queries import day_counts
from dbos_mcp.queries.filters import DURATION, QUEUE_WAIT, Condition, WorkflowFilter
from dbos_mcp.queries.paging import NEWEST_FIRST, Cursor, Order, OrderBy, name_of
from dbos_mcp.store import event_log, indexes
from dbos_mcp.store.projections.workflow_counts import DAY_MS
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.tables import table_of

FEW = 1_000
"""So many matches are all read at once, and sorted here."""
NARROW = 50_000
"""What is not known is counted up to here; beyond that it is as if it were all."""
UNKNOWN = 20 * NARROW
REMEMBERED = 64
BY_CREATION = "ix_workflow_created_at"
BY_END = "ix_workflow_completed_at"

# What it costs to look at one row, in terms of one that an index leads to.
IN_AN_INDEX = 0.2
IN_THE_TABLE = 0.35

_EVER = range(-(2**63), 2**63)
_WORKFLOW = table_of(WorkflowRow)
_KEY = _WORKFLOW.c.id
_CREATED = _WORKFLOW.c.created_at
_VALUES: dict[OrderBy, ColumnElement[int]] = {
    OrderBy.CREATED: _CREATED,
    OrderBy.COMPLETED: _WORKFLOW.c.completed_at,
    OrderBy.DURATION: DURATION,
    OrderBy.QUEUE_WAIT: QUEUE_WAIT,
}
_REQUIRED: dict[OrderBy, ColumnElement[int]] = {
    OrderBy.COMPLETED: _WORKFLOW.c.completed_at,
    OrderBy.DURATION: _WORKFLOW.c.completed_at,
    OrderBy.QUEUE_WAIT: _WORKFLOW.c.dequeued_at,
}
_INDEXES = {
    str(index.name): frozenset(column.name for column in index.columns) | {_KEY.name}
    for index in _WORKFLOW.indexes
}

T = TypeVar("T")
Place = tuple[int, int]
"""The value that an order goes by, and the workflow's key."""


@dataclass(frozen=True)
class Found:
    places: Sequence[Place]
    total: int
    """How many match, on all pages."""
    left: int
    """How many of them are behind the cursor, those of this page included."""


@dataclass(frozen=True)
class _Way:
    """`index` None: through the table, or by the keys that another table knows."""

    index: str | None
    cost: float
    """Of looking at all that it leads to."""
    in_order: bool = False
    """It comes to them in the order that is asked for."""
    keyed: Condition | None = None
    """Whose keys it goes by."""


@dataclass
class _Matches:
    search: "_Search"
    total: int
    first: Sequence[Place] = ()
    """As many as are known, in order: all, where they are few."""
    page: "_Page | None" = None
    """The last that was asked for."""


@dataclass(frozen=True)
class _Page:
    after: Place | None
    limit: int
    found: Found

    def left_behind(self, place: Place | None) -> int | None:
        """How many are behind a place, if it is of this page."""
        if place not in self.found.places:
            return None
        return self.found.left - self.found.places.index(place) - 1


def find(
    connection: Connection,
    question: WorkflowFilter,
    order: Order,
    *,
    limit: int,
    after: Cursor | None = None,
    few: int = FEW,
    narrow: int = NARROW,
) -> Found:
    """`few` and `narrow` decide on the way alone, not on what is found."""
    # The read models are a function of the log: while it does not grow, neither do the matches. The
    # ways to them are of the schema: indexes and counts may come and go.
    state = (
        event_log.last_position(connection),
        connection.exec_driver_sql("PRAGMA schema_version").scalar_one(),
    )
    matches = _memory.recall(
        connection.engine,
        (*state, name_of(question, order), few, narrow),
        lambda: _Search(connection, state, question, order, few, narrow).match(connection, few),
    )
    first = [place for place in matches.first if after is None or _is_behind(place, after, order)]
    if len(first) >= limit or len(matches.first) == matches.total:
        left = matches.total - (len(matches.first) - len(first))
        return Found(first[:limit], matches.total, left)
    last, place = matches.page, None if after is None else (after.value, after.key)
    if last is not None and (last.after, last.limit) == (place, limit):
        return last.found
    known = matches.total if after is None else last.left_behind(place) if last else None
    left = matches.search.count(connection, after) if known is None else known
    places = matches.search.page(connection, after, limit, left)
    matches.page = _Page(place, limit, Found(places, matches.total, left))
    return matches.page.found


def _is_behind(place: Place, after: Cursor, order: Order) -> bool:
    last = (after.value, after.key)
    return place < last if order.descending else place > last


class _Search:
    """The ways to what a question is about, as the cache is in one state of its log and schema."""

    def __init__(
        self,
        connection: Connection,
        state: tuple[int, int],
        question: WorkflowFilter,
        order: Order,
        few: int,
        narrow: int,
        *,
        also: Condition | None = None,
    ) -> None:
        self._asked_for = (state, question, order, few, narrow)
        self._narrow = narrow
        self._order = order
        self._value = _VALUES[order.by]
        self._parts = list(question.indexed_conditions())
        if order.by in _REQUIRED:
            self._parts.append(Condition(_REQUIRED[order.by].is_not(None)))
        if also is not None:
            self._parts.append(also)
        until = [time for time in (question.end_time, question.active_at) if time is not None]
        self._asked = range(
            _EVER.start if question.start_time is None else question.start_time,
            min(until, default=_EVER.stop - 1) + 1,
        )
        self._there = _memory.recall(
            connection.engine, ("indexes", state[1]), lambda: _indexes(connection)
        )
        application = self._parts[0].counted
        assert application is not None
        self._application = application
        self._all = _memory.recall(
            connection.engine,
            (*state, "counts", question.application_name),
            lambda: day_counts.all_of(connection, application),
        )
        """How many workflows the application has; None: there are no counts to go by."""
        self._days: Mapping[int, int] | None = None
        """How many of each day match, or more where not all that is asked is counted; None: it is
        not known."""
        self._is_counted = False
        way = self._way_to_few(connection, few)
        if way is not None:  # nothing else needs to be known
            self._ways = [way]
            return
        if self._all is not None:
            self._days = day_counts.by_day(connection, _counted(self._parts))
            self._is_counted = len(_counted(self._parts)) == len(self._parts)
        self._ways = self._ways_there_are(connection) if self._days != {} else []

    def match(self, connection: Connection, few: int) -> _Matches:
        if self._days == {}:
            return _Matches(self, 0)
        if self._is_counted:
            return _Matches(self, self.count(connection))
        if self._order.by in (OrderBy.DURATION, OrderBy.QUEUE_WAIT):
            return self._sort(connection, few)
        some = self._select(self._cheapest, self._value, _KEY).limit(few + 1)
        found = connection.execute(some).all()
        if len(found) > few:
            return _Matches(self, self._count_many(connection))
        places = sorted(((value, key) for value, key in found), reverse=self._order.descending)
        return _Matches(self, len(places), places)

    def _sort(self, connection: Connection, few: int) -> _Matches:
        """No index is in this order: all are looked at, and at once counted."""
        ends = (self._value.label("value"), _KEY)
        matching = self._select(self._cheapest, *ends, of_many=True).cte("matching")
        rows = connection.execute(
            select(*matching.c, select(func.count()).select_from(matching).scalar_subquery())
            .order_by(*self._in_order(*matching.c))
            .limit(few + 1)
        ).all()
        total = rows[0][2] if rows else 0
        return _Matches(self, total, [(row[0], row[1]) for row in rows])

    def _in_order(self, *ends: ColumnElement[Any]) -> list[ColumnElement[Any]]:
        return [end.desc() if self._order.descending else end.asc() for end in ends]

    def _count_many(self, connection: Connection) -> int:
        """What the store has counted, without the few that lack something."""
        state, question, order, few, narrow = self._asked_for
        all_of_them, lacking, also = question, question, None
        if question.has_failed_step is False:
            all_of_them = question.model_copy(update={"has_failed_step": None})
            lacking = question.model_copy(update={"has_failed_step": True})
        elif order.by is OrderBy.COMPLETED:
            order, also = NEWEST_FIRST, Condition(_WORKFLOW.c.completed_at.is_(None), BY_END)
        else:
            return self.count(connection)
        every = _Search(connection, state, all_of_them, order, few, narrow)
        others = _Search(connection, state, lacking, order, few, narrow, also=also)
        if not every._is_counted or others._price > self._price:
            return self.count(connection)
        return every.count(connection) - others.count(connection)

    def count(self, connection: Connection, after: Cursor | None = None) -> int:
        if self._days == {}:
            return 0
        if self._is_counted:
            return sum(self._count_days(connection, after))
        counted = self._select(self._cheapest, func.count(), of_many=True)
        return int(connection.execute(counted.where(*self._behind(after))).scalar_one())

    def _count_days(self, connection: Connection, after: Cursor | None) -> Iterator[int]:
        """Of whole days it is known; those that are cut are looked at."""
        asked = self._asked if after is None else self._ahead(after)
        for day, count in (self._days or {}).items():
            whole = _times_of(day)
            times = _overlap(whole, asked)
            if times == whole and (after is None or after.value not in whole):
                yield count
            elif times:
                way = min((way for way in self._ways if way.in_order), key=_cost)
                counted = self._select(way, func.count(), times=times)
                yield connection.execute(counted.where(*self._behind(after))).scalar_one()

    def page(
        self, connection: Connection, after: Cursor | None, limit: int, left: int
    ) -> Sequence[Place]:
        """Sorting all that match, or reading in order until there are enough; `left` are there."""
        share = min(1.0, limit / max(1, left))
        way = min(self._ways, key=lambda way: way.cost * share if way.in_order else way.cost)
        ends = (self._value, _KEY)
        places: list[Place] = []
        for times in self._stretches(after):
            listed = self._select(way, *ends, times=times).where(*self._behind(after))
            some = listed.order_by(*self._in_order(*ends)).limit(limit - len(places))
            places += [(value, key) for value, key in connection.execute(some)]
            if len(places) == limit:
                break
        return places

    def _stretches(self, after: Cursor | None) -> Sequence[range]:
        """The times in which there is something to find, in the order that is asked for."""
        if self._order.by is not OrderBy.CREATED or self._days is None:
            return [_EVER]
        asked = self._asked if after is None else self._ahead(after)
        stretches: list[range] = []
        for times in filter(None, (_overlap(_times_of(day), asked) for day in self._days)):
            if stretches and stretches[-1].stop == times.start:
                stretches[-1] = range(stretches[-1].start, times.stop)
            else:
                stretches.append(times)
        return stretches[::-1] if self._order.descending else stretches

    def _ahead(self, after: Cursor) -> range:
        """The times that the cursor leaves, by creation."""
        if self._order.descending:
            return _overlap(self._asked, range(_EVER.start, after.value + 1))
        return _overlap(self._asked, range(after.value, _EVER.stop))

    def _behind(self, after: Cursor | None) -> Iterator[ColumnElement[bool]]:
        if after is None:
            return
        if self._order.descending:
            yield self._value <= after.value
            yield or_(self._value < after.value, after.key > _KEY)
        else:
            yield self._value >= after.value
            yield or_(self._value > after.value, after.key < _KEY)

    def _select(
        self,
        way: _Way,
        *columns: ColumnElement[Any],
        times: range = _EVER,
        of_many: bool = False,
    ) -> Select[Any]:
        """`times`, of the creation, are none that are not asked for."""
        conditions = [
            # Many keys are better collected once than looked for one by one.
            part.expression
            if part.keys is None or not (of_many or part is way.keyed)
            else _KEY.in_(part.keys)
            for part in self._parts
        ]
        if times == _EVER and self._days and way.index and _CREATED.name in _INDEXES[way.index]:
            times = range(_times_of(min(self._days)).start, _times_of(max(self._days)).stop)
        if times != _EVER:
            conditions.append(_CREATED.between(times.start, times.stop - 1))
        return (
            select(*columns)
            .select_from(_WORKFLOW)
            .where(*conditions)
            .with_hint(_WORKFLOW, f"INDEXED BY {way.index}" if way.index else "NOT INDEXED")
        )

    @property
    def _cheapest(self) -> _Way:
        """To find or count all matches."""
        return min(self._ways, key=_cost)

    @property
    def _price(self) -> float:
        return self._cheapest.cost if self._ways else 0

    def _ways_there_are(self, connection: Connection) -> list[_Way]:
        """The first is taken of several that are as good."""
        helping = {str(part.index) for part in self._parts if part.index in self._there}
        others = sorted(helping - {BY_CREATION})
        if self._is_counted and len(others) <= 1 and all(map(self._is_in_order, others)):
            # It leads to no more than there are, and in order: nothing is to be weighed.
            index = others[0] if others else BY_CREATION
            return [_Way(index, self._rows, in_order=True)]
        ways = [self._way_by(connection, name) for name in sorted(helping | {BY_CREATION})]
        if self._is_counted:
            return ways
        ways += [
            _Way(None, self._bounded(connection, part.keys, self._narrow), keyed=part)
            for part in self._parts
            if part.keys is not None
        ]
        if BY_END in self._there - helping:
            ways.append(self._way_by(connection, BY_END))
        return [*ways, _Way(None, IN_THE_TABLE * self._rows)]

    def _way_to_few(self, connection: Connection, few: int) -> _Way | None:
        names = {part.index for part in self._parts if part.counted is None and part.index}
        for name in sorted(names & self._there):
            rows = self._bounded(connection, self._keys_by(name), few + 1)
            if rows <= few:
                return _Way(name, rows)
        return None

    def _way_by(self, connection: Connection, index: str) -> _Way:
        each = IN_AN_INDEX if self._says_all(index) else 1.0
        by_creation = index == BY_CREATION or self._is_in_order(index)
        by_end = index == BY_END and self._order.by is OrderBy.COMPLETED
        in_order = by_creation if self._order.by is OrderBy.CREATED else by_end
        return _Way(index, each * self._rows_of(connection, index), in_order)

    def _says_all(self, index: str) -> bool:
        return all(
            part.nearly_in == index or _columns(part.expression) <= _INDEXES[index]
            for part in self._parts
        )

    def _is_in_order(self, index: str) -> bool:
        return any(part.index == index and part.in_order for part in self._parts)

    def _rows_of(self, connection: Connection, index: str) -> int:
        """How many rows it leads to."""
        by_creation = index == BY_CREATION or self._is_in_order(index)
        own = self._own_of(index)
        if self._days is not None and len(_counted(own)) == len(own):
            days = (min(self._days), max(self._days)) if by_creation else None
            return day_counts.total(connection, [self._application, *_counted(own)], days)
        if not own:
            return self._rows
        rows = self._bounded(connection, self._keys_by(index), self._narrow)
        return self._rows if rows >= self._narrow else rows

    def _own_of(self, index: str) -> list[Condition]:
        """What it finds rows by."""
        by_creation = index == BY_CREATION or self._is_in_order(index)
        return [
            part
            for part in self._parts[1:]
            if part.index == index or (by_creation and part.index == BY_CREATION)
        ]

    def _keys_by(self, index: str) -> Select[Any]:
        found_by = (self._parts[0], *self._own_of(index))
        return (
            select(_KEY)
            .select_from(_WORKFLOW)
            .where(*(part.expression for part in found_by))
            .with_hint(_WORKFLOW, f"INDEXED BY {index}")
        )

    @property
    def _rows(self) -> int:
        return UNKNOWN if self._all is None else self._all

    def _bounded(self, connection: Connection, keys: Select[Any], most: int) -> int:
        counted = select(func.count()).select_from(keys.limit(most).subquery())
        return int(connection.execute(counted).scalar_one())


def _cost(way: _Way) -> float:
    return way.cost


def _counted(parts: Sequence[Condition]) -> list[ColumnElement[bool]]:
    return [part.counted for part in parts if part.counted is not None]


def _indexes(connection: Connection) -> frozenset[str]:
    """Those of the workflows that there are."""
    missing = {str(index.name) for index in indexes.missing(connection)}
    return frozenset(_INDEXES.keys() - missing)


def _times_of(day: int) -> range:
    return _overlap(range(day * DAY_MS, (day + 1) * DAY_MS), _EVER)


def _overlap(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))


def _columns(expression: ColumnElement[bool]) -> set[str]:
    """Of the workflow's, those that a condition reads."""
    return {
        element.name
        for element in visitors.iterate(expression)
        if isinstance(element, Column) and element.table is _WORKFLOW
    }


class _Memory:
    """What was found, of each open cache: the next page is of the same question."""

    def __init__(self) -> None:
        self._of: WeakKeyDictionary[Engine, OrderedDict[object, Any]] = WeakKeyDictionary()
        self._turn = threading.Lock()

    def recall(self, engine: Engine, subject: object, make: Callable[[], T]) -> T:
        with self._turn:
            held = self._of.setdefault(engine, OrderedDict())
            if subject in held:
                held.move_to_end(subject)
                return cast(T, held[subject])
        made = make()
        with self._turn:
            held[subject] = made
            while len(held) > REMEMBERED:
                held.popitem(last=False)
        return made


_memory = _Memory()
