"""The append-only log, the only truth of the cache: `append()` and `read()`.

Triggers refuse UPDATE, DELETE and REPLACE, also to tools that open the file by themselves.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, Row, Select, func, insert, select
from sqlmodel import Field, SQLModel, col

from dbos_mcp.store.events import Event, from_log
from dbos_mcp.store.tables import RowStatement


class EventRow(SQLModel, table=True):
    __tablename__ = "event"

    position: int = Field(primary_key=True)
    application_name: str
    workflow_id: str | None = Field(default=None, index=True)
    kind: str
    occurred_at: int | None = None
    recorded_at: int
    data: str


class Recorded(NamedTuple):
    """An event with its place in the log; `recorded_at` is our clock in epoch milliseconds."""

    position: int
    recorded_at: int
    event: Event


_INSERT = RowStatement(insert(EventRow))


def last_position(connection: Connection) -> int:
    """The place of the newest event, 0 in an empty log."""
    return connection.execute(select(func.max(col(EventRow.position)))).scalar() or 0


def append(connection: Connection, events: Sequence[Event], recorded_at: int) -> list[Recorded]:
    """Write events at the end of the log, inside the caller's transaction."""
    if not events:
        return []
    first = last_position(connection) + 1
    recorded = [Recorded(first + n, recorded_at, event) for n, event in enumerate(events)]
    _INSERT.run(
        connection,
        [
            {
                "position": position,
                "application_name": event.application_name,
                "workflow_id": event.workflow_id,
                "kind": event.kind,
                "occurred_at": event.occurred_at,
                "recorded_at": recorded_at,
                "data": event.data(),
            }
            for position, recorded_at, event in recorded
        ],
    )
    return recorded


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


def _recorded(row: Row[int, str, str | None, str, int | None, int, str]) -> Recorded:
    event = from_log(row.kind, row.application_name, row.workflow_id, row.occurred_at, row.data)
    return Recorded(row.position, row.recorded_at, event)
