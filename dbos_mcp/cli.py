"""The command line. The only module that prints: on stdio, stdout belongs to the protocol.

Exit codes, as dbosctl's: 1 it failed, 2 wrong usage, 3 a login is needed, 4 not found,
130 interrupted.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from dbos_mcp import __version__
from dbos_mcp.domain import now_ms
from dbos_mcp.errors import DbosMcpError, NotFoundError, UsageError
from dbos_mcp.queries.sync_status import ApplicationSync, SyncStatus, sync_status
from dbos_mcp.runtime import Runtime, locate_cache, open_runtime
from dbos_mcp.server.render import Column, plain
from dbos_mcp.server.sync_status import columns as status_columns
from dbos_mcp.server.sync_status import status_text, who_syncs
from dbos_mcp.settings import LogLevel, Settings
from dbos_mcp.store import projector
from dbos_mcp.store.migrate import open_cache
from dbos_mcp.sync.leadership import Leadership
from dbos_mcp.sync.scheduler import SyncScheduler
from dbos_mcp.sync.spending import Spending
from dbos_mcp.sync.visit import ApplicationReport

logger = logging.getLogger(__name__)

app = typer.Typer(
    name="dbos-mcp",
    help="An MCP server for DBOS workflows, on a local mirror of DBOS Conductor. Without a command"
    " it serves MCP on stdin and stdout.",
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def main() -> None:
    """The program's entry point: runs a command, and turns errors into messages and exit codes."""
    try:
        app(standalone_mode=True)
    except DbosMcpError as error:
        _print_error(error.message)
        if error.hint:
            err.print(escape(plain(error.hint, limit=2000)))
        sys.exit(error.exit_code)


@contextmanager
def _until_interrupted() -> Iterator[None]:
    """Ctrl-C is a way to end, not a failure."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)


class _JsonLines(logging.Formatter):
    """One JSON object a line, so that no message can pose as another."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=True)


def _log_to_stderr(level: LogLevel) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "apscheduler", "alembic", "filelock", "dbos"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"dbos-mcp {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    cache: Annotated[
        Path | None, typer.Option(help="The cache file (DBOS_MCP_CACHE).", dir_okay=False)
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Answer from the cache alone, send nothing.")
    ] = False,
    log_level: Annotated[
        LogLevel | None, typer.Option(help="What goes to stderr (DBOS_MCP_LOG_LEVEL).")
    ] = None,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    settings = Settings.from_env(
        os.environ, cache=cache, offline=offline or None, log_level=log_level
    )
    _log_to_stderr(settings.log_level)
    context.obj = settings
    if context.invoked_subcommand is None:
        from dbos_mcp.server.app import build_server

        with _until_interrupted():
            build_server(settings).run("stdio")


@app.command()
def sync(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C.")] = False,
) -> None:
    """Mirror Conductor into the cache, once."""
    settings: Settings = context.obj
    if settings.offline:
        raise UsageError("sync and --offline do not go together.")
    with _until_interrupted():
        sys.exit(anyio.run(_watch if watch else _sync_once, settings))


async def _sync_once(settings: Settings) -> int:
    async with open_runtime(settings) as runtime:
        worker = runtime.require_live().worker
        if err.is_terminal:
            with Progress(
                SpinnerColumn(),
                BarColumn(bar_width=20),
                TextColumn("{task.description}", markup=False),
                TextColumn("{task.completed} workflows"),
                TimeElapsedColumn(),
                console=err,
                transient=True,
            ) as bar:
                task = bar.add_task("applications", total=None)

                def show(application_name: str, subject: str, count: int) -> None:
                    description = f"{plain(application_name)}: {subject}"
                    bar.update(task, description=description, completed=count)

                reports = await worker.run_until_read(show)
        else:
            reports = await worker.run_until_read()
        await Spending(worker.mirror).save()
        _print_reports(reports)
        out.print(f"Cache: {escape(str(runtime.cache.path))}")
    return max((report.error.exit_code for report in reports if report.error), default=0)


async def _watch(settings: Settings) -> int:
    this_run: dict[str, ApplicationReport] = {}

    def add(outcome: "list[ApplicationReport] | DbosMcpError") -> None:
        for report in outcome if isinstance(outcome, list) else ():
            name = report.application_name
            this_run.setdefault(name, ApplicationReport(name)).add(report)

    def tell(outcome: "list[ApplicationReport] | DbosMcpError") -> None:
        if isinstance(outcome, DbosMcpError):
            _print_error(str(outcome))
        else:
            _print_reports([r for r in outcome if r.events or r.error])

    async with open_runtime(settings) as runtime:
        scheduler = SyncScheduler(
            runtime.require_live().worker, watched=True, on_cycle=add if out.is_terminal else tell
        )
        scheduler.start()
        out.print(f"Mirroring into {escape(str(runtime.cache.path))}; Ctrl-C ends it.")
        try:
            if out.is_terminal:
                await _show_live(runtime, scheduler, this_run)
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await scheduler.stop()
    return 0


async def _show_live(
    runtime: Runtime, scheduler: SyncScheduler, this_run: Mapping[str, ApplicationReport]
) -> None:
    """What the cache says, every second, with what this run has seen."""

    def of_this_run(item: ApplicationSync) -> ApplicationReport:
        return this_run.get(item.application_name) or ApplicationReport(item.application_name)

    more: list[Column[ApplicationSync]] = [
        ("seen", lambda item: str(of_this_run(item).workflows_seen)),
        ("events", lambda item: str(of_this_run(item).events)),
    ]
    with Live(console=out, auto_refresh=False) as live:
        while True:
            status = await runtime.read(partial(sync_status, now=now_ms()))
            syncing = who_syncs(scheduler.leadership)
            live.update(_status_table(status, syncing=syncing, more=more), refresh=True)
            await anyio.sleep(1)


def _print_reports(reports: list[ApplicationReport]) -> None:
    for report in reports:
        out.print(
            escape(plain(report.application_name))
            + f": {report.workflows_seen} workflows seen, {report.events} events"
        )
        if report.error is not None:
            _print_error(str(report.error))


def _print_error(text: str) -> None:
    err.print(escape(plain(f"Error: {text}", limit=2000)))


@app.command()
def status(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show how syncing goes, from the cache file alone."""
    path = _existing_cache(context.obj)
    cache = open_cache(path, writable=False)
    try:
        with cache.read() as connection:
            found = sync_status(connection, now=now_ms())
    finally:
        cache.close()
    syncing = who_syncs(Leadership(path))
    if as_json:
        content = {"cache": str(path), "synced_by": syncing, **found.model_dump(mode="json")}
        typer.echo(json.dumps(content, indent=2))
    elif out.is_terminal:
        out.print(_status_table(found, syncing=syncing), soft_wrap=False)
        out.print(f"Cache: {escape(str(path))}, {found.events} events")
    else:
        out.print(escape(status_text(found, cache=path, syncing=syncing)))


def _status_table(
    found: SyncStatus, *, syncing: str, more: Sequence[Column[ApplicationSync]] = ()
) -> Table:
    """The columns that hold something, `more` of them before the last."""
    reason = found.conductor.last_error
    shown = Table(
        title=f"{len(found.applications)} applications, synced by {syncing}",
        caption=Text(plain(reason, limit=500)) if reason else None,
    )
    *columns, last = status_columns(now=now_ms(), syncing=syncing)
    held = []
    for heading, read in (*columns, *more, last):
        cells = [plain(read(item), limit=200) for item in found.applications]
        if any(cells):
            held.append((heading, cells))
    for heading, _ in held:
        shown.add_column(heading.replace("_", " "))
    for row in zip(*(cells for _, cells in held), strict=True):
        shown.add_row(*map(Text, row))
    return shown


@app.command()
def rebuild(context: typer.Context) -> None:
    """Fold the read models from the event log again, and say whether they came out equal."""
    cache = open_cache(_existing_cache(context.obj))
    try:
        with cache.write() as connection:
            tables = projector.rebuild(connection)
    finally:
        cache.close()
    for table in tables:
        verdict = "equal to the live ones" if table.equal else "DIFFERENT from the live ones"
        out.print(f"{table.table}: {table.rows} rows, {verdict}")
    if not all(table.equal for table in tables):
        err.print("The rebuilt rows are kept: the log is the truth. Please report this.")
        sys.exit(1)


def _existing_cache(settings: Settings) -> Path:
    path = locate_cache(settings)
    if not path.exists():
        raise NotFoundError(f"There is no cache at {path}.", hint="`dbos-mcp sync` makes one.")
    return path


@app.command("local-conductor")
def local_conductor(
    system_database_url: Annotated[
        str, typer.Option(help="sqlite:///… or postgresql://…", envvar="DBOS_SYSTEM_DATABASE_URL")
    ],
    application: Annotated[
        list[str] | None, typer.Option("--app", help="The application to show; may be repeated.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8090,
) -> None:
    """Serve the Conductor API on loopback, in front of a DBOS system database."""
    from dbos_mcp.local_conductor.app import serve
    from dbos_mcp.local_conductor.system_database import SystemDatabase

    err.print(f"The Conductor API is at http://127.0.0.1:{port} (DBOS_URL); Ctrl-C ends it.")
    with _until_interrupted():
        serve(SystemDatabase(system_database_url, application or []), port=port)


@app.command()
def demo(
    keep: Annotated[
        Path | None, typer.Option(help="Keep the demo's cache in this folder.", file_okay=False)
    ] = None,
) -> None:
    """Run a shop of real workflows, mirror it, break it, and ask what happened. Takes a minute."""
    from dbos_mcp.demo.tour import run_tour

    with _until_interrupted():
        anyio.run(run_tour, out, keep)
