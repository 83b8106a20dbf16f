"""One look at Conductor after another: fetch, compare, record, move the watermark.

The parts of a cycle, per application: the application and its executors; what changed since the
last look (`recent`); the first load, until it has gone as far back as it was asked to (`history`);
the steps that are due (`steps`); now and then what no filter finds (`audit`).

A page, and the state that says it was read, are written in one transaction: a crash or a failure
repeats at the most what was not yet written, and a page read twice writes nothing.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from functools import partial

import anyio
from sqlalchemy import Connection

from dbos_mcp.conductor.decoding import Rows, Unreadable
from dbos_mcp.conductor.models import Application
from dbos_mcp.domain import CONDUCTOR
from dbos_mcp.errors import (
    AuthenticationError,
    ConductorError,
    DbosMcpError,
    NotFoundError,
    UnavailableError,
    UsageError,
)
from dbos_mcp.settings import DAY_MS
from dbos_mcp.store import sync_state, unreadable
from dbos_mcp.store.sync_state import SyncStateRow
from dbos_mcp.store.unreadable import APPLICATION, EXECUTOR
from dbos_mcp.sync import aside, diff, due, known
from dbos_mcp.sync.audit import audit
from dbos_mcp.sync.history import read_history
from dbos_mcp.sync.mirror import Mirror
from dbos_mcp.sync.recent import read_recent
from dbos_mcp.sync.steps import read_steps
from dbos_mcp.sync.visit import (
    PAGE_LIMIT,
    ApplicationReport,
    Memory,
    Progress,
    Visit,
    no_progress,
)

logger = logging.getLogger(__name__)

EXECUTORS_EVERY_MS = 60_000
APPLICATIONS_AT_ONCE = 4


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
        self._memories: defaultdict[str, Memory] = defaultdict(Memory)
        self._one_at_a_time = anyio.Lock()

    async def run_once(
        self,
        progress: Progress = no_progress,
        *,
        only: Collection[str] | None = None,
        unless: Callable[[Connection], bool] | None = None,
        briefly: bool = False,
    ) -> list[ApplicationReport]:
        """One cycle over every application, or over those of the `only` names that are listed.

        An application that cannot be read is marked and reported with its error; the others go on.
        Nothing is asked when the cache says, once the cycle before has ended, `unless`. `briefly`
        reads what changed, and leaves steps and audits to the next cycle, once the first load is
        complete.

        Raises:
            AuthenticationError: Conductor wants a login.
            StoreError: the cache cannot be written.
            ConductorError, NotFoundError: not even the list of applications could be had. What is
                mirrored stays, and says since when.
        """
        async with self._one_at_a_time:
            if unless is not None and await self.mirror.read(unless):
                return []
            await self.mirror.build_indexes()
            try:
                applications = await self.mirror.upstream.list_applications()
            except (ConductorError, NotFoundError) as error:
                await self.mirror.write(partial(self._mark_all_away, error=error))
                raise
            await self.mirror.write(partial(self._record_applications, seen=applications))
            chosen = [each for each in applications if only is None or each.name in only]
            visits = [await self._begin(each, len(chosen), progress) for each in chosen]
            await self._visit_all(visits, briefly=briefly)
            await self.mirror.fold_back()
            reports = [visit.report for visit in visits]
            for report in reports:
                if isinstance(report.error, AuthenticationError):
                    raise report.error
            return reports

    async def run_until_read(self, progress: Progress = no_progress) -> list[ApplicationReport]:
        """As many cycles as it takes to read the steps of all failures, and of what ended just now;
        what they did in all. One that fails is the last.

        Raises: as `run_once`.
        """
        reports = await self.run_once(progress)
        while not any(report.error for report in reports) and await self.mirror.read(
            partial(due.is_anything_urgent, now=self.mirror.clock())
        ):
            before = {report.application_name: report for report in reports}
            reports = await self.run_once(progress)
            for report in reports:
                if report.application_name in before:
                    first = before[report.application_name]
                    report.events += first.events
                    report.workflows_seen = first.workflows_seen  # the same ones
        return reports

    async def _begin(
        self, application: Application, applications: int, progress: Progress
    ) -> Visit:
        name = application.name
        return Visit(
            mirror=self.mirror,
            application=application,
            state=await self.mirror.read(partial(sync_state.load, application_name=name)),
            memory=self._memories[name],
            started_at=self.mirror.clock(),
            page_limit=self.page_limit,
            history_ms=self.history_ms,
            progress=progress,
            applications=applications,
        )

    async def _visit_all(self, visits: Sequence[Visit], *, briefly: bool) -> None:
        at_once = anyio.CapacityLimiter(APPLICATIONS_AT_ONCE)
        failures: list[Exception] = []  # which a group would wrap

        async with anyio.create_task_group() as under_way:

            async def make(visit: Visit) -> None:
                async with at_once:
                    try:
                        await self._visit(visit, briefly=briefly)
                    except Exception as error:  # noqa: BLE001 # which the group would wrap
                        failures.append(error)
                        under_way.cancel_scope.cancel()

            for visit in visits:
                under_way.start_soon(make, visit)
        if failures:
            raise failures[0]

    async def _visit(self, visit: Visit, *, briefly: bool) -> None:
        try:
            available = visit.application.status == "AVAILABLE"
            spare = await self._executors(visit, always=not available)
            if not available:
                raise UnavailableError(
                    f"{visit.name} has no executor connected to Conductor.",
                    hint="Start the application; until then the mirror answers.",
                )
            await read_recent(visit, spare=spare)
            if not (briefly and _is_loaded(visit.state)):
                await read_history(visit)
                await read_steps(visit)
                await audit(visit)
        except (ConductorError, NotFoundError, UsageError) as error:
            logger.info("%s was not synced: %s", visit.name, error)
            visit.report.error = error
            now = self.mirror.clock()
            await self.mirror.write(
                partial(self._note_failure, application_name=visit.name, error=error, now=now)
            )
        else:
            visit.memory.came_to_its_end = True
            # What changed behind our back while this cycle ran may not be in it.
            await visit.move_on(
                attempted_at=self.mirror.clock(),
                succeeded_at=visit.started_at,
                offline_since=None,
                last_error=None,
                login_needed=False,
            )

    async def _executors(self, visit: Visit, *, always: bool) -> bool:
        """Conductor itself knows them, also those that are gone; whether it was asked."""
        listed_at = visit.memory.executors_listed_at
        if (
            not always
            and listed_at is not None
            and (
                0 <= visit.started_at - listed_at < EXECUTORS_EVERY_MS
                or visit.memory.delayed_left_out  # in their favour, so now it is their turn
            )
        ):
            return False
        seen = await self.mirror.upstream.list_executors(visit.name)

        def work(connection: Connection) -> int:
            held = known.executors(connection, visit.name)
            spared = self._set_aside(connection, visit.name, EXECUTOR, seen.unreadable, held)
            events = diff.diff_executors(visit.name, held, seen, spared)
            return self.mirror.record(connection, events)

        events = await self.mirror.write(work)
        visit.report.events += events
        visit.memory.executors_listed_at = visit.started_at
        return listed_at is not None

    def _set_aside(
        self,
        connection: Connection,
        application_name: str,
        kind: str,
        not_read: Sequence[Unreadable],
        held: Collection[str],
    ) -> set[str]:
        """Those of the held ones that may be among what a list showed and could not be read."""
        unreadable.clear_all(connection, application_name, kind)
        now = self.mirror.clock()
        unreadable.note(connection, aside.others(application_name, kind, not_read, now=now))
        return aside.spared(not_read, held)

    def _record_applications(self, connection: Connection, seen: Rows[Application]) -> None:
        held = known.applications(connection)
        spared = self._set_aside(connection, CONDUCTOR, APPLICATION, seen.unreadable, held)
        self.mirror.record(connection, diff.diff_applications(held, seen, spared))
        now = self.mirror.clock()
        for name in held.keys() - {application.name for application in seen} - spared:
            gone = NotFoundError(f"Conductor no longer lists {name}.")
            self._note_failure(connection, name, gone, now)
        sync_state.update(
            connection,
            CONDUCTOR,
            {
                "attempted_at": now,
                "succeeded_at": now,
                "offline_since": None,
                "last_error": None,
                "login_needed": False,
            },
        )

    def _mark_all_away(self, connection: Connection, error: DbosMcpError) -> None:
        now = self.mirror.clock()
        for name in (CONDUCTOR, *known.applications(connection)):
            self._note_failure(connection, name, error, now)

    def _note_failure(
        self, connection: Connection, application_name: str, error: DbosMcpError, now: int
    ) -> None:
        """Away is not empty: only the times and the reason change."""
        changes: dict[str, int | bool | str | None] = {
            "attempted_at": now,
            "last_error": self.mirror.upstream.text(str(error)),
            "login_needed": isinstance(error, AuthenticationError),
        }
        if isinstance(error, UnavailableError | NotFoundError):
            before = sync_state.load(connection, application_name)
            changes["offline_since"] = before.offline_since or now
        sync_state.update(connection, application_name, changes)


def _is_loaded(state: SyncStateRow) -> bool:
    """Whether what changed is all that a look has to read. Without a watermark nothing was ever
    there, and only the history's first page shows what is."""
    return state.history_complete and state.watermark is not None
