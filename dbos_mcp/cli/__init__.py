"""The command line. Its modules alone print: on stdio, stdout belongs to the protocol.

Exit codes, as dbosctl's: 1 it failed, 2 wrong usage, 3 a login is needed, 4 not found,
130 interrupted.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer._completion_classes import completion_init

from dbos_mcp import __version__
from dbos_mcp.cli.completion import (
    COMPLETE,
    PROGRAM,
    Shell,
    install,
    profile_names,
    show,
    toolset_names,
)
from dbos_mcp.cli.ending import code_of, flush
from dbos_mcp.cli.help import PARTS, Commands
from dbos_mcp.cli.registered import Registered, group_of
from dbos_mcp.cli.terminal import out, show_all_characters
from dbos_mcp.domain import LogLevel

FIRST, QUESTIONS, MIRROR, SERVER, OTHERS = PARTS

COMMANDS = (
    Registered("serve", "serve:serve", SERVER, "dbos-mcp --read-only serve --http --port 8321"),
    Registered("login", "account:login", FIRST, "dbos-mcp login --browser"),
    Registered("logout", "account:logout", FIRST, "dbos-mcp logout --profile staging"),
    Registered("whoami", "account:whoami", FIRST, "dbos-mcp whoami --json"),
    Registered("sync", "sync:sync", MIRROR, "dbos-mcp sync --watch"),
    Registered("status", "sync:status", MIRROR, "dbos-mcp status --json"),
    Registered("rebuild", "cache:rebuild", MIRROR, "dbos-mcp rebuild"),
    Registered(
        "export",
        "export:export",
        QUESTIONS,
        "dbos-mcp export --workflow order-1005 incident.sqlite",
    ),
    Registered(
        "report", "report:report", QUESTIONS, "dbos-mcp report --failures --since 24h -o night.html"
    ),
    Registered(
        "sql",
        "sql:sql",
        QUESTIONS,
        'dbos-mcp sql "SELECT * FROM failures WHERE workflow_name = :name"'
        " --param name=place_order --format csv",
    ),
    Registered("schema", "sql:schema", QUESTIONS, "dbos-mcp schema failures"),
    Registered(
        "local-conductor",
        "local:local_conductor",
        SERVER,
        "dbos-mcp local-conductor --system-database-url sqlite:///shop.sqlite",
    ),
    Registered("demo", "local:demo", FIRST, "dbos-mcp demo --keep shop"),
    Registered("doctor", "doctor:doctor", FIRST, "dbos-mcp doctor --json"),
    Registered("token", "token:app", SERVER, "dbos-mcp token create alice --expires 30d"),
    Registered("cache", "cache:app", MIRROR, "dbos-mcp cache check --deep"),
    Registered("install", "install:app", FIRST, "dbos-mcp install claude-code"),
)

app = Commands(cls=group_of(COMMANDS), add_completion=False)


def main() -> None:
    """The program's entry point: runs a command, and turns errors into messages and exit codes."""
    show_all_characters()
    code = code_of(_run)
    sys.exit(code_of(flush) or code)


def _run() -> object:
    if COMPLETE in os.environ:
        completion_init()
    return typer.main.get_command(app).main(prog_name=PROGRAM, standalone_mode=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"dbos-mcp {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True, epilog="Example: dbos-mcp demo")
def without_command(
    context: typer.Context,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A profile of dbosctl's. Repeat it to serve several; `all` is all of them.",
            autocompletion=profile_names,
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The cache file (DBOS_MCP_CACHE).", dir_okay=False),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Answer from the cache alone, send nothing.")
    ] = False,
    read_only: Annotated[
        bool,
        typer.Option("--read-only", help="Change nothing at Conductor (DBOS_MCP_READ_ONLY)."),
    ] = False,
    toolsets: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Which tools the server has (DBOS_MCP_TOOLSETS), with commas between: default,"
            " all, core, history, postmortem, sql, sync, admin.",
            autocompletion=toolset_names,
        ),
    ] = None,
    log_level: Annotated[
        LogLevel | None, typer.Option(help="What goes to stderr (DBOS_MCP_LOG_LEVEL).")
    ] = None,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True),
    ] = False,
    _install: Annotated[
        Shell | None,
        typer.Option(
            "--install-completion",
            help="Let this shell complete commands, options and values.",
            callback=install,
            is_eager=True,
        ),
    ] = None,
    _show: Annotated[
        Shell | None,
        typer.Option(
            "--show-completion",
            help="Show what that writes into the shell's folder.",
            callback=show,
            is_eager=True,
        ),
    ] = None,
) -> None:
    """An MCP server for DBOS workflows, on a local mirror of DBOS Conductor.

    Without a command it serves MCP on stdin and stdout, for an agent that starts it. The commands
    are for people: they log in, fill the mirror and ask it without an agent.
    """
    from dbos_mcp.cli.options import Options

    flags = {
        "cache": cache,
        "offline": offline or None,
        "read_only": read_only or None,
        "toolsets": toolsets,
        "log_level": log_level,
    }
    options = context.obj = Options(profile or (), flags)
    if context.invoked_subcommand is None:
        from dbos_mcp.cli.serve import serve_stdio

        serve_stdio(options.targets)
