"""The append-only log, the only truth of the cache: `append()` and `read()`.

Triggers refuse UPDATE, DELETE and REPLACE, also to tools that open the file by themselves; only
`unlocked()` goes past them. Each event has a checksum, by which it is known to be as it was written
wherever it is found. It is of that event alone and no chain, so that what is taken out of the log,
or copied to another one, leaves the others as they are.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, Select, bindparam, func, insert, select
from sqlmodel import Field, SQLModel, col

from dbos_mcp.store.events import (
    Event,
    WorkflowChanged,
    WorkflowDeleted,
    WorkflowObserved,
    from_log,
)
from dbos_mcp.store.tables import RowStatement, table_of


class EventRow(SQLModel, table=True):
    """The append-only log that all else is folded from. `data` is JSON: the fields of its kind,
    defaults left out. `occurred_at` is upstream's clock, `recorded_at` ours, in epoch
    milliseconds."""

    __tablename__ = "event"

    position: int = Field(primary_key=True)
    application_name: str
    workflow_id: str | None = Field(default=None, index=True)
    kind: str
    occurred_at: int | None = None
    recorded_at: int = Field(index=True)
    data: str
    checksum: int | None = None
    """Of the others, by `checksum_of`; an event that an older version wrote may be without."""


class RawEvent(NamedTuple):
    """A row of the log as it is stored; in a damaged file, of whatever types."""

    position: int
    application_name: str
    workflow_id: str | None
    kind: str
    occurred_at: int | None
    recorded_at: int
    data: str
    checksum: int | None = None

    @property
    def is_sound(self) -> bool | None:
        """Whether it is as it was written; None: it has no checksum."""
        return None if self.checksum is None else self.checksum == checksum_of(*self[:-1])


class Recorded(NamedTuple):
    """An event with its place in the log; `recorded_at` is our clock in epoch milliseconds."""

    position: int
    recorded_at: int
    event: Event


_ABOUT_EXISTENCE = (WorkflowObserved, WorkflowChanged, WorkflowDeleted)


class Brief(NamedTuple):
    """The little of an event that tells what happened, without all that Conductor said."""

    position: int
    recorded_at: int
    application_name: str
    workflow_id: str | None
    kind: str
    status: str | None
    executor_id: str | None
    command_id: str | None
    command: str | None
    outcome: str | None


_SOON = 20_000
"""Positions: other applications are loaded at the same time."""

_CHECKSUM_BYTES = 6
"""SQLite stores such integers in as many."""

_INSERT = RowStatement(insert(EventRow))
_RAW = select(table_of(EventRow)).order_by(col(EventRow.position))
_GUARDS = ("event_refuses_update", "event_refuses_delete")


def checksum_of(
    position: int,
    application_name: str,
    workflow_id: str | None,
    kind: str,
    occurred_at: int | None,
    recorded_at: int,
    data: str,
) -> int:
    """Of an event as it is stored. It must never come out otherwise."""
    text = (
        f"{position}\0{application_name}\0{workflow_id}\0{kind}\0{occurred_at}\0{recorded_at}"
        f"\0{data}"
    )
    content = text.encode("utf-8", "surrogateescape")  # which is how damaged text is read
    digest = blake2b(content, digest_size=_CHECKSUM_BYTES).digest()
    return int.from_bytes(digest, "big", signed=True)


def last_position(connection: Connection) -> int:
    """The place of the newest event, 0 in an empty log."""
    return connection.execute(select(func.max(col(EventRow.position)))).scalar() or 0


def append(connection: Connection, events: Sequence[Event], recorded_at: int) -> list[Recorded]:
    """Write events at the end of the log, inside the caller's transaction."""
    if not events:
        return []
    first = last_position(connection) + 1
    recorded = [Recorded(first + n, recorded_at, event) for n, event in enumerate(events)]
    insert_at(connection, recorded)
    return recorded


def insert_at(connection: Connection, recorded: Sequence[Recorded]) -> None:
    """Write events of another log at their own places, in order and behind what is there."""
    insert_raw(connection, [to_raw(each) for each in recorded])


def to_raw(recorded: Recorded) -> RawEvent:
    """As it is stored, with its checksum."""
    position, recorded_at, event = recorded
    values = (
        *(position, event.application_name, event.workflow_id, event.kind),
        *(event.occurred_at, recorded_at, event.data()),
    )
    return RawEvent(*values, checksum=checksum_of(*values))


def insert_raw(connection: Connection, events: Sequence[RawEvent]) -> None:
    """Write events as they are, in order and behind what is there."""
    _INSERT.run(connection, [event._asdict() for event in events])


@contextmanager
def unlocked(connection: Connection) -> Iterator[None]:
    """Let the caller's transaction, and nobody else, change events and remove them.

    The triggers are gone in that transaction alone: no other connection sees it, and if it does not
    come to its end they were never away.
    """
    guards = {
        name: connection.exec_driver_sql(
            "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = ?", (name,)
        ).scalar_one()
        for name in _GUARDS
    }
    for name in guards:
        connection.exec_driver_sql(f"DROP TRIGGER {name}")
    yield
    for statement in guards.values():
        connection.exec_driver_sql(statement)


def read_raw(connection: Connection, after: int = 0, batch: int = 1000) -> Iterator[list[RawEvent]]:
    """The log in order, as it is stored, from behind `after`, in batches."""
    statement = _RAW.where(col(EventRow.position) > bindparam("after")).limit(batch)
    while rows := connection.execute(statement, {"after": after}).all():
        yield [RawEvent._make(row) for row in rows]
        after = rows[-1].position


def read(connection: Connection, after: int = 0, batch: int = 1000) -> Iterator[list[Recorded]]:
    """The log in order, from behind `after`, in batches."""
    while True:
        rows = connection.execute(
            _columns().where(col(EventRow.position) > after).limit(batch)
        ).all()
        if not rows:
            return
        after = rows[-1].position
        yield [_recorded(row) for row in rows]


def read_at(connection: Connection, positions: Sequence[int]) -> list[Recorded]:
    """The events at some places, oldest first."""
    rows = connection.execute(_columns().where(col(EventRow.position).in_(positions)))
    return [_recorded(row) for row in rows]


def positions_of(
    connection: Connection, application_name: str, workflow_ids: Sequence[str]
) -> list[int]:
    """Where all is that was recorded of some workflows, in no order."""
    return list(
        connection.execute(
            select(col(EventRow.position)).where(
                col(EventRow.workflow_id).in_(workflow_ids),
                col(EventRow.application_name) == application_name,
            )
        ).scalars()
    )


def read_without_workflow(connection: Connection, application_name: str) -> Iterator[Recorded]:
    """What was recorded of the application itself, its executors, and what else is no workflow."""
    rows = connection.execute(
        _columns().where(
            col(EventRow.workflow_id).is_(None),
            col(EventRow.application_name) == application_name,
        ),
        execution_options={"yield_per": 1000},
    )
    return map(_recorded, rows)


def executors_at(connection: Connection, positions: Sequence[int]) -> set[str]:
    """The executors that the events at some places name."""
    named = _of_data("executor_id")
    rows = connection.execute(
        select(named).where(col(EventRow.position).in_(positions), named.is_not(None)).distinct()
    )
    return {executor_id for executor_id in rows.scalars() if executor_id is not None}


def count(connection: Connection) -> int:
    """How many events there are: fewer than the last position in an excerpt."""
    return connection.execute(select(func.count()).select_from(EventRow)).scalar_one()


def read_workflow(
    connection: Connection, application_name: str, workflow_id: str
) -> list[Recorded]:
    """Everything that was recorded of one workflow, oldest first."""
    rows = connection.execute(
        _columns().where(
            col(EventRow.workflow_id) == workflow_id,
            col(EventRow.application_name) == application_name,
        )
    )
    return [_recorded(row) for row in rows]


def read_briefly(
    connection: Connection, after: int, until: int, application_name: str | None = None
) -> Iterator[Brief]:
    """The events behind one position, up to and with another, of one application or of all."""
    statement = select(
        col(EventRow.position),
        col(EventRow.recorded_at),
        col(EventRow.application_name),
        col(EventRow.workflow_id),
        col(EventRow.kind),
        *(_of_data(name) for name in Brief._fields[5:]),
    ).where(col(EventRow.position) > after, col(EventRow.position) <= until)
    if application_name is not None:
        statement = statement.where(col(EventRow.application_name) == application_name)
    rows = connection.execute(
        statement.order_by(col(EventRow.position)), execution_options={"yield_per": 1000}
    )
    for row in rows:
        yield Brief._make(row)


def statuses_at(
    connection: Connection, application_name: str, workflow_ids: Sequence[str], position: int
) -> dict[str, str | None]:
    """By id, the last status that was seen up to a position, null for those that were gone; without
    those that had not been seen yet."""
    rows = connection.execute(
        select(
            col(EventRow.workflow_id),
            func.max(col(EventRow.position)),  # the other columns are those of its row
            col(EventRow.kind),
            _of_data("status"),
        )
        .where(
            col(EventRow.workflow_id).in_(workflow_ids),
            col(EventRow.application_name) == application_name,
            col(EventRow.kind).in_([kind.__name__ for kind in _ABOUT_EXISTENCE]),
            col(EventRow.position) <= position,
        )
        .group_by(col(EventRow.workflow_id))
    )
    return {
        workflow_id: None if kind == WorkflowDeleted.__name__ else status
        for workflow_id, _, kind, status in rows
        if workflow_id is not None
    }


class Place(NamedTuple):
    position: int
    recorded_at: int


def first_of(connection: Connection, application_name: str | None = None) -> Place | None:
    """Where the log begins, or that of one application: with the application itself."""
    statement = select(col(EventRow.position), col(EventRow.recorded_at))
    if application_name is not None:
        statement = statement.where(
            col(EventRow.workflow_id).is_(None),  # it has an index
            col(EventRow.application_name) == application_name,
        )
    row = connection.execute(statement.order_by(col(EventRow.position)).limit(1)).first()
    return None if row is None else Place(*row)


def first_of_workflows(connection: Connection, application_name: str, after: int) -> Place | None:
    """The first event of a workflow of an application, if it comes soon behind a position."""
    row = connection.execute(
        select(col(EventRow.position), col(EventRow.recorded_at))
        .where(
            col(EventRow.position) > after,
            col(EventRow.position) <= after + _SOON,
            col(EventRow.workflow_id).is_not(None),
            col(EventRow.application_name) == application_name,
        )
        .order_by(col(EventRow.position))
        .limit(1)
    ).first()
    return None if row is None else Place(*row)


def _of_data(name: str) -> ColumnElement[str | None]:
    return func.json_extract(col(EventRow.data), f"$.{name}")


def count_of_workflow(connection: Connection, application_name: str, workflow_id: str) -> int:
    """How many events `read_workflow` would read."""
    return connection.execute(
        select(func.count())
        .select_from(EventRow)
        .where(
            col(EventRow.workflow_id) == workflow_id,
            col(EventRow.application_name) == application_name,
        )
    ).scalar_one()


def last_position_of_workflow(
    connection: Connection, application_name: str, workflow_id: str
) -> int | None:
    """The place of its newest event, found in an index; None: there is none."""
    return connection.execute(
        select(col(EventRow.position))
        .where(
            col(EventRow.workflow_id) == workflow_id,
            col(EventRow.application_name) == application_name,
        )
        .order_by(col(EventRow.position).desc())
        .limit(1)
    ).scalar()


def position_before(connection: Connection, moment: int) -> int:
    """The last position that was recorded before a moment of our clock, 0 if none was.

    Found by halving: the times are in order, but where the clock was set back.
    """
    low, high = 0, last_position(connection)
    while low < high:
        middle = (low + high + 1) // 2
        if recorded_at(connection, middle) < moment:
            low = middle
        else:
            high = middle - 1
    return low


def recorded_at(connection: Connection, position: int) -> int:
    """When the event at a position was recorded, or the next one behind it."""
    return connection.execute(
        select(col(EventRow.recorded_at))
        .where(col(EventRow.position) >= position)
        .order_by(col(EventRow.position))
        .limit(1)
    ).scalar_one()


def _columns() -> Select[int, str, str | None, str, int | None, int, str]:
    return select(
        col(EventRow.position),
        col(EventRow.application_name),
        col(EventRow.workflow_id),
        col(EventRow.kind),
        col(EventRow.occurred_at),
        col(EventRow.recorded_at),
        col(EventRow.data),
    ).order_by(col(EventRow.position))


def from_raw(event: RawEvent) -> Recorded:
    """
    Raises:
        UnknownEventError: it holds what this version does not know.
    """
    its = from_log(
        event.kind, event.application_name, event.workflow_id, event.occurred_at, event.data
    )
    return Recorded(event.position, event.recorded_at, its)


def _recorded(row: Row[int, str, str | None, str, int | None, int, str]) -> Recorded:
    event = from_log(row.kind, row.application_name, row.workflow_id, row.occurred_at, row.data)
    return Recorded(row.position, row.recorded_at, event)
