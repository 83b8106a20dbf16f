"""The steps of the workflows whose steps were read."""

from collections.abc import Sequence

from sqlalchemy import Connection, Index, bindparam, delete, insert, select, text
from sqlmodel import Field, SQLModel, col

from dbos_mcp.store.event_log import Recorded
from dbos_mcp.store.events import StepsDiscarded, StepsObserved
from dbos_mcp.store.projections.base import Projection
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.tables import RowStatement


class StepRow(SQLModel, table=True):
    """`workflow_key` is the workflow row's id. Times are epoch milliseconds."""

    __tablename__ = "step"
    __table_args__ = (
        Index("ix_step_step_name", "step_name", "workflow_key"),
        Index("ix_step_error", "workflow_key", sqlite_where=text("error IS NOT NULL")),
        {"sqlite_with_rowid": False},
    )

    workflow_key: int = Field(primary_key=True, foreign_key="workflow.id")
    step_id: int = Field(primary_key=True)
    step_name: str
    child_workflow_id: str | None = None
    started_at: int | None = None
    completed_at: int | None = None
    output: str | None = None
    error: str | None = None
    observed_at: int


_INSERT = RowStatement(insert(StepRow))
_DISCARD = RowStatement(
    delete(StepRow).where(
        col(StepRow.workflow_key) == bindparam("key"), col(StepRow.step_id) == bindparam("gone")
    )
)


def apply(connection: Connection, batch: Sequence[Recorded]) -> None:
    for recorded in batch:
        _, recorded_at, event = recorded
        if isinstance(event, StepsObserved):
            key = _workflow_key(connection, recorded)
            connection.execute(delete(StepRow).where(col(StepRow.workflow_key) == key))
            rows = [
                {"workflow_key": key, "observed_at": recorded_at, **vars(step)}
                for step in event.steps
            ]
            _INSERT.run(connection, rows)
        elif isinstance(event, StepsDiscarded):
            key = _workflow_key(connection, recorded)
            gone = [{"key": key, "gone": step_id} for step_id in event.step_ids]
            _DISCARD.run(connection, gone)


def _workflow_key(connection: Connection, recorded: Recorded) -> int:
    """Of a workflow that the log showed before this event, wherever a batch begins."""
    position, _, event = recorded
    return connection.execute(
        select(col(WorkflowRow.id)).where(
            col(WorkflowRow.application_name) == event.application_name,
            col(WorkflowRow.workflow_id) == event.workflow_id,
            col(WorkflowRow.id) < position,
        )
    ).scalar_one()


PROJECTION = Projection("steps", 1, (StepRow,), apply)
