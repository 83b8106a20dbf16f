"""Eight sessions and the process that syncs, on one cache: `just contention --seconds 600`.

The sessions ask ten times a second each, and now and then write a command down; the syncing process
records two hundred events a second and keeps the WAL short. Nobody is ever told that the cache is
busy, and nobody waits.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic, perf_counter, sleep
from uuid import uuid4

from sqlalchemy import Connection

from benchmarks.reliability.processes import PROCESSES
from benchmarks.report import Report, machine, milliseconds, out, percentile
from dbos_mcp.domain import now_ms
from dbos_mcp.errors import StoreError
from dbos_mcp.queries.filters import WorkflowFilter
from dbos_mcp.queries.freshness import freshness
from dbos_mcp.queries.workflow import get_workflow
from dbos_mcp.queries.workflows import list_workflows
from dbos_mcp.store import projector, sync_state
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.events import (
    ApplicationObserved,
    CommandIssued,
    CommandSettled,
    Event,
    WorkflowChanged,
    WorkflowObserved,
)
from dbos_mcp.store.migrate import open_cache

SESSIONS = 8
SECONDS = 600.0
WORKFLOWS = 20_000
QUESTIONS_PER_SECOND = 10
WRITES_OF_QUESTIONS = 50
"""A session writes once for so many questions."""
BATCHES_PER_SECOND, BATCH, CHANGED = 2, 100, 20
CYCLE_SECONDS = 5.0
"""As often the syncing process looks after the WAL."""
P99_SECONDS, MAX_SECONDS = 0.010, 0.100
WAL_BYTES = 64 * 1024 * 1024
APPLICATION = "shop"


@dataclass
class Did:
    """How long everything took that a process did."""

    reads: list[float] = field(default_factory=list)
    writes: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    wal_peak_bytes: int = 0

    def time(self, kind: list[float], work: Callable[[], object]) -> None:
        began = perf_counter()
        try:
            work()
        except StoreError as error:
            self.faults.append(str(error))
        kind.append(perf_counter() - began)


def fill(cache: Cache, workflows: int) -> None:
    application = ApplicationObserved(
        application_name=APPLICATION, application_id="shop", status="AVAILABLE"
    )
    with cache.write() as connection:
        projector.record(connection, [application], recorded_at=now_ms())
    for start in range(0, workflows, 1000):
        rows = [_observed(f"order-{n}") for n in range(start, min(start + 1000, workflows))]
        with cache.write() as connection:
            projector.record(connection, rows, recorded_at=now_ms())
    cache.checkpoint(wal_limit_bytes=0)


def ask(path: Path, seconds: float, workflows: int) -> Did:
    """A session."""
    did, questions = Did(), 0
    with closing(open_cache(path)) as cache:

        def read(query: Callable[[Connection], object]) -> None:
            with cache.read() as connection:
                query(connection)

        def command() -> None:
            subject = {
                "application_name": APPLICATION,
                "workflow_id": f"order-{random.randrange(workflows)}",
                "command_id": str(uuid4()),
            }
            for event in (
                CommandIssued(command="cancel", **subject),
                CommandSettled(outcome="done", **subject),
            ):
                with cache.write() as connection:
                    projector.record(connection, [event], recorded_at=now_ms())

        for _ in _paced(seconds, QUESTIONS_PER_SECOND):
            questions += 1
            if questions % WRITES_OF_QUESTIONS == 0:
                did.time(did.writes, command)
            else:
                did.time(did.reads, partial(read, _question(workflows)))
    return did


def _question(workflows: int) -> Callable[[Connection], object]:
    asked = WorkflowFilter(application_name=APPLICATION, status=["ERROR"])
    everything = WorkflowFilter(application_name=APPLICATION)
    return random.choice(
        (
            partial(list_workflows, question=asked, limit=50),
            partial(list_workflows, question=everything, limit=50),
            partial(
                get_workflow,
                application_name=APPLICATION,
                workflow_id=f"order-{random.randrange(workflows)}",
            ),
            partial(freshness, application_name=APPLICATION),
        )
    )


def sync(path: Path, seconds: float, workflows: int) -> Did:
    """The process that syncs."""
    did, wal, folded_at = Did(), path.with_name(path.name + "-wal"), monotonic()
    with closing(open_cache(path)) as cache:

        def record(events: Sequence[Event]) -> None:
            with cache.write() as connection:
                projector.record(connection, events, recorded_at=now_ms())
                sync_state.update(connection, APPLICATION, {"watermark": now_ms()})

        for number in _paced(seconds, BATCHES_PER_SECOND):
            new = [_observed(f"new-{number}-{n}") for n in range(BATCH - CHANGED)]
            changed = [
                WorkflowChanged.model_validate(
                    _observed(f"order-{random.randrange(workflows)}").model_dump()
                )
                for _ in range(CHANGED)
            ]
            did.time(did.writes, partial(record, [*new, *changed]))
            did.wal_peak_bytes = max(did.wal_peak_bytes, wal.stat().st_size)
            if monotonic() - folded_at >= CYCLE_SECONDS:
                did.time(did.writes, cache.checkpoint)
                folded_at = monotonic()
    return did


def _observed(workflow_id: str) -> WorkflowObserved:
    now = now_ms()
    return WorkflowObserved(
        application_name=APPLICATION,
        workflow_id=workflow_id,
        status=random.choice(("SUCCESS", "SUCCESS", "SUCCESS", "ERROR", "PENDING")),
        workflow_name="place_order",
        executor_id=f"shop-{random.randrange(9)}",
        queue_name=random.choice((None, "emails")),
        created_at=now,
        updated_at=now,
    )


def _paced(seconds: float, per_second: float) -> Iterator[int]:
    """Numbers, so many a second; after a long wait, later ones are not made up for."""
    end, number = monotonic() + seconds, 0
    while (began := monotonic()) < end:
        yield number
        number += 1
        sleep(max(0.0, 1 / per_second - (monotonic() - began)))


@dataclass(frozen=True)
class Seen:
    sessions: Sequence[Did]
    syncing: Did

    @property
    def reads(self) -> list[float]:
        return [each for did in self.sessions for each in did.reads]

    @property
    def faults(self) -> list[str]:
        return [each for did in (*self.sessions, self.syncing) for each in did.faults]


def run(folder: Path, seconds: float, *, sessions: int, workflows: int) -> Seen:
    path = folder / "cache.sqlite"
    with closing(open_cache(path)) as cache:
        fill(cache, workflows)
    arguments = (path, seconds, workflows)
    with PROCESSES.Pool(sessions + 1) as processes:
        syncing = processes.apply_async(sync, arguments)
        asking = [processes.apply_async(ask, arguments) for _ in range(sessions)]
        return Seen([each.get() for each in asking], syncing.get())


def main() -> None:
    parser = argparse.ArgumentParser(prog="contention", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--sessions", type=int, default=SESSIONS)
    parser.add_argument("--workflows", type=int, default=WORKFLOWS)
    options = parser.parse_args()
    out.print(machine())
    with tempfile.TemporaryDirectory(prefix="contention-") as name:
        seen = run(
            Path(name), options.seconds, sessions=options.sessions, workflows=options.workflows
        )
    reads, wal = seen.reads, seen.syncing.wal_peak_bytes
    p99, longest = percentile(reads, 99), max(reads)
    met = {
        "busy": not seen.faults,
        "p99": p99 <= P99_SECONDS,
        "max": longest <= MAX_SECONDS,
        "wal": wal <= WAL_BYTES,
    }
    report = Report(f"{options.sessions} sessions and one that syncs, {options.seconds:g} s")
    report.add("told that it is busy", f"{len(seen.faults)}", "0", met["busy"])
    report.add("readings", f"{len(reads):,}")
    report.add("… p99", f"{milliseconds(p99)} ms", "<= 10 ms", met["p99"])
    report.add("… the longest", f"{milliseconds(longest)} ms", "<= 100 ms", met["max"])
    for who, writes in (
        ("sessions, two each time", [each for did in seen.sessions for each in did.writes]),
        ("syncing process", seen.syncing.writes),
    ):
        if writes:
            times = f"{milliseconds(percentile(writes, 99))}, {milliseconds(max(writes))} ms"
            report.add(f"{len(writes):,} transactions of the {who}, p99 and the longest", times)
    report.add("WAL at most", f"{wal / 1e6:.1f} MB", "<= 64 MiB", met["wal"])
    report.print()
    for fault in seen.faults[:5]:
        out.print(f"- {fault}")
    sys.exit(0 if all(met.values()) else 1)


if __name__ == "__main__":
    main()
