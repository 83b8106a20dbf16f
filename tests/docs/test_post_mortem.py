"""The walk-through of a post-mortem: each of its calls, with the answer that the page shows."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters

from tests import command_line
from tests.docs.pages import Block, blocks, not_said, shell
from tests.server.conftest import Ask, asking

pytestmark = pytest.mark.e2e

PAGE = "docs/post-mortem.md"
SHOP = "uv run --extra local python -m dbos_mcp.demo.shop "
SETTLED_SECONDS = 60.0
NO_COMMAND = ("claude mcp add", "export DBOS_SYSTEM_DATABASE_URL")


@contextmanager
def running(command: str, folder: Path) -> Iterator[None]:
    """The shop as the page starts it, until Ctrl-D."""
    arguments = shlex.split(command.removeprefix(SHOP))
    with subprocess.Popen(
        [sys.executable, "-m", "dbos_mcp.demo.shop", *arguments],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as shop:
        try:
            assert shop.stdout is not None
            assert shop.stdout.readline() == "ready\n"
            yield
        finally:
            shop.communicate()


async def test_the_walk_through_goes_as_the_page_shows(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'night.sqlite'}"
    environment = command_line.environment(tmp_path, DBOS_SYSTEM_DATABASE_URL=database)
    server = StdioServerParameters(command=sys.executable, args=["-m", "dbos_mcp"], env=environment)
    printed, asked, wrong = "", [], []
    with ExitStack() as shop:
        first, *rest = blocks(PAGE)
        shop.enter_context(running(first.text, tmp_path))
        async with Client(server) as client:
            ask = asking(client)
            await ask("sync_now")
            for block in rest:
                if block.text.startswith(SHOP):
                    shop.close()
                    shop.enter_context(running(block.text, tmp_path))
                elif block.is_call:
                    asked.append(block.call[0])
                    wrong += await answered_otherwise(ask, block)
                elif block.text.startswith("dbos-mcp "):
                    done = await anyio.to_thread.run_sync(shell, block.text, tmp_path, environment)
                    assert done.returncode == 0, done.stderr
                    printed = done.stdout
                elif block.language == "text":
                    wrong += not_said(block.text, printed)
                else:
                    assert block.text.startswith(NO_COMMAND)
    assert wrong == []
    assert asked[:5] == [
        "list_failures",
        "diagnose_workflow",
        "compare_workflows",
        "get_workflow_history",
        "fork_workflow",
    ]
    assert "quote_delivery" in (tmp_path / "order-1005.html").read_text()
    assert (tmp_path / "incident.sqlite").exists()


async def answered_otherwise(ask: Ask, block: Block) -> list[str]:
    """What the page shows of an answer and it does not say; a question about now has some time."""
    name, arguments = block.call
    with anyio.move_on_after(SETTLED_SECONDS if arguments.get("max_age_seconds") == 0 else None):
        while wrong := not_said(block.answer, await ask(name, **arguments)):
            if arguments.get("max_age_seconds") != 0:
                break
    return wrong
