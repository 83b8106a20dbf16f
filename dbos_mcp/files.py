"""Files that a command makes: there at once or not at all, and never in place of another one by
accident."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from dbos_mcp.errors import StoreError, UsageError

PREFIX_CHARACTERS = 80
"""Of a draft's name, which begins with a dot and the name of what it is to be."""


def write(path: Path, text: str, *, force: bool = False) -> int:
    """Make a file that its owner alone may read; how many bytes it has.

    Raises:
        UsageError: there is a file of that name, and it was not to be replaced.
        StoreError: it cannot be written there.
    """
    content = text.encode()
    with drafted(path, force=force) as draft:
        descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    return len(content)


@contextmanager
def drafted(path: Path, *, force: bool = False) -> Iterator[Path]:
    """The name of a draft to write; it becomes the file afterwards, or nothing of it stays.

    Raises:
        UsageError: there is a file of that name, and it was not to be replaced.
        StoreError: it cannot be written there.
    """
    path = path.absolute()
    if not force:
        require_free(path)
    try:
        with TemporaryDirectory(
            prefix=f".{path.name}"[:PREFIX_CHARACTERS] + "-", dir=path.parent
        ) as folder:
            draft = Path(folder) / "draft"
            yield draft
            sync(draft)
            publish(draft, path, force=force)
    except OSError as error:
        raise not_to_be_written(path, error) from error


def may(path: Path, mode: int) -> bool:
    """Whether this process may do that to a file: `os.R_OK`, `os.W_OK`, `os.X_OK`, or several."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def require_free(path: Path) -> None:
    """
    Raises:
        UsageError: there is a file of that name.
    """
    if path.exists():
        raise _taken(path)


def publish(draft: Path, path: Path, *, force: bool) -> None:
    """Under its name at once: never half of it, and never in place of another by accident."""
    if force:
        draft.replace(path)
    else:
        try:
            os.link(draft, path)
        except FileExistsError as error:
            raise _taken(path) from error
        except OSError:  # a file system without links
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            except FileExistsError as error:
                raise _taken(path) from error
            draft.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def not_to_be_written(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{path} cannot be written: {error.strerror or error}.",
        hint="Name a file in a folder that is there, and that you may write to.",
    )


def _taken(path: Path) -> UsageError:
    return UsageError(
        f"There is a file {path} already; it was left as it is.",
        hint="Name another one, or replace it with --force.",
    )
