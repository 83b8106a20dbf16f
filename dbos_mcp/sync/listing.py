"""All pages of a search, by keyset on `createdAt`, which has no tie-breaker.

Rows change while they are read, so pages are never asked for by offset. Each begins at the last
one's end, ties included; a full page of nothing but ties with that end is asked for again, twice
as long, until something else comes into sight.
"""

from collections.abc import Awaitable, Callable
from typing import Literal

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from dbos_mcp.conductor.models import WorkflowSearch
from dbos_mcp.sync.mirror import Look, Mirror

Order = Literal["ascending", "descending"]


async def each_page(
    mirror: Mirror,
    application_name: str,
    search: WorkflowSearch,
    order: Order,
    handle: Callable[[Look], Awaitable[None]],
    *,
    limit: int,
    largest: int | None = None,
    most: int | None = None,
) -> bool:
    """Hand every page that holds something to `handle`, one after the other; the next one is
    fetched meanwhile. Pages grow from `limit` to `largest` rows.

    Ends after the `most`-th page, those of nothing but ties not counted; whether that was all.

    Raises:
        Whatever the search or `handle` raised.
    """
    failure: Exception | None = None
    whole = False
    send, receive = anyio.create_memory_object_stream[Look](0)

    async def fetch(pages: MemoryObjectSendStream[Look]) -> None:
        nonlocal failure, whole
        async with pages:
            try:
                whole = await _fetch(
                    mirror, application_name, search, order, pages, limit, largest or limit, most
                )
            except Exception as error:
                failure = error

    async with anyio.create_task_group() as fetching, receive:
        fetching.start_soon(fetch, send)
        try:
            async for page in receive:
                await handle(page)
        except Exception as error:
            failure = error
            fetching.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return whole


async def _fetch(
    mirror: Mirror,
    application_name: str,
    search: WorkflowSearch,
    order: Order,
    pages: MemoryObjectSendStream[Look],
    limit: int,
    largest: int,
    most: int | None,
) -> bool:
    cursor_field = "start_time" if order == "ascending" else "end_time"
    widened, cursor, full_pages = limit, None, 0
    while True:
        update = {"limit": widened, "sort_desc": order == "descending"}
        if cursor is not None:
            update[cursor_field] = cursor
        page = await mirror.search(application_name, search.model_copy(update=update))
        if page.rows:
            await pages.send(page)
        if len(page.rows) < widened:
            return True
        if page.rows[-1].created_at == cursor:
            widened *= 2
        else:
            full_pages += 1
            if full_pages == most:
                return False
            limit = min(2 * limit, largest)
            widened, cursor = limit, page.rows[-1].created_at
