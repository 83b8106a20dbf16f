"""A person at the server's stdin, where a client should be: they are told, and can get out.

Nothing of this happens where stdin is no terminal: there it is the protocol's alone.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, Thread
from types import FrameType

from dbos_mcp import __version__
from dbos_mcp.cli.terminal import err, say

TOLD = f"""\
dbos-mcp {__version__} is an MCP server for DBOS workflows.
It waits for a client that speaks MCP on stdin, as a coding agent that starts it does. For you:
  dbos-mcp demo     a tour, no account
  dbos-mcp install  tell your agent
  dbos-mcp doctor   what is wrong?
  dbos-mcp --help   all commands
Ctrl-C or Ctrl-D ends it."""
NOT_MCP = (
    "That is no message of MCP (a line of JSON-RPC), so nothing comes of it."
    " `dbos-mcp --help` tells the commands; Ctrl-C or Ctrl-D ends this one."
)


@contextmanager
def told_apart() -> Iterator[None]:
    """Around a server on stdin. It gets the lines that are messages; of another one it is said once
    that it is none."""
    if sys.stdin is None or not sys.stdin.isatty():
        yield
        return
    say(TOLD, console=err)
    typed = _Typed()
    before = signal.signal(signal.SIGINT, typed.interrupted)
    Thread(target=typed.read, daemon=True).start()
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if typed.was_interrupted:
        raise KeyboardInterrupt


class _Typed:
    """What is typed, with a pipe in the terminal's place: unlike a terminal, that can be closed
    while somebody reads it."""

    def __init__(self) -> None:
        self.was_interrupted = False
        self._terminal = os.dup(0)
        stdin, self._pipe = os.pipe()
        os.dup2(stdin, 0)
        os.close(stdin)
        self._is_open = True
        self._lock = Lock()

    def read(self) -> None:
        said = False
        with os.fdopen(self._terminal, "rb") as lines:
            for line in iter(lines.readline, b""):
                if _is_message(line):
                    with self._lock:
                        if not self._is_open:
                            return
                        os.write(self._pipe, line)
                elif line.strip() and not said:
                    said = True
                    say(NOT_MCP, console=err)
        self._end()

    def interrupted(self, _signal: int, _frame: FrameType | None) -> None:
        self.was_interrupted = True
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # it is not served yet
            raise KeyboardInterrupt from None
        Thread(target=self._end).start()  # a lock in a signal's handler could be its own

    def _end(self) -> None:
        with self._lock:
            if self._is_open:
                self._is_open = False
                os.close(self._pipe)


def _is_message(line: bytes) -> bool:
    try:
        message = json.loads(line)
    except ValueError:
        return False
    return isinstance(message, dict | list) and b"jsonrpc" in line
