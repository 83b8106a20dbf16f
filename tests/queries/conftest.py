"""A mirror of a shop with something for every filter to find, which no test changes."""

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest
from sqlalchemy import Connection

from dbos_mcp.conductor.models import ForkRequest
from dbos_mcp.store.migrate import open_cache
from tests.upstream import APP, Site, Tables, open_site, pickled, workflow

NOON = 1_790_000_000_000


@pytest.fixture(scope="session")
def mirrored(shop_leftover: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The system database, and the cache."""
    folder = tmp_path_factory.mktemp("queries")
    database, cache = folder / "shop.sqlite", folder / "cache.sqlite"
    for leftover in shop_leftover.parent.glob("shop.sqlite*"):
        shutil.copy(leftover, folder / leftover.name)
    Tables(database).add(
        *(
            workflow(f"Tie_{n}", NOON, authenticated_user=f"user-{n % 3}", executor_id="shop-2")
            for n in range(9)
        ),
        workflow("tie%odd", NOON, "CANCELLED", schedule_name="nightly-report"),
        workflow("child-1", NOON + 1, parent_workflow_id="Tie_0", application_version="2.0"),
        workflow("child-2", NOON + 2, "ERROR", parent_workflow_id="Tie_0",
                 error=pickled(RuntimeError("lost"))),
        workflow("idle", NOON + 3, queue_name="emails", started_at_epoch_ms=NOON + 4),
        workflow("busy", NOON + 5, "PENDING", queue_name="emails", started_at_epoch_ms=NOON + 6),
    )  # fmt: skip

    async def mirror() -> None:
        async with open_site(database, cache, history_ms=None) as site:
            await site.client.fork_workflow(APP, "order-1001", ForkRequest(new_workflow_id="fork"))
            await site.sync()

    anyio.run(mirror)
    return database, cache


@pytest.fixture
def connection(mirrored: tuple[Path, Path]) -> Iterator[Connection]:
    cache = open_cache(mirrored[1], writable=False)
    try:
        with cache.read() as connection:
            yield connection
    finally:
        cache.close()


@pytest.fixture
async def both(mirrored: tuple[Path, Path]) -> AsyncIterator[Site]:
    """The mirror, and the upstream it is of."""
    async with open_site(*mirrored, history_ms=None) as site:
        yield site
