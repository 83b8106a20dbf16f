"""When cycles run, and in which process."""

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio
import pytest

from dbos_mcp.conductor.credentials import Credentials
from dbos_mcp.errors import AuthenticationError, DbosMcpError, UnavailableError
from dbos_mcp.store.sync_state import CONDUCTOR
from dbos_mcp.sync.pacing import LONGEST_MS, SHORTEST_MS
from dbos_mcp.sync.scheduler import SyncScheduler
from dbos_mcp.sync.visit import ApplicationReport
from tests.upstream import APP, Asked, Site, open_site, problem

PATIENCE_SECONDS = 20
INTERVAL_SECONDS = 0.02

Outcome = list[ApplicationReport] | DbosMcpError


class Watched:
    """A scheduler, and what it told of its cycles."""

    def __init__(self, site: Site, *, hurried: bool = True, watched: bool = False) -> None:
        """`hurried`: the next cycle is due as soon as one has ended."""
        self.site = site
        self.outcomes: list[Outcome] = []
        self._hurried = hurried
        self._told = anyio.Event()
        self.scheduler = SyncScheduler(
            site.worker,
            interval_seconds=INTERVAL_SECONDS,
            watched=watched,
            on_cycle=self._on_cycle,
        )

    def _on_cycle(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        if self._hurried:
            self.site.clock.ahead_ms += LONGEST_MS
        self._told.set()

    async def looked_at(self) -> int:
        """How many requests a look costs, when it is made by hand."""
        before = len(self.site.wire.asked)
        await self.scheduler.tick()
        return len(self.site.wire.asked) - before

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
        assert [report.events for report in outcome] == [0]
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


async def test_refused_credentials_are_not_sent_again_and_another_process_may_lead(
    watched: Open,
) -> None:
    async with watched() as refused, watched() as accepted:
        refused.site.wire.fault = lambda _request: problem(401)
        refused.scheduler.note_question(CONDUCTOR)
        assert await refused.looked_at() == 1
        assert isinstance(refused.outcomes[-1], AuthenticationError)
        assert refused.site.state(CONDUCTOR).login_needed
        assert "credentials" in (refused.site.state(CONDUCTOR).last_error or "")
        assert not refused.scheduler.leads

        accepted.scheduler.start()
        await accepted.told(2)
        assert accepted.scheduler.leads
        assert not accepted.site.state(CONDUCTOR).login_needed
        await accepted.scheduler.stop()

        refused.scheduler.note_question(APP)
        for _ in range(3):
            refused.site.clock.ahead_ms += LONGEST_MS
            assert await refused.looked_at() == 0
        assert not refused.scheduler.leads


async def test_other_credentials_are_tried_at_once(watched: Open) -> None:
    async with watched() as one:
        one.site.wire.fault = lambda request: (
            problem(401) if request.headers.get("Authorization") != "Bearer new" else None
        )
        one.scheduler.note_question(CONDUCTOR)
        assert await one.looked_at() == 1
        assert await one.looked_at() == 0
        one.site.client.identity = lambda: Credentials("local", "new")
        one.site.clock.ahead_ms += SHORTEST_MS
        assert await one.looked_at() > 1
        assert not one.site.state(CONDUCTOR).login_needed
        assert not one.site.state().login_needed
        assert one.site.state().last_error is None
        assert one.site.differences() == {}
        await one.scheduler.stop()


async def test_a_person_may_have_refused_credentials_tried_again(watched: Open) -> None:
    async with watched() as one:
        one.site.wire.fault = lambda _request: problem(401)
        one.scheduler.note_question(CONDUCTOR)
        assert await one.looked_at() == 1
        one.site.wire.fault = lambda _request: None
        one.site.clock.ahead_ms += SHORTEST_MS
        assert await one.looked_at() == 0
        one.scheduler.ask_again()
        assert await one.looked_at() > 1
        assert one.site.differences() == {}
        await one.scheduler.stop()


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
        asked, answered = anyio.Event(), anyio.Event()

        async def wait(_asked: Asked) -> None:
            asked.set()
            await answered.wait()

        one.site.wire.heard = wait
        stopped = anyio.Event()

        async def stop() -> None:
            await one.scheduler.stop()
            stopped.set()

        with anyio.fail_after(PATIENCE_SECONDS):
            async with anyio.create_task_group() as tasks:
                one.scheduler.start()
                await asked.wait()
                with one.site.cache.write():  # the cycle's first write waits for this one
                    answered.set()
                    await anyio.wait_all_tasks_blocked()
                    tasks.start_soon(stop)
                    await anyio.wait_all_tasks_blocked()
                    assert not stopped.is_set()
        assert stopped.is_set()
        assert one.outcomes == []
