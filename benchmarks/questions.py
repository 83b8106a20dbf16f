"""Questions about workflows, their values drawn from the data that they are about.

A question is in the words of `WorkflowFilter`, which are those of the tool `list_workflows`; so the
same question can be asked of the tool and, as SQL, of SQLite.
"""

import json
import random
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sqlalchemy import ClauseElement, ColumnElement, func, select
from sqlalchemy.dialects import sqlite

from dbos_mcp.demo.tour import APPLICATION_NAME
from dbos_mcp.domain import FAILED, IN_FLIGHT
from dbos_mcp.queries.filters import DURATION, QUEUE_WAIT, WorkflowFilter
from dbos_mcp.queries.paging import NEWEST_FIRST, Order, OrderBy, name_of
from dbos_mcp.server import workflow_rows
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.tables import table_of

LIMIT = 50
SAMPLE = 20_000
MOST_VALUES = 12

NO_FILTERS = frozenset(
    (
        *("application_name", "order_by", "descending", "columns", "detail", "format", "limit"),
        *("cursor", "max_age_seconds"),
    )
)
"""Arguments of the tool that say nothing of which workflows match."""
_TEXTS = (
    *("workflow_name", "status", "queue_name", "executor_id", "application_version"),
    *("authenticated_user", "parent_workflow_id", "forked_from", "schedule_name"),
)
_BOUNDS = {
    "start_time": ("created_at", -1),
    "end_time": ("created_at", 1),
    "completed_after": ("completed_at", -1),
    "completed_before": ("completed_at", 1),
    "dequeued_after": ("dequeued_at", -1),
    "dequeued_before": ("dequeued_at", 1),
    "min_duration": ("duration", -1),
    "max_duration": ("duration", 1),
    "min_queue_wait": ("queue_wait", -1),
    "max_queue_wait": ("queue_wait", 1),
}
"""What each is a bound of, and on which side a value must lie to let a row through."""
_PARTS = (0, 0.0005, 0.01, 0.1, 0.25, 0.4, 0.6, 0.75, 0.9, 0.99, 0.9995, 1)
"""Where among the sorted values of a sample a bound is set: it leaves that part out."""

_WORKFLOW = table_of(WorkflowRow)
_VALUES: dict[OrderBy, ColumnElement[int]] = {
    OrderBy.CREATED: _WORKFLOW.c.created_at,
    OrderBy.COMPLETED: _WORKFLOW.c.completed_at,
    OrderBy.DURATION: DURATION,
    OrderBy.QUEUE_WAIT: QUEUE_WAIT,
}
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Of `WorkflowFilter`, in its units."""
    order: Order = NEWEST_FIRST
    full: bool = False

    @cached_property
    def filter(self) -> WorkflowFilter:
        return WorkflowFilter(
            **{"application_name": APPLICATION_NAME, "deleted_upstream": False, **self.fields}
        )

    @property
    def name(self) -> str:
        """The same for what the server may remember as the same question."""
        return name_of(self.filter, self.order)

    @property
    def indexed(self) -> bool:
        """Whether some index finds the rows that its filters leave."""
        deleted = {"deleted_upstream": None, **self.fields}
        asked = WorkflowFilter(**{"application_name": APPLICATION_NAME, **deleted})
        _, *conditions = asked.indexed_conditions()
        return any(part.index or part.keys is not None for part in conditions)

    def arguments(self) -> dict[str, Any]:
        """For the tool `list_workflows`."""
        asked: dict[str, Any] = {"application_name": APPLICATION_NAME, "limit": LIMIT}
        for name, value in self.fields.items():
            match value:
                case tuple() if name == "attributes":
                    asked[name] = dict(value)
                case tuple():
                    asked[name] = value[0] if len(value) == 1 else list(value)
                case None:
                    asked[name] = "include"
                case int() if not isinstance(value, bool):
                    asked[name] = str(value)
                case _:
                    asked[name] = value
        if self.order != NEWEST_FIRST:
            asked |= {"order_by": str(self.order.by), "descending": self.order.descending}
        return asked | ({"detail": "full"} if self.full else {})

    def page_sql(self) -> str:
        """What one would write by hand for a page of them."""
        columns = self._columns()
        ends: tuple[ColumnElement[int], ...] = (_VALUES[self.order.by], _WORKFLOW.c.id)
        ordered = (end.desc() if self.order.descending else end.asc() for end in ends)
        return _sql(select(*columns).where(*self._conditions()).order_by(*ordered).limit(LIMIT))

    def count_sql(self) -> str:
        return _sql(select(func.count()).select_from(_WORKFLOW).where(*self._conditions()))

    def _conditions(self) -> Iterator[ColumnElement[bool]]:
        yield from self.filter.conditions()
        if self.order.by is not OrderBy.CREATED:
            yield _VALUES[self.order.by].is_not(None)

    def _columns(self) -> list[ColumnElement[Any]]:
        deleted = self.filter.deleted_upstream is not False
        shown = (
            workflow_rows.COLUMNS
            if self.full
            else workflow_rows.concise(self.order, deleted=deleted)
        )
        durations = {"duration": DURATION.label("duration"), "queue_wait": QUEUE_WAIT}
        return [durations[name] if name in durations else _WORKFLOW.c[name] for name in shown]


def _sql(statement: ClauseElement) -> str:
    compiled = statement.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
    return str(compiled)


class Values:
    """Common, usual and rare values of each filter."""

    def __init__(self, connection: sqlite3.Connection, seed: int) -> None:
        self._connection = connection
        self._pick = random.Random(seed)
        self._rows = self._sample()
        self.of: dict[str, list[Any]] = {
            **{name: self._lists(self._texts(name)) for name in _TEXTS},
            **{name: self._bounds(column) for name, (column, _) in _BOUNDS.items()},
            "status": self._lists(self._texts("status"))[:-1],  # one that there is not is refused
            "workflow_id": self._ids(),
            "workflow_id_prefix": self._prefixes(),
            "active_at": self._bounds("created_at"),
            "error_contains": self._words(),
            "attributes": self._attributes(),
            "step_name": self._lists(self._texts("step_name", "step")),
            "has_failed_step": [True, False],
            "has_parent": [True, False],
            "was_forked_from": [True, False],
            "queues_only": [True],
            "deleted_upstream": [True, None],
        }

    def alone(self) -> dict[str, list[Question]]:
        """Each filter alone, with every value; and none."""
        questions = {"no filter": [Question()]}
        for name, values in self.of.items():
            questions[name] = _distinct(Question({name: value}) for value in values)
        return questions

    def combined(self, count: int) -> list[Question]:
        """Of two to five filters; mostly such that some row is known to match."""
        simple = {question.name for asked in self.alone().values() for question in asked}
        some = _distinct(self._combination() for _ in range(2 * count))
        return [question for question in some if question.name not in simple][:count]

    def _combination(self) -> Question:
        pick = self._pick
        failed = [row for row in self._rows if row["status"] in FAILED]
        row = pick.choice(failed if failed and pick.random() < 0.3 else self._rows)
        names = pick.sample(sorted(self.of), len(self.of))
        size = pick.randrange(2, 6)
        fields: dict[str, Any] = {}
        for name in names:
            if len(fields) == size:
                break
            value = self._of_row(name, row) if pick.random() < 0.9 else pick.choice(self.of[name])
            if value not in (None, ()):
                fields[name] = value
        order = Order(pick.choice([OrderBy.CREATED, *OrderBy]), pick.random() < 0.7)
        return Question(fields, order, full=pick.random() < 0.25)

    def _of_row(self, name: str, row: Row) -> Any:
        """A value of a filter that lets the row through; None: there is none worth asking."""
        pick = self._pick
        if name in _BOUNDS:
            column, side = _BOUNDS[name]
            far = int(10 ** pick.uniform(1, 4 if column in ("duration", "queue_wait") else 9.7))
            return None if row[column] is None else max(0, row[column] + side * far)
        if name in _TEXTS:
            others = pick.choice(self.of[name]) if pick.random() < 0.3 else ()
            return row[name] and tuple(dict.fromkeys((row[name], *others)))
        match name:
            case "workflow_id":
                return (row["workflow_id"], *pick.choice(self.of[name]))
            case "workflow_id_prefix":
                return (row["workflow_id"][: pick.randrange(1, 4)],)
            case "active_at":
                ended = row["completed_at"] or row["created_at"] + 1000
                return pick.randrange(row["created_at"], max(ended, row["created_at"] + 1))
            case "error_contains":
                words = (row["error"] or "").split()
                return pick.choice(words) if words else None
            case "attributes":
                pairs = json.loads(row["attributes"] or "null") or {}
                return tuple(pick.sample(sorted(pairs.items()), min(1, len(pairs))))
            case "has_parent":
                return row["parent_workflow_id"] is not None
            case "was_forked_from":
                return bool(row["was_forked_from"])
            case "queues_only":
                return True if row["queue_name"] and row["status"] in IN_FLIGHT else None
            case "deleted_upstream":
                return row["deleted_at"] is not None
            case "has_failed_step" if row["error"] is None:
                return False
        return pick.choice(self.of[name])

    def _sample(self) -> list[Row]:
        """Some rows of all, some of those that failed, were deleted or are in flight."""
        last = self._query("SELECT max(id) FROM workflow")[0][0]
        keys = sorted(self._pick.sample(range(1, last + 1), min(last, SAMPLE)))
        few = (
            f"SELECT id FROM workflow WHERE status NOT IN ('SUCCESS') OR deleted_at IS NOT NULL"
            f" ORDER BY id % 7919, id LIMIT {SAMPLE // 10}"
        )
        cursor = self._connection.execute(
            f"SELECT *, {_sql(DURATION)} AS duration, {_sql(QUEUE_WAIT)} AS queue_wait"
            " FROM workflow"
            f" WHERE id IN (SELECT value FROM json_each(?)) OR id IN ({few}) ORDER BY id",
            (json.dumps(keys),),
        )
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def _query(self, sql: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql).fetchall()

    def _texts(self, column: str, table: str = "workflow") -> list[str]:
        """Of all that there are: the commonest, some usual and some of the rarest, and none."""
        found = [
            text
            for text, _ in self._query(
                f"SELECT {column}, count(*) FROM {table} WHERE {column} IS NOT NULL"
                " GROUP BY 1 ORDER BY 2 DESC, 1"
            )
        ]
        if len(found) > MOST_VALUES:
            middle, rare = found[len(found) // 3 : len(found) // 2], found[-len(found) // 4 :]
            few = MOST_VALUES // 3
            found = [
                *found[:few],
                *self._pick.sample(middle, min(few, len(middle))),
                *self._pick.sample(rare, min(few, len(rare))),
            ]
        return found

    def _lists(self, texts: list[str]) -> list[tuple[str, ...]]:
        """One by one; two and three at a time; one that there is not."""
        several = [tuple(self._pick.sample(texts, n)) for n in (2, 3) if n <= len(texts)]
        return [*((text,) for text in texts), *several, ("no-such-one",)]

    def _bounds(self, column: str) -> list[int]:
        values = sorted(row[column] for row in self._rows if row[column] is not None)
        last = len(values) - 1
        return [values[int(part * last)] for part in _PARTS] if values else [0]

    def _ids(self) -> list[tuple[str, ...]]:
        ids = [row["workflow_id"] for row in self._pick.sample(self._rows, 200)]
        return [*((one,) for one in ids[:8]), tuple(ids[8:10]), tuple(ids[10:200]), ("nobody",)]

    def _prefixes(self) -> list[tuple[str, ...]]:
        ids = [row["workflow_id"] for row in self._pick.sample(self._rows, MOST_VALUES)]
        sizes = (1, 1, 2, 2, 3, 3, 4, 8, 36)
        prefixes = [(text[:size],) for text, size in zip(ids, sizes, strict=False)]
        return [*prefixes, (ids[-1][:3], ids[-2][:2]), ("sched-",), ("zz",)]

    def _words(self) -> list[str]:
        errors = [row["error"] for row in self._rows if row["error"]]
        words = sorted({word for error in errors for word in error.split()})
        chosen = self._pick.sample(words, min(MOST_VALUES // 2, len(words)))
        some = self._pick.sample(errors, min(2, len(errors)))
        return [*chosen, *some, "payment", "CONNECTION", "e", "no such words"]

    def _attributes(self) -> list[tuple[tuple[str, Any], ...]]:
        found = [json.loads(row["attributes"]) or {} for row in self._rows if row["attributes"]]
        pairs = [tuple(sorted(each.items())) for each in found if each]
        chosen = self._pick.sample(pairs, min(MOST_VALUES // 2, len(pairs)))
        return [
            *chosen,
            *((pair,) for both in chosen for pair in both),
            (("customer", "nobody"),),
            (("region", None),),
        ]


def without_a_case(arguments: Sequence[str], cases: Mapping[str, object]) -> set[str]:
    """The filters of the tool that nobody asks by, and cases that are no argument of it."""
    return (set(arguments) - NO_FILTERS) ^ set(cases)


def _distinct(questions: Iterator[Question]) -> list[Question]:
    """None of them twice: a server remembers what it was asked."""
    return list({question.name: question for question in questions}.values())
