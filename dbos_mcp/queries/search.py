"""Which workflows a question is about: how many there are, and a page of their places in an order.

SQLite plans without knowing how many rows a condition leaves, and a wrong guess reads a million
rows one by one. So the way is chosen here, by counts that indexes give within milliseconds:
an index that holds all that is asked about counts without reading a row; else the one that leaves
the fewest rows finds them; where none leaves few, the table is read from end to end to count, and
along the order to fill a page.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Column, ColumnElement, Connection, Engine, Select, func, or_, select
from sqlalchemy.sql import visitors

from dbos_mcp.queries.filters import DURATION, QUEUE_WAIT, Condition, WorkflowFilter
from dbos_mcp.queries.paging import Cursor, Order, OrderBy, name_of
from dbos_mcp.store import event_log, indexes
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.tables import table_of

FEW = 1_000
"""So many matches are all read at once, and sorted here."""
NARROW = 50_000
"""So many rows are better looked at one by one than as a part of the whole table."""
REMEMBERED = 64
BY_CREATION = "ix_workflow_created_at"
BY_END = "ix_workflow_completed_at"

_WORKFLOW = table_of(WorkflowRow)
_KEY = _WORKFLOW.c.id
_VALUES: dict[OrderBy, ColumnElement[int]] = {
    OrderBy.CREATED: _WORKFLOW.c.created_at,
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
    conditions: Sequence[ColumnElement[bool]]
    narrow: bool = False

    def select(self, *columns: ColumnElement[Any]) -> Select[Any]:
        hint = f"INDEXED BY {self.index}" if self.index else "NOT INDEXED"
        return (
            select(*columns)
            .select_from(_WORKFLOW)
            .where(*self.conditions)
            .with_hint(_WORKFLOW, hint)
        )


@dataclass(frozen=True)
class _Matches:
    total: int
    few: Sequence[Place] | None
    """All of them, in order, where they are few."""
    way: _Way


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
    search = _Search(connection, question, order, few, narrow)
    # The read models are a function of the log: while it does not grow, neither do the matches.
    subject = (
        event_log.last_position(connection),
        search.there,
        name_of(question, order),
        few,
    )
    matches = _memory.get(connection.engine, subject)
    if matches is None:
        matches = search.match()
        _memory.put(connection.engine, subject, matches)
    search.way = matches.way
    if matches.few is not None:
        left = [place for place in matches.few if after is None or _is_behind(place, after, order)]
        return Found(left[:limit], matches.total, len(left))
    left_over = matches.total if after is None else search.count(after)
    return Found(search.page(after, limit, matches.total), matches.total, left_over)


def _is_behind(place: Place, after: Cursor, order: Order) -> bool:
    last = (after.value, after.key)
    return place < last if order.descending else place > last


class _Search:
    def __init__(
        self,
        connection: Connection,
        question: WorkflowFilter,
        order: Order,
        few: int,
        narrow: int,
    ) -> None:
        self._few = few
        self._narrow = narrow
        self._connection = connection
        self._order = order
        self._value = _VALUES[order.by]
        self._parts = list(question.indexed_conditions())
        if order.by in _REQUIRED:
            self._parts.append(Condition(_REQUIRED[order.by].is_not(None)))
        self._conditions = [part.expression for part in self._parts]
        missing = {index.name for index in indexes.missing(connection)}
        self.there = frozenset(_INDEXES.keys() - missing)

    def match(self) -> _Matches:
        few = self._connection.execute(
            self.way.select(self._value, _KEY).limit(self._few + 1)
        ).all()
        if len(few) > self._few:
            return _Matches(self.count(), None, self.way)
        places = sorted(((value, key) for value, key in few), reverse=self._order.descending)
        return _Matches(len(places), places, self.way)

    def count(self, after: Cursor | None = None) -> int:
        # Many keys are better collected once than looked for one by one.
        others = [p.expression if p.keys is None else _KEY.in_(p.keys) for p in self._parts]
        way = self.way if self.way.narrow else _Way(self.way.index, others)
        counted = way.select(func.count()).where(*self._behind(after))
        return int(self._connection.execute(counted).scalar_one())

    def page(self, after: Cursor | None, limit: int, total: int) -> Sequence[Place]:
        ends = (self._value, _KEY)
        rows = self._connection.execute(
            self._way_along(total)
            .select(*ends)
            .where(*self._behind(after))
            .order_by(*(end.desc() if self._order.descending else end.asc() for end in ends))
            .limit(limit)
        )
        return [(value, key) for value, key in rows]

    def _behind(self, after: Cursor | None) -> Iterator[ColumnElement[bool]]:
        if after is None:
            return
        if self._order.descending:
            yield self._value <= after.value
            yield or_(self._value < after.value, after.key > _KEY)
        else:
            yield self._value >= after.value
            yield or_(self._value > after.value, after.key < _KEY)

    @cached_property
    def way(self) -> _Way:
        """To find or count all matches."""
        helping = {str(part.index) for part in self._parts if part.index in self.there}
        keyed = [(part, part.keys) for part in self._parts if part.keys is not None]
        usual = (BY_CREATION, BY_END)
        enough = [name for name in (*sorted(helping), *usual) if self._says_all(name)]
        if enough and not keyed and (enough[0] in helping or not helping):
            return _Way(enough[0], self._conditions)
        rows = {name: self._rows_of(name) for name in helping}
        keys = [(part, keys, self._bounded(keys)) for part, keys in keyed]
        fewest = min([*rows.values(), *(count for _, _, count in keys)], default=self._narrow)
        if fewest >= self._narrow:
            return _Way(enough[0] if enough else None, self._conditions)
        for part, of_part, count in keys:
            if count == fewest:
                return _Way(None, [*self._others(part), _KEY.in_(of_part)], narrow=True)
        return _Way(min(rows, key=rows.__getitem__), self._conditions, narrow=True)

    def _way_along(self, total: int) -> _Way:
        """To list the first matches in order: sorting few, or reading until there are enough."""
        way = self.way
        if way.narrow or self._order.by in (OrderBy.DURATION, OrderBy.QUEUE_WAIT):
            return way
        along = BY_CREATION if self._order.by is OrderBy.CREATED else BY_END
        if way.index is not None and (
            total <= self._narrow or (along == BY_CREATION and self._is_in_order(way.index))
        ):
            return way
        return _Way(along, self._conditions) if along in self.there else way

    def _says_all(self, index: str) -> bool:
        return index in self.there and all(
            part.nearly_in == index or _columns(part.expression) <= _INDEXES[index]
            for part in self._parts
        )

    def _is_in_order(self, index: str) -> bool:
        return any(part.index == index and part.in_order for part in self._parts)

    def _rows_of(self, index: str) -> int:
        """How many rows it finds, up to `narrow`."""
        application, *parts = self._parts
        own = [part for part in parts if part.index == index]
        if self._is_in_order(index):
            own += [part for part in parts if part.index == BY_CREATION]
        conditions = [part.expression for part in (application, *own)]
        return self._bounded(_Way(index, conditions).select(_KEY))

    def _bounded(self, keys: Select[Any]) -> int:
        counted = select(func.count()).select_from(keys.limit(self._narrow).subquery())
        return int(self._connection.execute(counted).scalar_one())

    def _others(self, part: Condition) -> Iterator[ColumnElement[bool]]:
        return (other.expression for other in self._parts if other is not part)


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
        self._of: WeakKeyDictionary[Engine, OrderedDict[object, _Matches]] = WeakKeyDictionary()
        self._turn = threading.Lock()

    def get(self, engine: Engine, subject: object) -> _Matches | None:
        with self._turn:
            return self._of.get(engine, OrderedDict()).get(subject)

    def put(self, engine: Engine, subject: object, matches: _Matches) -> None:
        with self._turn:
            held = self._of.setdefault(engine, OrderedDict())
            held[subject] = matches
            while len(held) > REMEMBERED:
                held.popitem(last=False)


_memory = _Memory()
