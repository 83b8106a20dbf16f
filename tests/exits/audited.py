"""Runs `dbos-mcp …` and writes down, as JSON lines, what the process and Python itself are asked to
touch: files, addresses, programs, libraries. The first argument is the file to write to."""

import json
import os
import runpy
import sys
from typing import Any

_FILE = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = (
    *("os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink", "os.chmod"),
    *("os.chown", "os.truncate", "os.utime", "shutil.rmtree"),
)
_PROGRAMS = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.fork")
_NETWORK = ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo")


def _noted(event: str, arguments: tuple[Any, ...]) -> tuple[str, str] | None:
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, int):  # it was opened before
            return None
        return ("write" if (flags or 0) & _WRITING else "read"), os.fsdecode(path)
    if event == "sqlite3.connect":
        return "write", os.fsdecode(arguments[0])
    if event in _CHANGES:
        path = arguments[0]
        return None if isinstance(path, int) else ("write", os.fsdecode(path))
    if event in _NETWORK:
        return "network", str(arguments[0] if event == "socket.getaddrinfo" else arguments[1])
    if event in _PROGRAMS:
        return "program", " ".join(map(str, arguments[1])) if len(arguments) > 1 else event
    if event == "ctypes.dlopen":
        return "library", str(arguments[0])
    return None


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    noted = _noted(event, arguments)
    if noted is not None:
        os.write(_FILE, (json.dumps(noted) + "\n").encode())


if __name__ == "__main__":
    sys.addaudithook(_listen)
    del sys.argv[1]
    runpy.run_module("dbos_mcp", run_name="__main__", alter_sys=True)
