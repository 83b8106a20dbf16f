"""The steps of the workflows whose steps were read."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select
from sqlmodel import Field, SQLModel, col

from dbos_mcp.store.event_log import Recorded
from dbos_mcp.store.events import Event, StepsDiscarded, StepsObserved
from dbos_mcp.store.projections.base import Projection
from dbos_mcp.store.projections.workflows import WorkflowRow


class StepRow(SQLModel, table=True):
    """`workflow_key` is the workflow row's id. Times are epoch milliseconds."""

    __tablename__ = "step"
    __table_args__ = {"sqlite_with_rowid": False}

    workflow_key: int = Field(primary_key=True, foreign_key="workflow.id")
    step_id: int = Field(primary_key=True)
    step_name: str
    child_workflow_id: str | None = None
    started_at: int | None = None
    completed_at: int | None = None
    output: str | None = None
    error: str | None = None
    observed_at: int


def apply(connection: Connection, batch: Sequence[Recorded]) -> None:
    for _, recorded_at, event in batch:
        if isinstance(event, StepsObserved):
            key = _workflow_key(connection, event)
            connection.execute(delete(StepRow).where(col(StepRow.workflow_key) == key))
            rows = [_row(key, recorded_at, step.model_dump()) for step in event.steps]
            if rows:
                connection.execute(insert(StepRow), rows)
        elif isinstance(event, StepsDiscarded):
            connection.execute(
                delete(StepRow).where(
                    col(StepRow.workflow_key) == _workflow_key(connection, event),
                    col(StepRow.step_id).in_(event.step_ids),
                )
            )


def _workflow_key(connection: Connection, event: Event) -> int:
    return connection.execute(
        select(col(WorkflowRow.id)).where(
            col(WorkflowRow.application_name) == event.application_name,
            col(WorkflowRow.workflow_id) == event.workflow_id,
        )
    ).scalar_one()


def _row(workflow_key: int, recorded_at: int, step: dict[str, Any]) -> dict[str, Any]:
    return {"workflow_key": workflow_key, "observed_at": recorded_at, **step}


PROJECTION = Projection("steps", 1, (StepRow,), apply)
