"""Brings a cache file to this version's schema when it is opened."""

import threading
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import dbos_mcp
from dbos_mcp.errors import SchemaTooNewError, StoreError
from dbos_mcp.store import engine, projector
from dbos_mcp.store.engine import LOCK_TIMEOUT_SECONDS, Cache

HEAD = "0011"
"""The newest revision in migrations/; a test holds it there. It saves an import of alembic."""

_migrating = threading.Lock()
"""alembic's `op` and `context` are of the whole process, whatever file a thread migrates."""


def open_cache(
    path: Path, *, writable: bool = True, lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS
) -> Cache:
    """Open a cache file and make its schema and read models current.

    A read-only cache must be current already; of an incident file that is not, a copy is made
    current and read instead, so that old ones can be read for ever and stay as they are.

    Raises:
        SchemaTooNewError: a newer version wrote it.
        StoreError: see `Cache`.
    """
    cache = Cache(path, writable=writable, lock_timeout_seconds=lock_timeout_seconds)
    try:
        if writable:
            _make_current(cache)
        elif cache.is_excerpt and _is_older(cache):
            outdated, cache = cache, _current_copy(cache)
            outdated.close()
        else:
            _require_current(cache)
    except BaseException:
        cache.close()
        raise
    return cache


def upgrade(cache: Cache, folder: Path | None = None) -> None:
    """Run the migrations that the file has not seen, all of them or none; they are in `folder`.

    Raises:
        SchemaTooNewError: none of them leads on from the file's revision.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    location = str(folder or migrations_folder())
    config.set_main_option("script_location", location.replace("%", "%%"))
    try:
        with _migrating, cache.write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise _too_new(cache) from error


def migrations_folder() -> Path:
    """Inside the installed package, or at the root of a checkout."""
    package = Path(dbos_mcp.__file__).parent
    shipped = package / "_migrations"
    return shipped if shipped.is_dir() else package.parent / "migrations"


def _make_current(cache: Cache) -> None:
    revision = _revision(cache)
    if revision is not None and revision > HEAD:
        raise _too_new(cache)
    if revision != HEAD:
        upgrade(cache)
    with cache.read() as connection:
        stale = projector.stale(connection)
    if stale:
        with cache.write() as connection:
            projector.catch_up(connection)


def _require_current(cache: Cache) -> None:
    revision = _revision(cache)
    if revision is None:
        raise StoreError(
            f"The cache {cache.path} is still empty.",
            hint="Fill it with `dbos-mcp sync`, or name another file with DBOS_MCP_CACHE.",
        )
    if revision > HEAD:
        raise _too_new(cache)
    with cache.read() as connection:
        if revision < HEAD or projector.stale(connection):
            raise StoreError(
                f"The cache {cache.path} was written by an older version of dbos-mcp.",
                hint="`dbos-mcp rebuild` makes it current; it needs no Conductor.",
            )


def _is_older(cache: Cache) -> bool:
    revision = _revision(cache)
    if revision is None or revision > HEAD:
        return False
    with cache.read() as connection:
        return revision < HEAD or bool(projector.stale(connection))


def _current_copy(cache: Cache) -> Cache:
    """It goes with its `close()`."""
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="dbos-mcp-"))
        path = Path(folder) / "copy.sqlite"
        engine.copy(cache, path)
        engine.adopt(path)
        open_cache(path).close()
        copy = Cache(path, writable=False, shown_as=cache.path)
        copy.cleanup.push(stack.pop_all())
        return copy


def _revision(cache: Cache) -> str | None:
    with cache.read() as connection:
        tables = connection.exec_driver_sql(
            "SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"
        )
        if tables.first() is None:
            return None
        revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        return None if revision is None else str(revision)


def _too_new(cache: Cache) -> SchemaTooNewError:
    return SchemaTooNewError(
        f"The cache {cache.path} was written by a newer version of dbos-mcp"
        f" (schema {_revision(cache)}, this version has {HEAD}).",
        hint="Use the newest version (`uvx dbos-mcp@latest`), or name another file with"
        " DBOS_MCP_CACHE. The file was left as it is.",
    )
