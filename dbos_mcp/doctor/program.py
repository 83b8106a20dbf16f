"""The program, and what it runs on. The same for every target."""

import platform
import sqlite3
import sys
from collections.abc import Iterator

from dbos_mcp import __version__
from dbos_mcp.doctor.finding import Finding, fail, ok
from dbos_mcp.errors import StoreError
from dbos_mcp.sqlite import require_sqlite
from dbos_mcp.store.engine import has_wal_reset_bug

OLDEST_PYTHON = (3, 11)


def version() -> Iterator[Finding]:
    yield ok(f"dbos-mcp {__version__}, at {sys.prefix}", version=__version__, prefix=sys.prefix)


def python() -> Iterator[Finding]:
    told = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        yield fail(f"{told} is too old", f"Use Python {oldest} or newer: `uvx dbos-mcp` brings it.")
    else:
        yield ok(told, version=platform.python_version())


def sqlite() -> Iterator[Finding]:
    told = sqlite3.sqlite_version
    try:
        require_sqlite()
    except StoreError as error:
        yield fail(error.message, error.hint, version=told)
        return
    bug = has_wal_reset_bug()
    if bug:
        told += (
            ", which has the WAL-reset bug: dbos-mcp keeps clear of it, so let no other tool"
            " write to the cache or checkpoint it"
        )
    yield ok(told, version=sqlite3.sqlite_version, wal_reset_bug=bug)
