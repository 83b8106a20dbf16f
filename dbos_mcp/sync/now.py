"""A look that somebody asks for: now, or unless the last one is recent enough; and waited for."""

import math
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass

import anyio
from sqlalchemy import Connection

from dbos_mcp.domain import CONDUCTOR
from dbos_mcp.errors import DbosMcpError, NotFoundError
from dbos_mcp.queries import sync_status
from dbos_mcp.queries.applications import require_application
from dbos_mcp.store import event_log, sync_state
from dbos_mcp.store.sync_state import SyncStateRow
from dbos_mcp.sync import known
from dbos_mcp.sync.leadership import Leadership
from dbos_mcp.sync.visit import ApplicationReport, Progress
from dbos_mcp.sync.worker import SyncWorker

_PAUSE_SECONDS = 0.05
_LONGEST_WAIT_MS = 180_000
"""Nobody waits as long for a look."""
_READINGS = 1_000
"""So many workflows are remembered as read by themselves."""


@dataclass(frozen=True)
class LookedAt:
    """What came of it for one application."""

    application_name: str
    workflows_seen: int
    events: int
    as_of: int | None
    """When the last complete look began."""
    error: DbosMcpError | None = None


@dataclass(frozen=True)
class Now:
    finished: bool
    """False: the time was over before every application had been read to its end."""
    applications: Sequence[LookedAt]


async def sync_now(
    worker: SyncWorker,
    application_name: str | None,
    *,
    timeout_seconds: float,
    progress: Progress,
) -> Now:
    """One cycle that begins now, or behind the one that runs, over one application or all.

    It goes past what keeps the worker from asking upstream too often. When the time is over it is
    left where it is; what was read is kept.

    Raises:
        AuthenticationError, ConductorError, NotFoundError: Conductor could not be asked.
        NotFoundError: neither Conductor nor the mirror knows the application.
    """
    mirror = worker.mirror
    seen: dict[str, int] = {}

    def note(name: str, subject: str, count: int) -> None:
        seen[name] = count
        progress(name, subject, count)

    position = await mirror.read(event_log.last_position)
    only = None if application_name is None else [application_name]
    mirrored = await mirror.read(known.applications)
    for name in (None, *(only or mirrored)):
        mirror.client.traffic.ask_again(name)
    reports: list[ApplicationReport] | None = None
    with anyio.move_on_after(timeout_seconds):
        reports = await worker.run_once(note, only=only)
    errors = {report.application_name: report.error for report in reports or ()}

    def result(connection: Connection) -> list[LookedAt]:
        if application_name is not None and reports is not None:
            require_application(connection, application_name)
        states = sync_state.load_all(connection)
        return [
            LookedAt(
                application_name=name,
                workflows_seen=seen.get(name, 0),
                events=sync_status.events_since(connection, name, position),
                as_of=states[name].succeeded_at if name in states else None,
                error=errors[name] if name in errors else _not_listed(name, reports),
            )
            for name in (only or known.applications(connection))
        ]

    return Now(reports is not None, await mirror.read(result))


def _not_listed(name: str, reports: list[ApplicationReport] | None) -> NotFoundError | None:
    return None if reports is None else NotFoundError(f"Conductor no longer lists {name}.")


@dataclass(frozen=True)
class Wanted:
    """How recent a look is to be. Times are by our clock."""

    application_name: str | None
    """CONDUCTOR: the list of applications alone; None: that, and each of them."""
    since: float
    """When it may have begun at the earliest."""
    failed_since: float
    """A look that failed since then is not repeated."""
    asked_at: float = math.inf
    """What seems to be of much later is by a clock that was set back since."""

    def unseen(self, connection: Connection) -> list[SyncStateRow]:
        """Those of which there was no such look."""
        names = [self.application_name or CONDUCTOR]
        if self.application_name is None:
            names += known.applications(connection)
        states = [sync_state.load(connection, name) for name in names]
        return [state for state in states if not self._is_since(state.succeeded_at, self.since)]

    def met(self, connection: Connection) -> bool:
        """Whether there was such a look, or it failed."""
        return all(
            state.last_error is not None and self._is_since(state.attempted_at, self.failed_since)
            for state in self.unseen(connection)
        )

    def reason(self, connection: Connection) -> str | None:
        """Why there was no such look, as far as it is known."""
        reasons = [state.last_error for state in self.unseen(connection) if state.last_error]
        return next(iter(reasons), None)

    def _is_since(self, moment: int | None, since: float) -> bool:
        return moment is not None and since <= moment <= self.asked_at + _LONGEST_WAIT_MS


async def look_unless_met(worker: SyncWorker, wanted: Wanted, progress: Progress) -> None:
    """A brief cycle, unless there is or comes a look that is recent enough: those who ask at the
    same time, in whichever process, share one.

    Raises: as `SyncWorker.run_once`.
    """
    only = {None: None, CONDUCTOR: []}.get(wanted.application_name, [wanted.application_name or ""])
    turn = Leadership(worker.mirror.cache.path, "asked")
    while not await worker.mirror.read(wanted.met):
        if turn.take():
            try:
                await worker.run_once(progress, only=only, unless=wanted.met, briefly=True)
            finally:
                turn.release()
            return
        await anyio.sleep(_PAUSE_SECONDS)  # only the cache tells how far another process is


class Readings:
    """Readings of one thing each, such as a workflow by its id: who asks for it meanwhile, or soon
    after, shares it."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._began_at: dict[Hashable, int] = {}
        self._under_way: dict[Hashable, anyio.Event] = {}

    async def read(self, what: Hashable, since: float, read: Callable[[], Awaitable[None]]) -> int:
        """Read it, unless that was begun since; when it was begun.

        Raises: what `read` does; the next one who asks tries again.
        """
        while not since <= (began_at := self._began_at.get(what, -1)) <= self._clock():
            if what not in self._under_way:
                return await self._read(what, read)
            await self._under_way[what].wait()
        return began_at

    async def _read(self, what: Hashable, read: Callable[[], Awaitable[None]]) -> int:
        ended = self._under_way[what] = anyio.Event()
        try:
            began_at = self._clock()
            await read()
        finally:
            del self._under_way[what]
            ended.set()
        self._began_at.pop(what, None)
        self._began_at[what] = began_at
        if len(self._began_at) > _READINGS:
            del self._began_at[next(iter(self._began_at))]
        return began_at
