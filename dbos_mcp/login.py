"""Logging in to a target, logging out of it, and who one is there."""

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import anyio
import httpx

from dbos_mcp.conductor.credentials import API_KEY_PREFIX, Credentials, Login, expiry_of
from dbos_mcp.conductor.device_login import DeviceAuthorization, DeviceLogin
from dbos_mcp.conductor.identity import FixedIdentity, LoginIdentity
from dbos_mcp.conductor.models import UserProfile
from dbos_mcp.conductor.oauth import IssuerClient, Tokens
from dbos_mcp.domain import now_ms
from dbos_mcp.errors import (
    AuthenticationError,
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
UNKNOWN_YET = "The organization could not be asked for:"
UNKNOWN = "an unknown organization"
REFUSED_WITHOUT = {
    "application.read": "nothing can be mirrored",
    "application.write": "cancel, resume and fork will be refused",
}
"""What does not work without a permission."""


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
        error: DbosMcpError | None
        try:
            error = (await who_am_i(self._settings, transport=self._transport)).error
        except ConductorError as refusal:
            error = refusal
        problem = NOT_REGISTERED if error is None else f"{UNKNOWN_YET} {error}"
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
    borrowed: bool = False
    """Whether it was made elsewhere, by dbosctl or without a profile, and is still there."""


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
        own = store.load()
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
    return LoggedOut(in_use, revoked, borrowed=own is None or own.token != in_use.token)


@dataclass(frozen=True)
class Account:
    """Who one is to Conductor: by its own word, or if it was not asked, as far as is known here."""

    profile: str | None
    url: str
    authentication: str
    """In a few words: what is sent, and until when it is good."""
    organization: str | None
    ends_at: int | None = None
    """When the token ends, in Unix seconds, as far as is known."""
    user: UserProfile | None = None
    """None of an API key, nor where no login is needed."""
    checked: bool = True
    """Whether Conductor said so."""
    error: DbosMcpError | None = None
    """Why it did not, if it was asked."""
    warnings: tuple[str, ...] = ()


async def who_am_i(
    settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None
) -> Account:
    """Ask Conductor who one is. What it says for the first time is kept with the login.

    Raises:
        AuthenticationError: nobody, or Conductor does not accept it.
        UsageError: the organization of an API key is missing.
    """
    identity = _who_asks(settings, transport)
    login = identity.login() if isinstance(identity, LoginIdentity) else None
    token = identity.current().token
    is_user = token is not None and not token.startswith(API_KEY_PREFIX)
    user, error, warnings = None, None, []
    if not settings.offline:
        try:
            token = (await identity.fresh()).token
            async with open_client(settings, identity, transport) as client:
                if is_user:
                    user = await client.get_current_user()
                else:
                    await client.list_applications()  # a key has no user, but is it accepted?
        except AuthenticationError:
            raise
        except (ConductorError, NotFoundError) as failure:
            if is_user and isinstance(failure, NotFoundError):
                warnings.append(NOT_REGISTERED)
            else:
                error = failure
    organization = settings.known_organization
    if user is not None:
        warnings += _warnings(settings, user)
        organization = user.org_name
        if login is not None and None in (login.user_name, login.organization):
            await _keep_names(settings, token, user)
    elif login is not None:
        organization = organization or login.organization
    if isinstance(identity, FixedIdentity):
        identity = FixedIdentity(Credentials(organization or UNKNOWN, token))
    return Account(
        profile=settings.profile,
        url=settings.address,
        authentication=identity.described(),
        organization=organization,
        ends_at=_ends_at(identity),
        user=user,
        checked=not settings.offline and error is None,
        error=error,
        warnings=tuple(warnings),
    )


async def _keep_names(settings: Settings, token: str | None, user: UserProfile) -> None:
    """Unless another login has taken its place meanwhile."""
    store = login_store(settings)
    async with store.exclusively() as save:
        if (login := store.load()) is not None and login.token == token:
            save(replace(login, user_name=user.name, organization=user.org_name))


def _who_asks(
    settings: Settings, transport: httpx.AsyncBaseTransport | None
) -> LoginIdentity | FixedIdentity:
    """Also where the organization is not known: of a user, it is what is asked for."""
    token = settings.token
    if token is not None and not token.get_secret_value().startswith(API_KEY_PREFIX):
        organization = settings.known_organization or UNKNOWN
        settings = settings.model_copy(update={"organization": organization})
    identity = identity_of(settings, transport=transport)
    if isinstance(identity, LoginIdentity):
        login = identity.login()
        if login is not None and login.organization is None:
            return identity_of(
                settings, pinned=settings.organization or UNKNOWN, transport=transport
            )
    return identity


def _ends_at(identity: LoginIdentity | FixedIdentity) -> int | None:
    if isinstance(identity, LoginIdentity):
        login = identity.login()
        return None if login is None else login.ends_at
    token = identity.current().token
    return None if token is None else expiry_of(token)


def _warnings(settings: Settings, user: UserProfile) -> list[str]:
    """What will not work, as far as Conductor's word about the user tells it."""
    warnings = []
    if settings.organization not in (None, user.org_name):
        warnings.append(
            f"DBOS_ORG, or the profile, names {settings.organization}, but the user is of"
            f" {user.org_name}: Conductor will not show another organization."
        )
    if user.subscription_plan == "past_limit":
        warnings.append(
            "The organization is past the limit of its plan: Conductor refuses its requests until"
            " an administrator changes the plan at the DBOS console."
        )
    if user.role is not None:
        warnings += [
            f"The role {user.role.name} lacks {permission}: {consequence}. An administrator of the"
            " organization can grant a role that has it."
            for permission, consequence in REFUSED_WITHOUT.items()
            if permission not in user.role.permissions
        ]
    return warnings
