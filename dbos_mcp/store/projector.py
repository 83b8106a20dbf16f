"""The only writer of facts: appends events and folds them into the read models, in one go."""

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects.sqlite import insert
from sqlmodel import SQLModel

from dbos_mcp.errors import SchemaTooNewError, StoreError
from dbos_mcp.store import event_log, indexes
from dbos_mcp.store.event_log import Recorded
from dbos_mcp.store.events import Event
from dbos_mcp.store.projections import PROJECTIONS, workflow_counts
from dbos_mcp.store.projections.base import CheckpointRow, Projection
from dbos_mcp.store.tables import table_of


class RebuiltTable(NamedTuple):
    """A read model before and after a rebuild; equal digests mean equal rows, byte for byte."""

    table: str
    rows: int
    equal: bool


def record(
    connection: Connection,
    events: Sequence[Event],
    *,
    recorded_at: int,
    projections: Sequence[Projection] = PROJECTIONS,
) -> list[Recorded]:
    """Append events and apply them; the caller's transaction makes both happen or neither.

    Raises:
        SchemaTooNewError: a newer version took the cache over since it was opened.
        StoreError: a read model is not at the end of the log.
    """
    if not events:
        return []
    behind = stale(connection, projections)
    if behind:
        raise StoreError(
            f"The read models of the cache are behind its log ({', '.join(behind)}).",
            hint="Restart: opening the cache rebuilds them.",
        )
    recorded = event_log.append(connection, events, recorded_at)
    for projection in projections:
        projection.apply(connection, recorded)
    _move_checkpoints(connection, projections, recorded[-1].position)
    return recorded


def stale(connection: Connection, projections: Sequence[Projection] = PROJECTIONS) -> list[str]:
    """The projections whose tables are not what their code makes of the whole log.

    Raises:
        SchemaTooNewError: a newer version of their code wrote them.
    """
    checkpoints = {
        name: (version, position)
        for name, version, position in connection.execute(select(table_of(CheckpointRow)))
    }
    expected = {projection.name: projection.version for projection in projections}
    for name, (version, _) in checkpoints.items():
        if version > expected.get(name, 0):
            raise SchemaTooNewError(
                f"A newer version of dbos-mcp wrote the cache's read model {name!r}.",
                hint="Use the newest version (`uvx dbos-mcp@latest`), or name another file with"
                " DBOS_MCP_CACHE. The file was left as it is.",
            )
    end = event_log.last_position(connection)
    return [name for name, version in expected.items() if checkpoints.get(name) != (version, end)]


def catch_up(connection: Connection, projections: Sequence[Projection] = PROJECTIONS) -> list[str]:
    """Rebuild the read models if one of them is stale; the names of those that were."""
    behind = stale(connection, projections)
    if behind:
        _replay(connection, projections)
    return behind


def rebuild(
    connection: Connection,
    progress: Callable[[int, int], None] | None = None,
    *,
    projections: Sequence[Projection] = PROJECTIONS,
) -> list[RebuiltTable]:
    """Empty the read models and replay the whole log; says whether the rows came out equal.

    `progress(done, total)` is told positions of the log.
    """
    workflow_counts.build(connection)  # a load under way goes without
    before = {table: digest(connection, table) for table in _tables(projections)}
    _replay(connection, projections, progress)
    rebuilt = []
    for table, old in before.items():
        new = digest(connection, table)
        rebuilt.append(RebuiltTable(str(table.__tablename__), rows=new[0], equal=new == old))
    return rebuilt


def digest(connection: Connection, table: type[SQLModel]) -> tuple[int, bytes]:
    """How many rows a read model has, and a hash over all of them in key order."""
    schema = table_of(table)
    hashed, rows = blake2b(digest_size=16), 0
    # As text, so that values come as they are stored, also those of another type.
    statement = str(select(schema).order_by(*schema.primary_key.columns))
    for row in connection.exec_driver_sql(statement, execution_options={"yield_per": 1000}):
        hashed.update(repr(tuple(row)).encode("utf-8", "surrogatepass"))
        rows += 1
    return rows, hashed.digest()


def _replay(
    connection: Connection,
    projections: Sequence[Projection],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    workflow_counts.drop(connection)
    tables = _tables(projections)
    for table in reversed(tables):  # later ones refer to earlier ones
        connection.execute(delete(table))
    emptied = [table_of(table) for table in tables]
    deferred = [index for index in indexes.DEFERRED if index.table in emptied]
    indexes.drop(connection, deferred)
    end = event_log.last_position(connection)
    for batch in event_log.read(connection):
        for projection in projections:
            projection.apply(connection, batch)
        if progress is not None:
            progress(batch[-1].position, end)
    for index in deferred:
        indexes.build(connection, index)
    workflow_counts.build(connection)
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
