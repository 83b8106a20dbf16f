"""`sync` and `status`: the mirror, and how it goes."""

import asyncio
import json
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Annotated

import anyio
import typer
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from dbos_mcp.cli.options import existing_cache
from dbos_mcp.cli.terminal import err, out, print_error, until_interrupted
from dbos_mcp.domain import now_ms
from dbos_mcp.errors import DbosMcpError, UsageError
from dbos_mcp.queries.sync_status import ApplicationSync, SyncStatus, sync_status
from dbos_mcp.runtime import Runtime, open_runtime
from dbos_mcp.server.render import Column, plain
from dbos_mcp.server.sync_status import columns as status_columns
from dbos_mcp.server.sync_status import redacted_line, status_text, who_syncs
from dbos_mcp.settings import Settings
from dbos_mcp.store.migrate import open_cache
from dbos_mcp.store.sync_state import CONDUCTOR
from dbos_mcp.sync.leadership import Leadership
from dbos_mcp.sync.scheduler import SyncScheduler
from dbos_mcp.sync.spending import Spending
from dbos_mcp.sync.visit import ApplicationReport


def sync(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C, or SIGTERM.")] = False,
) -> None:
    """Mirror Conductor into the cache, once."""
    settings = context.obj.target()
    if settings.offline:
        raise UsageError("sync and --offline do not go together.")
    with until_interrupted():
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

    async with open_runtime(settings) as runtime:
        seen = out.is_terminal
        looked = anyio.Event()
        scheduler = SyncScheduler(
            runtime.require_live().worker,
            watched=seen,
            awake=not seen,
            on_cycle=add if seen else Journal().tell,
            on_look=lambda: looked.set(),
        )
        scheduler.start()
        out.print(f"Mirroring into {escape(str(runtime.cache.path))}; Ctrl-C ends it.")
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
def _ended_by_sigterm(scope: anyio.CancelScope) -> Iterator[None]:
    """As a service is ended: in order, and well."""
    if sys.platform == "win32":  # where a process is not asked
        yield
        return
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
        name = escape(plain(shown))
        if error is not None:
            self._wrong[key] = type(error)
            if type(error) is not before:
                print_error(str(error) if key == CONDUCTOR else f"{plain(shown)}: {error}")
        elif before is not None:
            out.print(f"{name}: all is well again.")


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
        while runtime.cache.notice is None:
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
            print_error(str(report.error))


def status(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show how syncing goes, from the cache file alone."""
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
        out.print(_status_table(found, syncing=syncing), soft_wrap=False)
        for line in filter(None, map(redacted_line, found.applications)):
            out.print(escape(line))
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
