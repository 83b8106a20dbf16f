"""What is no longer in the log: pruned, or lost with a damaged file. Whoever tells history says so.

The positions of what stays are kept, so there are gaps; the rows here explain how many.
"""

from enum import StrEnum

from sqlalchemy import Connection, func, insert, select
from sqlmodel import Field, SQLModel, col

from dbos_mcp.store.tables import table_of


class Reason(StrEnum):
    PRUNED = "pruned"
    LOST = "lost"


class LogRemovalRow(SQLModel, table=True):
    """Times are epoch milliseconds by our clock."""

    __tablename__ = "log_removal"

    id: int | None = Field(default=None, primary_key=True)
    reason: str
    application_name: str
    """Of which application; empty: of all."""
    before: int
    """Nothing is missing that was recorded later."""
    until_position: int
    """Nothing is missing behind it."""
    events: int
    """How many positions hold nothing any more."""
    removed_at: int


def note(connection: Connection, removal: LogRemovalRow) -> None:
    values = removal.model_dump(exclude={"id"})
    connection.execute(insert(table_of(LogRemovalRow)), values)


def count(connection: Connection) -> int:
    """How many events are gone in all."""
    table = table_of(LogRemovalRow)
    return int(connection.execute(select(func.coalesce(func.sum(table.c.events), 0))).scalar_one())


def latest(connection: Connection, application_name: str | None) -> LogRemovalRow | None:
    """The one that reaches furthest, of those that took from an application, or from any."""
    table = table_of(LogRemovalRow)
    statement = select(table).order_by(col(LogRemovalRow.before).desc()).limit(1)
    if application_name is not None:
        statement = statement.where(col(LogRemovalRow.application_name).in_(["", application_name]))
    row = connection.execute(statement).first()
    return None if row is None else LogRemovalRow(**row._mapping)


def load_all(connection: Connection) -> list[LogRemovalRow]:
    rows = connection.execute(select(table_of(LogRemovalRow)).order_by(col(LogRemovalRow.id)))
    return [LogRemovalRow(**row._mapping) for row in rows]
