"""The WAL stays short, whoever writes, and only who holds the write lock folds it back."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from dbos_mcp.store import projector
from dbos_mcp.store.connections import WAL_LIMIT_BYTES
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.wal import (
    CEILING_BYTES,
    PAUSE_BEYOND_CEILING_SECONDS,
    PAUSE_SECONDS,
    UNLED_LIMIT_BYTES,
)
from tests.store.conftest import opened
from tests.store.factories import observed
from tests.store.test_engine import count, pragma, record

MEGABYTE = 1024 * 1024


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(cache_path: Path, clock: Clock) -> Iterator[Cache]:
    with closing(Cache(cache_path, clock=clock)) as cache:
        yield cache


@pytest.fixture
def wal(cache_path: Path) -> Path:
    return cache_path.with_name("cache.sqlite-wal")


def fill(cache: Cache, size_bytes: int) -> None:
    """Write so much in one transaction."""
    with cache.write() as connection:
        connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS filling (x)")
        connection.exec_driver_sql(f"INSERT INTO filling VALUES (zeroblob({size_bytes}))")


@contextmanager
def a_reader_in_the_middle(cache: Cache) -> Iterator[None]:
    with cache.read() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM event")
        yield


def test_only_a_wal_beyond_the_limit_is_folded_back(cache: Cache, wal: Path) -> None:
    record(cache, *(f"order-{n}" for n in range(500)))
    size = wal.stat().st_size
    assert not cache.checkpoint()
    assert not cache.checkpoint(wal_limit_bytes=size)
    assert wal.stat().st_size == size
    assert cache.checkpoint(wal_limit_bytes=size - 1)
    assert wal.stat().st_size == 0
    assert count(cache) == 500


def test_a_reader_in_the_middle_puts_the_checkpoint_off_for_a_while(
    timed: Cache, clock: Clock
) -> None:
    with a_reader_in_the_middle(timed):
        record(timed, "order-1")
        assert not timed.checkpoint(wal_limit_bytes=0)
    clock.now += PAUSE_SECONDS - 1
    assert not timed.checkpoint(wal_limit_bytes=0)  # it is not tried
    clock.now += 1
    assert timed.checkpoint(wal_limit_bytes=0)
    with timed.write() as connection:
        assert pragma(connection, "busy_timeout") == 5000


def test_whoever_writes_bounds_a_wal_that_nobody_leads(cache: Cache, wal: Path) -> None:
    fill(cache, WAL_LIMIT_BYTES + MEGABYTE)
    assert wal.stat().st_size > WAL_LIMIT_BYTES  # it is the leader's to fold back
    fill(cache, UNLED_LIMIT_BYTES - WAL_LIMIT_BYTES)
    assert wal.stat().st_size == 0


def test_one_large_transaction_is_folded_back_at_its_end(cache: Cache, wal: Path) -> None:
    fill(cache, CEILING_BYTES + MEGABYTE)
    assert wal.stat().st_size == 0


def test_beyond_the_ceiling_it_is_tried_again_at_once(
    timed: Cache, clock: Clock, wal: Path
) -> None:
    with a_reader_in_the_middle(timed):
        fill(timed, CEILING_BYTES + MEGABYTE)
        assert wal.stat().st_size > CEILING_BYTES
    record(timed, "order-1")
    assert wal.stat().st_size > CEILING_BYTES
    clock.now += PAUSE_BEYOND_CEILING_SECONDS
    record(timed, "order-2")
    assert wal.stat().st_size == 0


def test_what_is_committed_counts_although_the_checkpoint_behind_it_fails(
    cache: Cache, wal: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record(cache, "order-1")
    with cache.write() as connection:
        projector.record(connection, [observed("order-2")], recorded_at=2)
        wal.rename(wal.with_suffix(".away"))
        with wal.open("wb") as another:
            another.truncate(UNLED_LIMIT_BYTES + 1)
    assert "could not be folded back" in caplog.text
    wal.with_suffix(".away").rename(wal)
    assert count(cache) == 2


def test_a_reader_that_closes_last_leaves_the_wal_as_it_is(cache_path: Path, wal: Path) -> None:
    """Readers in other processes are closed without the write lock."""
    with opened(cache_path) as cache:
        record(cache, *(f"order-{n}" for n in range(50)))
        reader = Cache(cache_path, writable=False)
        assert count(reader) == 50
    size, before = wal.stat().st_size, cache_path.read_bytes()
    assert size > 0
    reader.close()
    assert wal.stat().st_size == size
    assert cache_path.read_bytes() == before
    with opened(cache_path) as cache:
        assert count(cache) == 50


def test_a_writer_that_does_not_close_last_leaves_the_wal_as_it_is(
    cache: Cache, cache_path: Path, wal: Path
) -> None:
    record(cache, "order-1")
    size, before = wal.stat().st_size, cache_path.read_bytes()
    with opened(cache_path) as other:
        assert count(other) == 1
    assert wal.stat().st_size == size
    assert cache_path.read_bytes() == before


def test_the_shared_memory_stays_while_a_server_is_idle(cache: Cache, cache_path: Path) -> None:
    """Without it a process that may not write cannot read: the one that runs an agent's SQL."""
    assert cache_path.with_name("cache.sqlite-shm").exists()
    with opened(cache_path, writable=False) as reader:
        count(reader)
    assert cache_path.with_name("cache.sqlite-shm").exists()
