"""Brings a cache file to this version's schema when it is opened."""

import sqlite3
from pathlib import Path

import dbos_mcp
from dbos_mcp.errors import SchemaTooNewError
from dbos_mcp.store import projector
from dbos_mcp.store.engine import Cache

HEAD = "0001"
"""The newest revision in migrations/; a test holds it there. It saves an import of alembic."""


def open_cache(path: Path, *, writable: bool = True) -> Cache:
    """Open a cache file and make its schema and read models current.

    A read-only cache is taken as it is.

    Raises:
        SchemaTooNewError: a newer version wrote it.
        StoreError: see `Cache`.
    """
    cache = Cache(path, writable=writable)
    try:
        if _revision(cache) != HEAD:
            if not writable:
                raise _other_version(cache)
            _upgrade(cache)
        if writable:
            with cache.write() as connection:
                projector.catch_up(connection)
    except BaseException:
        cache.close()
        raise
    return cache


def migrations_folder() -> Path:
    """Inside the installed package, or at the root of a checkout."""
    package = Path(dbos_mcp.__file__).parent
    shipped = package / "_migrations"
    return shipped if shipped.is_dir() else package.parent / "migrations"


def _revision(cache: Cache) -> str | None:
    with cache.read() as connection:
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        if not raw.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
            return None
        row = raw.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(row[0]) if row else None


def _upgrade(cache: Cache) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    try:
        with cache.write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise _other_version(cache) from error


def _other_version(cache: Cache) -> SchemaTooNewError:
    return SchemaTooNewError(
        f"The cache {cache.path} was written by another version of dbos-mcp"
        f" (schema {_revision(cache)}, this version has {HEAD}).",
        hint="Use the newest version (`uvx dbos-mcp@latest`), or name another file with"
        " DBOS_MCP_CACHE. The file was left as it is.",
    )
