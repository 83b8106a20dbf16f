"""What the sync worker knows of itself: how far it has seen, and whether upstream answers.

These are not facts about Conductor, so they are plain tables and no events.
"""

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert
from sqlmodel import Field, SQLModel, col

from dbos_mcp.store.tables import table_of

CONDUCTOR = ""
"""The name under which the list of applications itself is kept in `sync_state`."""


class SyncStateRow(SQLModel, table=True):
    """One application's place. All times are epoch milliseconds: the first three upstream's clock,
    the others ours."""

    __tablename__ = "sync_state"

    application_name: str = Field(primary_key=True)
    watermark: int | None = None
    """Every workflow created before it was seen; the next look starts here."""
    ended_watermark: int | None = None
    """Every end of a workflow before it was seen."""
    covered_since: int | None = None
    """The mirror is complete from this creation time on; it walks back during the first load."""
    history_complete: bool = False
    """The first load has reached as far back as it was asked to."""
    attempted_at: int | None = None
    succeeded_at: int | None = None
    offline_since: int | None = None
    last_error: str | None = None


class StepReadingRow(SQLModel, table=True):
    """When a workflow's steps were read, and which state of the workflow they belong to."""

    __tablename__ = "step_reading"
    __table_args__ = {"sqlite_with_rowid": False}

    application_name: str = Field(primary_key=True)
    workflow_id: str = Field(primary_key=True)
    read_at: int
    workflow_updated_at: int


def load(connection: Connection, application_name: str) -> SyncStateRow:
    """The state of an application, a blank one when nothing is known yet."""
    row = connection.execute(
        select(table_of(SyncStateRow)).where(col(SyncStateRow.application_name) == application_name)
    ).first()
    if row is None:
        return SyncStateRow(application_name=application_name)
    return SyncStateRow(**row._mapping)


def save(connection: Connection, state: SyncStateRow) -> None:
    values = state.model_dump()
    statement = insert(SyncStateRow).values(values)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["application_name"], set_=values)
    )


def note_step_reading(
    connection: Connection, application_name: str, workflow_id: str, *, updated_at: int, now: int
) -> None:
    values = {"read_at": now, "workflow_updated_at": updated_at}
    statement = insert(StepReadingRow).values(
        application_name=application_name, workflow_id=workflow_id, **values
    )
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["application_name", "workflow_id"], set_=values
        )
    )
