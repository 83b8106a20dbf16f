"""What a client waits for when it starts the server: how much is imported, and how much is sent."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

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


def test_a_command_that_asks_nothing_imports_neither_a_server_nor_a_database(
    tmp_path: Path,
) -> None:
    def imported_by(*arguments: str, **variables: str) -> set[str]:
        code = f"{TELLING} sys.argv = {['dbos-mcp', *arguments]!r}; main()"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment(tmp_path, **variables),
            capture_output=True,
            text=True,
            check=True,
        )
        return set(done.stderr.split())

    asked: Mapping[str, set[str]] = {
        "--version": imported_by("--version"),
        "--help": imported_by("--help"),
        "completion": imported_by(
            _DBOS_MCP_COMPLETE="complete_bash", COMP_WORDS="dbos-mcp ca", COMP_CWORD="1"
        ),
    }
    for of, imported in asked.items():
        assert "dbos_mcp.cli" in imported, of
        assert not (FOR_ANSWERS | FOR_A_SERVER) & imported, of
