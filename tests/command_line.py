"""`dbos-mcp …` as a process of its own, in a home of the test's."""

import os
import subprocess
import sys
from pathlib import Path

Done = subprocess.CompletedProcess[str]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dbos_mcp", *arguments]


def environment(home: Path, **variables: str) -> dict[str, str]:
    """This process's, without what it says about DBOS and about where files are."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("DBOS", "XDG_"))}
    return {**own, "HOME": str(home), **variables}


def run(home: Path, *arguments: str, **variables: str) -> Done:
    return subprocess.run(
        command(*arguments),
        env=environment(home, **variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
