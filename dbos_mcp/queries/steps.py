"""The steps of one workflow, and what they come to."""

from dataclasses import dataclass

from pydantic import BaseModel
from sqlalchemy import Connection, Row, func, select
from sqlmodel import col

from dbos_mcp.domain import IN_FLIGHT, EpochMs
from dbos_mcp.queries.applications import require_application
from dbos_mcp.queries.workflows import not_mirrored
from dbos_mcp.store.projections.steps import StepRow
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.sync_state import StepReadingRow
from dbos_mcp.store.tables import table_of

FAILURES = 5
SLEEP = "DBOS.sleep"


def duration(started_at: int | None, completed_at: int | None) -> int | None:
    """In milliseconds; upstream's clock may go back."""
    if started_at is None or completed_at is None:
        return None
    return max(0, completed_at - started_at)


class StepItem(BaseModel):
    """`duration_ms` is null where a time is missing. A sleep ends in the future while it lasts."""

    step_id: int
    step_name: str
    started_at: EpochMs | None = None
    completed_at: EpochMs | None = None
    child_workflow_id: str | None = None
    output: str | None = None
    error: str | None = None

    @property
    def duration_ms(self) -> int | None:
        return duration(self.started_at, self.completed_at)


@dataclass(frozen=True)
class StepSummary:
    count: int
    failed: int
    slowest: StepItem | None
    """None where no step has both its times. A sleep is no work, and not among them."""
    failures: list[StepItem]
    """The first few that failed, in order."""
    read_at: int | None


@dataclass(frozen=True)
class StepList:
    workflow_status: str
    items: list[StepItem]
    read_at: int | None
    """When they were read, epoch ms; None: never, so an empty list says nothing."""
    may_have_changed: bool
    """The workflow runs, or moved on since they were read, and upstream still has it."""
    deleted: bool
    """Upstream no longer has the workflow."""


def list_steps(connection: Connection, application_name: str, workflow_id: str) -> StepList:
    """In the order of their ids.

    Raises:
        NotFoundError: the mirror has never seen the workflow.
    """
    require_application(connection, application_name)
    workflow = connection.execute(
        select(
            col(WorkflowRow.id),
            col(WorkflowRow.status),
            col(WorkflowRow.updated_at),
            col(WorkflowRow.deleted_at),
        ).where(
            col(WorkflowRow.application_name) == application_name,
            col(WorkflowRow.workflow_id) == workflow_id,
        )
    ).first()
    if workflow is None:
        raise not_mirrored(application_name, workflow_id)
    reading = connection.execute(
        select(table_of(StepReadingRow)).where(col(StepReadingRow.workflow_key) == workflow.id)
    ).first()
    rows = connection.execute(
        select(table_of(StepRow))
        .where(col(StepRow.workflow_key) == workflow.id)
        .order_by(col(StepRow.step_id))
    )
    return StepList(
        workflow_status=workflow.status,
        items=[_item(row) for row in rows],
        read_at=reading.read_at if reading else None,
        deleted=workflow.deleted_at is not None,
        may_have_changed=workflow.deleted_at is None
        and (
            reading is None
            or workflow.status in IN_FLIGHT
            or reading.workflow_status != workflow.status
            or reading.workflow_updated_at != workflow.updated_at
        ),
    )


def summarize_steps(connection: Connection, workflow_key: int) -> StepSummary:
    """Of the workflow whose row has this key."""
    of_workflow = col(StepRow.workflow_key) == workflow_key
    count, failed = connection.execute(
        select(func.count(), func.count(col(StepRow.error))).where(of_workflow)
    ).one()
    failures = connection.execute(
        select(table_of(StepRow))
        .where(of_workflow, col(StepRow.error).is_not(None))
        .order_by(col(StepRow.step_id))
        .limit(FAILURES)
    )
    took = col(StepRow.completed_at) - col(StepRow.started_at)
    slowest = connection.execute(
        select(table_of(StepRow))
        .where(of_workflow, took.is_not(None), col(StepRow.step_name) != SLEEP)
        .order_by(took.desc(), col(StepRow.step_id))
        .limit(1)
    ).first()
    return StepSummary(
        count=count,
        failed=failed,
        slowest=None if slowest is None else _item(slowest),
        failures=[_item(row) for row in failures],
        read_at=connection.execute(
            select(col(StepReadingRow.read_at)).where(
                col(StepReadingRow.workflow_key) == workflow_key
            )
        ).scalar(),
    )


def _item(row: Row[*tuple[object, ...]]) -> StepItem:
    return StepItem.model_validate(row, from_attributes=True)
