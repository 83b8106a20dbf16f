"""The cache file: how it is opened, who may write, and when its WAL is folded back.

SQLite from 3.7.0 to 3.51.2 can damage a file when several processes checkpoint at once
(https://sqlite.org/wal.html#walresetbug), and Debian 12 ships 3.40.1. So whoever writes holds a
file lock around the whole transaction, connections never checkpoint by themselves, and
`checkpoint()` runs under the same lock. Nothing here ever open()s the database, its -wal or its
-shm: closing such a file handle would drop the locks of every connection of this process.
"""

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, IntegrityError

from dbos_mcp.errors import NotFoundError, NotOurFileError, StoreError

logger = logging.getLogger(__name__)

APPLICATION_ID = 0x64626D63  # "dbmc", in the header of every cache file
WAL_LIMIT_BYTES = 16 * 1024 * 1024
LOCK_TIMEOUT_SECONDS = 30.0
_FIXED_IN = (3, 51, 3)
_BACKPORTS = ((3, 44, 6), (3, 50, 7))

_EVERY_CONNECTION = (
    "PRAGMA busy_timeout = 5000",
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA mmap_size = 0",
)


def has_wal_reset_bug(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> bool:
    """Whether this SQLite can damage a WAL file that several processes checkpoint."""
    same_line = any(version[:2] == fix[:2] and version >= fix for fix in _BACKPORTS)
    return (3, 7, 0) <= version < _FIXED_IN and not same_line


class Cache:
    """One open cache file: `read()` and `write()` give a connection in a transaction."""

    def __init__(self, path: Path, *, writable: bool = True) -> None:
        """Open `path`; a writable one is created when it is missing.

        Raises:
            NotFoundError: read-only, and there is no such file.
            NotOurFileError: the file is something else.
            StoreError: it cannot be opened at all.
        """
        self.path = path
        self.writable = writable
        existed = path.exists()
        if not existed and not writable:
            raise NotFoundError(f"There is no cache at {path}.")
        try:
            if writable and not existed:
                _create_private(path)
            if existed:
                _refuse_foreign_file(path)
            self._lock_path = path.with_name(path.name + ".lock")
            self._reader = _engine(path, read_only=True)
            self._writer = _engine(path, read_only=False) if writable else None
            if self._writer is not None:
                self._prepare(self._writer)
        except (OSError, DatabaseError) as error:
            raise StoreError(
                f"The cache {path} cannot be opened: {_reason(error)}.",
                hint="Check its folder, or name another file with DBOS_MCP_CACHE.",
            ) from error
        if writable and has_wal_reset_bug():
            logger.info(
                "SQLite %s has the WAL-reset bug; only lock holders checkpoint, which keeps clear"
                " of it. Do not checkpoint this file with other tools; 3.51.3 has the fix.",
                sqlite3.sqlite_version,
            )

    def _prepare(self, writer: Engine) -> None:
        with self._locked(), writer.connect() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            (mode,) = raw.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise StoreError(
                    f"The cache {self.path} cannot use write-ahead logging (it stays in {mode}).",
                    hint="Network file systems cannot: name a local file with DBOS_MCP_CACHE.",
                )
            if raw.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
                raw.execute(f"PRAGMA application_id = {APPLICATION_ID}")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A snapshot: everything read in it belongs to one moment."""
        try:
            with self._reader.begin() as connection:
                yield connection
        except DatabaseError as error:
            raise StoreError(
                f"The cache {self.path} cannot be read: {_reason(error)}.",
                hint="Nothing was changed. Name another file with DBOS_MCP_CACHE to go on.",
            ) from error

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """The only way to write: one transaction, one writer on this machine at a time."""
        if self._writer is None:
            raise StoreError(f"The cache {self.path} is open for reading only.")
        with self._locked():
            try:
                with self._writer.begin() as connection:
                    yield connection
            except IntegrityError:
                raise  # a fault of ours, not of the file
            except DatabaseError as error:
                raise StoreError(
                    f"The cache {self.path} cannot be written: {_reason(error)}.",
                    hint="Nothing of this change was stored. Check the disk's free space.",
                ) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with FileLock(self._lock_path, timeout=LOCK_TIMEOUT_SECONDS, mode=0o600):
                yield
        except Timeout as error:
            raise StoreError(
                f"Another process has held {self.path} locked for {LOCK_TIMEOUT_SECONDS:.0f} s.",
                hint="Try again; if it stays so, look for a stopped dbos-mcp process.",
            ) from error

    def checkpoint(self, *, wal_limit_bytes: int = WAL_LIMIT_BYTES) -> bool:
        """Fold a WAL beyond the limit back into the file. Only the syncing process calls this."""
        wal = self.path.with_name(self.path.name + "-wal")
        if self._writer is None or not wal.exists() or wal.stat().st_size <= wal_limit_bytes:
            return False
        with self._locked(), self._writer.connect() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            raw.execute("PRAGMA busy_timeout = 200")
            try:
                (busy, *_) = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.OperationalError as error:
                logger.info("The WAL was not folded back, the next cycle tries: %s", error)
                return False
            finally:
                raw.execute("PRAGMA busy_timeout = 5000")
        return not busy

    def close(self) -> None:
        self._reader.dispose()
        if self._writer is not None:
            self._writer.dispose()


def _engine(path: Path, *, read_only: bool) -> Engine:
    mode = "ro" if read_only else "rw"
    engine = create_engine(
        f"sqlite:///file:{_uri_path(path)}?mode={mode}&uri=true",
        pool_size=8 if read_only else 1,
        max_overflow=0,
        pool_timeout=LOCK_TIMEOUT_SECONDS,
        hide_parameters=True,  # in errors and logs: they are the application's data
    )
    own = (
        ("PRAGMA query_only = ON",)
        if read_only
        else (
            "PRAGMA synchronous = FULL",
            "PRAGMA wal_autocheckpoint = 0",
            f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}",
        )
    )

    @event.listens_for(engine, "connect")
    def configure(raw: sqlite3.Connection, _record: Any) -> None:
        raw.isolation_level = None  # transactions begin below, not where the driver guesses
        for pragma in (*_EVERY_CONNECTION, *own):
            raw.execute(pragma)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _uri_path(path: Path) -> str:
    return str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _create_private(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # SQLite gives -wal and -shm the mode of the database, so it must be right before the first use.
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))


def _refuse_foreign_file(path: Path) -> None:
    not_ours = NotOurFileError(
        f"{path} is not a dbos-mcp cache; it was left as it is.",
        hint="Name another file with DBOS_MCP_CACHE, or move this one away.",
    )
    if not path.is_file():
        raise not_ours
    engine = _engine(path, read_only=True)
    try:
        with engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            (application_id,) = raw.execute("PRAGMA application_id").fetchone()
            (tables,) = raw.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        raise
    except (sqlite3.DatabaseError, DatabaseError) as error:
        raise not_ours from error
    finally:
        engine.dispose()
    if tables and application_id != APPLICATION_ID:
        raise not_ours


def _reason(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return getattr(cause, "strerror", None) or str(cause)
