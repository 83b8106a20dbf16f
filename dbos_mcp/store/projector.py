"""The only writer of facts: appends events and folds them into the read models, in one go."""

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects.sqlite import insert
from sqlmodel import SQLModel, col

from dbos_mcp.store import event_log
from dbos_mcp.store.event_log import Recorded
from dbos_mcp.store.events import Event
from dbos_mcp.store.projections import PROJECTIONS
from dbos_mcp.store.projections.base import CheckpointRow, Projection
from dbos_mcp.store.tables import table_of


class RebuiltTable(NamedTuple):
    """A read model before and after a rebuild; equal digests mean equal rows, byte for byte."""

    table: str
    rows: int
    equal: bool


def record(connection: Connection, events: Sequence[Event], *, recorded_at: int) -> list[Recorded]:
    """Append events and apply them; the caller's transaction makes both happen or neither."""
    recorded = event_log.append(connection, events, recorded_at)
    if recorded:
        for projection in PROJECTIONS:
            projection.apply(connection, recorded)
        _move_checkpoints(connection, PROJECTIONS, recorded[-1].position)
    return recorded


def catch_up(connection: Connection) -> list[str]:
    """Rebuild the read models that an older version of their code wrote; their names."""
    versions = dict(
        connection.execute(select(col(CheckpointRow.name), col(CheckpointRow.version)))
        .tuples()
        .all()
    )
    stale = [p for p in PROJECTIONS if versions.get(p.name) != p.version]
    if stale:
        _replay(connection, PROJECTIONS)
    return [projection.name for projection in stale]


def rebuild(
    connection: Connection, progress: Callable[[int, int], None] | None = None
) -> list[RebuiltTable]:
    """Empty the read models and replay the whole log; says whether the rows came out equal.

    `progress(done, total)` is told positions of the log.
    """
    before = {table: digest(connection, table) for table in _tables(PROJECTIONS)}
    _replay(connection, PROJECTIONS, progress)
    rebuilt = []
    for table, (_, old_digest) in before.items():
        rows, new_digest = digest(connection, table)
        rebuilt.append(RebuiltTable(str(table.__tablename__), rows, new_digest == old_digest))
    return rebuilt


def digest(connection: Connection, table: type[SQLModel]) -> tuple[int, bytes]:
    """How many rows a read model has, and a hash over all of them in key order."""
    schema = table_of(table)
    hashed, rows = blake2b(digest_size=16), 0
    statement = select(schema).order_by(*schema.primary_key.columns)
    for row in connection.execute(statement.execution_options(yield_per=1000)):
        hashed.update(repr(tuple(row)).encode("utf-8", "surrogatepass"))
        rows += 1
    return rows, hashed.digest()


def _replay(
    connection: Connection,
    projections: Sequence[Projection],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
    for table in _tables(projections):
        connection.execute(delete(table))
    end = event_log.last_position(connection)
    for batch in event_log.read(connection):
        for projection in projections:
            projection.apply(connection, batch)
        if progress is not None:
            progress(batch[-1].position, end)
    _move_checkpoints(connection, projections, end)


def _tables(projections: Iterable[Projection]) -> list[type[SQLModel]]:
    return [table for projection in projections for table in projection.tables]


def _move_checkpoints(
    connection: Connection, projections: Sequence[Projection], position: int
) -> None:
    statement = insert(CheckpointRow)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["name"],
            set_={
                "version": statement.excluded.version,
                "position": statement.excluded.position,
            },
        ),
        [{"name": p.name, "version": p.version, "position": position} for p in projections],
    )
