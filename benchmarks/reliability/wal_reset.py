"""SQLite's WAL-reset bug, provoked: `just wal-reset --seconds 3600`.

From 3.7.0 to 3.51.2 SQLite can damage a file that one process writes to while others checkpoint
(https://sqlite.org/wal.html#walresetbug). Rounds of a minute, each on a new cache: processes that
write, that read, and that checkpoint as fast as they can, all of them by the rule of `Cache`. As a
control, processes that checkpoint without its lock, which must damage the file where this SQLite
has the bug.
"""

import argparse
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic, sleep

from benchmarks.reliability.processes import PROCESSES
from benchmarks.report import machine, out
from dbos_mcp.errors import StoreError
from dbos_mcp.store import projector
from dbos_mcp.store.engine import Cache, has_wal_reset_bug
from dbos_mcp.store.events import CommandIssued
from dbos_mcp.store.migrate import open_cache

ROUND_SECONDS = 60.0
CONTROL_SECONDS = 600.0
WRITERS, CHECKPOINTERS, READERS = 2, 3, 1
READER_PAUSE_SECONDS = 0.02
"""While somebody reads, nobody begins a new WAL, which is when it happens."""
IN_MEMORY = Path("/dev/shm")
_FILE_FAULTS = (StoreError, sqlite3.DatabaseError)


@dataclass(frozen=True)
class Task:
    """What one process does, again and again until the time is over, with a pause in between."""

    path: Path
    seconds: float
    pause_seconds: float

    def until_over(self, pause_seconds: float = 0.0) -> Iterator[int]:
        end, pause, times = monotonic() + self.seconds, self.pause_seconds or pause_seconds, 0
        while monotonic() < end:
            yield times
            times += 1
            if pause:
                sleep(pause)


@dataclass(frozen=True)
class Did:
    role: str
    times: int
    fault: str | None = None


@dataclass(frozen=True)
class Round:
    did: Sequence[Did]
    faults: Sequence[str]
    """What is wrong with the file, by whoever saw it."""

    def times(self, role: str) -> int:
        return sum(did.times for did in self.did if did.role == role)


def write(task: Task, number: int = 0) -> Did:
    """One event in each transaction."""

    def once(cache: Cache, times: int) -> None:
        event = CommandIssued(
            application_name="shop",
            workflow_id=f"order-{number}",
            command_id=f"command-{number}-{times}",
            command="cancel",
        )
        with cache.write() as connection:
            projector.record(connection, [event], recorded_at=times)

    return _repeat("write", task, once)


def read(task: Task) -> Did:
    """The log has no gap, in any snapshot of it."""

    def once(cache: Cache, _times: int) -> None:
        with cache.read() as connection:
            count, newest = connection.exec_driver_sql(
                "SELECT count(*), coalesce(max(position), 0) FROM event"
            ).one()
        if count != newest:
            raise StoreError(f"There are {count} events up to the position {newest}.")

    return _repeat("read", task, once, READER_PAUSE_SECONDS)


def checkpoint(task: Task) -> Did:
    """As the process that syncs does, only without a size that is waited for."""
    return _repeat("checkpoint", task, lambda cache, _times: cache.checkpoint(wal_limit_bytes=0))


def checkpoint_without_the_lock(task: Task) -> Did:
    """As any other tool would."""
    done = 0
    try:
        with closing(sqlite3.connect(task.path, isolation_level=None)) as raw:
            for times in task.until_over():
                raw.execute("PRAGMA wal_checkpoint(PASSIVE)")
                done = times + 1
    except _FILE_FAULTS as error:
        return Did("checkpoint", done, f"checkpoint: {error}")
    return Did("checkpoint", done)


def _repeat(
    role: str, task: Task, once: Callable[[Cache, int], object], pause_seconds: float = 0.0
) -> Did:
    done = 0
    try:
        with closing(open_cache(task.path)) as cache:
            for times in task.until_over(pause_seconds):
                once(cache, times)
                done = times + 1
    except _FILE_FAULTS as error:
        return Did(role, done, f"{role}: {error}")
    return Did(role, done)


def run_round(
    folder: Path,
    seconds: float,
    *,
    pause_seconds: float = 0.0,
    checkpoints: Callable[[Task], Did] = checkpoint,
) -> Round:
    """All of them on one new cache, which is looked through afterwards."""
    with tempfile.TemporaryDirectory(prefix="wal-reset-", dir=folder) as name:
        path = Path(name) / "cache.sqlite"
        open_cache(path).close()
        task = Task(path, seconds, pause_seconds)
        work: list[Callable[[Task], Did]] = [
            *(partial(write, number=number) for number in range(WRITERS)),
            *[checkpoints] * CHECKPOINTERS,
            *[read] * READERS,
        ]
        with PROCESSES.Pool(len(work)) as processes:
            started = [processes.apply_async(each, (task,)) for each in work]
            did = [each.get() for each in started]
        written = sum(each.times for each in did if each.role == "write")
        faults = [each.fault for each in did if each.fault is not None]
        return Round(did, [*faults, *look_through(path, written)])


def look_through(path: Path, written: int) -> Iterator[str]:
    """What is wrong with the file, after so many acknowledged events."""
    try:
        with closing(open_cache(path)) as cache:
            with cache.read() as connection:
                found = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
                if found != "ok":
                    yield f"integrity_check: {found}"
                count = connection.exec_driver_sql("SELECT count(*) FROM event").scalar_one()
                if count != written:
                    yield f"{count:,} events of {written:,} that were acknowledged"
            with cache.write() as connection:
                for table in projector.rebuild(connection):
                    if not table.equal:
                        yield f"{table.table} is not what the log says"
    except _FILE_FAULTS as error:
        yield str(error)


def by_our_rule(folder: Path, seconds: float, pause_seconds: float) -> bool:
    """Rounds until the time is over; whether all of them ended well."""
    end, number, damaged = monotonic() + seconds, 0, 0
    while (left := end - monotonic()) > 0:
        number += 1
        done = run_round(folder, min(left, ROUND_SECONDS), pause_seconds=pause_seconds)
        damaged += bool(done.faults)
        out.print(
            f"Round {number}: {done.times('write'):,} transactions,"
            f" {done.times('checkpoint'):,} checkpoints, {done.times('read'):,} readings:"
            f" {'; '.join(done.faults) or 'sound'}"
        )
    out.print(f"By our rule: {damaged} of {number} files damaged (wanted: 0).")
    return not damaged


def control(folder: Path, seconds: float) -> bool:
    """Rounds without the lock until one file is damaged; whether that was so."""
    end, number = monotonic() + seconds, 0
    while (left := end - monotonic()) > 0:
        number += 1
        done = run_round(folder, min(left, ROUND_SECONDS), checkpoints=checkpoint_without_the_lock)
        if done.faults:
            out.print(
                f"Control, without the lock: damaged in round {number} of at most a minute, after"
                f" {done.times('write'):,} transactions and {done.times('checkpoint'):,}"
                f" checkpoints: {done.faults[0]}"
            )
            return True
    out.print(f"Control, without the lock: not damaged in {number} rounds.")
    return False


def main() -> None:
    parser = argparse.ArgumentParser(prog="wal-reset", description=__doc__)
    parser.add_argument("--seconds", type=float, default=ROUND_SECONDS, help="by our rule")
    parser.add_argument("--pause-ms", type=float, default=0.0, help="of each process, each time")
    parser.add_argument("--control-seconds", type=float, default=CONTROL_SECONDS, help="at most")
    options = parser.parse_args()
    folder = IN_MEMORY if IN_MEMORY.is_dir() else Path(tempfile.gettempdir())
    out.print(machine())
    provoked = control(folder, options.control_seconds)
    if not has_wal_reset_bug():
        out.print("This SQLite has the fix: nothing is expected of the control.")
        provoked = True
    sound = by_our_rule(folder, options.seconds, options.pause_ms / 1000)
    sys.exit(0 if provoked and sound else 1)


if __name__ == "__main__":
    main()
