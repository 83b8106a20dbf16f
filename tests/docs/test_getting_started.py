"""The page's application, from an empty folder to its first failure explained, as it says."""

import sys
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters

from tests import command_line
from tests.docs.pages import blocks, not_said, shell
from tests.server.conftest import asking

pytestmark = pytest.mark.e2e

PAGE, SECTION = "docs/getting-started.md", "Your own application in five minutes"


async def test_an_application_of_ones_own_is_explained_as_the_page_says(tmp_path: Path) -> None:
    folder = tmp_path / "invoices"
    await anyio.Path(folder).mkdir()
    preparation, *rest = blocks(PAGE, SECTION)
    assert preparation.text.startswith("uv tool install ")  # as `tests/e2e/test_wheel.py` does
    environment = command_line.environment(tmp_path)
    told, calls, printed = "", [], ""
    for block in rest:
        if block.language == "python":
            await anyio.Path(folder, "invoices.py").write_text(block.text)
        elif block.language == "sh":
            # What it exports counts for all that follows, as in a terminal.
            told += block.text
            done = await anyio.to_thread.run_sync(shell, told, folder, environment)
            assert done.returncode == 0, done.stderr
            told = "".join(line for line in told.splitlines(True) if line.startswith("export "))
            printed = done.stdout
        elif block.is_call:
            calls.append(block)
        else:
            assert not_said(block.text, printed) == []
    assert (folder / "invoice-2.html").exists()

    (database,) = (line for line in told.splitlines() if "DBOS_SYSTEM_DATABASE_URL" in line)
    name, _, url = database.removeprefix("export ").partition("=")
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "dbos_mcp"],
        env={**environment, name: url.strip('"').replace("$PWD", str(folder))},
    )
    async with Client(server) as client:
        answers = [await asking(client)(*block.call[:1], **block.call[1]) for block in calls]
    assert [block.call[0] for block in calls] == ["list_failures", "diagnose_workflow"]
    for block, answer in zip(calls, answers, strict=True):
        assert not_said(block.answer, answer) == []
