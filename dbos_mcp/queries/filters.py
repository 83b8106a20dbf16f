"""Questions about workflows: one field, one condition."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, or_
from sqlmodel import col

from dbos_mcp.domain import IN_FLIGHT
from dbos_mcp.store.projections.workflows import WorkflowRow

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
)


class WorkflowFilter(BaseModel):
    """Conductor's search filters: ANDed, values inside one list ORed. Times are epoch milliseconds,
    bounds inclusive. An empty list is no filter, as it is upstream."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    start_time: int | None = None
    end_time: int | None = None
    completed_after: int | None = None
    completed_before: int | None = None
    dequeued_after: int | None = None
    dequeued_before: int | None = None
    has_parent: bool | None = None
    was_forked_from: bool | None = None
    queues_only: bool = Field(False, description="On a queue, and in flight unless a status says")

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        yield _column("application_name") == self.application_name
        for name in _EXACT:
            values = getattr(self, name)
            if values:
                yield _column(name).in_(values)
        if self.workflow_id_prefix:
            yield or_(
                *(
                    _column("workflow_id").startswith(prefix, autoescape=True)
                    for prefix in self.workflow_id_prefix
                )
            )
        for name, column, side in _BOUNDS:
            bound = getattr(self, name)
            if bound is not None:
                yield _column(column) >= bound if side == "at least" else _column(column) <= bound
        if self.has_parent is not None:
            parent = _column("parent_workflow_id")
            yield parent.is_not(None) if self.has_parent else parent.is_(None)
        if self.was_forked_from is not None:
            yield _column("was_forked_from").is_(self.was_forked_from)
        if self.queues_only:
            yield _column("queue_name").is_not(None)
            if not self.status:
                yield _column("status").in_(IN_FLIGHT)


def _column(name: str) -> Any:
    return col(getattr(WorkflowRow, name))
