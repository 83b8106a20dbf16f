"""A real DBOS application in a process of its own, by the calls that it takes on its stdin."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = "tests.sync.application_process"
ROOT = Path(__file__).parents[2]
EXECUTOR = "shop-1"
OPEN, SINGLE, CLOSED = "open", "single", "closed"
"""Three queues: of one everything is taken at once, of one after the other, and nothing ever."""
SCHEDULE = "nightly"


class Application:
    """It is up whenever something is asked of it. What it complains of is in a file."""

    def __init__(self, name: str, url: str, complaints: Path) -> None:
        self.name = name
        self.url = url
        self._complaints = complaints
        self._process: subprocess.Popen[str] | None = None

    def do(self, name: str, *positional: object, **named: object) -> str:
        """Let it make a call; what it answers."""
        process = self.start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([name, positional, named]) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, self._complaints.read_text()
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return str(answer["answer"])

    def start(self) -> "subprocess.Popen[str]":
        """Have it up, if it is not."""
        if self._process is None:
            with self._complaints.open("a") as complaints:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", PROGRAM, self.name, self.url],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=complaints,
                    text=True,
                )
            assert self._process.stdout is not None
            assert self._process.stdout.readline() == "null\n", self._complaints.read_text()
        return self._process

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
