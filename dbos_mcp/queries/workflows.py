"""Workflows: a filtered page of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, Field
from sqlalchemy import Connection, Row, select
from sqlmodel import col

from dbos_mcp.domain import EpochMs
from dbos_mcp.errors import NotFoundError
from dbos_mcp.queries import search
from dbos_mcp.queries.applications import require_application
from dbos_mcp.queries.filters import WorkflowFilter
from dbos_mcp.queries.paging import NEWEST_FIRST, Cursor, Order, name_of
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
        start = self.created_at if self.dequeued_at is None else self.dequeued_at
        return max(0, self.completed_at - start)

    @property
    def queue_wait_ms(self) -> int | None:
        """From the creation to the start, of those that were dequeued."""
        return None if self.dequeued_at is None else max(0, self.dequeued_at - self.created_at)


ITEM_COLUMNS = tuple(
    table_of(WorkflowRow).c[str(field.validation_alias or name)]
    for name, field in WorkflowItem.model_fields.items()
)
"""What a row is made of that is to be an item: without payloads, which may be large."""
_ITEM_NAMES = [column.name for column in ITEM_COLUMNS]


def item_of(row: Row[*tuple[object, ...]]) -> WorkflowItem:
    """Of a row of `ITEM_COLUMNS`."""
    return WorkflowItem.model_validate(dict(zip(_ITEM_NAMES, row, strict=True)))


@dataclass(frozen=True)
class WorkflowPage:
    items: Sequence[WorkflowItem]
    total: int
    """How many workflows match, on all pages."""
    left: int
    """How many of them the pages before did not show, those of this one included."""
    cursors: Sequence[Cursor]
    """One for each item: where to go on when it was the last one shown."""

    def more_than(self, shown: int) -> int:
        """How many are behind the first `shown` items."""
        return self.left - shown


def list_workflows(
    connection: Connection,
    question: WorkflowFilter,
    *,
    limit: int,
    order: Order = NEWEST_FIRST,
    cursor: Cursor | None = None,
    asked_at: int = 0,
) -> WorkflowPage:
    """A page of the workflows that match; `asked_at` is when its first page was asked for.

    Raises:
        NotFoundError: an application that was never listed.
        InvalidCursorError: a cursor of another question.
    """
    require_application(connection, question.application_name)
    name = name_of(question, order)
    if cursor is not None:
        cursor.require(name)
        asked_at = cursor.asked_at
    found = search.find(connection, question, order, limit=limit, after=cursor)
    keys = [key for _, key in found.places]
    rows = {
        row.id: row
        for row in connection.execute(
            select(*ITEM_COLUMNS).where(col(WorkflowRow.id).in_(keys))
        ).all()
    }
    return WorkflowPage(
        items=[item_of(rows[key]) for key in keys],
        total=found.total,
        left=found.left,
        cursors=[Cursor(value, key, name, asked_at) for value, key in found.places],
    )


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
