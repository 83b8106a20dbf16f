"""`dbos-mcp …` as a process of its own, in a home of the test's."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path

from tests import command_server

Done = subprocess.CompletedProcess[str]
_one_at_a_time = threading.Lock()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dbos_mcp", *arguments]


def environment(home: Path, **variables: str) -> dict[str, str]:
    """This process's, without what it says about DBOS and about where files are."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("DBOS", "XDG_"))}
    return {**own, "HOME": str(home), **variables}


def run(home: Path, *arguments: str, **variables: str) -> Done:
    """What came of it. Nobody types into it."""
    with tempfile.TemporaryDirectory() as name, _one_at_a_time:
        out, err = Path(name) / "out", Path(name) / "err"
        request = {
            "arguments": ["dbos-mcp", *arguments],
            "environment": environment(home, **variables),
            "folder": str(Path.cwd()),
            "files": [os.devnull, str(out), str(err)],
        }
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return Done(arguments, code, out.read_text(), err.read_text())


@cache
def _server() -> "subprocess.Popen[str]":
    """To start Python and to import all of the program takes seconds: one process has done it."""
    server = subprocess.Popen(
        [sys.executable, command_server.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Where readline is loaded, it has set the width for every process below this one.
        env={k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")},
    )
    atexit.register(server.communicate)  # it ends with its input
    return server
