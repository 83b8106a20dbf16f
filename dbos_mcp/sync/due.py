"""Whose steps are due, and how soon: the queue in `step_due`, and the walk that fills its end.

What was recorded of a workflow queues it in the same transaction: a failure first, then what
somebody looked at, what has just ended, and what runs. All others, a whole history at the first
load, cost no row: a walk goes back through the mirror from the newest workflow, and queues a few of
those that were not read yet whenever the background has nothing left.

Steps of a workflow that has ended are read again after `GRACE_MS`, since older SDKs may write one
after a cancel. Whether it has ended long ago is upstream's clock compared with ours: where they are
an hour or more apart, a second look is left out, or one is taken too many.
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    bindparam,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.sqlite import insert
from sqlmodel import col

from dbos_mcp.domain import FAILED, IN_FLIGHT, WAITING, WorkflowStatus
from dbos_mcp.store import sync_state
from dbos_mcp.store.events import Event, WorkflowDeleted, WorkflowState
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.sync_state import StepDueRow, StepReadingRow
from dbos_mcp.store.tables import RowStatement
from dbos_mcp.sync.diff import KnownWorkflow

READINGS_PER_CYCLE = 40
"""Of all applications: at 10 requests a second, a cycle is to take about 5 s."""
SHARE = 5
"""So many readings are each class's own, where there are as many; the rest goes by priority."""
REREAD_MS = 30_000
"""A running workflow's steps are read again; the pause doubles while they stay the same."""
LONGEST_PAUSE_MS = 600_000
GRACE_MS = 60_000
LONG_AGO_MS = 3_600_000
WALK_AT_ONCE = 100


class Priority(IntEnum):
    """Classes of workflows in the order in which their steps are read."""

    FAILED = 0
    ASKED = 1
    COMPLETED = 2
    IN_FLIGHT = 3
    BACKGROUND = 4


MOST: Mapping[Priority, int] = {Priority.IN_FLIGHT: 20, Priority.BACKGROUND: 10}
"""Readings of a cycle, however little else is due."""


class State(NamedTuple):
    """What of a workflow's row its steps depend on."""

    key: int
    status: str
    updated_at: int
    completed_at: int | None

    @property
    def ended_at(self) -> int:
        return self.completed_at or self.updated_at


class Reading(NamedTuple):
    read_at: int
    next_at: int | None


# Decisions


def priority(
    known: KnownWorkflow | None, seen: WorkflowState, *, walked_to: int | None, now: int
) -> Priority | None:
    """How soon to read the steps of a workflow of which something was recorded; None: not now.

    `walked_to`: the walk meets what was created before, all of it where it is None.
    """
    if known is not None and known.deleted:
        known = None
    if known is not None and (known.status, known.updated_at) == (seen.status, seen.updated_at):
        # Nothing has happened; but who now keeps outputs wants those of the steps too.
        more = seen.output_loaded and "output" not in known.loaded
        return Priority.BACKGROUND if more else None
    if seen.status in FAILED:
        return Priority.FAILED
    if seen.status == WorkflowStatus.PENDING:
        return Priority.IN_FLIGHT
    if seen.status in IN_FLIGHT:
        # It waits; if it has run before, a rewind may have taken steps away.
        return Priority.IN_FLIGHT if known is not None and known.status not in WAITING else None
    if known is None:
        if walked_to is None or seen.created_at < walked_to:
            return None
        if now - (seen.completed_at or seen.updated_at) > LONG_AGO_MS:
            return Priority.BACKGROUND
    return Priority.COMPLETED


def read_again_at(state: State, before: Reading | None, *, changed: bool, now: int) -> int | None:
    """When to read the steps once more that were read just now; None: not while the workflow stays
    as it is. `before` is the last reading of the same state."""
    if state.status == WorkflowStatus.PENDING:
        if before is None or before.next_at is None or changed:
            return now + REREAD_MS
        if now < before.next_at <= now + LONGEST_PAUSE_MS:
            return before.next_at  # somebody asked in between
        pause = max(REREAD_MS, 2 * (before.next_at - before.read_at))
        return now + min(pause, LONGEST_PAUSE_MS)
    if state.status in IN_FLIGHT:
        return None
    if before is None:
        return None if now - state.ended_at > LONG_AGO_MS else now + GRACE_MS
    in_between = before.next_at is not None and now < before.next_at <= now + GRACE_MS
    return before.next_at if in_between else None


def allot(waiting: Mapping[Priority, int], applications: int = 1) -> dict[Priority, int]:
    """Of how many workflows of each class to read the steps in a cycle, of so many that wait, where
    so many applications are read."""
    share = max(1, SHARE // applications)
    readings = max(share * len(Priority), READINGS_PER_CYCLE // applications)
    wanted = {p: min(waiting.get(p, 0), MOST.get(p, readings)) for p in Priority}
    allotted = {p: min(count, share) for p, count in wanted.items()}
    for p, count in wanted.items():
        left = readings - sum(allotted.values())
        allotted[p] += min(count - allotted[p], left)
    return allotted


# The queue

_queued = insert(StepDueRow)
_SOONER = {
    name: func.min(col(getattr(StepDueRow, name)), _queued.excluded[name])
    for name in ("priority", "due_at")
}
_QUEUE = RowStatement(
    _queued.from_select(
        ["workflow_key", "application_name", "priority", "due_at"],
        select(
            col(WorkflowRow.id),
            col(WorkflowRow.application_name),
            bindparam("priority", type_=Integer),
            bindparam("due_at", type_=Integer),
        ).where(
            col(WorkflowRow.application_name) == bindparam("application_name"),
            col(WorkflowRow.workflow_id) == bindparam("workflow_id"),
        ),
    ).on_conflict_do_update(index_elements=["workflow_key"], set_=_SOONER)
)


def follow(
    connection: Connection,
    application_name: str,
    known: Mapping[str, KnownWorkflow],
    events: Sequence[Event],
    *,
    now: int,
) -> None:
    """Queue what was recorded, in the transaction in which it was; what was deleted leaves."""
    if not events:
        return
    walked_to = sync_state.load(connection, application_name).steps_since
    due = []
    for event in events:
        if isinstance(event, WorkflowDeleted):
            connection.execute(delete(StepDueRow).where(_is(application_name, event.workflow_id)))
        elif isinstance(event, WorkflowState):
            before = known.get(event.workflow_id)
            urgency = priority(before, event, walked_to=walked_to, now=now)
            if urgency is not None:
                since = min(event.updated_at, now)
                due.append(_entry(application_name, event.workflow_id, urgency, since))
    _QUEUE.run(connection, due)


def ask(connection: Connection, application_name: str, workflow_id: str, *, now: int) -> None:
    """Somebody looked at a workflow."""
    _QUEUE.run(connection, [_entry(application_name, workflow_id, Priority.ASKED, now)])


def postpone(
    connection: Connection, application_name: str, workflow_id: str, *, until: int
) -> None:
    """Leave a workflow alone for a while, however urgent it is."""
    connection.execute(
        update(StepDueRow).where(_is(application_name, workflow_id)).values(due_at=until)
    )


def note_reading(
    connection: Connection,
    application_name: str,
    state: State,
    *,
    changed: bool,
    now: int,
    queue: bool,
) -> None:
    """The steps of a workflow in this state were read just now; if `queue`, it is still in it, and
    its place in the queue is a new one."""
    row = connection.execute(
        select(col(StepReadingRow.read_at), col(StepReadingRow.next_at)).where(
            col(StepReadingRow.workflow_key) == state.key,
            col(StepReadingRow.workflow_status) == state.status,
            col(StepReadingRow.workflow_updated_at) == state.updated_at,
        )
    ).first()
    before = None if row is None else Reading(*row)
    next_at = read_again_at(state, before, changed=changed, now=now)
    values = {
        "read_at": now,
        "workflow_status": state.status,
        "workflow_updated_at": state.updated_at,
        "next_at": next_at,
    }
    reading = insert(StepReadingRow).values(workflow_key=state.key, **values)
    connection.execute(reading.on_conflict_do_update(index_elements=["workflow_key"], set_=values))
    if not queue:
        return
    if next_at is None:
        connection.execute(delete(StepDueRow).where(col(StepDueRow.workflow_key) == state.key))
        return
    runs = state.status == WorkflowStatus.PENDING
    place = {
        "priority": int(Priority.IN_FLIGHT if runs else Priority.COMPLETED),
        "due_at": next_at,
    }
    entry = insert(StepDueRow).values(
        workflow_key=state.key, application_name=application_name, **place
    )
    connection.execute(entry.on_conflict_do_update(index_elements=["workflow_key"], set_=place))


def _entry(
    application_name: str, workflow_id: str, urgency: Priority, due_at: int
) -> dict[str, str | int]:
    return {
        "application_name": application_name,
        "workflow_id": workflow_id,
        "priority": int(urgency),
        "due_at": due_at,
    }


def _is(application_name: str, workflow_id: str) -> ColumnElement[bool]:
    key = select(col(WorkflowRow.id)).where(
        col(WorkflowRow.application_name) == application_name,
        col(WorkflowRow.workflow_id) == workflow_id,
    )
    return col(StepDueRow.workflow_key) == key.scalar_subquery()


def is_anything_urgent(connection: Connection, *, now: int) -> bool:
    """Whether steps of workflows that have failed, ended, or been looked at wait to be read."""
    urgent = col(StepDueRow.priority) < int(Priority.IN_FLIGHT)
    waiting = exists().where(urgent, col(StepDueRow.due_at) <= now)
    return connection.execute(select(waiting)).scalar_one()


# The walk


def has_more(connection: Connection, application_name: str) -> bool:
    """Whether the walk has not yet come to the oldest workflow."""
    below = _below(application_name, sync_state.load(connection, application_name).steps_since)
    return connection.execute(select(exists().where(*below))).scalar_one()


def walk(connection: Connection, application_name: str, *, now: int) -> None:
    """Go back by the next `WALK_AT_ONCE` workflows that have ended and whose steps were not read
    since, and by all that were created in the same millisecond as the last."""
    walked_to = sync_state.load(connection, application_name).steps_since
    below = _below(application_name, walked_to)
    unread = (
        select(col(WorkflowRow.id), col(WorkflowRow.created_at))
        .outerjoin(StepReadingRow, col(StepReadingRow.workflow_key) == col(WorkflowRow.id))
        .where(
            *below,
            col(WorkflowRow.deleted_at).is_(None),
            col(WorkflowRow.status).not_in(IN_FLIGHT),
            or_(
                col(StepReadingRow.workflow_key).is_(None),
                col(StepReadingRow.workflow_updated_at) != col(WorkflowRow.updated_at),
            ),
        )
    )
    newest_first = unread.order_by(col(WorkflowRow.created_at).desc())
    last = connection.execute(newest_first.offset(WALK_AT_ONCE - 1).limit(1)).first()
    reached = (
        last.created_at
        if last is not None
        else connection.execute(
            select(func.min(col(WorkflowRow.created_at))).where(*below)
        ).scalar()
    )
    if reached is None:
        return
    found = unread.where(col(WorkflowRow.created_at) >= reached).subquery()
    connection.execute(
        insert(StepDueRow)
        .from_select(
            ["workflow_key", "application_name", "priority", "due_at"],
            select(
                found.c.id,
                literal(application_name),
                literal(int(Priority.BACKGROUND)),
                func.min(found.c.created_at, now),  # newest first, as it goes
            ).where(true()),
        )
        .on_conflict_do_nothing()
    )
    sync_state.update(connection, application_name, {"steps_since": reached})


def _below(application_name: str, walked_to: int | None) -> list[ColumnElement[bool]]:
    below = [col(WorkflowRow.application_name) == application_name]
    if walked_to is not None:
        below.append(col(WorkflowRow.created_at) < walked_to)
    return below
