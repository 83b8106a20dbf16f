"""The applications that Conductor lists."""

from sqlmodel import Field, SQLModel

from dbos_mcp.store.events import ApplicationObserved
from dbos_mcp.store.projections.base import newest_by_key


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


PROJECTION = newest_by_key(
    "applications", 1, ApplicationRow, ApplicationObserved, ("application_name",)
)
