"""How SQLite is set up on each connection to a cache file.

Nothing here lets SQLite checkpoint by itself: see `engine`.
"""

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.pool import QueuePool

WAL_LIMIT_BYTES = 16 * 1024 * 1024
WRITER_CACHE_KIB = 8 * 1024
"""Workflow ids come in no order: the pages of their index are better not read again each time."""
POOL_TIMEOUT_SECONDS = 30.0
BUSY_TIMEOUT_MS = 5000
LONGEST_VALUE = 128 * 1024 * 1024

EVERY_CONNECTION = (
    f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}",
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA mmap_size = 0",
    "PRAGMA wal_autocheckpoint = 0",
)
_READER = ("PRAGMA query_only = ON",)
_WRITER = (
    "PRAGMA synchronous = FULL",
    f"PRAGMA cache_size = -{WRITER_CACHE_KIB}",
    f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}",
)


class _Compiler(SQLiteCompiler):
    """Knows `with_hint`, for SQLite's INDEXED BY."""

    def get_from_hint_text(self, table: object, text: str | None) -> str | None:
        return text


def uri_of(path: Path, mode: str) -> str:
    return f"{path.as_uri()}?mode={mode}"


def engine_of(uri: str, *, read_only: bool) -> Engine:
    """Whose connections each begin a transaction of the right kind; there is one that writes."""

    def connect() -> sqlite3.Connection:  # a URL for SQLAlchemy would be unquoted once too often
        return sqlite3.connect(uri, uri=True, check_same_thread=False)

    engine = create_engine(
        "sqlite://",
        creator=connect,
        poolclass=QueuePool,
        pool_size=8 if read_only else 1,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_SECONDS,
        hide_parameters=True,  # in errors and logs: they are the application's data
    )
    engine.dialect.statement_compiler = _Compiler

    @event.listens_for(engine, "connect")
    def configure(raw: sqlite3.Connection, _record: Any) -> None:
        if read_only:
            raw.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
        raw.isolation_level = None  # transactions begin below, not where the driver guesses
        for pragma in (*EVERY_CONNECTION, *(_READER if read_only else _WRITER)):
            raw.execute(pragma)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def driver_connection(connection: Connection) -> sqlite3.Connection:
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw
