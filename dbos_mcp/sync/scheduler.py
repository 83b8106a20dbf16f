"""When the worker runs: at once, then at an interval; in one process at a time, never twice."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger
from filelock import FileLock, Timeout

from dbos_mcp.errors import AuthenticationError, DbosMcpError
from dbos_mcp.sync.worker import ApplicationReport, SyncWorker

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 5.0

OnCycle = Callable[[list[ApplicationReport] | DbosMcpError], None]
"""Told what each cycle did, or why it did nothing."""


class SyncScheduler:
    """Runs `worker.run_once()` while this process leads.

    The leader holds a file lock, which the system lets go of when the process ends, however it
    ends; the others try at every interval, so one of them takes over within it.
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
        self._scheduler = AsyncIOScheduler(timezone=UTC)
        self._job = self._scheduler.add_job(
            self._tick,
            IntervalTrigger(seconds=interval_seconds, timezone=UTC),
            max_instances=1,
            coalesce=True,
            misfire_grace_time=None,
            next_run_time=datetime.now(UTC),
        )

    _cycle: "asyncio.Task[object] | None" = None

    @property
    def leads(self) -> bool:
        return bool(self._leadership.is_locked)

    def start(self) -> None:
        """Needs a running event loop."""
        self._scheduler.start()

    async def stop(self) -> None:
        """End the cycle that runs, where it can be left, and let go of the lead."""
        self._scheduler.shutdown(wait=False)
        if self._cycle is not None:
            self._cycle.cancel()
            await asyncio.wait({self._cycle})
        self._leadership.release(force=True)

    async def _tick(self) -> None:
        self._cycle = asyncio.current_task()
        if not self.leads:
            try:
                self._leadership.acquire()
            except Timeout:
                return
        try:
            self._on_cycle(await self.worker.run_once())
        except DbosMcpError as error:
            logger.info("This cycle failed: %s", error)
            self._on_cycle(error)
            if isinstance(error, AuthenticationError):
                # Every further cycle would be refused too; a login begins with a new scheduler.
                logger.warning("Syncing stops until somebody logs in: %s", error)
                self._job.pause()
        except Exception:
            logger.exception("This cycle failed unexpectedly; the next one will be tried.")
