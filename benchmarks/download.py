"""The same pages as the first load reads, downloaded and thrown away: the rate it is held against.

Newest first, by keyset of `createdAt`, a thousand rows a page, one request after another; a page
of nothing but ties is widened.
"""

import re
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import NamedTuple
from urllib.parse import quote

import httpx

from dbos_mcp.conductor.client import ConductorClient
from dbos_mcp.conductor.credentials import Credentials
from dbos_mcp.conductor.identity import FixedIdentity
from dbos_mcp.conductor.models import WorkflowSearch
from dbos_mcp.domain import parse_time
from dbos_mcp.settings import LOCAL_ORGANIZATION

PAGE_LIMIT = 4000

_CREATED_AT = re.compile(rb'"createdAt":\s*"([^"]+)"')


class Downloaded(NamedTuple):
    rows: int
    seconds: float
    bytes_received: int = 0

    @property
    def rate(self) -> float:
        return self.rows / self.seconds


class _Page(NamedTuple):
    rows: int
    oldest: int
    size: int = 0


async def download(url: str, application_name: str) -> Downloaded:
    """Bodies as bytes; of each only the last creation time is looked at."""
    path = f"{url}/v2/orgs/{LOCAL_ORGANIZATION}/apps/{quote(application_name)}/workflows/search"
    async with httpx.AsyncClient(timeout=60) as http:

        async def fetch(search: WorkflowSearch) -> _Page:
            response = await http.post(path, json=search.to_request())
            response.raise_for_status()
            times = _CREATED_AT.findall(response.content)
            oldest = parse_time(times[-1].decode()) if times else 0
            return _Page(len(times), oldest, len(response.content))

        return await _all_pages(fetch)


async def download_decoded(url: str, application_name: str) -> Downloaded:
    """Through the client, which makes models of the rows."""
    async with ConductorClient(url, FixedIdentity(Credentials(LOCAL_ORGANIZATION))) as client:

        async def fetch(search: WorkflowSearch) -> _Page:
            page = await client.search_workflows(application_name, search)
            return _Page(len(page), page[-1].created_at if page else 0)

        return await _all_pages(fetch)


async def _all_pages(fetch: Callable[[WorkflowSearch], Awaitable[_Page]]) -> Downloaded:
    rows = size = 0
    limit, cursor = PAGE_LIMIT, None
    started = perf_counter()
    while True:
        page = await fetch(WorkflowSearch(end_time=cursor, limit=limit, sort_desc=True))
        rows += page.rows
        size += page.size
        if page.rows < limit:
            return Downloaded(rows, perf_counter() - started, size)
        if page.oldest == cursor:
            limit *= 2
        else:
            limit, cursor = PAGE_LIMIT, page.oldest
