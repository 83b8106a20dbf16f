"""Applications and their executors."""

from pydantic import BaseModel
from sqlalchemy import Connection, func, select
from sqlmodel import col

from dbos_mcp.domain import FAILED, IN_FLIGHT, EpochMs
from dbos_mcp.errors import NotFoundError
from dbos_mcp.store import sync_state
from dbos_mcp.store.projections.applications import ApplicationRow
from dbos_mcp.store.projections.executors import ExecutorRow
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.sync_state import CONDUCTOR
from dbos_mcp.store.tables import table_of


class ApplicationItem(BaseModel):
    """An application, and how much of it is mirrored."""

    application_name: str
    status: str
    language: str | None = None
    private_mode: bool
    workflows: int
    in_flight: int
    failed: int
    as_of: EpochMs | None = None
    covered_since: EpochMs | None = None
    history_complete: bool = False
    offline_since: EpochMs | None = None


class ExecutorItem(BaseModel):
    executor_id: str
    status: str
    application_version: str | None = None
    hostname: str | None = None
    language: str | None = None
    dbos_version: str | None = None
    created_at: EpochMs
    updated_at: EpochMs
    observed_at: EpochMs


def list_applications(connection: Connection) -> list[ApplicationItem]:
    """All that were ever listed, by name.

    Raises:
        NotFoundError: none, because Conductor could not be asked; it says why.
    """
    alive = col(WorkflowRow.deleted_at).is_(None)
    status = col(WorkflowRow.status)
    counts = {
        row.application_name: row
        for row in connection.execute(
            select(
                col(WorkflowRow.application_name),
                func.count().label("workflows"),
                func.count().filter(status.in_(IN_FLIGHT)).label("in_flight"),
                func.count().filter(status.in_(FAILED)).label("failed"),
            )
            .where(alive)
            .group_by(col(WorkflowRow.application_name))
        )
    }
    items = []
    for row in connection.execute(
        select(table_of(ApplicationRow)).order_by(col(ApplicationRow.application_name))
    ):
        count = counts.get(row.application_name)
        state = sync_state.load(connection, row.application_name)
        items.append(
            ApplicationItem(
                application_name=row.application_name,
                status=row.status,
                language=row.language,
                private_mode=row.private_mode,
                workflows=count.workflows if count else 0,
                in_flight=count.in_flight if count else 0,
                failed=count.failed if count else 0,
                as_of=state.succeeded_at,
                covered_since=state.covered_since,
                history_complete=state.history_complete,
                offline_since=state.offline_since,
            )
        )
    if not items:
        _refuse_to_call_unseen_empty(connection)
    return items


def require_application(connection: Connection, application_name: str) -> None:
    """Raises NotFoundError, with the names that there are, for an application never listed."""
    names = connection.execute(
        select(col(ApplicationRow.application_name)).order_by(col(ApplicationRow.application_name))
    ).scalars()
    known = list(names)
    if application_name not in known:
        if not known:
            _refuse_to_call_unseen_empty(connection)
        raise NotFoundError(
            f"No application {application_name!r} is known here.",
            hint=f"Known: {', '.join(known[:20]) or 'none'}.",
        )


def list_executors(connection: Connection, application_name: str) -> list[ExecutorItem]:
    """The newest first, those that Conductor no longer lists at the end."""
    require_application(connection, application_name)
    rows = connection.execute(
        select(table_of(ExecutorRow))
        .where(col(ExecutorRow.application_name) == application_name)
        .order_by(
            (col(ExecutorRow.status) == "REMOVED"),
            col(ExecutorRow.created_at).desc(),
            col(ExecutorRow.id),
        )
    )
    return [ExecutorItem.model_validate(row, from_attributes=True) for row in rows]


def _refuse_to_call_unseen_empty(connection: Connection) -> None:
    reason = sync_state.load(connection, CONDUCTOR).last_error
    if reason is not None:
        raise NotFoundError("Nothing has been mirrored yet.", hint=reason)
