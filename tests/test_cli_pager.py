"""`dbos-mcp sql` at a terminal: what goes through a pager, and what does not."""

import contextlib
import os
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from dbos_mcp.store import projector
from dbos_mcp.store.migrate import open_cache
from tests.command_line import command
from tests.store.factories import BORN, observed

EVIL = "\x1b[2J\u202e:smile:"
ROWS, COLUMNS = 20, 80
TERMINAL = {"PATH": os.environ["PATH"], "TERM": "xterm", "LANG": "C.UTF-8"}
"""All that its size and its pager could be told by, but for the terminal itself."""
LONG = "SELECT workflow_id, error FROM workflows ORDER BY created_at_ms"
SHORT = f"{LONG} LIMIT 3"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
IN_TURN = """
import contextlib, importlib, os, pydoc, sys
from pathlib import Path
from dbos_mcp import cli

def run(statement, pager):
    importlib.reload(pydoc)  # it remembers its pager
    os.environ["PAGER"] = pager
    sys.argv[1:] = [*before, "sql", statement, "--timeout", "60"]
    print("begin", flush=True)
    with contextlib.suppress(SystemExit):
        cli.main()
    print("end", flush=True)

before, folder, (long, short) = sys.argv[1:4], Path(sys.argv[4]), sys.argv[5:]
run(long, f"cat > {folder / 'long'}")
run(short, f"cat > {folder / 'short'}")
with (folder / "redirected").open("w") as file, contextlib.redirect_stdout(file):
    run(long, f"cat > {folder / 'never'}")
del os.environ["PAGER"]
os.environ["PATH"] = str(folder / "bin")
run(long, "")
"""


@pytest.fixture
def cache(cache_path: Path) -> Path:
    cache = open_cache(cache_path)
    with cache.write() as connection:
        facts = [observed(f"order-{n}", error=EVIL, created_at=BORN + n) for n in range(ROWS)]
        projector.record(connection, facts, recorded_at=BORN)
    cache.close()
    return cache_path


def at_terminal(home: Path, *arguments: str, interrupted_at: bytes = b"") -> tuple[int, str]:
    """What a program at a terminal of its own ended with, and what that showed."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (ROWS, COLUMNS))
    process = subprocess.Popen(
        arguments, env=TERMINAL | {"HOME": str(home)}, start_new_session=True,
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # as Linux tells the end of it
        while part := os.read(ours, 65_536):
            shown += part
            if interrupted_at and interrupted_at in shown:
                os.killpg(process.pid, signal.SIGINT)
                interrupted_at = b""
    os.close(ours)
    return process.wait(60), shown.decode().replace("\r\n", "\n")


def test_a_long_result_goes_through_the_pager_and_no_other_does(
    cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    more = tmp_path / "bin" / "more"
    more.write_text('#!/bin/sh\nexec /bin/cat "$@"\n')
    more.chmod(0o700)
    code, shown = at_terminal(
        tmp_path, sys.executable, "-c", IN_TURN, "--offline", "--cache", str(cache),
        str(tmp_path), LONG, SHORT,
    )  # fmt: skip
    assert code == 0
    assert (tmp_path / "long").exists(), shown
    _, long, short, without_less = shown.split("begin\n")
    paged = (tmp_path / "long").read_text()
    assert len(paged.splitlines()) == 2 + ROWS
    assert "order-" not in long
    assert f"{ROWS} rows, " in long
    assert "order-2" in short
    assert "3 rows, " in short
    assert not (tmp_path / "short").exists()
    assert "order-4" not in short  # where the redirected one would be
    assert paged.splitlines() == (tmp_path / "redirected").read_text().splitlines()[1:-1]
    assert not (tmp_path / "never").exists()
    assert paged in without_less
    assert r"\x1b[2J\u202e:smile:" in paged


def test_ctrl_c_ends_a_statement(cache: Path, tmp_path: Path) -> None:
    arguments = command("--offline", "--cache", str(cache), "sql", ENDLESS, "--timeout", "600")
    code, shown = at_terminal(tmp_path, *arguments, interrupted_at=b"Looking")
    assert code == 130
    assert "Traceback" not in shown
