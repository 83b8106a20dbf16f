"""The cache file: how it is opened, who may write, and when its WAL is folded back.

SQLite from 3.7.0 to 3.51.2 can damage a file when several processes checkpoint at once
(https://sqlite.org/wal.html#walresetbug), and Debian 12 ships 3.40.1. So whoever writes holds a
file lock around the whole transaction, connections never checkpoint by themselves, and
`checkpoint()` runs under the same lock. Nothing here ever open()s the database, its -wal or its
-shm: closing such a file handle would drop the locks of every connection of this process.
"""

import logging
import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.exc import DatabaseError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool
from sqlmodel import SQLModel

from dbos_mcp.domain import one_line
from dbos_mcp.errors import NotFoundError, NotOurFileError, StoreError

logger = logging.getLogger(__name__)

APPLICATION_ID = 0x64626D63  # "dbmc", in the header of every cache file
EXCERPT_ID = 0x64626D69  # "dbmi": an incident file, which nobody writes to
WAL_LIMIT_BYTES = 16 * 1024 * 1024
SMALL_BYTES = 4 * 1024 * 1024
WRITER_CACHE_KIB = 8 * 1024
"""Workflow ids come in no order: the pages of their index are better not read again each time."""
LOCK_TIMEOUT_SECONDS = 30.0
BUSY_TIMEOUT_MS = 5000
CHECKED_BYTES = 256 * 1024 * 1024
"""An incident file that is no larger is looked through for damage when it is opened."""
LONGEST_VALUE = 128 * 1024 * 1024
CUT_OFF = "It may have been cut off on its way: ask for it again."
_FIXED_IN = (3, 51, 3)
_BACKPORTS = ((3, 44, 6), (3, 50, 7))

_EVERY_CONNECTION = (
    f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}",
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA mmap_size = 0",
)
_opening = threading.Lock()


def has_wal_reset_bug(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> bool:
    """Whether this SQLite can damage a WAL file that several processes checkpoint."""
    same_line = any(version[:2] == fix[:2] and version >= fix for fix in _BACKPORTS)
    return (3, 7, 0) <= version < _FIXED_IN and not same_line


class Cache:
    """One open cache file: `read()` and `write()` give a connection in a transaction."""

    def __init__(
        self,
        path: Path,
        *,
        writable: bool = True,
        lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
        shown_as: Path | None = None,
    ) -> None:
        """Open `path`; a writable one is created when it is missing.

        Raises:
            NotFoundError: read-only, and there is no such file.
            NotOurFileError: the file is something else.
            StoreError: it cannot be opened at all, or not for writing.
        """
        self.path = shown_as or path
        self.writable = writable
        self.is_excerpt = False
        """Whether it is an incident file: part of a mirror, made once and never changed."""
        self._lock_timeout_seconds = lock_timeout_seconds
        # SQLite follows symbolic links; two names of one file must share one lock.
        self._file = Path(os.path.realpath(path))
        self._lock_path = self._beside(".lock")
        self._turn = threading.Lock()
        self.cleanup = ExitStack()
        """What `close()` does besides."""
        # Such a file in WAL mode can be opened in no other way, and hardly be written to.
        sealed_in = not writable and not os.access(self._file.parent, os.W_OK)
        immutable = sealed_in and not self._beside("-wal").exists()
        self.read_uri = _uri(self._file, "ro") + ("&immutable=1" if immutable else "")
        """How a connection that only reads is opened, by any process."""
        self._reader = _engine(self.read_uri, read_only=True)
        self._writer = _engine(_uri(self._file, "rw"), read_only=False) if writable else None
        try:
            with _opening, self._faults_as_errors("opened", OSError):
                if not self._file.exists() and not writable:
                    raise NotFoundError(
                        f"There is no cache at {path}.",
                        hint="`dbos-mcp sync` makes one; DBOS_MCP_CACHE names another file.",
                    )
                if not (writable and _create_private(self._file)):
                    self._refuse_foreign_file()
                if self._writer is not None:
                    self._prepare(self._writer)
        except BaseException:
            self.close()
            raise
        if writable and has_wal_reset_bug():
            logger.info(
                "SQLite %s has the WAL-reset bug; only lock holders checkpoint, which keeps clear"
                " of it. Do not checkpoint this file with other tools; 3.51.3 has the fix.",
                sqlite3.sqlite_version,
            )

    def _refuse_foreign_file(self) -> None:
        not_ours = NotOurFileError(
            f"{self.path} is not a dbos-mcp cache; it was left as it is.",
            hint="Name another file with DBOS_MCP_CACHE, or move this one away.",
        )
        if not self._file.is_file():
            raise not_ours
        # A look at a file in WAL mode leaves a -wal and a -shm behind, unless the file is called
        # immutable. Without a -wal nobody writes to it, nor does this process hold locks on it.
        immutable = "" if self._beside("-wal").exists() else "&immutable=1"
        uri = f"{self._file.as_uri()}?mode=ro{immutable}"
        try:
            with closing(sqlite3.connect(uri, uri=True)) as raw:
                (application_id,) = raw.execute("PRAGMA application_id").fetchone()
                (tables,) = raw.execute("SELECT count(*) FROM sqlite_master").fetchone()
                strange = None if self.writable else _strange_object(raw)
        except sqlite3.DatabaseError as error:
            if _primary_code(error) == sqlite3.SQLITE_NOTADB:
                raise not_ours from error
            raise
        # Pages are whole multiples of 512 bytes; SQLite takes a few bytes of text for a blank file.
        blank = application_id == 0 and tables == 0 and self._file.stat().st_size % 512 == 0
        if application_id == EXCERPT_ID:
            self.is_excerpt = True
            if self.writable:
                raise StoreError(
                    f"{self.path} is an incident file: it can only be read.",
                    hint="Start with --offline; or name another file with DBOS_MCP_CACHE.",
                )
        elif application_id != APPLICATION_ID and not blank:
            raise not_ours
        if strange is not None:
            raise StoreError(
                f"{self.path} is not as dbos-mcp makes such files: {one_line(strange, 80)} in it"
                " could run code of its maker's. It was left unread.",
                hint="Ask for it again, and only from whom you trust.",
            )
        if self.is_excerpt and self._file.stat().st_size <= CHECKED_BYTES:
            self._require_sound(uri)
        if blank and self.writable:
            self._file.chmod(0o600)  # of another program's making, and ours from now on

    def _require_sound(self, uri: str) -> None:
        """It came from elsewhere, and may be cut off."""
        with closing(sqlite3.connect(uri, uri=True)) as raw:
            for pragma in _EVERY_CONNECTION:
                raw.execute(pragma)
            (found,) = raw.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise StoreError(
                f"The cache {self.path} cannot be opened: it is damaged ({one_line(found)}).",
                hint=CUT_OFF,
            )

    def _prepare(self, writer: Engine) -> None:
        with self._locked(), writer.connect() as connection:
            raw = _driver_connection(connection)
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
        """A snapshot: everything read in it belongs to one moment.

        Raises:
            StoreError: the file is damaged, or out of reach.
        """
        with self._faults_as_errors("read"), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """The only way to write: one transaction, one writer on this machine at a time.

        Raises:
            StoreError: nothing of the transaction was stored.
        """
        if self._writer is None:
            raise StoreError(
                f"The cache {self.path} is open for reading only.",
                hint="Start without --offline for that.",
            )
        with (
            self._locked(),
            self._faults_as_errors("written"),
            self._writer.begin() as connection,
        ):
            yield connection

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = FileLock(self._lock_path, timeout=self._lock_timeout_seconds, mode=0o600)
        with ExitStack() as held:
            with self._faults_as_errors("locked", OSError):
                try:
                    # Threads first among themselves: a file lock is polled for, this one wakes.
                    if not self._turn.acquire(timeout=self._lock_timeout_seconds):
                        raise Timeout(str(self._lock_path))
                    held.callback(self._turn.release)
                    lock.acquire()
                    held.callback(lock.release)
                except Timeout as error:
                    raise StoreError(
                        f"Another process has held the cache {self.path} locked for"
                        f" {self._lock_timeout_seconds:g} s.",
                        hint="Try again; if it stays so, look for a stopped dbos-mcp process.",
                    ) from error
            yield

    @contextmanager
    def _faults_as_errors(self, what: str, *others: type[Exception]) -> Iterator[None]:
        """Faults of the file, and `others`, as StoreError. A broken constraint is a fault of ours,
        and rises as it is."""
        faults: tuple[type[Exception], ...] = (
            DatabaseError,
            sqlite3.DatabaseError,
            PoolTimeout,
            *others,
        )
        try:
            yield
        except (IntegrityError, sqlite3.IntegrityError):
            raise
        except faults as error:
            reason, hint = _explain(error)
            if self.is_excerpt:
                hint = CUT_OFF
            raise StoreError(
                f"The cache {self.path} cannot be {what}: {reason}.", hint=hint
            ) from error

    def checkpoint(self, *, wal_limit_bytes: int = WAL_LIMIT_BYTES) -> bool:
        """Fold a WAL beyond the limit back into the file; whether that was done. Only the syncing
        process calls this."""
        wal = self._beside("-wal")
        if self._writer is None or not wal.exists() or wal.stat().st_size <= wal_limit_bytes:
            return False
        with (
            self._locked(),
            self._faults_as_errors("written"),
            self._writer.connect() as connection,
        ):
            raw = _driver_connection(connection)
            raw.execute("PRAGMA busy_timeout = 200")
            try:
                (busy, *_) = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                raw.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        if busy:
            logger.info("A reader keeps the WAL from being folded back; the next cycle tries.")
        return not busy

    def close(self) -> None:
        self._reader.dispose()
        if self._writer is not None:
            self._writer.dispose()
        self.cleanup.close()

    def _beside(self, suffix: str) -> Path:
        return self._file.with_name(self._file.name + suffix)


def copy(cache: Cache, path: Path) -> None:
    """Copy a cache to a new file of its own, as of one moment and without a WAL, while others read
    and write it."""
    _create_private(path)
    with cache.read() as connection, closing(sqlite3.connect(path)) as target:
        target.execute("PRAGMA synchronous = OFF")  # whoever needs it to last syncs it once
        _driver_connection(connection).backup(target)
        target.execute("PRAGMA journal_mode = DELETE")


def adopt(path: Path) -> None:
    """Make an ordinary cache, which can be changed, of the copy of an incident file."""
    with closing(sqlite3.connect(path)) as database:
        triggers = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in triggers.fetchall():  # whoever made it may have made others
            quoted = str(name).replace('"', '""')
            database.execute(f'DROP TRIGGER "{quoted}"')
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def seal(cache: Cache, path: Path) -> int:
    """Make an incident file of a finished cache, and say how large it is: without a WAL, so that it
    can be read where nothing can be written, and without room to spare.

    The file must not be there yet.
    """
    _create_private(path)
    with cache.read() as connection:
        pages, page_size = (
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("page_count", "page_size")
        )
    with closing(sqlite3.connect(f"{cache.path.as_uri()}?mode=ro", uri=True)) as raw:
        if pages * page_size < SMALL_BYTES:  # where most tables and indexes fill no page
            raw.execute("PRAGMA page_size = 1024")
        raw.execute("VACUUM INTO ?", (str(path),))
    with closing(sqlite3.connect(path)) as sealed:
        sealed.execute(f"PRAGMA application_id = {EXCERPT_ID}")
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path.stat().st_size


def size_bytes(connection: Connection) -> int:
    """Of the whole cache, what is still in its WAL included."""
    pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    return int(pages * connection.exec_driver_sql("PRAGMA page_size").scalar_one())


class _Compiler(SQLiteCompiler):
    """Knows `with_hint`, for SQLite's INDEXED BY."""

    def get_from_hint_text(self, table: object, text: str | None) -> str | None:
        return text


def _uri(path: Path, mode: str) -> str:
    return f"{path.as_uri()}?mode={mode}"


def _engine(uri: str, *, read_only: bool) -> Engine:
    def connect() -> sqlite3.Connection:  # a URL for SQLAlchemy would be unquoted once too often
        return sqlite3.connect(uri, uri=True, check_same_thread=False)

    engine = create_engine(
        "sqlite://",
        creator=connect,
        poolclass=QueuePool,
        pool_size=8 if read_only else 1,
        max_overflow=0,
        pool_timeout=LOCK_TIMEOUT_SECONDS,
        hide_parameters=True,  # in errors and logs: they are the application's data
    )
    engine.dialect.statement_compiler = _Compiler
    own = (
        ("PRAGMA query_only = ON",)
        if read_only
        else (
            "PRAGMA synchronous = FULL",
            "PRAGMA wal_autocheckpoint = 0",
            f"PRAGMA cache_size = -{WRITER_CACHE_KIB}",
            f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}",
        )
    )

    @event.listens_for(engine, "connect")
    def configure(raw: sqlite3.Connection, _record: Any) -> None:
        if read_only:
            raw.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
        raw.isolation_level = None  # transactions begin below, not where the driver guesses
        for pragma in (*_EVERY_CONNECTION, *own):
            raw.execute(pragma)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


_COMPUTES = re.compile(r"\b(?:CHECK|GENERATED|AS)\b|\bDEFAULT\s*\(", re.IGNORECASE)
"""In a table's definition: what is evaluated when its rows are read or written."""
_PLAIN_INDEX = re.compile(r"[\w\s(),=']*")
_CALL = re.compile(r"(\w+)\s*\(")


def _strange_object(raw: sqlite3.Connection) -> str | None:
    """A table or an index under a name of ours that may run more than we would: a view, a virtual
    table, a column or an index that is computed. What has other names, nobody ever reads."""
    ours = {*SQLModel.metadata.tables, "alembic_version"}
    objects = raw.execute("SELECT type, lower(name), lower(tbl_name), sql FROM sqlite_master")
    for kind, name, table, sql in objects:
        if not {name, table} & ours or kind == "trigger" or sql is None:
            continue  # triggers run when rows are written, and a copy has none
        sql = str(sql)
        match kind:
            case "table":
                created = re.match(r"\s*CREATE\s+TABLE\b", sql, re.IGNORECASE)
                plain = created is not None and not _COMPUTES.search(sql.partition("(")[2])
            case "index":
                called = {call.lower() for call in _CALL.findall(sql)}
                plain = _PLAIN_INDEX.fullmatch(sql) is not None and called <= {table, "in"}
            case _:
                plain = False
        if not plain:
            return f"the {kind} {name}"
    return None


def _create_private(path: Path) -> bool:
    """False: it was there already."""
    missing = [folder for folder in path.parents if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
    # SQLite gives -wal and -shm the mode of the database, so it must be right before the first use.
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return False
    os.close(handle)
    return True


def _driver_connection(connection: Connection) -> sqlite3.Connection:
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw


def _primary_code(error: BaseException | None) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _explain(error: Exception) -> tuple[str, str]:
    """What is wrong, and what to do next."""
    cause = getattr(error, "orig", None) or error
    detail = getattr(cause, "strerror", None) or str(cause)
    match _primary_code(cause):
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return (
                f"it is damaged ({detail})",
                "Move it away together with its -wal file, and keep both: the next sync fills a"
                " new cache.",
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return detail, "Close the other program that has it open, and try again."
        case sqlite3.SQLITE_FULL:
            return detail, "Free some space and try again; nothing of this change was stored."
        case _:
            return (
                detail,
                "Nothing was changed. Check its folder, or name another file with DBOS_MCP_CACHE.",
            )
