"""The command line. Its modules alone print: on stdio, stdout belongs to the protocol.

Exit codes, as dbosctl's: 1 it failed, 2 wrong usage, 3 a login is needed, 4 not found,
130 interrupted.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from dbos_mcp import __version__
from dbos_mcp.cli import account, cache, export, install, local, report, sql, sync, token
from dbos_mcp.cli.options import Options
from dbos_mcp.cli.serve import serve, serve_stdio
from dbos_mcp.cli.terminal import err, out, print_error
from dbos_mcp.errors import DbosMcpError
from dbos_mcp.server.render import plain
from dbos_mcp.settings import LogLevel, Toolset

app = typer.Typer(
    name="dbos-mcp",
    help="An MCP server for DBOS workflows, on a local mirror of DBOS Conductor. Without a command"
    " it serves MCP on stdin and stdout.",
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """The program's entry point: runs a command, and turns errors into messages and exit codes."""
    try:
        app(standalone_mode=True)
    except DbosMcpError as error:
        print_error(error.message)
        if error.hint:
            err.print(escape(plain(error.hint, limit=2000)))
        sys.exit(error.exit_code)


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"dbos-mcp {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def without_command(
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
    options = context.obj = Options(profile or (), flags)
    if context.invoked_subcommand is None:
        serve_stdio(options.targets())


for command in (
    serve,
    account.login,
    account.logout,
    account.whoami,
    sync.sync,
    sync.status,
    cache.rebuild,
    export.export,
    report.report,
    sql.sql,
    sql.schema,
):
    app.command()(command)
app.add_typer(token.app, name="token")
app.add_typer(cache.app, name="cache")
app.command("local-conductor")(local.local_conductor)
app.command()(local.demo)
app.add_typer(install.app, name="install")
