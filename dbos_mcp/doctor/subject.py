"""One target, and what is looked at for all checks of it at once, each part in its own thread."""

import re
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from dbos_mcp.conductor.credentials import API_KEY_PREFIX, Credentials, Login
from dbos_mcp.conductor.identity import FixedIdentity, LoginIdentity
from dbos_mcp.doctor.asking import Asked, Asker, ask
from dbos_mcp.doctor.held import Held, look_into
from dbos_mcp.doctor.later import Later
from dbos_mcp.domain import now_ms
from dbos_mcp.errors import AuthenticationError, DbosMcpError
from dbos_mcp.login import UNKNOWN
from dbos_mcp.runtime import identity_of, locate_cache
from dbos_mcp.settings import Settings
from dbos_mcp.upkeep import check as upkeep

_PLAIN_PATH = re.compile(r"~[\w./+@%-]*")

BOUND_SECONDS = 14.0
DEEP_BOUND_SECONDS = 60.0


@dataclass(frozen=True)
class Account:
    """As whom Conductor would be asked, as far as the files here tell."""

    identity: FixedIdentity | LoginIdentity | None
    error: DbosMcpError | None
    """Why nobody would be."""
    login: Login | None = None
    """That is kept here."""
    renews: bool = False

    def ended(self, now: int) -> bool:
        login = self.login
        return login is not None and login.ends_at is not None and login.ends_at * 1000 <= now

    def asker(self, settings: Settings, now: int) -> Asker:
        organization, token, is_user = settings.known_organization, None, False
        if self.login is not None:
            organization, token = organization or self.login.organization, self.login.token
        elif settings.token is not None and not settings.is_local:
            token = settings.token.get_secret_value()
        if token is not None:
            is_user = not token.startswith(API_KEY_PREFIX)
        may_ask = self.error is None and not self.ended(now)
        return Asker(organization, token if may_ask else None, is_user, may_ask)


@dataclass
class Subject:
    settings: Settings
    environ: Mapping[str, str]
    named: bool = False
    """Whether its profile is from the command line."""
    deep: bool = False
    now: int = field(default_factory=now_ms)
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        settings, now = self.settings, self.now
        self._account = Later(lambda: _account_of(settings))
        self._asked: Later[Asked] | None = None
        if not settings.offline:
            self._asked = Later(lambda: ask(settings, self.account.asker(settings, now)))
        self._held = Later(lambda: look_into(self.cache_path, now=now))
        self._checked: Later[upkeep.Checked] | None = None
        if self.deep:
            self._checked = Later(
                lambda: upkeep.check(self.cache_path, now=now, leave_no_trace=True)
            )

    def shown(self, path: Path) -> str:
        """As short as it can be typed."""
        try:
            below = path.relative_to(self.settings.home)
        except ValueError:
            return shlex.quote(str(path))
        text = "/".join(("~", *below.parts))
        return text if _PLAIN_PATH.fullmatch(text) else shlex.quote(str(path))

    @property
    def until(self) -> float:
        return self.began + BOUND_SECONDS

    @property
    def account(self) -> Account:
        return self._account.result(self.until)

    @property
    def asked(self) -> Asked | None:
        """None: with --offline nobody is."""
        return None if self._asked is None else self._asked.result(self.until)

    @cached_property
    def cache_path(self) -> Path:
        """
        Raises:
            AuthenticationError, UsageError: the organization is not known.
        """
        return locate_cache(self.settings, look_only=True)

    @property
    def held(self) -> Held:
        """What is in the cache.

        Raises:
            DbosMcpError: which file that is, is not known.
        """
        return self._held.result(self.until)

    @property
    def checked(self) -> upkeep.Checked | None:
        """What was found in each of its pages; None: that was not asked for.

        Raises:
            LateError: it is too large for that.
        """
        if self._checked is None:
            return None
        return self._checked.result(self.began + DEEP_BOUND_SECONDS)


def _account_of(settings: Settings) -> Account:
    try:
        identity = _identity_of(settings)
        if isinstance(identity, FixedIdentity):
            identity.current()
            return Account(identity, None)
        login = identity.login()
        renews = login is not None and identity.can_renew(login)
        if login is not None and login.token is None:
            login = None
        try:
            identity.current()
        except AuthenticationError as error:
            return Account(identity, error, login, renews)
        return Account(identity, None, login, renews)
    except DbosMcpError as error:
        return Account(None, error)


def _identity_of(settings: Settings) -> FixedIdentity | LoginIdentity:
    """Also of a user's token whose organization is not known: Conductor tells it."""
    token = settings.token
    if token is not None and not settings.is_local and settings.known_organization is None:
        text = token.get_secret_value()
        if not text.startswith(API_KEY_PREFIX):
            return FixedIdentity(Credentials(UNKNOWN, text))
    return identity_of(settings, look_only=True)
