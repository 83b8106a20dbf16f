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
visible late, behind newer ones, so every watermark stays `OVERLAP_MS` behind the newest row seen.
A page, and the state that says it was read, are written in one transaction: a crash repeats at the
most one page, and a page read twice writes nothing.
"""

import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import anyio
import anyio.to_thread
from sqlalchemy import Connection

from dbos_mcp.conductor.models import Application, Workflow, WorkflowSearch
from dbos_mcp.domain import IN_FLIGHT, WorkflowStatus
from dbos_mcp.errors import (
    AuthenticationError,
    ConductorError,
    DbosMcpError,
    NotFoundError,
    UnavailableError,
)
from dbos_mcp.settings import DAY_MS
from dbos_mcp.store import sync_state
from dbos_mcp.store.sync_state import CONDUCTOR, SyncStateRow
from dbos_mcp.sync import diff, known
from dbos_mcp.sync.mirror import Mirror

logger = logging.getLogger(__name__)

OVERLAP_MS = 120_000
PAGE_LIMIT = 1000
CONCURRENT_REQUESTS = 4
STEP_READINGS_PER_CYCLE = 200
STEPS_REREAD_AFTER_MS = 30_000

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
        self._one_at_a_time = anyio.Lock()

    async def run_once(self, progress: Progress = _no_progress) -> list[ApplicationReport]:
        """One cycle over every application.

        An application that cannot be read is marked and reported with its error; the others go on.

        Raises:
            AuthenticationError: Conductor wants a login.
            ConductorError: not even the list of applications could be had. What is mirrored stays,
                and says since when.
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
            await anyio.to_thread.run_sync(self.mirror.cache.checkpoint)
            return reports

    def _record_applications(self, connection: Connection, seen: list[Application]) -> None:
        held = known.applications(connection)
        for application in seen:
            changes = diff.diff_application(held.get(application.name), application)
            self.mirror.record(connection, changes)
        now = self.mirror.clock()
        sync_state.save(
            connection,
            SyncStateRow(application_name=CONDUCTOR, attempted_at=now, succeeded_at=now),
        )

    def _mark_all_away(self, connection: Connection, error: DbosMcpError) -> None:
        now = self.mirror.clock()
        for name in (CONDUCTOR, *known.applications(connection)):
            state = sync_state.load(connection, name)
            _note_failure(state, error, now)
            sync_state.save(connection, state)


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
            if self.application.status != "AVAILABLE":
                raise UnavailableError(
                    f"{self.name} has no executor connected to Conductor.",
                    hint="Start the application; until then the mirror answers.",
                )
            await self._read_everything()
        except (ConductorError, NotFoundError) as error:
            logger.info("%s was not synced: %s", self.name, error)
            self.report.error = error
            _note_failure(self.state, error, self.mirror.clock())
            await self.mirror.write(self._save_state)
            if isinstance(error, AuthenticationError):
                raise
        else:
            self.state.attempted_at = self.state.succeeded_at = self.mirror.clock()
            self.state.offline_since = self.state.last_error = None
            await self.mirror.write(self._save_state)
        return self.report

    async def _read_everything(self) -> None:
        await self._executors()
        for status in IN_FLIGHT:
            await self._in_flight(status)
        await self._created()
        await self._ended()
        await self._unseen_in_flight()
        await self._history()
        await self._steps()

    async def _executors(self) -> None:
        seen = await self.mirror.client.list_executors(self.name)

        def work(connection: Connection) -> int:
            held = known.executors(connection, self.name)
            return self.mirror.record(connection, diff.diff_executors(self.name, held, seen))

        self.report.events += await self.mirror.write(work)

    async def _in_flight(self, status: WorkflowStatus) -> None:
        async for page in self._pages(WorkflowSearch(status=[status]), "ascending"):
            self.seen_in_flight.update(row.workflow_id for row in page)
            await self._record(page, "in flight")

    async def _created(self) -> None:
        if self.state.watermark is None:
            return  # nothing was ever seen: the first page of the history is the newest
        search = WorkflowSearch(start_time=self.state.watermark)
        async for page in self._pages(search, "ascending"):
            if page:
                self._advance_watermark(page[-1].created_at)
            await self._record(page, "created")

    async def _ended(self) -> None:
        before = self.state.ended_watermark
        if before is None:
            return
        newest = before
        async for page in self._pages(WorkflowSearch(completed_after=before), "ascending"):
            newest = max([newest, *(row.completed_at for row in page if row.completed_at)])
            await self._record(page, "ended")
        self.state.ended_watermark = self._behind(newest, before)

    async def _unseen_in_flight(self) -> None:
        held = await self.mirror.read(partial(known.in_flight_ids, application_name=self.name))
        unseen = [i for i in held if i not in self.seen_in_flight]
        if unseen:
            await self.mirror.refresh_workflows(self.name, unseen)

    async def _history(self) -> None:
        """From the newest workflow back, as far as was asked; goes on where it stopped."""
        state = self.state
        if state.history_complete:
            return
        history_ms = self.worker.history_ms
        oldest = None if history_ms is None else max(0, self.started_at - history_ms)
        search = WorkflowSearch(start_time=oldest, end_time=state.covered_since)
        async for page in self._pages(search, "descending"):
            if page and state.watermark is None:
                self._advance_watermark(page[0].created_at)
                state.ended_watermark = self._behind(max(row.updated_at for row in page), 0)
            if page:
                # Ties of the last row may be on the next page.
                state.covered_since = page[-1].created_at + 1
            await self._record(page, "history")
        if state.watermark is not None:  # an application without workflows is asked afresh
            state.history_complete = True
            state.covered_since = oldest or 0

    async def _steps(self) -> None:
        due = await self.mirror.read(
            partial(
                known.steps_due,
                application_name=self.name,
                running_read_before=self.mirror.clock() - STEPS_REREAD_AFTER_MS,
                limit=STEP_READINGS_PER_CYCLE,
            )
        )
        requests = anyio.CapacityLimiter(CONCURRENT_REQUESTS)
        failures: list[DbosMcpError] = []

        async def read(workflow_id: str) -> None:
            async with requests:
                try:
                    self.report.events += await self.mirror.refresh_steps(self.name, workflow_id)
                except (ConductorError, NotFoundError) as error:
                    failures.append(error)
                    readings.cancel_scope.cancel()

        self.progress(self.name, "steps", self.report.workflows_seen)
        async with anyio.create_task_group() as readings:
            for workflow_id in due:
                readings.start_soon(read, workflow_id)
        if failures:
            raise failures[0]

    async def _pages(
        self, search: WorkflowSearch, order: Literal["ascending", "descending"]
    ) -> AsyncIterator[list[Workflow]]:
        """All pages of a search, by keyset on `createdAt`, which has no tie-breaker.

        Each page begins at the last one's end, ties included. A full page of nothing but ties with
        that end is widened until something else comes into sight.
        """
        cursor_field = "start_time" if order == "ascending" else "end_time"
        limit, cursor = self.worker.page_limit, None
        while True:
            update = {"limit": limit, "sort_desc": order == "descending"}
            if cursor is not None:
                update[cursor_field] = cursor
            page = await self.mirror.client.search_workflows(
                self.name, search.model_copy(update=update)
            )
            yield page
            if len(page) < limit:
                return
            if page[-1].created_at == cursor:
                limit *= 2
            else:
                limit, cursor = self.worker.page_limit, page[-1].created_at

    async def _record(self, page: list[Workflow], subject: str) -> None:
        self.report.events += await self.mirror.record_workflows(
            self.name, page, also=self._save_state
        )
        self.report.workflows_seen += len(page)
        self.progress(self.name, subject, self.report.workflows_seen)

    def _save_state(self, connection: Connection) -> None:
        sync_state.save(connection, self.state)

    def _advance_watermark(self, newest_created_at: int) -> None:
        self.state.watermark = self._behind(newest_created_at, self.state.watermark or 0)

    def _behind(self, newest: int, before: int) -> int:
        """A watermark never goes back, and never passes what may still become visible."""
        return max(before, min(newest, self.started_at) - OVERLAP_MS)


def _note_failure(state: SyncStateRow, error: DbosMcpError, now: int) -> None:
    """Away is not empty: only the times and the reason change."""
    state.attempted_at = now
    state.last_error = str(error)
    if isinstance(error, UnavailableError | NotFoundError):
        state.offline_since = state.offline_since or now
