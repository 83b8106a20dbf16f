"""Who asks: the organization and the token, and the file that keeps them between runs."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from dbos_mcp.errors import AuthenticationError, LoginError


@dataclass(frozen=True)
class Credentials:
    """A login. `expires_at` is in Unix seconds, and the file's keys are camelCase, as dbosctl's."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(alias_generator=to_camel)

    organization: str
    token: str | None = field(default=None, repr=False)
    user_name: str | None = None
    refresh_token: str | None = field(default=None, repr=False)
    expires_at: int | None = None


IdentitySource = Callable[[], Credentials]
"""Asked before each request; raises AuthenticationError when nobody is logged in."""

_FILE = TypeAdapter(Credentials)


class CredentialStore:
    """One JSON file that only its owner can read, and that no reader ever sees half-written."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Credentials | None:
        """What was saved, or None if nothing was.

        Raises:
            AuthenticationError: the file cannot be used; a damaged one is kept under another name.
        """
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise AuthenticationError(
                f"The credentials in {self._path} cannot be read: {error.strerror}."
            ) from error
        try:
            return _FILE.validate_json(content)
        except ValidationError:
            aside = self._set_aside()
        # Outside the handler: the validation error holds the file's text, and so the token.
        raise AuthenticationError(
            f"The credentials in {self._path} were damaged and are kept as {aside.name}.",
            hint="Log in again.",
        )

    def save(self, credentials: Credentials) -> None:
        """Replace the file in one step; whatever the umask or the old modes, only we can read it.

        Raises:
            LoginError: the folder cannot be written to.
        """
        content = _FILE.dump_json(credentials, by_alias=True, exclude_none=True, indent=2)
        folder = self._path.parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
            # mkstemp: a fresh name, O_EXCL, mode 0600 from the first byte on.
            descriptor, temporary = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=folder)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(self._path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise LoginError(
                f"The credentials cannot be written to {folder}: {error.strerror}.",
                hint="Make the folder writable, or set DBOS_TOKEN instead of logging in.",
            ) from error

    def clear(self) -> bool:
        """Forget the login; false if there was none."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True

    def _set_aside(self) -> Path:
        names = (self._path.with_name(f"{self._path.name}.corrupt-{n}") for n in count(1))
        aside = next(name for name in names if not name.exists())
        self._path.chmod(0o600)
        return self._path.rename(aside)
