"""Damage is looked for once a day, told, and not written over."""

from pathlib import Path

import pytest

from dbos_mcp.errors import StoreError
from dbos_mcp.store import damage
from dbos_mcp.store.engine import Cache
from tests.store.conftest import opened
from tests.store.test_engine import count, record

NOW = 1_700_000_000_000


@pytest.fixture
def filled(cache_path: Path) -> Path:
    with opened(cache_path) as cache:
        record(cache, *(f"order-{n}" for n in range(200)))
    return cache_path


def zero_a_page_of(path: Path, table: str) -> None:
    with opened(path) as cache, cache.read() as connection:
        (page,) = connection.exec_driver_sql(
            f"SELECT rootpage FROM sqlite_schema WHERE name = '{table}'"
        ).one()
    content = bytearray(path.read_bytes())
    content[(page - 1) * 4096 : page * 4096] = bytes(4096)
    path.write_bytes(content)


def checked_at(path: Path) -> int | None:
    checked = path.with_name(f"{path.name}.checked")
    return round(checked.stat().st_mtime * 1000) if checked.exists() else None


def test_a_sound_cache_is_looked_through_once_a_day(filled: Path) -> None:
    with opened(filled) as cache:
        for now, last in (
            (NOW, NOW),
            (NOW + damage.EVERY_MS - 1, NOW),
            (NOW + damage.EVERY_MS, NOW + damage.EVERY_MS),
            (NOW, NOW),  # the clock was set back
        ):
            damage.look(cache, now=now)
            assert checked_at(filled) == last
        assert cache.notice is None
    assert filled.with_name("cache.sqlite.checked").stat().st_mode & 0o777 == 0o600


def test_damage_is_told_with_the_way_out_and_nothing_is_written_from_then_on(
    filled: Path, caplog: pytest.LogCaptureFixture
) -> None:
    zero_a_page_of(filled, "ix_workflow_created_at")
    with opened(filled) as cache:
        damage.look(cache, now=NOW)
        assert cache.notice is not None
        assert "is damaged (" in cache.notice
        assert "`dbos-mcp cache restore`" in cache.notice
        assert cache.notice in caplog.text
        assert count(cache) == 200
        with pytest.raises(StoreError, match="is damaged"):
            record(cache, "order-200")
    assert checked_at(filled) is None


def test_a_search_for_damage_that_is_stopped_says_nothing(filled: Path) -> None:
    zero_a_page_of(filled, "ix_workflow_created_at")
    with opened(filled) as cache:
        damage.look(cache, now=NOW, stop=lambda: True)
        assert cache.notice is None
        assert checked_at(filled) is None


def test_damage_that_keeps_sqlite_from_reading_is_found_too(filled: Path) -> None:
    with opened(filled) as cache:
        record(cache, "order-200")
    zero_a_page_of(filled, "workflow")
    cache = Cache(filled)
    try:
        assert damage.find(cache) is not None
    finally:
        cache.close()
