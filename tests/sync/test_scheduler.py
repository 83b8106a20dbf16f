"""When cycles run, and in which process."""

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from dbos_mcp.errors import AuthenticationError, DbosMcpError, UnavailableError
from dbos_mcp.sync.scheduler import SyncScheduler
from dbos_mcp.sync.visit import ApplicationReport
from tests.upstream import Asked, Site, open_site, problem

PATIENCE_SECONDS = 20
INTERVAL_SECONDS = 0.02

Outcome = list[ApplicationReport] | DbosMcpError


class Watched:
    """A scheduler, and what it told of its cycles."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.outcomes: list[Outcome] = []
        self._told = anyio.Event()
        self.scheduler = SyncScheduler(
            site.worker, interval_seconds=INTERVAL_SECONDS, on_cycle=self._on_cycle
        )

    def _on_cycle(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._told.set()

    async def told(self, count: int = 1) -> Outcome:
        """The newest outcome, once there are `count` more."""
        wanted = len(self.outcomes) + count
        with anyio.fail_after(PATIENCE_SECONDS):
            while len(self.outcomes) < wanted:
                self._told = anyio.Event()
                await self._told.wait()
        return self.outcomes[-1]


def hanging_at(path: str, waiting: anyio.Event) -> Callable[[Asked], Awaitable[None] | None]:
    async def never_answer() -> None:
        waiting.set()
        await anyio.sleep_forever()

    return lambda asked: never_answer() if asked.path.endswith(path) else None


Open = Callable[[], AbstractAsyncContextManager[Watched]]


@pytest.fixture
def watched(shop_database: Path, cache_path: Path) -> Open:
    """Opens schedulers that share one cache."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Watched]:
        async with open_site(shop_database, cache_path) as site:
            yield Watched(site)

    return opened


async def test_the_first_cycle_runs_at_once_and_others_follow(watched: Open) -> None:
    async with watched() as one:
        one.scheduler.start()
        outcome = await one.told()
        assert isinstance(outcome, list)
        assert [report.events > 0 for report in outcome] == [True]
        outcome = await one.told(2)
        assert isinstance(outcome, list)
        assert [report.error for report in outcome] == [None]
        assert one.scheduler.leads
        await one.scheduler.stop()
        assert not one.scheduler.leads
        assert one.site.differences() == {}


async def test_one_of_two_leads_and_the_other_takes_over_when_it_stops(watched: Open) -> None:
    async with watched() as first, watched() as second:
        first.scheduler.start()
        await first.told()
        second.scheduler.start()
        await first.told(5)
        assert first.scheduler.leads
        assert not second.scheduler.leads
        assert second.outcomes == []

        await first.scheduler.stop()
        await second.told()
        assert second.scheduler.leads
        assert not first.scheduler.leads
        await second.scheduler.stop()


@pytest.mark.e2e
async def test_another_process_takes_over_when_the_leader_is_killed(
    watched: Open, shop_database: Path, cache_path: Path
) -> None:
    environment = {
        **os.environ,
        "DBOS_SYSTEM_DATABASE_URL": f"sqlite:///{shop_database}",
        "DBOS_APP": "shop",
        "DBOS_MCP_CACHE": str(cache_path),
        "COLUMNS": "200",
    }
    command = [sys.executable, "-m", "dbos_mcp", "sync", "--watch"]
    async with (
        watched() as other,
        await anyio.open_process(command, env=environment, stderr=None) as leader,
    ):
        assert leader.stdout is not None
        told = ""
        with anyio.fail_after(PATIENCE_SECONDS):
            while "shop: " not in told:
                told += (await leader.stdout.receive()).decode()
        assert other.site.differences() == {}
        leader.kill()
        other.scheduler.start()
        await other.told()
        assert other.scheduler.leads
        await other.scheduler.stop()


async def test_a_cycle_that_fails_is_told_and_the_next_one_is_tried(watched: Open) -> None:
    async with watched() as one:
        one.site.wire.fault = lambda _request: problem(503)
        one.scheduler.start()
        assert isinstance(await one.told(2), UnavailableError)
        one.site.wire.fault = lambda _request: None
        with anyio.fail_after(PATIENCE_SECONDS):
            while not isinstance(await one.told(), list):
                pass
        await one.scheduler.stop()


async def test_a_fault_of_ours_does_not_end_the_schedule(watched: Open) -> None:
    async with watched() as one:

        def stumble(_asked: Asked) -> None:
            one.site.wire.heard = lambda _asked: None
            raise ZeroDivisionError

        one.site.wire.heard = stumble
        one.scheduler.start()
        assert isinstance(await one.told(), list)
        await one.scheduler.stop()


async def test_refused_credentials_pause_the_schedule_and_let_another_process_lead(
    watched: Open,
) -> None:
    async with watched() as refused, watched() as accepted:
        refused.site.wire.fault = lambda _request: problem(401)
        refused.scheduler.start()
        assert isinstance(await refused.told(), AuthenticationError)
        assert not refused.scheduler.leads
        next_cycle_at = refused.scheduler.next_cycle_at
        assert next_cycle_at is not None
        assert next_cycle_at > datetime.now(UTC) + timedelta(seconds=30)

        accepted.scheduler.start()
        await accepted.told(3)
        assert len(refused.outcomes) == 1
        await accepted.scheduler.stop()
        await refused.scheduler.stop()


async def test_stopping_in_the_middle_of_a_cycle_leaves_the_cache_usable(watched: Open) -> None:
    async with watched() as one:
        for path in ("/apps", "/executors", "/search", "/steps"):
            waiting = anyio.Event()
            one.site.wire.heard = hanging_at(path, waiting)
            stopped = Watched(one.site)
            stopped.scheduler.start()
            with anyio.fail_after(PATIENCE_SECONDS):
                await waiting.wait()
                await stopped.scheduler.stop()
            assert stopped.outcomes == []
            assert not stopped.scheduler.leads
        one.site.wire.heard = lambda _asked: None
        one.scheduler.start()
        await one.told()
        assert one.site.differences() == {}
        await one.scheduler.stop()


async def test_stopping_waits_for_a_transaction_that_has_begun(watched: Open) -> None:
    async with watched() as one:
        asked = anyio.Event()
        one.site.wire.heard = lambda _asked: asked.set()
        stopped = anyio.Event()

        async def stop() -> None:
            await one.scheduler.stop()
            stopped.set()

        with anyio.fail_after(PATIENCE_SECONDS):
            async with anyio.create_task_group() as tasks:
                with one.site.cache.write():  # the cycle's first write waits for this one
                    one.scheduler.start()
                    await asked.wait()
                    await anyio.wait_all_tasks_blocked()
                    tasks.start_soon(stop)
                    await anyio.wait_all_tasks_blocked()
                    assert not stopped.is_set()
        assert stopped.is_set()
        assert one.outcomes == []
