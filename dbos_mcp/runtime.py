"""Everything that one target needs, opened and closed together."""

import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import anyio.to_thread
import httpx
from sqlalchemy import Connection

from dbos_mcp.conductor.client import ConductorClient
from dbos_mcp.conductor.credentials import Credentials, CredentialStore, IdentitySource
from dbos_mcp.conductor.oauth import Tokens
from dbos_mcp.conductor.traffic import READS_PER_SECOND
from dbos_mcp.domain import now_ms
from dbos_mcp.errors import AuthenticationError, LoginError, NotFoundError, UsageError
from dbos_mcp.settings import LOCAL_ORGANIZATION, Settings
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.migrate import open_cache
from dbos_mcp.sync.commands import Commands
from dbos_mcp.sync.mirror import Mirror
from dbos_mcp.sync.worker import SyncWorker

T = TypeVar("T")

READS_PER_SECOND_OF_A_FILE = 1000
"""A SQLite system database is a file on this machine: nobody else waits for it."""

GARBAGE_THRESHOLD = 20_000
"""A page of workflows is that many objects, and none of them garbage: looking through them after
every 700 took a fifth of a first load."""


@dataclass(frozen=True)
class Live:
    """The parts that talk to Conductor."""

    client: ConductorClient
    mirror: Mirror
    worker: SyncWorker
    commands: Commands


@dataclass(frozen=True)
class Runtime:
    settings: Settings
    cache: Cache
    live: Live | None
    """None when everything is answered from the cache (`--offline`)."""

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a snapshot of the cache, on a thread."""

        def run() -> T:
            with self.cache.read() as connection:
                return work(connection)

        return await anyio.to_thread.run_sync(run)

    def require_live(self) -> Live:
        if self.live is None:
            raise UsageError(
                "This server answers from its cache only (--offline).",
                hint="Start it without --offline for that.",
            )
        return self.live


@asynccontextmanager
async def open_runtime(
    settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None
) -> AsyncIterator[Runtime]:
    """Open the target's cache and, unless offline, the way to its Conductor. Sends nothing.

    `transport` takes the place of the network.

    Raises:
        AuthenticationError: nobody is logged in, so not even the organization is known.
        StoreError: the cache cannot be used.
        UsageError: settings that do not go together.
    """
    gc.set_threshold(GARBAGE_THRESHOLD, *gc.get_threshold()[1:])
    async with AsyncExitStack() as stack:
        path = await anyio.to_thread.run_sync(locate_cache, settings)
        cache = await anyio.to_thread.run_sync(
            lambda: open_cache(path, writable=not settings.offline)
        )
        stack.callback(cache.close)
        live = None
        if not settings.offline:
            identity = identity_source(settings)
            client = await stack.enter_async_context(open_client(settings, identity, transport))
            mirror = Mirror(cache, client, payloads=settings.payloads)
            worker = SyncWorker(mirror, history_ms=settings.history_ms)
            live = Live(client, mirror, worker, Commands(mirror))
        yield Runtime(settings, cache, live)


@asynccontextmanager
async def open_client(
    settings: Settings,
    identity: IdentitySource,
    transport: httpx.AsyncBaseTransport | None = None,
) -> AsyncIterator[ConductorClient]:
    """The way to Conductor: over the network, or to a local one inside this process."""
    async with AsyncExitStack() as stack:
        reads_per_second: float = READS_PER_SECOND
        if transport is None and settings.system_database_url is not None:
            from dbos_mcp.local_conductor.app import create_app
            from dbos_mcp.local_conductor.system_database import SystemDatabase

            names = [settings.application_name] if settings.application_name else []
            url = settings.system_database_url.get_secret_value()
            if url.startswith("sqlite"):
                reads_per_second = READS_PER_SECOND_OF_A_FILE
            database = SystemDatabase(url, names)
            stack.callback(database.close)
            transport = httpx.ASGITransport(create_app(database))
        client = ConductorClient(
            settings.base_url, identity, transport=transport, reads_per_second=reads_per_second
        )
        yield await stack.enter_async_context(client)


def locate_cache(settings: Settings) -> Path:
    """The cache file of the target; one that is named needs no login.

    Raises:
        AuthenticationError: nobody is logged in, so not even the organization is known.
    """
    return settings.cache or settings.cache_path(identity_source(settings)().organization)


def identity_source(settings: Settings) -> IdentitySource:
    """Who asks: DBOS_TOKEN, else nobody in front of a Conductor without logins, else the stored
    login, which is read afresh at each call so that a login elsewhere counts at once."""
    if settings.is_local:
        return lambda: Credentials(LOCAL_ORGANIZATION)
    if settings.token is not None:
        organization = settings.organization or (
            None if settings.is_managed else LOCAL_ORGANIZATION
        )
        if organization is None:
            raise UsageError(
                "DBOS_TOKEN needs the name of its organization.", hint="Set DBOS_ORG beside it."
            )
        fixed = Credentials(organization, settings.token.get_secret_value())
        return lambda: fixed
    if not settings.is_managed:
        return lambda: Credentials(settings.organization or LOCAL_ORGANIZATION)
    store = CredentialStore(settings.credentials_path)

    def stored() -> Credentials:
        credentials = store.load()
        if credentials is None:
            raise AuthenticationError(
                "Nobody is logged in to DBOS.",
                hint="Call the login tool, or set DBOS_TOKEN and DBOS_ORG.",
            )
        return credentials

    return stored


async def finish_login(
    settings: Settings, tokens: Tokens, *, transport: httpx.AsyncBaseTransport | None = None
) -> Credentials:
    """Learn who has logged in, and keep the credentials.

    Raises:
        LoginError: Conductor does not know the user, so there is no organization to ask for.
    """
    token, organization, user_name = tokens.access_token, settings.organization, None
    async with open_client(
        settings, lambda: Credentials(organization or "", token), transport
    ) as client:
        try:
            user = await client.get_current_user()
        except NotFoundError as error:
            if organization is None:
                raise LoginError(
                    "The login worked, but Conductor does not know this user.",
                    hint="Register at the DBOS console, or set DBOS_ORG.",
                ) from error
        else:
            organization, user_name = organization or user.org_name, user.name
    expires_at = None if tokens.expires_in is None else now_ms() // 1000 + tokens.expires_in
    credentials = Credentials(organization, token, user_name, tokens.refresh_token, expires_at)
    CredentialStore(settings.credentials_path).save(credentials)
    return credentials
