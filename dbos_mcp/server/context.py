"""What a tool may ask for, of each target: the opened runtime, and the login that is under way.

Nothing is opened, migrated or sent before the client's first messages are answered, nor imported
what only answers take: the lifespan begins with all that beside the server, once the client has its
list of tools, and a tool that needs it waits for it.
"""

import functools
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, Self, TypeVar

import anyio
import anyio.to_thread
from mcp.server.apps import client_supports_apps
from mcp.server.mcpserver import Context, Resolve
from mcp.server.mcpserver.exceptions import ToolError

from dbos_mcp.domain import CONDUCTOR, now_ms
from dbos_mcp.errors import DbosMcpError, NotFoundError, UsageError
from dbos_mcp.runtime import Runtime, open_runtime, organization_of
from dbos_mcp.server.callers import USER, Principal, Who
from dbos_mcp.server.consent import Confirmations
from dbos_mcp.server.memory import Memory
from dbos_mcp.server.render import plain
from dbos_mcp.settings import Settings

if TYPE_CHECKING:
    import httpx

    from dbos_mcp.login import LoggedIn, LoginFlow
    from dbos_mcp.sync.commands import Commands
    from dbos_mcp.sync.now import Readings
    from dbos_mcp.sync.scheduler import SyncScheduler

logger = logging.getLogger(__name__)

ERROR_CHARACTERS = 2_000

QUIET_SECONDS = 0.1
"""After the list of tools a client asks for others. An import beside them would take its time from
theirs."""
FIRST_ANSWER_SECONDS = 1.5
"""A first question is answered then, with what there is, and how to go on: what it waits for may
never come."""
HEAD_START_SECONDS = 1.0
"""The longest that a client's first questions are waited for."""

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


async def import_answers() -> None:
    """Have at hand what answers take: sqlalchemy alone costs as much as the server did until now.
    On a thread, so that other messages are answered meanwhile."""
    if "dbos_mcp.server.answers" not in _imported:
        await anyio.to_thread.run_sync(_import_answers)


def _import_answers() -> None:
    import dbos_mcp.server.answers

    _imported.add(dbos_mcp.server.answers.__name__)


_imported: set[str] = set()


class Session:
    """One target's state in this process: opened at the first need, and again when somebody has
    logged in to another organization."""

    def __init__(
        self, settings: Settings, *, transport: "httpx.AsyncBaseTransport | None" = None
    ) -> None:
        self.settings = settings
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
        """Since then, no question waits for the first look."""
        self._confirmations: defaultdict[str, Confirmations] = defaultdict(Confirmations)
        self.memory = Memory()

    @functools.cached_property
    def login(self) -> "LoginFlow":
        from dbos_mcp.login import LoginFlow

        return LoginFlow(self.settings, transport=self._transport)

    @functools.cached_property
    def readings(self) -> "Readings":
        from dbos_mcp.sync.now import Readings

        return Readings(now_ms)

    async def runtime(self) -> Runtime:
        """Open what is not open yet, and start syncing.

        Raises:
            DbosMcpError: see `open_runtime`; the next call tries again.
        """
        async with self._opening:
            if self._runtime is not None and self._is_of_another(self._runtime):
                await self._close()
            if self._runtime is None:
                await import_answers()
                async with AsyncExitStack() as stack:
                    runtime = await stack.enter_async_context(
                        open_runtime(self.settings, transport=self._transport)
                    )
                    if runtime.live is not None:
                        from dbos_mcp.sync.scheduler import SyncScheduler

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
        self.__dict__.pop("readings", None)
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

    async def complete_login(self, timeout_seconds: float) -> "LoggedIn":
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
        transport: "httpx.AsyncBaseTransport | None" = None,
        who: Who = lambda: USER,
    ) -> None:
        self.who = who
        self.by_profile = {
            settings.profile: Session(settings, transport=transport) for settings in targets
        }
        self._first = next(iter(self.by_profile))
        self.tools_were_listed = anyio.Event()
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
            background.start_soon(self._begin)
            try:
                yield self
            finally:
                background.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    for session in self.by_profile.values():
                        await session.close()

    async def _begin(self) -> None:
        with anyio.move_on_after(HEAD_START_SECONDS):
            await self.tools_were_listed.wait()
            await anyio.sleep(QUIET_SECONDS)
        await self.current.begin()


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
        await import_answers()
        try:
            return await function(*args, **kwargs)
        except DbosMcpError as error:
            raise ToolError(words_of(error)) from error

    return wrapper


async def session_of(ctx: Context[Sessions, Any]) -> Session:
    return ctx.request_context.lifespan_context.current


def principal_of(ctx: Context[Sessions, Any]) -> Principal:
    return ctx.request_context.lifespan_context.who()


def commands_for(ctx: Context[Sessions, Any], runtime: Runtime) -> "Commands":
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


async def runtime_for(ctx: Context[Sessions, Any], application_name: str) -> Runtime:
    """What is imported first is waited for as well."""
    return await _runtime_since(ctx, application_name, anyio.current_time())


@speaking_to_agents
async def _runtime_since(
    ctx: Context[Sessions, Any], application_name: str, asked_at: float
) -> Runtime:
    return await opened_for(await session_of(ctx), application_name, asked_at)


async def opened_for(
    session: Session, application_name: str, asked_at: float | None = None
) -> Runtime:
    """For a question about an application: the runtime, and on a new mirror something in it.
    `asked_at` is when somebody began to wait, by the event loop's clock; now, if it is left out.

    Raises:
        DbosMcpError: see `open_runtime`.
    """
    asked_at = anyio.current_time() if asked_at is None else asked_at
    runtime = await session.runtime()
    from dbos_mcp.server.freshness import first_look

    session.note_question(application_name)
    if runtime.live is not None and not session.looked_once:
        session.looked_once = await first_look(runtime, asked_at + FIRST_ANSWER_SECONDS)
    return runtime


CurrentSession = Annotated[Session, Resolve(session_of)]
CurrentAsker = Annotated[Asker, Resolve(_asker)]
CurrentRuntime = Annotated[Runtime, Resolve(_runtime)]
"""For a question about the application that the tool's argument `application_name` names, or about
all of them if it names none."""
ShowsApps = Annotated[bool, Resolve(_shows_apps)]
"""Whether the client that asks shows MCP Apps beside an answer."""
RuntimeForAll = Annotated[Runtime, Resolve(_runtime_for_all)]
"""For a question about all of them."""
