"""The server as a client starts it: a process, and nothing but the protocol on its stdout."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from tests.command_line import environment
from tests.server.conftest import asking, mirrored

pytestmark = pytest.mark.e2e

TOOLS = {
    "list_applications", "list_executors", "list_workflows", "get_workflow", "list_steps",
    "get_workflow_history", "list_changes",
    "get_workflow_aggregates", "list_failures", "diagnose_workflow", "compare_workflows",
    "query_sql", "describe_schema", "sync_status", "sync_now",
    "cancel_workflow", "resume_workflow", "fork_workflow", "login", "login_complete",
}  # fmt: skip


@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_a_client_finds_the_tools_and_asks_one(
    era: str, shop_database: Path, tmp_path: Path
) -> None:
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "dbos_mcp"],
        env=environment(tmp_path, DBOS_SYSTEM_DATABASE_URL=f"sqlite:///{shop_database}"),
    )
    async with Client(server, mode=era) as client:
        tools = await client.list_tools()
        assert {tool.name for tool in tools.tools} == TOOLS
        ask = asking(client)
        await mirrored(ask)
        answer = await ask("list_workflows", application_name="shop", status="ERROR")
    assert answer.startswith("6 of 6 workflows of shop")


async def test_profiles_that_are_named_are_served_in_one_process(tmp_path: Path) -> None:
    folder = tmp_path / ".config" / "dbos"
    folder.mkdir(parents=True)
    served = "{auth: none, url: 'http://127.0.0.1:9'}"
    (folder / "config.yaml").write_text(
        f"profiles: {{prod: {served}, staging: {served}, other: {served}}}"
    )
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "dbos_mcp", "--profile", "staging", "--profile", "prod"],
        env=environment(tmp_path, DBOS_PROFILE="other"),
    )
    async with Client(server) as client:
        for tool in (await client.list_tools()).tools:
            assert tool.input_schema["properties"]["profile"]["enum"] == ["staging", "prod"]


def test_stdout_holds_the_protocol_alone_and_the_end_of_stdin_ends_the_server(
    tmp_path: Path,
) -> None:
    initialize = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
    done = subprocess.run(
        [sys.executable, "-m", "dbos_mcp", "--log-level", "debug"],
        input=json.dumps(initialize) + "\n",
        env=environment(tmp_path, DBOS_URL="http://127.0.0.1:9"),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    assert [message["id"] for message in messages] == [1]
    assert messages[0]["result"]["serverInfo"]["name"] == "dbos-mcp"
    for line in done.stderr.splitlines():
        json.loads(line)
