"""How fast, how large and how right post-mortems are: `just bench-postmortem --failures 60000`.

A client in memory asks the server over a mirror that sync made, offline: for the failures of usual
days, of one on which a fifth of all failed, and of longer times; and for the diagnosis of workflows
of each sort. Targets are for processor time, which a busy machine does not lengthen. The groups are
held against the causes that were planted: a wrong count fails the run.
"""

import argparse
import re
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import anyio
from mcp import Client

from benchmarks import asking
from benchmarks.asking import Answer
from benchmarks.generate import ENDS_AT
from benchmarks.mirror import FEWEST_ROWS, mirror_of_days_with_failures, offline, warm
from benchmarks.report import Report, machine, milliseconds, out, percentile, show, table, three
from dbos_mcp.demo.tour import APPLICATION_NAME
from dbos_mcp.domain import format_time
from dbos_mcp.postmortem.error_text import kind_of_short
from dbos_mcp.server.app import build_server
from dbos_mcp.settings import DAY_MS

WINDOWS = 10
STEP_MS = 11 * 60_000
"""Between the ends of the windows that are asked for one after the other."""
REPEATED = 2
DIAGNOSES = 200
FAILURES_SECONDS = 0.200
DIAGNOSIS_SECONDS = 0.050
FAILURES_BYTES = 8_192
DIAGNOSIS_BYTES = 4_096

_HEAD = re.compile(r"(\d+) workflows of \S+ failed .*, of (\d+) causes; (\d+) in as much")
Counts = tuple[int, int, int]
"""How often a cause began, how often before, and how many workflows failed of it."""


@dataclass(frozen=True)
class Span:
    since: int
    until: int

    @property
    def before(self) -> "Span":
        return Span(2 * self.since - self.until - 1, self.since - 1)


@dataclass
class Findings:
    wrong: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    """p95 of processor seconds, by what was asked."""


class Planted:
    """What SQLite, and the attributes of the workflows, tell of the failures in a mirror."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        # Of a table of its own, so that the check of hundreds of answers takes no minutes.
        connection.execute(
            "CREATE TEMP TABLE failure AS SELECT completed_at, workflow_id,"
            " json_extract(attributes, '$.cause') AS cause,"
            " json_extract(attributes, '$.origin') AS origin FROM workflow"
            " WHERE attributes LIKE '%\"cause\"%' ORDER BY completed_at"
        )
        connection.execute("CREATE INDEX temp.failure_at ON failure (completed_at)")
        connection.execute("CREATE INDEX temp.failure_id ON failure (workflow_id)")

    def counts(self, span: Span) -> dict[int, Counts]:
        now, before = self._began(span), self._began(span.before)
        return {
            cause: (began, before.get(cause, (0, 0))[0], failed)
            for cause, (began, failed) in now.items()
        }

    def _began(self, span: Span) -> dict[int, tuple[int, int]]:
        rows = self._connection.execute(
            "SELECT cause, count(DISTINCT origin), count(*) FROM failure"
            " WHERE completed_at BETWEEN ? AND ? GROUP BY cause",
            (span.since, span.until),
        )
        return {cause: (began, failed) for cause, began, failed in rows}

    def cause_of(self, workflow_id: str) -> int | None:
        row = self._connection.execute(
            "SELECT cause FROM failure WHERE workflow_id = ?", (workflow_id,)
        ).fetchone()
        return None if row is None else row[0]

    def contradiction(self, text: str, span: Span) -> str | None:
        """What an answer says otherwise."""
        counts = self.counts(span)
        failed = sum(each[2] for each in counts.values())
        head = _HEAD.match(text)
        if head is None:
            return f"no counts in {text[:80]!r}" if counts else None
        if (int(head[1]), int(head[2])) != (failed, len(counts)):
            return f"{head[0]!r}, of {failed} workflows and {len(counts)} causes"
        seen: set[int] = set()
        for row in _rows(text):
            cause = self.cause_of(row["newest"])
            if cause is None or cause in seen:
                return f"{row['group']} and another group are one cause: {row['error']}"
            seen.add(cause)
            told = (int(row["began"]), int(row["before"]), int(row["failed"]))
            if told != counts[cause]:
                return f"{row['error']}: {told}, of {counts[cause]}"
        return None

    def read_raw(self, span: Span) -> float:
        """Processor seconds that SQLite takes for the rows that such an answer is made of."""
        started = process_time()
        for each in (span, span.before):
            self._connection.execute(
                "SELECT w.id, w.workflow_id, w.status, w.workflow_name, w.error, w.completed_at,"
                " w.application_version, w.executor_id, w.queue_name, w.schedule_name, s.step_id,"
                " s.step_name, s.child_workflow_id, s.error FROM workflow AS w"
                " LEFT JOIN step AS s ON s.workflow_key = w.id AND s.error IS NOT NULL"
                " WHERE w.application_name = ? AND (w.status IN ('ERROR',"
                " 'MAX_RECOVERY_ATTEMPTS_EXCEEDED') OR w.status = 'CANCELLED' AND w.deadline IS NOT"
                " NULL) AND w.completed_at BETWEEN ? AND ?",
                (APPLICATION_NAME, each.since, each.until),
            ).fetchall()
        return process_time() - started


def _rows(text: str) -> Iterator[Mapping[str, str]]:
    lines = iter(text.splitlines())
    columns = next((line.split(" | ") for line in lines if line.startswith("group | ")), [])
    for line in lines:
        if line.count(" | ") < len(columns) - 1:
            return
        first, last = line.split(" | ", 6), line.rsplit(" | ", 3)
        yield dict(zip(columns[:6], first, strict=False)) | {
            "error": " | ".join(first[6:]).rsplit(" | ", 3)[0],
            "newest": last[-1],
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench-postmortem", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="workflows to mirror")
    parser.add_argument("--failures", type=int, default=60_000, help="how many of them failed")
    parser.add_argument("--cache", type=Path, help="ask about this mirror of failures instead")
    arguments = parser.parse_args()
    if arguments.rows < FEWEST_ROWS:
        parser.error(f"--rows: at least {FEWEST_ROWS}")
    if not 0 < arguments.failures <= arguments.rows // 10:
        parser.error("--failures: at most a tenth of the rows")
    findings = anyio.run(run, arguments.rows, arguments.failures, arguments.cache)
    for each in findings.wrong:
        out.print(f"[red]WRONG[/red] {each}", markup=True)
    sys.exit(1 if findings.wrong else 0)


async def run(
    rows: int,
    failures: int,
    cache: Path | None = None,
    windows: int = WINDOWS,
    diagnoses: int = DIAGNOSES,
) -> Findings:
    out.print(machine())
    started = perf_counter()
    cache = (cache or await mirror_of_days_with_failures(rows, failures)).resolve()
    warm(cache)
    out.print(
        f"The mirror, {cache.stat().st_size / 1e6:,.0f} MB, was made, or found, and read in"
        f" {perf_counter() - started:.1f} s."
    )
    findings = Findings()
    with closing(sqlite3.connect(f"{cache.as_uri()}?mode=ro", uri=True)) as connection:
        planted = Planted(connection)
        async with Client(build_server(offline(cache))) as client:
            await asking.ask(client, "list_applications", {})  # it opens the cache
            await lists(client, planted, windows, findings)
            await diagnosed(client, connection, diagnoses, findings)
    return findings


@dataclass
class _Listed:
    """One window, and what became of it."""

    span: Span
    cold: Answer
    """With no error text remembered."""
    again: list[Answer]
    raw_seconds: float


def _spans(windows: int) -> dict[str, list[Span]]:
    """The bad day is the last; the day before it is compared with it, so usual ones are older."""

    def of(days: int, until: int, count: int) -> list[Span]:
        ends = [until - STEP_MS * place for place in range(count)]
        return [Span(end - days * DAY_MS, end) for end in ends]

    return {
        "24 hours, a usual day": of(1, ENDS_AT - 3 * DAY_MS, windows),
        "24 hours, the bad day": of(1, ENDS_AT, windows),
        "24 hours, the day after it": of(1, ENDS_AT + 20 * DAY_MS // 24, windows),
        "7 days": of(7, ENDS_AT, 3),
        "30 days": of(30, ENDS_AT, 2),
    }


async def lists(client: Client, planted: Planted, windows: int, findings: Findings) -> None:
    made = table(
        "list_failures: milliseconds of processor time (p50, p95, max) of each window, first with"
        " no error text remembered, then again as of any window of such texts, and of SQLite that"
        " reads the same failed rows; of the clock",
        *("Window", "Asked", "Failed", "First", "Again", "sqlite3", "Clock, first", "Bytes"),
        right=("Asked", "Failed", "First", "Again", "sqlite3", "Clock, first", "Bytes"),
    )
    report = Report("list_failures over 24 hours, beside its targets")
    contradicted = asked = 0
    largest = 0
    for name, spans in _spans(windows).items():
        listed = [await _list(client, planted, span) for span in spans]
        for each in listed:
            wrong = each.cold.error or planted.contradiction(each.cold.text, each.span)
            asked += 1
            if wrong:
                contradicted += 1
                findings.wrong.append(f"{name}, until {format_time(each.span.until)}: {wrong}")
        firsts = [each.cold.cpu_seconds for each in listed]
        repeated = [answer.cpu_seconds for each in listed for answer in each.again]
        counts = [sum(n for _, _, n in planted.counts(span).values()) for span in spans]
        largest = max(largest, *(each.cold.text_bytes for each in listed))
        made.add_row(
            name,
            str(len(spans)),
            f"{min(counts):,} - {max(counts):,}",
            three(firsts),
            three(repeated),
            three([each.raw_seconds for each in listed]),
            three([each.cold.seconds for each in listed]),
            f"{max(each.cold.text_bytes for each in listed):,}",
        )
        raw = percentile([each.raw_seconds for each in listed], 95)
        for how, times in (("first", firsts), ("again", repeated)):
            findings.figures[f"{name}, {how}"] = p95 = percentile(times, 95)
            if name.startswith("24"):
                report.add(
                    f"{name}, {max(counts):,} failed: p95, {how}",
                    f"{milliseconds(p95)} ms ({p95 / raw:.1f} x sqlite3)",
                    f"<= {milliseconds(FAILURES_SECONDS)} ms",
                    p95 <= FAILURES_SECONDS,
                )
    show(made)
    report.add(
        "largest answer", f"{largest:,} bytes", f"<= {FAILURES_BYTES:,}", largest <= FAILURES_BYTES
    )
    report.add(
        "answers that the planted causes contradict",
        f"{contradicted} of {asked}",
        "0",
        contradicted == 0,
    )
    report.print()


async def _list(client: Client, planted: Planted, span: Span) -> _Listed:
    arguments = {
        "application_name": APPLICATION_NAME,
        "since": str(span.since),
        "until": str(span.until),
    }
    kind_of_short.cache_clear()
    cold = await asking.ask(client, "list_failures", arguments)
    again = [await asking.ask(client, "list_failures", arguments) for _ in range(REPEATED)]
    return _Listed(span, cold, again, planted.read_raw(span))


async def diagnosed(
    client: Client, connection: sqlite3.Connection, count: int, findings: Findings
) -> None:
    made = table(
        "diagnose_workflow: milliseconds of processor time, and of the clock (p50, p95, max)",
        *("Workflow", "Asked", "Processor", "Clock", "Bytes"),
        right=("Asked", "Processor", "Clock", "Bytes"),
    )
    every: list[Answer] = []
    for name, ids in _subjects(connection, count).items():
        answers = [await _diagnose(client, workflow_id) for workflow_id in ids]
        findings.wrong += [f"{name}: {answer.error}" for answer in answers if answer.error]
        every += answers
        if answers:
            made.add_row(
                name,
                str(len(answers)),
                three([answer.cpu_seconds for answer in answers]),
                three([answer.seconds for answer in answers]),
                f"{max(answer.text_bytes for answer in answers):,}",
            )
    show(made)
    report = Report("diagnose_workflow, beside its targets")
    findings.figures["diagnose_workflow"] = p95 = percentile([a.cpu_seconds for a in every], 95)
    report.add(
        f"p95 of {len(every)} workflows",
        f"{milliseconds(p95)} ms",
        f"<= {milliseconds(DIAGNOSIS_SECONDS)} ms",
        p95 <= DIAGNOSIS_SECONDS,
    )
    largest = max(answer.text_bytes for answer in every)
    met = largest <= DIAGNOSIS_BYTES
    report.add("largest answer", f"{largest:,} bytes", f"<= {DIAGNOSIS_BYTES:,}", met)
    report.print()


async def _diagnose(client: Client, workflow_id: str) -> Answer:
    arguments: dict[str, Any] = {"application_name": APPLICATION_NAME, "workflow_id": workflow_id}
    kind_of_short.cache_clear()
    return await asking.ask(client, "diagnose_workflow", arguments)


def _subjects(connection: sqlite3.Connection, count: int) -> dict[str, Sequence[str]]:
    failed = "attributes LIKE '%\"cause\"%'"
    child = "parent_workflow_id IS NOT NULL"
    origin = "json_extract(attributes, '$.origin') = workflow_id"
    conditions = {
        "failed by itself": f"{failed} AND {origin} AND NOT {child} AND status = 'ERROR'",
        "the root of a chain": f"{failed} AND NOT {origin} AND NOT {child}",
        "in the middle of a chain": f"{failed} AND NOT {origin} AND {child}",
        "where a chain's failure began": f"{failed} AND {origin} AND {child}",
        "failed on the bad day": f"{failed} AND completed_at > {ENDS_AT - DAY_MS}",
        "timed out": f"{failed} AND status = 'CANCELLED'",
        "recovered too often": f"{failed} AND status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED'",
        "waits in a queue": "status = 'ENQUEUED'",
        "runs on an executor that is gone": "status = 'PENDING'",
    }
    each = max(1, count // len(conditions))
    return {
        name: list(
            chain.from_iterable(
                connection.execute(
                    f"SELECT workflow_id FROM workflow WHERE {condition}"
                    " ORDER BY id % 7919, id LIMIT ?",
                    (each,),
                )
            )
        )
        for name, condition in conditions.items()
    }


if __name__ == "__main__":
    main()
