"""Who leads, while leaders are killed: `just leaders --kills 200`.

A few processes share a cache and try to lead, as servers do. The leader is killed again and again:
another one is to lead within a second, and never two at once; nor does another one lead while the
leader is only stopped. Each process notes when it began to lead, on the clock that they share.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic, process_time

import anyio

from benchmarks.reliability.processes import PROCESSES
from benchmarks.report import Report, machine, milliseconds, out, percentile
from dbos_mcp.runtime import open_runtime
from dbos_mcp.settings import Settings
from dbos_mcp.store.migrate import open_cache
from dbos_mcp.sync.leadership import Leadership
from dbos_mcp.sync.scheduler import SyncScheduler

MEMBERS = 3
KILLS = 200
TAKEOVER_SECONDS = 1.0
STOPS = 10
STOPPED_SECONDS = 2.0
PATIENCE_SECONDS = 60.0
IDLE_SECONDS = 10.0
NOWHERE = "http://127.0.0.1:9"


class _Noted(Leadership):
    """Tells when it begins to lead."""

    def __init__(self, cache: Path, role: str, told: Connection) -> None:
        super().__init__(cache, role)
        self._told = told

    def take(self) -> bool:
        before = self.held
        taken = super().take()
        if taken and not before:
            self._told.send(monotonic())
        return taken


def member(cache: Path, told: Connection, *, alone: bool) -> None:
    """As a server syncs, from a Conductor that cannot be reached; until it is killed. `alone`: by
    a lock of its own, as if there were none."""
    role = f"leader-{os.getpid()}" if alone else "leader"

    async def run() -> None:
        settings = Settings(home=cache.parent, url=NOWHERE, cache=cache)
        async with open_runtime(settings) as runtime:
            assert runtime.live is not None
            scheduler = SyncScheduler(runtime.live.worker)
            scheduler.leadership = _Noted(cache, role, told)
            scheduler.start()
            told.send(None)
            await anyio.sleep_forever()

    anyio.run(run)


def follow(cache: Path, seconds: float) -> float:
    """What a process costs that only waits to lead: its time on the processor, of each second."""

    async def run() -> float:
        settings = Settings(home=cache.parent, url=NOWHERE, cache=cache)
        async with open_runtime(settings) as runtime:
            assert runtime.live is not None
            scheduler = SyncScheduler(runtime.live.worker)
            scheduler.start()
            await anyio.sleep(1)
            before = process_time()
            await anyio.sleep(seconds)
            spent = process_time() - before
            await scheduler.stop()
            return spent / seconds

    return anyio.run(run)


@dataclass
class Member:
    process: BaseProcess
    pipe: Connection
    is_up: bool = False
    led_at: float | None = None
    ended_at: float = inf

    def hear(self) -> None:
        told = self.pipe.recv()
        if told is None:
            self.is_up = True
        else:
            self.led_at = told

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.ended_at = monotonic()
        self.signal(signal.SIGKILL)


class Members:
    """Some that live, and those that led before they were killed."""

    def __init__(self, cache: Path, *, without_lock: bool) -> None:
        self._cache = cache
        self._without_lock = without_lock
        self.living: list[Member] = []
        self.dead: list[Member] = []

    def start(self) -> None:
        ours, theirs = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(
            target=member,
            args=(self._cache, theirs),
            kwargs={"alone": self._without_lock},
            daemon=True,
        )
        process.start()
        theirs.close()
        self.living.append(Member(process, ours))

    def listen(self, until: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> bool:
        """Whether it came to that."""
        end = monotonic() + seconds
        by_pipe = {each.pipe: each for each in self.living}
        while not until() and (left := end - monotonic()) > 0:
            for pipe in wait([*by_pipe], left):
                assert isinstance(pipe, Connection)
                by_pipe[pipe].hear()
        return until()

    @property
    def leaders(self) -> list[Member]:
        return [each for each in self.living if each.led_at is not None]

    def all_up(self) -> bool:
        """And one leads; without a lock each of them."""
        leading = len(self.living) if self._without_lock else 1
        return all(each.is_up for each in self.living) and len(self.leaders) >= leading

    def bury(self, member: Member) -> None:
        self.living.remove(member)
        self.dead.append(member)
        member.process.join()
        member.pipe.close()

    @property
    def overlaps(self) -> int:
        """How often one began to lead while another one did."""
        reigns = sorted(
            (each.led_at, each.ended_at)
            for each in (*self.dead, *self.living)
            if each.led_at is not None
        )
        return sum(began_at < ended_at for (_, ended_at), (began_at, _) in pairwise(reigns))


@dataclass(frozen=True)
class Seen:
    takeovers: Sequence[float]
    overlaps: int


def kill_leaders(cache: Path, kills: int, *, stops: int = 0, without_lock: bool = False) -> Seen:
    """Kill the leader again and again, each time with others that wait; the first few times it is
    stopped for a while before.

    Raises:
        TimeoutError: nobody led any more.
    """
    members, takeovers = Members(cache, without_lock=without_lock), list[float]()
    try:
        for _ in range(MEMBERS):
            members.start()
        for number in range(kills):
            if not members.listen(members.all_up):
                raise TimeoutError(f"After {number} kills nobody leads.")
            leader = members.leaders[0]
            if number < stops:
                leader.signal(signal.SIGSTOP)
                members.listen(lambda: len(members.leaders) > 1, STOPPED_SECONDS)
                leader.signal(signal.SIGCONT)
            leader.kill()
            members.bury(leader)
            if not members.listen(lambda: bool(members.leaders)):
                raise TimeoutError(f"After {number + 1} kills nobody leads.")
            takeovers += [
                each.led_at - leader.ended_at for each in members.leaders if each.led_at is not None
            ]
            members.start()
    finally:
        for each in [*members.living]:
            each.kill()
            members.bury(each)
    return Seen(takeovers, members.overlaps)


@contextmanager
def new_cache() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="leaders-") as folder:
        path = Path(folder) / "cache.sqlite"
        open_cache(path).close()
        yield path


def cost_of_waiting(seconds: float) -> float:
    """Of a process that does not lead, as a share of a processor."""
    with new_cache() as cache:
        leadership = Leadership(cache)
        leadership.take()
        with PROCESSES.Pool(1) as waiting:
            return waiting.apply(follow, (cache, seconds))


def main() -> None:
    parser = argparse.ArgumentParser(prog="leaders", description=__doc__)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--stops", type=int, default=STOPS, help="of the leader, for a while")
    options = parser.parse_args()
    out.print(machine())
    with new_cache() as cache:
        seen = kill_leaders(cache, options.kills, stops=options.stops)
    longest = max(seen.takeovers)
    in_time, alone = longest <= TAKEOVER_SECONDS, seen.overlaps == 0
    report = Report(f"{options.kills} kills of the leader of {MEMBERS} processes")
    report.add(
        "takeover, p50 and p99",
        " ".join(f"{milliseconds(percentile(seen.takeovers, p))}" for p in (50, 99)) + " ms",
    )
    report.add("… the longest", f"{milliseconds(longest)} ms", "<= 1,000 ms", in_time)
    report.add("two at once, stopped ones too", f"{seen.overlaps}", "0", alone)
    with new_cache() as cache:
        control = kill_leaders(cache, 1, without_lock=True).overlaps
    noticed = control > 0
    report.add("… control, without the lock", f"{control}", "> 0", noticed)
    share = cost_of_waiting(IDLE_SECONDS)
    report.add("waiting to lead costs", f"{share:.2%} of a processor")
    report.print()
    sys.exit(0 if in_time and alone and noticed else 1)


if __name__ == "__main__":
    main()
