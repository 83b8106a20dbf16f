"""Brings a cache file to this version's schema when it is opened."""

import logging
import threading
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

import dbos_mcp
from dbos_mcp.domain import now_ms
from dbos_mcp.errors import SchemaTooNewError, StoreError
from dbos_mcp.store import backup, engine, projector, schema
from dbos_mcp.store.engine import LOCK_TIMEOUT_SECONDS, Cache
from dbos_mcp.store.schema import revision_of

logger = logging.getLogger(__name__)

HEAD = "0011"
"""The newest revision in migrations/; a test holds it there. It saves an import of alembic."""

READABLE_FROM = "0008"
"""The oldest schema whose programs can read what HEAD's migrations make, without misreading it: to
be raised by a migration that takes away what they read, or gives it another meaning."""

_migrating = threading.Lock()
"""alembic's `op` and `context` are of the whole process, whatever file a thread migrates."""


def open_cache(
    path: Path, *, writable: bool = True, lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS
) -> Cache:
    """Open a cache file and make its schema and read models current.

    One that cannot be written to, or that a newer version has migrated, is opened for reading all
    the same where that can be done: its `notice` says why.

    A read-only cache must be current already; of an incident file that is not, a copy is made
    current and read instead, so that old ones can be read for ever and stay as they are.

    Raises:
        SchemaTooNewError: a newer version wrote it, and what it wrote cannot be read.
        StoreError: see `Cache`.
    """
    if writable and (unwritable := engine.unwritable(path)) is not None:
        return _opened_for_reading(path, notice=unwritable)
    if not writable:
        return _opened_for_reading(path)
    cache = Cache(path, lock_timeout_seconds=lock_timeout_seconds)
    try:
        newer = _newer_but_readable(cache)
        if newer is None:
            _make_current(cache)
            cache.revision = HEAD
            return cache
    except BaseException:
        cache.close()
        raise
    cache.close()
    return _opened_for_reading(path, notice=newer)


def _opened_for_reading(path: Path, *, notice: str | None = None) -> Cache:
    cache = Cache(path, writable=False)
    try:
        if cache.is_excerpt and _is_older(cache):
            outdated, cache = cache, _current_copy(cache)
            outdated.close()
        elif (newer := _newer_but_readable(cache)) is None:
            _require_current(cache)
        else:
            notice = notice or newer
        cache.revision, cache.notice = HEAD, notice
    except BaseException:
        cache.close()
        raise
    if notice is not None:
        logger.warning("%s", notice)
    return cache


def upgrade(cache: Cache, folder: Path | None = None, *, keep_backup: bool = True) -> None:
    """Run the migrations that the file has not seen, all of them or none; they are in `folder`.
    What is not empty is copied first, beside the cache.

    Raises:
        SchemaTooNewError: none of them leads on from the file's revision.
        StoreError: there is no room for the copy.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    location = str(folder or migrations_folder())
    config.set_main_option("script_location", location.replace("%", "%%"))
    try:
        with _migrating, cache.write() as connection:
            before = revision_of(connection)
            if keep_backup and before is not None and before < HEAD:
                _keep_backup(cache, before)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            schema.note_readable_from(connection, READABLE_FROM)
    except CommandError as error:
        raise _too_new(cache) from error


def _keep_backup(cache: Cache, revision: str) -> None:
    """In the transaction that migrates, and has not begun to: it is what readers see."""
    path = backup.place(cache.path, schema=revision, now=now_ms(), automatic=True)
    backup.backup(cache, path)
    backup.discard_older(cache.path)
    logger.info(
        "The cache %s is brought from schema %s to %s; %s holds what it was before.",
        cache.path,
        revision,
        HEAD,
        path.name,
    )


def migrations_folder() -> Path:
    """Inside the installed package, or at the root of a checkout."""
    package = Path(dbos_mcp.__file__).parent
    shipped = package / "_migrations"
    return shipped if shipped.is_dir() else package.parent / "migrations"


def _make_current(cache: Cache, *, keep_backup: bool = True) -> None:
    revision = _revision(cache)
    if revision is not None and revision > HEAD:
        raise _too_new(cache)
    if revision != HEAD:
        upgrade(cache, keep_backup=keep_backup)
    with cache.read() as connection:
        stale = projector.stale(connection)
    if stale:
        with cache.write() as connection:
            projector.catch_up(connection)


def _newer_but_readable(cache: Cache) -> str | None:
    """What to say of such a file."""
    with cache.read() as connection:
        revision = revision_of(connection)
        is_newer = revision is not None and revision.isdecimal() and revision > HEAD
        if not is_newer or not schema.readable_by(connection, HEAD):
            return None
    return schema.only_read(cache.path, revision, HEAD)


def _require_current(cache: Cache) -> None:
    revision = _revision(cache)
    stays = engine.unwritable(cache.path) is not None
    elsewhere = (
        "It cannot be written to here: make the file and its folder writable and start again, or"
        " name a copy of it with DBOS_MCP_CACHE."
    )
    if revision is None:
        fill = "Fill it with `dbos-mcp sync`, or name another file with DBOS_MCP_CACHE."
        raise StoreError(
            f"The cache {cache.path} is still empty.", hint=elsewhere if stays else fill
        )
    if revision > HEAD:
        raise _too_new(cache)
    with cache.read() as connection:
        if revision < HEAD or projector.stale(connection):
            rebuild = "`dbos-mcp rebuild` makes it current; it needs no Conductor."
            raise StoreError(
                f"The cache {cache.path} was written by an older version of dbos-mcp.",
                hint=elsewhere if stays else rebuild,
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
        with closing(Cache(path)) as current:
            _make_current(current, keep_backup=False)
        copy = Cache(path, writable=False, shown_as=cache.path)
        copy.cleanup.push(stack.pop_all())
        return copy


def _revision(cache: Cache) -> str | None:
    with cache.read() as connection:
        return revision_of(connection)


def _too_new(cache: Cache) -> SchemaTooNewError:
    return schema.too_new(cache.path, _revision(cache), HEAD)
