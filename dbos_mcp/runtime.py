"""Everything that one target needs, opened and closed together."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import anyio.to_thread
import httpx

from dbos_mcp.conductor.client import ConductorClient
from dbos_mcp.conductor.credentials import Credentials, CredentialStore, IdentitySource
from dbos_mcp.errors import AuthenticationError, UsageError
from dbos_mcp.settings import LOCAL_ORGANIZATION, Settings
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.migrate import open_cache
from dbos_mcp.sync.commands import Commands
from dbos_mcp.sync.mirror import Mirror
from dbos_mcp.sync.worker import SyncWorker


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

    def require_live(self) -> Live:
        if self.live is None:
            raise UsageError(
                "This server answers from its cache only (--offline).",
                hint="Start it without --offline for that.",
            )
        return self.live


@asynccontextmanager
async def open_runtime(settings: Settings) -> AsyncIterator[Runtime]:
    """Open the target's cache and, unless offline, the way to its Conductor. Sends nothing.

    Raises:
        AuthenticationError: nobody is logged in, so not even the organization is known.
        StoreError: the cache cannot be used.
        UsageError: settings that do not go together.
    """
    async with AsyncExitStack() as stack:
        identity = identity_source(settings)
        path = settings.cache or settings.cache_path(identity().organization)
        cache = await anyio.to_thread.run_sync(
            lambda: open_cache(path, writable=not settings.offline)
        )
        stack.callback(cache.close)
        live = None
        if not settings.offline:
            client = await stack.enter_async_context(open_client(settings, identity))
            mirror = Mirror(cache, client, payloads=settings.payloads)
            worker = SyncWorker(mirror, history_ms=settings.history_ms)
            live = Live(client, mirror, worker, Commands(mirror))
        yield Runtime(settings, cache, live)


@asynccontextmanager
async def open_client(
    settings: Settings, identity: IdentitySource
) -> AsyncIterator[ConductorClient]:
    """The way to Conductor: over the network, or to a local one inside this process."""
    async with AsyncExitStack() as stack:
        transport: httpx.AsyncBaseTransport | None = None
        if settings.system_database_url is not None:
            from dbos_mcp.local_conductor.app import create_app
            from dbos_mcp.local_conductor.system_database import SystemDatabase

            names = [settings.application_name] if settings.application_name else []
            database = SystemDatabase(settings.system_database_url.get_secret_value(), names)
            stack.callback(database.close)
            transport = httpx.ASGITransport(create_app(database))
        client = ConductorClient(settings.base_url, identity, transport=transport)
        yield await stack.enter_async_context(client)


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
