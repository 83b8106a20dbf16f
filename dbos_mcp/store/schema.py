"""Which schema a cache file has, and which programs can read it."""

from pathlib import Path

from sqlalchemy import Connection

from dbos_mcp.errors import SchemaTooNewError

NEWEST = "Use the newest version (`uvx dbos-mcp@latest`)"


def revision_of(connection: Connection) -> str | None:
    """Its newest migration; None: it has not seen any."""
    tables = connection.exec_driver_sql(
        "SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"
    )
    if tables.first() is None:
        return None
    revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return None if revision is None else str(revision)


def readable_by(connection: Connection, revision: str) -> bool:
    """Whether programs of an older schema can read it: the file says from which one on."""
    oldest = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
    return 0 < oldest <= int(revision)


def note_readable_from(connection: Connection, revision: str) -> None:
    """In the transaction that migrates."""
    connection.exec_driver_sql(f"PRAGMA user_version = {int(revision)}")


def newer(path: Path, found: str | None, ours: str) -> str:
    return (
        f"The cache {path} was written by a newer version of dbos-mcp (schema {found}, this"
        f" version has {ours})"
    )


def too_new(path: Path, found: str | None, ours: str) -> SchemaTooNewError:
    return SchemaTooNewError(
        f"{newer(path, found, ours)}.",
        hint=f"{NEWEST}, or name another file with DBOS_MCP_CACHE. The file was left as it is.",
    )


def only_read(path: Path, found: str | None, ours: str) -> str:
    """What is said beside answers from it."""
    return f"{newer(path, found, ours)}: this one only reads it, and syncs nothing. {NEWEST}."
