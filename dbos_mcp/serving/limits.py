"""That no token takes what is there for all: calls at once, SQL, sessions."""

from collections import defaultdict
from http import HTTPStatus
from typing import Any

import anyio
from mcp import MCPError
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types import INTERNAL_ERROR
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from dbos_mcp.server.callers import Who
from dbos_mcp.serving.authentication import User

CALLS_AT_ONCE = 16
MOST_WAITING = 500
MOST_SESSIONS = 1_000
MOST_SESSIONS_OF_ONE = 250
SESSION_IDLE_SECONDS = 1_800.0
THREADS = 12
"""That read the mirror for everybody: more would wait for each other, and for its connections."""

_NOT_COUNTED = ("initialize", "server/discover", "ping", "subscriptions/listen")


class Turns:
    """Around each message: of one caller so many calls run at once, and one statement of SQL. The
    others wait for their turn; very many are refused. The user of this process waits for nobody."""

    def __init__(
        self, who: Who, *, at_once: int = CALLS_AT_ONCE, most_waiting: int = MOST_WAITING
    ) -> None:
        self._who = who
        self._most_waiting = most_waiting
        self._calls: defaultdict[str, anyio.CapacityLimiter] = defaultdict(
            lambda: anyio.CapacityLimiter(at_once)
        )
        self._statements: defaultdict[str, anyio.CapacityLimiter] = defaultdict(
            lambda: anyio.CapacityLimiter(1)
        )

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        principal = self._who()
        if principal.name is None or ctx.request_id is None or ctx.method in _NOT_COUNTED:
            return await call_next(ctx)
        if ctx.method == "tools/call" and (ctx.params or {}).get("name") == "query_sql":
            async with self._turn(self._statements[principal.id]):
                return await call_next(ctx)
        async with self._turn(self._calls[principal.id]):
            return await call_next(ctx)

    def _turn(self, limiter: anyio.CapacityLimiter) -> anyio.CapacityLimiter:
        if limiter.statistics().tasks_waiting >= self._most_waiting:
            raise MCPError(
                INTERNAL_ERROR, "Too many calls of one token wait already. Try again in a moment."
            )
        return limiter


class SessionLimit:
    """In front of the SDK, which limits the sessions of all together."""

    def __init__(self, app: ASGIApp, manager: StreamableHTTPSessionManager) -> None:
        self.app = app
        self._manager = manager

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        user = scope.get("user")
        if (
            isinstance(user, User)
            and scope["method"] == "POST"
            and MCP_SESSION_ID_HEADER not in Headers(scope=scope)
            and self._open(user.principal.id) >= MOST_SESSIONS_OF_ONE
        ):
            refusal = PlainTextResponse(
                "Too many open sessions of this token.", HTTPStatus.SERVICE_UNAVAILABLE
            )
            await refusal(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _open(self, principal: str) -> int:
        owners = self._manager._session_owners.values()
        return sum(owner["client_id"] == principal for owner in owners)
