"""Runs `dbos-mcp` again and again: a line of JSON in, how it ended out.

Each time in a process of its own, which has the program imported, and has opened nothing.
"""

import importlib
import io
import json
import os
import signal
import sys

LONGEST_SECONDS = 60
LOADED_LATE = (
    "alembic.command",
    "dbos_mcp.cli.account",
    "dbos_mcp.cli.cache",
    "dbos_mcp.cli.doctor",
    "dbos_mcp.cli.export",
    "dbos_mcp.cli.install",
    "dbos_mcp.cli.local",
    "dbos_mcp.cli.report",
    "dbos_mcp.cli.serve",
    "dbos_mcp.cli.sql",
    "dbos_mcp.cli.sync",
    "dbos_mcp.cli.token",
    "dbos_mcp.doctor.checks",
    "dbos_mcp.incident.export",
    "dbos_mcp.inspection.datasette",
    "dbos_mcp.installing.configuration",
    "dbos_mcp.installing.entry",
    "dbos_mcp.local_conductor.app",
    "dbos_mcp.local_conductor.system_database",
    "dbos_mcp.login",
    "dbos_mcp.report.page",
    "dbos_mcp.server.app",
    "dbos_mcp.server.reports",
    "dbos_mcp.server.schema",
    "dbos_mcp.server.sync_status",
    "dbos_mcp.server.tools",
    "dbos_mcp.serving.tokens",
    "dbos_mcp.sync.scheduler",
    "dbos_mcp.upkeep.check",
    "dbos_mcp.upkeep.prune",
    "dbos_mcp.upkeep.restore",
    "rich.live",
    "rich.progress",
)
"""The program loads them when it needs them."""


def serve() -> None:
    from dbos_mcp import cli

    for name in LOADED_LATE:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            become(**request)
            cli.main()
            return
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def become(
    arguments: list[str], environment: dict[str, str], folder: str, files: list[str]
) -> None:
    """As if just started: with these arguments, there, and with these files."""
    signal.alarm(LONGEST_SECONDS)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, path in enumerate(files):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), number)
    sys.stdin = io.TextIOWrapper(io.FileIO(0))  # nothing that was read ahead for the other one
    sys.argv = arguments


if __name__ == "__main__":
    serve()
