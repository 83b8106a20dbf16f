"""Logging in to a target, logging out of it, and who one is there."""

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import anyio
import httpx

from dbos_mcp.conductor.credentials import API_KEY_PREFIX, Login
from dbos_mcp.conductor.device_login import DeviceAuthorization, DeviceLogin
from dbos_mcp.conductor.identity import LoginIdentity
from dbos_mcp.conductor.models import UserProfile
from dbos_mcp.conductor.oauth import IssuerClient, Tokens
from dbos_mcp.domain import now_ms
from dbos_mcp.errors import (
    ConductorError,
    DbosMcpError,
    LoginError,
    NotFoundError,
    UsageError,
)
from dbos_mcp.runtime import how_to_log_in_to, identity_of, login_store, open_client
from dbos_mcp.settings import Issuer, Settings

NOT_REGISTERED = (
    "Conductor does not know this user yet, and so the organization is unknown: register at the"
    " DBOS console, or set DBOS_ORG."
)
_UNKNOWN = "unknown"
"""What stands for an organization where none is asked for."""


@dataclass(frozen=True)
class LoggedIn:
    login: Login
    problem: str | None
    """Why the organization is not known yet, if it is not."""


@dataclass
class _UnderWay:
    authorization: DeviceAuthorization
    device: DeviceLogin
    kept: bool = False


class LoginFlow:
    """A login to one target, from the code that is shown to the credentials that are kept.

    It is in this process's memory until it is approved. One that begins takes the place of the one
    before.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._clock = clock
        self._sleep = sleep
        self._under_way: _UnderWay | None = None

    @property
    def device(self) -> DeviceLogin | None:
        """The one that is under way."""
        return self._under_way.device if self._under_way is not None else None

    async def begin(self) -> DeviceLogin:
        """Ask for a code to show.

        Raises:
            UsageError: this target has no login.
            LoginError, UnavailableError: it did not begin.
        """
        authorization = DeviceAuthorization(
            issuer_of(self._settings),
            transport=self._transport,
            clock=self._clock,
            sleep=self._sleep,
        )
        self._under_way = None
        self._under_way = _UnderWay(authorization, await authorization.start())
        return self._under_way.device

    def abandon(self) -> None:
        """The person does not want it."""
        self._under_way = None

    async def complete(self, timeout_seconds: float) -> LoggedIn:
        """Wait for the person's approval, and keep what comes of it.

        Raises:
            LoginPendingError: not yet. LoginError: it came to nothing, or none is under way.
            UnavailableError: the issuer does not answer; the login is still valid.
        """
        under_way = self._under_way
        if under_way is None:
            raise LoginError("No login is under way.", hint="Call `login` first.")
        tokens = await under_way.authorization.complete(
            under_way.device, timeout_seconds=timeout_seconds
        )
        if not under_way.kept:  # by now they may have been renewed
            await self._keep(tokens)
            under_way.kept = True
        done = await self._named()
        if self._under_way is under_way and done.problem is None:
            self._under_way = None  # else it may be completed once more
        return done

    async def _keep(self, tokens: Tokens) -> None:
        """At once, since the code was good for one grant; the names come after it."""
        settings = self._settings
        login = Login(
            token=tokens.access_token,
            refresh_token=tokens.refresh_token,
            expires_at=tokens.expires_in and now_ms() // 1000 + tokens.expires_in,
            organization=settings.organization,
            url=settings.address,
            issuer=issuer_of(settings).url,
        )
        with anyio.CancelScope(shield=True):
            await login_store(settings).save(login)

    async def _named(self) -> LoggedIn:
        """The login with the names that Conductor has for it, if it tells them."""
        try:
            problem = (await who_am_i(self._settings, transport=self._transport)).note
        except ConductorError as error:
            problem = f"The organization could not be asked for: {error}"
        login = login_store(self._settings).load() or Login()
        return LoggedIn(login, problem if login.organization is None else None)


def issuer_of(settings: Settings) -> Issuer:
    """Where to log in to a target.

    Raises:
        UsageError: nowhere, and why.
    """
    if settings.offline:
        raise _nothing_to_log_in_to("this answers from the cache only (--offline).")
    if settings.token is not None and not settings.is_local:
        raise _nothing_to_log_in_to("DBOS_TOKEN is set.")
    if not settings.wants_login:
        raise _nothing_to_log_in_to("this Conductor is used without a login.")
    if settings.issuer is None:
        raise _nothing_to_log_in_to("its issuer is not known.", hint=how_to_log_in_to(settings))
    return settings.issuer


def _nothing_to_log_in_to(reason: str, *, hint: str = "") -> UsageError:
    return UsageError(f"There is nothing to log in to: {reason}", hint=hint)


@dataclass(frozen=True)
class LoggedOut:
    who: Login | None
    """None: nobody was logged in."""
    revoked: bool
    """Whether the issuer ended it too; the token itself goes on until its end."""


async def log_out(
    settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None
) -> LoggedOut:
    """Forget the login to a target; the mirror stays. dbosctl's own login is not used any more, and
    left as it is.

    Raises:
        UsageError: this target has no login.
    """
    issuer = issuer_of(settings)
    identity, store = identity_of(settings), login_store(settings)
    assert isinstance(identity, LoginIdentity)
    async with store.exclusively() as save:
        in_use = identity.login()
        if in_use is None or in_use.token is None:
            return LoggedOut(None, revoked=False)
        save(
            Login(
                user_name=in_use.user_name,
                organization=in_use.organization,
                url=settings.address,
                issuer=issuer.url,
            )
        )
    revoked = False
    if in_use.refresh_token is not None and identity.can_renew(in_use):
        with suppress(DbosMcpError):
            revoked = await IssuerClient(issuer, transport=transport).revoke(in_use.refresh_token)
    return LoggedOut(in_use, revoked)


@dataclass(frozen=True)
class Account:
    """Who one is to Conductor, by its own word."""

    profile: str | None
    url: str
    authentication: str
    """In a few words: what is sent, and until when it is good."""
    organization: str | None
    user: UserProfile | None = None
    """None of an API key, nor where no login is needed."""
    note: str | None = None


async def who_am_i(
    settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None
) -> Account:
    """Ask Conductor who one is. What it says for the first time is kept with the login.

    Raises:
        AuthenticationError: nobody, or Conductor does not accept it.
        ConductorError: it cannot be asked.
    """
    if settings.token is not None:
        # Of a user's token, the organization is what is asked for.
        asked = settings.model_copy(update={"organization": settings.organization or _UNKNOWN})
        identity = identity_of(asked, transport=transport)
    else:
        identity = identity_of(settings, transport=transport)
    login = identity.login() if isinstance(identity, LoginIdentity) else None
    if login is not None and login.organization is None:
        identity = identity_of(settings, pinned=_UNKNOWN, transport=transport)
    credentials = await identity.fresh()
    user, note = None, None
    async with open_client(settings, identity, transport) as client:
        if credentials.token is None or credentials.token.startswith(API_KEY_PREFIX):
            await client.list_applications()  # a key has no user, but is it accepted?
        else:
            try:
                user = await client.get_current_user()
            except NotFoundError:
                note = NOT_REGISTERED
    if user is not None and login is not None and None in (login.user_name, login.organization):
        store = login_store(settings)
        async with store.exclusively() as save:
            if (kept := store.load()) is not None and kept.token == credentials.token:
                save(replace(kept, user_name=user.name, organization=user.org_name))
    organization = settings.known_organization or (login.organization if login else None)
    return Account(
        profile=settings.profile,
        url=settings.address,
        authentication=identity.described(),
        organization=user.org_name if user is not None else organization,
        user=user,
        note=note,
    )
