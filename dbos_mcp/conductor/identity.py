"""Who asks Conductor, from one request to the next.

A login is renewed shortly before it ends, where the issuer gave a refresh token. Issuers that
rotate those take a second use of one for a theft, and end the whole login. So whoever renews holds
the lock of the credentials file from reading it until what came of it is written: of all the
processes that share the file one asks, and the others find what it got.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import anyio

from dbos_mcp.conductor.credentials import (
    API_KEY_PREFIX,
    Credentials,
    CredentialStore,
    Login,
    expiry_of,
)
from dbos_mcp.domain import tell_time
from dbos_mcp.errors import AuthenticationError, ConductorError, LoginError, UnavailableError
from dbos_mcp.settings import MANAGED_ISSUER, MANAGED_URL

if TYPE_CHECKING:
    from dbos_mcp.conductor.oauth import IssuerClient

RENEW_BEFORE_SECONDS = 30
"""Some issuers' tokens live for a minute."""
TRY_AGAIN_SECONDS = 30
LONGEST_RETRY_AFTER_SECONDS = 300

Clock = Callable[[], float]
"""Unix seconds."""


class Identity(Protocol):
    """All of its methods raise AuthenticationError when nobody is there to ask as."""

    how_to_log_in: str
    """The next step when the credentials are not accepted."""

    def described(self) -> str:
        """In a few words, for people; never raises."""

    def organization(self) -> str:
        """Whose mirror it is; known also of a login that has ended."""

    def current(self) -> Credentials:
        """What the next request would carry, as far as is known without asking anybody."""

    async def fresh(self) -> Credentials:
        """What a request carries now: renewed, if it was about to end.

        Raises:
            UnavailableError: it has ended, and the issuer does not answer.
        """

    async def after_refusal(self, refused: Credentials) -> Credentials | None:
        """What to try once more after a 401, if there is anything else."""


class FixedIdentity:
    """Nobody in particular, or a token that somebody else keeps."""

    def __init__(
        self, credentials: Credentials, how_to_log_in: str = "", *, clock: Clock = time.time
    ) -> None:
        self.how_to_log_in = how_to_log_in
        self._credentials = credentials
        self._ends_at = expiry_of(credentials.token) if credentials.token else None
        self._clock = clock

    def described(self) -> str:
        token, organization = self._credentials.token, self._credentials.organization
        if token is None:
            return f"nobody in particular, of {organization}"
        kind = "an API key" if token.startswith(API_KEY_PREFIX) else "a token"
        until = f", until {tell_time(self._ends_at)}" if self._ends_at is not None else ""
        return f"{kind} of {organization}{until}"

    def organization(self) -> str:
        return self._credentials.organization

    def current(self) -> Credentials:
        if self._ends_at is not None and self._ends_at <= self._clock():
            raise AuthenticationError(
                f"DBOS_TOKEN ended at {tell_time(self._ends_at)}.", hint=self.how_to_log_in
            )
        return self._credentials

    async def fresh(self) -> Credentials:
        return self.current()

    async def after_refusal(self, refused: Credentials) -> Credentials | None:
        return None


@dataclass(frozen=True)
class _Failure:
    """Why a login could not be renewed, and until when that is taken as an answer."""

    login: Login
    error: ConductorError
    until: float


class LoginIdentity:
    """A login that is kept in a file, which is read at each request: a login elsewhere counts at
    once.

    `fallbacks` are other places to find one that serves the same Conductor (`url`), which are
    never renewed or changed here. `organization` is the one that is asked for, whatever the login
    says; `pinned` the one whose mirror is open, for which no other organization's login is used.
    """

    def __init__(
        self,
        store: CredentialStore,
        *,
        url: str = MANAGED_URL,
        organization: str | None = None,
        pinned: str | None = None,
        issuer: "IssuerClient | None" = None,
        fallbacks: tuple[Callable[[], Login | None], ...] = (),
        how_to_log_in: str = "",
        clock: Clock = time.time,
    ) -> None:
        self.how_to_log_in = how_to_log_in
        self._store = store
        self._url = url
        self._organization = organization
        self._pinned = pinned
        self._issuer = issuer
        self._fallbacks = fallbacks
        self._clock = clock
        self._renewing = anyio.Lock()
        self._failure: _Failure | None = None

    def login(self) -> Login | None:
        """The one in use. One that was made here wins, unless it has ended for good; and a logout
        here counts, whoever else is logged in."""
        own = self._store.load()
        if own is not None and not self._serves(own):
            own = None
        if own is not None and (own.token is None or self._goes_on(own)):
            return own
        found = (fallback() for fallback in self._fallbacks)
        others = [replace(login, refresh_token=None) for login in found if login is not None]
        usable = [
            login
            for login in others
            if login.token is not None
            and self._serves(login)
            and self._organization in (None, login.organization)
        ]
        going_on = next(filter(self._goes_on, usable), None)
        return going_on or own or next(iter(usable), None)

    def can_renew(self, login: Login) -> bool:
        """Whether its refresh token is one of the issuer that is asked here."""
        return (
            self._issuer is not None
            and login.refresh_token is not None
            and (login.issuer or MANAGED_ISSUER.url) == self._issuer.issuer.url
        )

    def described(self) -> str:
        try:
            login = self._required()
        except AuthenticationError as error:
            return error.message
        until = "" if login.ends_at is None else f", until {tell_time(login.ends_at)}"
        if self._has_ended(login):
            until = f", ended at {tell_time(login.ends_at or 0)}"
        if self.can_renew(login):
            until = ", renewed by itself"
        organization = self._organization or login.organization or "an unknown organization"
        return f"{login.user_name or 'a user'} of {organization}{until}"

    def organization(self) -> str:
        if self._organization is not None:
            return self._organization
        login = self.login()
        if login is None:
            raise self._nobody()
        if login.organization is None:
            raise _unknown_organization()
        return login.organization

    def current(self) -> Credentials:
        login = self._required()
        if not self._goes_on(login):
            raise self._ended(login)
        return self._credentials(login)

    async def fresh(self) -> Credentials:
        login = self._required()
        if login.ends_at is not None and login.ends_at - RENEW_BEFORE_SECONDS <= self._clock():
            if self.can_renew(login):
                login = await self._renewed(login)
            elif self._has_ended(login):
                raise self._ended(login)
        return self._credentials(login)

    async def after_refusal(self, refused: Credentials) -> Credentials | None:
        login = self._required()
        if login.token == refused.token:
            if not self.can_renew(login):
                return None
            login = await self._renewed(login, refused=True)
        return self._credentials(login) if login.token != refused.token else None

    def _required(self) -> Login:
        login = self.login()
        if login is None or login.token is None:
            raise self._nobody()
        return login

    def _credentials(self, login: Login) -> Credentials:
        organization = self._organization or login.organization or self._pinned
        if organization is None:
            raise _unknown_organization()
        if self._pinned not in (None, organization):
            raise AuthenticationError(
                f"The login is now one of {organization}, and this mirror is of {self._pinned}.",
                hint=f"Start again, or log in to {self._pinned}.",
            )
        return Credentials(organization, login.token)

    async def _renewed(self, login: Login, *, refused: bool = False) -> Login:
        """The login after it, by whichever process; or itself, if it must do a little longer.

        Raises:
            AuthenticationError: it has ended for good.
            UnavailableError: it has ended, and the issuer does not answer.
        """
        async with self._renewing:
            failure = self._failure
            if failure is None or failure.login != login or failure.until <= self._clock():
                try:
                    return await self._renew(login)
                except UnavailableError as error:
                    failure = self._failed(login, error)
                except LoginError as error:
                    failure = self._failed(login, self._not_renewed(login, error))
            if refused or self._has_ended(login):
                raise failure.error
            return login

    def _failed(self, login: Login, error: ConductorError) -> _Failure:
        wanted = error.retry_after_seconds if isinstance(error, UnavailableError) else None
        pause = min(max(wanted or 0, TRY_AGAIN_SECONDS), LONGEST_RETRY_AFTER_SECONDS)
        self._failure = _Failure(login, error, self._clock() + pause)
        return self._failure

    async def _renew(self, login: Login) -> Login:
        async with self._store.exclusively() as save:
            if self._store.load() != login:
                return self._required()
            # What the issuer gives is not to be lost by somebody's impatience.
            with anyio.CancelScope(shield=True):
                login = await self._ask(login, save)
            return login  # noqa: RET504 # mypy takes a shielded scope for one that swallows errors

    async def _ask(self, login: Login, save: Callable[[Login], None]) -> Login:
        from dbos_mcp.conductor.oauth import RefusedError

        assert self._issuer is not None and login.refresh_token is not None
        save(login)  # on a full disk, better not ask for what could not be kept
        try:
            tokens = await self._issuer.refresh(login.refresh_token)
        except RefusedError as error:
            if error.name != "invalid_grant":
                raise
            # It will not do for anybody else either.
            login = replace(login, refresh_token=None)
            save(login)
            if self._has_ended(login):
                raise self._ended(login) from None
            return login
        ends_at = None if tokens.expires_in is None else int(self._clock()) + tokens.expires_in
        login = replace(
            login,
            token=tokens.access_token,
            refresh_token=tokens.refresh_token or login.refresh_token,
            expires_at=ends_at,
        )
        save(login)
        return login

    def _serves(self, login: Login) -> bool:
        """No token goes to another Conductor than the one it is for."""
        return (login.url or MANAGED_URL) == self._url

    def _goes_on(self, login: Login) -> bool:
        return not self._has_ended(login) or self.can_renew(login)

    def _has_ended(self, login: Login) -> bool:
        return login.ends_at is not None and login.ends_at <= self._clock()

    def _nobody(self) -> AuthenticationError:
        return AuthenticationError(
            f"Nobody is logged in to Conductor at {urlsplit(self._url).netloc}.",
            hint=self.how_to_log_in,
        )

    def _ended(self, login: Login) -> AuthenticationError:
        at = f" at {tell_time(login.ends_at)}" if login.ends_at is not None else ""
        return AuthenticationError(
            f"The login of {login.user_name or 'this user'} ended{at}.", hint=self.how_to_log_in
        )

    def _not_renewed(self, login: Login, error: LoginError) -> AuthenticationError:
        from dbos_mcp.conductor.oauth import RefusedError

        return AuthenticationError(
            f"The login of {login.user_name or 'this user'} could not be renewed: {error.message}",
            hint=self.how_to_log_in if isinstance(error, RefusedError) else error.hint,
        )


def _unknown_organization() -> AuthenticationError:
    return AuthenticationError(
        "Conductor does not know this user, and so the organization is unknown.",
        hint="Register at the DBOS console and run `dbos-mcp whoami`, or set DBOS_ORG.",
    )
