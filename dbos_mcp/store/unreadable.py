"""What Conductor showed and could not be read: set aside, so that the rest goes on, and told of.

That is no fact about Conductor, so it is a plain table and no events. A row goes when what it is
about is read at last, or is gone.
"""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, delete, exists, func, select
from sqlalchemy.dialects.sqlite import insert
from sqlmodel import Field, SQLModel, col

from dbos_mcp.store.tables import batches, table_of

MOST = 10_000
"""Rows of one application; beyond them, only those that are there already are kept up to date."""

WORKFLOW, STEP, EXECUTOR, APPLICATION = "workflow", "step", "executor", "application"


class UnreadableRow(SQLModel, table=True):
    """Times are epoch milliseconds: `created_at` by upstream's clock, `seen_at` by ours."""

    __tablename__ = "unreadable"

    application_name: str = Field(primary_key=True)
    subject: str = Field(primary_key=True)
    """What it is about, in words."""
    kind: str
    reason: str
    workflow_id: str | None = None
    """None: there is none, or none that could be asked for."""
    status: str | None = None
    created_at: int | None = None
    seen_at: int


def note(connection: Connection, rows: Sequence[UnreadableRow]) -> None:
    """Set aside, or note that it still is so."""
    for batch in batches(rows):
        counted = connection.execute(
            select(func.count()).where(*_of(batch[0].application_name))
        ).scalar_one()
        statement = insert(UnreadableRow).values([row.model_dump() for row in batch])
        if counted < MOST:
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["application_name", "subject"],
                    set_={column.name: column for column in statement.excluded},
                )
            )


def clear(
    connection: Connection, application_name: str, workflow_ids: Sequence[str], kind: str = WORKFLOW
) -> None:
    """These were read, or are gone."""
    if not connection.execute(select(exists().where(*_of(application_name)))).scalar_one():
        return
    for batch in batches(workflow_ids):
        _delete(
            connection,
            *_of(application_name),
            col(UnreadableRow.kind) == kind,
            col(UnreadableRow.workflow_id).in_(batch),
        )


def clear_all(connection: Connection, application_name: str, kind: str) -> None:
    """All of a kind were listed."""
    _delete(connection, *_of(application_name), col(UnreadableRow.kind) == kind)


def workflows(connection: Connection, application_name: str) -> list[UnreadableRow]:
    rows = connection.execute(
        select(table_of(UnreadableRow)).where(
            *_of(application_name), col(UnreadableRow.kind) == WORKFLOW
        )
    )
    return [UnreadableRow(**row._mapping) for row in rows]


def find(connection: Connection, application_name: str, workflow_id: str) -> UnreadableRow | None:
    """A workflow that could not be read when it was last seen."""
    rows = workflows(connection, application_name)
    return next((row for row in rows if row.workflow_id == workflow_id), None)


def is_any_overdue(connection: Connection, application_name: str, *, before: int) -> bool:
    """Whether some workflow was not seen again since."""
    return bool(
        connection.execute(
            select(exists().where(*_not_seen_since(application_name, before)))
        ).scalar_one()
    )


def overdue(connection: Connection, application_name: str, *, before: int, limit: int) -> list[str]:
    """The ids of those that were not seen again since; those without one are forgotten."""
    found = _not_seen_since(application_name, before)
    workflow_id = col(UnreadableRow.workflow_id)
    _delete(connection, *found, workflow_id.is_(None))
    ids = connection.execute(
        select(workflow_id).where(*found).order_by(col(UnreadableRow.seen_at)).limit(limit)
    ).scalars()
    return [each for each in ids if each is not None]


def summary(connection: Connection, application_name: str) -> tuple[int, UnreadableRow | None]:
    """How many, and the one that was seen last."""
    count = connection.execute(select(func.count()).where(*_of(application_name))).scalar_one()
    last = connection.execute(
        select(table_of(UnreadableRow))
        .where(*_of(application_name))
        .order_by(col(UnreadableRow.seen_at).desc(), col(UnreadableRow.subject))
        .limit(1)
    ).first()
    return count, None if last is None else UnreadableRow(**last._mapping)


def _of(application_name: str) -> tuple[ColumnElement[bool], ...]:
    return (col(UnreadableRow.application_name) == application_name,)


def _delete(connection: Connection, *where: ColumnElement[bool]) -> None:
    connection.execute(delete(table_of(UnreadableRow)).where(*where))


def _not_seen_since(application_name: str, before: int) -> tuple[ColumnElement[bool], ...]:
    return (
        *_of(application_name),
        col(UnreadableRow.kind) == WORKFLOW,
        col(UnreadableRow.seen_at) < before,
    )
