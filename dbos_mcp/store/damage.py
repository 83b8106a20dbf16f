"""Looking a cache through for damage, now and then, while it is in use."""

import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection

from dbos_mcp.domain import one_line
from dbos_mcp.errors import StoreError
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.faults import RESTORE, primary_code

logger = logging.getLogger(__name__)

EVERY_MS = 24 * 3_600_000
"""It reads the whole file: half a second for a million events."""


def look(cache: Cache, *, now: int, stop: Callable[[], bool] = lambda: False) -> None:
    """Unless somebody did within a day. What is found is the cache's `notice`: it is only read from
    then on, since what is written to a damaged file damages more of it.

    Raises:
        StoreError: the cache cannot be read.
    """
    checked = _checked_file(cache.path)
    if cache.notice is not None or _age_ms(checked, now) < EVERY_MS:
        return
    found = find(cache, stop=stop)
    if stop():
        return
    if found is None:
        _touch(checked, now)
        return
    cache.notice = (
        f"The cache {cache.path} is damaged ({found}): it is only read, and nothing is synced."
        f" {RESTORE}"
    )
    logger.warning("%s", cache.notice)


def find(cache: Cache, *, stop: Callable[[], bool] = lambda: False) -> str | None:
    """What SQLite's quick_check finds first; None: nothing, or it was stopped.

    One table after the other, so that no snapshot of the whole keeps the WAL from being folded
    back.

    Raises:
        StoreError: the cache cannot be read.
    """
    try:
        with cache.read() as connection:
            tables = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type='table'")
            names = [str(name) for name in tables.scalars()]
        for name in names:
            if stop():
                return None
            with cache.read() as connection:
                found = _quick_check(connection, name)
            if found != "ok":
                return one_line(found)
    except StoreError as error:
        if primary_code(error.__cause__) != sqlite3.SQLITE_CORRUPT:
            raise
        return one_line(str(getattr(error.__cause__, "orig", error.__cause__)))
    return None


def _quick_check(connection: Connection, table: str) -> str:
    quoted = table.replace('"', '""')
    return str(connection.exec_driver_sql(f'PRAGMA quick_check("{quoted}")').scalar())


def _checked_file(cache_path: Path) -> Path:
    """Its time says when the cache beside it was last found sound."""
    file = Path(os.path.realpath(cache_path))
    return file.with_name(f"{file.name}.checked")


def found_sound_at(cache_path: Path) -> int | None:
    """When a look found nothing wrong with a cache the last time; None: none ever did."""
    try:
        return int(_checked_file(cache_path).stat().st_mtime * 1000)
    except OSError:
        return None


def _age_ms(checked: Path, now: int) -> float:
    try:
        age = now - checked.stat().st_mtime * 1000
    except OSError:
        return EVERY_MS
    return age if age >= 0 else EVERY_MS  # of a clock that was set back since


def _touch(checked: Path, now: int) -> None:
    try:
        checked.touch(mode=0o600)
        os.utime(checked, (now / 1000, now / 1000))
    except OSError as error:
        logger.info("Not noted that the cache was looked through: %s", error)
