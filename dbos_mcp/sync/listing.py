"""All pages of a search, by keyset on `createdAt`, which has no tie-breaker.

Rows change while they are read, so pages are not asked for by offset. Each begins at the last
one's end, ties included; a full page of nothing but ties with that end is asked for again, twice
as long, until something else comes into sight.

Only where that is of no use, the next ones are asked for by offset from that end: rows that cannot
be read have no time to go on from, and an answer that was cut because it is too large would only
be cut again. What that lets slip by is found as what slips by here is, by the audits.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Literal

import anyio

from dbos_mcp.conductor.models import WorkflowSearch
from dbos_mcp.sync.mirror import Look, Mirror, shown_again

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
        offset = 0
        before: set[str] = set()
        while True:
            update = {"limit": asked, "sort_desc": order == "descending", "offset": offset or None}
            if cursor is not None:
                update[cursor_field] = cursor
            page = await mirror.search(application_name, search.model_copy(update=update))
            shown = page.ids | {row.subject for row in page.unreadable}
            if offset and shown == before:
                raise shown_again(f"the workflows of {application_name}")
            before = shown
            if page.rows:
                yield page
            elif page.unreadable:
                await mirror.record_workflows(application_name, page)
            if len(page) < asked and not page.is_cut:
                is_all = True
                return
            if page.rows and page.rows[-1].created_at != cursor:
                turned += 1
                if turned == most:
                    return
                rows = asked = min(2 * rows, largest or limit)
                cursor, offset = page.rows[-1].created_at, 0
            elif offset or page.is_cut or not page.rows:
                offset += len(page)
            else:
                asked *= 2

    async def fetch() -> None:
        async with send, aclosing(pages()) as fetched:
            try:
                async for page in fetched:
                    await send.send(page)
            except Exception as error:  # noqa: BLE001 # which the group would wrap
                failures.append(error)

    async with anyio.create_task_group() as ahead, found:
        ahead.start_soon(fetch)
        try:
            async for page in found:
                await handle(page)
        except Exception as error:  # noqa: BLE001 # which the group would wrap
            failures.insert(0, error)
            ahead.cancel_scope.cancel()
    if failures:
        raise failures[0]
    return is_all
