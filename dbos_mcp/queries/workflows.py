"""Workflows: a filtered page of them."""

from dataclasses import dataclass

from pydantic import BaseModel, Field
from sqlalchemy import Connection, Row, and_, func, or_, select
from sqlmodel import col

from dbos_mcp.domain import EpochMs
from dbos_mcp.errors import NotFoundError
from dbos_mcp.queries.applications import require_application
from dbos_mcp.queries.filters import WorkflowFilter
from dbos_mcp.queries.paging import Cursor
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.tables import table_of


class WorkflowItem(BaseModel):
    """A workflow as the mirror last saw it. `duration_ms` is from start to end, of the workflow if
    it ended. `key` orders workflows of the same millisecond; it is no one else's business."""

    key: int = Field(exclude=True, validation_alias="id")
    workflow_id: str
    status: str
    workflow_name: str | None = None
    class_name: str | None = None
    config_name: str | None = None
    error: str | None = None
    created_at: EpochMs
    updated_at: EpochMs
    dequeued_at: EpochMs | None = None
    completed_at: EpochMs | None = None
    delay_until: EpochMs | None = None
    deadline: EpochMs | None = None
    timeout_ms: int | None = None
    queue_name: str | None = None
    queue_partition_key: str | None = None
    priority: int = 0
    deduplication_id: str | None = None
    application_version: str | None = None
    executor_id: str | None = None
    parent_workflow_id: str | None = None
    forked_from: str | None = None
    was_forked_from: bool = False
    schedule_name: str | None = None
    authenticated_user: str | None = None
    assumed_role: str | None = None
    authenticated_roles: str | None = None
    attributes: str | None = None
    owning_application: str | None = None
    observed_at: EpochMs
    deleted_at: EpochMs | None = None

    @property
    def duration_ms(self) -> int | None:
        if self.completed_at is None:
            return None
        return max(0, self.completed_at - (self.dequeued_at or self.created_at))


@dataclass(frozen=True)
class WorkflowPage:
    items: list[WorkflowItem]
    total: int
    """How many workflows match, on all pages."""
    more: bool
    """Whether there is a page behind this one."""

    def cursor_after(self, count: int) -> str:
        """Where to go on when only the first `count` items were shown."""
        last = self.items[count - 1]
        return Cursor(last.created_at, last.key).encode()


def list_workflows(
    connection: Connection, question: WorkflowFilter, *, limit: int, cursor: str | None = None
) -> WorkflowPage:
    """The newest first. Workflows that are gone upstream are left out.

    Raises:
        NotFoundError: an application that was never listed.
        InvalidCursorError: not a cursor of an earlier page.
    """
    require_application(connection, question.application_name)
    conditions = [*question.conditions(), col(WorkflowRow.deleted_at).is_(None)]
    total = connection.execute(
        select(func.count()).select_from(WorkflowRow).where(*conditions)
    ).scalar_one()
    if cursor is not None:
        place = Cursor.decode(cursor)
        conditions.append(
            or_(
                col(WorkflowRow.created_at) < place.created_at,
                and_(
                    col(WorkflowRow.created_at) == place.created_at,
                    col(WorkflowRow.id) < place.id,
                ),
            )
        )
    rows = connection.execute(
        select(table_of(WorkflowRow))
        .where(*conditions)
        .order_by(col(WorkflowRow.created_at).desc(), col(WorkflowRow.id).desc())
        .limit(limit + 1)
    ).all()
    return WorkflowPage([_item(row) for row in rows[:limit]], total, more=len(rows) > limit)


def holds(connection: Connection, application_name: str, workflow_id: str) -> bool:
    return (
        connection.execute(
            select(col(WorkflowRow.id)).where(
                col(WorkflowRow.application_name) == application_name,
                col(WorkflowRow.workflow_id) == workflow_id,
            )
        ).scalar()
        is not None
    )


def not_mirrored(application_name: str, workflow_id: str) -> NotFoundError:
    return NotFoundError(
        f"The mirror holds no workflow {workflow_id!r} of {application_name}.",
        hint="Look ids up with list_workflows (workflow_id_prefix finds the start of one).",
    )


def _item(row: Row[*tuple[object, ...]]) -> WorkflowItem:
    return WorkflowItem.model_validate(row, from_attributes=True)
