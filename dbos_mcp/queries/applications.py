"""Applications and their executors."""

from collections import Counter, defaultdict

from pydantic import BaseModel
from sqlalchemy import Connection, Select, func, select
from sqlmodel import col

from dbos_mcp.domain import CONDUCTOR, FAILED, IN_FLIGHT, EpochMs
from dbos_mcp.errors import NotFoundError
from dbos_mcp.store import sync_state
from dbos_mcp.store.projections import workflow_counts
from dbos_mcp.store.projections.applications import ApplicationRow
from dbos_mcp.store.projections.executors import ExecutorRow
from dbos_mcp.store.projections.workflow_counts import WorkflowCountRow
from dbos_mcp.store.projections.workflows import WorkflowRow
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
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for application_name, status, number in connection.execute(_by_status(connection)):
        counts[application_name][status] = number
    items = []
    for row in connection.execute(
        select(table_of(ApplicationRow)).order_by(col(ApplicationRow.application_name))
    ):
        count = counts[row.application_name]
        state = sync_state.load(connection, row.application_name)
        items.append(
            ApplicationItem(
                application_name=row.application_name,
                status=row.status,
                language=row.language,
                private_mode=row.private_mode,
                workflows=count.total(),
                in_flight=sum(count[status] for status in IN_FLIGHT),
                failed=sum(count[status] for status in FAILED),
                as_of=state.succeeded_at,
                covered_since=state.covered_since,
                history_complete=state.history_complete,
                offline_since=state.offline_since,
            )
        )
    if not items:
        _refuse_to_call_unseen_empty(connection)
    return items


def _by_status(connection: Connection) -> Select[str, str, int]:
    """How many workflows each application has upstream, of each status."""
    if workflow_counts.are_kept(connection):
        application_name, status = (
            col(WorkflowCountRow.application_name),
            col(WorkflowCountRow.status),
        )
        counted = select(application_name, status, func.sum(col(WorkflowCountRow.count)))
        counted = counted.where(col(WorkflowCountRow.deleted).is_(False))
    else:
        application_name, status = col(WorkflowRow.application_name), col(WorkflowRow.status)
        counted = select(application_name, status, func.count())
        counted = counted.where(col(WorkflowRow.deleted_at).is_(None))
    return counted.group_by(application_name, status)


def is_known(connection: Connection, application_name: str) -> bool:
    """Whether the application was ever listed."""
    name = col(ApplicationRow.application_name)
    return connection.execute(select(name).where(name == application_name)).first() is not None


def is_private(connection: Connection, application_name: str) -> bool:
    """Whether Conductor withholds what its workflows were given, and gave."""
    mode = select(col(ApplicationRow.private_mode)).where(
        col(ApplicationRow.application_name) == application_name
    )
    return bool(connection.execute(mode).scalar())


def require_application(connection: Connection, application_name: str) -> None:
    """Raises NotFoundError, with the names that there are, for an application never listed."""
    if is_known(connection, application_name):
        return
    name = col(ApplicationRow.application_name)
    known = connection.execute(select(name).order_by(name)).scalars().all()
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
