"""How syncing goes: how far, how fresh, at what cost, and what comes next."""

from enum import StrEnum
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Connection, func, select
from sqlmodel import col

from dbos_mcp.domain import CONDUCTOR, FAILED, TERMINAL, EpochMs, now_ms
from dbos_mcp.queries.applications import require_application
from dbos_mcp.store import engine, event_log, log_removals, sync_state, unreadable
from dbos_mcp.store.event_log import EventRow
from dbos_mcp.store.projections.applications import ApplicationRow
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.sync_state import StepDueRow, SyncStateRow


class SyncCondition(StrEnum):
    """What the last look came to."""

    LIVE = "live"
    LOADING = "loading"
    OFFLINE = "offline"
    LOGIN_NEEDED = "login needed"
    FAILING = "failing"
    NOT_SEEN = "not looked at yet"
    EXCERPT = "excerpt"


class SyncItem(BaseModel):
    """Of one application, or of the list of them. Times are by our clock, but `covered_since`."""

    condition: SyncCondition
    as_of: EpochMs | None = None
    """When the last complete look began."""
    attempted_at: EpochMs | None = None
    offline_since: EpochMs | None = None
    last_error: str | None = None
    unreadable: int = 0
    """How many rows of upstream's could not be read, and are missing here or not up to date."""
    unreadable_example: str | None = None
    """One of them, and why."""
    next_at: EpochMs | None = None
    """None: once somebody asks."""
    requests: int
    failed_requests: int
    bytes_sent: int
    bytes_received: int


class ApplicationSync(SyncItem):
    application_name: str
    covered_since: EpochMs | None = None
    """Workflows created before it may be missing; 0: none are."""
    history_complete: bool
    steps_pending: int
    audited_at: EpochMs | None = None
    audit_found: int
    """How many changes only audits have found."""
    asked_at: EpochMs | None = None
    """When somebody last asked about it, or about all."""
    redacted: dict[str, int] = {}
    """How many secrets of which kind were taken out before anything was stored."""


class SyncStatus(BaseModel):
    applications: list[ApplicationSync]
    conductor: SyncItem
    """The list of applications itself, and what concerns none of them."""
    events: int
    """How many the log holds."""
    bytes: int
    """The size of the cache."""


def sync_status(
    connection: Connection, application_name: str | None = None, *, now: int
) -> SyncStatus:
    """Of all applications, by name, or of one. `now` is the time by our clock.

    Raises:
        NotFoundError: an application that was never listed.
    """
    if application_name is not None:
        require_application(connection, application_name)
    known = col(ApplicationRow.application_name)
    names = connection.execute(select(known).order_by(known)).scalars()
    states = sync_state.load_all(connection)
    questions = sync_state.questions(connection)
    redactions = sync_state.redactions(connection)
    conductor = states.get(CONDUCTOR) or SyncStateRow(application_name=CONDUCTOR)
    applications = []
    for name in names:
        if application_name in (None, name):
            state = states.get(name) or SyncStateRow(application_name=name)
            asked = [questions[key] for key in (name, CONDUCTOR) if key in questions]
            applications.append(
                ApplicationSync(
                    **_of(connection, state, conductor),
                    steps_pending=steps_pending(connection, name, now=now),
                    asked_at=max(asked, default=None),
                    redacted=redactions.get(name, {}),
                )
            )
    return SyncStatus(
        applications=applications,
        conductor=SyncItem(**_of(connection, conductor, conductor)),
        events=(
            event_log.count(connection)
            if conductor.excerpt is not None
            else event_log.last_position(connection) - log_removals.count(connection)
        ),
        bytes=engine.size_bytes(connection),
    )


def steps_pending(connection: Connection, application_name: str, *, now: int | None = None) -> int:
    """Of how many workflows the steps are to be read by now; those of running ones are read again
    and again. Counted by indexes alone: of the history that waits for the background, also the
    deleted ones and those that were read when somebody asked."""
    queued = select(func.count()).where(
        col(StepDueRow.application_name) == application_name,
        col(StepDueRow.due_at) <= (now_ms() if now is None else now),
    )
    history = select(func.count()).where(
        col(WorkflowRow.application_name) == application_name,
        col(WorkflowRow.status).in_([status for status in TERMINAL if status not in FAILED]),
    )
    walked_to = sync_state.load(connection, application_name).steps_since
    if walked_to is not None:
        history = history.where(col(WorkflowRow.created_at) < walked_to)
    return connection.execute(queued).scalar_one() + connection.execute(history).scalar_one()


def events_since(connection: Connection, application_name: str, position: int) -> int:
    """How many events of an application are in the log behind `position`."""
    return connection.execute(
        select(func.count()).where(
            col(EventRow.position) > position, col(EventRow.application_name) == application_name
        )
    ).scalar_one()


def _of(connection: Connection, state: SyncStateRow, conductor: SyncStateRow) -> dict[str, Any]:
    count, example = unreadable.summary(connection, state.application_name)
    return {
        **state.model_dump(),
        "unreadable": count,
        "unreadable_example": example and f"{example.subject} ({example.reason})",
        "as_of": state.succeeded_at,
        "condition": _condition(state, conductor),
    }


def _condition(state: SyncStateRow, conductor: SyncStateRow) -> SyncCondition:
    if state.excerpt is not None:
        return SyncCondition.EXCERPT
    if state.login_needed or conductor.login_needed:
        return SyncCondition.LOGIN_NEEDED
    if state.offline_since is not None:
        return SyncCondition.OFFLINE
    if state.last_error is not None:
        return SyncCondition.FAILING
    if state.attempted_at is None and state.covered_since is None:
        return SyncCondition.NOT_SEEN
    if state is not conductor and not state.history_complete:
        return SyncCondition.LOADING
    return SyncCondition.LIVE
