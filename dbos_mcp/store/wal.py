"""When the write-ahead log is folded back into the file."""

import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from dbos_mcp.store.connections import BUSY_TIMEOUT_MS, WAL_LIMIT_BYTES

logger = logging.getLogger(__name__)

UNLED_LIMIT_BYTES = 2 * WAL_LIMIT_BYTES
"""Whoever writes folds back what is beyond: no process may lead, or one that is stopped."""
CEILING_BYTES = 4 * WAL_LIMIT_BYTES
BUSY_MS = 200
PAUSE_SECONDS = 30.0
PAUSE_BEYOND_CEILING_SECONDS = 1.0


class Wal:
    """The write-ahead log of one file. All of it is used under the write lock alone: a checkpoint
    beside another one, or beside a writer, is what SQLite's WAL-reset bug needs."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._not_before = 0.0

    def size_bytes(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def is_due(self, limit_bytes: int) -> bool:
        return self.size_bytes() > limit_bytes and self._clock() >= self._not_before

    def fold_back(self, raw: sqlite3.Connection) -> bool:
        """Whether all of it was; a reader in the middle puts that off, for longer than a moment
        unless it is high time."""
        raw.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        try:
            (busy, *_) = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            raw.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        if busy:
            beyond = self.size_bytes() > CEILING_BYTES
            pause = PAUSE_BEYOND_CEILING_SECONDS if beyond else PAUSE_SECONDS
            self._not_before = self._clock() + pause
            logger.info("A reader keeps the WAL from being folded back for now.")
        return not busy
