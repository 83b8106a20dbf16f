"""The wheel, installed elsewhere, and run there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from tests.packaging.built import VERSION, environment, run, uv

pytestmark = pytest.mark.e2e


def install(wheel: Path, folder: Path, extra: str = "") -> Path:
    """The program, in an environment of its own."""
    run(uv(), "venv", "--python", sys.executable, "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    run(uv(), "pip", "install", "--python", python, f"{wheel}{extra}", cwd=folder)
    return python.with_name("dbos-mcp")


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(wheel, tmp_path_factory.mktemp("bare"))


def test_it_tells_its_version(program: Path, tmp_path: Path) -> None:
    assert run(program, "--version", cwd=tmp_path).strip() == f"dbos-mcp {VERSION}"


async def test_it_serves_its_tools_and_prompts(program: Path, tmp_path: Path) -> None:
    server = StdioServerParameters(command=str(program), env=environment(tmp_path))
    async with Client(server) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        prompts = {prompt.name for prompt in (await client.list_prompts()).prompts}
        page = await client.read_resource("ui://dbos-mcp/waterfall.html")
    assert {"list_failures", "diagnose_workflow", "fork_workflow"} <= tools
    assert prompts == {"investigate_failure", "post_mortem", "daily_review"}
    assert "<style>" in str(page.contents[0])


def test_it_makes_a_cache_with_its_own_migrations(program: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache.sqlite"
    done = subprocess.run(
        [program, "--cache", cache, "sync"],
        env=environment(tmp_path, DBOS_URL="http://127.0.0.1:9"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "127.0.0.1:9" in done.stderr  # nobody is there
    told = run(program, "--cache", cache, "schema", "failures", cwd=tmp_path)
    assert "workflow_id" in told
    done = subprocess.run(
        [program, "--cache", cache, "schema", "--datasette"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "dbos-mcp[inspect]" in done.stderr
    metadata = json.loads(done.stdout)
    (database,) = metadata["databases"].values()
    assert database["queries"]
    assert "workflows" in database["tables"]


def test_without_the_extra_the_demo_says_what_is_missing(program: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [program, "demo"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "uv run --extra local dbos-mcp demo" in done.stderr
    assert "Traceback" not in done.stderr
