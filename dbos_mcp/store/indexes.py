"""The indexes that many rows in a row are better stored without: they are built afterwards.

That is faster than keeping them up to date, and sorted pages are full, where pages that grew are
half empty. Without them every answer is the same, only later: so a crash in between harms nothing,
and whoever syncs next builds what is missing.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, Index

from dbos_mcp.store.event_log import EventRow
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.tables import table_of

_KEPT = {"ux_workflow", "ix_workflow_created_at"}
"""Rows are found by id when they come, and listed by age also meanwhile."""
_LAST = "ix_workflow_completed_at"
"""Where several are as good, SQLite takes the newest: then an application's workflows are read
nearly in the order in which they are stored, and not three times as long."""

DEFERRED: Sequence[Index] = sorted(
    (
        index
        for table in (EventRow, WorkflowRow)
        for index in table_of(table).indexes
        if index.name not in _KEPT
    ),
    key=lambda index: (index.name == _LAST, str(index.name)),
)


def drop(connection: Connection, indexes: Sequence[Index] = DEFERRED) -> None:
    for index in indexes:
        index.drop(connection, checkfirst=True)


def pack(connection: Connection) -> None:
    """The one that grew newest first, with pages half empty; the others then fill what that
    leaves."""
    connection.exec_driver_sql("REINDEX ix_workflow_created_at")


def missing(connection: Connection) -> list[Index]:
    names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'index'")
    there = set(names.scalars())
    return [index for index in DEFERRED if index.name not in there]


def build(connection: Connection, index: Index) -> None:
    """Does nothing when somebody else has built it."""
    index.create(connection, checkfirst=True)
