"""Who watches which resource, and is told when it has changed.

After each look of the scheduler, in whichever process the worker ran, the watched resources are
compared with what they were: a client hears of one at most once for each look. In the protocol's
older era a client subscribes to URIs, in the newer one it listens to a stream of them.
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from mcp import MCPError
from mcp.server.connection import Connection as Client
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourceUpdated
from mcp_types import (
    INVALID_PARAMS,
    EmptyResult,
    ResourceUpdatedNotification,
    ResourceUpdatedNotificationParams,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    UnsubscribeRequestParams,
)
from pydantic import ValidationError

from dbos_mcp.domain import CONDUCTOR
from dbos_mcp.errors import DbosMcpError, NotFoundError
from dbos_mcp.server import addresses
from dbos_mcp.server.context import Session, Sessions
from dbos_mcp.server.render import plain

if TYPE_CHECKING:
    from sqlalchemy import Connection

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""How often it is looked when no scheduler does (`--offline`)."""
PATIENCE_SECONDS = 5.0
MOST_WATCHED = 1_000


@dataclass
class Watched:
    """A resource that somebody watches."""

    uri: str
    session: Session
    application_name: str
    state: "Callable[[Connection], object]"
    """Two of them differ if what is shown does, but for clocks and counters."""
    last: object = None
    clients: dict[int, Client] = field(default_factory=dict)
    streams: int = 0
    """How many listen to it in the newer era."""


class Updates:
    def __init__(self, sessions: Sessions) -> None:
        self.bus = InMemorySubscriptionBus()
        self._sessions = sessions
        self._watched: dict[str, Watched] = {}
        self._clients: set[int] = set()
        """Those of the older era whose end will be heard of."""
        self._news = anyio.Event()
        self._telling = anyio.Lock()
        for session in sessions.by_profile.values():
            session.on_look = self._stir

    @property
    def watched(self) -> frozenset[str]:
        return frozenset(self._watched)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._run)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()

    async def subscribe(
        self, ctx: ServerRequestContext[Any, Any], params: SubscribeRequestParams
    ) -> EmptyResult:
        """`resources/subscribe`, of the older era."""
        watched = await self._watch(str(params.uri))
        if watched is None:
            raise MCPError(
                INVALID_PARAMS,
                f"There is no resource {plain(params.uri)} to watch, or {MOST_WATCHED} are watched"
                " already.",
            )
        client = _client_of(ctx)
        if id(client) not in self._clients:
            self._clients.add(id(client))
            client.exit_stack.callback(self._forget, client)
        watched.clients[id(client)] = client
        return EmptyResult()

    async def unsubscribe(
        self, ctx: ServerRequestContext[Any, Any], params: UnsubscribeRequestParams
    ) -> EmptyResult:
        watched = self._watched.get(str(params.uri))
        if watched is not None:
            self._end_watch(watched, _client_of(ctx))
        return EmptyResult()

    async def listening(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Around each message: `subscriptions/listen`, of the newer era, is answered when the
        stream ends. Who listens, to what, is the SDK's business; what has to be watched is ours."""
        if ctx.method != "subscriptions/listen":
            return await call_next(ctx)
        try:
            params = SubscriptionsListenRequestParams.model_validate(ctx.params, by_name=False)
        except ValidationError:  # to be refused by whoever checks it
            return await call_next(ctx)
        async with AsyncExitStack() as stack:
            for uri in dict.fromkeys(params.notifications.resource_subscriptions or ()):
                watched = await self._watch(uri)
                if watched is not None:
                    watched.streams += 1
                    stack.callback(self._end_stream, watched)
            return await call_next(ctx)

    async def tell(self) -> None:
        """Compare each with what it was, and tell who watches it."""
        async with self._telling:  # what was read first is compared first
            await self._tell()

    async def _tell(self) -> None:
        by_session: dict[int, list[Watched]] = {}
        for watched in self._watched.values():
            by_session.setdefault(id(watched.session), []).append(watched)
        for group in by_session.values():
            session = group[0].session
            try:
                states = await _states(session, group)
            except DbosMcpError as error:
                logger.info("What is watched cannot be compared just now: %s", error)
                continue
            for watched in group:
                if watched.uri in states and states[watched.uri] != watched.last:
                    watched.last = states[watched.uri]
                    await self._send(watched)

    async def _run(self) -> None:
        while True:
            with anyio.move_on_after(LOOK_SECONDS if self._watched else None):
                await self._news.wait()
            self._news = anyio.Event()
            try:
                await self.tell()
            except Exception:
                logger.exception("Watchers could not be told; the next look tries again.")

    def _stir(self) -> None:
        self._news.set()

    async def _watch(self, uri: str) -> Watched | None:
        """Known by what it is now, so that whatever comes next is a change. None: no resource."""
        if uri not in self._watched:
            watched = self._watched_at(uri)
            if watched is None or len(self._watched) >= MOST_WATCHED:
                return None
            try:
                watched.last = (await _states(watched.session, [watched]))[uri]
            except DbosMcpError:
                watched.last = None  # its first state will be news
            self._watched.setdefault(uri, watched)
            self._stir()
        return self._watched[uri]

    def _watched_at(self, uri: str) -> Watched | None:
        address = addresses.parse(uri)
        if address is None:
            return None
        try:
            session = self._sessions.named(address.profile)
        except NotFoundError:
            return None
        values = {name: value for name, value in address.values.items() if name != "profile"}
        state = partial(_state, address.of, values)
        return Watched(uri, session, values.get("application_name", CONDUCTOR), state)

    def _forget(self, client: Client) -> None:
        """It is gone."""
        self._clients.discard(id(client))
        for watched in [*self._watched.values()]:
            self._end_watch(watched, client)

    def _end_watch(self, watched: Watched, client: Client) -> None:
        watched.clients.pop(id(client), None)
        self._drop_unwatched(watched)

    def _end_stream(self, watched: Watched) -> None:
        watched.streams -= 1
        self._drop_unwatched(watched)

    def _drop_unwatched(self, watched: Watched) -> None:
        if not watched.clients and not watched.streams:
            del self._watched[watched.uri]

    async def _send(self, watched: Watched) -> None:
        if watched.streams:
            await self.bus.publish(ResourceUpdated(uri=watched.uri))
        if watched.clients:
            update = ResourceUpdatedNotification(
                params=ResourceUpdatedNotificationParams(uri=watched.uri)
            )
            params = update.model_dump(by_alias=True, mode="json", exclude_none=True)["params"]
            for client in [*watched.clients.values()]:
                try:
                    # One that does not read must not keep the others waiting.
                    with anyio.move_on_after(PATIENCE_SECONDS):
                        await client.notify(update.method, params)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    self._forget(client)


async def _states(session: Session, group: Iterable[Watched]) -> dict[str, object]:
    """By URI. Watching is asking, for as long as it lasts."""
    runtime = await session.runtime()
    group = [*group]
    for name in {watched.application_name for watched in group}:
        session.note_question(name)

    def read(connection: "Connection") -> dict[str, object]:
        return {watched.uri: _state_or_none(connection, watched) for watched in group}

    return await runtime.read(read)


def _state_or_none(connection: "Connection", watched: Watched) -> object:
    try:
        return watched.state(connection)
    except NotFoundError:
        return None


def _state(of: str, values: Mapping[str, str], connection: "Connection") -> object:
    from dbos_mcp.server.answers.watched import STATE

    return STATE[of](connection, **values)


def _client_of(ctx: ServerRequestContext[Any, Any]) -> Client:
    """The SDK hands a request its session alone, which is another one for each request."""
    return ctx.session._connection
