"""How answers compare with those of dbos-mcp 0.8.0, on the same data: `just bench-peer`.

That version comes from the package index, with what it depends on as it is released today, into an
environment of its own that is kept for the next run. It asks Conductor anew for every answer, at an
address that is fixed in its code: here it is started by a line of Python that names the local
Conductor instead, with a login in a home of its own that nobody looks at. Nothing else of it is
changed, and nothing stands in between: no TLS, no login, no way across the internet.

Both servers are processes that one client asks over stdio, in turns; and so is ours by a client in
memory. Ours is in its default mode, over a complete mirror, which it keeps in sync meanwhile. Its
first look at Conductor, a start's work, is over before the first question. What the servers write
to stderr (the peer logs every request) goes into a file.
"""

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

import anyio
from mcp import Client, StdioServerParameters, stdio_client
from rich.markup import escape
from rich.table import Table

from benchmarks.asking import Answer, ask, ask_constant, definitions_bytes
from benchmarks.generate import Population, database_of, kept
from benchmarks.load import settings_for
from benchmarks.mirror import make_mirror
from benchmarks.report import Report, machine, milliseconds, out, percentile, show, table, verdict
from dbos_mcp.demo.tour import APPLICATION_NAME, running_conductor
from dbos_mcp.domain import format_time
from dbos_mcp.server.app import build_server
from dbos_mcp.settings import LOCAL_ORGANIZATION

PEER = "dbos-mcp==0.8.0"
CALLS = 20
TIMES_FASTER = 15
STARTS = 3
ANSWER_BYTES = 8_192
DEFINITIONS_BYTES = 16 * 1024

_START_PEER = (
    "import os; from dbos_mcp import client; client.CONDUCTOR_URL = os.environ['CONDUCTOR_URL'];"
    " from dbos_mcp.server import main; main()"
)
_APPLICATION = {"application_name": APPLICATION_NAME}


@dataclass(frozen=True)
class Question:
    """In each server's words; `each` are arguments that both call the same, of every call."""

    name: str
    tool: str
    each: Sequence[Mapping[str, Any]] = ({},)
    ours: Mapping[str, Any] = field(default_factory=dict)
    peers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_list(self) -> bool:
        return self.tool == "list_workflows"

    def asked(self, call: int, own: Mapping[str, Any]) -> dict[str, Any]:
        return {**self.each[call % len(self.each)], **own}


@dataclass
class Comparison:
    question: Question
    peer: list[Answer] = field(default_factory=list)
    ours: list[Answer] = field(default_factory=list)
    in_memory: list[Answer] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench-peer", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="workflows in Conductor")
    anyio.run(run, Population(rows=parser.parse_args().rows))


async def run(population: Population) -> None:
    out.print(f"{machine()}; {population.rows:,} workflows.")
    peer = environment_of_peer()
    out.print(
        f"The peer is {PEER} with mcp {_version(peer, 'mcp')} and httpx {_version(peer, 'httpx')},"
        " its Conductor's URL replaced by that of a local Conductor on loopback."
    )
    with (
        tempfile.TemporaryDirectory(prefix="dbos-mcp-benchmark-") as name,
        (Path(name) / "stderr.log").open("w") as errors,
    ):
        folder = Path(name)
        cache = folder / "cache.sqlite"
        system = Path(shutil.copy(database_of(population), folder))
        await make_mirror(system, cache)
        compared = [Comparison(question) for question in questions_about(cache)]
        async with running_conductor(system) as url:
            servers = {
                "the peer": _peer(peer, url, folder / "peer"),
                "ours": _ours(url, cache),
                "a bare server": _bare(),
            }
            theirs, ours, bare = servers.values()
            async with (
                Client(stdio_client(theirs, errors)) as their_client,
                Client(stdio_client(ours, errors)) as our_client,
                Client(build_server(settings_for(url, cache))) as in_memory,
            ):
                for client in (our_client, in_memory):
                    await ask(client, "sync_now", {})
                for each in compared:
                    await _ask_all(each, their_client, our_client, in_memory)
            async with Client(stdio_client(bare, errors)) as client:
                floor = await ask_constant(client, ANSWER_BYTES, 100)
            report = Report("The start of a process, and the floor")
            for who, server in servers.items():
                await _start(report, who, server, errors)
    constant = f"{ANSWER_BYTES:,} constant bytes from a bare server over stdio, p50"
    report.add(constant, f"{milliseconds(percentile(floor, 50))} ms")
    _print(compared)
    report.print()


async def _start(report: Report, who: str, server: StdioServerParameters, errors: TextIO) -> None:
    times = []
    for _ in range(STARTS):
        started = perf_counter()
        async with Client(stdio_client(server, errors)) as client:
            tools = await client.list_tools()
            times.append(perf_counter() - started)
    size = definitions_bytes(tools)
    target = ("<= 16,384", size <= DEFINITIONS_BYTES) if who == "ours" else ()
    report.add(f"tools/list of {who}", f"{size:,} bytes", *target)
    report.add(f"… after a start, the fastest of {STARTS}", f"{milliseconds(min(times))} ms")


def environment_of_peer() -> Path:
    """The Python that has the peer installed."""
    folder = kept() / f"peer-{PEER.rpartition('=')[2]}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        uv = shutil.which("uv")
        if uv:
            _call(uv, "venv", "-q", "--python", sys.executable, str(folder))
            _call(uv, "pip", "install", "-q", "--python", str(python), PEER)
        else:
            _call(sys.executable, "-m", "venv", str(folder))
            _call(str(python), "-m", "pip", "install", "-q", PEER)
        (folder / "done").touch()
    return python


def _call(*command: str) -> None:
    subprocess.run(command, check=True)


def _version(python: Path, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.check_output([python, "-I", "-c", code], text=True).strip()


def _peer(python: Path, url: str, home: Path) -> StdioServerParameters:
    credentials = home / ".dbos-mcp" / "credentials"
    credentials.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    login = {"token": "none is wanted", "userName": "", "organization": LOCAL_ORGANIZATION}
    credentials.write_text(json.dumps(login))
    variables = {"HOME": str(home), "CONDUCTOR_URL": f"{url}/v2"}
    # Isolated: else this checkout, where it starts, would be the dbos_mcp that it imports.
    command = ["-I", "-c", _START_PEER]
    return StdioServerParameters(command=str(python), args=command, env=variables, cwd=home)


def _bare() -> StdioServerParameters:
    return StdioServerParameters(command=sys.executable, args=["-m", "benchmarks.asking"])


def _ours(url: str, cache: Path) -> StdioServerParameters:
    variables = {
        "HOME": str(cache.parent),
        "DBOS_URL": url,
        "DBOS_MCP_CACHE": str(cache),
        "DBOS_MCP_HISTORY": "all",
    }
    command = ["-m", "dbos_mcp"]
    return StdioServerParameters(command=sys.executable, args=command, env=variables)


async def _ask_all(compared: Comparison, peer: Client, ours: Client, in_memory: Client) -> None:
    """In turns: whatever else the machine does, it does to each of them."""
    question = compared.question
    for call in range(CALLS):
        for answers, client, own in (
            (compared.peer, peer, question.peers),
            (compared.ours, ours, question.ours),
            (compared.in_memory, in_memory, question.ours),
        ):
            answers.append(await ask(client, question.tool, question.asked(call, own)))


def questions_about(cache: Path) -> list[Question]:
    """What both servers have a tool for, with another subject in every call where there is one."""
    with closing(sqlite3.connect(f"{cache.as_uri()}?mode=ro", uri=True)) as connection:

        def some(what: str, condition: str = "TRUE") -> list[Any]:
            rows = connection.execute(
                f"SELECT DISTINCT {what} FROM workflow WHERE {what} IS NOT NULL AND {condition}"
                " ORDER BY id % 7919, id LIMIT ?",
                (CALLS,),
            )
            return [value for (value,) in rows]

        def listing(name: str, each: Sequence[Mapping[str, Any]]) -> Question:
            asked = [{**_APPLICATION, "limit": 50, **arguments} for arguments in each]
            return Question(f"list 50, {name}", "list_workflows", asked, peers={"sort_desc": True})

        def of(argument: str, values: Sequence[Any]) -> list[dict[str, Any]]:
            return [{**_APPLICATION, argument: value} for value in values]

        times = sorted(some("created_at", "created_at % 7 = 0"))
        hours = [
            {"start_time": format_time(at), "end_time": format_time(at + 24 * 3_600_000)}
            for at in times
        ]
        names, queues = some("workflow_name"), some("queue_name")
        users, parents = some("authenticated_user"), some("parent_workflow_id")
        statuses = ["SUCCESS", "ERROR", "CANCELLED", "PENDING", "ENQUEUED"]
        any_ids, failed = some("workflow_id"), some("workflow_id", "error IS NOT NULL")
        both = [
            {"status": "ERROR", "workflow_name": name, "start_time": format_time(times[0])}
            for name in names
        ]
    return [
        Question("list_applications", "list_applications"),
        Question("list_executors", "list_executors", of("application_name", [APPLICATION_NAME])),
        listing("newest", [{}]),
        listing("failed", [{"status": "ERROR"}]),
        listing("by status", of("status", statuses)),
        listing("by name", of("workflow_name", names)),
        listing("by queue", of("queue_name", queues)),
        listing("by user", of("authenticated_user", users)),
        listing("of a parent", of("parent_workflow_id", parents)),
        listing("by prefix of the id", of("workflow_id_prefix", [i[:3] for i in any_ids])),
        listing("of 24 hours", hours),
        listing("failed, by name, since", both),
        Question("get_workflow", "get_workflow", of("workflow_id", any_ids)),
        Question("get_workflow, failed", "get_workflow", of("workflow_id", failed)),
        Question("list_steps, of failed ones", "list_steps", of("workflow_id", failed)),
        Question(
            "aggregates by status, counts alone",
            "get_workflow_aggregates",
            [_APPLICATION],
            ours={"group_by": "status", "durations": False},
            peers={"group_by_status": True, "select_count": True},
        ),
        *(
            Question(
                f"aggregates by {group}",
                "get_workflow_aggregates",
                [_APPLICATION],
                ours={"group_by": group},
                peers={peers: True, "select_count": True},
            )
            for group, peers in (
                ("status", "group_by_status"),
                ("workflow_name", "group_by_name"),
                ("queue_name", "group_by_queue_name"),
                ("executor_id", "group_by_executor_id"),
            )
        ),
    ]


def _print(compared: Sequence[Comparison]) -> None:
    faster = table(
        f"p50 of {CALLS} calls each, in milliseconds",
        *("Question", "Peer", "Ours", "Ratio", "In memory", "Ratio ", ">= 15"),
        right=("Peer", "Ours", "Ratio", "In memory", "Ratio "),
    )
    smaller = table(
        "Largest answer in bytes: the whole result, and the text that a model reads",
        *("Question", "Peer", "text", "Ours", "text ", "Ratio", "of text", "text <= 8,192"),
        right=("Peer", "text", "Ours", "text ", "Ratio", "of text"),
    )
    for each in compared:
        name = each.question.name
        peer, ours, in_memory = (
            percentile([answer.seconds for answer in answers], 50)
            for answers in (each.peer, each.ours, each.in_memory)
        )
        met = peer / in_memory >= TIMES_FASTER if each.question.is_list else None
        faster.add_row(
            *(name, milliseconds(peer), milliseconds(ours), f"{peer / ours:.1f}"),
            *(milliseconds(in_memory), f"{peer / in_memory:.1f}", verdict(met)),
        )
        _explain(faster, "peer", each.peer)
        _explain(faster, "ours", each.ours + each.in_memory)
        (wire, text), (our_wire, our_text) = _sizes(each.peer), _sizes(each.ours)
        met = our_text <= ANSWER_BYTES if each.question.is_list else None
        smaller.add_row(
            *(name, f"{wire:,}", f"{text:,}", f"{our_wire:,}", f"{our_text:,}"),
            *(f"{wire / our_wire:.1f}", f"{text / our_text:.1f}", verdict(met)),
        )
    show(faster)
    show(smaller)


def _sizes(answers: Sequence[Answer]) -> tuple[int, int]:
    return (
        max(answer.bytes_on_wire for answer in answers),
        max(answer.text_bytes for answer in answers),
    )


def _explain(made: Table, who: str, answers: Sequence[Answer]) -> None:
    """What was answered with an error is said beside its figures."""
    failed = [answer.error for answer in answers if answer.error]
    if failed:
        made.add_row(f"[red]… {who}: {len(failed)} errors, {escape(failed[0][:200])}[/red]")


if __name__ == "__main__":
    main()
