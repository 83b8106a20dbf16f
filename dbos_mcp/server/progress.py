"""How far a look is, told to the client that waits for it."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
from mcp.server.mcpserver import Context

from dbos_mcp.errors import DbosMcpError
from dbos_mcp.server.render import plain
from dbos_mcp.sync.visit import Progress, no_progress

T = TypeVar("T")


async def telling(call: Context[Any, Any] | None, look: Callable[[Progress], Awaitable[T]]) -> T:
    """What a look comes to; meanwhile the client is told what it reads, if it waits in a call.

    Raises: what the look does.
    """
    if call is None:
        return await look(no_progress)
    seen = _Seen(call)
    results: list[T] = []
    failure: DbosMcpError | None = None
    await call.report_progress(0, message="asking Conductor")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(seen.keep_telling)
        try:
            results.append(await look(seen.note))
        except DbosMcpError as error:  # the group would wrap it
            failure = error
        tasks.cancel_scope.cancel()
    if not results:
        raise failure or AssertionError("a look ends with an answer or an error")
    await seen.tell()
    return results[0]


class _Seen:
    """What a cycle tells of itself, passed on to who waits for it."""

    def __init__(self, call: Context[Any, Any]) -> None:
        self._call = call
        self._counts: dict[str, int] = {}
        self._message = ""
        self._told = 0
        self._news = anyio.Event()

    def note(self, application_name: str, subject: str, count: int) -> None:
        self._counts[application_name] = count
        self._message = f"{plain(application_name)}: {subject}"
        self._news.set()

    async def keep_telling(self) -> None:
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            await self.tell()

    async def tell(self) -> None:
        workflows = sum(self._counts.values())
        if workflows > self._told:  # progress must not stand still
            self._told = workflows
            await self._call.report_progress(workflows, message=self._message)
