"""What runs and what waits on the queue of a workflow, as far as the mirror shows it."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select
from sqlmodel import col

from dbos_mcp.domain import WorkflowStatus
from dbos_mcp.queries.workflows import ITEM_COLUMNS, WorkflowItem, item_of
from dbos_mcp.store.projections.workflows import WorkflowRow

MOST = 1_000
"""So many of a status, the oldest, are looked through for those of the queue."""
MOST_STARTS = 500
MOST_LEVELS = 8


@dataclass(frozen=True)
class QueueLimits:
    """As somebody defined it; None: no limit."""

    concurrency: int | None = None
    worker_concurrency: int | None = None
    rate_limit_max: int | None = None
    rate_limit_period_ms: int | None = None
    by_priority: bool = True


@dataclass(frozen=True)
class QueueState:
    name: str
    running: Sequence[WorkflowItem]
    """The one that runs longest first."""
    waiting: Sequence[WorkflowItem]
    """The oldest first."""
    complete: bool
    """There are no others in the mirror."""
    starts: Sequence[int]
    """When the newest of them were started, the last first."""
    blocking: dict[str, str]
    """Of those that run, by id: a workflow below them that waits in the same queue."""


def read_queue(connection: Connection, application_name: str, workflow: WorkflowItem) -> QueueState:
    """Of its partition, where it has one."""
    assert workflow.queue_name is not None

    def of(status: WorkflowStatus) -> tuple[list[WorkflowItem], bool]:
        rows = connection.execute(
            select(*ITEM_COLUMNS)
            .where(
                col(WorkflowRow.application_name) == application_name,
                col(WorkflowRow.status) == status,
                col(WorkflowRow.deleted_at).is_(None),
            )
            .order_by(col(WorkflowRow.created_at))
            .limit(MOST)
        ).all()
        mine = [
            item_of(row)
            for row in rows
            if (row.queue_name, row.queue_partition_key)
            == (workflow.queue_name, workflow.queue_partition_key)
        ]
        return mine, len(rows) < MOST

    running, all_running = of(WorkflowStatus.PENDING)
    waiting, all_waiting = of(WorkflowStatus.ENQUEUED)
    starts = connection.execute(
        select(col(WorkflowRow.dequeued_at))
        .where(
            col(WorkflowRow.application_name) == application_name,
            col(WorkflowRow.queue_name) == workflow.queue_name,
        )
        .order_by(col(WorkflowRow.created_at).desc())
        .limit(MOST_STARTS)
    ).scalars()
    return QueueState(
        workflow.queue_name,
        sorted(running, key=lambda item: item.dequeued_at or item.created_at),
        waiting,
        all_running and all_waiting,
        sorted((start for start in starts if start is not None), reverse=True),
        _blocking(connection, application_name, running, [workflow, *waiting]),
    )


def _blocking(
    connection: Connection,
    application_name: str,
    running: Sequence[WorkflowItem],
    waiting: Sequence[WorkflowItem],
) -> dict[str, str]:
    """By the parents, level by level: of several below one, the oldest."""
    ids = {item.workflow_id for item in running}
    found: dict[str, str] = {}
    level: dict[str, str] = {}
    for item in waiting:
        if item.parent_workflow_id is not None:
            level.setdefault(item.parent_workflow_id, item.workflow_id)
    for _ in range(MOST_LEVELS):
        for parent in ids & level.keys():
            found.setdefault(parent, level[parent])
        if not level:
            break
        parents = connection.execute(
            select(col(WorkflowRow.workflow_id), col(WorkflowRow.parent_workflow_id)).where(
                col(WorkflowRow.application_name) == application_name,
                col(WorkflowRow.workflow_id).in_(list(level)[:MOST]),
            )
        )
        above: dict[str, str] = {}
        for child, its_parent in parents:
            if its_parent is not None:
                above.setdefault(its_parent, level[child])
        level = above
    return found
