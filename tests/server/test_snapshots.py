"""What clients pay for at every start: the definitions of the tools, to the byte.

`just snapshots` accepts a change of them.
"""

import json
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from mcp import Client
from pydantic import BaseModel

from dbos_mcp.server.app import build_server
from dbos_mcp.settings import Settings

SNAPSHOTS = Path(__file__).parent / "snapshots"
TOOLSETS = {"tools.json": "default", "admin.json": "admin"}
DEFINITIONS_BYTES = 16 * 1024


@asynccontextmanager
async def client_of(era: str, home: Path, toolsets: str = "default") -> AsyncIterator[Client]:
    settings = Settings.from_env(
        {"HOME": str(home)}, offline=True, cache=home / "none.sqlite", toolsets=toolsets
    )
    async with Client(build_server(settings), mode=era) as client:
        yield client


def dumped(definitions: Iterable[BaseModel]) -> list[dict[str, object]]:
    return [
        definition.model_dump(mode="json", by_alias=True, exclude_none=True)
        for definition in definitions
    ]


async def listed(era: str, home: Path, toolsets: str = "default") -> list[dict[str, object]]:
    async with client_of(era, home, toolsets) as client:
        return dumped((await client.list_tools()).tools)


def require_accepted(name: str, definitions: object) -> None:
    snapshot = SNAPSHOTS / name
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOTS.mkdir(exist_ok=True)
        snapshot.write_text(json.dumps(definitions, indent=1, ensure_ascii=False) + "\n")
    assert json.loads(snapshot.read_text()) == definitions


@pytest.mark.parametrize("name", TOOLSETS)
async def test_the_definitions_are_as_they_were_accepted(
    era: str, tmp_path: Path, name: str
) -> None:
    require_accepted(name, await listed(era, tmp_path, TOOLSETS[name]))


async def test_resources_and_prompts_are_as_they_were_accepted(era: str, tmp_path: Path) -> None:
    async with client_of(era, tmp_path) as client:
        require_accepted("resources.json", dumped((await client.list_resources()).resources))
        templates = (await client.list_resource_templates()).resource_templates
        require_accepted("resource_templates.json", dumped(templates))
        require_accepted("prompts.json", dumped((await client.list_prompts()).prompts))


def size(definition: object) -> int:
    return len(json.dumps(definition, ensure_ascii=False, separators=(",", ":")).encode())


async def test_each_tool_has_a_title_and_no_icon_to_pay_for(tmp_path: Path) -> None:
    for tool in await listed("auto", tmp_path, "all"):
        assert str(tool["title"])[0].isupper()
        assert "_" not in str(tool["title"])
        assert "icons" not in tool


async def test_clients_cut_no_description(tmp_path: Path) -> None:
    for tool in await listed("auto", tmp_path, "all"):
        assert len(str(tool["description"]).encode()) < 2000
