"""An incident goes from one machine to another, as a file."""

import sqlite3
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters

from tests import command_line
from tests.server.conftest import ToolFailedError, asking

pytestmark = pytest.mark.e2e


async def test_an_exported_failure_is_explained_on_another_machine(
    shop_database: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for home in (here, there):
        await anyio.Path(home).mkdir()
    upstream = {"DBOS_SYSTEM_DATABASE_URL": f"sqlite:///{shop_database}"}
    file = there / "incident file.sqlite"

    async def run(*arguments: str) -> command_line.Done:
        return await anyio.to_thread.run_sync(
            partial(command_line.run, here, *arguments, **upstream)
        )

    assert (await run("sync")).returncode == 0
    done = await run("export", "--workflow", "order-1005", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    told = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert told["file"].startswith(f"{file}, ")
    assert " of 53: 1 workflow, " in told["workflows"]
    assert told["payloads"] == "none"
    assert told["open it"] == f"dbos-mcp --offline --cache '{file}'"

    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "dbos_mcp", "--offline", "--cache", str(file)],
        env=command_line.environment(there),
    )
    async with Client(server) as client:
        ask = asking(client)
        answer = await ask("get_workflow", application_name="shop", workflow_id="order-1005")
        steps = await ask("list_steps", application_name="shop", workflow_id="order-1005-5-4")
        with pytest.raises(ToolFailedError, match="offline"):
            await ask("sync_now")
    assert "order-1005-5" in answer
    assert "an excerpt made at" in answer
    assert "quote_delivery" in steps
    assert [path.name async for path in anyio.Path(there).iterdir()] == [file.name]


def test_the_exit_codes_say_why_nothing_was_exported(shop_database: Path, tmp_path: Path) -> None:
    upstream = {"DBOS_SYSTEM_DATABASE_URL": f"sqlite:///{shop_database}"}
    run = partial(command_line.run, tmp_path, **upstream)
    file = tmp_path / "incident.sqlite"
    assert run("export", "--since", "-1h", str(file)).returncode == 4
    run("sync")
    for arguments, code, message in (
        ([], 2, "Say what to export."),
        (["--workflow", "pay", "--since", "-1h"], 2, "Say what to export."),
        (["--since", "yesteryear"], 2, "is not a time"),
        (["--workflow", "pay"], 4, "No workflow 'pay' is mirrored."),
        (["--since", "-30d", "--application", "shopp"], 4, "No application 'shopp'"),
    ):
        done = run("export", *arguments, str(file))
        assert (done.returncode, done.stdout) == (code, "")
        assert message in done.stderr
        assert not file.exists()
    assert run("export", "--since", "-30d", str(file)).returncode == 0
    again = run("export", "--since", "-30d", str(file))
    assert again.returncode == 2
    assert "already; it was left as it is" in again.stderr
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        assert database.execute("SELECT count(*) FROM workflow").fetchone() == (53,)
    # Of a file that is read a year later, -1h is the last hour that it knows.
    with closing(sqlite3.connect(file)) as database:
        database.execute("UPDATE sync_state SET succeeded_at = 3, attempted_at = 4")
        database.commit()
    part = str(tmp_path / "part.sqlite")
    done = run("--offline", "--cache", str(file), "export", "--since", "-1h", part)
    assert (done.returncode, done.stderr) == (0, "")
    done = run("--cache", str(file), "sync")
    assert done.returncode == 1
    assert "is an incident file: it can only be read" in done.stderr
