"""`sync` and `status`: the mirror, and how it goes."""

import json
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from dbos_mcp.cli.options import AsJson, existing_cache
from dbos_mcp.cli.terminal import err, out, print_error, say, until_interrupted
from dbos_mcp.cli.words import of_the_command_line
from dbos_mcp.domain import CONDUCTOR, counted, now_ms, plain
from dbos_mcp.errors import DbosMcpError, UsageError

if TYPE_CHECKING:
    from anyio import CancelScope
    from rich.console import RenderableType

    from dbos_mcp.queries.sync_status import ApplicationSync, SyncStatus
    from dbos_mcp.runtime import Runtime
    from dbos_mcp.server.render import Column
    from dbos_mcp.settings import Settings
    from dbos_mcp.sync.scheduler import SyncScheduler
    from dbos_mcp.sync.visit import ApplicationReport


def sync(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C, or SIGTERM.")] = False,
) -> None:
    """Mirror Conductor into the cache, once.

    A server syncs while it runs, so this is for a mirror that is to be fresh without one: once, or
    with --watch for as long as it runs. The first time it reads the last 30 days, newest first;
    DBOS_MCP_HISTORY says how many.
    """
    import anyio

    settings = context.obj.target()
    if settings.offline:
        raise UsageError("sync and --offline do not go together.")
    with until_interrupted():
        sys.exit(anyio.run(_watch if watch else _sync_once, settings))


async def _sync_once(settings: "Settings") -> int:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from dbos_mcp.runtime import open_runtime
    from dbos_mcp.sync.spending import Spending

    async with open_runtime(settings) as runtime:
        worker = runtime.require_live().worker
        if err.is_interactive:
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
        say(f"Cache: {runtime.cache.path}")
    return max((report.error.exit_code for report in reports if report.error), default=0)


async def _watch(settings: "Settings") -> int:
    import anyio

    from dbos_mcp.runtime import open_runtime
    from dbos_mcp.sync.scheduler import SyncScheduler
    from dbos_mcp.sync.visit import ApplicationReport

    this_run: dict[str, ApplicationReport] = {}

    def add(outcome: "list[ApplicationReport] | DbosMcpError") -> None:
        for report in outcome if isinstance(outcome, list) else ():
            name = report.application_name
            this_run.setdefault(name, ApplicationReport(name)).add(report)

    async with open_runtime(settings) as runtime:
        seen = out.is_interactive
        looked = anyio.Event()
        scheduler = SyncScheduler(
            runtime.require_live().worker,
            watched=seen,
            awake=not seen,
            on_cycle=add if seen else Journal().tell,
            on_look=lambda: looked.set(),
        )
        scheduler.start()
        say(f"Mirroring into {runtime.cache.path}; Ctrl-C ends it.")
        try:
            with anyio.CancelScope() as going:
                with _ended_by_sigterm(going):
                    if seen:
                        await _show_live(runtime, scheduler, this_run)
                    while runtime.cache.notice is None:
                        await looked.wait()
                        looked = anyio.Event()
            # Damaged, or a newer version's: whoever starts it again may be that one.
            if runtime.cache.notice is not None:
                runtime.require_live()
        finally:
            with anyio.CancelScope(shield=True):
                await scheduler.stop()
    return 0


@contextmanager
def _ended_by_sigterm(scope: "CancelScope") -> Iterator[None]:
    """As a service is ended: in order, and well."""
    if sys.platform == "win32":  # where a process is not asked
        yield
        return
    import asyncio

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, scope.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


class Journal:
    """What a log is told: each application once, and then what goes wrong, and when that ends; not
    each look."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._wrong: dict[str, type[DbosMcpError]] = {}
        """By application; `CONDUCTOR` is all of them."""

    def tell(self, outcome: "list[ApplicationReport] | DbosMcpError") -> None:
        if isinstance(outcome, DbosMcpError):
            self._note(CONDUCTOR, "Conductor", outcome)
            return
        self._note(CONDUCTOR, "Conductor", None)
        for report in outcome:
            name = report.application_name
            if name not in self._known and report.error is None:
                self._known.add(name)
                _print_reports([report])
            self._note(name, name, report.error)

    def _note(self, key: str, shown: str, error: DbosMcpError | None) -> None:
        before = self._wrong.pop(key, None)
        if error is not None:
            self._wrong[key] = type(error)
            if type(error) is not before:
                text = of_the_command_line(str(error))
                print_error(text if key == CONDUCTOR else f"{shown}: {text}")
        elif before is not None:
            say(f"{shown}: all is well again.")


async def _show_live(
    runtime: "Runtime", scheduler: "SyncScheduler", this_run: "Mapping[str, ApplicationReport]"
) -> None:
    """What the cache says, every second, with what this run has seen."""
    import anyio
    from rich.live import Live

    from dbos_mcp.queries.sync_status import sync_status
    from dbos_mcp.server.sync_status import who_syncs
    from dbos_mcp.sync.visit import ApplicationReport

    def of_this_run(item: "ApplicationSync") -> ApplicationReport:
        return this_run.get(item.application_name) or ApplicationReport(item.application_name)

    more: list[Column[ApplicationSync]] = [
        ("seen", lambda item: str(of_this_run(item).workflows_seen)),
        ("events", lambda item: str(of_this_run(item).events)),
    ]
    with Live(console=out, auto_refresh=False) as live:
        while runtime.cache.notice is None:
            status = await runtime.read(partial(sync_status, now=now_ms()))
            syncing = who_syncs(scheduler.leadership)
            live.update(_status_shown(status, syncing=syncing, more=more), refresh=True)
            await anyio.sleep(1)


def _print_reports(reports: "list[ApplicationReport]") -> None:
    for report in reports:
        seen, events = counted(report.workflows_seen, "workflow"), counted(report.events, "event")
        say(f"{plain(report.application_name)}: {seen} seen, {events}")
        if report.error is not None:
            print_error(of_the_command_line(str(report.error)))


def status(
    context: typer.Context,
    as_json: AsJson = False,
) -> None:
    """Show how syncing goes, from the cache file alone.

    Of each application: how complete and how old its mirror is, what it cost, and the last error.
    Conductor is not asked: `dbos-mcp sync` does that.
    """
    from dbos_mcp.queries.sync_status import sync_status
    from dbos_mcp.server.sync_status import redacted_line, status_text, who_syncs
    from dbos_mcp.store.migrate import open_cache
    from dbos_mcp.sync.leadership import Leadership

    path = existing_cache(context.obj.target())
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
        out.print(_status_shown(found, syncing=syncing), soft_wrap=False)
        for line in filter(None, map(redacted_line, found.applications)):
            say(line)
        say(f"Cache: {path}, {counted(found.events, 'event')}")
    else:
        say(of_the_command_line(status_text(found, cache=path, syncing=syncing)))


def _status_shown(
    found: "SyncStatus", *, syncing: str, more: "Sequence[Column[ApplicationSync]]" = ()
) -> "RenderableType":
    """The columns that hold something, `more` of them before the last."""
    from rich.text import Text

    from dbos_mcp.cli.tables import shown
    from dbos_mcp.server.sync_status import columns as status_columns

    title = f"{counted(len(found.applications), 'application')}, synced by {syncing}"
    if not found.applications:
        return Text(f"{title}\nNone is registered, or none has been seen yet.")
    reason = found.conductor.last_error
    caption = Text(plain(of_the_command_line(reason), limit=500)) if reason else None
    *columns, last = status_columns(now=now_ms(), syncing=syncing)
    held: dict[str, list[str]] = {}
    for heading, read in (*columns, *more, last):
        cells = [plain(read(item), limit=200) for item in found.applications]
        if any(cells):
            held[heading.replace("_", " ")] = cells
    return shown(title, held, caption=caption)
