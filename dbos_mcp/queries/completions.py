"""How a name or an id may go on, for who has typed its beginning. Each question reads a few
thousand rows at most, by indexes, however many there are."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, Select, select
from sqlmodel import col

from dbos_mcp.domain import FAILED
from dbos_mcp.queries.filters import starts_with
from dbos_mcp.store.projections.applications import ApplicationRow
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.tables import table_of

MOST = 100
"""What one answer of the protocol may hold."""
LOOKED_AT = 1_000

_WORKFLOW = table_of(WorkflowRow)


@dataclass(frozen=True)
class Matches:
    values: Sequence[str]
    total: int | None
    """None: more than were looked at."""


def of(names: Iterable[str], prefix: str) -> Matches:
    """In the order that they come in."""
    found = [name for name in names if name.startswith(prefix)]
    return Matches(found[:MOST], len(found))


def application_names(connection: Connection, prefix: str) -> Matches:
    name = col(ApplicationRow.application_name)
    return of(connection.execute(select(name).order_by(name)).scalars(), prefix)


def workflow_ids(connection: Connection, application_name: str, prefix: str) -> Matches:
    """Failed ones first, the newest first. Where more start so than are looked at, they are among
    the newest of all, and filled up in the order of the ids."""
    rows = connection.execute(
        _rows(application_name)
        .where(starts_with(prefix))
        .order_by(_WORKFLOW.c.workflow_id)
        .limit(LOOKED_AT + 1)
    ).all()
    if len(rows) <= LOOKED_AT:
        return Matches(_ids(rows, prefix), len(rows))
    newest = _WORKFLOW.c.created_at.desc()
    recent = [
        *(
            row
            for status in FAILED
            for row in connection.execute(
                _rows(application_name)
                .where(_WORKFLOW.c.status == status)
                .order_by(newest)
                .limit(LOOKED_AT)
            )
        ),
        *connection.execute(_rows(application_name).order_by(newest).limit(LOOKED_AT)),
    ]
    found = dict.fromkeys([*_ids(recent, prefix), *_ids(rows, prefix)])
    return Matches([*found][:MOST], None)


def _rows(application_name: str) -> Select[str, str, int]:
    columns = _WORKFLOW.c
    return select(columns.workflow_id, columns.status, columns.created_at).where(
        columns.application_name == application_name
    )


def _ids(rows: Sequence[Row[str, str, int]], prefix: str) -> list[str]:
    begun = [row for row in rows if row.workflow_id.startswith(prefix)]
    begun.sort(key=lambda row: (row.status not in FAILED, -row.created_at, row.workflow_id))
    return [row.workflow_id for row in begun][:MOST]
