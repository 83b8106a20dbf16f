"""Runs the migrations: on the connection that the program hands over, or for `alembic revision`
against a throw-away database: in memory, or the file of `-x file=…`, for what wants it migrated."""

from alembic import context
from sqlalchemy import Connection, create_engine
from sqlmodel import SQLModel

from dbos_mcp.store import event_log, log_removals, projections, sync_state, unreadable
from dbos_mcp.store.projections import base

# Importing a module registers its tables with SQLModel.
TABLE_MODULES = (event_log, log_removals, projections, base, sync_state, unreadable)


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
    file = context.get_x_argument(as_dictionary=True).get("file", "")
    with create_engine(f"sqlite:///{file}").begin() as scratch:
        run(scratch)
