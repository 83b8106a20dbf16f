"""What was damaged is saved, filled up, and made equal to upstream by the next syncs."""

import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from dbos_mcp.domain import now_ms
from dbos_mcp.errors import NotFoundError, StoreError, UsageError
from dbos_mcp.store import event_log, log_removals, projector
from dbos_mcp.store.backup import backup, place
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.event_log import RawEvent
from dbos_mcp.store.migrate import HEAD
from dbos_mcp.store.projections.steps import StepRow
from dbos_mcp.upkeep.check import check
from dbos_mcp.upkeep.pages import events_of
from dbos_mcp.upkeep.restore import restore
from tests.store.conftest import opened
from tests.store.factories import observed
from tests.upkeep.conftest import NOW, ORDERS
from tests.upstream import Site, open_site, workflow

PAGE = 4096


def leaves_of(path: Path, table: str = "event") -> list[int]:
    """Where in the file the pages lie that hold rows of a table."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as raw:
        pages = raw.execute(
            "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf'", (table,)
        )
        return [(page - 1) * PAGE for (page,) in pages]


def overwrite(path: Path, places: Sequence[int], what: bytes = bytes(PAGE)) -> None:
    with path.open("r+b") as file:
        for place_of_it in places:
            file.seek(place_of_it)
            file.write(what)


def log_of(path: Path) -> list[RawEvent]:
    with opened(path) as cache, cache.read() as connection:
        return [event for batch in event_log.read_raw(connection) for event in batch]


def test_a_sound_cache_is_left_alone_unless_that_is_asked_for(
    cache: Cache, cache_path: Path
) -> None:
    cache.close()
    before = log_of(cache_path)
    with pytest.raises(UsageError, match="is sound"):
        restore(cache_path, now=NOW)
    done = restore(cache_path, now=NOW, force=True)
    assert (done.lost, done.filled, done.events) == (0, 0, len(before))
    assert log_of(cache_path) == before
    assert done.set_aside is not None
    assert done.set_aside.exists()


@pytest.mark.parametrize("with_backup", [False, True])
def test_events_of_a_lost_page_come_from_the_backup_or_are_told_to_be_lost(
    cache: Cache, cache_path: Path, with_backup: bool
) -> None:
    if with_backup:
        backup(cache, place(cache_path, schema=HEAD, now=NOW))
    with cache.write() as connection:
        projector.record(connection, [observed("later")], recorded_at=NOW)
    cache.close()
    before = log_of(cache_path)
    overwrite(cache_path, leaves_of(cache_path)[5:7])
    damaged = cache_path.read_bytes()
    assert not check(cache_path, now=NOW).is_sound
    done = restore(cache_path, now=NOW)
    after = log_of(cache_path)
    assert set(after) <= set(before)
    assert before[-1] in after
    assert len(before) - len(after) == done.lost
    assert (done.lost == 0) == with_backup
    assert done.lost < len(before) / 4
    assert check(cache_path, now=NOW, deep=True).is_sound
    assert done.set_aside is not None
    assert done.set_aside.read_bytes() == damaged
    with opened(cache_path) as restored, restored.read() as connection:
        removal = log_removals.latest(connection, "shop")
        assert (removal is None) == with_backup
        assert event_log.last_position(connection) == before[-1].position


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: overwrite(path, [0]),
        lambda path: overwrite(path, [0], b"no header" * 10),
        lambda path: path.write_bytes(path.read_bytes()[:-20_000]),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4]),
    ],
    ids=["first page", "header", "shorter", "much shorter"],
)
def test_what_is_left_of_a_file_that_sqlite_cannot_open_is_saved(
    cache: Cache, cache_path: Path, damage: Callable[[Path], None]
) -> None:
    cache.close()
    before = log_of(cache_path)
    damage(cache_path)
    done = restore(cache_path, now=NOW)
    assert done.saved > 20
    assert set(log_of(cache_path)) <= set(before)
    assert check(cache_path, now=NOW, deep=True).is_sound


def test_what_lies_in_the_wal_alone_is_saved_too(
    cache: Cache, cache_path: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "killed" / "cache.sqlite"
    copy.parent.mkdir()
    for suffix in ("", "-wal"):  # as a process leaves it that was killed
        shutil.copy(f"{cache_path}{suffix}", f"{copy}{suffix}")
    cache.close()
    before = log_of(cache_path)
    assert set(events_of(copy)) == set(before)
    copy.with_name("cache.sqlite-wal").unlink()
    assert set(events_of(copy)) == set()


def test_a_restore_that_was_killed_before_its_last_step_loses_nothing(
    cache: Cache, cache_path: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "killed" / "cache.sqlite"
    copy.parent.mkdir()
    shutil.copy(cache_path, copy)
    aside = copy.with_name("cache.sqlite.damaged-20261122T000000.000Z")
    aside.hardlink_to(copy)
    shutil.copy(f"{cache_path}-wal", f"{aside}-wal")
    cache.close()
    restore(copy, now=NOW, force=True)
    assert log_of(copy) == log_of(cache_path)


def test_nothing_is_made_of_nothing(cache: Cache, cache_path: Path) -> None:
    cache.close()
    with pytest.raises(StoreError, match="No event could be read"):
        cache_path.write_bytes(b"gone" * 1000)
        restore(cache_path, now=NOW)
    assert cache_path.read_bytes() == b"gone" * 1000
    cache_path.unlink()
    with pytest.raises(NotFoundError, match="neither a cache"):
        restore(cache_path, now=NOW)


def test_a_backup_takes_the_place_of_a_cache_that_is_gone(cache: Cache, cache_path: Path) -> None:
    backup(cache, place(cache_path, schema=HEAD, now=NOW))
    cache.close()
    before = log_of(cache_path)
    cache_path.unlink()
    done = restore(cache_path, now=NOW)
    assert done.set_aside is None
    assert log_of(cache_path) == before


def test_a_damaged_backup_is_not_used(cache: Cache, cache_path: Path) -> None:
    copy = place(cache_path, schema=HEAD, now=NOW)
    backup(cache, copy)
    cache.close()
    overwrite(copy, leaves_of(copy)[:1])
    overwrite(cache_path, leaves_of(cache_path)[5:7])
    with pytest.raises(StoreError, match=r"backup .* is damaged"):
        restore(cache_path, copy, now=NOW)
    assert restore(cache_path, now=NOW).source is None


def test_a_backup_of_another_log_fills_nothing(cache: Cache, cache_path: Path) -> None:
    other = cache_path.with_name("other.sqlite")
    with opened(other) as stranger:
        with stranger.write() as connection:
            strange = [observed(f"strange-{n}") for n in range(ORDERS * 5)]
            projector.record(connection, strange, recorded_at=1)
        backup(stranger, place(cache_path, schema=HEAD, now=NOW))
    cache.close()
    overwrite(cache_path, leaves_of(cache_path)[5:7])
    done = restore(cache_path, now=NOW)
    assert done.source is None
    assert not any("strange" in str(event.workflow_id) for event in log_of(cache_path))


async def sync_all(site: Site) -> None:
    await site.sync_until_steps_are_read()
    site.clock.ahead_ms += 3_600_000
    await site.sync_until_steps_are_read()


@pytest.mark.parametrize("with_backup", [False, True])
async def test_after_a_sync_the_restored_mirror_equals_upstream(
    empty_database: Path, cache_path: Path, with_backup: bool
) -> None:
    """Whatever is lost: what was never seen again, ended, changed or was deleted meanwhile."""
    now = now_ms() - 600_000
    async with open_site(empty_database, cache_path) as site:
        site.tables.add(
            *(workflow(f"old-{n}", now + n) for n in range(40)),
            *(workflow(f"runs-{n}", now + n, "PENDING") for n in range(15)),
        )
        for n in range(40):
            site.tables.add_step(f"old-{n}", 0, "reserve")
        await sync_all(site)
        if with_backup:
            backup(site.cache, place(cache_path, schema=HEAD, now=now_ms()))
        site.tables.add(*(workflow(f"new-{n}", now + 300_000 + n) for n in range(40)))
        for n in range(40):
            site.tables.add_step(f"new-{n}", 0, "pack")
        for n in range(12):
            site.tables.end(f"runs-{n}", now + 400_000)
        site.tables.change("DELETE FROM workflow_status WHERE workflow_uuid LIKE 'old-1_'")
        await sync_all(site)
        assert site.differences() == {}
        expected = len(site.mirrored())
    leaves = leaves_of(cache_path)
    overwrite(cache_path, leaves[len(leaves) // 3 :: 2])
    done = restore(cache_path, now=now_ms())
    assert done.lost > 20
    async with open_site(empty_database, cache_path) as site:
        assert site.differences() != {}
        await sync_all(site)
        assert site.differences() == {}
        assert len(site.mirrored()) == expected
        here = {row["id"] for row in site.mirrored().values() if row["status"] == "SUCCESS"}
        with_steps = {row["workflow_key"] for row in site.table(StepRow)}
        assert len(here - with_steps) == 12  # those that ran, and have none
    assert check(cache_path, now=now_ms(), deep=True).is_sound
