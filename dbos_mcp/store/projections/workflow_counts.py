"""How many workflows of each kind were created on each day, for every kind that there is.

Triggers keep the counts, whatever changes a workflow, so they are a function of the workflows
alone. Many rows in a row are better stored without them and counted afterwards. A table without its
triggers is empty: then there are no counts to go by, and every answer is the same, only later.
"""

from sqlalchemy import Connection
from sqlmodel import Field, SQLModel

DAY_MS = 86_400_000
NULL = b""
"""In a column of the counts, whose key can hold no null; no text equals it."""


class WorkflowCountRow(SQLModel, table=True):
    """`day` is counted from the epoch, in UTC."""

    __tablename__ = "workflow_count"
    __table_args__ = ({"sqlite_with_rowid": False},)

    application_name: str = Field(primary_key=True)
    day: int = Field(primary_key=True)
    status: str = Field(primary_key=True)
    workflow_name: str = Field(primary_key=True)
    queue_name: str = Field(primary_key=True)
    executor_id: str = Field(primary_key=True)
    application_version: str = Field(primary_key=True)
    has_parent: bool = Field(primary_key=True)
    was_forked_from: bool = Field(primary_key=True)
    deleted: bool = Field(primary_key=True)
    count: int


_MADE_OF = {
    "application_name": "application_name",
    "created_at": f"created_at / {DAY_MS} - (created_at % {DAY_MS} < 0)",  # rounded down
    "status": "status",
    "workflow_name": "ifnull(workflow_name, x'')",
    "queue_name": "ifnull(queue_name, x'')",
    "executor_id": "ifnull(executor_id, x'')",
    "application_version": "ifnull(application_version, x'')",
    "parent_workflow_id": "parent_workflow_id IS NOT NULL",
    "was_forked_from": "was_forked_from",
    "deleted_at": "deleted_at IS NOT NULL",
}
"""The key, in its order: of which column of a workflow each part is made, and how."""


def _kind(row: str) -> str:
    return ", ".join(made.replace(column, f"{row}.{column}") for column, made in _MADE_OF.items())


_AND_ONE = "ON CONFLICT DO UPDATE SET count = count + 1"
_COUNT_ALL = (
    f"INSERT INTO workflow_count SELECT {_kind('workflow')}, 1 FROM workflow WHERE TRUE {_AND_ONE}"
)
_ADD = f"INSERT INTO workflow_count VALUES ({_kind('NEW')}, 1) {_AND_ONE}"
_IS_OLD = (
    "(application_name, day, status, workflow_name, queue_name, executor_id, application_version,"
    f" has_parent, was_forked_from, deleted) = ({_kind('OLD')})"
)
_TAKE = (
    f"UPDATE workflow_count SET count = count - 1 WHERE {_IS_OLD};"
    f" DELETE FROM workflow_count WHERE count = 0 AND {_IS_OLD}"
)
TRIGGERS = {
    "workflow_count_insert": f"AFTER INSERT ON workflow BEGIN {_ADD}; END",
    "workflow_count_update": (
        f"AFTER UPDATE OF {', '.join(_MADE_OF)} ON workflow"
        f" WHEN ({_kind('NEW')}) IS NOT ({_kind('OLD')}) BEGIN {_TAKE}; {_ADD}; END"
    ),
    "workflow_count_delete": f"AFTER DELETE ON workflow BEGIN {_TAKE}; END",
}


def are_kept(connection: Connection) -> bool:
    there = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    return TRIGGERS.keys() <= set(there.scalars())


def drop(connection: Connection) -> None:
    for name in TRIGGERS:
        connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}")
    connection.exec_driver_sql("DELETE FROM workflow_count")


def build(connection: Connection) -> None:
    """Does nothing when somebody else has built them."""
    if are_kept(connection):
        return
    drop(connection)
    connection.exec_driver_sql(_COUNT_ALL)
    for name, what in TRIGGERS.items():
        connection.exec_driver_sql(f"CREATE TRIGGER {name} {what}")
