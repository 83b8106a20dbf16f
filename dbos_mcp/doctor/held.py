"""A look into the cache file, which leaves no trace there and holds up nobody."""

import os
import shutil
import stat
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from dbos_mcp.errors import DbosMcpError
from dbos_mcp.files import may
from dbos_mcp.queries.sync_status import SyncStatus, sync_status
from dbos_mcp.store import schema
from dbos_mcp.store.damage import found_sound_at
from dbos_mcp.store.engine import Cache, unwritable
from dbos_mcp.store.filesystems import Mount, mount_under
from dbos_mcp.store.migrate import HEAD
from dbos_mcp.sync.leadership import Leader, Leadership


@dataclass
class Held:
    path: Path
    folder: Path
    """The nearest one that is there: where it would be made."""
    exists: bool = False
    bytes: int = 0
    wal_bytes: int = 0
    mode: int | None = None
    owner: int | None = None
    mount: Mount | None = None
    free_bytes: int | None = None
    writable: bool = False
    """Whether it, or a new one, can be written."""
    unwritable: str | None = None
    error: DbosMcpError | None = None
    """Why it cannot be read."""
    is_excerpt: bool = False
    revision: str | None = None
    readable: bool = False
    """Of another schema, whether this version reads it."""
    status: SyncStatus | None = None
    sound_at: int | None = None
    led: bool | None = None
    leader: Leader | None = None


def look_into(path: Path, *, now: int) -> Held:
    path = path.absolute()
    folder = next(parent for parent in path.parents if parent.is_dir())
    held = Held(path, folder, mount=mount_under(path))
    try:
        held.free_bytes = shutil.disk_usage(folder).free
    except OSError:
        held.free_bytes = None
    held.writable = may(folder, os.W_OK | os.X_OK)
    try:
        found = path.stat()
    except FileNotFoundError:
        return held
    except OSError as error:
        held.exists = True
        held.error = DbosMcpError(
            f"The cache {path} cannot be looked at: {error.strerror}.",
            hint=f"Type `ls -ld {folder}`: the folder must be yours.",
        )
        return held
    held.exists = True
    held.bytes, held.mode, held.owner = found.st_size, stat.S_IMODE(found.st_mode), found.st_uid
    held.unwritable = unwritable(path)
    held.wal_bytes = _size_of(path.with_name(f"{path.name}-wal"))
    held.sound_at = found_sound_at(path)
    leadership = Leadership(path)
    held.led = leadership.taken()
    held.leader = leadership.leader() if held.led else None
    try:
        _read(held, now)
    except DbosMcpError as error:
        held.error = error
    return held


def _read(held: Held, now: int) -> None:
    with (
        closing(Cache(held.path, writable=False, leave_no_trace=True)) as cache,
        cache.read() as connection,
    ):
        held.is_excerpt = cache.is_excerpt
        held.revision = schema.revision_of(connection)
        if held.revision is None:
            return
        is_newer = held.revision > HEAD
        held.readable = not is_newer or schema.readable_by(connection, HEAD)
        if held.revision == HEAD or (is_newer and held.readable):
            held.status = sync_status(connection, now=now)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
