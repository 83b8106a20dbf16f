"""Logging in to a target, logging out of it, and who one is there."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import anyio
import httpx

from dbos_mcp.conductor.credentials import API_KEY_PREFIX, Credentials, Login
from dbos_mcp.conductor.device_login import DeviceAuthorization, DeviceLogin
from dbos_mcp.conductor.identity import FixedIdentity, LoginIdentity
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


@dataclass(frozen=True)
class LoggedIn:
    login: Login
    problem: str | None
    """Why the organization is not known yet, if it is not."""


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
        self._under_way: tuple[DeviceAuthorization, DeviceLogin] | None = None

    @property
    def device(self) -> DeviceLogin | None:
        """The one that is under way."""
        return self._under_way[1] if self._under_way is not None else None

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
        device = await authorization.start()
        self._under_way = authorization, device
        return device

    def abandon(self) -> None:
        """The person does not want it."""
        self._under_way = None

    async def complete(self, timeout_seconds: float) -> LoggedIn:
        """Wait for the person's approval, and keep what comes of it.

        Raises:
            LoginPendingError: not yet. LoginError: it came to nothing, or none is under way.
            UnavailableError: the issuer does not answer; the login is still valid.
        """
        if self._under_way is None:
            raise LoginError("No login is under way.", hint="Call `login` first.")
        authorization, device = under_way = self._under_way
        tokens = await authorization.complete(device, timeout_seconds=timeout_seconds)
        done = await self._keep(tokens)
        if self._under_way == under_way and done.problem is None:
            self._under_way = None  # else it may be completed once more
        return done

    async def _keep(self, tokens: Tokens) -> LoggedIn:
        """Keep them at once, since the code was good for one grant, and then learn the names."""
        settings = self._settings
        login = Login(
            token=tokens.access_token,
            refresh_token=tokens.refresh_token,
            expires_at=tokens.expires_in and now_ms() // 1000 + tokens.expires_in,
            organization=settings.organization,
            url=settings.address,
            issuer=issuer_of(settings).url,
        )
        store, problem = login_store(settings), None
        with anyio.CancelScope(shield=True):
            await store.save(login)
        asks = FixedIdentity(Credentials(settings.organization or "", tokens.access_token))
        try:
            async with open_client(settings, asks, self._transport) as client:
                user = await client.get_current_user()
        except NotFoundError:
            problem = NOT_REGISTERED
        except ConductorError as error:
            problem = f"The organization could not be asked for: {error}"
        else:
            login = replace(login, user_name=user.name, organization=user.org_name)
            await store.save(login)
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
    identity = identity_of(settings)
    assert isinstance(identity, LoginIdentity)
    in_use, store = identity.login(), login_store(settings)
    if in_use is None or in_use.token is None:
        return LoggedOut(None, revoked=False)
    own = store.load()
    await store.save(
        Login(
            user_name=in_use.user_name,
            organization=in_use.organization,
            url=settings.address,
            issuer=issuer.url,
        )
    )
    revoked = False
    if own is not None and own.refresh_token is not None:
        try:
            revoked = await IssuerClient(issuer, transport=transport).revoke(own.refresh_token)
        except DbosMcpError:
            revoked = False
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
    unknown = settings.model_copy(update={"organization": settings.organization or "unknown"})
    # Of a user's token, the organization is what is asked for.
    identity = identity_of(unknown if settings.token is not None else settings)
    login = identity.login() if isinstance(identity, LoginIdentity) else None
    if isinstance(identity, LoginIdentity) and login is not None and login.organization is None:
        identity = identity_of(unknown)
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
    if user is not None and login is not None and login.organization is None:
        store = login_store(settings)
        async with store.exclusively() as save:
            if (kept := store.load()) is not None and kept.token == credentials.token:
                save(replace(kept, user_name=user.name, organization=user.org_name))
    return Account(
        profile=settings.profile,
        url=settings.address,
        authentication=identity.described(),
        organization=user.org_name if user is not None else settings.known_organization,
        user=user,
        note=note,
    )
