"""What a client waits for when it starts the server: how much is imported, and how much is sent."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dbos_mcp.cli import COMMANDS
from tests.command_line import environment
from tests.server.test_snapshots import DEFINITIONS_BYTES

pytestmark = pytest.mark.e2e

FOR_ANSWERS = {
    *("alembic", "apscheduler", "httpx", "jinja2", "prometheus_client", "sqlalchemy", "sqlmodel"),
    *("stamina", "dbos_mcp.conductor", "dbos_mcp.login", "dbos_mcp.server.answers"),
    *("dbos_mcp.postmortem", "dbos_mcp.report", "dbos_mcp.sync"),
}
"""Not needed to say who one is and what one can: each costs time that a client waits."""
FOR_A_SERVER = {"mcp", "mcp_types", "starlette", "cryptography", "dbos_mcp.server.app"}
FOR_WORK = {
    *(*FOR_ANSWERS, *FOR_A_SERVER, "anyio", "asyncio", "dbos", "filelock", "uvicorn", "yaml"),
    *("dbos_mcp.inspection.hints", "dbos_mcp.runtime", "dbos_mcp.settings"),
}
"""Not needed to say what a command does."""
EVERY_HELP = """
import typer
from dbos_mcp.cli import app

def show(command, *path):
    program.main([*path, "--help"], prog_name="dbos-mcp", standalone_mode=False)
    for name, each in getattr(command, "commands", {}).items():
        show(each, *path, name)

program = typer.main.get_command(app)
show(program)
"""
TELLING = (
    "import atexit, sys; from dbos_mcp.cli import main;"
    " atexit.register(lambda: print(*sys.modules, sep='\\n', file=sys.stderr)); "
)
WAITING = "from dbos_mcp.server import context; context.QUIET_SECONDS = float('inf');"
"""What is imported in the background once the client has its tools is left out."""

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "a client", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
HELLO = {
    "protocolVersion": "2025-11-25",
    "clientInfo": {"name": "a client", "version": "1"},
    "capabilities": {},
}
ERAS: dict[str, list[dict[str, Any]]] = {
    "auto": [{"id": 1, "method": "tools/list", "params": {"_meta": META}}],
    "legacy": [
        {"id": 0, "method": "initialize", "params": HELLO},
        {"method": "notifications/initialized"},
        {"id": 1, "method": "tools/list"},
    ],
}


def said_to(home: Path, messages: list[dict[str, Any]], code: str = "") -> tuple[bytes, set[str]]:
    """The last line that a server answers, and what it has imported until stdin is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", f"{TELLING}{code} main()"],
        env=environment(home, DBOS_URL="http://127.0.0.1:9"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        line = b""
        for message in messages:
            server.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
            server.stdin.flush()
            if "id" in message:
                line = server.stdout.readline()
        _, told = server.communicate()
    return line, set(told.decode().split())


@pytest.mark.parametrize("era", ERAS)
def test_a_server_that_tells_its_tools_has_imported_nothing_to_answer_with(
    era: str, tmp_path: Path
) -> None:
    line, imported = said_to(
        tmp_path, ERAS[era], f"{WAITING} context.HEAD_START_SECONDS = float('inf');"
    )
    tools = json.loads(line)["result"]["tools"]
    assert {"list_workflows", "sync_now"} <= {tool["name"] for tool in tools}
    assert imported >= FOR_A_SERVER
    assert not FOR_ANSWERS & imported
    assert not (tmp_path / ".dbos-mcp").exists()


@pytest.mark.parametrize("era", ERAS)
def test_the_definitions_as_they_are_sent_stay_within_their_budget(
    era: str, tmp_path: Path
) -> None:
    line, _ = said_to(tmp_path, ERAS[era])
    assert len(line) <= DEFINITIONS_BYTES


def imported_by(home: Path, code: str, **variables: str) -> tuple[str, set[str]]:
    """What it prints, and what it has imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", f"{TELLING}\n{code}"],
        env=environment(home, **variables),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, set(done.stderr.split())


def test_the_help_of_every_command_imports_nothing_that_a_command_works_with(
    tmp_path: Path,
) -> None:
    printed, imported = imported_by(tmp_path, EVERY_HELP)
    shown = re.findall(r"^Usage: dbos-mcp ?([a-z-]*(?: [a-z-]+)?) (?:\[|--)", printed, re.MULTILINE)
    assert set(shown) >= {"", *(each.name for each in COMMANDS), "cache check", "install service"}
    assert imported >= {f"dbos_mcp.cli.{each.place.partition(':')[0]}" for each in COMMANDS}
    assert not FOR_WORK & imported


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_what_the_program_says_of_itself_imports_nothing_that_reads_or_checks(
    option: str, tmp_path: Path
) -> None:
    printed, imported = imported_by(tmp_path, f"sys.argv[1:] = ['{option}']; main()")
    assert printed.strip()
    assert not {*FOR_WORK, "pydantic"} & imported


@pytest.mark.parametrize(
    "line", ["dbos-mcp ca", "dbos-mcp sync --w", "dbos-mcp install codex --", "dbos-mcp sql --f"]
)
def test_completion_imports_nothing_that_a_command_works_with(line: str, tmp_path: Path) -> None:
    words = line.split()
    asked = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    printed, imported = imported_by(tmp_path, "main()", _DBOS_MCP_COMPLETE="complete_bash", **asked)
    assert printed.strip()
    assert not FOR_WORK & imported
