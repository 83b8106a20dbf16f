"""Queues, schedules and versions as far as mirrored workflows show them: their definitions are not
mirrored."""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select
from sqlmodel import col

from dbos_mcp.domain import IN_FLIGHT, WAITING, WorkflowStatus
from dbos_mcp.queries.applications import require_application
from dbos_mcp.store.projections.executors import ExecutorRow
from dbos_mcp.store.projections.workflows import WorkflowRow


@dataclass(frozen=True)
class QueueInUse:
    waiting: int = 0
    running: int = 0


@dataclass(frozen=True)
class ScheduleInUse:
    schedule_name: str
    workflow_name: str | None
    workflows: int
    last_created_at: int


@dataclass(frozen=True)
class VersionInUse:
    in_flight: int = 0
    executors: int = 0
    """Healthy ones."""


def queues(connection: Connection, application_name: str) -> dict[str, QueueInUse]:
    """By name; those in which nothing is in flight are left out."""
    require_application(connection, application_name)
    status = col(WorkflowRow.status)
    rows = connection.execute(
        select(
            col(WorkflowRow.queue_name),
            func.count().filter(status.in_(WAITING)),
            func.count().filter(status == WorkflowStatus.PENDING),
        )
        .where(
            col(WorkflowRow.application_name) == application_name,
            col(WorkflowRow.deleted_at).is_(None),
            status.in_(IN_FLIGHT),
            col(WorkflowRow.queue_name).is_not(None),
        )
        .group_by(col(WorkflowRow.queue_name))
        .order_by(col(WorkflowRow.queue_name))
    )
    return {str(name): QueueInUse(waiting, running) for name, waiting, running in rows}


def schedules(connection: Connection, application_name: str) -> list[ScheduleInUse]:
    """Those that have started a workflow which is mirrored, by name."""
    require_application(connection, application_name)
    rows = connection.execute(
        select(
            col(WorkflowRow.schedule_name),
            col(WorkflowRow.workflow_name),
            func.count(),
            func.max(col(WorkflowRow.created_at)),
        )
        .where(
            col(WorkflowRow.application_name) == application_name,
            col(WorkflowRow.schedule_name).is_not(None),
        )
        .group_by(col(WorkflowRow.schedule_name))
        .order_by(col(WorkflowRow.schedule_name))
    )
    return [ScheduleInUse(str(name), workflow, count, last) for name, workflow, count, last in rows]


def versions(connection: Connection, application_name: str) -> dict[str, VersionInUse]:
    """By name, those that something in flight or a healthy executor has."""
    require_application(connection, application_name)
    in_flight = connection.execute(
        select(col(WorkflowRow.application_version), func.count())
        .where(
            col(WorkflowRow.application_name) == application_name,
            col(WorkflowRow.deleted_at).is_(None),
            col(WorkflowRow.status).in_(IN_FLIGHT),
            col(WorkflowRow.application_version).is_not(None),
        )
        .group_by(col(WorkflowRow.application_version))
    )
    executors = connection.execute(
        select(col(ExecutorRow.application_version), func.count())
        .where(
            col(ExecutorRow.application_name) == application_name,
            col(ExecutorRow.status) == "HEALTHY",
            col(ExecutorRow.application_version).is_not(None),
        )
        .group_by(col(ExecutorRow.application_version))
    )
    waiting = {str(name): count for name, count in in_flight}
    healthy = {str(name): count for name, count in executors}
    return {
        name: VersionInUse(waiting.get(name, 0), healthy.get(name, 0))
        for name in sorted(waiting.keys() | healthy.keys())
    }
