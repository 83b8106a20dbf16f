"""Whatever happens upstream and to the processes that sync: nothing is missed, lost or doubled.

Threads would make every run another one, so their work is done in place here; where processes
interleave is up to the plan. `just fuzz-sync` runs many more plans than the suite does.
"""

import json
import os
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from starlette.applications import Starlette

from benchmarks.reliability.checks import repeated
from dbos_mcp.conductor.client import ConductorClient
from dbos_mcp.conductor.credentials import Credentials
from dbos_mcp.conductor.identity import FixedIdentity
from dbos_mcp.conductor.traffic import Traffic
from dbos_mcp.domain import IN_FLIGHT
from dbos_mcp.errors import DbosMcpError
from dbos_mcp.local_conductor.app import create_app
from dbos_mcp.local_conductor.system_database import SystemDatabase
from dbos_mcp.store import projector
from dbos_mcp.store.events import WorkflowDeleted
from dbos_mcp.store.projections.steps import StepRow
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.sync_state import StepReadingRow
from dbos_mcp.sync import worker
from dbos_mcp.sync.audit import AUDIT_EVERY_MS, REREAD_EVERY_MS
from dbos_mcp.sync.due import LONGEST_PAUSE_MS
from dbos_mcp.sync.mirror import Mirror
from dbos_mcp.sync.visit import Visit
from dbos_mcp.sync.worker import SyncWorker
from tests.store.mortal import Death, Moment, MortalCache
from tests.sync.plans import (
    FAULTS,
    HOUR,
    Command,
    Cycle,
    Failing,
    Insert,
    Killed,
    Meanwhile,
    Mishap,
    OurClockJumps,
    Plan,
    Restart,
    Transition,
    Upstream,
    Wait,
    plans,
)
from tests.upstream import APP, COMPARED, Asked, Clock, Site, Tables, Wire

EXAMPLES_OF_THE_SUITE = 12
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
CYCLES_UNTIL_PEACE = 20
LOOK_MS = 61_000
STEP = ("step_id", "step_name", "child_workflow_id", "started_at", "completed_at", "error")


class OurClock(Clock):
    def __init__(self, upstream: Upstream) -> None:
        super().__init__()
        self.upstream = upstream

    def __call__(self) -> int:
        return self.upstream.now + self.ahead_ms


class Process:
    """One that syncs, until it is dead."""

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.number = number
        self.dead = False
        self._numbers: dict[int, int] = {}
        self._writes = 0
        self._mishaps: tuple[Mishap, ...] = ()
        self._open = AsyncExitStack()

    async def start(self) -> None:
        world = self.world
        cache = self._open.enter_context(closing(MortalCache(world.cache_path, self._wrote)))
        with cache.read() as connection:
            assert projector.stale(connection) == []
        wire = Wire(httpx.ASGITransport(world.conductor))
        wire.fault, wire.heard = self._asked, self._heard
        client = await self._open.enter_async_context(
            ConductorClient(
                "http://local-conductor", FixedIdentity(Credentials("local")), transport=wire
            )
        )
        mirror = Mirror(cache, client, clock=world.clock)
        syncing = SyncWorker(
            mirror, history_ms=world.plan.history_ms, page_limit=world.plan.page_limit
        )
        self.site = Site(world.upstream.tables, wire, client, cache, mirror, syncing, world.clock)

    async def end(self) -> None:
        self.dead = True
        await self._open.aclose()

    async def cycle(self, mishaps: tuple[Mishap, ...] = ()) -> DbosMcpError | None:
        """One cycle; what kept it from its end."""
        self._numbers, self._writes, self._mishaps = {}, 0, mishaps
        # How long reads pause after failures goes by a clock that cannot be moved from here.
        self.site.client.traffic = Traffic(patience_seconds=0, reads_per_second=1_000_000)
        try:
            return (await self.site.sync()).error
        except DbosMcpError as error:
            return error
        except BaseException:
            if not self.dead:
                raise
            return None
        finally:
            self._mishaps = ()

    def _asked(self, _request: httpx.Request) -> httpx.Response | Exception | None:
        if self.dead:
            raise Death
        number = len(self._numbers)
        self._numbers[id(self.site.wire.asked[-1])] = number
        self._die_at(Killed("request", number, "before"))
        for mishap in self._mishaps:
            match mishap:
                case Meanwhile(request, happens, answered=False) if request == number:
                    if not isinstance(happens, Cycle):
                        happens.apply(self.world.upstream)
                case Failing(first, fault, times) if first <= number < first + times:
                    return FAULTS[fault]()
        return None

    async def _heard(self, asked: Asked) -> None:
        number = self._numbers[id(asked)]
        self._die_at(Killed("request", number, "after"))
        for mishap in self._mishaps:
            match mishap:
                case Meanwhile(request, happens, answered=True) if request == number:
                    if isinstance(happens, Cycle):
                        await self.world.cycle(1 - self.number, happens.mishaps)
                    else:
                        happens.apply(self.world.upstream)

    def _wrote(self, moment: Moment) -> None:
        if self.dead:
            raise Death
        if moment == "before":
            self._writes += 1
        self._die_at(Killed("write", self._writes - 1, moment))

    def _die_at(self, killed: Killed) -> None:
        if killed in self._mishaps:
            self.dead = True
            raise Death


class World:
    """Upstream, one cache, and the processes on it."""

    def __init__(self, plan: Plan, tables: Tables, conductor: Starlette, cache_path: Path) -> None:
        self.plan = plan
        self.upstream = Upstream(tables)
        self.conductor = conductor
        self.cache_path = cache_path
        self.clock = OurClock(self.upstream)
        self._processes: dict[int, Process] = {}

    async def live(self, pauses: Sequence[int]) -> None:
        """The plan; then peace, with looks so far apart, until nothing is found any more."""
        self.upstream.tables.clear()
        try:
            for command in self.plan.commands:
                await self._do(command)
            await self._settle(pauses)
        finally:
            for process in self._processes.values():
                await process.end()

    async def cycle(self, number: int, mishaps: tuple[Mishap, ...] = ()) -> DbosMcpError | None:
        process = await self._process(number)
        seen_before = set(self.upstream.owned()) - self.upstream.unannounced
        error = await process.cycle(mishaps)
        self._check_claims(process.site, seen_before)
        if process.dead:
            await self._processes.pop(number).end()
        return error

    async def _process(self, number: int) -> Process:
        if number not in self._processes:
            self._processes[number] = Process(self, number)
            await self._processes[number].start()
        return self._processes[number]

    async def _do(self, command: Command) -> None:
        match command:
            case Wait(ms):
                self.upstream.now += ms
            case OurClockJumps(ms):
                self.clock.ahead_ms += ms
            case Cycle(process, mishaps):
                await self.cycle(process, mishaps)
            case Restart(process):
                if process in self._processes:
                    await self._processes.pop(process).end()
            case Insert() | Transition():
                command.apply(self.upstream)

    async def _settle(self, pauses: Sequence[int]) -> None:
        site = (await self._process(0)).site
        for pause in pauses:
            site.new_events()
            for _ in range(CYCLES_UNTIL_PEACE):
                self.upstream.now += pause
                assert await self.cycle(0) is None
                if not site.new_events() and not is_under_way(site):
                    break
            else:
                raise AssertionError("it finds something new for ever")
        check_mirror(site, self.upstream)
        check_log(site, self.upstream)
        for workflow_id, times in deletions_recorded(site).items():
            assert times <= self.upstream.deletions[workflow_id]
        with site.cache.write() as connection:
            assert all(table.equal for table in projector.rebuild(connection))

    def _check_claims(self, site: Site, owed: set[str]) -> None:
        """What the state claims to have seen is in the mirror; `owed` is what it could see."""
        state, mirrored = site.state(), site.mirrored().keys()
        if state.covered_since is None or state.watermark is None:
            return
        for workflow_id, created_at in self.upstream.owned().items():
            if state.covered_since <= created_at <= state.watermark and workflow_id in owed:
                assert workflow_id in mirrored


def is_under_way(site: Site) -> bool:
    """Whether something takes more than one cycle: an audit, or the reading of steps."""
    state, read = site.state(), {row["workflow_key"] for row in site.table(StepReadingRow)}
    return (
        state.audit_cursor is not None
        or state.reread_position is not None
        or any(is_read(row) and row["id"] not in read for row in site.mirrored().values())
    )


def is_read(row: dict[str, Any]) -> bool:
    """Whether the steps of a workflow are read; while it waits they are not."""
    return row["status"] not in ("ENQUEUED", "DELAYED")


def check_mirror(site: Site, upstream: Upstream) -> None:
    """It is what upstream has, as far back as it claims to go."""
    theirs = upstream.workflows()
    ours = site.mirrored()
    since = site.state().covered_since
    assert since is not None
    for workflow_id, row in theirs.items():
        owned = row["application_name"] in (None, APP)
        reached = row["created_at"] >= since or row["status"] in IN_FLIGHT
        assert workflow_id in ours or not (owned and reached), f"{workflow_id} is not mirrored"
    assert ours.keys() <= theirs.keys()
    for workflow_id, row in ours.items():
        assert as_upstream(row) == theirs[workflow_id]
    check_steps(site, upstream)


def check_steps(site: Site, upstream: Upstream) -> None:
    """They are those upstream, of every workflow whose steps are read."""
    rows = {row["id"]: row for row in site.table(WorkflowRow)}
    ours = defaultdict[str, list[dict[str, Any]]](list)
    for step in site.table(StepRow):
        ours[rows[step["workflow_key"]]["workflow_id"]].append(step)
    for row in rows.values():
        if row["deleted_at"] is None and is_read(row):
            held = [tuple(step[column] for column in STEP) for step in ours[row["workflow_id"]]]
            assert sorted(held) == upstream.steps(row["workflow_id"])


def check_log(site: Site, upstream: Upstream) -> None:
    """Nothing is in it twice, and nothing is out of place."""
    site.last_position = 0
    recorded = site.new_events()
    assert [entry.position for entry in recorded] == list(range(1, len(recorded) + 1))
    assert repeated(recorded, upstream.deletions.keys() | upstream.of_the_future) == []


def deletions_recorded(site: Site) -> Counter[str]:
    site.last_position = 0
    events = (entry.event for entry in site.new_events())
    return Counter(event.workflow_id for event in events if isinstance(event, WorkflowDeleted))


def as_upstream(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **{theirs: row[ours] for ours, theirs in COMPARED.items()},
        "application_name": row["owning_application"] or APP,
        "attributes": row["attributes"] and json.loads(row["attributes"]),
        "error": row["error"],
    }


class Ground:
    """What all plans share: an empty cache to copy, and an upstream to clear."""

    def __init__(self, database: Path, empty_cache: Path, folder: Path) -> None:
        self._cache, self._folder = empty_cache, folder
        self.tables = Tables(database)
        self.system_database = SystemDatabase(self.tables.url, [APP])
        self.conductor = create_app(self.system_database)

    def live(self, plan: Plan, *, pauses: Sequence[int]) -> None:
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            cache = Path(shutil.copy(self._cache, Path(folder) / "cache.sqlite"))
            anyio.run(World(plan, self.tables, self.conductor, cache).live, pauses)

    def live_without_audits(self, plan: Plan) -> None:
        """They would make up for what cycles miss."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(worker, "audit", no_audit)
            self.live(plan, pauses=[LOOK_MS, LONGEST_PAUSE_MS])


@pytest.fixture(scope="module")
def ground(
    shop_leftover: Path, empty_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("plans")
    for leftover in shop_leftover.parent.glob("shop.sqlite*"):
        shutil.copy(leftover, folder)
    ground = Ground(folder / "shop.sqlite", empty_cache, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anyio.to_thread, "run_sync", in_place)
        yield ground
    ground.system_database.close()


async def in_place(work: Callable[..., Any], *arguments: Any, **_options: Any) -> Any:
    await anyio.lowlevel.checkpoint()
    return work(*arguments)


RUNS = settings(
    max_examples=EXAMPLES or EXAMPLES_OF_THE_SUITE,
    derandomize=not EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
RUNNING = Insert("PENDING", count=2)
SINGULAR = {
    **{
        f"killed at write {n} of the first load": Plan(
            [
                *(Insert("SUCCESS", age_ms=hours * HOUR) for hours in range(6)),
                Cycle(mishaps=(Killed("write", n),)),
            ]
        )
        for n in range(2, 9)
    },
    **{
        f"no such application from request {n} on": Plan(
            [RUNNING, Cycle(), Cycle(mishaps=(Failing(n, "404", times=30),))]
        )
        for n in range(1, 8, 2)
    },
    **{
        f"overtaken at request {n}": Plan(
            [
                RUNNING,
                Cycle(),
                Cycle(mishaps=(Meanwhile(n, Transition("succeed")), Meanwhile(n, Cycle()))),
            ]
        )
        for n in (3, 7)
    },
    "deleted while delayed": Plan([Insert("DELAYED"), Cycle(), Transition("delete in flight")]),
}
"""Plans that chance comes by rarely."""


@pytest.mark.parametrize("plan", SINGULAR.values(), ids=SINGULAR)
def test_cycles_alone_are_enough_after(ground: Ground, plan: Plan) -> None:
    ground.live_without_audits(plan)


@RUNS
@given(plans(audited=False))
def test_cycles_alone_find_what_filters_and_listings_can(ground: Ground, plan: Plan) -> None:
    ground.live_without_audits(plan)


@RUNS
@given(plans(audited=True))
def test_cycles_with_audits_find_everything(ground: Ground, plan: Plan) -> None:
    # Everything is re-read by id once a day; what that finds gone may be one of two.
    ground.live(plan, pauses=[AUDIT_EVERY_MS, REREAD_EVERY_MS, AUDIT_EVERY_MS])


async def no_audit(_visit: Visit) -> None:
    pass
