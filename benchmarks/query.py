"""How fast, how large and how right answers are: `just bench-query --rows 1000000`.

A client in memory asks the server over a mirror that sync made, offline. Beside each time is that
of the same question as SQL in the sqlite3 module, on the same file, with SQLite's own plan: a page
of rows and their count. What the two find is compared: a wrong answer fails the run. The mirror is
kept for the next run; all of it is read once before, so that neither waits for the disk.
"""

import argparse
import re
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import anyio
from mcp import Client
from mcp_types import ListToolsResult
from rich.markup import escape

from benchmarks import asking
from benchmarks.asking import Answer
from benchmarks.generate import Population
from benchmarks.mirror import FEWEST_ROWS, mirror_of, offline, warm
from benchmarks.questions import Question, Values, without_a_case
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
from dbos_mcp.domain import format_time
from dbos_mcp.server.app import build_server
from dbos_mcp.settings import DAY_MS

PARTS = ("filters", "combinations", "tools")
COMBINATIONS = 200
REPEATED = 2
CALLS = 30
EVENTS_BEHIND = 50_000
INDEXED_SECONDS = 0.005
COMBINED_SECONDS = 0.150
SLOWEST_SECONDS = 1.0
AGGREGATE_SECONDS = 0.300
ANSWER_BYTES = 8_192
DEFINITIONS_BYTES = 16 * 1024

_COUNTS = re.compile(r"(\d+) of (\d+) workflows of ")


@dataclass
class Asked:
    """One question, and what became of it."""

    question: Question
    first: Answer
    again: list[float]
    raw_seconds: float
    total: int
    wrong: str | None
    """What is wrong with the answer."""


@dataclass
class Findings:
    asked: list[Asked] = field(default_factory=list)
    unasked: set[str] = field(default_factory=set)
    """Filters that there is no case for."""

    @property
    def wrong(self) -> list[Asked]:
        return [each for each in self.asked if each.wrong]


class Bench:
    """A client, and SQLite, in front of one mirror."""

    def __init__(self, client: Client, connection: sqlite3.Connection, seed: int) -> None:
        self.client = client
        self.connection = connection
        self.values = Values(connection, seed)

    async def ask(self, question: Question) -> Asked:
        arguments = question.arguments()
        first = await asking.ask(self.client, "list_workflows", arguments)
        again = [
            (await asking.ask(self.client, "list_workflows", arguments)).seconds
            for _ in range(REPEATED)
        ]
        started = perf_counter()
        page = self.connection.execute(question.page_sql()).fetchall()
        ((total,),) = self.connection.execute(question.count_sql()).fetchall()
        raw_seconds = perf_counter() - started
        wrong = first.error or difference(first.text, [row[0] for row in page], total)
        return Asked(question, first, again, raw_seconds, total, wrong)


def difference(text: str, ids: Sequence[str], total: int) -> str | None:
    """What an answer says otherwise than the ids of a page and the count of all."""
    head = _COUNTS.match(text)
    if head is None:
        return f"no counts in {text[:80]!r}"
    shown, counted = int(head[1]), int(head[2])
    if counted != total:
        return f"{counted} match, of SQLite's {total}"
    if shown > len(ids) or (ids and not shown):
        return f"{shown} rows, of SQLite's {len(ids)}"
    rows = text.splitlines()[2 : 2 + shown]
    for place, (row, wanted) in enumerate(zip(rows, ids, strict=False), 1):
        found = row.split(" | ")[0]
        # A cell is cut, with a mark, when it is too long.
        if found != wanted and not (found.endswith("…") and wanted.startswith(found[:-1])):
            return f"row {place} is {found!r}, not {wanted!r}"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench-query", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="workflows to mirror")
    parser.add_argument("--cache", type=Path, help="ask about this mirror of the shop instead")
    parser.add_argument("--only", choices=PARTS, help="one part of it")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of questions")
    arguments = parser.parse_args()
    if arguments.rows < FEWEST_ROWS:
        parser.error(f"--rows: at least {FEWEST_ROWS}")
    chosen = (arguments.only,) if arguments.only else PARTS
    findings = anyio.run(run, arguments.rows, arguments.cache, chosen, arguments.seed)
    for each in findings.wrong:
        out.print(f"[red]WRONG[/red] {each.question.arguments()}: {each.wrong}", markup=True)
    if findings.unasked:
        out.print(f"[red]No case[/red] for {', '.join(sorted(findings.unasked))}")
    sys.exit(1 if findings.wrong or findings.unasked else 0)


async def run(
    rows: int,
    cache: Path | None = None,
    parts: Sequence[str] = PARTS,
    seed: int = 1,
    combinations: int = COMBINATIONS,
    most: int | None = None,
) -> Findings:
    """`most` is of the values of each filter that are asked by."""
    out.print(machine())
    started = perf_counter()
    cache = (cache or await mirror_of(Population(rows=rows))).resolve()
    warm(cache)
    out.print(
        f"The mirror, {cache.stat().st_size / 1e6:,.0f} MB, was made, or found, and read in"
        f" {perf_counter() - started:.1f} s; values by seed {seed}."
    )
    findings = Findings()
    with closing(sqlite3.connect(f"{cache.as_uri()}?mode=ro", uri=True)) as connection:
        started = perf_counter()
        async with Client(build_server(offline(cache))) as client:
            tools = await client.list_tools()
            start_seconds = perf_counter() - started
            bench = Bench(client, connection, seed)
            (listing,) = (tool for tool in tools.tools if tool.name == "list_workflows")
            findings.unasked = without_a_case(listing.input_schema["properties"], bench.values.of)
            # The first question of all opens the cache.
            await bench.ask(Question({"workflow_id": ("warm up",)}))
            if "filters" in parts:
                findings.asked += await filters(bench, most)
            if "combinations" in parts:
                findings.asked += await combined(bench, combinations)
            if "tools" in parts:
                await other_tools(bench)
                start(tools, start_seconds)
    return findings


async def filters(bench: Bench, most: int | None = None) -> list[Asked]:
    made = table(
        "Every filter alone, 50 rows: milliseconds (p50, p95, max) of the first ask, of the same"
        " question again, and of SQLite; where an index finds the rows, p50 of the first <= 5",
        *("Filter", "Asked", "Matched", "First", "Again", "sqlite3", "Bytes", "Indexed"),
        right=("Asked", "Matched", "First", "Again", "sqlite3", "Bytes"),
    )
    every: list[Asked] = []
    for name, questions in bench.values.alone().items():
        asked = [await bench.ask(question) for question in questions[:most]]
        every += asked
        for indexed in (True, False):
            some = [each for each in asked if each.question.indexed is indexed]
            if not some:
                continue
            firsts = [each.first.seconds for each in some]
            totals = sorted(each.total for each in some)
            made.add_row(
                name if len(some) == len(asked) else f"{name}={_value(some[0], name)}",
                str(len(some)),
                f"{totals[0]:,} - {totals[-1]:,}" if len(some) > 1 else f"{totals[0]:,}",
                three(firsts),
                three([seconds for each in some for seconds in each.again]),
                three([each.raw_seconds for each in some]),
                f"{max(each.first.text_bytes for each in some):,}",
                verdict(percentile(firsts, 50) <= INDEXED_SECONDS) if indexed else "",
            )
    show(made)
    indexed_ones = [each for each in every if each.question.indexed]
    _summary("Every filter alone", every, {"of an index": indexed_ones}).print()
    await _floor(every)
    return every


async def combined(bench: Bench, count: int) -> list[Asked]:
    every = [await bench.ask(question) for question in bench.values.combined(count)]
    matching = sum(each.total > 0 for each in every)
    report = _summary(f"{count} random combinations, {matching} of which match something", every)
    p95 = percentile([each.first.seconds for each in every], 95)
    met = p95 <= COMBINED_SECONDS
    report.add("p95 of the first ask", f"{milliseconds(p95)} ms", "<= 150 ms", met)
    report.print()
    slowest = table(
        "The five slowest combinations: milliseconds",
        *("First", "Again", "sqlite3", "Matched", "Asked for"),
        right=("First", "Again", "sqlite3", "Matched"),
    )
    for each in sorted(every, key=lambda asked: -asked.first.seconds)[:5]:
        slowest.add_row(
            milliseconds(each.first.seconds),
            milliseconds(max(each.again)),
            milliseconds(each.raw_seconds),
            f"{each.total:,}",
            _words(each.question),
        )
    show(slowest)
    return every


def _summary(
    title: str, every: Sequence[Asked], parts: Mapping[str, Sequence[Asked]] | None = None
) -> Report:
    report = Report(f"{title} (ms: p50, p95, max)")
    report.add("first ask", three([each.first.seconds for each in every]))
    for name, some in (parts or {}).items():
        firsts = [each.first.seconds for each in some]
        met = percentile(firsts, 50) <= INDEXED_SECONDS
        report.add(f"… {name}", three(firsts), "p50 <= 5", met)
    report.add("same question again", three([s for each in every for s in each.again]))
    report.add("sqlite3, its own plan", three([each.raw_seconds for each in every]))
    slowest = max(each.first.seconds for each in every)
    met = slowest <= SLOWEST_SECONDS
    report.add("slowest question", f"{milliseconds(slowest)} ms", "<= 1,000 ms", met)
    concise = [each.first.text_bytes for each in every if not each.question.full]
    largest = max(concise)
    report.add("largest answer", f"{largest:,} bytes", "<= 8,192", largest <= ANSWER_BYTES)
    wrong = sum(each.wrong is not None for each in every)
    what = "answers that SQLite contradicts (counts, ids of the page)"
    report.add(what, f"{wrong} of {len(every)}", "0", wrong == 0)
    return report


async def _floor(every: Sequence[Asked]) -> None:
    size = int(percentile([each.first.text_bytes for each in every], 50))
    async with Client(asking.bare_server()) as client:
        times = await asking.ask_constant(client, size, 200)
    report = Report("The floor (ms: p50, p95, max)")
    report.add(f"a tool of a bare server that answers {size:,} constant bytes", three(times))
    report.print()


async def other_tools(bench: Bench) -> None:
    made = table(
        "Other tools: milliseconds of the first call, and of all (p50, p95, max)",
        *("Question", "Calls", "First", "All", "Bytes", "Target", ""),
        right=("Calls", "First", "All", "Bytes"),
    )
    for name, tool, asked, limit in _tool_questions(bench.connection):
        answers = [await asking.ask(bench.client, tool, arguments) for arguments in asked]
        failed = {answer.error for answer in answers if answer.error}
        times = [answer.seconds for answer in answers]
        size = max(answer.text_bytes for answer in answers)
        met = None if limit is None else percentile(times, 50) <= limit
        target = "" if limit is None else f"p50 <= {milliseconds(limit)}"
        row = (milliseconds(times[0]), three(times), f"{size:,}", target, verdict(met))
        made.add_row(name, str(len(asked)), *row)
        for error in failed:
            made.add_row(f"[red]… failed: {escape(error)}[/red]")
    show(made)


ToolQuestions = Iterator[tuple[str, str, Sequence[Mapping[str, Any]], float | None]]


def _tool_questions(connection: sqlite3.Connection) -> ToolQuestions:
    """By name, the tool, its arguments of each call, and the target."""

    def ids(condition: str) -> list[dict[str, Any]]:
        rows = connection.execute(
            f"SELECT workflow_id FROM workflow WHERE {condition} ORDER BY id % 7919, id LIMIT ?",
            (CALLS,),
        )
        return [{"application_name": APPLICATION_NAME, "workflow_id": row[0]} for row in rows]

    read = "id IN (SELECT workflow_key FROM step)"
    parents = (
        "workflow_id IN (SELECT parent_workflow_id FROM workflow"
        " WHERE parent_workflow_id IS NOT NULL LIMIT 500)"
    )
    changed = "workflow_id IN (SELECT workflow_id FROM event ORDER BY position DESC LIMIT 2000)"
    yield "get_workflow, any", "get_workflow", ids("id % 101 = 0"), None
    yield "… a failed one", "get_workflow", ids(f"error IS NOT NULL AND {read}"), None
    yield "… with children", "get_workflow", ids(parents), None
    everything = [each | {"include": ["steps", "history", "children"]} for each in ids(read)]
    yield "… with steps, history, children", "get_workflow", everything, None
    yield "list_steps", "list_steps", ids(read), None
    yield "get_workflow_history", "get_workflow_history", ids(changed), None
    ((last, at),) = connection.execute(
        "SELECT position, recorded_at FROM event ORDER BY position DESC LIMIT 1"
    )
    # Where these begin, a workflow's first event mostly is not behind them.
    day = [{"since": format_time(at - DAY_MS - call)} for call in range(5)]
    yield "list_changes of a day", "list_changes", day, None
    behind = [{"after_position": max(0, last - EVENTS_BEHIND - call)} for call in range(5)]
    yield f"list_changes, {EVENTS_BEHIND:,} events behind", "list_changes", behind, None
    few = [{"after_position": max(0, last - 500 - call)} for call in range(CALLS)]
    yield "list_changes, 500 events behind", "list_changes", few, None
    tool = "get_workflow_aggregates"
    for group, limit in (
        *(("status", AGGREGATE_SECONDS), ("workflow_name", AGGREGATE_SECONDS)),
        *(("executor_id", None), ("day", None)),
    ):
        asked = {"application_name": APPLICATION_NAME, "group_by": group}
        yield f"aggregates by {group}", tool, [asked | {"limit": 20 + n} for n in range(10)], limit
    yield "list_applications", "list_applications", [{}] * CALLS, None


def start(tools: ListToolsResult, seconds: float) -> None:
    size = asking.definitions_bytes(tools)
    report = Report("The start")
    met = size <= DEFINITIONS_BYTES
    report.add(f"tools/list, {len(tools.tools)} tools", f"{size:,} bytes", "<= 16,384", met)
    report.add("initialize and tools/list, in this process", f"{milliseconds(seconds)} ms")
    report.print()


def _value(asked: Asked, name: str) -> object:
    return asked.question.arguments().get(name)


def _words(question: Question) -> str:
    words = []
    for name, value in question.arguments().items():
        if name not in ("application_name", "limit"):
            text = f"{len(value)} values" if isinstance(value, list) else str(value)
            words.append(f"{name}={text}")
    return ", ".join(words)


if __name__ == "__main__":
    main()
