"""How fast SQL is answered, refused and stopped: `just bench-sql --rows 1000000`.

A client in memory asks the server over a mirror that sync made, offline: for one workflow, beside
the same statement in the sqlite3 module; for what is refused; for the schema; and for the worked
examples. What would not end is run in the sandbox alone, where its time and the memory of its
process are measured, and then beside other work, which it should not delay. A statement that is
answered though it should be refused, or the other way round, fails the run, and so does one that is
stopped too late.
"""

import argparse
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import anyio
import anyio.to_thread
from mcp import Client
from rich.markup import escape

from benchmarks import asking
from benchmarks.generate import ENDS_AT
from benchmarks.mirror import FEWEST_ROWS, mirror_of_days_with_failures, offline, warm
from benchmarks.report import (
    Report,
    machine,
    milliseconds,
    out,
    percentile,
    show,
    table,
    three,
    verdict,
)
from dbos_mcp.demo.tour import APPLICATION_NAME
from dbos_mcp.domain import WorkflowStatus, format_time, now_ms
from dbos_mcp.errors import QueryError, SqlRejectedError
from dbos_mcp.inspection.examples import EXAMPLES, Example
from dbos_mcp.inspection.sandbox import Sandbox, Stop
from dbos_mcp.server.app import build_server
from dbos_mcp.settings import DAY_MS
from dbos_mcp.store import projector
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.events import WorkflowChanged
from dbos_mcp.store.migrate import open_cache

PARTS = ("answers", "examples", "bombs", "others")
CALLS = 300
STARTS = 5
EVERY = 5
"""Of the bombs, which are in the order of what they are made of."""
POINT_SECONDS = 0.003
REFUSAL_SECONDS = 0.005
SCHEMA_SECONDS = 0.050
EXAMPLE_SECONDS = 1.0
STOP_SECONDS = 5.5
MEMORY_BYTES = 256_000_000
DELAYED_SECONDS = 0.100
_SAMPLE_SECONDS = 0.01

POINT = (
    "SELECT * FROM workflows WHERE application_name = :application_name"
    " AND workflow_id = :workflow_id"
)
REFUSED = {
    "a private table": "SELECT * FROM workflow",
    "a write": "DELETE FROM workflows",
    "a pragma": "PRAGMA query_only = OFF",
    "a forbidden function": "SELECT printf('%.*c', 2000000000, 'x')",
    "a misspelled column": "SELECT statsu FROM workflows",
    "nonsense": "SELEC 1",
}
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
HOSTILE = Path(__file__).parents[1] / "tests" / "inspection" / "hostile.json"


@dataclass
class Findings:
    wrong: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench-sql", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="workflows to mirror")
    parser.add_argument("--failures", type=int, help="how many of them failed; a 16th of them")
    parser.add_argument("--cache", type=Path, help="ask about this mirror of the shop instead")
    parser.add_argument("--only", choices=PARTS, help="one part of it")
    parser.add_argument("--all-bombs", action="store_true", help="not only every fifth")
    arguments = parser.parse_args()
    if arguments.rows < FEWEST_ROWS:
        parser.error(f"--rows: at least {FEWEST_ROWS}")
    failures = arguments.failures or min(60_000, arguments.rows // 16)
    chosen = (arguments.only,) if arguments.only else PARTS
    bombs = json.loads(HOSTILE.read_text())["bombs"][:: 1 if arguments.all_bombs else EVERY]
    findings = anyio.run(run, arguments.rows, failures, bombs, arguments.cache, chosen)
    for each in findings.wrong:
        out.print(f"[red]WRONG[/red] {escape(each)}", markup=True)
    sys.exit(1 if findings.wrong else 0)


async def run(
    rows: int,
    failures: int,
    bombs: Sequence[str],
    cache: Path | None = None,
    parts: Sequence[str] = PARTS,
    *,
    calls: int = CALLS,
    seconds: float | None = None,
) -> Findings:
    """`seconds` is what a statement may take; none: as usual."""
    out.print(machine())
    started = perf_counter()
    cache = (cache or await mirror_of_days_with_failures(rows, failures)).resolve()
    open_cache(cache).close()  # of an older version it gets the views now
    warm(cache)
    out.print(
        f"The mirror, {cache.stat().st_size / 1e6:,.0f} MB, was made, or found, and read in"
        f" {perf_counter() - started:.1f} s."
    )
    findings = Findings()
    if "answers" in parts:
        await started_servers(cache, findings)
        await answers(cache, calls, findings)
    if "examples" in parts:
        await examples(cache, findings)
    if "bombs" in parts:
        await anyio.to_thread.run_sync(partial(stopped, cache, bombs, findings, seconds=seconds))
    if "others" in parts:
        await others(cache, calls, findings)
    return findings


async def started_servers(cache: Path, findings: Findings) -> None:
    """Each starts a process at its first statement."""
    firsts: list[float] = []
    for _ in range(STARTS):
        async with Client(build_server(offline(cache))) as client:
            await asking.ask(client, "list_applications", {})  # it opens the cache
            firsts.append((await _query(client, "SELECT 1", findings)).seconds)
    report = Report("The first statement of a server (ms: p50, p95, max)")
    report.add("SELECT 1, with the start of its process", three(firsts))
    report.print()


async def answers(cache: Path, calls: int, findings: Findings) -> None:
    with _read(cache) as connection, _sandbox(cache) as sandbox:
        rows = connection.execute(
            "SELECT workflow_id FROM workflow ORDER BY id % 7919, id LIMIT ?", (calls,)
        )
        asked = [{"application_name": APPLICATION_NAME, "workflow_id": row[0]} for row in rows]
        raw = [_timed(partial(_fetch, connection, POINT, each)) for each in asked]
        boxed = [_timed(partial(sandbox.run, POINT, each)) for each in asked]
        async with Client(build_server(offline(cache))) as client:
            await _query(client, POINT, findings, asked[0])
            found = [await _query(client, POINT, findings, each) for each in asked]
            refusals = await refused(client, sandbox, calls, findings)
            schema = [await asking.ask(client, "describe_schema", {}) for _ in range(20)]
    points = [answer.seconds for answer in found]
    wrong = [each["workflow_id"] for each, answer in zip(asked, found, strict=True)
             if each["workflow_id"] not in answer.text]  # fmt: skip
    findings.wrong += [f"{workflow_id} is not in the answer" for workflow_id in wrong]
    p50 = percentile(points, 50)
    report = Report("One workflow by its id, SELECT * (ms: p50, p95, max)")
    _judged(report, findings, "point", "the tool", points, 50, POINT_SECONDS)
    report.add("… processor time", three([answer.cpu_seconds for answer in found]))
    report.add("the sandbox alone", three(boxed))
    report.add("sqlite3, in this process", three(raw))
    report.add("the tool beside sqlite3", f"{p50 / percentile(raw, 50):,.0f} x")
    report.print()
    show(refusals)
    report = Report("describe_schema (ms: p50, p95, max)")
    times = [answer.seconds for answer in schema]
    _judged(report, findings, "schema", "the tool", times, 50, SCHEMA_SECONDS)
    report.add("its answer", f"{schema[0].text_bytes:,} bytes", "<= 8,192",
               schema[0].text_bytes <= 8_192)  # fmt: skip
    report.print()
    findings.wrong += [answer.error for answer in schema if answer.error]


def _judged(
    report: Report,
    findings: Findings,
    name: str,
    what: str,
    times: Sequence[float],
    percent: int,
    limit: float,
) -> None:
    findings.figures[name] = figure = percentile(times, percent)
    report.add(what, three(times), f"p{percent} <= {milliseconds(limit)}", figure <= limit)


async def refused(client: Client, sandbox: Sandbox, calls: int, findings: Findings) -> Any:
    made = table(
        "What is refused: milliseconds (p50, p95, max)",
        *("Statement", "The tool", "The sandbox alone", "Target", ""),
        right=("The tool", "The sandbox alone"),
    )
    for kind, sql in REFUSED.items():
        by_tool = []
        for _ in range(calls // 3):
            answer = await asking.ask(client, "query_sql", {"sql": sql})
            by_tool.append(answer.seconds)
            if not answer.error:
                findings.wrong.append(f"{kind} is answered: {sql}")
        alone = [_timed(partial(_refuse, sandbox, sql)) for _ in range(calls // 3)]
        findings.figures[f"refused, {kind}"] = p95 = percentile(by_tool, 95)
        target = f"p95 <= {milliseconds(REFUSAL_SECONDS)}"
        made.add_row(kind, three(by_tool), three(alone), target, verdict(p95 <= REFUSAL_SECONDS))
    return made


async def examples(cache: Path, findings: Findings) -> None:
    made = table(
        "The worked examples: milliseconds of the first ask, and of the slowest of four; and of"
        " processor time, which a busy machine does not lengthen, of sqlite3",
        *("Example", "Of", "First", "Slowest", "sqlite3", "Rows", "Target", ""),
        right=("First", "Slowest", "sqlite3", "Rows"),
    )
    async with Client(build_server(offline(cache))) as client:
        await _query(client, "SELECT 1", findings)
        for example in EXAMPLES:
            for span, parameters in _spans_of(example):
                times = []
                for _ in range(4):
                    arguments = {"sql": example.sql, "params": parameters}
                    answer = await asking.ask(client, "query_sql", arguments)
                    times.append(answer.seconds)
                    if answer.error:
                        break
                slowest, raw = max(times), _processor_seconds(cache, example.sql, parameters)
                findings.figures[f"{example.name}, {span}"] = raw
                rows = answer.text.partition(",")[0].removesuffix("s").removesuffix(" row")
                made.add_row(
                    example.name,
                    span,
                    *map(milliseconds, (times[0], slowest, raw)),
                    "stopped" if answer.error else rows,
                    f"<= {milliseconds(EXAMPLE_SECONDS)}",
                    verdict(slowest <= EXAMPLE_SECONDS),
                )
    show(made)


def _processor_seconds(cache: Path, sql: str, parameters: Mapping[str, str]) -> float:
    with _read(cache) as connection:
        connection.execute("PRAGMA temp_store = 2")
        started = process_time()
        connection.execute(sql, parameters).fetchmany(50)
        return process_time() - started


def _spans_of(example: Example) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The statement's parameters: of the last week, and of all where that is another question."""
    given = {"application_name": APPLICATION_NAME}
    if "at" in example.parameters:
        yield "3 days ago", given | {"at": format_time(ENDS_AT - 3 * DAY_MS)}
    elif "since" in example.parameters:
        yield "7 days", given | {"since": format_time(ENDS_AT - 7 * DAY_MS)}
        yield "all", given | {"since": format_time(0)}
    else:
        yield "all", given


def stopped(
    cache: Path, bombs: Sequence[str], findings: Findings, *, seconds: float | None = None
) -> None:
    made = table(
        f"{len(bombs)} statements that would not end, or not fit: seconds until they were stopped,"
        " and the most memory that their process held",
        *("Statement", "Seconds", "MB", "Became of it", ""),
        right=("Seconds", "MB"),
    )
    for sql in bombs:
        with _sandbox(cache, seconds) as sandbox, _peak_of(stop := Stop()) as peak:
            started = perf_counter()
            try:
                found = sandbox.run(sql, stop=stop)
                became = f"{len(found.rows)} rows"
            except QueryError as error:
                became = error.message
            took = perf_counter() - started
        longest = STOP_SECONDS if seconds is None else seconds + STOP_SECONDS - 5
        met = took <= longest and peak() <= MEMORY_BYTES
        if not met:
            findings.wrong.append(f"{took:.2f} s and {peak() / 1e6:.0f} MB: {sql[:200]}")
        row = (f"{took:.2f}", f"{peak() / 1e6:.0f}", escape(became[:60]), verdict(met))
        made.add_row(escape(_shortened(sql)), *row)
    show(made)


@contextmanager
def _peak_of(stop: Stop) -> Iterator[Callable[[], int]]:
    """Looks again and again at the process that a statement runs in, which may be gone when it
    ends; only Linux tells."""
    most, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(_SAMPLE_SECONDS):
            process = stop._process
            if process is None:
                continue
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                continue
            _, found, rest = status.partition("VmHWM:")
            if found:  # not of one that has just ended
                most[0] = max(most[0], int(rest.split()[0]) * 1024)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield lambda: most[0]
    finally:
        done.set()
        watcher.join()


def _shortened(sql: str) -> str:
    text = " ".join(sql.split())
    return text if len(text) <= 90 else f"{text[:40]} … {text[-47:]}"


async def others(cache: Path, calls: int, findings: Findings) -> None:
    """Beside two statements that do not end, over a copy, which is written to."""
    made = table(
        "Other work, alone and beside two statements that do not end: milliseconds (p50, p95, max)",
        *("What", "Alone", "Beside them", "Target", ""),
        right=("Alone", "Beside them"),
    )
    with tempfile.TemporaryDirectory(prefix="sql-", dir=cache.parent) as name:
        copied = Path(shutil.copy(cache, Path(name) / "cache.sqlite"))
        writer = open_cache(copied)
        states = _in_flight(copied)
        async with Client(build_server(offline(copied))) as client:

            async def look() -> float:
                arguments = {"application_name": APPLICATION_NAME, "status": ["ERROR"]}
                return (await asking.ask(client, "list_workflows", arguments)).seconds

            async def commit() -> float:
                work = partial(_timed, partial(_record, writer, states))
                return await anyio.to_thread.run_sync(work)

            work = {"list_workflows, 50 that failed": look, "a commit of ten changes": commit}
            await _query(client, "SELECT 1", findings)
            alone = {what: [await each() for _ in range(calls // 3)] for what, each in work.items()}
            async with anyio.create_task_group() as bombs:
                for _ in range(2):
                    bombs.start_soon(_for_ever, client)
                beside = {
                    what: [await each() for _ in range(calls // 3)] for what, each in work.items()
                }
                bombs.cancel_scope.cancel()
        writer.close()
    for what, times in beside.items():
        findings.figures[f"beside: {what}"] = p95 = percentile(times, 95)
        met = verdict(p95 <= DELAYED_SECONDS)
        made.add_row(what, three(alone[what]), three(times), "p95 <= 100", met)
    show(made)


async def _for_ever(client: Client) -> None:
    while True:
        await asking.ask(client, "query_sql", {"sql": ENDLESS})


def _in_flight(cache: Path) -> list[dict[str, Any]]:
    with _read(cache) as connection:
        rows = connection.execute(
            "SELECT workflow_id, created_at FROM workflow WHERE application_name = ?"
            " AND status = ? LIMIT 10",
            (APPLICATION_NAME, WorkflowStatus.PENDING),
        )
        return [{"workflow_id": row[0], "created_at": row[1]} for row in rows]


def _record(cache: Cache, states: Sequence[Mapping[str, Any]]) -> None:
    now = now_ms()
    events = [
        WorkflowChanged.model_validate(
            {**each, "application_name": APPLICATION_NAME, "status": "PENDING", "updated_at": now}
        )
        for each in states
    ]
    with cache.write() as connection:
        projector.record(connection, events, recorded_at=now)


async def _query(
    client: Client,
    sql: str,
    findings: Findings,
    parameters: Mapping[str, str] | None = None,
) -> asking.Answer:
    answer = await asking.ask(client, "query_sql", {"sql": sql, "params": parameters})
    if answer.error:
        findings.wrong.append(f"{answer.error}: {sql}")
    return answer


@contextmanager
def _read(cache: Path) -> Iterator[sqlite3.Connection]:
    uri = f"{cache.as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, check_same_thread=False)) as connection:
        yield connection


@contextmanager
def _sandbox(cache: Path, seconds: float | None = None) -> Iterator[Sandbox]:
    """With a connection beside it, as a server has, and a process that has started."""
    opened = open_cache(cache, writable=os.access(cache, os.W_OK))
    more = {} if seconds is None else {"seconds": seconds}
    sandbox = Sandbox(opened.read_uri, **more)
    try:
        with opened.read():
            sandbox.run("SELECT 1")
        yield sandbox
    finally:
        sandbox.close()
        opened.close()


def _fetch(connection: sqlite3.Connection, sql: str, parameters: Mapping[str, str]) -> object:
    return connection.execute(sql, parameters).fetchall()


def _refuse(sandbox: Sandbox, sql: str) -> None:
    with suppress(SqlRejectedError):
        sandbox.run(sql)


def _timed(work: Callable[[], object]) -> float:
    started = perf_counter()
    work()
    return perf_counter() - started


if __name__ == "__main__":
    main()
