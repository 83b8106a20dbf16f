"""The cache file: how it is opened, who may write, and when its WAL is folded back.

SQLite from 3.7.0 to 3.51.2 can damage a file when several processes checkpoint at once
(https://sqlite.org/wal.html#walresetbug), and Debian 12 ships 3.40.1. So whoever writes holds a
file lock around the whole transaction, connections never checkpoint by themselves, and a checkpoint
is made under the same lock: by the process that syncs, and by whoever else writes only where the
WAL has become twice as long as that one lets it. Nothing here ever open()s the database, its -wal
or its -shm: closing such a file handle would drop the locks of every connection of this process.
"""

import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine
from sqlmodel import SQLModel

from dbos_mcp.domain import one_line
from dbos_mcp.errors import NotFoundError, NotOurFileError, StoreError
from dbos_mcp.files import may
from dbos_mcp.sqlite import require_sqlite
from dbos_mcp.store import filesystems, schema
from dbos_mcp.store.connections import (
    EVERY_CONNECTION,
    WAL_LIMIT_BYTES,
    driver_connection,
    engine_of,
    uri_of,
)
from dbos_mcp.store.faults import RESTORE, faults_as_errors, primary_code
from dbos_mcp.store.wal import UNLED_LIMIT_BYTES, Wal

logger = logging.getLogger(__name__)

APPLICATION_ID = 0x64626D63  # "dbmc", in the header of every cache file
EXCERPT_ID = 0x64626D69  # "dbmi": an incident file, which nobody writes to
SMALL_BYTES = 4 * 1024 * 1024
LOCK_TIMEOUT_SECONDS = 30.0
POLL_SECONDS = 0.01
"""Between two transactions of a load there is hardly more time to get in."""
CHECKED_BYTES = 256 * 1024 * 1024
"""An incident file that is no larger is looked through for damage when it is opened."""
CUT_OFF = "It may have been cut off on its way: ask for it again."
_FIXED_IN = (3, 51, 3)
_BACKPORTS = ((3, 44, 6), (3, 50, 7))

_opening = threading.Lock()


def has_wal_reset_bug(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> bool:
    """Whether this SQLite can damage a WAL file that several processes checkpoint."""
    same_line = any(version[:2] == fix[:2] and version >= fix for fix in _BACKPORTS)
    return (3, 7, 0) <= version < _FIXED_IN and not same_line


class Cache:
    """One open cache file: `read()` and `write()` give a connection in a transaction.

    Each of them first looks whether it is still the same file, and of the same schema: that costs
    microseconds, and what other programs do to a file in use is never answered with damage.
    """

    def __init__(
        self,
        path: Path,
        *,
        writable: bool = True,
        leave_no_trace: bool = False,
        lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
        shown_as: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open `path`; a writable one is created when it is missing. With `leave_no_trace` one that
        is only read, and that nobody has open, gets no -wal and no -shm beside it either.

        Raises:
            NotFoundError: read-only, and there is no such file.
            NotOurFileError: the file is something else.
            StoreError: it cannot be opened at all, or not for writing; SQLite is too old.
        """
        require_sqlite()
        self.path = shown_as or path
        self.writable = writable
        self.is_excerpt = False
        """Whether it is an incident file: part of a mirror, made once and never changed."""
        self.revision: str | None = None
        """The schema that its user knows; None: whatever it finds, to bring it to that schema."""
        self.notice: str | None = None
        """What whoever asks should know of it: why it can only be read, say."""
        self._lock_timeout_seconds = lock_timeout_seconds
        # SQLite follows symbolic links; two names of one file must share one lock.
        self._file = Path(os.path.realpath(path))
        self._lock_path = self._beside(".lock")
        self._wal = Wal(self._beside("-wal"), clock)
        self._turn = threading.Lock()
        self._reopening = threading.Lock()
        self._identity: _Identity | None = None
        self._wal_identity: _Identity | None = None
        self._schema_version: int | None = None
        self._is_newer = False
        self._is_set_up = False
        self.cleanup = ExitStack()
        """What `close()` does besides."""
        # Such a file in WAL mode can be opened in no other way, and hardly be written to.
        sealed_in = leave_no_trace or not may(self._file.parent, os.W_OK)
        immutable = not writable and sealed_in and not self._wal.path.exists()
        self.read_uri = uri_of(self._file, "ro") + ("&immutable=1" if immutable else "")
        """How a connection that only reads is opened, by any process."""
        self._reader = engine_of(self.read_uri, read_only=True)
        self._writer = engine_of(uri_of(self._file, "rw"), read_only=False) if writable else None
        try:
            with _opening, self._faults_as_errors("opened", OSError):
                self._open()
        except BaseException:
            self.close()
            raise
        if writable and has_wal_reset_bug():
            logger.info(
                "SQLite %s has the WAL-reset bug; only lock holders checkpoint, which keeps clear"
                " of it. Do not checkpoint this file with other tools; 3.51.3 has the fix.",
                sqlite3.sqlite_version,
            )

    def _open(self) -> None:
        if self.writable:
            filesystems.require_local(self._file)
            self._refuse_a_wal_without_its_file()
        elif not self._file.exists():
            raise NotFoundError(
                f"There is no cache at {self.path}.",
                hint="`dbos-mcp sync` makes one; DBOS_MCP_CACHE names another file.",
            )
        if not (self.writable and _create_private(self._file)):
            self._look_at_the_file()
        self._identity = _identity_of(self._file)
        if self._writer is not None:
            with self._locked():
                self._set_up(self._writer)

    def _look_at_the_file(self) -> None:
        try:
            self._refuse_foreign_file()
        except (NotOurFileError, sqlite3.DatabaseError):
            if not (self.writable and self._lock_path.exists()):
                raise
            with self._locked():  # perhaps another process was about to make it, or to close it
                self._refuse_foreign_file()

    def _refuse_a_wal_without_its_file(self) -> None:
        """SQLite would remove it, with all that had not come into the file yet."""
        size = self._file.stat().st_size if self._file.exists() else 0
        if size == 0 and self._wal.size_bytes() > 0:
            raise StoreError(
                f"The cache {self.path} is gone, while {self._wal.path.name} beside it still holds"
                " changes to it.",
                hint="Put the file back, or restore a backup with `dbos-mcp cache restore`; to"
                " begin anew, move that one away.",
            )

    def _refuse_foreign_file(self, *, may_be_blank: bool = True) -> None:
        if_it_was = f" If it was one: {RESTORE}" if self._lock_path.exists() else ""
        not_ours = NotOurFileError(
            f"{self.path} is not a dbos-mcp cache; it was left as it is.",
            hint=f"Name another file with DBOS_MCP_CACHE, or move this one away.{if_it_was}",
        )
        if not self._file.is_file():
            raise not_ours
        # A look at a file in WAL mode leaves a -wal and a -shm behind, unless the file is called
        # immutable. Without a -wal nobody writes to it, nor does this process hold locks on it.
        immutable = "" if self._wal.path.exists() else "&immutable=1"
        uri = f"{self._file.as_uri()}?mode=ro{immutable}"
        try:
            with closing(sqlite3.connect(uri, uri=True)) as raw:
                (application_id,) = raw.execute("PRAGMA application_id").fetchone()
                (tables,) = raw.execute("SELECT count(*) FROM sqlite_master").fetchone()
                strange = None if self.writable else _strange_object(raw)
        except sqlite3.DatabaseError as error:
            if primary_code(error) == sqlite3.SQLITE_NOTADB:
                raise not_ours from error
            raise
        # Pages are whole multiples of 512 bytes; SQLite takes a few bytes of text for a blank file.
        blank = (
            may_be_blank
            and application_id == 0
            and tables == 0
            and self._file.stat().st_size % 512 == 0
        )
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
            for pragma in EVERY_CONNECTION:
                raw.execute(pragma)
            (found,) = raw.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise StoreError(
                f"The cache {self.path} cannot be opened: it is damaged ({one_line(found)}).",
                hint=CUT_OFF,
            )

    def _set_up(self, writer: Engine) -> None:
        """Under the write lock. Its connection stays open, and with it the -shm that readers in
        other processes need."""
        with writer.connect() as connection:
            raw = driver_connection(connection)
            (mode,) = raw.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise StoreError(
                    f"The cache {self.path} cannot use write-ahead logging (it stays in {mode}).",
                    hint="Network file systems cannot: name a local file with DBOS_MCP_CACHE.",
                )
            if raw.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
                raw.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self._is_set_up = True

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A snapshot: everything read in it belongs to one moment.

        Raises:
            StoreError: the file is damaged, or out of reach.
        """
        with self._faults_as_errors("read"):
            self._require_same_file()
            with self._reader.begin() as connection:
                self._require_known_schema(connection, writing=False)
                yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """The only way to write: one transaction, one writer on this machine at a time.

        Raises:
            StoreError: nothing of the transaction was stored.
        """
        writer = self._require_writer()
        with self._locked():
            with self._faults_as_errors("written"):
                self._require_same_file()
                if self.notice is not None and not self._is_newer:
                    raise StoreError(self.notice)
                if not self._is_set_up:
                    self._set_up(writer)
                with writer.begin() as connection:
                    self._require_known_schema(connection, writing=True)
                    yield connection
            if self._wal.is_due(UNLED_LIMIT_BYTES):
                self._fold_back_if_possible(writer)

    def _require_writer(self) -> Engine:
        if self._writer is None:
            raise StoreError(
                self.notice or f"The cache {self.path} is open for reading only.",
                hint="" if self.notice else "Start without --offline for that.",
            )
        return self._writer

    def _require_same_file(self) -> None:
        """Or else another one that is a cache, as after a restore."""
        found = _identity_of(self._file)
        if found == self._identity:
            self._require_same_wal()
            return
        with self._reopening:
            if found is None:
                raise StoreError(
                    f"The cache {self.path} was deleted, or moved away, while it was in use.",
                    hint="Put it back, or restore a backup with `dbos-mcp cache restore`; a restart"
                    " begins a new one.",
                )
            if found != self._identity:
                self._refuse_foreign_file(may_be_blank=False)
                # SQLite sees that the old one has moved, and leaves the new one's -wal alone.
                self._dispose()
                self._identity, self._wal_identity, self._schema_version = found, None, None
                self._is_set_up = False
                if self.writable:  # what was to be said was of the other file
                    self._is_newer, self.notice = False, None
                logger.info(
                    "The cache %s was replaced; the new file is read from now on.", self.path
                )

    def _require_same_wal(self) -> None:
        """As long as one connection is open, nobody has any business to remove it."""
        if self._writer is None:
            return
        found = _identity_of(self._wal.path)
        if self._wal_identity is None:
            self._wal_identity = found
        elif found != self._wal_identity:
            raise StoreError(
                f"{self._wal.path.name} of the cache {self.path} was deleted while it was in use.",
                hint="Stop every dbos-mcp process that uses it, and start again: whoever stops last"
                " saves what that file held.",
            )

    def _require_known_schema(self, connection: Connection, *, writing: bool) -> None:
        """A newer program may have migrated the file since it was opened."""
        if self.revision is None:
            return
        (version,) = driver_connection(connection).execute("PRAGMA schema_version").fetchone()
        if version != self._schema_version:
            found = schema.revision_of(connection)
            if found is None or found < self.revision:
                raise StoreError(
                    f"The cache {self.path} was replaced by one of an older version.",
                    hint="Restart: opening it makes it current.",
                )
            self._is_newer = found > self.revision
            if self._is_newer:
                if not schema.readable_by(connection, self.revision):
                    raise schema.too_new(self.path, found, self.revision)
                if self.notice is None:
                    self.notice = schema.only_read(self.path, found, self.revision)
                    logger.warning("%s", self.notice)
            self._schema_version = version
        if writing and self._is_newer:
            raise schema.too_new(self.path, schema.revision_of(connection), self.revision)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = FileLock(
            self._lock_path,
            timeout=self._lock_timeout_seconds,
            mode=0o600,
            poll_interval=POLL_SECONDS,
        )
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

    def _faults_as_errors(
        self, what: str, *others: type[Exception]
    ) -> AbstractContextManager[None]:
        hint = CUT_OFF if self.is_excerpt else None
        return faults_as_errors(self.path, what, *others, hint=hint)

    def checkpoint(self, *, wal_limit_bytes: int = WAL_LIMIT_BYTES) -> bool:
        """Fold a WAL beyond the limit back into the file; whether that was done. For the process
        that syncs, and for whoever writes much while none does."""
        if self._writer is None or not self._wal.is_due(wal_limit_bytes):
            return False
        with self._locked(), self._faults_as_errors("written"):
            return self._fold_back(self._writer)

    def _fold_back(self, writer: Engine) -> bool:
        self._require_same_file()
        with writer.connect() as connection:
            return self._wal.fold_back(driver_connection(connection))

    def _fold_back_if_possible(self, writer: Engine) -> None:
        """What was written before is stored all the same."""
        try:
            with self._faults_as_errors("written"):
                self._fold_back(writer)
        except StoreError as error:
            logger.warning("The WAL could not be folded back: %s", error)

    def close(self) -> None:
        """Whoever closes a file as the last one folds its WAL back: SQLite does, and holds the
        whole file meanwhile. Readers leave it as it is."""
        with ExitStack() as held:
            # Nobody waits for that: where another process writes, this one is not the last.
            with suppress(Timeout, OSError):
                if self._writer is not None and self._lock_path.exists():
                    lock = FileLock(self._lock_path, timeout=0, mode=0o600)
                    held.enter_context(lock.acquire())
            self._dispose()
        self.cleanup.close()

    def _dispose(self) -> None:
        self._reader.dispose()
        if self._writer is not None:
            self._writer.dispose()

    def _beside(self, suffix: str) -> Path:
        return self._file.with_name(self._file.name + suffix)


def copy(cache: Cache, path: Path) -> None:
    """Copy a cache to a new file of its own, as of one moment and without a WAL, while others read
    and write it."""
    _create_private(path)
    with cache.read() as connection, closing(sqlite3.connect(path)) as target:
        target.execute("PRAGMA synchronous = OFF")  # whoever needs it to last syncs it once
        driver_connection(connection).backup(target)
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


def unwritable(path: Path) -> str | None:
    """Why a file that is there can only be read; None: it can be written to, or is not there."""
    file = Path(os.path.realpath(path))
    if not file.is_file() or all(may(each, os.W_OK) for each in (file, file.parent)):
        return None
    return (
        f"The cache {path} cannot be written to (a read-only file system, or no permission): it is"
        " only read, and nothing is synced. Make it writable and restart, or name another file with"
        " DBOS_MCP_CACHE."
    )


def size_bytes(connection: Connection) -> int:
    """Of the whole cache, what is still in its WAL included."""
    pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    return int(pages * connection.exec_driver_sql("PRAGMA page_size").scalar_one())


class _Identity(NamedTuple):
    device: int
    inode: int


def _identity_of(path: Path) -> _Identity | None:
    """What the name leads to, without opening it; None: nowhere."""
    try:
        found = path.stat()
    except OSError:
        return None
    return _Identity(found.st_dev, found.st_ino)


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
