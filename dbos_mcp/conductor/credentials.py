"""Logins, and the file that keeps them between runs and among processes.

The file is one JSON object. Its own keys are the login to DBOS-managed Conductor, in the shape that
dbos-mcp 0.8 wrote; `logins` holds those of profiles and of other Conductors, by name.
"""

import base64
import binascii
import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, fields
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import anyio
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.alias_generators import to_camel

from dbos_mcp.errors import AuthenticationError, LoginError

API_KEY_PREFIX = "dbos_"
"""By it Conductor tells the keys from the tokens of users."""

LOCK_PATIENCE_SECONDS = 45.0
"""Longer than a process takes to renew a login, with an issuer that is slow to answer."""

_LOCK_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Credentials:
    """What a request to Conductor carries."""

    organization: str
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Login:
    """A login as it is kept; the keys are camelCase, as dbosctl's.

    `expires_at` is in Unix seconds. `url` is the Conductor that it is for and `issuer` who gave it;
    where they are missing, those of DBOS-managed. After a logout the token is missing: the names
    that remain are those by which the mirror is found.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(alias_generator=to_camel)

    token: str | None = field(default=None, repr=False)
    user_name: str | None = None
    organization: str | None = None
    refresh_token: str | None = field(default=None, repr=False)
    expires_at: int | None = None
    url: str | None = None
    issuer: str | None = None

    @property
    def ends_at(self) -> int | None:
        """When the token ends, in Unix seconds, as far as is known."""
        return self.expires_at or (expiry_of(self.token) if self.token else None)


def expiry_of(token: str) -> int | None:
    """The `exp` of a JWT (RFC 7519, section 4.1.4), unverified: for telling, not for trusting."""
    try:
        _header, payload, _signature = token.split(".")
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return _JwtClaims.model_validate(claims).exp
    except (ValueError, RecursionError, binascii.Error):
        return None


class _JwtClaims(BaseModel):
    exp: int | None = None


_LOGIN = TypeAdapter(Login)
_KEYS = frozenset(to_camel(each.name) for each in fields(Login))


class _Content:
    """What the file holds. What is not ours, or of a later version, is kept as it is."""

    def __init__(self, content: bytes) -> None:
        """Raises ValueError: damaged."""
        self._raw: dict[str, Any] = _OBJECT.validate_json(content)
        self._logins: dict[str, Any] = _OBJECT.validate_python(self._raw.get("logins", {}))

    def get(self, name: str | None) -> Login | None:
        """Raises ValueError: damaged."""
        if name is not None:
            entry = self._logins.get(name)
            return None if entry is None else _LOGIN.validate_python(entry)
        return _LOGIN.validate_python(self._raw) if self._raw.keys() & _KEYS else None

    def put(self, name: str | None, login: Login) -> bytes:
        kept = self._raw if name is None else self._logins.get(name) or {}
        entry = _LOGIN.dump_python(login, by_alias=True, exclude_none=True)
        entry |= {key: value for key, value in kept.items() if key not in _KEYS}
        raw = entry if name is None else self._raw | {"logins": self._logins | {name: entry}}
        return json.dumps(raw, indent=2).encode()


_OBJECT = TypeAdapter(dict[str, Any])


class CredentialStore:
    """One login's place in the file: under a name, or without one that of DBOS-managed.

    Only the file's owner can read it, no reader sees it half-written, and the processes that write
    it take turns. With `look_only` a look leaves the file as it is, whatever is wrong with it.
    """

    def __init__(self, path: Path, name: str | None = None, *, look_only: bool = False) -> None:
        self._path = path
        self._name = name
        self._look_only = look_only

    def load(self) -> Login | None:
        """What was saved, or None if nothing was.

        Raises:
            AuthenticationError: the file cannot be used; a damaged one is kept under another name.
        """
        with suppress(ValueError):
            return self._content().get(self._name)
        # Outside the handler: the error holds the file's text, and so the token.
        aside = None
        if not self._look_only:
            with suppress(Timeout, OSError, LoginError), self._lock():
                aside = self._set_aside_if_damaged()
        raise AuthenticationError(
            f"The credentials in {self._path} are damaged"
            + (f", and were kept as {aside.name}." if aside else "."),
            hint="Log in again.",
        )

    async def save(self, login: Login) -> None:
        """Replace this login, and leave the others as they are.

        Raises:
            LoginError: the file cannot be written.
        """
        async with self.exclusively() as save:
            save(login)

    @asynccontextmanager
    async def exclusively(self) -> AsyncIterator[Callable[[Login], None]]:
        """While no other process or task writes the file; gives what saves meanwhile.

        Raises:
            LoginError: the file cannot be written, or another process does not let go of it.
        """
        lock = self._lock()
        with anyio.move_on_after(LOCK_PATIENCE_SECONDS) as waiting:
            # Whoever holds a file lock tells nobody when it lets go.
            while not self._taken(lock):  # noqa: ASYNC110
                await anyio.sleep(_LOCK_POLL_SECONDS)
        if waiting.cancelled_caught:
            raise LoginError(
                f"Another process is writing {self._path} and does not come to an end.",
                hint="Look for a dbos-mcp that hangs, end it, and try again.",
            )
        try:
            self._set_aside_if_damaged()  # not written over
            yield self._write
        finally:
            lock.release()

    def _lock(self) -> FileLock:
        with self._explaining():
            folder = self._path.parent
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
        # One for each taking: a lock that is shared would let in every task of this process.
        return FileLock(f"{self._path}.lock", timeout=0, mode=0o600, thread_local=False)

    def _taken(self, lock: FileLock) -> bool:
        with self._explaining(), suppress(Timeout):
            lock.acquire()
        return bool(lock.is_locked)

    def _content(self) -> _Content:
        """Raises ValueError: damaged."""
        content = self._read()
        return _Content(b"{}" if content is None else content)

    def _read(self) -> bytes | None:
        """The bytes; should others have been able to read them, they are not any more."""
        try:
            with self._path.open("rb") as file:
                self._narrow(file.fileno())
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise AuthenticationError(
                f"The credentials in {self._path} cannot be read: {error.strerror}.",
                hint="Make the file readable for you alone, or set DBOS_TOKEN.",
            ) from error

    def _narrow(self, descriptor: int) -> None:
        folder = self._path.parent
        if os.name != "posix" or self._look_only:
            return
        with suppress(OSError):  # a file of somebody else's
            if os.fstat(descriptor).st_mode & 0o077:
                os.fchmod(descriptor, 0o600)
            if folder.stat().st_mode & 0o077:
                folder.chmod(0o700)

    def _write(self, login: Login) -> None:
        """Whoever calls it holds the lock."""
        content = self._content().put(self._name, login)
        with self._explaining():
            folder = self._path.parent
            for abandoned in folder.glob(f".{self._path.name}.*.new"):
                abandoned.unlink(missing_ok=True)  # of a process that was killed here
            # mkstemp: a fresh name, O_EXCL, mode 0600 from the first byte on.
            descriptor, temporary = tempfile.mkstemp(
                prefix=f".{self._path.name}.", suffix=".new", dir=folder
            )
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(self._path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
            _sync_folder(folder)

    def _set_aside_if_damaged(self) -> Path | None:
        """Where it is kept then. Whoever calls it holds the lock."""
        with suppress(ValueError):
            self._content().get(self._name)
            return None
        names = (self._path.with_name(f"{self._path.name}.corrupt-{n}") for n in count(1))
        aside = next(name for name in names if not name.exists())
        with self._explaining():
            return self._path.rename(aside)

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LoginError(
                f"The credentials cannot be written to {self._path.parent}: {error.strerror}.",
                hint="Make the folder writable, or set DBOS_TOKEN instead of logging in.",
            ) from error


def _sync_folder(folder: Path) -> None:
    """A name that is replaced is only on the disk when its folder is."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
