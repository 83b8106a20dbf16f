"""Runs the migrations: on the connection that the program hands over, or for `alembic revision`
against a throw-away database in memory."""

from alembic import context
from sqlalchemy import Connection, create_engine
from sqlmodel import SQLModel

from dbos_mcp.store import event_log, log_removals, projections, sync_state
from dbos_mcp.store.projections import base

# Importing a module registers its tables with SQLModel.
TABLE_MODULES = (event_log, log_removals, projections, base, sync_state)


def run(connection: Connection) -> None:
    context.configure(
        connection=connection, target_metadata=SQLModel.metadata, render_as_batch=True
    )
    with context.begin_transaction():
        context.run_migrations()


handed_over = context.config.attributes.get("connection")
if handed_over is not None:
    run(handed_over)
else:
    with create_engine("sqlite://").begin() as scratch:
        run(scratch)
