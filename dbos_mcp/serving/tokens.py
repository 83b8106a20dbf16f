"""The bearer tokens of a server for a team, and the file that keeps what is needed to know them.

A token is `dbosmcp_<id>_<32 random bytes>` and shown once. The file has its SHA-256 alone: nobody
guesses 256 random bits, so a hash that is slow, as passwords need, would only make requests slow.
"""

import hmac
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

from filelock import FileLock, Timeout
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from dbos_mcp import files
from dbos_mcp.domain import Rights, now_ms
from dbos_mcp.errors import NotFoundError, StoreError, UsageError

PREFIX = "dbosmcp"
LOCK_PATIENCE_SECONDS = 5.0
USED_AGAIN_MS = 5 * 60_000
"""How coarse the time of the last use is: the file is written at most that often for a token."""

_TOKEN = re.compile(rf"{PREFIX}_([0-9a-f]{{12}})_[A-Za-z0-9_-]{{43}}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")

_State = tuple[int, int, int]


def _plain_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("1 to 64 letters, digits, and . _ @ + - behind the first")
    return name


class Token(BaseModel):
    """What is kept of one."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    id: str = Field(pattern="^[0-9a-f]{12}$")
    name: Annotated[str, AfterValidator(_plain_name)]
    rights: Rights
    sha256: str = Field(repr=False, pattern="^[0-9a-f]{64}$")
    created_at: int
    expires_at: int | None = None
    last_used_at: int | None = None

    def has_ended(self, now: int) -> bool:
        return self.expires_at is not None and self.expires_at <= now


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    version: Literal[1] = 1
    tokens: list[Token] = []


class TokenFile:
    """The tokens of all servers of this user. A change holds in those that run at once: each
    request asks whether there is another file."""

    def __init__(self, path: Path, clock: Callable[[], int] = now_ms) -> None:
        self.path = path
        self._clock = clock
        self._known: tuple[_State | None, dict[str, Token]] = (None, {})

    def tokens(self) -> list[Token]:
        """
        Raises:
            StoreError: the file cannot be read, or is damaged.
        """
        return [*self._read().values()]

    def any_good(self) -> bool:
        """Whether anybody could come in now. Raises StoreError."""
        return any(not token.has_ended(self._clock()) for token in self.tokens())

    def create(
        self, name: str, rights: Rights, *, lasts_ms: int | None = None
    ) -> tuple[str, Token]:
        """A new token, which is kept nowhere, and what is kept of it.

        Raises:
            UsageError: the name cannot be used, or is taken. StoreError: see `tokens`.
        """
        token_id, now = secrets.token_hex(6), self._clock()
        secret = f"{PREFIX}_{token_id}_{secrets.token_urlsafe(32)}"
        try:
            token = Token(
                id=token_id,
                name=name,
                rights=rights,
                sha256=_hash(secret),
                created_at=now,
                expires_at=None if lasts_ms is None else now + lasts_ms,
            )
        except ValidationError as error:
            raise UsageError(
                "A token cannot have this name.",
                hint="Give 1 to 64 letters and digits; behind the first also . _ @ + and -.",
            ) from error
        with self._changing() as tokens:
            if any(other.name == name for other in tokens.values()):
                raise UsageError(
                    f"There is a token {name} already.",
                    hint=f"Name it otherwise, or first `dbos-mcp token revoke {name}`.",
                )
            tokens[token.id] = token
        return secret, token

    def revoke(self, name_or_id: str) -> Token:
        """
        Raises:
            NotFoundError: there is none of that name or id. StoreError: see `tokens`.
        """
        with self._changing() as tokens:
            for token in tokens.values():
                if name_or_id in (token.name, token.id):
                    return tokens.pop(token.id)
        raise NotFoundError(
            "There is no token of that name or id.", hint="`dbos-mcp token list` shows them."
        )

    def verify(self, secret: str) -> Token | None:
        """Whose it is, if it is good now.

        Raises:
            StoreError: see `tokens`.
        """
        found = _TOKEN.fullmatch(secret)
        token = self._read().get(found[1]) if found else None
        if token is None or not hmac.compare_digest(_hash(secret), token.sha256):
            return None
        return None if token.has_ended(self._clock()) else token

    def is_good(self, token_id: str) -> bool:
        """Whether the token of a request that goes on for long is good still. Raises StoreError."""
        token = self._read().get(token_id)
        return token is not None and not token.has_ended(self._clock())

    def wants_note(self, token: Token) -> bool:
        """Whether its last use is to be written down."""
        return self._clock() - (token.last_used_at or 0) >= USED_AGAIN_MS

    def note_use(self, token: Token) -> None:
        """Write it down. Raises StoreError."""
        with self._changing() as tokens:
            if token.id in tokens and self.wants_note(tokens[token.id]):
                used = tokens[token.id].model_copy(update={"last_used_at": self._clock()})
                tokens[token.id] = used

    def _read(self) -> dict[str, Token]:
        state = self._state()  # before it is read: what comes meanwhile is read next time
        known_state, known = self._known
        if state != known_state:
            content = _Content() if state is None else self._parsed()
            known = {token.id: token for token in content.tokens}
            self._known = (state, known)
        return known

    def _state(self) -> _State | None:
        """Another one for each file that is put there."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(error.strerror or str(error)) from error
        return (status.st_ino, status.st_mtime_ns, status.st_size)

    def _parsed(self) -> _Content:
        try:
            return _Content.model_validate_json(self.path.read_bytes())
        except OSError as error:
            raise self._unreadable(error.strerror or str(error)) from error
        except ValidationError as error:
            raise self._unreadable("it is damaged") from error

    def _unreadable(self, why: str) -> StoreError:
        return StoreError(
            f"The tokens in {self.path} cannot be read: {why}.",
            hint="Nobody is let in meanwhile. Mend the file, or move it away and make new tokens.",
        )

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Token]]:
        """What is there, and written when the block has ended well, while nobody else writes."""
        folder = self.path.parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # One for each taking: a lock that is shared would let in every thread.
            lock = FileLock(f"{self.path}.lock", mode=0o600, thread_local=False)
            with lock.acquire(timeout=LOCK_PATIENCE_SECONDS):
                tokens = dict(self._read())
                before = dict(tokens)
                yield tokens
                if tokens != before:
                    content = _Content(tokens=[*tokens.values()])
                    files.write(self.path, content.model_dump_json(indent=2) + "\n", force=True)
        except Timeout as error:
            raise StoreError(
                f"Another process is writing {self.path} and does not come to an end.",
                hint="Look for a dbos-mcp that hangs, end it, and try again.",
            ) from error
        except OSError as error:
            raise files.not_to_be_written(self.path, error) from error


def _hash(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()
