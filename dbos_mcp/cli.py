"""The command line. The only module that prints: on stdio, stdout belongs to the protocol.

Exit codes, as dbosctl's: 1 it failed, 2 wrong usage, 3 a login is needed, 4 not found,
130 interrupted.
"""

import json
import logging
import os
import pydoc
import re
import shlex
import sys
import time
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.style import Style
from rich.table import Table
from rich.text import Text

from dbos_mcp import __version__, files
from dbos_mcp.conductor.device_login import DeviceLogin
from dbos_mcp.domain import format_duration, now_ms, tell_time
from dbos_mcp.errors import (
    DbosMcpError,
    LoginPendingError,
    NotFoundError,
    SqlTimeoutError,
    UnavailableError,
    UsageError,
)
from dbos_mcp.incident import selection
from dbos_mcp.incident.export import Exported
from dbos_mcp.incident.export import export as write_export
from dbos_mcp.inspection import sandbox
from dbos_mcp.inspection import schema as in_use
from dbos_mcp.inspection.datasette import metadata
from dbos_mcp.inspection.hints import caution
from dbos_mcp.login import Account, LoggedIn, LoginFlow, log_out, who_am_i
from dbos_mcp.queries.freshness import now_offline
from dbos_mcp.queries.sync_status import ApplicationSync, SyncStatus, sync_status
from dbos_mcp.runtime import Runtime, identity_of, locate_cache, open_runtime
from dbos_mcp.server import schema as told
from dbos_mcp.server.found import SqlFormat, written
from dbos_mcp.server.render import Column, fields, plain
from dbos_mcp.server.sync_status import columns as status_columns
from dbos_mcp.server.sync_status import status_text, who_syncs
from dbos_mcp.settings import LogLevel, Settings, Toolset, targets_from_env
from dbos_mcp.store import projector
from dbos_mcp.store.migrate import open_cache
from dbos_mcp.sync.leadership import Leadership
from dbos_mcp.sync.scheduler import SyncScheduler
from dbos_mcp.sync.spending import Spending
from dbos_mcp.sync.visit import ApplicationReport

if TYPE_CHECKING:
    from dbos_mcp.report.subjects import FailuresReport, WorkflowReport

logger = logging.getLogger(__name__)

app = typer.Typer(
    name="dbos-mcp",
    help="An MCP server for DBOS workflows, on a local mirror of DBOS Conductor. Without a command"
    " it serves MCP on stdin and stdout.",
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
SQL_CELL_CHARACTERS = 2_000_000
"""As long as a value can be: what programs get is whole."""
SQL_BYTES = 8_000_000

out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


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
def _until_interrupted(said: str = "") -> Iterator[None]:
    """Ctrl-C is a way to end, not a failure."""
    try:
        yield
    except KeyboardInterrupt:
        if said:
            err.print(said)
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


@dataclass(frozen=True)
class _Options:
    """Those before the command."""

    profiles: Sequence[str]
    flags: Mapping[str, Any]

    def targets(self, profile: str | None = None) -> tuple[Settings, ...]:
        """The settings of each target; a profile that the command itself was given wins."""
        profiles = self.profiles if profile is None else [profile]
        targets = targets_from_env(os.environ, profiles=profiles, **self.flags)
        _log_to_stderr(targets[0].log_level)
        return targets

    def target(self, profile: str | None = None) -> Settings:
        targets = self.targets(profile)
        if len(targets) > 1:
            names = ", ".join(str(target.profile) for target in targets)
            raise UsageError(
                "This is done for one profile at a time.",
                hint=f"Name it before the command, as `dbos-mcp --profile {targets[0].profile} …`:"
                f" one of {names}.",
            )
        return targets[0]


_OneProfile = Annotated[
    str | None, typer.Option("--profile", help="The profile of dbosctl's that says to what.")
]


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    profile: Annotated[
        list[str] | None,
        typer.Option(help="A profile of dbosctl's; several may be served, `all` is all of them."),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="The cache file (DBOS_MCP_CACHE).", dir_okay=False)
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Answer from the cache alone, send nothing.")
    ] = False,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Offer no command (DBOS_MCP_READ_ONLY).")
    ] = False,
    toolsets: Annotated[
        str | None,
        typer.Option(
            help=f"Which tools to offer (DBOS_MCP_TOOLSETS), with commas between: default, all,"
            f" {', '.join(Toolset)}."
        ),
    ] = None,
    log_level: Annotated[
        LogLevel | None, typer.Option(help="What goes to stderr (DBOS_MCP_LOG_LEVEL).")
    ] = None,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    flags = {
        "cache": cache,
        "offline": offline or None,
        "read_only": read_only or None,
        "toolsets": toolsets,
        "log_level": log_level,
    }
    options = context.obj = _Options(profile or (), flags)
    if context.invoked_subcommand is None:
        targets = options.targets()
        from dbos_mcp.server.app import build_server

        with _until_interrupted():
            build_server(*targets).run("stdio")


@app.command()
def login(
    context: typer.Context,
    profile: _OneProfile = None,
    browser: Annotated[
        bool, typer.Option("--browser", help="Open the address in a browser.")
    ] = False,
) -> None:
    """Log in to Conductor, by a code that is approved in a browser."""
    settings = context.obj.target(profile)
    with _until_interrupted("The login was given up."):
        done = anyio.run(_log_in, settings, browser)
    login = done.login
    who = plain(login.user_name or "a user")
    of = f" of {plain(login.organization)}" if login.organization else ""
    out.print(escape(f"Logged in as {who}{of}."))
    if login.refresh_token is not None:
        out.print("The login is renewed by itself.")
    elif login.ends_at is not None:
        out.print(f"The login is good until {tell_time(login.ends_at)}.")
    if done.problem is not None:
        _print_warning(f"{done.problem} Then `dbos-mcp whoami` asks again.")


async def _log_in(settings: Settings, browser: bool) -> LoggedIn:
    flow = LoginFlow(settings)
    device = await flow.begin()
    _show_code(device)
    # https, or on this machine: no other address comes out of `begin`.
    if browser and not webbrowser.open(device.url):
        _print_warning("No browser could be opened.")
    return await _approved(flow, device)


def _show_code(device: DeviceLogin) -> None:
    url = plain(device.url, limit=2000)
    seconds = device.expires_at - time.monotonic()
    out.print("Open this address in a browser, and check that it shows the same code:")
    out.print(Text.assemble("url: ", (url, Style(link=url))))
    code = plain(device.user_code)
    if out.is_terminal:
        out.print(Panel.fit(Text(code, "bold"), padding=(1, 4)), soft_wrap=False)
    else:
        out.print(escape(f"code: {code}"))
    until = f"{tell_time(int(time.time() + seconds))} ({_left(seconds)})"
    out.print(escape(fields([("host", device.host), ("valid until", until)])))


async def _approved(flow: LoginFlow, device: DeviceLogin) -> LoggedIn:
    """Wait for as long as the code is valid."""

    def waiting() -> str:
        left = _left(device.expires_at - time.monotonic())
        return f"Waiting for the approval, {left} left; Ctrl-C gives the login up."

    if not err.is_terminal or err.is_dumb_terminal:
        err.print(waiting())
    problem = ""
    with err.status(waiting()) as spinner:
        while True:
            try:
                return await flow.complete(timeout_seconds=1)
            except LoginPendingError:
                problem = ""
            except UnavailableError as error:
                if error.message != problem:
                    _print_warning(f"{error.message} The login is still valid.")
                problem = error.message
            spinner.update(waiting())


def _left(seconds: float) -> str:
    """`0:14:59`"""
    return str(timedelta(seconds=max(0, round(seconds))))


@app.command()
def logout(context: typer.Context, profile: _OneProfile = None) -> None:
    """Forget the login to Conductor; the mirror stays."""
    settings = context.obj.target(profile)
    with _until_interrupted():
        done = anyio.run(log_out, settings)
    if done.who is None:
        out.print(escape(f"Nobody is logged in to {plain(settings.address)}."))
        return
    organization = settings.organization or done.who.organization
    who = plain(done.who.user_name or "a user")
    of = f" of {plain(organization)}" if organization else ""
    out.print(escape(f"Logged out {who}{of}."))
    if done.borrowed:
        out.print("That login was made elsewhere: there it stays, and is not used here any more.")
    elif done.revoked:
        out.print("The login server has ended the login, too.")
    else:
        until = f" at {tell_time(done.who.ends_at)}" if done.who.ends_at else " by itself"
        out.print(f"The login server has not ended the login: its token ends{until}.")
    if organization and (path := settings.cache_path(organization)).exists():
        out.print(escape(f"The mirror stays, and can still be read: {path}"))


@app.command()
def whoami(
    context: typer.Context,
    profile: _OneProfile = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show who one is to Conductor, what one may, and until when."""
    settings = context.obj.target(profile)
    with _until_interrupted():
        account = anyio.run(who_am_i, settings)
    told = _account_fields(account)
    if as_json:
        known = {"checked": account.checked, "error": account.error and str(account.error)}
        typer.echo(json.dumps({**told, **known, "warnings": account.warnings}, indent=2))
    else:
        lines = [
            (name.replace("_", " "), ", ".join(value) if isinstance(value, list) else value)
            for name, value in told.items()
        ]
        out.print(escape(fields(lines)))
    for warning in account.warnings:
        _print_warning(warning)
    if account.error is not None:
        raise account.error


def _account_fields(account: Account) -> dict[str, Any]:
    user = account.user
    role = None if user is None else user.role
    return {
        "profile": account.profile,
        "conductor": account.url,
        "organization": account.organization,
        "user": user and user.name,
        "email": user and user.email,
        "role": role and role.name,
        "permissions": role and role.permissions,
        "plan": user and user.subscription_plan,
        "authentication": account.authentication,
        "ends_at": account.ends_at and tell_time(account.ends_at),
    }


@app.command()
def sync(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C.")] = False,
) -> None:
    """Mirror Conductor into the cache, once."""
    settings = context.obj.target()
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


def _print_warning(text: str) -> None:
    err.print(escape(plain(f"Warning: {text}", limit=2000)))


@app.command()
def status(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show how syncing goes, from the cache file alone."""
    path = _existing_cache(context.obj.target())
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
    cache = open_cache(_existing_cache(context.obj.target()))
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


@app.command()
def export(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The file to make.", dir_okay=False)],
    workflow: Annotated[
        str | None, typer.Option(metavar="ID", help="It, and what belongs to it.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="What happened since: -24h, or ISO 8601 with a zone."),
    ] = None,
    application: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of this application only.")
    ] = None,
    with_payloads: Annotated[
        bool,
        typer.Option("--with-payloads", help="Also inputs and outputs, where they are mirrored."),
    ] = False,
    redact_users: Annotated[
        bool, typer.Option("--redact-users", help="Without names of users and e-mail addresses.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Workflows at the most.")] = selection.LIMIT,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write an incident file: part of the mirror, without secrets, for a colleague's agent."""
    if (workflow is None) == (since is None):
        raise UsageError(
            "Say what to export.", hint="Either --workflow ID, or --since TIME, as --since -24h."
        )
    from dbos_mcp.server.tools import arguments

    now = now_ms()
    settings = context.obj.target()
    cache = open_cache(_existing_cache(settings), writable=False)
    try:
        with (
            _until_interrupted("Nothing was written."),
            err.status("Exporting…"),
            cache.read() as connection,
        ):
            seen = now_offline(connection, application, now=now) if settings.offline else now
            began = arguments.time("--since", since, now=seen)
            if workflow is not None:
                chosen = selection.select_workflow(connection, application, workflow, limit=limit)
            else:
                chosen = selection.select_since(connection, application, began or now, limit=limit)
            done = write_export(
                connection,
                chosen,
                file,
                now=now,
                with_payloads=with_payloads,
                redact_users=redact_users,
                force=force,
            )
    finally:
        cache.close()
    _print_exported(done)


def _print_exported(done: Exported) -> None:
    excerpt = done.excerpt
    parts = ", ".join(f"{count} {reason}" for reason, count in done.parts.items() if count)
    redacted = _redacted(done.redacted)
    lines = [
        ("file", f"{done.path}, {_size(done.bytes)}"),
        ("holds", excerpt.subject),
        (
            "workflows",
            f"{excerpt.workflows} of {excerpt.of_workflows}: {parts};"
            f" {done.events} events, {done.steps} steps",
        ),
        ("left out", "; ".join(excerpt.left_out)),
        ("payloads", "inputs and outputs, as far as mirrored" if excerpt.payloads else "none"),
        ("redacted", redacted or "nothing was found; errors, ids and names are in it as they are"),
        ("open it", f"dbos-mcp --offline --cache {shlex.quote(str(done.path))}"),
    ]
    out.print(escape(fields(lines, limit=2000)))


def _redacted(found: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))


def _size(count: int) -> str:
    return f"{count / 1000:.0f} KB" if count < 1e6 else f"{count / 1e6:.1f} MB"


class ReportFormat(StrEnum):
    HTML = "html"
    MD = "md"


@app.command()
def report(
    context: typer.Context,
    workflow_id: Annotated[
        str | None, typer.Argument(metavar="[WORKFLOW_ID]", help="On this workflow.")
    ] = None,
    failures: Annotated[
        bool, typer.Option("--failures", help="On what failed, grouped by its cause.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="With --failures: 24h, or ISO 8601 with a zone."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="With --failures; left out, it is now.")
    ] = None,
    application: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of this application.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The file to make; - is stdout.", dir_okay=False
        ),
    ] = None,
    form: Annotated[
        ReportFormat | None, typer.Option("--format", help="Left out, the file's name says it.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a report on a workflow, or on failures: one page that needs nothing but itself, or
    Markdown. Without secrets."""
    if (workflow_id is None) != failures:
        raise UsageError(
            "Say what to report on.",
            hint="Either WORKFLOW_ID, or --failures and a time, as --failures --since 24h.",
        )
    if workflow_id is not None and (since or until):
        raise UsageError(
            "A report on one workflow tells all of it: --since and --until do not fit."
        )
    from dbos_mcp.server import reports

    now = now_ms()
    settings = context.obj.target()
    if failures:
        _existing_cache(settings)
    else:
        _cache_file(settings)  # that nobody is logged in is told where Conductor is asked
    if form is None:
        form = ReportFormat.MD if output and output.suffix == ".md" else ReportFormat.HTML
    path = output or Path(reports.file_name(workflow_id, now=now, suffix=form))
    to_stdout = str(path) == "-"
    if not (force or to_stdout):
        files.require_free(path)
    with _until_interrupted("Nothing was written."), err.status("Looking…"):
        made = anyio.run(
            partial(
                _read_report, settings, workflow_id, application, since=since, until=until, now=now
            )
        )
        text = reports.rendered(made, form)
        if to_stdout:
            typer.echo(text.encode(), nl=False)
        else:
            size = files.write(path, text, force=force)
    for warning in made.source.warnings:
        _print_warning(warning)
    if not to_stdout:
        lines = [
            ("file", f"{path}, {_size(size)}"),
            ("tells", made.title),
            ("redacted", _redacted(made.source.redacted) or "nothing was found"),
        ]
        out.print(escape(fields(lines, limit=2000)))


async def _read_report(
    settings: Settings,
    workflow_id: str | None,
    application: str | None,
    *,
    since: str | None,
    until: str | None,
    now: int,
) -> "WorkflowReport | FailuresReport":
    from dbos_mcp.server import reports

    async with open_runtime(settings) as runtime:
        if workflow_id is None:
            return await reports.report_on_failures(runtime, application, since, until, now=now)
        return await reports.report_on_workflow(runtime, application, workflow_id)


@app.command()
def sql(
    context: typer.Context,
    statement: Annotated[str, typer.Argument(help="One SELECT; - is stdin.")],
    form: Annotated[SqlFormat, typer.Option("--format", help="How rows are told.")] = (
        SqlFormat.TABLE
    ),
    param: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="For :NAME; repeat for more. 5 and 1.5 are numbers; 05 and 1.50 are text.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The most rows.")] = 1000,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=600, metavar="SECONDS", help="How long it may take.")
    ] = sandbox.SECONDS,
) -> None:
    """Run one SELECT over the mirror's views, which `dbos-mcp schema` tells."""
    text = _stdin() if statement == "-" else statement
    parameters = _parameters(param or [])
    cache = open_cache(_existing_cache(context.obj.target()), writable=False)
    box = sandbox.Sandbox(cache.read_uri, seconds=timeout)
    try:
        with _until_interrupted(), err.status("Looking…"):
            found = box.run(
                text,
                parameters,
                rows=limit,
                cell_characters=SQL_CELL_CHARACTERS,
                total_bytes=SQL_BYTES,
            )
    except SqlTimeoutError as error:
        error.hint = f"{error.hint} Or give it longer, with --timeout SECONDS."
        raise
    finally:
        box.close()
        cache.close()
    _show(written(found, form, terminal=out.width if out.is_terminal else None))
    if mind := caution(text, parameters):
        _print_warning(mind)
    if found.more:
        cut = f"cut at {_size(SQL_BYTES)}: select less"
        if len(found.rows) == limit:
            cut = "--limit takes more"
        _print_warning(f"{len(found.rows)} of {found.counted}; {cut}.")
    elif out.is_terminal and err.is_terminal:
        err.print(f"{found.counted}, {format_duration(round(found.ms))}")


def _stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError("The statement on stdin is not UTF-8.") from error


def _show(text: str) -> None:
    """Through $PAGER where it is longer than the terminal."""
    if out.is_terminal and text.count("\n") >= out.height:
        pydoc.pager(text)
    else:
        typer.echo(text.encode(), nl=False)  # bytes are left as they are


def _parameters(given: Sequence[str]) -> dict[str, sandbox.Parameter]:
    parameters: dict[str, sandbox.Parameter] = {}
    for each in given:
        name, equals, value = each.partition("=")
        name = name.removeprefix(":")
        if not (name and equals):
            raise UsageError(f"--param {each!r} is not NAME=VALUE.")
        if name in parameters:
            raise UsageError(f"--param {name!r} is given twice.")
        parameters[name] = _value(value)
    return parameters


def _value(text: str) -> sandbox.Parameter:
    """A number where it would be written just so: an id like 0012 and a version like 3.10 are not.
    SQLite compares either with a column as the column's type has it, but not with a result."""
    if re.fullmatch(r"-?\d{1,19}", text) and str(number := int(text)) == text:
        return number if -(2**63) <= number < 2**63 else text
    if re.fullmatch(r"-?\d{1,300}\.\d+", text) and str(real := float(text)) == text:
        return real
    return text


@app.command()
def schema(
    context: typer.Context,
    view: Annotated[
        str | None, typer.Argument(metavar="[VIEW]", help="What its columns mean.")
    ] = None,
    datasette: Annotated[
        bool, typer.Option("--datasette", help="The same as metadata for Datasette.")
    ] = False,
) -> None:
    """Show the views for `dbos-mcp sql`, what they hold, and statements to begin with."""
    asked = None if view is None else told.view_named(view)
    path = _existing_cache(context.obj.target())
    if datasette:
        typer.echo(json.dumps(metadata(path), indent=2))
        return
    cache = open_cache(path, writable=False)
    try:
        with cache.read() as connection:
            lines = (
                told.overview(in_use.views(connection))
                if asked is None
                else told.detail(in_use.in_use(connection, asked))
            )
    finally:
        cache.close()
    typer.echo("\n".join(lines))


def _existing_cache(settings: Settings) -> Path:
    """The file; it is read with a login or without, but without one it only grows older."""
    path = _cache_file(settings)
    if not settings.offline:
        try:
            identity_of(settings).current()
        except DbosMcpError as error:
            _print_warning(f"The mirror is not kept up to date. {error}")
    return path


def _cache_file(settings: Settings) -> Path:
    path = locate_cache(settings)
    if not path.exists():
        raise NotFoundError(f"There is no cache at {path}.", hint="`dbos-mcp sync` makes one.")
    return path


@app.command("local-conductor")
def local_conductor(
    context: typer.Context,
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

    context.obj.targets()
    err.print(f"The Conductor API is at http://127.0.0.1:{port} (DBOS_URL); Ctrl-C ends it.")
    with _until_interrupted():
        serve(SystemDatabase(system_database_url, application or []), port=port)


@app.command()
def demo(
    context: typer.Context,
    keep: Annotated[
        Path | None, typer.Option(help="Keep the demo's cache in this folder.", file_okay=False)
    ] = None,
) -> None:
    """Run a shop of real workflows, mirror it, break it, and ask what happened. Takes a minute."""
    from dbos_mcp.demo.tour import run_tour

    context.obj.targets()
    with _until_interrupted():
        anyio.run(run_tour, out, keep)
