"""Which of the processes that share a cache syncs it."""

import os
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout


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

        Whoever holds a lock cannot be asked. So it is tried for an instant, and never made: should
        a process want to lead in that instant, it does so at its next try.
        """
        if self.held:
            return True
        try:
            if not self._file.exists():
                return False
            with FileLock(self._file, timeout=0, mode=0o600):
                return False
        except Timeout:
            return True
        except OSError:
            return None
