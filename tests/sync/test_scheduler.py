"""When cycles run, and in which process."""

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from httpx import Response

from benchmarks.reliability.file_faults import limited_size
from dbos_mcp.conductor.credentials import Credentials
from dbos_mcp.conductor.identity import FixedIdentity
from dbos_mcp.domain import CONDUCTOR, now_ms
from dbos_mcp.errors import AuthenticationError, DbosMcpError, UnavailableError
from dbos_mcp.store.migrate import HEAD
from dbos_mcp.store.sync_state import AttentionRow
from dbos_mcp.sync.pacing import LONGEST_MS, SHORTEST_MS
from dbos_mcp.sync.scheduler import NOTE_EVERY_MS, SyncScheduler
from dbos_mcp.sync.visit import ApplicationReport
from tests.store.test_versions import migrated_by_a_newer_version
from tests.upstream import APP, Asked, Site, below, open_site, problem

PATIENCE_SECONDS = 20
INTERVAL_SECONDS = 0.02

Outcome = list[ApplicationReport] | DbosMcpError


class Watched:
    """A scheduler, and what it told of its cycles."""

    def __init__(
        self,
        site: Site,
        *,
        hurried: bool = True,
        watched: bool = False,
        awake: bool = False,
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        """`hurried`: the next cycle is due as soon as one has ended; else time stands still until
        the test moves the clock."""
        self.site = site
        self.outcomes: list[Outcome] = []
        self._hurried = hurried
        self._told = anyio.Event()
        self._looks = 0
        if not hurried:
            began_at = now_ms()
            site.mirror.clock = lambda: began_at + site.clock.ahead_ms
        self.scheduler = SyncScheduler(
            site.worker,
            interval_seconds=interval_seconds,
            takeover_seconds=INTERVAL_SECONDS,
            watched=watched,
            awake=awake,
            on_cycle=self._on_cycle,
            on_look=self._on_look,
        )

    def _on_cycle(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        if self._hurried:
            self.site.clock.ahead_ms += LONGEST_MS
        self._told.set()

    def _on_look(self) -> None:
        self._looks += 1
        self._told.set()

    async def looked(self, count: int = 1) -> None:
        """Until it has looked so often."""
        with anyio.fail_after(PATIENCE_SECONDS):
            while self._looks < count:
                self._told = anyio.Event()
                await self._told.wait()

    async def looked_at(self) -> int:
        """How many requests a look costs, when it is made by hand."""
        before = len(self.site.wire.asked)
        await self.scheduler.tick()
        return len(self.site.wire.asked) - before

    def events(self) -> int:
        """How many the last cycle recorded."""
        outcome = self.outcomes[-1]
        assert isinstance(outcome, list)
        return sum(report.events for report in outcome)

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


Open = Callable[..., AbstractAsyncContextManager[Watched]]


@pytest.fixture
def watched(shop_database: Path, cache_path: Path) -> Open:
    """Opens schedulers that share one cache."""

    @asynccontextmanager
    async def opened(
        *names: str, hurried: bool = True, watched: bool = False, awake: bool = False
    ) -> AsyncIterator[Watched]:
        async with open_site(shop_database, cache_path, names=names or (APP,)) as site:
            yield Watched(site, hurried=hurried, watched=watched, awake=awake)

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


async def test_who_takes_over_looks_at_once_however_rare_its_looks_are(watched: Open) -> None:
    async with watched() as first, watched() as other:
        first.scheduler.start()
        await first.told()
        second = Watched(other.site, interval_seconds=3600)
        second.scheduler.start()
        await second.looked()
        assert not second.scheduler.leads

        await first.scheduler.stop()
        await second.told()
        assert second.scheduler.leads
        await second.scheduler.stop()


async def test_refused_credentials_do_not_take_over(watched: Open) -> None:
    async with watched() as one:
        one.scheduler.note_refusal()
        one.scheduler.start()
        await one.looked(5)  # as often as it could have tried
        assert not one.scheduler.leads
        one.scheduler.ask_again()
        await one.told()
        assert one.scheduler.leads
        await one.scheduler.stop()


async def test_a_look_that_is_due_when_it_stops_is_left_out_without_a_complaint(
    watched: Open, caplog: pytest.LogCaptureFixture
) -> None:
    async with watched() as one:
        one.scheduler.start()
        await anyio.lowlevel.checkpoint()  # it is handed to the event loop, and has not begun
        await one.scheduler.stop()
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        assert not one.scheduler.leads
        assert one.site.wire.asked == []
        assert [record for record in caplog.records if record.levelname == "ERROR"] == []


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
            one.site.clock.ahead_ms += LONGEST_MS
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
        one.site.client.identity = FixedIdentity(Credentials("local", "new"))
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


MINUTE, HOUR = 60_000, 3_600_000


@pytest.fixture
async def one(watched: Open) -> AsyncIterator[Watched]:
    """A scheduler whose looks are made by hand, and its clock moved by hand; it has looked once."""
    async with watched(hurried=False) as one:
        one.scheduler.note_question(CONDUCTOR)
        assert await one.looked_at() > 0
        yield one
        await one.scheduler.stop()


def asked_at(site: Site) -> dict[str, int]:
    return {row["application_name"]: row["asked_at"] for row in site.table(AttentionRow)}


async def test_between_two_turns_nothing_is_sent(one: Watched) -> None:
    assert await one.looked_at() == 0
    one.site.clock.ahead_ms += SHORTEST_MS - 1000
    assert await one.looked_at() == 0
    one.site.clock.ahead_ms += 1000
    assert await one.looked_at() > 0
    assert await one.looked_at() == 0


async def test_looks_become_rarer_while_nobody_asks_and_nothing_changes(one: Watched) -> None:
    while one.events():  # the steps of what has ended come by and by
        one.site.clock.ahead_ms += SHORTEST_MS
        await one.looked_at()
    one.site.clock.ahead_ms += 3 * MINUTE
    sent = []
    for _ in range(27):  # two minutes and a quarter, every 5 seconds
        sent.append(await one.looked_at() > 0)
        one.site.clock.ahead_ms += SHORTEST_MS
    looks = [number for number, some in enumerate(sent) if some]
    assert looks == [0, 2, 6, 14, 26]


async def test_after_an_hour_without_a_question_nothing_is_sent_until_the_next_one(
    one: Watched,
) -> None:
    one.site.clock.ahead_ms += HOUR
    for _ in range(5):
        assert await one.looked_at() == 0
        one.site.clock.ahead_ms += HOUR
    assert one.site.state().next_at is None
    assert one.site.state(CONDUCTOR).next_at is None
    one.scheduler.note_question(APP)
    assert await one.looked_at() > 0
    next_at = one.site.state().next_at
    assert next_at is not None
    assert next_at == one.site.state(CONDUCTOR).next_at


async def test_who_watches_is_attentive_to_everything(watched: Open) -> None:
    async with watched(hurried=False, watched=True) as one:
        for _ in range(4):
            assert await one.looked_at() > 0
            one.site.clock.ahead_ms += 2 * HOUR
        assert set(asked_at(one.site)) == {CONDUCTOR}
        await one.scheduler.stop()


async def test_the_leader_hears_what_another_process_is_asked(one: Watched, watched: Open) -> None:
    async with watched(hurried=False) as follower:
        one.site.clock.ahead_ms = follower.site.clock.ahead_ms = 2 * HOUR
        assert await one.looked_at() == 0
        follower.scheduler.note_question(APP)
        assert await follower.looked_at() == 0
        assert not follower.scheduler.leads
        assert await one.looked_at() > 0
        await follower.scheduler.stop()


async def test_a_question_wakes_a_running_schedule(watched: Open) -> None:
    async with watched(hurried=False) as one:
        scheduler = SyncScheduler(one.site.worker, interval_seconds=3600, on_cycle=one._on_cycle)
        scheduler.start()
        await one.told()
        one.site.clock.ahead_ms += 2 * HOUR
        scheduler.note_question(APP)
        await one.told()
        assert len(one.outcomes) == 2
        await scheduler.stop()


async def test_only_the_applications_whose_turn_it_is_are_visited(watched: Open) -> None:
    async with watched(APP, "bank", hurried=False) as one:
        one.scheduler.note_question(CONDUCTOR)
        await one.looked_at()
        one.site.clock.ahead_ms += 61 * MINUTE
        one.scheduler.note_question(APP)
        await one.looked_at()
        visited = []
        for _ in range(5):
            one.site.clock.ahead_ms += SHORTEST_MS
            before = len(one.site.wire.asked)
            await one.looked_at()
            paths = {asked.path for asked in one.site.wire.asked[before:]}
            visited.append((any(f"/{APP}/" in p for p in paths), any("/bank/" in p for p in paths)))
        assert visited == [(True, False)] * 5
        await one.scheduler.stop()


async def test_a_new_application_is_found_while_another_is_asked_about(watched: Open) -> None:
    async with watched(APP, "bank", hurried=False) as one:
        listed = [{"id": "1", "name": APP, "status": "AVAILABLE"}]
        one.site.wire.fault = lambda request: (
            Response(200, json=listed) if request.url.path.endswith("/apps") else None
        )
        one.scheduler.note_question(CONDUCTOR)
        await one.looked_at()
        assert one.site.state("bank").attempted_at is None
        one.site.wire.fault = lambda _request: None
        one.site.clock.ahead_ms += SHORTEST_MS
        assert await one.looked_at() > 0
        assert await one.looked_at() > 0
        assert one.site.state("bank").succeeded_at is not None
        await one.scheduler.stop()


async def test_an_application_that_fails_is_asked_ever_less_though_somebody_asks(
    one: Watched,
) -> None:
    one.site.wire.fault = below(f"/{APP}/", lambda: problem(503))
    sent = []
    for _ in range(16):
        one.site.clock.ahead_ms += SHORTEST_MS
        one.scheduler.note_question(APP)
        sent.append(await one.looked_at() > 0)
    assert [number for number, some in enumerate(sent) if some] == [0, 2, 6, 14]
    assert one.site.state().offline_since is not None
    one.site.wire.fault = lambda _request: None


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of this kind")
async def test_a_cache_without_room_is_told_of_once_and_makes_no_look_rarer(
    one: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    with limited_size(one.site.cache.path):
        for _ in range(3):
            one.site.clock.ahead_ms += SHORTEST_MS
            await one.looked_at()
    assert [str(outcome) for outcome in one.outcomes[1:]] == [
        f"The cache {one.site.cache.path} cannot be written: disk I/O error. Nothing was changed."
        " Check its folder, or name another file with DBOS_MCP_CACHE."
    ]
    assert caplog.text.count("The cache cannot be used just now") == 1
    one.site.clock.ahead_ms -= 2 * SHORTEST_MS  # as if there was room at once
    assert await one.looked_at() > 0
    assert isinstance(one.outcomes[-1], list)


async def test_a_question_is_noted_every_quarter_of_a_minute_at_the_most(one: Watched) -> None:
    first = asked_at(one.site)
    one.scheduler.note_question(CONDUCTOR)
    await one.looked_at()
    assert asked_at(one.site) == first
    one.site.clock.ahead_ms += NOTE_EVERY_MS
    one.scheduler.note_question(CONDUCTOR)
    await one.looked_at()
    assert asked_at(one.site)[CONDUCTOR] >= first[CONDUCTOR] + NOTE_EVERY_MS


async def test_a_question_about_a_name_that_nobody_knows_is_one_about_all(one: Watched) -> None:
    one.site.clock.ahead_ms += HOUR
    one.scheduler.note_question("banc")
    assert await one.looked_at() > 0
    assert set(asked_at(one.site)) == {CONDUCTOR}


async def test_what_is_spent_is_added_up_for_all_to_see(one: Watched) -> None:
    one.site.wire.fault = below("/search", lambda: problem(500))
    one.site.clock.ahead_ms += SHORTEST_MS
    await one.looked_at()
    await one.looked_at()
    of_shop, besides = one.site.state(), one.site.state(CONDUCTOR)
    of_all = [asked for asked in one.site.wire.asked if asked.path.endswith("/apps")]
    assert besides.requests == len(of_all) == 2
    assert of_shop.requests == len(one.site.wire.asked) - 2
    assert of_shop.failed_requests > 0
    assert besides.bytes_received == sum(asked.answer_bytes for asked in of_all)
    assert of_shop.bytes_sent > 0
    one.site.wire.fault = lambda _request: None


async def test_the_next_leader_goes_on_at_the_pace_of_the_one_before(watched: Open) -> None:
    async with watched(hurried=False) as first, watched(hurried=False) as second:
        first.scheduler.note_question(CONDUCTOR)
        await first.looked_at()
        first.site.clock.ahead_ms = second.site.clock.ahead_ms = 3 * MINUTE
        assert await first.looked_at() > 0
        next_at = first.site.state().next_at
        await first.scheduler.stop()
        assert await second.looked_at() == 0
        assert second.scheduler.leads
        assert second.site.state().next_at == next_at
        second.site.clock.ahead_ms += 2 * SHORTEST_MS
        assert await second.looked_at() > 0
        await second.scheduler.stop()


async def test_who_stays_awake_does_not_fall_asleep_nor_hurries_unless_somebody_asks(
    watched: Open,
) -> None:
    async with watched(hurried=False, awake=True) as one, watched(hurried=False) as asking:
        one.scheduler.note_question(CONDUCTOR)
        looks = []
        for minute in range(0, 24 * 60, 40):
            one.site.clock.ahead_ms = asking.site.clock.ahead_ms = minute * MINUTE
            looks.append(await one.looked_at())
        assert all(looks)
        one.site.clock.ahead_ms += SHORTEST_MS
        assert await one.looked_at() == 0
        asking.site.clock.ahead_ms = one.site.clock.ahead_ms
        asking.scheduler.note_question(APP)
        assert await asking.looked_at() == 0
        assert await one.looked_at() > 0
        one.site.clock.ahead_ms += SHORTEST_MS
        assert await one.looked_at() > 0
        await one.scheduler.stop()


async def test_a_process_whose_cache_a_newer_version_has_migrated_leaves_the_lead_to_it(
    watched: Open, cache_path: Path
) -> None:
    async with watched(hurried=False) as one, watched(hurried=False) as other:
        one.scheduler.note_question(CONDUCTOR)
        assert await one.looked_at() > 0
        assert one.scheduler.leads
        migrated_by_a_newer_version(cache_path, readable_from=HEAD)
        one.site.clock.ahead_ms += LONGEST_MS
        one.scheduler.note_question(CONDUCTOR)
        assert await one.looked_at() == 0
        assert not one.scheduler.leads
        assert await other.looked_at() == 0
        assert other.site.mirror.cache.notice is not None


async def test_the_process_that_leads_looks_its_cache_through_for_damage(
    watched: Open, cache_path: Path
) -> None:
    checked = cache_path.with_name(f"{cache_path.name}.checked")
    async with watched() as one:
        one.scheduler.start()
        with anyio.fail_after(PATIENCE_SECONDS):
            while not checked.exists():
                await one.told()
        await one.scheduler.stop()
