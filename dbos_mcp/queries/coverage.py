"""Whether a question reaches behind what the mirror holds, and what it therefore cannot find.

The mirror is complete back to a creation time, and holds what was in flight when it first looked,
however old; since then it has missed no end and no deletion. Of what was pruned, its log holds the
last known state alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, select
from sqlmodel import col

from dbos_mcp.domain import CONDUCTOR, IN_FLIGHT
from dbos_mcp.queries.filters import WorkflowFilter
from dbos_mcp.queries.history import HistoryEntry
from dbos_mcp.store import event_log, log_removals, sync_state
from dbos_mcp.store.log_removals import LogRemovalRow, Reason
from dbos_mcp.store.projections.workflows import WorkflowRow


class Missing(StrEnum):
    REST = "whatever an incident file does not hold"
    ENDED = "workflows that ended, created before"
    LOADING = "the same, and they are being loaded"
    ALL = "whatever ended: the first load has only begun"
    DELETED = "what was deleted upstream before the mirror first looked"
    CHANGES = "what happened before the mirror first looked"
    STATES = "the states of one workflow before it was first seen"
    PRUNED = "what led to the last known state of what ended before"
    LOST = "whatever events were lost with a damaged file"


LEFT_THE_LOG = (Missing.PRUNED, Missing.LOST)
"""It was there once."""


@dataclass(frozen=True)
class Gap:
    missing: Missing
    before: int | None = None
    """Epoch ms: of creations by upstream's clock, else by ours."""


def gap_of(connection: Connection, question: WorkflowFilter) -> Gap | None:
    """What a list or a count of workflows may lack; None: nothing, it lies inside."""
    state = sync_state.load(connection, question.application_name)
    if state.excerpt is not None:
        return Gap(Missing.REST)
    since, start = state.covered_since, question.start_time
    statuses = set(question.status) or (set(IN_FLIGHT) if question.queues_only else None)
    if statuses is not None and statuses <= set(IN_FLIGHT) and state.succeeded_at is not None:
        return None
    deleted = question.deleted_upstream
    inside = since == 0 or (since is not None and start is not None and start >= since)
    if inside and deleted is False:
        return None
    moments = (question.completed_after, question.dequeued_after, question.active_at)
    known = [moment for moment in moments if moment is not None]
    if known or deleted is not False:
        looked_at = None
        if state.succeeded_at is not None:
            looked_at = first_looked_at(connection, question.application_name)
        if looked_at is not None and any(moment >= looked_at for moment in known):
            return None
        if deleted or inside:
            within = looked_at is not None and start is not None and start >= looked_at
            return None if within else Gap(Missing.DELETED, looked_at)
    if since is None:
        return Gap(Missing.ALL)
    return Gap(Missing.ENDED if state.history_complete else Missing.LOADING, since)


def gap_of_changes(
    connection: Connection, application_name: str | None, since: int | None, after: int = 0
) -> Gap | None:
    """Of what changed since a time of our clock, in an application or in all; as the log has it,
    behind a position."""
    if sync_state.load(connection, application_name or CONDUCTOR).excerpt is not None:
        return Gap(Missing.REST)
    removal = log_removals.latest(connection, application_name)
    if removal is not None and (
        after < removal.until_position or (since is not None and since < removal.before)
    ):
        return _gap_left_by(removal)
    first = event_log.first_of(connection, application_name)
    if first is None or since is None or since >= first.recorded_at:
        return None
    return Gap(Missing.CHANGES, first.recorded_at)


def gap_of_history(
    connection: Connection,
    application_name: str,
    workflow_id: str,
    entries: Sequence[HistoryEntry],
) -> Gap | None:
    """Of what happened to one workflow, whose history is given."""
    removal = log_removals.latest(connection, application_name)
    if removal is not None and entries and _took_from(removal, entries):
        return _gap_left_by(removal)
    created_at = connection.execute(
        select(col(WorkflowRow.created_at)).where(
            col(WorkflowRow.application_name) == application_name,
            col(WorkflowRow.workflow_id) == workflow_id,
        )
    ).scalar()
    looked_at = first_looked_at(connection, application_name)
    if created_at is None or looked_at is None or created_at >= looked_at:
        return None
    return Gap(Missing.STATES, entries[0].recorded_at)


def _took_from(removal: LogRemovalRow, entries: Sequence[HistoryEntry]) -> bool:
    """Whether it may have; what was pruned had not been heard of since."""
    if removal.reason == Reason.PRUNED:
        return entries[-1].recorded_at < removal.before
    return entries[0].position <= removal.until_position


def _gap_left_by(removal: LogRemovalRow) -> Gap:
    missing = Missing.PRUNED if removal.reason == Reason.PRUNED else Missing.LOST
    return Gap(missing, removal.before)


def first_looked_at(connection: Connection, application_name: str) -> int | None:
    """When the first workflow of an application was seen, by our clock. None: none has been, or
    only long after the application was listed."""
    excerpt = sync_state.load(connection, application_name).excerpt_of
    if excerpt is not None:
        return excerpt.first_looked_at
    listed = event_log.first_of(connection, application_name)
    if listed is None:
        return None
    seen = event_log.first_of_workflows(connection, application_name, listed.position)
    return None if seen is None else seen.recorded_at
