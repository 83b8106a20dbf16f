"""Everything that one target needs, opened and closed together.

What it takes is imported when it is opened: a server can name itself and its tools before that.
"""

import gc
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio.to_thread

from dbos_mcp.errors import AuthenticationError, StoreError, UsageError
from dbos_mcp.settings import LOCAL_ORGANIZATION, Issuer, Redact, Settings

if TYPE_CHECKING:
    import httpx
    from sqlalchemy import Connection

    from dbos_mcp.conductor.client import ConductorClient
    from dbos_mcp.conductor.credentials import CredentialStore, Login
    from dbos_mcp.conductor.identity import FixedIdentity, Identity, LoginIdentity
    from dbos_mcp.conductor.oauth import IssuerClient
    from dbos_mcp.inspection.sandbox import Found, Parameter, Sandbox
    from dbos_mcp.redaction.rules import Rules
    from dbos_mcp.store.engine import Cache
    from dbos_mcp.sync.commands import Commands
    from dbos_mcp.sync.mirror import Mirror
    from dbos_mcp.sync.worker import SyncWorker

T = TypeVar("T")

READS_PER_SECOND_OF_A_FILE = 1000
"""A SQLite system database is a file on this machine: nobody else waits for it."""

STATEMENTS_AT_ONCE = 2
"""Of those that somebody wrote."""

GARBAGE_THRESHOLD = 20_000
"""A page of workflows is that many objects, and none of them garbage: looking through them after
every 700 took a fifth of a first load."""


@dataclass(frozen=True)
class Live:
    """The parts that talk to Conductor."""

    client: "ConductorClient"
    mirror: "Mirror"
    worker: "SyncWorker"


@dataclass(frozen=True)
class Runtime:
    settings: Settings
    organization: str | None
    """Whose mirror it is; None: of whoever made the file that was named."""
    cache: "Cache"
    sandbox: "Sandbox"
    """For statements that somebody wrote."""
    connected: Live | None
    """None when everything is answered from the cache from the start."""
    _sql_limiter: anyio.CapacityLimiter = field(
        default_factory=lambda: anyio.CapacityLimiter(STATEMENTS_AT_ONCE)
    )

    @property
    def live(self) -> Live | None:
        """None when everything is answered from the cache, perhaps from now on."""
        return None if self.cache.notice is not None else self.connected

    @property
    def why_not_live(self) -> str:
        return self.cache.notice or "This server answers from its cache only (--offline)."

    async def read(self, work: "Callable[[Connection], T]") -> T:
        """Run `work` in a snapshot of the cache, on a thread."""

        def run() -> T:
            with self.cache.read() as connection:
                return work(connection)

        return await anyio.to_thread.run_sync(run)

    async def run_sql(
        self,
        sql: str,
        parameters: "Mapping[str, Parameter]",
        *,
        rows: int,
        cell_characters: int,
        before: "Callable[[Connection], T]",
    ) -> "tuple[Found, T]":
        """Run a statement beside everything else, and a query of ours before it, on one thread;
        being cancelled ends it.

        Raises:
            QueryError, StoreError: see `Sandbox.run`.
        """
        from dbos_mcp.inspection.sandbox import Stop

        stop = Stop()

        def run() -> "tuple[Found, T]":
            with self.cache.read() as connection:
                known = before(connection)
            found = self.sandbox.run(
                sql, parameters, rows=rows, cell_characters=cell_characters, stop=stop
            )
            return found, known

        try:
            # Threads of its own: those of all other questions are never all taken by waiting.
            return await anyio.to_thread.run_sync(
                run, abandon_on_cancel=True, limiter=self._sql_limiter
            )
        finally:
            stop.now()

    def require_live(self) -> Live:
        if self.live is None:
            if self.cache.notice is not None:
                raise StoreError(self.cache.notice)
            raise UsageError(self.why_not_live, hint="Start it without --offline for that.")
        return self.live

    def require_commands(self, requested_by: str | None) -> "Commands":
        """The only way to them; None: the user of this process asks."""
        if self.settings.read_only:
            raise UsageError(
                "This server is read-only: it sends no command.",
                hint="Only who runs it can change that (--read-only, DBOS_MCP_READ_ONLY).",
            )
        from dbos_mcp.sync.commands import Commands

        return Commands(self.require_live().mirror, requested_by)


@asynccontextmanager
async def open_runtime(
    settings: Settings, *, transport: "httpx.AsyncBaseTransport | None" = None
) -> AsyncIterator[Runtime]:
    """Open the target's cache and, unless offline, the way to its Conductor. Sends nothing.

    `transport` takes the place of the network.

    Raises:
        AuthenticationError: nobody is logged in, so not even the organization is known.
        StoreError: the cache cannot be used.
        UsageError: settings that do not go together.
    """
    from dbos_mcp.inspection.sandbox import Sandbox
    from dbos_mcp.store.migrate import open_cache
    from dbos_mcp.sync.mirror import Mirror
    from dbos_mcp.sync.worker import SyncWorker

    rules = await anyio.to_thread.run_sync(rules_of, settings)
    gc.set_threshold(GARBAGE_THRESHOLD, *gc.get_threshold()[1:])
    async with AsyncExitStack() as stack:
        organization = await anyio.to_thread.run_sync(organization_of, settings)
        path = settings.cache_path(organization or "")
        cache = await anyio.to_thread.run_sync(
            lambda: open_cache(path, writable=not settings.offline)
        )
        stack.callback(cache.close)
        sandbox = Sandbox(cache.read_uri)
        stack.callback(sandbox.close)
        live = None
        if cache.writable:
            identity = identity_of(settings, pinned=organization, transport=transport)
            client = await stack.enter_async_context(open_client(settings, identity, transport))
            mirror = Mirror(cache, client, payloads=settings.payloads, rules=rules)
            worker = SyncWorker(mirror, history_ms=settings.history_ms)
            live = Live(client, mirror, worker)
        yield Runtime(settings, organization, cache, sandbox, live)


@asynccontextmanager
async def open_client(
    settings: Settings,
    identity: "Identity",
    transport: "httpx.AsyncBaseTransport | None" = None,
    **options: Any,
) -> "AsyncIterator[ConductorClient]":
    """The way to Conductor: over the network, or to a local one inside this process. `options` are
    the client's."""
    import httpx

    from dbos_mcp.conductor.client import ConductorClient
    from dbos_mcp.conductor.traffic import READS_PER_SECOND

    async with AsyncExitStack() as stack:
        local = settings.system_database_url
        url = "" if local is None else local.get_secret_value()
        in_a_file = url.startswith("sqlite")
        reads_per_second = READS_PER_SECOND_OF_A_FILE if in_a_file else READS_PER_SECOND
        if transport is None and url:
            from dbos_mcp.local_conductor.app import create_app
            from dbos_mcp.local_conductor.system_database import SystemDatabase

            names = [settings.application_name] if settings.application_name else []
            database = SystemDatabase(url, names)
            stack.callback(database.close)
            transport = httpx.ASGITransport(create_app(database))
        client = ConductorClient(
            settings.base_url,
            identity,
            transport=transport,
            reads_per_second=reads_per_second,
            **options,
        )
        yield await stack.enter_async_context(client)


def rules_of(settings: Settings) -> "Rules | None":
    """What is taken out of what is stored; None: nothing.

    Raises:
        UsageError: the file of patterns cannot be used.
    """
    from dbos_mcp.redaction.rules import NO_RULES, load_rules

    if settings.redact is Redact.OFF:
        return None
    path = settings.redact_patterns
    return NO_RULES if path is None else load_rules(path)


def locate_cache(settings: Settings, *, look_only: bool = False) -> Path:
    """The cache file of the target.

    Raises:
        AuthenticationError: nobody ever logged in, so not even the organization is known.
    """
    if settings.cache is not None:
        return settings.cache
    return settings.cache_path(identity_of(settings, look_only=look_only).organization())


def organization_of(settings: Settings) -> str | None:
    """Whose workflows this target's are; None: of whomever the cache file is that was named.

    Raises:
        AuthenticationError: nobody ever logged in.
        UsageError: the organization of DBOS_TOKEN is missing.
    """
    if settings.cache is not None and settings.offline:
        return None
    try:
        return identity_of(settings).organization()
    except AuthenticationError:
        if settings.cache is None:
            raise
        return None


def identity_of(
    settings: Settings,
    *,
    pinned: str | None = None,
    transport: "httpx.AsyncBaseTransport | None" = None,
    look_only: bool = False,
) -> "LoginIdentity | FixedIdentity":
    """Who asks: DBOS_TOKEN, else nobody in front of a Conductor without logins, else the login that
    is kept. `pinned` is the organization whose mirror is open; with `look_only` the files that keep
    logins are left as they are.

    Raises:
        UsageError: the organization of DBOS_TOKEN is missing.
    """
    from dbos_mcp.conductor.credentials import Credentials
    from dbos_mcp.conductor.identity import FixedIdentity, LoginIdentity

    organization, how_to_log_in = settings.known_organization, how_to_log_in_to(settings)
    if settings.token is not None and not settings.is_local:
        if organization is None:
            raise UsageError(
                "DBOS_TOKEN needs the name of its organization.",
                hint="Set DBOS_ORG beside it; of a user's token `dbos-mcp whoami` tells it.",
            )
        token = settings.token.get_secret_value()
        return FixedIdentity(Credentials(organization, token), how_to_log_in)
    if not settings.wants_login:
        return FixedIdentity(Credentials(organization or LOCAL_ORGANIZATION), how_to_log_in)
    issuer = None if settings.issuer is None else _issuer(settings.issuer, transport)
    return LoginIdentity(
        login_store(settings, look_only=look_only),
        url=settings.address,
        organization=settings.organization,
        pinned=pinned,
        issuer=issuer,
        fallbacks=_other_logins(settings, look_only=look_only),
        how_to_log_in=how_to_log_in,
    )


def _issuer(issuer: Issuer, transport: "httpx.AsyncBaseTransport | None") -> "IssuerClient":
    from dbos_mcp.conductor.oauth import IssuerClient

    return IssuerClient(issuer, transport=transport)


def login_store(settings: Settings, *, look_only: bool = False) -> "CredentialStore":
    """Where the login to this target is kept."""
    from dbos_mcp.conductor.credentials import CredentialStore

    name = settings.profile or (None if settings.is_managed else settings.address)
    return CredentialStore(settings.credentials_path, name, look_only=look_only)


def _other_logins(
    settings: Settings, *, look_only: bool
) -> "tuple[Callable[[], Login | None], ...]":
    """For a profile: dbosctl's own login to it, and the one that was made without a profile."""
    profile, folder = settings.profile, settings.dbosctl_folder
    if profile is None:
        return ()

    from dbos_mcp.conductor.credentials import CredentialStore, Login
    from dbos_mcp.conductor.dbosctl import load_dbosctl_login

    def of_dbosctl() -> Login | None:
        found = None if folder is None else load_dbosctl_login(folder, profile)
        if found is None:
            return None
        return Login(
            token=found.token,
            user_name=found.user_name,
            organization=found.organization,
            expires_at=found.expires_at,
            url=settings.address,
        )

    return (of_dbosctl, CredentialStore(settings.credentials_path, look_only=look_only).load)


def how_to_log_in_to(settings: Settings) -> str:
    """The next step when Conductor does not accept who asks."""
    from dbos_mcp.conductor.credentials import API_KEY_PREFIX

    if settings.token is not None:
        if settings.token.get_secret_value().startswith(API_KEY_PREFIX):
            return "The API key in DBOS_TOKEN may have been deleted: set another one."
        return "Set DBOS_TOKEN to a newer one; or unset it, and log in."
    if settings.wants_login and settings.issuer is not None:
        command = login_command(settings)
        return f"Call `login`, or run `{command}`; or set DBOS_TOKEN to an API key."
    return (
        "Set DBOS_TOKEN to an API key; or, to log in, DBOS_MCP_ISSUER and DBOS_MCP_CLIENT_ID (or"
        " `oidc` in dbosctl's profile) to those of this Conductor."
    )


def login_command(settings: Settings) -> str:
    """What to type to log in to a target."""
    return f"dbos-mcp login --profile {settings.profile}" if settings.profile else "dbos-mcp login"
