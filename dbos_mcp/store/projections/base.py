"""What a projection is: a name, the tables it owns, and how a batch of events changes them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection
from sqlalchemy.dialects.sqlite import insert
from sqlmodel import Field, SQLModel

from dbos_mcp.store.event_log import Recorded
from dbos_mcp.store.events import Event
from dbos_mcp.store.tables import RowStatement


@dataclass(frozen=True)
class Projection:
    """`apply` gets events in the order of the log and must depend on nothing but them and the
    tables. A higher `version` makes every cache rebuild the tables when it is next opened."""

    name: str
    version: int
    tables: tuple[type[SQLModel], ...]
    apply: Callable[[Connection, Sequence[Recorded]], None]


def newest_by_key(
    name: str, version: int, table: type[SQLModel], kind: type[Event], key: Sequence[str]
) -> Projection:
    """One row for each key, of the newest event of a kind. Its `id` is the position of the first
    one, its `observed_at` when the newest one was recorded."""
    statement = insert(table)
    upsert = RowStatement(
        statement.on_conflict_do_update(
            index_elements=list(key),
            set_={
                column.name: column
                for column in statement.excluded
                if column.name not in ("id", *key)
            },
        )
    )

    def apply(connection: Connection, batch: Sequence[Recorded]) -> None:
        rows = [
            {**vars(event), "id": position, "observed_at": recorded_at}
            for position, recorded_at, event in batch
            if isinstance(event, kind)
        ]
        upsert.run(connection, rows)

    return Projection(name, version, (table,), apply)


class CheckpointRow(SQLModel, table=True):
    """How far, and by which version of its code, a projection has folded the log."""

    __tablename__ = "projection_checkpoint"

    name: str = Field(primary_key=True)
    version: int
    position: int
