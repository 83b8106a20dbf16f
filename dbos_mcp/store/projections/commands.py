"""What was asked for through this cache, and what came of it."""

import json
from collections.abc import Sequence

from sqlalchemy import Connection, Index, bindparam, insert, update
from sqlmodel import Field, SQLModel, col

from dbos_mcp.store.event_log import Recorded
from dbos_mcp.store.events import CommandIssued, CommandSettled
from dbos_mcp.store.projections.base import Projection


class CommandRow(SQLModel, table=True):
    """A row without an outcome was sent by a process that ended before it heard the answer; one
    without a workflow is about what its arguments name."""

    __tablename__ = "command"
    __table_args__ = (Index("ix_command_workflow", "application_name", "workflow_id"),)

    id: int = Field(primary_key=True)
    command_id: str = Field(unique=True)
    application_name: str
    workflow_id: str | None = None
    command: str
    arguments: str
    issued_at: int
    settled_at: int | None = None
    outcome: str | None = None
    detail: str | None = None
    new_workflow_id: str | None = None


_SETTLE = (
    update(CommandRow)
    .where(col(CommandRow.command_id) == bindparam("settled_id"))
    .values(
        settled_at=bindparam("at"),
        outcome=bindparam("its_outcome"),
        detail=bindparam("its_detail"),
        new_workflow_id=bindparam("its_new_workflow_id"),
    )
)


def apply(connection: Connection, batch: Sequence[Recorded]) -> None:
    for position, recorded_at, event in batch:
        if isinstance(event, CommandIssued):
            connection.execute(
                insert(CommandRow),
                {
                    "id": position,
                    "command_id": event.command_id,
                    "application_name": event.application_name,
                    "workflow_id": event.workflow_id,
                    "command": event.command,
                    "arguments": json.dumps(event.arguments, sort_keys=True),
                    "issued_at": recorded_at,
                },
            )
        elif isinstance(event, CommandSettled):
            connection.execute(
                _SETTLE,
                {
                    "settled_id": event.command_id,
                    "at": recorded_at,
                    "its_outcome": event.outcome,
                    "its_detail": event.detail,
                    "its_new_workflow_id": event.new_workflow_id,
                },
            )


PROJECTION = Projection("commands", 1, (CommandRow,), apply)
