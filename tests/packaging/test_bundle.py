"""The .mcpb bundle: its manifest is valid, and what it says starts the server."""

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from mcp import Client, StdioServerParameters

from dbos_mcp.settings import ENVIRONMENT, Settings
from tests.packaging.built import ROOT, SEMANTIC, VERSION, environment, uv

BUNDLE = ROOT / "integrations" / "mcpb"
SCHEMA = json.loads((Path(__file__).parent / "schemas" / "mcpb-manifest.schema.json").read_text())
MANIFEST: dict[str, Any] = json.loads((BUNDLE / "manifest.json").read_text())
CONFIG = MANIFEST["server"]["mcp_config"]
DEFAULTS = {
    f"${{user_config.{name}}}": str(option["default"]).lower()
    for name, option in MANIFEST["user_config"].items()
}
"""What a client puts there while the user has set nothing."""


def test_its_manifest_is_as_the_schema_says() -> None:
    jsonschema.validate(MANIFEST, SCHEMA)
    assert MANIFEST["server"]["entry_point"] in CONFIG["args"]
    assert (BUNDLE / MANIFEST["server"]["entry_point"]).is_file()


def test_it_is_of_this_version() -> None:
    assert MANIFEST["version"] == SEMANTIC
    project = tomllib.loads((BUNDLE / "pyproject.toml").read_text())
    assert project["project"]["version"] == VERSION
    assert VERSION in project["tool"]["uv"]["sources"]["dbos-mcp"]["path"]


def test_what_the_user_may_set_are_settings_and_what_is_secret_is_kept_so() -> None:
    assert CONFIG["env"].keys() <= ENVIRONMENT.keys()
    assert DEFAULTS.keys() == set(CONFIG["env"].values())
    for variable, value in CONFIG["env"].items():
        name = value.removeprefix("${user_config.").removesuffix("}")
        kind = str(Settings.model_fields[ENVIRONMENT[variable]].annotation)
        assert MANIFEST["user_config"][name].get("sensitive", False) is ("SecretStr" in kind)


def test_what_is_not_set_leaves_the_server_as_it_is_and_read_only() -> None:
    environ = {variable: DEFAULTS[value] for variable, value in CONFIG["env"].items()}
    assert Settings.from_env({"HOME": "/", **environ}) == Settings.from_env(
        {"HOME": "/"}, read_only=True
    )


@pytest.mark.e2e
async def test_its_command_starts_the_server(wheel: Path, tmp_path: Path) -> None:
    """The wheel is in it, and uv gets the rest for the platform that it is on."""
    folder = tmp_path / "Library" / "Claude Extensions"
    shutil.copytree(BUNDLE, folder)
    shutil.copy(wheel, folder)
    assert CONFIG["command"] == "uv"
    server = StdioServerParameters(
        command=uv(),
        args=[argument.replace("${__dirname}", str(folder)) for argument in CONFIG["args"]],
        env=environment(tmp_path)
        | {variable: DEFAULTS[value] for variable, value in CONFIG["env"].items()},
    )
    async with Client(server) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        applications = await client.call_tool("list_applications", {})
    assert "diagnose_workflow" in tools
    assert "fork_workflow" not in tools  # read-only
    assert "Nobody is logged in" in str(applications.content[0])
