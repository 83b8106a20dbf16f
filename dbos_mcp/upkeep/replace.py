"""Puts another file in the place of a cache, while other programs may have it open.

Those that are ours look before each transaction whether it is still the same file. Nobody writes
meanwhile: who does this holds the lock of all that write.
"""

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock, Timeout

from dbos_mcp import files
from dbos_mcp.errors import StoreError
from dbos_mcp.store.engine import LOCK_TIMEOUT_SECONDS

_COMPANIONS = ("-wal", "-shm")


@contextmanager
def write_lock(path: Path, timeout_seconds: float = LOCK_TIMEOUT_SECONDS) -> Iterator[Path]:
    """Keep everybody from writing to a cache; the file itself, where its name is a link.

    Raises:
        StoreError: another process held the lock for too long.
    """
    file = Path(os.path.realpath(path))
    lock = FileLock(f"{file}.lock", timeout=timeout_seconds, mode=0o600)
    try:
        lock.acquire()
    except Timeout as error:
        raise StoreError(
            f"Another process has held the cache {path} locked for {timeout_seconds:g} s.",
            hint="Try again; if it stays so, look for a stopped dbos-mcp process.",
        ) from error
    try:
        yield file
    finally:
        lock.release()


@contextmanager
def workplace(file: Path) -> Iterator[Path]:
    """A folder on the same file system, so that what is made there is in its place at once. What a
    killed process leaves of it goes when the next migration makes its backup."""
    prefix = f".{file.name}."[: files.PREFIX_CHARACTERS]
    with TemporaryDirectory(prefix=f"{prefix}work-", dir=file.absolute().parent) as folder:
        yield Path(folder)


def undo_half(file: Path) -> None:
    """Under the write lock: where `put` was killed in the middle, the old file, which has its own
    name still, gets its WAL back."""
    wal = file.with_name(f"{file.name}-wal")
    if not file.exists() or wal.exists():
        return
    for aside in file.parent.glob(f"{glob.escape(file.name)}.damaged-*Z"):
        its_wal = aside.with_name(f"{aside.name}-wal")
        if its_wal.exists() and aside.samefile(file):
            its_wal.replace(wal)
            aside.unlink()
            return


def put(draft: Path, file: Path, aside: Path | None) -> None:
    """Under the write lock: a finished cache, without a WAL, in the place of `file`, which stays
    under the name `aside`, its WAL beside it. Without that name it must have nothing in its WAL.

    Whoever opens the name finds one or the other, never a part.
    """
    if aside is not None and file.exists():
        try:
            os.link(file, aside)
        except OSError:  # a file system without links
            file.replace(aside)
    for suffix in _COMPANIONS:  # of the old file: the new one must never meet them
        companion = file.with_name(file.name + suffix)
        if aside is not None and companion.exists():
            companion.replace(aside.with_name(aside.name + suffix))
        else:
            companion.unlink(missing_ok=True)
    files.sync(draft)
    draft.replace(file)
    files.sync(file.parent)
