"""One look at Conductor after another: fetch, compare, record, move the watermark.

The parts of a cycle, per application, each there because no other finds what it finds:

1. the application and its executors;
2. everything in flight, one request per status: resumes, recoveries and delays move no time that a
   filter could ask for;
3. created since the watermark;
4. ended since the watermark;
5. by id, what the mirror holds as in flight and did not see: ended in between, or deleted;
6. the steps that are due;
and until it has gone as far back as it was asked to, the first load, from the newest workflow to
the oldest.

Lists are paged by `createdAt`, never by offset: rows change while they are read. Rows can become
visible late, behind newer ones, so every watermark stays `OVERLAP_MS` behind the newest row seen,
until nothing has come for as long as that.
A page, and the state that says it was read, are written in one transaction: a crash or a failure
repeats at the most one page, and a page read twice writes nothing.
"""

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import anyio
from sqlalchemy import Connection

from dbos_mcp.conductor.models import Application, WorkflowSearch
from dbos_mcp.domain import WorkflowStatus
from dbos_mcp.errors import (
    AuthenticationError,
    ConductorError,
    DbosMcpError,
    NotFoundError,
    RejectedError,
    ResponseError,
    UnavailableError,
    UsageError,
)
from dbos_mcp.settings import DAY_MS
from dbos_mcp.store import sync_state
from dbos_mcp.store.sync_state import CONDUCTOR, SyncStateRow
from dbos_mcp.sync import diff, known
from dbos_mcp.sync.mirror import Look, Mirror

logger = logging.getLogger(__name__)

OVERLAP_MS = 120_000
PAGE_LIMIT = 1000
CONCURRENT_REQUESTS = 4
STEP_READINGS_PER_CYCLE = 200
STEP_REFUSALS_PER_CYCLE = 5
STEPS_REREAD_AFTER_MS = 30_000
STEPS_REFUSED_PAUSE_MS = 600_000

Progress = Callable[[str, str, int], None]
"""Told the application, what is being read of it, and how many rows this cycle saw so far."""


@dataclass
class ApplicationReport:
    """What one cycle did for one application."""

    application_name: str
    workflows_seen: int = 0
    events: int = 0
    error: DbosMcpError | None = None


def _no_progress(_application_name: str, _subject: str, _count: int) -> None:
    """Nobody watches."""


class SyncWorker:
    def __init__(
        self,
        mirror: Mirror,
        *,
        history_ms: int | None = 30 * DAY_MS,
        page_limit: int = PAGE_LIMIT,
    ) -> None:
        self.mirror = mirror
        self.history_ms = history_ms
        self.page_limit = page_limit
        self.steps_refused: dict[tuple[str, str], int] = {}
        """Whose steps upstream would not show, by application and id, and when (our clock)."""
        self.newest_seen: dict[tuple[str, str], tuple[int, int]] = {}
        """The newest creation and the newest end of each application, and since when (our clock)
        it is known to be the newest."""
        self._one_at_a_time = anyio.Lock()

    async def run_once(self, progress: Progress = _no_progress) -> list[ApplicationReport]:
        """One cycle over every application.

        An application that cannot be read is marked and reported with its error; the others go on.

        Raises:
            AuthenticationError: Conductor wants a login.
            ConductorError, NotFoundError: not even the list of applications could be had. What is
                mirrored stays, and says since when.
        """
        async with self._one_at_a_time:
            try:
                applications = await self.mirror.client.list_applications()
            except (ConductorError, NotFoundError) as error:
                await self.mirror.write(partial(self._mark_all_away, error=error))
                raise
            await self.mirror.write(partial(self._record_applications, seen=applications))
            reports = [
                await _Pass(self, application, progress).run() for application in applications
            ]
            await self.mirror.fold_back()
            return reports

    def _record_applications(self, connection: Connection, seen: list[Application]) -> None:
        held = known.applications(connection)
        self.mirror.record(connection, diff.diff_applications(held, seen))
        now = self.mirror.clock()
        for name in held.keys() - {application.name for application in seen}:
            gone = NotFoundError(f"Conductor no longer lists {name}.")
            _note_failure(connection, name, gone, now)
        sync_state.save(
            connection,
            SyncStateRow(application_name=CONDUCTOR, attempted_at=now, succeeded_at=now),
        )

    def _mark_all_away(self, connection: Connection, error: DbosMcpError) -> None:
        now = self.mirror.clock()
        for name in (CONDUCTOR, *known.applications(connection)):
            _note_failure(connection, name, error, now)


@dataclass
class _Pass:
    """One cycle's way through one application."""

    worker: SyncWorker
    application: Application
    progress: Progress
    state: SyncStateRow = field(init=False)
    started_at: int = field(init=False)
    report: ApplicationReport = field(init=False)
    seen_in_flight: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.mirror = self.worker.mirror
        self.name = self.application.name
        self.report = ApplicationReport(self.name)
        self.started_at = self.mirror.clock()

    async def run(self) -> ApplicationReport:
        self.state = await self.mirror.read(partial(sync_state.load, application_name=self.name))
        try:
            await self._executors()  # Conductor itself knows them, also those that are gone
            if self.application.status != "AVAILABLE":
                raise UnavailableError(
                    f"{self.name} has no executor connected to Conductor.",
                    hint="Start the application; until then the mirror answers.",
                )
            await self._workflows()
            await self._steps()
        except (ConductorError, NotFoundError, UsageError) as error:
            logger.info("%s was not synced: %s", self.name, error)
            self.report.error = error
            now = self.mirror.clock()
            await self.mirror.write(
                partial(_note_failure, application_name=self.name, error=error, now=now)
            )
            if isinstance(error, AuthenticationError):
                raise
        else:
            # What changed behind our back while this cycle ran may not be in it.
            await self._move_on(
                attempted_at=self.mirror.clock(),
                succeeded_at=self.started_at,
                offline_since=None,
                last_error=None,
            )
        return self.report

    async def _executors(self) -> None:
        seen = await self.mirror.client.list_executors(self.name)

        def work(connection: Connection) -> int:
            held = known.executors(connection, self.name)
            return self.mirror.record(connection, diff.diff_executors(self.name, held, seen))

        self.report.events += await self.mirror.write(work)

    async def _workflows(self) -> None:
        # In the order in which a workflow passes through them, so that none slips by between two.
        for status in (WorkflowStatus.DELAYED, WorkflowStatus.ENQUEUED, WorkflowStatus.PENDING):
            await self._in_flight(status)
        await self._created()
        await self._ended()
        await self._unseen_in_flight()
        await self._history()

    async def _in_flight(self, status: WorkflowStatus) -> None:
        async for page in self._pages(WorkflowSearch(status=[status]), "ascending"):
            self.seen_in_flight.update(row.workflow_id for row in page.rows)
            await self._record(page, "in flight")

    async def _created(self) -> None:
        before = self.state.watermark
        if before is None:
            return  # nothing was ever seen: the first page of the history is the newest
        newest = None
        async for page in self._pages(WorkflowSearch(start_time=before), "ascending"):
            newest = page.rows[-1].created_at
            await self._record(page, "created", watermark=max(before, self._behind(newest)))
        if newest is not None and self._is_quiet("created", newest):
            await self._move_on(watermark=max(before, self._right_after(newest)))

    async def _ended(self) -> None:
        before = self.state.ended_watermark
        if before is None:
            return
        newest = None
        async for page in self._pages(WorkflowSearch(completed_after=before), "ascending"):
            newest = max([newest or 0, *(row.completed_at or 0 for row in page.rows)])
            await self._record(page, "ended")
        # Pages go by creation time, so only after the last one is it known which ends were seen.
        if newest is not None:
            quiet = self._is_quiet("ended", newest)
            reached = self._right_after(newest) if quiet else self._behind(newest)
            await self._move_on(ended_watermark=max(before, reached))

    async def _unseen_in_flight(self) -> None:
        held = await self.mirror.read(partial(known.in_flight_ids, application_name=self.name))
        unseen = [i for i in held if i not in self.seen_in_flight]
        if unseen:
            await self.mirror.refresh_workflows(self.name, unseen)

    async def _history(self) -> None:
        """From the newest workflow back, as far as was asked; goes on where it stopped."""
        history_ms = self.worker.history_ms
        oldest = 0 if history_ms is None else max(0, self.started_at - history_ms)
        # An application without workflows has no place to go on from: it is asked afresh.
        reached = self.state.covered_since if self.state.watermark is not None else None
        if self.state.history_complete and reached is not None and reached <= oldest:
            return
        search = WorkflowSearch(start_time=oldest or None, end_time=reached)
        async for page in self._pages(search, "descending"):
            last = page.rows[-1].created_at + 1  # its ties may be on the next page
            reached = last if reached is None else min(last, reached)
            changes = {"covered_since": reached, "history_complete": False}
            if self.state.watermark is None:
                changes["watermark"] = self._behind(page.rows[0].created_at)
                changes["ended_watermark"] = self._behind(max(r.updated_at for r in page.rows))
            await self._record(page, "history", **changes)
        reached = oldest if reached is None else min(oldest, reached)
        await self._move_on(covered_since=reached, history_complete=True)

    async def _steps(self) -> None:
        """Read the steps that are due.

        Steps that upstream will not show hold up nothing else; but after a few such answers this
        cycle asks no more.
        """
        now = self.mirror.clock()
        refused = self.worker.steps_refused
        for key in [key for key, at in refused.items() if at + STEPS_REFUSED_PAUSE_MS <= now]:
            del refused[key]
        due = await self.mirror.read(
            partial(
                known.steps_due,
                application_name=self.name,
                running_read_before=now - STEPS_REREAD_AFTER_MS,
                limit=STEP_READINGS_PER_CYCLE + len(refused),
            )
        )
        requests = anyio.CapacityLimiter(CONCURRENT_REQUESTS)
        failures: list[DbosMcpError] = []
        refusals = 0

        async def read(workflow_id: str) -> None:
            nonlocal refusals
            async with requests:
                if failures or refusals >= STEP_REFUSALS_PER_CYCLE:
                    return
                try:
                    self.report.events += await self.mirror.refresh_steps(self.name, workflow_id)
                except (NotFoundError, UsageError, RejectedError, ResponseError) as error:
                    logger.info("The steps of %s cannot be read: %s", workflow_id, error)
                    refused[self.name, workflow_id] = now
                    refusals += 1
                except ConductorError as error:
                    failures.append(error)

        self.progress(self.name, "steps", self.report.workflows_seen)
        async with anyio.create_task_group() as readings:
            for workflow_id in due:
                if (self.name, workflow_id) not in refused:
                    readings.start_soon(read, workflow_id)
        if failures:
            raise failures[0]

    async def _pages(
        self, search: WorkflowSearch, order: Literal["ascending", "descending"]
    ) -> AsyncIterator[Look]:
        """All pages of a search that hold something, by keyset on `createdAt`, which has no
        tie-breaker.

        Each page begins at the last one's end, ties included. A full page of nothing but ties with
        that end is widened until something else comes into sight.
        """
        cursor_field = "start_time" if order == "ascending" else "end_time"
        limit, cursor = self.worker.page_limit, None
        while True:
            update = {"limit": limit, "sort_desc": order == "descending"}
            if cursor is not None:
                update[cursor_field] = cursor
            page = await self.mirror.search(self.name, search.model_copy(update=update))
            if page.rows:
                yield page
            if len(page.rows) < limit:
                return
            if page.rows[-1].created_at == cursor:
                limit *= 2
            else:
                limit, cursor = self.worker.page_limit, page.rows[-1].created_at

    async def _record(self, page: Look, subject: str, **changes: int | bool) -> None:
        """A page, and in the same transaction what its having been read changes of the state."""
        moved = self._moved(changes)
        save = partial(sync_state.save, state=moved) if changes else None
        self.report.events += await self.mirror.record_workflows(self.name, page, also=save)
        self.state = moved
        await self.mirror.fold_back()
        self.report.workflows_seen += len(page.rows)
        self.progress(self.name, subject, self.report.workflows_seen)

    async def _move_on(self, **changes: int | bool | None) -> None:
        moved = self._moved(changes)
        if moved != self.state:
            await self.mirror.write(partial(sync_state.save, state=moved))
            self.state = moved

    def _moved(self, changes: Mapping[str, int | bool | None]) -> SyncStateRow:
        return SyncStateRow(**{**self.state.model_dump(), **changes})

    def _behind(self, newest: int) -> int:
        """A watermark that does not pass what may still become visible."""
        return max(0, min(newest, self.started_at) - OVERLAP_MS)

    def _right_after(self, newest: int) -> int:
        """One that nothing is read again from, for a time when nothing happens."""
        return max(0, min(newest + 1, self.started_at - OVERLAP_MS))

    def _is_quiet(self, subject: str, newest: int) -> bool:
        """Whether nothing newer has come for so long that nothing older can come any more.

        By how long we have known it, not by comparing upstream's clock with ours.
        """
        known = self.worker.newest_seen.get((self.name, subject))
        if known is None or known[0] != newest:
            known = self.worker.newest_seen[self.name, subject] = (newest, self.started_at)
        return self.started_at - known[1] >= OVERLAP_MS


def _note_failure(
    connection: Connection, application_name: str, error: DbosMcpError, now: int
) -> None:
    """Away is not empty: only the times and the reason change."""
    state = sync_state.load(connection, application_name)
    state.attempted_at = now
    state.last_error = str(error)
    if isinstance(error, UnavailableError | NotFoundError):
        state.offline_since = state.offline_since or now
    sync_state.save(connection, state)
