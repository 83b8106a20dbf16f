"""What changed since the last look: created, ended, dequeued, and whatever is in flight.

Each part finds what no other does: resumes, recoveries and delays move no time that a filter could
ask for, so what is in flight is listed, or counted where listing it each time would cost too much.

Rows can become visible late, behind newer ones, so every watermark stays `OVERLAP_MS` behind the
newest row seen, until nothing has come for as long as that.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from dbos_mcp.conductor.models import Workflow, WorkflowSearch
from dbos_mcp.domain import WorkflowStatus
from dbos_mcp.sync import known
from dbos_mcp.sync.aggregates import are_refused, count_workflows
from dbos_mcp.sync.listing import each_page
from dbos_mcp.sync.mirror import IDS_PER_REQUEST, Look
from dbos_mcp.sync.visit import Visit

FEW_IN_FLIGHT = 10
"""So many rows are listed at every look; of more, only the counts are compared."""
LIST_IN_FLIGHT_EVERY_MS = 60_000
LISTING_PERIOD_MS_PER_ROW = 700
"""Though the counts agree, all are listed now and then: 400 rows every 5 minutes, so that a look
costs 5 KB on the average."""
LONGEST_LISTING_PERIOD_MS = 600_000
LISTING_PAUSE_MS_PER_ROW = 5
"""A listing of 10,000 rows is not repeated for 50 s, though the counts differ."""

# In the order in which a workflow passes through them, so that none slips by between two.
_IN_FLIGHT = (WorkflowStatus.DELAYED, WorkflowStatus.ENQUEUED, WorkflowStatus.PENDING)


async def read_recent(visit: Visit, *, spare: bool = False) -> None:
    """`spare`: this look has cost a request more already, so it lists no more than it must."""
    broke_off = not visit.memory.came_to_its_end
    visit.memory.came_to_its_end = False
    await _created(visit)
    if await _is_listing_due(visit):
        await read_ended(visit)
        await _list_in_flight(visit, spare=spare)
    else:
        await _dequeued(visit)
        await read_ended(visit)
        if await _counts_differ(visit, spare=spare):
            await _list_in_flight(visit)
    if broke_off:
        unmarked = partial(known.unmarked_sources, application_name=visit.name)
        visit.forked_from.update(await visit.mirror.read(partial(unmarked, limit=IDS_PER_REQUEST)))
    await reread_forked(visit)


async def reread_forked(visit: Visit) -> None:
    """The sources of forks that were new."""
    if visit.forked_from:
        await visit.reread(sorted(visit.forked_from))
        visit.forked_from.clear()


async def _created(visit: Visit) -> None:
    before = visit.state.watermark
    if before is None:
        return  # nothing was ever seen: the first page of the history is the newest
    newest: int | None = None

    async def record(page: Look) -> None:
        nonlocal newest
        newest = page.rows[-1].created_at
        await visit.record(page, "created", watermark=max(before, visit.behind(newest)))

    await _pages(visit, WorkflowSearch(start_time=before), record)
    if newest is not None:
        await visit.move_on(watermark=max(before, visit.watermark_after("created", newest)))


async def read_ended(visit: Visit) -> None:
    before = visit.state.ended_watermark
    if before is not None:
        search = WorkflowSearch(completed_after=before)
        newest = await _newest(visit, search, "ended", lambda row: row.completed_at)
        if newest is not None:
            moved = visit.watermark_after("ended", newest)
            await visit.move_on(ended_watermark=max(before, moved))


async def _dequeued(visit: Visit) -> None:
    before = visit.state.dequeued_watermark
    if before is not None:
        search = WorkflowSearch(dequeued_after=before)
        newest = await _newest(visit, search, "dequeued", lambda row: row.dequeued_at)
        if newest is not None:
            moved = visit.watermark_after("dequeued", newest)
            await visit.move_on(dequeued_watermark=max(before, moved))


async def _newest(
    visit: Visit, search: WorkflowSearch, subject: str, moment: Callable[[Workflow], int | None]
) -> int | None:
    """Record what a search finds; the newest moment of it.

    Pages go by creation time, so only after the last one is it known which moments were seen.
    """
    newest: int | None = None

    async def record(page: Look) -> None:
        nonlocal newest
        newest = max([newest or 0, *(moment(row) or 0 for row in page.rows)])
        await visit.record(page, subject)

    await _pages(visit, search, record)
    return newest


async def _is_listing_due(visit: Visit) -> bool:
    """Whether to list what is in flight, and not only to count it."""
    memory = visit.memory
    if memory.in_flight_listed_at is None or are_refused(visit):
        return True
    held = await _held_in_flight(visit)
    if sum(held.values()) <= FEW_IN_FLIGHT:
        return True
    since = visit.started_at - memory.in_flight_listed_at
    period = min(LISTING_PERIOD_MS_PER_ROW * memory.in_flight_listed, LONGEST_LISTING_PERIOD_MS)
    return since < 0 or since >= max(LIST_IN_FLIGHT_EVERY_MS, period)


async def _counts_differ(visit: Visit, *, spare: bool) -> bool:
    """Whether upstream counts other workflows in flight than we hold."""
    memory = visit.memory
    assert memory.in_flight_listed_at is not None
    if 0 <= visit.started_at - memory.in_flight_listed_at < _pause(visit):
        return False
    # Apart, as upstream's partial indexes have them. Nothing becomes DELAYED but at its creation.
    if await _count_differs(visit, [WorkflowStatus.ENQUEUED, WorkflowStatus.PENDING]):
        return True
    memory.delayed_left_out = spare
    delayed = (await _held_in_flight(visit)).get(WorkflowStatus.DELAYED, 0)
    if spare or not delayed:
        return False
    if delayed > FEW_IN_FLIGHT:
        return await _count_differs(visit, [WorkflowStatus.DELAYED])
    await _list(visit, [WorkflowStatus.DELAYED])  # a delay that is changed shows in no count
    return False


async def _count_differs(visit: Visit, statuses: Sequence[WorkflowStatus]) -> bool:
    counted = await count_workflows(visit, statuses)
    held = await _held_in_flight(visit)
    return counted != {status: held[status] for status in statuses if status in held}


def _pause(visit: Visit) -> int:
    return LISTING_PAUSE_MS_PER_ROW * visit.memory.in_flight_listed


async def _held_in_flight(visit: Visit) -> Mapping[str, int]:
    return await visit.mirror.read(partial(known.in_flight_counts, application_name=visit.name))


async def _list_in_flight(visit: Visit, *, spare: bool = False) -> None:
    listed = await _list(visit, _IN_FLIGHT[1:] if spare else _IN_FLIGHT)
    # The executors are listed as often as this is: what is delayed would be left out each time.
    if not spare or WorkflowStatus.DELAYED not in await _held_in_flight(visit):
        visit.memory.in_flight_listed_at = visit.started_at
    visit.memory.in_flight_listed = listed
    visit.memory.delayed_left_out = spare
    # Whatever was dequeued before is in flight, and was seen, or has ended.
    state = visit.state
    moments = (state.watermark, state.ended_watermark, state.dequeued_watermark)
    await visit.move_on(dequeued_watermark=max((m for m in moments if m is not None), default=None))


async def _list(visit: Visit, statuses: Sequence[WorkflowStatus]) -> int:
    """Everything in these statuses, one after the other, and what we hold in them and did not see;
    how many were seen."""
    seen: set[str] = set()

    async def record(page: Look) -> None:
        seen.update(page.ids)
        await visit.record(page, "in flight")

    for status in statuses:
        await _pages(visit, WorkflowSearch(status=[status]), record)
    held = await visit.mirror.read(
        partial(known.in_flight_ids, application_name=visit.name, statuses=statuses)
    )
    unseen = [workflow_id for workflow_id in held if workflow_id not in seen]
    if unseen:  # they have ended, or are gone
        await visit.reread(unseen)
    return len(seen)


async def _pages(
    visit: Visit, search: WorkflowSearch, handle: Callable[[Look], Awaitable[None]]
) -> None:
    await each_page(visit.mirror, visit.name, search, "ascending", handle, limit=visit.page_limit)
