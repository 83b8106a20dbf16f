"""The first load: from the newest workflow back, as far as was asked.

It goes on where it stopped.
"""

from functools import partial

from sqlalchemy import Connection

from dbos_mcp.conductor.models import WorkflowSearch
from dbos_mcp.store import event_log, indexes
from dbos_mcp.sync.listing import each_page
from dbos_mcp.sync.mirror import Look
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
        fills_an_empty_cache = state.covered_since is None and len(page.rows) >= visit.page_limit
        await visit.record(page, "history", **changes)
        if fills_an_empty_cache:
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
    reached = oldest if reached is None else min(oldest, reached)
    await visit.move_on(covered_since=reached, history_complete=True)


def _drop_indexes(connection: Connection, most_rows: int) -> None:
    """Unless other applications have filled the cache already."""
    if event_log.last_position(connection) <= most_rows:
        indexes.drop(connection)
