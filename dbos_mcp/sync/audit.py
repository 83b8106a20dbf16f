"""What no filter finds: deletions, retention, imports of old rows, missed resumes, renames,
attribute changes.

An audit compares counts, upstream's and ours, by status and day of creation; where they differ, by
hour, then by minute. Only what differs is listed again, and what we hold and the list has not is
asked for by id: an absence in a list alone deletes nothing. What is in flight is not compared, for
the listing of it finds that, nor what may still become visible. Where upstream does not count, an
audit lists everything, a few pages at each look.

It goes from the newest back, asks for so much at each look, and goes on at the next where it was.
Each range is mended once: what differs even then is looked at again by the next audit.

What no count shows is found by re-reading everything by id, in small shares, about once a day.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from dbos_mcp.conductor.models import WorkflowSearch
from dbos_mcp.domain import IN_FLIGHT
from dbos_mcp.settings import DAY_MS
from dbos_mcp.store import unreadable
from dbos_mcp.sync import known
from dbos_mcp.sync.aggregates import count_created
from dbos_mcp.sync.known import Counts, Ended, Span
from dbos_mcp.sync.listing import each_page
from dbos_mcp.sync.mirror import IDS_PER_REQUEST, Look
from dbos_mcp.sync.recent import read_ended, reread_forked
from dbos_mcp.sync.visit import OVERLAP_MS, Visit

AUDIT_EVERY_MS = 600_000
WALK_EVERY_MS = DAY_MS
REREAD_EVERY_MS = DAY_MS
UNREADABLE_AGAIN_MS = 3_600_000
AUDIT_REQUESTS_PER_CYCLE = 40
WALK_PAGES_PER_CYCLE = 2
"""Not less: the first page may hold nothing but ties with the end of the last walk's."""

_DRILL_MS = (DAY_MS, 3_600_000, 60_000)


async def audit(visit: Visit) -> None:
    """Compare and re-read what is due.

    Raises:
        ConductorError, NotFoundError: what was found until then is recorded.
    """
    state = visit.state
    if not state.history_complete:
        return
    visit.forked_from.clear()  # the history's, whose sources it has read as well
    under_way = _Audit(visit)
    if _is_due(visit, state.audited_at, AUDIT_EVERY_MS):
        await under_way.compare()
    if _is_due(visit, state.reread_at, AUDIT_EVERY_MS):
        await under_way.reread_share()
    await under_way.try_again()
    await reread_forked(visit)
    await under_way.note()


class Bucket(NamedTuple):
    """A range of creation times in which the counts differ."""

    span: Span
    gone: bool
    """Nothing upstream that has ended."""
    rows: int
    """What a listing would have to show at the most, in flight or not."""


def differing(theirs: Counts, ours: Counts, span: Span, bucket_ms: int) -> list[Bucket]:
    """The buckets of which other workflows have ended upstream than here; the newest first."""
    differ: set[int] = set()
    ended: Counter[int] = Counter()
    rows: tuple[Counter[int], Counter[int]] = Counter(), Counter()
    for key in theirs.keys() | ours.keys():
        start, status = key
        for side, counted in zip((theirs, ours), rows, strict=True):
            counted[start] += side.get(key, 0)
        if status not in IN_FLIGHT:
            ended[start] += theirs.get(key, 0)
            if theirs.get(key) != ours.get(key):
                differ.add(start)
    return [
        Bucket(
            Span(max(start, span.start), min(start + bucket_ms, span.end)),
            gone=not ended[start],
            rows=max(counted[start] for counted in rows),
        )
        for start in sorted(differ, reverse=True)
        if start < span.end and start + bucket_ms > span.start
    ]


def merged(buckets: Iterable[Bucket], small: float) -> list[Bucket]:
    """Neighbours that are mended in the same way as one; `rows` are those of the largest."""
    ranges: list[Bucket] = []
    for bucket in buckets:
        if ranges:
            newer = ranges[-1]
            rows = max(newer.rows, bucket.rows)
            alike = newer.gone == bucket.gone and (bucket.gone or rows <= small)
            if alike and newer.span.start == bucket.span.end:
                span = Span(bucket.span.start, newer.span.end)
                ranges[-1] = Bucket(span, bucket.gone, rows)
                continue
        ranges.append(bucket)
    return ranges


class _SpentError(Exception):
    """This cycle has asked for as much as it may; the next one goes on."""


class _Audit:
    """One cycle's part of an audit."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._asked_before = self._asked
        self._events_before = visit.report.events
        self._found_before = visit.state.audit_found

    async def compare(self) -> None:
        visit, state = self._visit, self._visit.state
        if state.covered_since is not None and state.watermark is not None:
            end = min(state.watermark, visit.started_at - OVERLAP_MS)
            if state.audit_cursor is not None:
                end = min(end, state.audit_cursor)
            span = Span(state.covered_since, end)
            try:
                if span.start < span.end:
                    await self._compare_in(span)
            except _SpentError:
                return
        await self.note(audited_at=visit.started_at, audit_cursor=None)

    async def reread_share(self) -> None:
        """Of what has ended: what is in flight is listed all the time."""
        visit, state = self._visit, self._visit.state
        if state.reread_at is None:  # everything has just been read
            await visit.move_on(reread_at=visit.started_at)
            return
        began_at, position = state.reread_began_at, state.reread_position
        if position is None:
            if not _is_due(visit, began_at, REREAD_EVERY_MS):
                return
            began_at, position = visit.started_at, 0
        held = await visit.mirror.read(partial(known.held_count, application_name=visit.name))
        limit = reread_share_of(held)
        share = await visit.mirror.read(
            partial(known.ended_behind, application_name=visit.name, position=position, limit=limit)
        )
        places = {"reread_at": visit.started_at, "reread_began_at": began_at}
        for chunk in _in_requests(share):
            await visit.reread([workflow.workflow_id for workflow in chunk])
            await self.note(reread_position=chunk[-1].key, **places)
        if len(share) < limit:
            await self.note(reread_position=None, **places)

    async def try_again(self) -> None:
        """What could not be read a while ago: by its id, or else by no longer counting it, so that
        it is missed and its range is listed again."""
        visit = self._visit
        before = visit.started_at - UNREADABLE_AGAIN_MS
        overdue = partial(
            unreadable.overdue, application_name=visit.name, before=before, limit=IDS_PER_REQUEST
        )
        if await visit.mirror.read(
            partial(unreadable.is_any_overdue, application_name=visit.name, before=before)
        ):
            await visit.reread(await visit.mirror.write(overdue))

    async def note(self, **changes: int | None) -> None:
        events = self._visit.report.events - self._events_before
        await self._visit.move_on(audit_found=self._found_before + events, **changes)

    async def _compare_in(self, span: Span) -> None:
        visit, state = self._visit, self._visit.state
        day_ms, *finer_ms = _DRILL_MS
        differ = await self._differing(span, day_ms)
        if differ:
            # Perhaps by what has ended since this cycle asked for that: no finding of ours.
            events = visit.report.events
            await read_ended(visit)
            self._events_before += visit.report.events - events
            differ = await self._differing(span, day_ms)
        if differ is not None:
            await self._mend(differ, finer_ms)
        elif state.audit_cursor is not None or _is_due(visit, state.audited_at, WALK_EVERY_MS):
            await self._list(span, pages=WALK_PAGES_PER_CYCLE)
        else:
            raise _SpentError

    async def _differing(self, span: Span, bucket_ms: int) -> list[Bucket] | None:
        """None where upstream does not count."""
        visit = self._visit
        theirs = await count_created(visit, span, bucket_ms)
        if theirs is None:
            return None
        ours = await visit.mirror.read(
            partial(
                known.created_counts, application_name=visit.name, span=span, bucket_ms=bucket_ms
            )
        )
        return differing(theirs, ours, span, bucket_ms)

    async def _mend(self, differ: Iterable[Bucket], finer_ms: Sequence[int]) -> None:
        """`finer_ms`: the smaller buckets that a range of many rows is divided into."""
        small = self._visit.page_limit if finer_ms else math.inf
        for bucket in merged(differ, small):
            if not self._requests_left:
                raise _SpentError
            inside: list[Bucket] | None = None
            if bucket.gone:
                await self._confirm(bucket.span)
                continue
            if bucket.rows > small:
                inside = await self._differing(bucket.span, finer_ms[0])
            if inside is None:
                await self._list(bucket.span)
            else:
                await self._mend(inside, finer_ms[1:])

    async def _list(self, span: Span, pages: int | None = None) -> None:
        """List a span from its end back, and confirm of each page what it should have shown."""
        visit = self._visit
        upper = span.end
        seen: set[str] = set()

        async def handle(page: Look) -> None:
            nonlocal upper
            await visit.record(page, "audit")
            seen.update(page.ids)
            lower = max(page.rows[-1].created_at + 1, span.start)  # ties may be on the next page
            if lower < upper:
                await self._confirm(Span(lower, upper), seen)
                upper = lower

        whole = await each_page(
            visit.mirror,
            visit.name,
            WorkflowSearch(start_time=span.start or None, end_time=span.end - 1),
            "descending",
            handle,
            limit=visit.page_limit,
            most=pages or max(2, self._requests_left),
        )
        if not whole:
            raise _SpentError
        await self._confirm(Span(span.start, upper), seen)

    async def _confirm(self, span: Span, seen: Collection[str] = ()) -> None:
        """Ask by id for what we hold of a span and have not seen; the span has been compared."""
        visit = self._visit
        limit = max(1, self._requests_left) * IDS_PER_REQUEST
        unseen = await visit.mirror.read(
            partial(known.ended_in, application_name=visit.name, span=span, but=seen, limit=limit)
        )
        for chunk in _in_requests(unseen):
            await visit.reread([workflow.workflow_id for workflow in chunk])
            await self.note(audit_cursor=chunk[-1].created_at + 1)
        if len(unseen) == limit:
            raise _SpentError
        await self.note(audit_cursor=span.start)

    @property
    def _asked(self) -> int:
        return self._visit.mirror.client.traffic.snapshot(self._visit.name).requests

    @property
    def _requests_left(self) -> int:
        return max(0, AUDIT_REQUESTS_PER_CYCLE - (self._asked - self._asked_before))


def reread_share_of(held: int) -> int:
    """How many workflows to re-read at once, that all that are held are read in about a day."""
    requests = math.ceil(held * AUDIT_EVERY_MS / REREAD_EVERY_MS / IDS_PER_REQUEST)
    return max(1, requests) * IDS_PER_REQUEST


def _is_due(visit: Visit, last: int | None, every_ms: int) -> bool:
    return last is None or not 0 <= visit.started_at - last < every_ms


def _in_requests(workflows: Sequence[Ended]) -> Iterator[Sequence[Ended]]:
    for start in range(0, len(workflows), IDS_PER_REQUEST):
        yield workflows[start : start + IDS_PER_REQUEST]
