"""Which SQLite this Python came with, and what it is too old for.

Python cannot choose: `sqlite3` is whatever the interpreter was built with, or the system has. That
of uv's own Pythons is new; a distribution's is as old as the distribution.
"""

import sqlite3
import sys

from dbos_mcp.errors import StoreError, UsageError

OLDEST = (3, 38, 0)
"""The first that always has JSON, and `->>`, which statements for `query_sql` are told to use. A
cache opens with 3.35 as well, where JSON is built in; 3.31 cannot even make its tables."""

OLDEST_FOR_DBOS = (3, 42, 0)
"""The first whose `unixepoch('subsec')` is not null. A SQLite system database that DBOS makes on
Python 3.12 or later has it as the default of columns that must not be null."""

NEWER = "Run dbos-mcp on a Python with a newer one: `uvx --managed-python dbos-mcp` brings its own."

TOO_OLD_FOR_DBOS = (
    f"SQLite here is {sqlite3.sqlite_version}, and DBOS needs {'.'.join(map(str, OLDEST_FOR_DBOS))}"
    " or later to add a row to a system database that it made on Python 3.12 or later."
)


def require_sqlite(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> None:
    """Raises StoreError where a cache would not work."""
    if version < OLDEST:
        raise StoreError(
            f"This Python's SQLite is {_name(version)}, and the cache needs {_name(OLDEST)} or"
            " later.",
            hint=NEWER,
        )


def require_sqlite_for_dbos(
    version: tuple[int, ...] = sqlite3.sqlite_version_info,
    python: tuple[int, ...] = sys.version_info[:2],
) -> None:
    """Raises UsageError where an application of DBOS on SQLite fails at its launch."""
    if python >= (3, 12) and version < OLDEST_FOR_DBOS:
        raise UsageError(
            f"DBOS on SQLite does not start on Python {_name(python)} with SQLite {_name(version)}:"
            f" it needs {_name(OLDEST_FOR_DBOS)} or later there.",
            hint=NEWER,
        )


def makes_no_rows(error: object, version: tuple[int, ...] = sqlite3.sqlite_version_info) -> bool:
    """Whether a system database refused a row for want of a newer SQLite."""
    return version < OLDEST_FOR_DBOS and str(error).startswith("NOT NULL constraint failed: ")


def _name(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version[:3])
