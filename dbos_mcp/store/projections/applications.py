"""The applications that Conductor lists."""

from collections.abc import Sequence

from sqlalchemy import Connection
from sqlalchemy.dialects.sqlite import insert
from sqlmodel import Field, SQLModel

from dbos_mcp.store.event_log import Recorded
from dbos_mcp.store.events import ApplicationObserved
from dbos_mcp.store.projections.base import Projection
from dbos_mcp.store.tables import RowStatement


class ApplicationRow(SQLModel, table=True):
    __tablename__ = "application"

    id: int = Field(primary_key=True)
    application_name: str = Field(unique=True)
    application_id: str
    status: str
    language: str | None = None
    private_mode: bool
    dbos_cloud: bool
    executor_timeout_secs: int | None = None
    gc_rows_threshold: int | None = None
    gc_time_threshold_ms: int | None = None
    global_timeout_ms: int | None = None
    observed_at: int


_insert = insert(ApplicationRow)
_UPSERT = RowStatement(
    _insert.on_conflict_do_update(
        index_elements=["application_name"],
        set_={
            column.name: column
            for column in _insert.excluded
            if column.name not in ("id", "application_name")
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
        if isinstance(event, ApplicationObserved)
    ]
    _UPSERT.run(connection, rows)


PROJECTION = Projection("applications", 1, (ApplicationRow,), apply)
