"""When the worker runs: at once, then at an interval; in one process at a time, never twice."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import anyio
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger
from filelock import FileLock, Timeout

from dbos_mcp.errors import AuthenticationError, DbosMcpError
from dbos_mcp.sync.visit import ApplicationReport
from dbos_mcp.sync.worker import SyncWorker

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 5.0
REFUSED_PAUSE = timedelta(minutes=1)

# A cycle that is longer than the interval is no reason for a warning at each interval.
_quiet = logger.getChild("apscheduler")
_quiet.setLevel(logging.ERROR)

OnCycle = Callable[[list[ApplicationReport] | DbosMcpError], None]
"""Told what each cycle did, or why it did nothing."""


class SyncScheduler:
    """Runs `worker.run_once()` while this process leads.

    The leader holds a file lock, which the system lets go of when the process ends, however it
    ends; the others try at every interval, so one of them takes over within it. A process whose
    credentials are refused lets another one lead, and asks again after a pause.
    """

    def __init__(
        self,
        worker: SyncWorker,
        *,
        interval_seconds: float = INTERVAL_SECONDS,
        on_cycle: OnCycle = lambda _outcome: None,
    ) -> None:
        self.worker = worker
        self._on_cycle = on_cycle
        cache = worker.mirror.cache.path
        self._leadership = FileLock(
            cache.with_name(cache.name + ".leader.lock"), timeout=0, mode=0o600, thread_local=False
        )
        self._cycle: anyio.CancelScope | None = None
        self._cycle_ended = anyio.Event()
        self._scheduler = AsyncIOScheduler(timezone=UTC, logger=_quiet)
        self._job = self._scheduler.add_job(
            self._tick,
            IntervalTrigger(seconds=interval_seconds, timezone=UTC),
            max_instances=1,
            coalesce=True,
            misfire_grace_time=None,
            next_run_time=datetime.now(UTC),
        )

    @property
    def leads(self) -> bool:
        return bool(self._leadership.is_locked)

    @property
    def next_cycle_at(self) -> datetime | None:
        moment = self._job.next_run_time
        return moment if isinstance(moment, datetime) else None

    def start(self) -> None:
        """Needs a running event loop."""
        self._scheduler.start()

    async def stop(self) -> None:
        """End the cycle that runs, where it can be left, and let go of the lead."""
        self._job.remove()
        if self._cycle is not None:
            # A transaction that has begun is ended first: its thread is never left behind.
            self._cycle.cancel()
            await self._cycle_ended.wait()
        self._scheduler.shutdown(wait=False)
        self._leadership.release(force=True)

    async def _tick(self) -> None:
        with anyio.CancelScope() as self._cycle:
            self._cycle_ended = anyio.Event()
            try:
                await self._lead_and_run()
            finally:
                self._cycle = None
                self._cycle_ended.set()

    async def _lead_and_run(self) -> None:
        try:
            if not self.leads:
                self._leadership.acquire()
            self._on_cycle(await self.worker.run_once())
        except Timeout:
            return
        except DbosMcpError as error:
            logger.info("This cycle failed: %s", error)
            if isinstance(error, AuthenticationError):
                logger.warning("Syncing pauses until somebody logs in: %s", error)
                self._leadership.release(force=True)
                self._job.modify(next_run_time=datetime.now(UTC) + REFUSED_PAUSE)
            self._on_cycle(error)
        except Exception:
            logger.exception("This cycle failed unexpectedly; the next one will be tried.")
