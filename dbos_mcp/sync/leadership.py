"""Which of the processes that share a cache syncs it."""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

LOCKS = Path("/proc/locks")


class Leader(NamedTuple):
    process: int
    started_at: int | None
    """Epoch ms."""


class Leadership:
    """A file lock beside the cache, which the system lets go of when its process ends, however it
    ends. A process that is only stopped keeps it: there are never two leaders."""

    def __init__(self, cache: Path, role: str = "leader") -> None:
        cache = Path(os.path.realpath(cache))  # two names of one file have one leader
        self._file = cache.with_name(f"{cache.name}.{role}.lock")
        self._lock = FileLock(self._file, timeout=0, mode=0o600, thread_local=False)

    @property
    def held(self) -> bool:
        return bool(self._lock.is_locked)

    def take(self) -> bool:
        """Whether this process leads now."""
        if not self.held:
            with suppress(Timeout):
                self._lock.acquire()
        return self.held

    def release(self) -> None:
        self._lock.release(force=True)

    def taken(self) -> bool | None:
        """Whether any process leads; None: it cannot be seen from here.

        Whoever holds a lock cannot be asked. So it is tried for an instant, as one of many who may
        look, and never made or written to: should a process want to lead in that instant, it does
        so at its next try.
        """
        if self.held:
            return True
        try:
            file = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return not _is_free(file)
            finally:
                os.close(file)
        except FileNotFoundError:
            return False
        except (OSError, ImportError):
            return None

    def leader(self) -> "Leader | None":
        """The process that leads, where the system tells (Linux does)."""
        try:
            inode = self._file.stat().st_ino
            locks = LOCKS.read_text()
        except OSError:
            return None
        for line in locks.splitlines():
            _, kind, _, _, process, place, *_ = (*line.split(), *[""] * 6)
            if kind == "FLOCK" and place.endswith(f":{inode}") and process.isdecimal():
                return Leader(int(process), _started_at(int(process)))
        return None


def _is_free(lock_file: int) -> bool:
    import fcntl  # not on Windows

    with suppress(BlockingIOError):
        fcntl.flock(lock_file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    return False


def _started_at(process: int) -> int | None:
    """proc(5): field 22 of its stat is in ticks since the system started."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return None
    return int((time.time() - age) * 1000)
