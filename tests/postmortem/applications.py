"""Real DBOS applications in processes of their own."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def application(name: str, database: Path, *mended: str) -> Iterator["Application"]:
    """Of this folder; once it is ready, until it is killed."""
    command = [sys.executable, "-m", f"tests.postmortem.{name}", f"sqlite:///{database}", *mended]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield Application(process)
        finally:
            process.kill()
            process.stdin.close()
            process.wait()


class Application:
    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def end_of(self, workflow_id: str) -> str:
        """The status that a workflow comes to."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{workflow_id}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()
