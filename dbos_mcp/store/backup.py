"""Copies of a cache that are caches themselves, and where those are kept that nobody named."""

import glob
import os
import re
import shutil
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from dbos_mcp import files
from dbos_mcp.domain import to_datetime, to_ms
from dbos_mcp.errors import StoreError
from dbos_mcp.store import engine
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.faults import primary_code

KEPT = 2
ABANDONED_SECONDS = 24 * 3600
_TIME = "%Y%m%dT%H%M%S.%f"


class Backup(NamedTuple):
    """A backup that lies beside its cache."""

    path: Path
    made_at: int
    schema: str
    """The revision of its schema."""
    automatic: bool
    """Whether it was made before a migration, rather than asked for: these are also removed."""


def backup(cache: Cache, path: Path, *, force: bool = False) -> int:
    """Copy a cache as of one moment, while others read and write it; how many bytes that took.

    The copy is an ordinary cache file, without a WAL, that its owner alone may read. It is there at
    once, or not at all.

    Raises:
        UsageError: there is a file of that name, and it was not to be replaced.
        StoreError: the cache cannot be read, or the copy not be written there.
    """
    with files.drafted(path, force=force) as draft:
        with cache.read() as connection:
            size = engine.size_bytes(connection)
        if shutil.disk_usage(draft.parent).free < size:  # others need what there is
            raise _no_room(path)
        try:
            engine.copy(cache, draft)
        except StoreError as error:
            if primary_code(error.__cause__) == sqlite3.SQLITE_FULL:
                raise _no_room(path) from error
            raise
        return draft.stat().st_size


def _no_room(path: Path) -> StoreError:
    return StoreError(
        f"There is no room for a backup of the cache ({path}).",
        hint="Free some space and try again; the cache is as it was.",
    )


def place(cache_path: Path, *, schema: str, now: int, automatic: bool = False) -> Path:
    """Where a backup goes that nobody named: beside the cache."""
    time = to_datetime(now).strftime(_TIME)[:-3]  # to the millisecond
    kind = ".migration" if automatic else ""
    cache = _real(cache_path)
    return cache.with_name(f"{cache.name}.{time}Z-{schema}{kind}.backup")


def backups(cache_path: Path) -> list[Backup]:
    """Those that lie beside the cache, the newest first; the cache itself may be gone."""
    cache = _real(cache_path)
    name = re.compile(
        re.escape(cache.name) + r"\.(\d{8}T\d{6}\.\d{3})Z-(\w+)(\.migration)?\.backup"
    )
    found = []
    for path in cache.parent.iterdir() if cache.parent.is_dir() else ():
        if (match := name.fullmatch(path.name)) is not None:
            made_at = datetime.strptime(match[1], _TIME).replace(tzinfo=UTC)
            found.append(Backup(path, to_ms(made_at), match[2], match[3] is not None))
    return sorted(found, key=lambda each: (each.made_at, each.path.name), reverse=True)


def newest_backup(cache_path: Path) -> Backup | None:
    return next(iter(backups(cache_path)), None)


def discard_older(cache_path: Path) -> None:
    """Of those that migrations made, all but the newest; and drafts that a killed one left."""
    made = [each for each in backups(cache_path) if each.automatic]
    for each in made[KEPT:]:
        each.path.unlink(missing_ok=True)
    cache = _real(cache_path)
    drafts = glob.escape(f".{cache.name}."[: files.PREFIX_CHARACTERS]) + "*-*"
    for folder in cache.parent.glob(drafts):
        if folder.is_dir() and time.time() - folder.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _real(path: Path) -> Path:
    """As the cache itself does, so that two names of one file have the same backups."""
    return Path(os.path.realpath(path))
