"""A shop left behind, and an empty mirror of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.upstream import Site, Tables, open_site


@pytest.fixture
def cache_path(tmp_path: Path) -> Path:
    return tmp_path / "mirror" / "cache.sqlite"


@pytest.fixture
def empty_database(shop_database: Path) -> Path:
    """A real system database without a workflow."""
    Tables(shop_database).clear()
    return shop_database


@pytest.fixture
async def site(shop_database: Path, cache_path: Path) -> AsyncIterator[Site]:
    async with open_site(shop_database, cache_path) as site:
        yield site
