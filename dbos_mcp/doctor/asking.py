"""The few questions that Conductor is asked, so that every check can tell what came of them."""

import socket
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

import anyio
import anyio.to_thread
import httpx

from dbos_mcp.conductor.client import ConductorClient
from dbos_mcp.conductor.credentials import Credentials
from dbos_mcp.conductor.identity import FixedIdentity
from dbos_mcp.conductor.models import Application, Executor, UserProfile
from dbos_mcp.conductor.wire import Fault, Proxy, fault_of, proxy_of
from dbos_mcp.doctor.later import LateError, Later
from dbos_mcp.domain import now_ms
from dbos_mcp.errors import DbosMcpError, ResponseError, UnavailableError, UsageError
from dbos_mcp.login import UNKNOWN
from dbos_mcp.runtime import how_to_log_in_to, open_client
from dbos_mcp.settings import Settings

NAME_SECONDS = 3.0
REQUEST_SECONDS = 5.2
"""Longer than a connection may take to come about, so that the one can be told from the other."""
MOST_EXECUTORS = 3
"""Of how many applications the executors are listed: a request for each."""
_LARGEST_DATE = 64


@dataclass
class Asked:
    """What came of asking. Nothing is sent but a handful of GETs, each once."""

    host: str
    port: int
    proxy: Proxy | None = None
    addresses: Sequence[str] = ()
    fault: Fault | None = None
    """Why there was no answer."""
    error: DbosMcpError | None = None
    """What came of the first question instead of its answer."""
    is_connected: bool = False
    """Whether a connection came about, to the proxy where there is one."""
    is_conductor: bool = False
    """Whether something that speaks API v2 answered, be it with a refusal."""
    organization: str | None = None
    """That was asked for its applications."""
    applications: Sequence[Application] | None = None
    user: UserProfile | None = None
    user_error: DbosMcpError | None = None
    executors: dict[str, Sequence[Executor] | DbosMcpError] = field(default_factory=dict)
    schema_version: int | None = None
    """Of a system database."""
    requests: int = 0
    milliseconds: int | None = None
    """That the first answer took, with all that came before it."""
    ahead_ms: int | None = None
    """How far this machine's clock is ahead of theirs, as its Date header has it."""


@dataclass(frozen=True)
class Asker:
    """As whom; nothing is renewed for it."""

    organization: str | None
    token: str | None = field(repr=False)
    is_user: bool
    may_ask: bool
    """Whether its token, or having none, is worth trying."""


def ask(settings: Settings, asker: Asker) -> Asked:
    return anyio.run(_ask, settings, asker)


async def _ask(settings: Settings, asker: Asker) -> Asked:
    url = httpx.URL(settings.address)
    asked = Asked(url.host, url.port or (443 if url.scheme == "https" else 80))
    if not settings.is_local:
        asked.proxy = proxy_of(url)
        if not await _is_found(asked):
            return asked
    credentials = Credentials(asker.organization or UNKNOWN, asker.token)
    identity = FixedIdentity(credentials, how_to_log_in_to(settings), clock=lambda: 0.0)
    clock = _Clock(asked)
    try:
        async with open_client(
            settings,
            identity,
            patience_seconds=0,
            request_seconds=REQUEST_SECONDS,
            event_hooks={"request": [clock.sent], "response": [clock.answered]},
        ) as client:
            await _questions(client, asker, asked)
        if settings.is_local and asked.error is None:
            asked.schema_version = await anyio.to_thread.run_sync(_schema_version, settings)
    except DbosMcpError as error:  # before anything could be sent
        asked.error = asked.error or error
    return asked


async def _questions(client: ConductorClient, asker: Asker, asked: Asked) -> None:
    if not asker.may_ask or asker.organization is None:
        # As nobody: that it is refused is an answer.
        await _user(client, asked)
        asked.error = asked.user_error
    if asker.may_ask and (asker.organization or asked.user) and asked.error is None:
        await _applications(client, asker, asked)
    if asked.error is not None:
        cause = asked.error.__cause__
        if isinstance(cause, httpx.HTTPError):
            asked.fault = fault_of(cause)
    is_answer = not isinstance(asked.error, UnavailableError | ResponseError | UsageError)
    asked.is_conductor = asked.fault is None and is_answer
    if asked.is_conductor:
        async with anyio.create_task_group() as group:
            if asker.may_ask and asker.is_user and asked.user is None:
                group.start_soon(_user, client, asked)
            available = [a.name for a in asked.applications or () if a.status == "AVAILABLE"]
            for name in available[:MOST_EXECUTORS]:
                group.start_soon(_executors, client, name, asked)


async def _applications(client: ConductorClient, asker: Asker, asked: Asked) -> None:
    asked.organization = asker.organization
    if asked.organization is None and asked.user is not None:
        asked.organization = asked.user.org_name
        credentials = Credentials(asked.organization, asker.token)
        client.identity = FixedIdentity(credentials, clock=lambda: 0.0)
    try:
        asked.applications = await client.list_applications()
    except DbosMcpError as error:
        asked.error = error


async def _user(client: ConductorClient, asked: Asked) -> None:
    try:
        asked.user = await client.get_current_user()
    except DbosMcpError as error:
        asked.user_error = error


async def _executors(client: ConductorClient, name: str, asked: Asked) -> None:
    try:
        asked.executors[name] = await client.list_executors(name)
    except DbosMcpError as error:
        asked.executors[name] = error


async def _is_found(asked: Asked) -> bool:
    """Whether the name leads anywhere: that of the proxy, where there is one.

    In a thread of its own, as whoever asks for a name cannot be stopped.
    """
    host, port = asked.host, asked.port
    if asked.proxy is not None:
        if asked.proxy.host is None:
            return True  # it will be said what is wrong with it
        host, port = asked.proxy.host, asked.proxy.port
    until = time.monotonic() + NAME_SECONDS
    looking = Later(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    try:
        found = looking.result(until)
    except LateError:
        asked.fault = Fault.SILENT
    except (OSError, UnicodeError):  # also what cannot be a name
        asked.fault = Fault.NAME
    else:
        asked.addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
        return True
    asked.error = UnavailableError(
        f"The name {host} is not found."
        if asked.fault is Fault.NAME
        else f"Nobody said in {NAME_SECONDS:g} s where {host} is."
    )
    return False


def _schema_version(settings: Settings) -> int | None:
    from sqlalchemy.exc import DBAPIError

    from dbos_mcp.local_conductor.system_database import SystemDatabase

    assert settings.system_database_url is not None
    database = SystemDatabase(settings.system_database_url.get_secret_value())
    with closing(database), suppress(DBAPIError):
        return database.schema_version()
    return None


class _Clock:
    """Hears each request and each answer."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._sent_ms = 0.0

    async def sent(self, request: httpx.Request) -> None:
        request.extensions["trace"] = self._traced
        self._asked.requests += 1
        if self._asked.requests == 1:
            self._sent_ms = time.monotonic() * 1000

    async def _traced(self, event: str, _: object) -> None:
        """httpcore's: a handshake that takes too long looks like a connection that does not come
        about."""
        self._asked.is_connected |= event == "connection.connect_tcp.complete"

    async def answered(self, response: httpx.Response) -> None:
        asked = self._asked
        if asked.milliseconds is not None:
            return
        took = time.monotonic() * 1000 - self._sent_ms
        asked.milliseconds = round(took)
        said = response.headers.get("Date", "")
        if "Age" in response.headers or len(said) > _LARGEST_DATE:
            return  # out of somebody's cache
        try:
            theirs = parsedate_to_datetime(said).timestamp() * 1000 + 500  # seconds are cut off
        except (ValueError, OverflowError):
            return
        asked.ahead_ms = round(now_ms() - took / 2 - theirs)
