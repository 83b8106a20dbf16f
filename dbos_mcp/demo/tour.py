"""A tour of one minute: a shop fails, the mirror explains it, the shop goes away, the mirror stays.

Nothing is staged: the shop is a DBOS application and the local Conductor a server, each a process
of its own, and every question goes through the MCP server as an agent's would.
"""

import importlib.util
import os
import shlex
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp import Client
from mcp_types import TextContent
from rich.console import Console
from rich.markup import escape

from dbos_mcp.errors import DbosMcpError, UsageError
from dbos_mcp.server.app import build_server
from dbos_mcp.settings import Settings
from dbos_mcp.sqlite import require_sqlite_for_dbos

APPLICATION_NAME = "shop"
START_SECONDS = 60.0
LOAD_SECONDS = 30.0
OFFLINE_SECONDS = 30.0
FAILED_ORDER = "order-1005"
COSTS_OF_STEPS = (
    "SELECT step_name, count(*) AS runs, sum(is_failed) AS failed, max(duration_ms) AS longest_ms"
    " FROM steps WHERE step_name NOT LIKE 'DBOS.%' GROUP BY step_name ORDER BY longest_ms DESC"
)
_OF_NO_APPLICATION = ("list_applications", "query_sql")


class DemoError(DbosMcpError):
    """A part of the tour did not happen."""


async def run_tour(console: Console, keep: Path | None) -> None:
    """Run the tour, and leave its cache behind for an agent.

    Raises:
        UsageError: the `local` extra is missing, SQLite is too old for DBOS, or `keep` holds an
            earlier demo.
        DemoError: something did not start or answer.
    """
    if importlib.util.find_spec("dbos") is None:
        raise UsageError(
            "The demo runs real DBOS workflows, which the extra `local` brings.",
            hint="Run `uv run --extra local dbos-mcp demo`, or install `dbos-mcp[local]`.",
        )
    require_sqlite_for_dbos()
    folder = keep or Path(tempfile.mkdtemp(prefix="dbos-mcp-demo-"))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    cache, database = folder / "cache.sqlite", folder / "shop.sqlite"
    for path in (cache, database):
        if path.exists():
            raise UsageError(f"{path} is there already.", hint="Name a new folder with --keep.")
    tour = _Tour(console)
    async with AsyncExitStack() as upstream:
        tour.title("A shop of durable workflows opens, and takes 24 orders")
        await upstream.enter_async_context(running_shop(database))
        url = await upstream.enter_async_context(running_conductor(database))
        tour.say(f"The shop's Conductor API is at {url}; the mirror is {cache}")

        failure = None
        async with Client(build_server(Settings(home=folder, url=url, cache=cache))) as client:
            tour.client = client
            try:
                await _investigate(tour)
                await _act(tour)
                tour.title("The shop goes down: its process and its Conductor are killed")
                await upstream.aclose()
                await _ask_offline(tour)
            except DemoError as error:
                failure = error  # the client would wrap it into a group
        if failure is not None:
            raise failure
    program = [sys.executable, "-m", "dbos_mcp", "--offline", "--cache", str(cache.resolve())]
    tour.title("Read it as a page, or explore it with an agent")
    page = [*program, "report", FAILED_ORDER, "-o", str(folder.resolve() / "report.html")]
    console.print(shlex.join(page), markup=False)
    console.print(f"claude mcp add dbos-demo -- {shlex.join(program)}", markup=False)


async def _investigate(tour: "_Tour") -> None:
    with anyio.move_on_after(LOAD_SECONDS):
        # What it waits for shows in answers alone.
        while "loading" in await tour.ask("list_applications", quietly=True):  # noqa: ASYNC110
            await anyio.sleep(0.1)
    tour.title("What failed, and of what cause?")
    await tour.ask("list_applications")
    failures = await tour.ask("list_failures")
    require("quote_delivery" in failures, "the failures are not traced to their step")
    tour.title(f"Why did {FAILED_ORDER} fail, and what now? One question, three workflows deep")
    await _diagnose(tour)


async def _diagnose(tour: "_Tour") -> None:
    diagnosis = await tour.ask("diagnose_workflow", workflow_id=FAILED_ORDER)
    require("quote_delivery" in diagnosis, f"{FAILED_ORDER} is not explained by its failed step")


async def _act(tour: "_Tour") -> None:
    tour.title("Cancel, resume, fork: straight through, and kept in the history")
    await tour.ask("cancel_workflow", workflow_id="reconcile-1")
    await tour.ask("resume_workflow", workflow_id="reconcile-1")
    await tour.ask("fork_workflow", workflow_id=FAILED_ORDER, start_step=5)
    await tour.ask("get_workflow_history", workflow_id="reconcile-1")


async def _ask_offline(tour: "_Tour") -> None:
    with anyio.move_on_after(OFFLINE_SECONDS):
        # What it waits for shows in answers alone.
        while "offline since" not in await tour.ask("list_executors", quietly=True):  # noqa: ASYNC110
            await anyio.sleep(0.2)
    tour.title("The same questions, with nobody there to answer but the mirror")
    answer = await tour.ask("list_failures")
    require("offline since" in answer, "the mirror did not notice that the shop is away")
    await _diagnose(tour)
    await tour.ask("list_workflows", status="ERROR", has_parent=False)
    await tour.ask("get_workflow", workflow_id=FAILED_ORDER)
    tour.title("What no tool answers, SQL does")
    costs = await tour.ask("query_sql", sql=COSTS_OF_STEPS)
    require("quote_delivery" in costs, "the steps are not among what SQL reads")


class _Tour:
    """Asks as an agent does, and shows what an agent sees."""

    client: Client

    def __init__(self, console: Console) -> None:
        self.console = console
        self.chapter = 0

    def title(self, text: str) -> None:
        self.chapter += 1
        self.console.print(f"\n[bold]{self.chapter}. {escape(text)}[/bold]")

    def say(self, text: str) -> None:
        self.console.print(f"   {escape(text)}")

    async def ask(self, tool: str, *, quietly: bool = False, **arguments: object) -> str:
        if tool not in _OF_NO_APPLICATION:
            arguments = {"application_name": APPLICATION_NAME, **arguments}
        started = perf_counter()
        result = await self.client.call_tool(tool, dict(arguments))
        elapsed = (perf_counter() - started) * 1000
        text = "\n".join(part.text for part in result.content if isinstance(part, TextContent))
        if not quietly:
            given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
            size = f"{len(text.encode())} bytes, {elapsed:.0f} ms"
            self.console.print(f"\n[cyan]> {tool}({escape(given)})[/cyan] [dim]{size}[/dim]")
            self.console.print(text, markup=False)
        require(not result.is_error, text)
        return text


def require(condition: bool, what: str) -> None:
    if not condition:
        raise DemoError(f"The demo did not go as it should: {what}.")


@asynccontextmanager
async def running_shop(database: Path) -> AsyncIterator[Process]:
    """A shop process that has come to the end of its orders; killed on the way out."""
    command = ["-m", "dbos_mcp.demo.shop", "--system-database-url", f"sqlite:///{database}"]
    log = database.with_name("shop.log")
    async with _running(command, log) as process:
        assert process.stdout is not None
        try:
            with anyio.fail_after(START_SECONDS):
                line = await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 1000)
        except (TimeoutError, anyio.EndOfStream, anyio.IncompleteRead) as error:
            raise DemoError(f"The shop did not open; {log} says why.") from error
        require(line == b"ready", f"the shop said {line!r}")
        yield process


@asynccontextmanager
async def running_conductor(database: Path) -> AsyncIterator[str]:
    """A local Conductor process on a free port; its URL, once it can be reached."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["-m", "dbos_mcp", "local-conductor", "--app", APPLICATION_NAME]
    command += ["--port", str(port), "--system-database-url", f"sqlite:///{database}"]
    log = database.with_name("conductor.log")
    async with _running(command, log):
        try:
            with anyio.fail_after(START_SECONDS):
                while not await _accepts(port):  # noqa: ASYNC110 # another process
                    await anyio.sleep(0.05)
        except TimeoutError as error:
            raise DemoError(f"The local Conductor did not start; {log} says why.") from error
        yield f"http://127.0.0.1:{port}"


async def _accepts(port: int) -> bool:
    try:
        stream = await anyio.connect_tcp("127.0.0.1", port)
    except OSError:
        return False
    await stream.aclose()
    return True


@asynccontextmanager
async def _running(arguments: list[str], log: Path) -> AsyncIterator[Process]:
    """A process that writes its complaints into `log`; killed on the way out."""
    with log.open("wb") as complaints:
        process = await anyio.open_process(
            [sys.executable, *arguments], stderr=complaints, env=_without_dbos(os.environ)
        )
    try:
        yield process
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.aclose()


def _without_dbos(environ: Mapping[str, str]) -> dict[str, Any]:
    """The environment without settings that are meant for somebody's real application."""
    return {name: value for name, value in environ.items() if not name.startswith("DBOS")}
