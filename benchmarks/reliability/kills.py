"""Processes are killed at any moment of whatever they do: `just kills`.

After each kill the file is looked at as it was found, and then opened as the next start opens it:
no damage, everything that was acknowledged, nothing twice, no half of anything.
"""

import argparse
import multiprocessing
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from pathlib import Path
from signal import SIGKILL
from time import perf_counter, sleep
from typing import Any

from benchmarks.reliability import checks, operations
from benchmarks.reliability.checks import Log
from benchmarks.reliability.operations import Place, Say
from benchmarks.report import Report, machine, out
from dbos_mcp.errors import DbosMcpError
from dbos_mcp.store.engine import Cache

ROUNDS_OF_A_PLACE = 20
STARTS_SECONDS = 120.0
MOST_ACKNOWLEDGED = 8
BETWEEN_SECONDS = 0.03
"""About what a transaction takes, with what leads to it."""
KILLS_OF_A_CONTROL = 40
REBUILT_EVERY = 4
ENOUGH = 1
"""Nothing is made better by more of what is wrong."""

_processes = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Operation:
    """What the processes of a round do, and what must hold afterwards."""

    name: str
    run: Callable[[Place, Say, int], None]
    make: Callable[[Place], Log]
    """What is there before."""
    check: Callable[[Place], list[str]] = operations.check_nothing
    """After each round."""
    settled: Callable[[Place], list[str]] = operations.check_nothing
    """After the last round in a place."""
    processes: int = 1
    ends: bool = False
    """By itself: it is killed within the time that it takes."""
    share: int = 1
    """Of all kills, as many parts."""


OPERATIONS = (
    Operation("writing", operations.write, operations.make_cache, share=3),
    Operation(
        "syncing",
        operations.sync,
        operations.make_upstream,
        operations.check_mirror,
        operations.settled,
        share=2,
    ),
    Operation(
        "syncing, 3 processes",
        operations.sync,
        operations.make_upstream,
        operations.check_mirror,
        operations.settled,
        processes=3,
        share=3,
    ),
    Operation("making a file", operations.migrate, operations.make_nothing, ends=True),
    Operation("migrating", operations.migrate, operations.make_old_cache, ends=True),
    Operation("rebuilding", operations.rebuild, operations.make_cache, ends=True),
    Operation(
        "exporting",
        operations.export_incident,
        operations.make_cache,
        operations.check_incident,
        ends=True,
    ),
    Operation(
        "pruning", operations.prune_all, operations.make_ended, operations.check_ended, ends=True
    ),
    Operation(
        "backing up",
        operations.make_backup,
        operations.make_cache,
        operations.check_backup,
        ends=True,
    ),
    Operation(
        "restoring",
        operations.restore_backup,
        operations.make_cache_and_backup,
        operations.check_backup,
        ends=True,
    ),
)
CONTROLS = (
    Operation("the cursor apart", operations.write_cursor_first, operations.make_cache),
    Operation("read models apart", operations.write_read_models_later, operations.make_cache),
)


@dataclass
class Tally:
    kills: int = 0
    acknowledged: int = 0
    found: list[str] = field(default_factory=list)


def kill(operation: Operation, kills: int, *, seed: int = 1) -> Tally:
    """Kill so many processes that do it, in as many places as it takes."""
    _processes.set_forkserver_preload([operations.__name__, *operations.LOADED_LATE])
    tally, chance = Tally(), random.Random(f"{operation.name} {seed}")
    with tempfile.TemporaryDirectory() as name:
        template = Place(Path(name) / "template")
        template.folder.mkdir()
        log = operation.make(template)
        takes = _time(operation, _copy(template)) if operation.ends else 0.0
        while tally.kills < kills and len(tally.found) < ENOUGH:
            place, there = _copy(template), dict(log)
            for _ in range(1 if operation.ends else ROUNDS_OF_A_PLACE):
                found = _round(operation, place, chance, tally, there, takes)
                tally.found += [f"{operation.name}, after {tally.kills} kills: {f}" for f in found]
                if found or tally.kills >= kills:
                    break
            tally.found += [f"{operation.name}, in the end: {f}" for f in operation.settled(place)]
            shutil.rmtree(place.folder)
    return tally


def _copy(template: Place) -> Place:
    place = Place(template.folder.with_name("place"))
    shutil.copytree(template.folder, place.folder)
    return place


def _time(operation: Operation, place: Place) -> float:
    victim = _Victim(operation, place, 0)
    started = perf_counter()
    victim.end()
    shutil.rmtree(place.folder)
    return perf_counter() - started


class _Victim:
    """A process that does it, from the moment on that it begins."""

    def __init__(self, operation: Operation, place: Place, seed: int) -> None:
        self.pipe, its_end = _processes.Pipe(duplex=False)
        self._process = _processes.Process(
            target=_live, args=(operation.run, place, its_end, seed), daemon=True
        )
        self._process.start()
        its_end.close()
        if not self.pipe.poll(STARTS_SECONDS):
            raise TimeoutError(f"{operation.name} does not start")
        self.pipe.recv()

    def kill(self) -> bool:
        """Whether it was still alive."""
        self._process.kill()
        self._process.join()
        return self._process.exitcode == -SIGKILL

    def end(self) -> None:
        self._process.join()


def _live(run: Callable[[Place, Say, int], None], place: Place, pipe: Pipe, seed: int) -> None:
    pipe.send(None)
    try:
        run(place, pipe.send, seed)
    except Exception as error:
        pipe.send(repr(error))


def _round(
    operation: Operation,
    place: Place,
    chance: random.Random,
    tally: Tally,
    acknowledged: dict[int, int],
    takes: float,
) -> list[str]:
    """Start those who do it, kill one after the other, and look at what they left; `acknowledged`
    gets what they said."""
    victims = [
        _Victim(operation, place, chance.getrandbits(20)) for _ in range(operation.processes)
    ]
    ears = _Ears([victim.pipe for victim in victims], acknowledged)
    while victims:
        if operation.ends:
            sleep(chance.uniform(0, takes))
        else:
            ears.hear(chance.randint(1, MOST_ACKNOWLEDGED))
            sleep(chance.uniform(0, BETWEEN_SECONDS))
        tally.kills += victims.pop(chance.randrange(len(victims))).kill()
    ears.hear_all()
    tally.acknowledged += ears.heard
    return ears.failures or _damage(operation, place, acknowledged, chance)


class _Ears:
    """What the processes of a round say, until they are dead."""

    def __init__(self, pipes: list[Pipe], acknowledged: dict[int, int]) -> None:
        self._pipes = pipes
        self._acknowledged = acknowledged
        self.heard = 0
        self.failures: list[str] = []

    def hear(self, times: int) -> None:
        for _ in range(times):
            ready = wait(self._pipes, STARTS_SECONDS)
            if not ready:
                self.failures.append("nothing more is acknowledged")
                return
            self._receive(ready[0])

    def hear_all(self) -> None:
        while self._pipes:
            self._receive(wait(self._pipes)[0])

    def _receive(self, pipe: Any) -> None:
        try:
            said = pipe.recv()
        except (EOFError, OSError):  # killed, perhaps in the middle of a word
            self._pipes.remove(pipe)
            return
        if isinstance(said, str):
            self.failures.append(said)
        else:
            self.heard += 1
            self._acknowledged |= said


def _damage(
    operation: Operation, place: Place, acknowledged: Log, chance: random.Random
) -> list[str]:
    try:
        with closing(Cache(place.cache)) as cache, cache.read() as connection:
            found = checks.damage(checks.raw_of(connection), acknowledged)
        found += operation.check(place)
        if not found and (operation.ends or chance.randrange(REBUILT_EVERY) == 0):
            found = checks.mended(place.cache)
        return found
    except DbosMcpError as error:
        return [f"the next start fails: {error}"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="kills", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000, help="kills, of all operations")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="operations that have this in their name")
    asked = parser.parse_args()
    chosen = [each for each in OPERATIONS if (asked.only or "") in each.name]
    out.print(machine())
    report, found = Report(f"{asked.rounds:,} kills"), []
    for operation in chosen:
        kills = -(-asked.rounds * operation.share // sum(each.share for each in chosen))
        started = perf_counter()
        tally = kill(operation, kills, seed=asked.seed)
        figure = f"{len(tally.found)} wrong after {tally.kills} kills"
        said = f" and {tally.acknowledged:,} acknowledgements" if tally.acknowledged else ""
        seconds = f", {perf_counter() - started:.0f} s"
        report.add(operation.name, figure + said + seconds, "0 wrong", not tally.found)
        found += tally.found
    for control in CONTROLS:
        caught = kill(control, KILLS_OF_A_CONTROL)
        title, figure = f"control: {control.name}", f"wrong after {caught.kills} kills"
        report.add(title, figure if caught.found else "not found", "found", bool(caught.found))
        found += [] if caught.found else [f"{title} was not found"]
    report.print()
    for line in found[:10]:
        out.print(line)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
