"""What the cache holds, in the shape in which `diff` compares it with what is seen."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, func, select
from sqlmodel import col

from dbos_mcp.domain import IN_FLIGHT
from dbos_mcp.store import unreadable
from dbos_mcp.store.event_log import EventRow
from dbos_mcp.store.events import (
    ApplicationObserved,
    Event,
    ExecutorObserved,
    StepState,
    WorkflowState,
)
from dbos_mcp.store.projections.applications import ApplicationRow
from dbos_mcp.store.projections.executors import ExecutorRow
from dbos_mcp.store.projections.steps import StepRow
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.sync_state import StepDueRow, StepReadingRow
from dbos_mcp.store.tables import table_of
from dbos_mcp.sync.diff import KnownWorkflow
from dbos_mcp.sync.due import LONGEST_PAUSE_MS, REREAD_MS, Priority, State

MOST_DESCENDANTS = 500
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
    connection: Connection,
    application_name: str,
    workflow_ids: Sequence[str],
    *,
    with_texts: Sequence[str] = (),
) -> dict[str, KnownWorkflow]:
    """By id; ids that the cache does not hold are left out."""
    texts = {
        found.workflow_id: found._asdict()
        for found in _by_id(connection, application_name, with_texts, *WorkflowState.LOADED)
    }
    columns = ("content_hash", "status", "updated_at", "deleted_at", *WorkflowState.LOADED.values())
    return {
        found.workflow_id: KnownWorkflow(
            content_hash=found.content_hash,
            status=found.status,
            updated_at=found.updated_at,
            deleted=found.deleted_at is not None,
            loaded=frozenset(
                name for name, flag in WorkflowState.LOADED.items() if getattr(found, flag)
            ),
            texts=texts.get(found.workflow_id, {}),
        )
        for found in _by_id(connection, application_name, workflow_ids, *columns)
    }


def workflow_names(
    connection: Connection, application_name: str, workflow_ids: Sequence[str]
) -> dict[str, str | None]:
    """By id; ids that the cache does not hold are left out."""
    found = _by_id(connection, application_name, workflow_ids, "workflow_name")
    return {row.workflow_id: row.workflow_name for row in found}


def descendants(
    connection: Connection, application_name: str, workflow_ids: Sequence[str]
) -> list[str]:
    """The first so many children that are still there, their children and so on, without the
    workflows themselves."""
    parents, found = list(workflow_ids), dict.fromkeys(workflow_ids)
    while parents and len(found) < len(workflow_ids) + MOST_DESCENDANTS:
        chunk, parents = parents[:_IDS_PER_STATEMENT], parents[_IDS_PER_STATEMENT:]
        children = connection.execute(
            select(col(WorkflowRow.workflow_id))
            .where(*_held(application_name), col(WorkflowRow.parent_workflow_id).in_(chunk))
            .limit(MOST_DESCENDANTS)
        ).scalars()
        new = [child for child in children if child not in found]
        found |= dict.fromkeys(new)
        parents += new
    return list(found)[len(dict.fromkeys(workflow_ids)) :][:MOST_DESCENDANTS]


def _by_id(
    connection: Connection, application_name: str, workflow_ids: Sequence[str], *columns: str
) -> Iterator[Row[Any]]:
    """Some columns of those workflow rows that the cache holds."""
    table = table_of(WorkflowRow)
    for start in range(0, len(workflow_ids), _IDS_PER_STATEMENT):
        yield from connection.execute(
            select(table.c.workflow_id, *(table.c[name] for name in columns)).where(
                table.c.application_name == application_name,
                table.c.workflow_id.in_(workflow_ids[start : start + _IDS_PER_STATEMENT]),
            )
        )


def in_flight_ids(
    connection: Connection, application_name: str, statuses: Sequence[str]
) -> list[str]:
    """Those that could not be read included."""
    held = connection.execute(
        select(col(WorkflowRow.workflow_id)).where(
            *_held(application_name), col(WorkflowRow.status).in_(statuses)
        )
    ).scalars()
    aside = [row for row in unreadable.workflows(connection, application_name) if row.workflow_id]
    return [*held, *(row.workflow_id or "" for row in aside if row.status in statuses)]


def in_flight_counts(connection: Connection, application_name: str) -> dict[str, int]:
    """By status; those of which there are none are left out."""
    rows = connection.execute(
        select(col(WorkflowRow.status), func.count())
        .where(*_listed(application_name), col(WorkflowRow.status).in_(IN_FLIGHT))
        .group_by(col(WorkflowRow.status))
    )
    counts = Counter({row[0]: row[1] for row in rows})
    for _, status, number in _differently_counted(connection, application_name):
        if status in IN_FLIGHT:
            counts[status] += number
    return {status: count for status, count in counts.items() if count}


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
    counts = Counter({(row[0], row[1]): row[2] for row in rows})
    for created_at_, status_, number in _differently_counted(connection, application_name):
        if span.start <= created_at_ < span.end:
            counts[created_at_ - created_at_ % bucket_ms, status_] += number
    return {key: count for key, count in counts.items() if count}


def _differently_counted(
    connection: Connection, application_name: str
) -> Iterator[tuple[int, str, int]]:
    """Of what could not be read: upstream counts it, as it is there and not as it is held here."""
    aside = [
        row
        for row in unreadable.workflows(connection, application_name)
        if row.created_at is not None and row.status is not None
    ]
    ids = [row.workflow_id for row in aside if row.workflow_id is not None]
    columns = ("created_at", "status", "deleted_at", "owning_application")
    for held in _by_id(connection, application_name, ids, *columns):
        if held.deleted_at is None and held.owning_application is None:
            yield held.created_at, held.status, -1
    for row in aside:
        yield row.created_at or 0, row.status or "", 1


class Ended(NamedTuple):
    """A workflow that is not in flight: its row's key, its id, and when it was created."""

    key: int
    workflow_id: str
    created_at: int


_ENDED = select(
    col(WorkflowRow.id), col(WorkflowRow.workflow_id), col(WorkflowRow.created_at)
).where(col(WorkflowRow.status).not_in(IN_FLIGHT))


def ended_in(
    connection: Connection, application_name: str, span: Span, but: Collection[str], limit: int
) -> list[Ended]:
    """Those created in a span, the newest first, without some ids."""
    rows = connection.execute(
        _ENDED.where(*_listed(application_name), *_created_in(span)).order_by(
            col(WorkflowRow.created_at).desc()
        )
    )
    return list(islice((Ended._make(row) for row in rows if row.workflow_id not in but), limit))


def ended_behind(
    connection: Connection, application_name: str, position: int, limit: int
) -> list[Ended]:
    """Those that the cache got to know after `position`, in that order, whoever owns them."""
    rows = connection.execute(
        _ENDED.where(*_held(application_name), col(WorkflowRow.id) > position)
        .order_by(col(WorkflowRow.id))
        .limit(limit)
    )
    return [Ended._make(row) for row in rows]


def without_texts(
    connection: Connection,
    application_name: str,
    statuses: Sequence[str],
    position: int,
    limit: int,
) -> tuple[list[str], int | None]:
    """Those that the cache got to know after `position` and of which no text was asked for yet; and
    the position to go on behind, None at the end."""
    rows = connection.execute(
        select(col(WorkflowRow.id), col(WorkflowRow.workflow_id))
        .where(
            *_held(application_name),
            col(WorkflowRow.id) > position,
            col(WorkflowRow.status).in_(statuses),
            col(WorkflowRow.payloads_loaded).is_(False),
            col(WorkflowRow.input_loaded).is_(False),
        )
        .order_by(col(WorkflowRow.id))
        .limit(limit)
    ).all()
    return [row.workflow_id for row in rows], rows[-1].id if len(rows) == limit else None


def unmarked_sources(connection: Connection, application_name: str, limit: int) -> list[str]:
    """Workflows of which a fork is held, and which are not marked as forked."""
    fork, source = table_of(WorkflowRow).alias("fork"), table_of(WorkflowRow).alias("source")
    return list(
        connection.execute(
            select(source.c.workflow_id)
            .distinct()
            .select_from(fork)
            .join(
                source,
                (source.c.application_name == fork.c.application_name)
                & (source.c.workflow_id == fork.c.forked_from),
            )
            .where(
                fork.c.application_name == application_name,
                fork.c.forked_from.is_not(None),
                source.c.was_forked_from.is_(False),
                source.c.deleted_at.is_(None),
            )
            .limit(limit)
        ).scalars()
    )


def held_count(connection: Connection, application_name: str) -> int:
    counted = select(func.count()).select_from(table_of(WorkflowRow))
    return connection.execute(counted.where(*_held(application_name))).scalar_one()


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


def held(connection: Connection, application_name: str, workflow_id: str) -> State | None:
    """A workflow that the cache holds as being there."""
    row = connection.execute(
        select(
            col(WorkflowRow.id),
            col(WorkflowRow.status),
            col(WorkflowRow.updated_at),
            col(WorkflowRow.completed_at),
        ).where(*_held(application_name), col(WorkflowRow.workflow_id) == workflow_id)
    ).first()
    return None if row is None else State(*row)


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
    connection: Connection, application_name: str, *, now: int, limit: int
) -> dict[Priority, list[str]]:
    """Workflows whose steps to read, up to `limit` of each class: those in flight that have waited
    longest, of the others the newest."""
    row = StepDueRow

    def waiting(urgency: Priority, when: ColumnElement[bool], limit: int) -> Sequence[str]:
        in_turn = col(row.due_at)
        return (
            connection.execute(
                select(col(WorkflowRow.workflow_id))
                .join(row, col(row.workflow_key) == col(WorkflowRow.id))
                .where(
                    col(row.application_name) == application_name,
                    col(row.priority) == int(urgency),
                    when,
                )
                .order_by(in_turn if urgency is Priority.IN_FLIGHT else in_turn.desc())
                .limit(limit)
            )
            .scalars()
            .all()
        )

    due = {}
    for urgency in Priority:
        found = waiting(urgency, col(row.due_at) <= now, limit)
        # Later than any pause is long: our clock was set back.
        stray = waiting(urgency, col(row.due_at) > now + LONGEST_PAUSE_MS, limit - len(found))
        due[urgency] = [*found, *stray]
    return due


def needs_steps(
    connection: Connection, application_name: str, workflow_id: str, *, now: int
) -> bool:
    """Whether the steps of a workflow that somebody looks at are to be read, and are not next."""
    state = held(connection, application_name, workflow_id)
    if state is None:
        return False
    reading = connection.execute(
        select(table_of(StepReadingRow)).where(col(StepReadingRow.workflow_key) == state.key)
    ).first()
    if (
        reading is not None
        and (reading.workflow_status, reading.workflow_updated_at) == state[1:3]
        and (state.status not in IN_FLIGHT or 0 <= now - reading.read_at < REREAD_MS)
    ):
        return False
    place = connection.execute(
        select(table_of(StepDueRow)).where(col(StepDueRow.workflow_key) == state.key)
    ).first()
    return place is None or place.priority > Priority.ASKED or place.due_at > now
