"""A client's file: read as it is, and replaced at once, with a copy of what was there beside it.

It is somebody else's, and may be a link into a folder of such files; so the link stays, and the
mode and the owner of what it leads to.
"""

import glob
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from dbos_mcp import files
from dbos_mcp.errors import DbosMcpError, InstallError

LARGEST_BYTES = 50_000_000
BACKUPS = 3
WAIT_SECONDS = 10.0
_BOM = "\ufeff"


@dataclass(frozen=True)
class Configuration:
    """A file as it was read."""

    path: Path
    """Where it really is."""
    content: bytes | None
    """None: there is none."""

    @property
    def text(self) -> str:
        """
        Raises:
            InstallError: it is no UTF-8.
        """
        content = self.content or b""
        try:
            return content.decode().removeprefix(_BOM)
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise InstallError(f"line {line}: it is not UTF-8") from None

    def replace(self, text: str) -> Path | None:
        """Make this its text; the name of the copy of what was there.

        Raises:
            InstallError: it cannot be written, or another program has changed it meanwhile.
        """
        content = text.encode()
        if self.content is not None and self.content.startswith(_BOM.encode()):
            content = _BOM.encode() + content
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.content is not None and not self.path.stat().st_mode & 0o222:
                raise PermissionError(13, "it is read-only")  # which replacing it would not heed
            backup = self._backed_up()
            with files.drafted(self.path, force=True) as draft:
                draft.touch(0o600)
                draft.write_bytes(content)
                self._make_alike(draft)
                if _read(self.path) != self.content:
                    raise InstallError(
                        f"Another program changed {self.path} just now, so it was left as it is.",
                        hint="Run it again.",
                    )
        except OSError as error:
            raise _not_written(self.path, error) from error
        except InstallError:
            raise
        except DbosMcpError as error:
            cause = error.__cause__
            raise (
                _not_written(self.path, cause) if isinstance(cause, OSError) else error
            ) from error
        return backup

    def _backed_up(self) -> Path | None:
        if self.content is None:
            return None
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        backup = self.path.with_name(f"{self.path.name}.backup-{now}Z")
        with files.drafted(backup) as draft:
            draft.touch(0o600)
            draft.write_bytes(self.content)
            self._make_alike(draft)
        pattern = f"{glob.escape(self.path.name)}.backup-*Z"
        for old in sorted(self.path.parent.glob(pattern))[:-BACKUPS]:
            with suppress(OSError):
                old.unlink()
        return backup

    def _make_alike(self, draft: Path) -> None:
        if self.content is None:
            return
        status = self.path.stat()
        if os.name == "posix" and (status.st_uid, status.st_gid) != (os.getuid(), os.getgid()):
            with suppress(OSError):  # only root may give files away
                os.chown(draft, status.st_uid, status.st_gid)
        draft.chmod(stat.S_IMODE(status.st_mode))


@contextmanager
def opened(path: Path, folder: Path) -> Iterator[Configuration]:
    """The file, while no other dbos-mcp changes it; `folder` is where they agree on that.

    Raises:
        InstallError: it cannot be read.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock(folder / "install.lock", timeout=WAIT_SECONDS, mode=0o600)
        lock.acquire()
    except Timeout:
        raise InstallError(
            "Another dbos-mcp is writing a configuration, and does not come to an end.",
            hint="Look for an `install` that hangs, end it, and try again.",
        ) from None
    except OSError as error:
        raise _not_written(folder, error) from error
    try:
        yield read(path)
    finally:
        lock.release()


def read(path: Path) -> Configuration:
    """
    Raises:
        InstallError: it cannot be read.
    """
    try:
        # Where a link leads to; strict would want that to be there.
        path = Path(os.path.realpath(path))
        return Configuration(path, _read(path))
    except OSError as error:
        raise InstallError(
            f"{path} cannot be read: {error.strerror or error}.", hint="It was left as it is."
        ) from error


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(content) > LARGEST_BYTES:
        raise OSError(27, "it is larger than 50 MB")
    return content


def _not_written(path: Path, error: OSError) -> InstallError:
    return InstallError(
        f"{path} cannot be written: {error.strerror or error}.", hint="It was left as it is."
    )
