"""A mirror of an upstream that is no more than an ASGI application, and what that may say."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from starlette.types import ASGIApp

from dbos_mcp.conductor.client import ConductorClient
from dbos_mcp.conductor.credentials import Credentials
from dbos_mcp.conductor.identity import FixedIdentity
from dbos_mcp.domain import format_time, now_ms
from dbos_mcp.store.migrate import open_cache
from dbos_mcp.sync.mirror import Mirror
from dbos_mcp.sync.worker import SyncWorker
from tests.upstream import APP, Clock, Site, Tables, Wire

HOUR = 3_600_000
START = now_ms() // HOUR * HOUR - 5 * HOUR
APPLICATION = {"id": "1", "name": APP, "status": "AVAILABLE"}


def row(
    workflow_id: str, minute: int, status: str = "SUCCESS", **members: object
) -> dict[str, Any]:
    at = format_time(START + minute * 60_000)
    return {
        "workflowId": workflow_id,
        "status": status,
        "workflowName": "restock",
        "createdAt": at,
        "updatedAt": at,
        "completedAt": None if status in ("PENDING", "ENQUEUED") else at,
        **members,
    }


@asynccontextmanager
async def site_of(conductor: ASGIApp, path: Path, page_limit: int = 1000) -> AsyncIterator[Site]:
    wire, cache, clock = Wire(httpx.ASGITransport(conductor)), open_cache(path), Clock()
    try:
        async with ConductorClient(
            "http://local-conductor",
            FixedIdentity(Credentials("local")),
            transport=wire,
            patience_seconds=0,
            reads_per_second=10_000,
        ) as client:
            mirror = Mirror(cache, client, clock=clock)
            worker = SyncWorker(mirror, history_ms=None, page_limit=page_limit)
            yield Site(Tables(path), wire, client, cache, mirror, worker, clock)
    finally:
        cache.close()
