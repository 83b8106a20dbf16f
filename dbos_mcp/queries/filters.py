"""Questions about workflows: one field, one condition, and the index that finds its rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, Select, and_, case, exists, func, or_, select, union_all
from sqlalchemy.orm import aliased
from sqlmodel import col

from dbos_mcp.domain import IN_FLIGHT
from dbos_mcp.store.projections.steps import StepRow
from dbos_mcp.store.projections.workflow_counts import DAY_MS, NULL, WorkflowCountRow
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.tables import table_of

_EXACT = (
    "workflow_id",
    "workflow_name",
    "status",
    "queue_name",
    "executor_id",
    "application_version",
    "authenticated_user",
    "parent_workflow_id",
    "forked_from",
    "schedule_name",
)
_BOUNDS = (
    ("start_time", "created_at", "at least"),
    ("end_time", "created_at", "at most"),
    ("completed_after", "completed_at", "at least"),
    ("completed_before", "completed_at", "at most"),
    ("dequeued_after", "dequeued_at", "at least"),
    ("dequeued_before", "dequeued_at", "at most"),
    ("min_duration", "duration", "at least"),
    ("max_duration", "duration", "at most"),
    ("min_queue_wait", "queue_wait", "at least"),
    ("max_queue_wait", "queue_wait", "at most"),
)
_INDEXES = {index.name for index in table_of(WorkflowRow).indexes}
_COUNTED = {column.name for column in table_of(WorkflowCountRow).columns}

Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""What SQLite can hold."""
Scalar = str | bool | Integer | float | None
"""A JSON value that has no parts."""


@dataclass(frozen=True)
class Condition:
    expression: ColumnElement[bool]
    index: str | None = None
    """It finds the rows. None: they are found by reading all."""
    in_order: bool = False
    """In the index they come by their creation."""
    nearly_in: str | None = None
    """An index that says it of nearly all rows."""
    keys: Select[int] | None = None
    """The keys of the rows for which it holds, where another table knows them."""
    counted: ColumnElement[bool] | None = None
    """The same of a row of the counts. Of a time only that the day is possible."""


class WorkflowFilter(BaseModel):
    """Conductor's search filters and those that only a mirror can have: ANDed, values inside one
    list ORed. Times are epoch milliseconds, durations milliseconds, bounds inclusive. An empty
    list is no filter, as it is upstream."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    application_name: str
    workflow_id: tuple[str, ...] = ()
    workflow_id_prefix: tuple[str, ...] = ()
    workflow_name: tuple[str, ...] = ()
    status: tuple[str, ...] = ()
    queue_name: tuple[str, ...] = ()
    executor_id: tuple[str, ...] = ()
    application_version: tuple[str, ...] = ()
    authenticated_user: tuple[str, ...] = ()
    parent_workflow_id: tuple[str, ...] = ()
    forked_from: tuple[str, ...] = ()
    schedule_name: tuple[str, ...] = ()
    start_time: Integer | None = None
    end_time: Integer | None = None
    completed_after: Integer | None = None
    completed_before: Integer | None = None
    dequeued_after: Integer | None = None
    dequeued_before: Integer | None = None
    has_parent: bool | None = None
    was_forked_from: bool | None = None
    queues_only: bool = Field(False, description="On a queue, and in flight unless a status says")
    attributes: tuple[tuple[str, Scalar], ...] = Field((), description="All of these pairs")
    active_at: Integer | None = Field(None, description="Created by then, and not ended before")
    error_contains: str | None = Field(None, description="ASCII letters in either case")
    min_duration: Integer | None = Field(None, description="Of workflows that have ended")
    max_duration: Integer | None = None
    min_queue_wait: Integer | None = Field(None, description="Of workflows that were dequeued")
    max_queue_wait: Integer | None = None
    has_failed_step: bool | None = Field(None, description="By the steps that were read")
    step_name: tuple[str, ...] = ()
    deleted_upstream: bool | None = Field(None, description="None: also those")

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        for condition in self.indexed_conditions():
            yield condition.expression

    def indexed_conditions(self) -> Iterator[Condition]:
        yield Condition(
            _column("application_name") == self.application_name,
            counted=_counted("application_name") == self.application_name,
        )
        yield from self._of_columns()
        if self.deleted_upstream is not None:
            deleted = _column("deleted_at")
            counted = _counted("deleted").is_(self.deleted_upstream)
            yield (
                Condition(
                    deleted.is_not(None), _index_of("deleted_at"), in_order=True, counted=counted
                )
                if self.deleted_upstream
                else Condition(deleted.is_(None), counted=counted)
            )
        if self.attributes:
            there = _column("attributes").is_not(None)
            yield Condition(there, _index_of("attributes"), in_order=True)
        for key, value in self.attributes:
            yield Condition(_has_attribute(key, value))
        if self.active_at is not None:
            # Read first: it spares most rows the rest.
            yield _created("at most", self.active_at)
            yield Condition(_was_active(self.active_at), nearly_in=_index_of("completed_at"))
        if self.error_contains:
            error = _column("error")
            yield Condition(error.is_not(None), _index_of("error"), in_order=True)
            # LIKE would read a pattern up to its first NUL.
            found = func.instr(func.lower(error), func.lower(self.error_contains)) > 0
            yield Condition(found)
        yield from self._of_steps()

    def _of_columns(self) -> Iterator[Condition]:
        for name in _EXACT:
            values = getattr(self, name)
            if values:
                yield Condition(
                    _column(name).in_(values),
                    "ux_workflow" if name == "workflow_id" else _index_of(name),
                    in_order=len(values) == 1,
                    counted=_counted(name).in_(values) if name in _COUNTED else None,
                )
        if len(self.workflow_id_prefix) == 1:
            yield Condition(starts_with(self.workflow_id_prefix[0]), "ux_workflow")
        elif self.workflow_id_prefix:
            yield self._starts_with_one()
        for name, column, side in _BOUNDS:
            bound = getattr(self, name)
            if bound is not None and column == "created_at":
                yield _created(side, bound)
            elif bound is not None:
                value = _BOUND[column] if column in _BOUND else _column(column)
                yield Condition(
                    value >= bound if side == "at least" else value <= bound, _index_of(column)
                )
        if self.has_parent is not None:
            parent = _column("parent_workflow_id")
            counted = _counted("has_parent").is_(self.has_parent)
            yield (
                Condition(parent.is_not(None), _index_of("parent_workflow_id"), counted=counted)
                if self.has_parent
                else Condition(parent.is_(None), counted=counted)
            )
        if self.was_forked_from is not None:
            yield Condition(
                _column("was_forked_from").is_(self.was_forked_from),
                _index_of("was_forked_from") if self.was_forked_from else None,
                in_order=True,
                counted=_counted("was_forked_from").is_(self.was_forked_from),
            )
        if self.queues_only:
            yield Condition(
                _column("queue_name").is_not(None),
                _index_of("queue_name"),
                counted=_counted("queue_name") != NULL,
            )
            if not self.status:
                yield Condition(
                    _column("status").in_(IN_FLIGHT),
                    _index_of("status"),
                    counted=_counted("status").in_(IN_FLIGHT),
                )

    def _starts_with_one(self) -> Condition:
        """SQLite goes through an index by several ranges only to look up each row that it finds."""
        other = aliased(WorkflowRow)
        ranges = [
            select(col(other.id)).where(
                col(other.application_name) == self.application_name,
                starts_with(prefix, col(other.workflow_id)),
            )
            for prefix in self.workflow_id_prefix
        ]
        keys = union_all(*ranges).subquery().c[0]
        return Condition(or_(*map(starts_with, self.workflow_id_prefix)), keys=select(keys))

    def _of_steps(self) -> Iterator[Condition]:
        if self.has_failed_step is not None:
            failed = col(StepRow.error).is_not(None)
            if self.has_failed_step:
                yield _has_step(failed)
            else:
                of_failed = select(col(StepRow.workflow_key)).where(failed)
                yield Condition(_column("id").not_in(of_failed))
        if self.step_name:
            yield _has_step(col(StepRow.step_name).in_(self.step_name))


def _column(name: str) -> Any:
    return col(getattr(WorkflowRow, name))


def _counted(name: str) -> Any:
    return col(getattr(WorkflowCountRow, name))


def _created(side: str, bound: int) -> Condition:
    created, day, of_bound = _column("created_at"), _counted("day"), bound // DAY_MS
    return Condition(
        created >= bound if side == "at least" else created <= bound,
        _index_of("created_at"),
        counted=day >= of_bound if side == "at least" else day <= of_bound,
    )


def _index_of(column: str) -> str | None:
    name = f"ix_workflow_{column}"
    return name if name in _INDEXES else None


DURATION: ColumnElement[int] = func.max(
    0, _column("completed_at") - func.coalesce(_column("dequeued_at"), _column("created_at"))
)
"""From the start to the end, in ms; null before the end. Where no start is known, from the
creation."""
QUEUE_WAIT: ColumnElement[int] = func.max(0, _column("dequeued_at") - _column("created_at"))
"""From the creation to the start, in ms; null for what never waited, or still does."""
_BOUND = {"duration": DURATION, "queue_wait": QUEUE_WAIT}


def starts_with(prefix: str, workflow_id: Any = None) -> ColumnElement[bool]:
    """As a range, which an index finds; upper and lower case differ, as they do in PostgreSQL."""
    workflow_id = _column("workflow_id") if workflow_id is None else workflow_id
    end = _successor(prefix)
    at_least: ColumnElement[bool] = workflow_id >= prefix
    return at_least if end is None else and_(at_least, workflow_id < end)


def _successor(prefix: str) -> str | None:
    """The first text behind all that start with `prefix`, in the order of code points."""
    while prefix:
        point = ord(prefix[-1]) + 1
        if 0xD800 <= point <= 0xDFFF:  # UTF-8 has no surrogates
            point = 0xE000
        prefix = prefix[:-1]
        if point <= 0x10FFFF:
            return prefix + chr(point)
    return None


def _was_active(at: int) -> ColumnElement[bool]:
    """Not ended before. Old SDKs leave the time of an end out: then the last change tells it."""
    completed_at, deleted_at = _column("completed_at"), _column("deleted_at")
    return or_(
        completed_at >= at,
        and_(
            completed_at.is_(None),
            or_(_column("status").in_(IN_FLIGHT), _column("updated_at") >= at),
            or_(deleted_at.is_(None), deleted_at >= at),
        ),
    )


def _has_attribute(key: str, value: Scalar) -> ColumnElement[bool]:
    """No path is made of the key, which may hold anything; what is no JSON has no attributes."""
    text = _column("attributes")
    pairs = func.json_each(text).table_valued("key", "value", "type")
    match value:
        case bool():
            same = pairs.c.type == ("true" if value else "false")
        case None:
            same = pairs.c.type == "null"
        case str():
            same = and_(pairs.c.type == "text", pairs.c.value == value)
        case _:
            same = and_(pairs.c.type.in_(("integer", "real")), pairs.c.value == value)
    found = exists(select(1).select_from(pairs).where(pairs.c.key == key, same))
    # Reading JSON is dear: first see whether it can be in there at all, as it is or escaped.
    rare = value if type(value) is str else key
    possible = or_(func.instr(text, rare) > 0, func.instr(text, "\\") > 0)
    return case((and_(possible, func.json_valid(text) == 1), found), else_=False)


def _has_step(step: ColumnElement[bool]) -> Condition:
    key = col(StepRow.workflow_key)
    return Condition(
        exists(select(1).where(key == _column("id"), step)),
        keys=select(key).where(step),
    )
