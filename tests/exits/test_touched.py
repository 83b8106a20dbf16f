"""The server touches what docs/security.md lists, and nothing else: asked of Python itself, while a
real server answers each of its tools."""

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from fnmatch import fnmatchcase
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from dbos_mcp.local_conductor.app import create_app
from dbos_mcp.local_conductor.system_database import SystemDatabase
from dbos_mcp.server.tools import TOOLS
from tests.command_line import environment
from tests.exits.documented import Touched, touched_of
from tests.loopback import served
from tests.oauth_server import AUDIENCE, CLIENT_ID, OAuthServer
from tests.server.conftest import ToolFailedError, asking

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
ORDER = {"application_name": "shop", "workflow_id": "order-1005"}
ARGUMENTS: dict[str, dict[str, object]] = {
    "compare_workflows": {**ORDER, "other_workflow_id": "order-1001"},
    "query_sql": {"sql": "SELECT count(*) FROM workflows"},
    "manage_schedule": {"application_name": "shop", "schedule_name": "none", "action": "pause"},
    "set_latest_application_version": {"application_name": "shop", "application_version": "1"},
    "login_complete": {"timeout_seconds": 1},
}


@pytest.fixture
def conductor(shop_database: Path) -> Iterator[str]:
    with (
        closing(SystemDatabase(f"sqlite:///{shop_database}", ["shop"])) as database,
        served(create_app(database)) as url,
    ):
        yield url


async def ask_everything(home: Path, log: Path, variables: dict[str, str]) -> None:
    parameters = StdioServerParameters(
        command=sys.executable,
        args=[str(Path(__file__).with_name("audited.py")), str(log)],
        env=environment(home, **variables),
        cwd=home,
    )
    async with Client(stdio_client(parameters)) as client:
        ask = asking(client)
        with anyio.fail_after(60):
            while "loading" in await ask("list_applications"):
                await anyio.lowlevel.checkpoint()
        for tool in TOOLS:
            known = tool.parameters.get("properties", {})
            usual = {name: value for name, value in ORDER.items() if name in known}
            try:
                await ask(tool.name, **ARGUMENTS.get(tool.name, usual))
            except ToolFailedError:
                continue
        for resource in (await client.list_resources()).resources:
            await client.read_resource(str(resource.uri))


def port_of(url: str) -> str:
    return url.rpartition(":")[2].strip("/")


def seen_in(log: Path, home: Path, addresses: dict[str, str]) -> set[Touched]:
    """With the names of places for the places of this run, and without what Python itself reads to
    import a module."""
    own = [sys.prefix, sys.base_prefix, str(ROOT), str(Path(sys.executable).parent.parent)]
    named = {str(home): "~", tempfile.gettempdir(): "/tmp"}
    seen = set()
    for line in log.read_text().splitlines():
        how, what = json.loads(line)
        if how == "read" and any(what.startswith(path) for path in own):
            continue
        what = what.removeprefix("file:").partition("?")[0] if how == "write" else what
        for path, name in named.items():
            what = what.replace(path, name)
        for path in own:
            what = what.replace(path, "…")
        what = re.sub(r"^//~|^~", "~", re.sub(r"127\.0\.0\.1-\d+-local\.sqlite", "CACHE", what))
        if how == "network":
            port = re.search(r"\d{4,5}(?=\)|$)", what)
            what = addresses.get(port[0], what) if port else what
        seen.add(Touched(how, what))
    return seen


async def test_the_server_touches_what_is_documented_and_nothing_else(
    conductor: str, oauth_server: OAuthServer, tmp_path: Path
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    home.mkdir()
    issuer = oauth_server.url
    variables = {
        "DBOS_URL": conductor,
        "DBOS_ORG": "local",
        "DBOS_TOKEN": "token",
        "DBOS_MCP_TOOLSETS": "all",
        "DBOS_MCP_ISSUER": issuer,
        "DBOS_MCP_CLIENT_ID": CLIENT_ID,
        "DBOS_MCP_AUDIENCE": AUDIENCE,
    }
    await ask_everything(home, log, variables)
    addresses = {port_of(conductor): "DBOS_URL", port_of(issuer): "DBOS_MCP_ISSUER"}
    seen = seen_in(log, home, addresses)
    documented = touched_of((ROOT / "docs" / "security.md").read_text())

    def listed(each: Touched, row: Touched) -> bool:
        return each.how == row.how and fnmatchcase(each.what, row.what)

    unlisted = {each for each in seen if not any(listed(each, row) for row in documented)}
    assert not unlisted, "\n".join(f"{each.how} {each.what}" for each in sorted(unlisted))
    always = {row for row, needed in documented.items() if needed}
    assert {row for row in always if not any(listed(each, row) for each in seen)} == set()
