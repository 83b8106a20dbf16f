"""What is wrong with a cache file, in a sentence, and what to do next."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import DatabaseError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from dbos_mcp.errors import StoreError

RESTORE = "Set it aside and recover what it holds with `dbos-mcp cache restore`."
"""The way out of damage: nothing is ever made anew over a history."""
ANOTHER_FILE = "name another file with DBOS_MCP_CACHE"
FREE_SPACE = "Free some space and try again; nothing of this change was stored."
LEAST_ROOM_BYTES = 64 * 1024
"""A -shm, without which not even a reader can open the file, is half of it."""


@contextmanager
def faults_as_errors(
    path: Path, what: str, *others: type[Exception], hint: str | None = None
) -> Iterator[None]:
    """Faults of the file, and `others`, as StoreError. A broken constraint is a fault of ours, and
    rises as it is."""
    faults: tuple[type[Exception], ...] = (
        DatabaseError,
        sqlite3.DatabaseError,
        PoolTimeout,
        UnicodeDecodeError,  # of a message in which SQLite quotes what is damaged
        *others,
    )
    try:
        yield
    except (IntegrityError, sqlite3.IntegrityError):
        raise
    except faults as error:
        reason, next_step = _explain(error, path)
        raise StoreError(
            f"The cache {path} cannot be {what}: {reason}.", hint=hint or next_step
        ) from error


def primary_code(error: BaseException | None) -> int | None:
    """SQLite's, without what it says beyond."""
    code = getattr(getattr(error, "orig", None) or error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _explain(error: Exception, path: Path) -> tuple[str, str]:
    cause = getattr(error, "orig", None) or error
    detail = getattr(cause, "strerror", None) or str(cause)
    if isinstance(error, UnicodeDecodeError):
        return "it is damaged (its text cannot be read)", RESTORE
    match primary_code(cause):
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return f"it is damaged ({detail})", RESTORE
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return detail, "Close the other program that has it open, and try again."
        case sqlite3.SQLITE_FULL:
            return detail, FREE_SPACE
        case sqlite3.SQLITE_IOERR if _is_full(path):  # of a -shm SQLite says no more than that
            return f"the disk is full ({detail})", FREE_SPACE
        case _:
            return detail, f"Nothing was changed. Check its folder, or {ANOTHER_FILE}."


def _is_full(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < LEAST_ROOM_BYTES
    except OSError:
        return False
