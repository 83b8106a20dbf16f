"""Every write, sync and truncation fails, one after the other: `just file-faults`.

First each operation of the cache's file in turn, on a disk that does as it is told (see `disk`):
once, or from there on until there is space again. Then all of the program at once, on a real file
system that is full, and with a real limit on the size of files.
"""

import argparse
import os
import re
import resource
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import count
from pathlib import Path
from time import monotonic

import anyio

from benchmarks.generate import Population, database_of
from benchmarks.reliability import checks
from benchmarks.reliability.disk import Kind, Operation, watched
from benchmarks.report import Report, machine, out
from dbos_mcp.domain import now_ms
from dbos_mcp.errors import DbosMcpError, StoreError
from dbos_mcp.store import projector
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.migrate import open_cache
from dbos_mcp.sync.scheduler import SyncScheduler
from tests.upstream import Site, Tables, open_site, workflow

SQLITE_IOERR_WRITE = sqlite3.SQLITE_IOERR | 3 << 8
CODES: dict[Kind, int] = {
    "write": SQLITE_IOERR_WRITE,
    "sync": sqlite3.SQLITE_IOERR | 4 << 8,
    "truncate": sqlite3.SQLITE_IOERR | 6 << 8,
    "delete": sqlite3.SQLITE_IOERR | 10 << 8,
    "share": sqlite3.SQLITE_IOERR | 19 << 8,  # no room for shared memory
}
"""What SQLite makes of EIO and EFBIG, and, but for writes, of ENOSPC."""
FAULTS: dict[str, dict[Kind, int]] = {
    "ENOSPC": CODES | {"write": sqlite3.SQLITE_FULL},
    "EIO": CODES,
}
ONE_SENTENCE = re.compile(r"[^\n]{1,300}[^.\s]\.")
FULL_BYTES = 8 * 1024 * 1024
RESUMES_SECONDS = 5.0
PATIENCE_SECONDS = 120
ADDED = 300


class Fault:
    """Within it the k-th operation fails and, if that lasts, all that follow."""

    def __init__(self, codes: dict[Kind, int]) -> None:
        self._codes = codes
        self._before = 0
        self._lasts = False
        self._on = False
        self.struck = False

    def prepare(self, operation: int, *, lasts: bool) -> None:
        self._before, self._lasts, self.struck = operation, lasts, False

    def __enter__(self) -> None:
        self._on = True

    def __exit__(self, *_: object) -> None:
        self._on = False

    def __call__(self, operation: Operation) -> int | None:
        if not self._on:
            return None
        self._before -= 1
        if self._before >= 0 or (self.struck and not self._lasts):
            return None
        self.struck = True
        return self._codes[operation.kind]


@dataclass
class Tally:
    faults: int = 0
    refused: int = 0
    """Of them, those that somebody was told of."""
    found: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Work:
    """What is done while the disk fails; some of it with the cache closed before."""

    run: Callable[[Path, Cache], None]
    closes: bool = False


def _write(_path: Path, cache: Cache) -> None:
    for number in range(100, 103):
        checks.record(cache, checks.batch(number, size=3), at=number)


def _fold_back(_path: Path, cache: Cache) -> None:
    cache.checkpoint(wal_limit_bytes=0)


def _rebuild(_path: Path, cache: Cache) -> None:
    with cache.write() as connection:
        projector.rebuild(connection)


def _open_again(path: Path, cache: Cache) -> None:
    cache.close()
    with closing(open_cache(path)) as again:
        _write(path, again)


def _make_another(path: Path, cache: Cache) -> None:
    open_cache(path.with_name("another.sqlite")).close()


WORKS = {
    "writing": Work(_write),
    "folding back": Work(_fold_back),
    "rebuilding": Work(_rebuild),
    "closing and opening": Work(_open_again, closes=True),
    "making a new file": Work(_make_another),
}


def fail_everywhere(work: Work, codes: dict[Kind, int], *, lasts: bool, every: int = 1) -> Tally:
    """Do the work once for each operation of it (or every n-th), which then fails."""
    tally, fault = Tally(), Fault(codes)
    with watched(fault):
        for number in count(step=every):
            with tempfile.TemporaryDirectory() as name:
                path = Path(name) / "cache.sqlite"
                path.write_bytes(_blank())
                fault.prepare(number, lasts=lasts)
                found = _fail_in(work, path, fault, tally)
            tally.found += [f"operation {number}: {line}" for line in found]
            if not fault.struck:
                return tally
            tally.faults += 1
    raise AssertionError


@cache
def _blank() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "cache.sqlite"
        open_cache(path).close()
        return path.read_bytes()


def _fail_in(work: Work, path: Path, fault: Fault, tally: Tally) -> list[str]:
    found = []
    with closing(open_cache(path)) as cache:
        for number in range(2):
            checks.record(cache, checks.batch(number, size=3), at=number)
        before = checks.log_in(cache)
        with fault:
            try:
                work.run(path, cache)
            except StoreError as error:
                tally.refused += 1
                if not ONE_SENTENCE.fullmatch(error.message) or not error.hint:
                    found.append(f"it says: {error}")
            except Exception as error:
                found.append(f"it fails with {error!r}")
            if not work.closes and not before.items() <= checks.log_in(cache).items():
                found.append("what was there cannot be read meanwhile")
        with closing(open_cache(path)) if work.closes else nullcontext(cache) as still_open:
            checks.record(still_open, checks.batch(9, size=3), at=9)
            after = checks.log_in(still_open)
    with closing(sqlite3.connect(path)) as raw:
        found += checks.damage(raw, {**after, **before})
    return found + checks.mended(path)


Filled = Callable[[Path], AbstractContextManager[None]]
"""Leaves no room for the cache that it is told."""


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Not a byte is free where the cache is."""
    filler = path.with_name("filler")
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def limited_size(path: Path) -> Iterator[None]:
    """No file may grow beyond what the WAL has now (EFBIG)."""
    wal = path.with_name(f"{path.name}-wal")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (wal.stat().st_size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def small_disk() -> Iterator[Path]:
    """A file system of 8 MB; only root can make one."""
    with tempfile.TemporaryDirectory() as name:
        options = f"size={FULL_BYTES},mode=0700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", name], check=True)
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", name], check=True)


@dataclass(frozen=True)
class Stay:
    """How a program that syncs got through."""

    failures: Sequence[str]
    """What it said of the cycles that failed."""
    read: bool
    """What was there could be read meanwhile."""
    resumed_after: float
    """Seconds after there was space again, until all was mirrored."""
    damage: Sequence[str]


class _Syncing:
    """A program that syncs by its own clock."""

    def __init__(self, site: Site) -> None:
        self.failures: list[str] = []
        self._looked = anyio.Event()
        self.scheduler = SyncScheduler(
            site.worker, watched=True, on_cycle=self._note, on_look=self._tell
        )

    def _note(self, outcome: object) -> None:
        if isinstance(outcome, DbosMcpError):
            self.failures.append(outcome.message)

    def _tell(self) -> None:
        self._looked.set()
        self._looked = anyio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(PATIENCE_SECONDS):
            while not condition():
                await self._looked.wait()


async def sync_without_room(
    database: Path, path: Path, filled: Filled, *, for_seconds: float
) -> Stay:
    """Sync on while there is no room for a while, and afterwards."""
    async with open_site(database, path) as site:
        syncing = _Syncing(site)
        syncing.scheduler.start()
        try:
            _add(site, "before")
            await syncing.until(lambda: "before-0" in site.mirrored())
            _add(site, "meanwhile")
            with filled(path):
                await syncing.until(lambda: bool(syncing.failures))
                await anyio.sleep(for_seconds)
                read = "before-0" in site.mirrored()
            freed = monotonic()
            await syncing.until(lambda: f"meanwhile-{ADDED - 1}" in site.mirrored())
            resumed_after = monotonic() - freed
        finally:
            await syncing.scheduler.stop()
        damage = [f"{key} is not as upstream" for key in site.differences()]
    with closing(sqlite3.connect(path)) as raw:
        damage += checks.damage(raw, {})
    return Stay(syncing.failures, read, resumed_after, damage + checks.mended(path))


def _add(site: Site, prefix: str) -> None:
    site.tables.add(*(workflow(f"{prefix}-{n}", now_ms()) for n in range(ADDED)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="file-faults", description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="let only every n-th operation fail")
    parser.add_argument("--seconds", type=float, default=20, help="how long there is no room")
    asked = parser.parse_args()
    out.print(machine())
    found = [*_each_operation(asked.every), *_whole_program(asked.seconds)]
    for line in found[:10]:
        out.print(line)
    sys.exit(bool(found))


def _each_operation(every: int) -> list[str]:
    report, found = Report("Each operation of the file fails"), []
    for name, work in WORKS.items():
        for fault, codes in FAULTS.items():
            for lasts in (False, True):
                tally = fail_everywhere(work, codes, lasts=lasts, every=every)
                title = f"{name}, {fault} {'until there is space' if lasts else 'once'}"
                figure = f"{tally.faults} faults, {tally.refused} told, {len(tally.found)} wrong"
                report.add(title, figure, "0 wrong", not tally.found)
                found += [f"{title}: {line}" for line in tally.found]
    report.print()
    return found


def _whole_program(seconds: float) -> list[str]:
    report = Report(f"A program that syncs, {seconds:g} s without room")
    found: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        for title, filled, disk in (
            ("a full disk of 8 MB", full_disk, small_disk),
            ("files that may not grow", limited_size, tempfile.TemporaryDirectory),
        ):
            if disk is small_disk and os.geteuid() != 0:
                report.add(title, "not tried: only root can mount one")
                continue
            database = database_of(Population(rows=50), Path(name))
            Tables(database).clear()
            with disk() as folder:
                work = partial(sync_without_room, for_seconds=seconds)
                stay = anyio.run(work, database, Path(folder) / "cache.sqlite", filled)
            resumed = stay.resumed_after <= RESUMES_SECONDS
            right = bool(stay.failures) and stay.read and not stay.damage
            report.add(f"{title}: said", f"{stay.failures[:1]}", "1 sentence", bool(stay.failures))
            report.add("… reads went on", f"{stay.read}", "True", stay.read)
            report.add("… resumed after", f"{stay.resumed_after:.1f} s", "<= 5 s", resumed)
            report.add("… damage", f"{len(stay.damage)}", "0", not stay.damage)
            found += stay.damage if right and resumed else [f"{title}: {stay}"]
    report.print()
    return found


if __name__ == "__main__":
    main()
