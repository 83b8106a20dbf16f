"""The processes that run an application, connected or not."""

from collections.abc import Sequence

from sqlalchemy import Connection, UniqueConstraint
from sqlalchemy.dialects.sqlite import insert
from sqlmodel import Field, SQLModel

from dbos_mcp.store.event_log import Recorded
from dbos_mcp.store.events import ExecutorObserved
from dbos_mcp.store.projections.base import Projection
from dbos_mcp.store.tables import RowStatement


class ExecutorRow(SQLModel, table=True):
    __tablename__ = "executor"
    __table_args__ = (UniqueConstraint("application_name", "executor_id"),)

    id: int = Field(primary_key=True)
    application_name: str
    executor_id: str
    status: str
    application_version: str | None = None
    hostname: str | None = None
    host_id: str | None = None
    language: str | None = None
    dbos_version: str | None = None
    executor_metadata: str | None = None
    created_at: int
    updated_at: int
    observed_at: int


_insert = insert(ExecutorRow)
_UPSERT = RowStatement(
    _insert.on_conflict_do_update(
        index_elements=["application_name", "executor_id"],
        set_={
            column.name: column
            for column in _insert.excluded
            if column.name not in ("id", "application_name", "executor_id")
        },
    )
)


def apply(connection: Connection, batch: Sequence[Recorded]) -> None:
    rows = [
        {
            "id": position,
            "observed_at": recorded_at,
            **vars(event),
        }
        for position, recorded_at, event in batch
        if isinstance(event, ExecutorObserved)
    ]
    _UPSERT.run(connection, rows)


PROJECTION = Projection("executors", 1, (ExecutorRow,), apply)
