"""The newest known state of every workflow, the deleted ones included."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, Connection, Index, LargeBinary, bindparam, case, text, update
from sqlalchemy.dialects.sqlite import insert
from sqlmodel import Field, SQLModel, col

from dbos_mcp.store.event_log import Recorded
from dbos_mcp.store.events import WorkflowDeleted, WorkflowState
from dbos_mcp.store.projections.base import Projection
from dbos_mcp.store.projections.workflow_counts import WorkflowCountRow
from dbos_mcp.store.tables import RowStatement


def _index(column: str) -> Index:
    """Rows of one value by their creation. `deleted_at` is in it so that the rows that are left
    need not be read to be counted; being mostly null it costs a byte."""
    return Index(f"ix_workflow_{column}", "application_name", column, "created_at", "deleted_at")


def _sparse_index(column: str) -> Index:
    """For a column that is mostly null: only the rows that have it cost space."""
    return Index(
        f"ix_workflow_{column}",
        "application_name",
        column,
        "created_at",
        "deleted_at",
        sqlite_where=text(f"{column} IS NOT NULL"),
    )


def _index_of_few(column: str, holds: str = "IS NOT NULL") -> Index:
    """The few rows that have a value, whatever it is, by their creation."""
    return Index(
        f"ix_workflow_{column}",
        "application_name",
        "created_at",
        *(() if column == "deleted_at" else ("deleted_at",)),
        sqlite_where=text(f"{column} {holds}"),
    )


class WorkflowRow(SQLModel, table=True):
    """Times are epoch milliseconds; the first three are upstream's words, `observed_at` and
    `deleted_at` our clock. `id` is the position of the event that first showed the workflow."""

    __tablename__ = "workflow"
    __table_args__ = (
        Index("ux_workflow", "application_name", "workflow_id", unique=True),
        Index("ix_workflow_created_at", "application_name", "created_at", "deleted_at"),
        # With all that durations and waits are made of.
        Index(
            "ix_workflow_completed_at",
            *("application_name", "completed_at", "created_at", "dequeued_at", "deleted_at"),
        ),
        _index("status"),
        _index("workflow_name"),
        _sparse_index("queue_name"),
        _sparse_index("parent_workflow_id"),
        _sparse_index("forked_from"),
        _sparse_index("authenticated_user"),
        _sparse_index("schedule_name"),
        _index_of_few("error"),
        _index_of_few("deleted_at"),
        _index_of_few("attributes"),
        _index_of_few("was_forked_from", "IS 1"),
    )

    id: int = Field(primary_key=True)
    application_name: str
    workflow_id: str
    created_at: int
    updated_at: int
    completed_at: int | None = None
    status: str
    workflow_name: str | None = None
    class_name: str | None = None
    config_name: str | None = None
    owning_application: str | None = None
    authenticated_user: str | None = None
    assumed_role: str | None = None
    authenticated_roles: str | None = None
    application_version: str | None = None
    executor_id: str | None = None
    queue_name: str | None = None
    queue_partition_key: str | None = None
    priority: int
    deduplication_id: str | None = None
    parent_workflow_id: str | None = None
    forked_from: str | None = None
    was_forked_from: bool
    schedule_name: str | None = None
    attributes: str | None = None
    dequeued_at: int | None = None
    delay_until: int | None = None
    deadline: int | None = None
    timeout_ms: int | None = None
    payloads_loaded: bool
    input_loaded: bool
    output_loaded: bool
    input: str | None = None
    output: str | None = None
    error: str | None = None
    content_hash: bytes = Field(sa_type=LargeBinary)
    observed_at: int
    deleted_at: int | None = None


_insert = insert(WorkflowRow)
_seen = _insert.excluded


def _unless_loaded(payload: str, loaded: str) -> dict[str, Any]:
    """A look without a payload does not forget the one we have, unless the status moved on, with
    which only the input stays, or it is another workflow of the same id."""
    still: ColumnElement[bool] = col(WorkflowRow.deleted_at).is_(None)
    if payload != "input":
        still &= col(WorkflowRow.status) == _seen["status"]
    return {
        column: case(
            (_seen[loaded], _seen[column]),
            (still, col(getattr(WorkflowRow, column))),
            else_=_seen[column],
        )
        for column in (payload, loaded)
    }


_UPSERT = RowStatement(
    _insert.on_conflict_do_update(
        index_elements=["application_name", "workflow_id"],
        set_={
            column.name: column
            for column in _seen
            if column.name not in ("id", "application_name", "workflow_id", *WorkflowState.PAYLOAD)
        }
        | _unless_loaded("input", "input_loaded")
        | _unless_loaded("output", "output_loaded")
        | _unless_loaded("error", "payloads_loaded"),
    )
)
_MARK_DELETED = RowStatement(
    update(WorkflowRow)
    .where(
        col(WorkflowRow.application_name) == bindparam("application"),
        col(WorkflowRow.workflow_id) == bindparam("deleted_id"),
    )
    .values(deleted_at=bindparam("at"), observed_at=bindparam("at"))
)


def apply(connection: Connection, batch: Sequence[Recorded]) -> None:
    for kind, run in groupby(batch, key=_subject):
        if kind is WorkflowState:
            _UPSERT.run(connection, [_row(recorded) for recorded in run])
        elif kind is WorkflowDeleted:
            _MARK_DELETED.run(
                connection,
                [
                    {
                        "application": event.application_name,
                        "deleted_id": event.workflow_id,
                        "at": recorded_at,
                    }
                    for _, recorded_at, event in run
                ],
            )


def _subject(recorded: Recorded) -> type | None:
    for kind in (WorkflowState, WorkflowDeleted):
        if isinstance(recorded.event, kind):
            return kind
    return None


def _row(recorded: Recorded) -> dict[str, Any]:
    position, recorded_at, event = recorded
    assert isinstance(event, WorkflowState)
    return {
        **vars(event),
        "id": position,
        "content_hash": event.content_hash(),
        "observed_at": recorded_at,
        "deleted_at": None,
    }


PROJECTION = Projection("workflows", 2, (WorkflowRow, WorkflowCountRow), apply)
