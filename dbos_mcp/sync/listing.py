"""All pages of a search, by keyset on `createdAt`, which has no tie-breaker.

Rows change while they are read, so pages are never asked for by offset. Each begins at the last
one's end, ties included; a full page of nothing but ties with that end is asked for again, twice
as long, until something else comes into sight.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Literal

import anyio

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
        Whatever the search or `handle` raised; pages that came before that were handled.
    """
    failures: list[Exception] = []
    is_all = False
    send, found = anyio.create_memory_object_stream[Look](0)

    async def pages() -> AsyncGenerator[Look]:
        nonlocal is_all
        cursor_field = "start_time" if order == "ascending" else "end_time"
        rows, asked, cursor, turned = limit, limit, None, 0
        while True:
            update = {"limit": asked, "sort_desc": order == "descending"}
            if cursor is not None:
                update[cursor_field] = cursor
            page = await mirror.search(application_name, search.model_copy(update=update))
            if page.rows:
                yield page
            if len(page.rows) < asked:
                is_all = True
                return
            if page.rows[-1].created_at == cursor:
                asked *= 2
                continue
            turned += 1
            if turned == most:
                return
            rows = asked = min(2 * rows, largest or limit)
            cursor = page.rows[-1].created_at

    async def fetch() -> None:
        async with send, aclosing(pages()) as fetched:
            try:
                async for page in fetched:
                    await send.send(page)
            except Exception as error:
                failures.append(error)

    async with anyio.create_task_group() as ahead, found:
        ahead.start_soon(fetch)
        try:
            async for page in found:
                await handle(page)
        except Exception as error:
            failures.insert(0, error)
            ahead.cancel_scope.cancel()
    if failures:
        raise failures[0]
    return is_all
