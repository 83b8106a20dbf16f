"""What clients pay for at every start: the definitions of the tools, to the byte.

`just snapshots` accepts a change of them.
"""

import json
import os
from pathlib import Path

import pytest
from mcp import Client

from dbos_mcp.server.app import build_server
from dbos_mcp.settings import Settings

SNAPSHOTS = Path(__file__).parent / "snapshots"
TOOLSETS = {"tools.json": "default", "admin.json": "admin"}
DEFINITIONS_BYTES = 16 * 1024
"""Of what is meant for the agent: titles are in it, icons are for people's eyes and beside it."""
ICON_BYTES = 160


async def listed(era: str, home: Path, toolsets: str = "default") -> list[dict[str, object]]:
    settings = Settings.from_env(
        {"HOME": str(home)}, offline=True, cache=home / "none.sqlite", toolsets=toolsets
    )
    async with Client(build_server(settings), mode=era) as client:
        result = await client.list_tools()
    return [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in result.tools]


@pytest.mark.parametrize("name", TOOLSETS)
async def test_the_definitions_are_as_they_were_accepted(
    era: str, tmp_path: Path, name: str
) -> None:
    tools = await listed(era, tmp_path, TOOLSETS[name])
    snapshot = SNAPSHOTS / name
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOTS.mkdir(exist_ok=True)
        snapshot.write_text(json.dumps(tools, indent=1, ensure_ascii=False) + "\n")
    assert json.loads(snapshot.read_text()) == tools


def size(definition: object) -> int:
    return len(json.dumps(definition, ensure_ascii=False, separators=(",", ":")).encode())


async def test_the_definitions_stay_within_their_budget(tmp_path: Path) -> None:
    tools = await listed("auto", tmp_path)
    assert size([{k: v for k, v in tool.items() if k != "icons"} for tool in tools]) <= (
        DEFINITIONS_BYTES
    )


async def test_each_tool_has_a_title_and_an_icon_of_few_bytes(tmp_path: Path) -> None:
    for tool in await listed("auto", tmp_path, "all"):
        assert str(tool["title"])[0].isupper()
        assert "_" not in str(tool["title"])
        assert 0 < size({"icons": tool["icons"]}) <= ICON_BYTES


async def test_clients_cut_no_description(tmp_path: Path) -> None:
    for tool in await listed("auto", tmp_path, "all"):
        assert len(str(tool["description"]).encode()) < 2000
