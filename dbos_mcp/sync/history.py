"""The first load: from the newest workflow back, as far as was asked; then the texts that are kept.

It goes on where it stopped. The first page is there soon, and whole. Of those behind it the texts
come when all are listed, so that the mirror reaches back sooner.
"""

from functools import partial

from sqlalchemy import Connection

from dbos_mcp.conductor.models import WorkflowSearch
from dbos_mcp.domain import WorkflowStatus
from dbos_mcp.store import event_log, indexes
from dbos_mcp.store.projections import workflow_counts
from dbos_mcp.sync import known
from dbos_mcp.sync.diff import kept_texts
from dbos_mcp.sync.listing import each_page
from dbos_mcp.sync.mirror import IDS_PER_REQUEST, Look
from dbos_mcp.sync.visit import Visit

LARGER_PAGES = 4
"""Later pages hold so many times more rows than the first, which is to be there soon."""


async def read_history(visit: Visit) -> None:
    state, history_ms = visit.state, visit.history_ms
    oldest = 0 if history_ms is None else max(0, visit.started_at - history_ms)
    # An application without workflows has no place to go on from: it is asked afresh.
    reached = state.covered_since if state.watermark is not None else None
    if state.history_complete and reached is not None and reached <= oldest:
        return

    async def record(page: Look) -> None:
        nonlocal reached
        last = page.rows[-1].created_at + 1  # its ties may be on the next page
        reached = last if reached is None else min(last, reached)
        changes: dict[str, int | bool] = {"covered_since": reached, "history_complete": False}
        if state.watermark is None:
            changes["watermark"] = visit.behind(page.rows[0].created_at)
            moved = visit.behind(max(row.updated_at for row in page.rows))
            changes |= {"ended_watermark": moved, "dequeued_watermark": moved}
        is_first = state.covered_since is None
        await visit.record(page, "history", new_without_texts=not is_first, **changes)
        if is_first and len(page.rows) >= visit.page_limit:
            await visit.mirror.write(partial(_drop_indexes, most_rows=2 * len(page.rows)))

    await each_page(
        visit.mirror,
        visit.name,
        WorkflowSearch(start_time=oldest or None, end_time=reached),
        "descending",
        record,
        limit=visit.page_limit,
        largest=LARGER_PAGES * visit.page_limit,
    )
    await visit.mirror.build_indexes()
    await _read_texts(visit)
    reached = oldest if reached is None else min(oldest, reached)
    await visit.move_on(covered_since=reached, history_complete=True)


async def _read_texts(visit: Visit) -> None:
    """Of the workflows that were listed without."""
    statuses = [s for s in WorkflowStatus if kept_texts(visit.mirror.payloads, s)]
    position: int | None = 0
    while position is not None and statuses:
        ids, position = await visit.mirror.read(
            partial(
                known.without_texts,
                application_name=visit.name,
                statuses=statuses,
                position=position,
                limit=IDS_PER_REQUEST,
            )
        )
        await visit.reread(ids)
        await visit.mirror.fold_back()
        visit.progress(visit.name, "texts", visit.report.workflows_seen)


def _drop_indexes(connection: Connection, most_rows: int) -> None:
    """Unless other applications have filled the cache already."""
    if event_log.last_position(connection) <= most_rows:
        indexes.drop(connection)
        workflow_counts.drop(connection)
