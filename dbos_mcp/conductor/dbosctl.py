"""dbosctl's logins, read for its profiles. The file is dbosctl's: it is never written or moved."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from dbos_mcp.errors import AuthenticationError
from dbos_mcp.profiles import BLANK_IS_ABSENT

_LOG_IN = "Log in again with `dbosctl login` or `dbos-mcp login`."


@dataclass(frozen=True)
class DbosctlLogin:
    """A login of dbosctl. `expires_at` is in Unix seconds.

    Its refresh token is left alone: an issuer that rotates them would log dbosctl out.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(alias_generator=to_camel)

    # What a header can hold: httpx would show any other token in its error.
    token: Annotated[str, Field(pattern=r"^[!-~]+$")] = field(repr=False)
    user_name: Annotated[str | None, BLANK_IS_ABSENT] = None
    organization: Annotated[str | None, BLANK_IS_ABSENT] = None
    expires_at: Annotated[int | None, BLANK_IS_ABSENT] = None


# One login at a time: another profile's may be damaged.
_FILE = TypeAdapter(dict[str, Any] | None)
_LOGIN = TypeAdapter(DbosctlLogin | None)


def load_dbosctl_login(folder: Path, profile: str) -> DbosctlLogin | None:
    """The login that dbosctl keeps for a profile, or None if it keeps none.

    Raises:
        AuthenticationError: the file cannot be used.
    """
    path = folder / "credentials.json"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AuthenticationError(
            f"dbosctl's logins in {path} cannot be read: {error.strerror}.", hint=_LOG_IN
        ) from error
    try:
        logins = _FILE.validate_json(content) or {}
        return _LOGIN.validate_python(logins.get(profile))
    except ValidationError:
        pass
    # Outside the handler: the validation error holds the file's text, and so the token.
    raise AuthenticationError(f"dbosctl's logins in {path} are damaged.", hint=_LOG_IN)
