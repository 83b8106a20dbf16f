"""Cache files of the tests' own."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dbos_mcp.store.engine import Cache
from dbos_mcp.store.migrate import open_cache


@contextmanager
def opened(path: Path, *, writable: bool = True) -> Iterator[Cache]:
    cache = open_cache(path, writable=writable)
    try:
        yield cache
    finally:
        cache.close()


@pytest.fixture(scope="session")
def blank_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated cache file without an event. Copy it."""
    path = tmp_path_factory.mktemp("blank") / "cache.sqlite"
    open_cache(path).close()
    return path


@pytest.fixture
def cache_path(blank_cache: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(blank_cache, tmp_path / "cache.sqlite"))


@pytest.fixture
def cache(cache_path: Path) -> Iterator[Cache]:
    with opened(cache_path) as cache:
        yield cache
