"""The power goes at any moment, and takes with it what was not synced: `just power-cuts`.

A life of a cache is lived once on a disk that notes every write and every sync (see `disk`). Then
the power is cut at random moments of it: what had been synced is there, and of what had not, each
sector of 512 bytes is as it was at some moment since, or the file is as long as at some other. The
next start must find every commit that was acknowledged, and no damage.
"""

import argparse
import random
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from benchmarks.reliability import checks
from benchmarks.reliability.checks import Log
from benchmarks.reliability.disk import Operation, watched
from benchmarks.report import Report, machine, out
from dbos_mcp.errors import DbosMcpError
from dbos_mcp.store import projector
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.migrate import open_cache

SECTOR = 512
CUTS_OF_A_LIFE = 1000
CUTS_OF_A_CONTROL = 300
COMMITS = 60
FULLY_EVERY = 20
"""So seldom is the file also opened by the program, and its read models made again."""
NAME = "cache.sqlite"


@dataclass(frozen=True)
class Acknowledged:
    """From here on, all of this must be there."""

    log: Log


Life = Sequence[Operation | Acknowledged]


def live(seed: int, *, synchronous: str = "FULL", commits: int = COMMITS) -> Life:
    """From a new file on: migrated, written to, folded back, closed and opened again, rebuilt."""
    chance = random.Random(seed)
    life: list[Operation | Acknowledged] = []
    with tempfile.TemporaryDirectory() as name, watched(life.append):
        path = Path(name) / NAME
        with ExitStack() as opened:
            cache = _open(opened, path, synchronous)
            for number in range(commits):
                checks.record(cache, checks.batch(number, chance.randint(3, 20)), at=number)
                life.append(Acknowledged(checks.log_in(cache)))
                match chance.randrange(12):
                    case 0 | 1:
                        cache.checkpoint(wal_limit_bytes=0)
                    case 2:
                        opened.close()
                        cache = _open(opened, path, synchronous)
                    case 3:
                        with cache.write() as connection:
                            projector.rebuild(connection)
    return life


def _open(opened: ExitStack, path: Path, synchronous: str) -> Cache:
    cache = opened.enter_context(closing(open_cache(path)))
    if synchronous != "FULL":  # one that our engine would not choose
        assert cache._writer is not None
        with cache._writer.connect() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            raw.execute(f"PRAGMA synchronous = {synchronous}")
    return cache


Flush = Callable[[int], int]
"""Of so many operations since the last sync, after how many something reached the disk."""


@dataclass
class _File:
    """What of a file a power cut leaves, and what was done to it since it was synced."""

    synced: bytearray = field(default_factory=bytearray)
    pending: list[Operation] = field(default_factory=list)
    entered: bool = False
    """The disk knows its name."""
    removed: bool = False
    """The disk may know its name nonetheless."""
    replaced: "_File | None" = None
    """Of the same name, and removed before."""

    def sync(self) -> None:
        self.synced = self.left(lambda operations: operations)
        self.pending.clear()

    def left(self, flush: Flush) -> bytearray:
        """Each of its sectors, and its length, may be of another moment."""
        count, flushed = len(self.pending), dict[int, int]()

        def has(sector: int, number: int) -> bool:
            if sector not in flushed:
                flushed[sector] = flush(count)
            return flushed[sector] > number

        data, size, sized = bytearray(self.synced), len(self.synced), flush(count)
        for number, operation in enumerate(self.pending):
            if operation.kind == "truncate":
                end = operation.size
                for sector in range(-(-end // SECTOR), -(-len(data) // SECTOR)):
                    if has(sector, number):
                        _put(data, sector * SECTOR, bytes(SECTOR))
            else:
                end = max(size, operation.offset + len(operation.data))
                for start, part in _sectors(operation):
                    if has(start // SECTOR, number):
                        _put(data, start, part)
            size = end if sized > number else size
        return data[:size] + bytes(max(0, size - len(data)))


def _sectors(operation: Operation) -> Iterator[tuple[int, bytes]]:
    start, data = operation.offset, operation.data
    while data:
        length = SECTOR - start % SECTOR
        yield start, data[:length]
        start, data = start + length, data[length:]


def _put(data: bytearray, start: int, part: bytes) -> None:
    data.extend(bytes(max(0, start - len(data))))
    data[start : start + len(part)] = part


class _Platter:
    """The folder of the cache, as the disk has it."""

    def __init__(self) -> None:
        # Our engine makes it, empty; its name is synced with that of the first file beside it.
        self._files = {NAME: _File(entered=True)}

    def note(self, operation: Operation) -> None:
        match operation.kind:
            case "sync":
                self._sync(self._of(operation.name))
            case "delete" if operation.lasting:
                self._files.pop(operation.name, None)
            case "delete":
                self._of(operation.name).removed = True
            case "write" | "truncate":
                self._of(operation.name).pending.append(operation)

    def _sync(self, file: _File) -> None:
        if not file.entered:  # then SQLite syncs the folder as well
            self._files = {name: each for name, each in self._files.items() if not each.removed}
            for each in self._files.values():
                each.entered, each.replaced = True, None
        file.sync()

    def _of(self, name: str) -> _File:
        before = self._files.get(name)
        if before is None or before.removed:
            self._files[name] = _File(replaced=before)
        return self._files[name]

    def left(self, chance: random.Random) -> dict[str, bytes]:
        flush = _flush_of(chance)
        left = {}
        for name, file in self._files.items():
            there = (file,) if file.entered and not file.removed else (file, file.replaced, None)
            chosen = chance.choice(there)
            if chosen is not None:
                left[name] = bytes(chosen.left(flush))
        return left


def _flush_of(chance: random.Random) -> Flush:
    """Of a disk that had time for everything, for nothing, or for some."""
    all_of_it, nothing = chance.choice([(1.0, 0.0), (0.0, 1.0), (0.5, 0.25), (0.1, 0.1)])

    def flush(operations: int) -> int:
        drawn = chance.random() - all_of_it
        if drawn < 0:
            return operations
        return 0 if drawn < nothing else chance.randint(0, operations)

    return flush


@dataclass(frozen=True)
class Cut:
    """Before which operation, what it left, and what must be there."""

    moment: int
    files: Mapping[str, bytes]
    acknowledged: Log


def cuts(life: Life, count: int, chance: random.Random) -> Iterator[Cut]:
    """In the order of their moments."""
    platter, lived = _Platter(), 0
    acknowledged: Log = {}
    for moment in sorted(chance.randrange(len(life) + 1) for _ in range(count)):
        for happened in life[lived:moment]:
            if isinstance(happened, Acknowledged):
                acknowledged = happened.log
            else:
                platter.note(happened)
        lived = moment
        yield Cut(moment, platter.left(chance), acknowledged)


def damage_of(cut: Cut, folder: Path, *, fully: bool) -> list[str]:
    """What is wrong when SQLite, or the whole program as well, opens what a cut left."""
    for leftover in folder.iterdir():
        leftover.unlink()
    for name, data in cut.files.items():
        (folder / name).write_bytes(data)
    try:
        with closing(sqlite3.connect(folder / NAME)) as raw:
            found = checks.damage(raw, cut.acknowledged)
        return found or (checks.mended(folder / NAME) if fully else [])
    except (sqlite3.DatabaseError, DbosMcpError) as error:
        return [f"it cannot be opened: {error}"]


@dataclass
class Tally:
    """What came of all cuts."""

    cuts: int = 0
    lost: int = 0
    """That took with them what had been acknowledged, and did no other damage."""
    damaged: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, seed: int, moment: int, found: Sequence[str]) -> None:
        self.cuts += 1
        if found:
            lost = all(checks.LOST in line for line in found)
            self.lost += lost
            self.damaged += not lost
            self.examples.append(f"life {seed}, before operation {moment}: {'; '.join(found)}")


def run(count: int, *, seed: int = 1, synchronous: str = "FULL", commits: int = COMMITS) -> Tally:
    """Cut the power so often, in as many lives, of so many commits, as it takes."""
    tally = Tally()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        while tally.cuts < count:
            life = live(seed, synchronous=synchronous, commits=commits)
            chance = random.Random(seed)
            for cut in cuts(life, min(CUTS_OF_A_LIFE, count - tally.cuts), chance):
                fully = chance.randrange(FULLY_EVERY) == 0
                tally.add(seed, cut.moment, damage_of(cut, Path(folder), fully=fully))
            seed += 1
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(prog="power-cuts", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10_000, help="how often the power is cut")
    parser.add_argument("--seed", type=int, default=1, help="of the first life")
    asked = parser.parse_args()
    out.print(machine())
    started = perf_counter()
    ours = run(asked.rounds, seed=asked.seed)
    seconds = perf_counter() - started
    controls = {each: run(CUTS_OF_A_CONTROL, synchronous=each) for each in ("NORMAL", "OFF")}

    report = Report(f"{ours.cuts:,} power cuts in {seconds:.0f} s")
    report.add("damaged", f"{ours.damaged:,}", "0", ours.damaged == 0)
    report.add("acknowledged commits lost", f"{ours.lost:,}", "0", ours.lost == 0)
    for name, control in controls.items():
        figure = f"{control.damaged} damaged, {control.lost} lost of {control.cuts}"
        report.add(f"control: synchronous = {name}", figure, "some", control.examples != [])
    report.print()
    for example in ours.examples[:5]:
        out.print(example)
    sys.exit(bool(ours.examples) or not all(control.examples for control in controls.values()))


if __name__ == "__main__":
    main()
