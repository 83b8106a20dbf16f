"""Upstream's own counts: what tells cheaply whether the mirror has missed something."""

import logging
from collections.abc import Sequence

from dbos_mcp.conductor.models import WorkflowAggregate, WorkflowAggregateQuery
from dbos_mcp.errors import (
    AuthenticationError,
    ConductorError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
)
from dbos_mcp.sync.known import Counts, Span
from dbos_mcp.sync.visit import Visit

logger = logging.getLogger(__name__)

REFUSED_PAUSE_MS = 3_600_000

_NOT_A_LACK = (AuthenticationError, PermissionDeniedError, RateLimitError)


def are_refused(visit: Visit) -> bool:
    """Whether upstream said a while ago that it does not count."""
    refused_at = visit.memory.aggregates_refused_at
    return refused_at is not None and 0 <= visit.started_at - refused_at < REFUSED_PAUSE_MS


async def count_workflows(visit: Visit, statuses: Sequence[str]) -> dict[str, int] | None:
    """By status, those of which there are none left out; None where upstream does not count."""
    query = WorkflowAggregateQuery(status=list(statuses), group_by_status=True, select_count=True)
    answer = await _ask(visit, query)
    if answer is None:
        return None
    return {str(group.group.get("status")): group.count for group in answer if group.count}


async def count_created(visit: Visit, span: Span, bucket_ms: int) -> Counts | None:
    """Of the workflows created in a span; None where upstream does not count."""
    query = WorkflowAggregateQuery(
        start_time=span.start,
        end_time=span.end - 1,
        group_by_status=True,
        time_bucket_size_ms=bucket_ms,
        select_count=True,
    )
    answer = await _ask(visit, query)
    if answer is None:
        return None
    try:
        return {
            (int(group.group["time_bucket"] or ""), str(group.group["status"])): group.count
            for group in answer
            if group.count
        }
    except (KeyError, ValueError) as error:
        _refused(visit, error)
        return None


async def _ask(visit: Visit, query: WorkflowAggregateQuery) -> list[WorkflowAggregate] | None:
    memory = visit.memory
    if are_refused(visit):
        return None
    try:
        answer = await visit.mirror.client.get_workflow_aggregates(visit.name, query)
    except _NOT_A_LACK:
        raise
    except (ConductorError, NotFoundError) as error:
        # Where it is the application that is away, the listing that follows says so.
        _refused(visit, error)
        return None
    memory.aggregates_refused_at = None
    return answer


def _refused(visit: Visit, error: Exception) -> None:
    logger.info("%s does not count workflows: %s", visit.name, error)
    visit.memory.aggregates_refused_at = visit.started_at
