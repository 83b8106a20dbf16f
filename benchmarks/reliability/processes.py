"""What Linux tells of processes: who holds a lock, how much memory one has, who was left behind."""

import ctypes
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_PROC = Path("/proc")

PROCESSES = multiprocessing.get_context("forkserver")
"""Where new ones come from: one that has the program imported, and has opened nothing."""
PROCESSES.set_forkserver_preload(["alembic.command", "dbos_mcp.runtime", "dbos_mcp.sync.scheduler"])


def adopt_orphans() -> None:
    """Children whose parent was killed become this process's, and can be found by that."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> Iterator[tuple[int, str]]:
    """Of this process, those that live: id and command."""
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            try:
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
            except OSError:
                continue  # it has just ended
            if int(parent) == os.getpid() and state != "Z":
                yield int(folder.name), command.decode("utf-8", "replace").strip()


def resident_bytes(process_id: int) -> int | None:
    """None: it is gone."""
    try:
        status = (_PROC / str(process_id) / "status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return None


def holder_of(lock: Path) -> int | None:
    """The process that holds this file lock."""
    try:
        inode = lock.stat().st_ino
    except FileNotFoundError:
        return None
    for line in (_PROC / "locks").read_text().splitlines():
        # `1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF`; who waits has an arrow in between.
        _, kind, _, access, process_id, place, *_ = line.split()
        if (kind, access) == ("FLOCK", "WRITE") and int(place.rpartition(":")[2]) == inode:
            return int(process_id)
    return None


def processor_seconds(process_id: int) -> float:
    """What it has used so far, in all its threads; however busy the machine is with others."""
    fields = (_PROC / str(process_id) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
