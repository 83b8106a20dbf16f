"""A mirror with an incident in it, and much that has nothing to do with it."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from dbos_mcp.domain import now_ms
from dbos_mcp.incident import LIMIT, selection
from dbos_mcp.incident.export import Exported, export
from dbos_mcp.settings import Payloads
from dbos_mcp.store.migrate import open_cache
from tests.upstream import APP, Tables, open_site, pickled, workflow

NOW = now_ms()
HOUR = 3_600_000
SECRET = "sk_live_canary0123456789canary"
PASSWORD = "hunter2canary"
STRANGER = "stranger-canary"

Export = Callable[..., Exported]


@pytest.fixture(scope="session")
def mirror(shop_leftover: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that no test changes; all payloads are in it."""
    folder = tmp_path_factory.mktemp("incident")
    database, cache = folder / "shop.sqlite", folder / "cache.sqlite"
    for leftover in shop_leftover.parent.glob("shop.sqlite*"):
        shutil.copy(leftover, folder / leftover.name)
    tables = Tables(database)
    no_money = pickled(RuntimeError(f"postgres://shop:{PASSWORD}@db/0 is away"))
    tables.add(
        workflow(STRANGER, NOW - 9, "PENDING", name="stranger_canary",
                 attributes='{"who": "stranger-canary"}'),
        workflow("pay", NOW - HOUR, "PENDING", name="pay", authenticated_user="alice",
                 attributes=json.dumps({"api_key": PASSWORD, "currency": "EUR"}),
                 inputs=pickled({"args": ("input-canary",), "kwargs": {}})),
        workflow("pay-child", NOW - HOUR, "ERROR", name="bank", error=no_money,
                 parent_workflow_id="pay"),
        workflow("pay-waiting", NOW - HOUR, "ENQUEUED", name="mail", queue_name="emails",
                 parent_workflow_id="pay"),
        workflow("pay-fork", NOW - HOUR, "SUCCESS", name="pay", forked_from="pay",
                 output=pickled("output-canary")),
        workflow("pay-source", NOW - 2 * HOUR, "ERROR", name="pay", error=no_money),
        workflow(f"pay-{SECRET}", NOW - HOUR, "ERROR", name="pay", error=no_money),
        *(workflow(f"paid-{n}", NOW - n * HOUR, name="pay") for n in range(3)),
        workflow("long-ago", NOW - 900 * HOUR, "ERROR", name="pay", error=no_money),
        workflow("round-1", NOW, parent_workflow_id="round-2", forked_from="round-1"),
        workflow("round-2", NOW, parent_workflow_id="round-1", name="round"),
    )  # fmt: skip
    tables.add_step(STRANGER, 1, "step_canary")
    tables.add_step("pay", 1, "DBOS.getResult", f"password={PASSWORD}", child="pay-child")
    tables.add_step("pay-child", 1, "transfer", f"password={PASSWORD}")

    async def make() -> None:
        # As it was stored before there was redaction, or is without it.
        keep_all: dict[str, Any] = {"payloads": Payloads.ALL, "history_ms": None, "rules": None}
        async with open_site(database, cache, **keep_all) as site:
            await site.sync_until_steps_are_read()
            tables.end("pay", NOW, "ERROR", error=no_money)
            await site.sync_until_steps_are_read()
            await site.commands.cancel(APP, [STRANGER, "pay-waiting"])

    anyio.run(make)
    return cache


@pytest.fixture
def exporting(mirror: Path, tmp_path: Path) -> Iterator[Export]:
    """`exporting(workflow_id)` or `exporting(since=…)`: into the file `incident.sqlite`."""

    with opened(mirror) as connection:

        def make(
            workflow_id: str | None = None,
            *,
            since: int = 0,
            application_name: str | None = None,
            limit: int = LIMIT,
            **options: Any,
        ) -> Exported:
            if workflow_id is not None:
                chosen = selection.select_workflow(
                    connection, application_name, workflow_id, limit=limit
                )
            else:
                chosen = selection.select_since(connection, application_name, since, limit=limit)
            return export(connection, chosen, tmp_path / "incident.sqlite", now=NOW, **options)

        yield make


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    cache = open_cache(path, writable=False)
    try:
        with cache.read() as connection:
            yield connection
    finally:
        cache.close()
