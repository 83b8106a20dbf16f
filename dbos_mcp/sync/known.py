"""What the cache holds, in the shape in which `diff` compares it with what is seen."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, SQLColumnExpression, and_, case, func, or_, select
from sqlmodel import col

from dbos_mcp.domain import FAILED, IN_FLIGHT, WorkflowStatus
from dbos_mcp.store.event_log import EventRow
from dbos_mcp.store.events import ApplicationObserved, Event, ExecutorObserved, StepState
from dbos_mcp.store.projections.applications import ApplicationRow
from dbos_mcp.store.projections.executors import ExecutorRow
from dbos_mcp.store.projections.steps import StepRow
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.sync_state import StepReadingRow
from dbos_mcp.store.tables import table_of
from dbos_mcp.sync.diff import KnownWorkflow

_IDS_PER_STATEMENT = 500


def applications(connection: Connection) -> dict[str, ApplicationObserved]:
    """By name."""
    rows = connection.execute(select(table_of(ApplicationRow)))
    return {
        row.application_name: ApplicationObserved.model_validate(dict(row._mapping)) for row in rows
    }


def executors(connection: Connection, application_name: str) -> dict[str, ExecutorObserved]:
    """By executor id, the removed ones included."""
    rows = connection.execute(
        select(table_of(ExecutorRow)).where(col(ExecutorRow.application_name) == application_name)
    )
    return {
        row.executor_id: ExecutorObserved.model_validate(
            {**row._mapping, "occurred_at": row.updated_at}
        )
        for row in rows
    }


def workflows(
    connection: Connection, application_name: str, workflow_ids: Sequence[str]
) -> dict[str, KnownWorkflow]:
    """By id; ids that the cache does not hold are left out."""
    held: dict[str, KnownWorkflow] = {}
    for start in range(0, len(workflow_ids), _IDS_PER_STATEMENT):
        rows = connection.execute(
            select(
                col(WorkflowRow.workflow_id),
                col(WorkflowRow.content_hash),
                col(WorkflowRow.updated_at),
                col(WorkflowRow.deleted_at),
                col(WorkflowRow.payloads_loaded),
                col(WorkflowRow.error),
            ).where(
                col(WorkflowRow.application_name) == application_name,
                col(WorkflowRow.workflow_id).in_(workflow_ids[start : start + _IDS_PER_STATEMENT]),
            )
        )
        for row in rows:
            held[row.workflow_id] = KnownWorkflow(
                content_hash=row.content_hash,
                updated_at=row.updated_at,
                deleted=row.deleted_at is not None,
                payloads_loaded=bool(row.payloads_loaded),
                error=row.error,
            )
    return held


def in_flight_ids(
    connection: Connection, application_name: str, statuses: Sequence[str] = IN_FLIGHT
) -> list[str]:
    return list(
        connection.execute(
            select(col(WorkflowRow.workflow_id)).where(
                col(WorkflowRow.application_name) == application_name,
                col(WorkflowRow.status).in_(statuses),
                col(WorkflowRow.deleted_at).is_(None),
            )
        ).scalars()
    )


def in_flight_counts(connection: Connection, application_name: str) -> dict[str, int]:
    """By status; those of which there are none are left out."""
    rows = connection.execute(
        select(col(WorkflowRow.status), func.count())
        .where(*_listed(application_name), col(WorkflowRow.status).in_(IN_FLIGHT))
        .group_by(col(WorkflowRow.status))
    )
    return {row[0]: row[1] for row in rows}


class Span(NamedTuple):
    """Creation times (upstream's clock, epoch ms), from `start` to before `end`."""

    start: int
    end: int


Counts = Mapping[tuple[int, str], int]
"""By the beginning of a bucket of creation times, and status."""


def created_counts(
    connection: Connection, application_name: str, span: Span, bucket_ms: int
) -> Counts:
    created_at, status = col(WorkflowRow.created_at), col(WorkflowRow.status)
    bucket = created_at - created_at % bucket_ms
    rows = connection.execute(
        select(bucket, status, func.count())
        .where(*_listed(application_name), *_created_in(span))
        .group_by(bucket, status)
    )
    return {(row[0], row[1]): row[2] for row in rows}


class Ended(NamedTuple):
    """A workflow that is not in flight: its row's key, its id, and when it was created."""

    key: int
    workflow_id: str
    created_at: int


def ended_in(
    connection: Connection, application_name: str, span: Span, limit: int | None = None
) -> list[Ended]:
    """Those created in a span, the newest first."""
    return _ended(
        connection,
        *_listed(application_name),
        *_created_in(span),
        order_by=col(WorkflowRow.created_at).desc(),
        limit=limit,
    )


def ended_behind(
    connection: Connection, application_name: str, position: int, limit: int
) -> list[Ended]:
    """Those that the cache got to know after `position`, in that order, whoever owns them."""
    return _ended(
        connection,
        *_held(application_name),
        col(WorkflowRow.id) > position,
        order_by=col(WorkflowRow.id),
        limit=limit,
    )


def held_count(connection: Connection, application_name: str) -> int:
    counted = select(func.count()).select_from(table_of(WorkflowRow))
    return connection.execute(counted.where(*_held(application_name))).scalar_one()


def _ended(
    connection: Connection,
    *conditions: ColumnElement[bool],
    order_by: SQLColumnExpression[int],
    limit: int | None,
) -> list[Ended]:
    rows = connection.execute(
        select(col(WorkflowRow.id), col(WorkflowRow.workflow_id), col(WorkflowRow.created_at))
        .where(*conditions, col(WorkflowRow.status).not_in(IN_FLIGHT))
        .order_by(order_by)
        .limit(limit)
    )
    return [Ended(*row) for row in rows]


def _held(application_name: str) -> tuple[ColumnElement[bool], ...]:
    return (
        col(WorkflowRow.application_name) == application_name,
        col(WorkflowRow.deleted_at).is_(None),
    )


def _listed(application_name: str) -> tuple[ColumnElement[bool], ...]:
    """What upstream lists and counts under this name: another's is shown only by its id."""
    return (*_held(application_name), col(WorkflowRow.owning_application).is_(None))


def _created_in(span: Span) -> tuple[ColumnElement[bool], ...]:
    created_at = col(WorkflowRow.created_at)
    return created_at >= span.start, created_at < span.end


class Held(NamedTuple):
    """A workflow row's key, and upstream's `updatedAt` of it."""

    key: int
    updated_at: int


def held(connection: Connection, application_name: str, workflow_id: str) -> Held | None:
    """A workflow that the cache holds as being there."""
    row = connection.execute(
        select(col(WorkflowRow.id), col(WorkflowRow.updated_at)).where(
            col(WorkflowRow.application_name) == application_name,
            col(WorkflowRow.workflow_id) == workflow_id,
            col(WorkflowRow.deleted_at).is_(None),
        )
    ).first()
    return None if row is None else Held(*row)


def recorded_since(
    connection: Connection, application_name: str, position: int, *kinds: type[Event]
) -> set[str]:
    """The workflows of which events of these kinds are in the log behind `position`."""
    ids = connection.execute(
        select(col(EventRow.workflow_id)).where(
            col(EventRow.position) > position,
            col(EventRow.application_name) == application_name,
            col(EventRow.kind).in_([kind.__name__ for kind in kinds]),
        )
    ).scalars()
    return {workflow_id for workflow_id in ids if workflow_id is not None}


def steps(connection: Connection, application_name: str, workflow_id: str) -> list[StepState]:
    rows = connection.execute(
        select(table_of(StepRow))
        .join(WorkflowRow, col(WorkflowRow.id) == col(StepRow.workflow_key))
        .where(
            col(WorkflowRow.application_name) == application_name,
            col(WorkflowRow.workflow_id) == workflow_id,
        )
        .order_by(col(StepRow.step_id))
    )
    return [StepState.model_validate(dict(row._mapping)) for row in rows]


def steps_due(
    connection: Connection, application_name: str, *, running_read_before: int, limit: int
) -> list[str]:
    """Workflows whose steps to read: the failed ones not read since they last changed, the newest
    first, then the running ones not read since `running_read_before` (our clock, epoch ms), those
    that have waited longest first."""
    reading = StepReadingRow
    return list(
        connection.execute(
            select(col(WorkflowRow.workflow_id))
            .outerjoin(
                reading,
                col(reading.workflow_key) == col(WorkflowRow.id),
            )
            .where(
                col(WorkflowRow.application_name) == application_name,
                col(WorkflowRow.deleted_at).is_(None),
                or_(
                    and_(
                        col(WorkflowRow.status).in_(FAILED),
                        or_(
                            col(reading.read_at).is_(None),
                            col(reading.workflow_updated_at) != col(WorkflowRow.updated_at),
                        ),
                    ),
                    and_(
                        col(WorkflowRow.status) == WorkflowStatus.PENDING,
                        or_(
                            col(reading.read_at).is_(None),
                            col(reading.read_at) < running_read_before,
                        ),
                    ),
                ),
            )
            .order_by(
                (col(WorkflowRow.status) == WorkflowStatus.PENDING),
                case(
                    (col(WorkflowRow.status) == WorkflowStatus.PENDING, col(reading.read_at)),
                    else_=0,
                ),
                col(WorkflowRow.created_at).desc(),
            )
            .limit(limit)
        ).scalars()
    )
