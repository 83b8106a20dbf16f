"""A shop left behind, and an empty mirror of it."""

import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from dbos_mcp.store.migrate import open_cache
from tests.upstream import Site, Tables, open_site


@pytest.fixture(scope="session")
def empty_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copied, not used: migrating a cache for each test would take longer than the test."""
    path = tmp_path_factory.mktemp("cache") / "empty.sqlite"
    open_cache(path).close()
    return path


@pytest.fixture
def new_cache(empty_cache: Path, tmp_path: Path) -> Callable[[object], Path]:
    return lambda name: Path(shutil.copy(empty_cache, tmp_path / f"cache-{name}.sqlite"))


@pytest.fixture
def cache_path(new_cache: Callable[[object], Path]) -> Path:
    return new_cache("of-the-test")


@pytest.fixture
def empty_database(shop_database: Path) -> Path:
    """A real system database without a workflow."""
    Tables(shop_database).clear()
    return shop_database


@pytest.fixture
async def site(shop_database: Path, cache_path: Path) -> AsyncIterator[Site]:
    async with open_site(shop_database, cache_path) as site:
        yield site
