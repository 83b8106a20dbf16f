"""The processes that run an application, connected or not."""

from sqlalchemy import UniqueConstraint
from sqlmodel import Field, SQLModel

from dbos_mcp.store.events import ExecutorObserved
from dbos_mcp.store.projections.base import newest_by_key


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


PROJECTION = newest_by_key(
    "executors", 1, ExecutorRow, ExecutorObserved, ("application_name", "executor_id")
)
