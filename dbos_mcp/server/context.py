"""What a tool may ask for, of each target: the opened runtime, and the login that is under way.

Nothing is opened, migrated or sent before the client's first messages are answered: the lifespan
begins to open the runtime beside the server, and a tool that needs the runtime waits for it.
"""

import functools
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ParamSpec, Self, TypeVar

import anyio
import httpx
from mcp.server.apps import client_supports_apps
from mcp.server.mcpserver import Context, Resolve
from mcp.server.mcpserver.exceptions import ToolError
from sqlalchemy import Connection

from dbos_mcp.domain import format_time, now_ms
from dbos_mcp.errors import DbosMcpError, NotFoundError, UsageError
from dbos_mcp.login import LoggedIn, LoginFlow
from dbos_mcp.queries.applications import is_known
from dbos_mcp.queries.freshness import (
    NOTHING_LOOKED_AT,
    Freshness,
    Looked,
    freshness,
    freshness_of_all,
    looked_at_applications,
    looked_at_conductor,
    now_offline,
)
from dbos_mcp.runtime import Runtime, open_runtime, organization_of
from dbos_mcp.server.callers import USER, Principal, Who
from dbos_mcp.server.consent import Confirmations
from dbos_mcp.server.memory import Memory
from dbos_mcp.server.render import LAST_ERROR, freshness_line, plain
from dbos_mcp.settings import Settings
from dbos_mcp.store.sync_state import CONDUCTOR
from dbos_mcp.sync.commands import Commands
from dbos_mcp.sync.now import Readings
from dbos_mcp.sync.scheduler import SyncScheduler

logger = logging.getLogger(__name__)

FIRST_LOOK_SECONDS = 10.0
FIRST_LOAD_SECONDS = 2.0
ERROR_CHARACTERS = 2_000

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Session:
    """One target's state in this process: opened at the first need, and again when somebody has
    logged in to another organization."""

    def __init__(
        self, settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.settings = settings
        self.login = LoginFlow(settings, transport=transport)
        self.asked_to_open: str | None = None
        """The client's dialog about the login page, which wants to be told of its end."""
        self._transport = transport
        self._opening = anyio.Lock()
        self._stack = AsyncExitStack()
        self._runtime: Runtime | None = None
        self.scheduler: SyncScheduler | None = None
        self.on_look: Callable[[], None] = lambda: None
        """Called each time that the scheduler has looked whose turn it is, and run the worker."""
        self.looked_once = False
        self._confirmations: defaultdict[str, Confirmations] = defaultdict(Confirmations)
        self.readings = Readings(now_ms)
        self.memory = Memory()

    async def runtime(self) -> Runtime:
        """Open what is not open yet, and start syncing.

        Raises:
            DbosMcpError: see `open_runtime`; the next call tries again.
        """
        async with self._opening:
            if self._runtime is not None and self._is_of_another(self._runtime):
                await self._close()
            if self._runtime is None:
                async with AsyncExitStack() as stack:
                    runtime = await stack.enter_async_context(
                        open_runtime(self.settings, transport=self._transport)
                    )
                    if runtime.live is not None:
                        self.scheduler = SyncScheduler(
                            runtime.live.worker, on_look=lambda: self.on_look()
                        )
                        self.scheduler.start()
                        stack.push_async_callback(self.scheduler.stop)
                    self._stack = stack.pop_all()
                    self._runtime = runtime
            return self._runtime

    def _is_of_another(self, runtime: Runtime) -> bool:
        try:
            return organization_of(self.settings) != runtime.organization
        except DbosMcpError:  # nobody's: what is open can still be read
            return False

    async def close(self) -> None:
        async with self._opening:
            await self._close()

    async def _close(self) -> None:
        self._runtime, self.scheduler, self.looked_once = None, None, False
        self.readings = Readings(now_ms)
        self.memory = Memory()
        await self._stack.aclose()

    def confirmations(self, principal: Principal) -> Confirmations:
        """Theirs alone: nobody else can use them, or use them up."""
        return self._confirmations[principal.id]

    def note_question(self, application_name: str = CONDUCTOR) -> None:
        """What is asked about is kept fresh."""
        if self.scheduler is not None:
            self.scheduler.note_question(application_name)

    async def begin(self) -> None:
        """Open the runtime, or leave it to the next question."""
        try:
            await self.runtime()
        except DbosMcpError as error:
            logger.warning("Not syncing yet: %s", error)
        except Exception:
            logger.exception("Not syncing yet; the next question tries again.")

    async def complete_login(self, timeout_seconds: float) -> LoggedIn:
        """Wait for the person's approval, and sync with what came of it.

        Raises:
            LoginPendingError: not yet. LoginError: it came to nothing.
        """
        done = await self.login.complete(timeout_seconds)
        await self.begin()
        if self.scheduler is not None:
            self.scheduler.ask_again()
        return done


class Sessions:
    """The sessions of one process, by the profiles that it serves: mostly one, without a name.

    A call is about the profile that it names, or the first one.
    """

    def __init__(
        self,
        targets: Sequence[Settings],
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        who: Who = lambda: USER,
    ) -> None:
        self.who = who
        self.by_profile = {
            settings.profile: Session(settings, transport=transport) for settings in targets
        }
        self._first = next(iter(self.by_profile))
        self._asked_about: ContextVar[str | None] = ContextVar("profile", default=None)

    def named(self, profile: str | None) -> Session:
        """Raises NotFoundError; None is the first one."""
        try:
            return self.by_profile[profile or self._first]
        except KeyError as error:
            raise NotFoundError(
                f"There is no profile {profile!r} here.",
                hint=f"Profiles: {', '.join(filter(None, self.by_profile))}.",
            ) from error

    @property
    def current(self) -> Session:
        return self.by_profile[self._asked_about.get() or self._first]

    @contextmanager
    def about(self, profile: str) -> Iterator[None]:
        """For the call that runs inside."""
        token = self._asked_about.set(profile)
        try:
            yield
        finally:
            self._asked_about.reset(token)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Self]:
        """Opens the first one in the background; the others at the first question about them."""
        async with anyio.create_task_group() as background:
            background.start_soon(self.current.begin)
            try:
                yield self
            finally:
                background.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    for session in self.by_profile.values():
                        await session.close()


Caller = Context[Sessions, Any]


@dataclass(frozen=True)
class Asker:
    """Who waits for an answer: of which target, and the call, if it is one that can be told how far
    a look is."""

    session: Session
    call: Caller | None = None

    @property
    def profile(self) -> str | None:
        """What a call has to name, where there are several."""
        several = (
            self.call is not None and len(self.call.request_context.lifespan_context.by_profile) > 1
        )
        return self.session.settings.profile if several else None

    @property
    def may_command(self) -> bool:
        return self.call is None or principal_of(self.call).may_command


def words_of(error: DbosMcpError) -> str:
    """What went wrong, what to do next, and whether to try again."""
    retry = " The same call may succeed later." if error.retryable else ""
    return plain(f"{error}{retry}", limit=ERROR_CHARACTERS)


def speaking_to_agents(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Of what a handler raises, the SDK shows the model the text of ToolError alone.

    It may quote upstream, so it passes `plain()` as every other text does.
    """

    @functools.wraps(function)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await function(*args, **kwargs)
        except DbosMcpError as error:
            raise ToolError(words_of(error)) from error

    return wrapper


async def session_of(ctx: Context[Sessions, Any]) -> Session:
    return ctx.request_context.lifespan_context.current


def principal_of(ctx: Context[Sessions, Any]) -> Principal:
    return ctx.request_context.lifespan_context.who()


def commands_for(ctx: Context[Sessions, Any], runtime: Runtime) -> Commands:
    """What is sent for whoever asks.

    Raises:
        UsageError: they may not command, or nobody may.
    """
    principal = principal_of(ctx)
    if not principal.may_command:  # nor do they see a tool that leads here
        raise UsageError("This token may only read: it sends no command.")
    return runtime.require_commands(principal.name)


async def _asker(ctx: Context[Sessions, Any]) -> Asker:
    return Asker(await session_of(ctx), ctx)


async def _shows_apps(ctx: Context[Sessions, Any]) -> bool:
    return client_supports_apps(ctx)


async def _runtime(ctx: Context[Sessions, Any], application_name: str | None) -> Runtime:
    return await runtime_for(ctx, application_name or CONDUCTOR)


async def _runtime_for_all(ctx: Context[Sessions, Any]) -> Runtime:
    return await runtime_for(ctx, CONDUCTOR)


@speaking_to_agents
async def runtime_for(ctx: Context[Sessions, Any], application_name: str) -> Runtime:
    return await opened_for(await session_of(ctx), application_name)


async def opened_for(session: Session, application_name: str) -> Runtime:
    """For a question about an application: the runtime, and on a new mirror something in it.

    Raises:
        DbosMcpError: see `open_runtime`.
    """
    runtime = await session.runtime()
    session.note_question(application_name)
    if runtime.live is not None and not session.looked_once:
        await _first_look(runtime)
        session.looked_once = True
    return runtime


async def answer_from(
    runtime: Runtime,
    query: Callable[[Connection], T],
    application_name: str | None = CONDUCTOR,
    *,
    looked: Looked = NOTHING_LOOKED_AT,
) -> tuple[T, str]:
    """What a query finds, and the line that says how fresh it is, of one snapshot. It is about an
    application, about the list of them (CONDUCTOR), or about all of them (None)."""
    result, state = await found_by(runtime, query, application_name, looked=looked)
    return result, line_of(runtime, state)


async def found_by(
    runtime: Runtime,
    query: Callable[[Connection], T],
    application_name: str | None = CONDUCTOR,
    *,
    looked: Looked = NOTHING_LOOKED_AT,
) -> tuple[T, Freshness]:
    """What a query finds, and how fresh it is, of one snapshot.

    Raises:
        NotFoundError: it found nothing, in a mirror that is as fresh as the hint says.
    """

    def work(connection: Connection) -> tuple[T, Freshness]:
        if application_name is None:
            state = freshness_of_all(connection)
        elif is_known(connection, application_name):
            state = freshness(connection, application_name)
        else:
            state = freshness(connection)
        state = replace(state, looked=looked)
        try:
            return query(connection), state
        except NotFoundError as error:
            raise resting_on(error, runtime, state) from error

    return await runtime.read(work)


async def now_of(runtime: Runtime, application_name: str | None) -> int:
    """What `now` and `-2h` mean in a question. Where nobody looks any more, of an incident file or
    a mirror that is read offline, it is when somebody last did: all that is there is of before."""
    now = now_ms()
    if runtime.live is not None:
        return now
    return await runtime.read(partial(now_offline, application_name=application_name, now=now))


def read_live() -> str:
    """In place of that line, where nothing is of the mirror."""
    return f"Read live from Conductor at {format_time(now_ms())}."


def line_of(runtime: Runtime, state: Freshness, *, times_from_then: bool = True) -> str:
    return freshness_line(
        state,
        now=now_ms(),
        offline=runtime.live is None,
        times_from_then=times_from_then,
        notice=runtime.cache.notice,
    )


def resting_on(error: NotFoundError, runtime: Runtime, state: Freshness) -> NotFoundError:
    """Not found: in a mirror of when?"""
    line = line_of(runtime, state)
    if state.reason is not None and state.reason in str(error):
        line, _, _ = line.partition(LAST_ERROR)
    return NotFoundError(error.message, hint=f"{error.hint} {line}".strip())


async def _first_look(runtime: Runtime) -> None:
    """On a new mirror, wait within reason for what any process finds at its first look.

    An application that takes longer to load than that is answered with what is there.
    """
    for patience, looked in (
        (FIRST_LOOK_SECONDS, looked_at_conductor),
        (FIRST_LOAD_SECONDS, looked_at_applications),
    ):
        with anyio.move_on_after(patience):
            # Another process may be the one that looks: only the cache says when it has.
            while not await runtime.read(looked):  # noqa: ASYNC110
                await anyio.sleep(0.02)


CurrentSession = Annotated[Session, Resolve(session_of)]
CurrentAsker = Annotated[Asker, Resolve(_asker)]
CurrentRuntime = Annotated[Runtime, Resolve(_runtime)]
"""For a question about the application that the tool's argument `application_name` names, or about
all of them if it names none."""
ShowsApps = Annotated[bool, Resolve(_shows_apps)]
"""Whether the client that asks shows MCP Apps beside an answer."""
RuntimeForAll = Annotated[Runtime, Resolve(_runtime_for_all)]
"""For a question about all of them."""
