"""An older program and a newer file: it reads what it can, and never writes to it."""

import logging
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from dbos_mcp.errors import SchemaTooNewError, StoreError
from dbos_mcp.store import migrate, schema
from dbos_mcp.store.backup import backups
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.migrate import HEAD, READABLE_FROM, migrations_folder, open_cache, upgrade
from tests.store.conftest import opened
from tests.store.test_engine import count, record

OLDER = sorted(path.name[:4] for path in migrations_folder().glob("versions/0*.py"))[:-1]
NEXT = f"{int(HEAD) + 1:04}"


def made_by(path: Path, folder: Path, newest: str) -> None:
    """A cache file of an older version, whose newest migration was that one."""
    shutil.copytree(migrations_folder(), folder, dirs_exist_ok=True)
    for migration in folder.glob("versions/0*.py"):
        if migration.name[:4] > newest:
            migration.unlink()
    with closing(Cache(path)) as cache:
        upgrade(cache, folder)


def migrated_by_a_newer_version(path: Path, *, readable_from: str) -> None:
    """What a program does that has one migration more; the file may be in use meanwhile."""
    with closing(Cache(path)) as cache, cache.write() as connection:
        connection.exec_driver_sql("CREATE TABLE mood (workflow_key INTEGER PRIMARY KEY)")
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{NEXT}'")
        schema.note_readable_from(connection, readable_from)


def events_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute("SELECT count(*) FROM event").fetchone()[0])


def test_a_file_says_which_programs_can_read_it(cache: Cache) -> None:
    with cache.read() as connection:
        assert schema.readable_by(connection, READABLE_FROM)
        assert schema.readable_by(connection, HEAD)
        assert not schema.readable_by(connection, f"{int(READABLE_FROM) - 1:04}")
    assert READABLE_FROM <= HEAD


@pytest.mark.parametrize("writable", [True, False])
def test_a_newer_file_that_can_be_read_is_only_read_and_says_so(
    cache_path: Path, writable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(cache_path) as cache:
        record(cache, "order-1")
    migrated_by_a_newer_version(cache_path, readable_from=HEAD)
    before = cache_path.read_bytes()
    with opened(cache_path, writable=writable) as cache:
        assert count(cache) == 1
        assert cache.notice is not None
        assert f"schema {NEXT}, this version has {HEAD}" in cache.notice
        assert "only reads it, and syncs nothing. Use the newest version" in cache.notice
        assert cache.notice in caplog.text
        with pytest.raises(StoreError, match="only reads it" if writable else "only read"):
            record(cache, "order-2")
    assert cache_path.read_bytes() == before


@pytest.mark.parametrize("writable", [True, False])
def test_a_newer_file_that_it_would_misread_is_refused(cache_path: Path, writable: bool) -> None:
    migrated_by_a_newer_version(cache_path, readable_from=NEXT)
    before = cache_path.read_bytes()
    with pytest.raises(SchemaTooNewError, match="Use the newest version"):
        open_cache(cache_path, writable=writable)
    assert cache_path.read_bytes() == before


def test_a_running_server_stops_writing_once_a_newer_version_has_migrated_its_file(
    cache: Cache, cache_path: Path
) -> None:
    record(cache, "order-1")
    migrated_by_a_newer_version(cache_path, readable_from=HEAD)
    for _ in range(2):
        with pytest.raises(SchemaTooNewError):
            record(cache, "order-2")
        assert count(cache) == 1
    assert cache.notice is not None
    assert events_of(cache_path) == 1


def test_a_running_server_stops_reading_what_it_would_misread(
    cache: Cache, cache_path: Path
) -> None:
    migrated_by_a_newer_version(cache_path, readable_from=NEXT)
    for use in (count, record):
        with pytest.raises(SchemaTooNewError):
            use(cache)


def test_other_changes_of_the_schema_are_none_of_the_version(cache: Cache) -> None:
    with cache.write() as connection:
        connection.exec_driver_sql("DROP INDEX ix_event_recorded_at")
    record(cache, "order-1")
    assert cache.notice is None


@pytest.mark.parametrize("revision", OLDER)
def test_an_older_file_is_copied_beside_it_before_it_is_migrated(
    tmp_path: Path, revision: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cache.sqlite"
    made_by(path, tmp_path / "migrations", revision)
    before = path.read_bytes()
    with caplog.at_level(logging.INFO), opened(path):
        pass
    (kept,) = backups(path)
    assert (kept.schema, kept.automatic) == (revision, True)
    assert f"from schema {revision} to {HEAD}; {kept.path.name} holds" in caplog.text
    kept.path.replace(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")  # the only difference, in the header
    assert path.read_bytes()[100:] == before[100:]
    with opened(path) as cache:
        record(cache, "order-1")


def test_a_new_file_is_not_copied_and_of_many_copies_the_newest_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache.sqlite"
    with opened(path):
        assert backups(path) == []
    moments = iter(range(0, 10_000_000, 1000))
    monkeypatch.setattr(migrate, "now_ms", lambda: next(moments))
    for _ in range(4):
        path.unlink()
        made_by(path, tmp_path / "migrations", OLDER[-1])
        with opened(path):
            pass
    assert [each.made_at for each in backups(path)] == [3000, 2000]


def test_without_room_for_the_copy_nothing_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache.sqlite"
    made_by(path, tmp_path / "migrations", OLDER[-1])
    before = path.read_bytes()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(StoreError, match=r"no room for a backup.*Free some space"):
        open_cache(path)
    assert path.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {
        "cache.sqlite",
        "cache.sqlite.lock",
        "migrations",
    }


def test_a_cache_replaced_by_one_of_an_older_version_asks_for_a_restart(
    cache: Cache, cache_path: Path, tmp_path: Path
) -> None:
    made_by(tmp_path / "old.sqlite", tmp_path / "migrations", OLDER[-1])
    (tmp_path / "old.sqlite").replace(cache_path)
    for suffix in ("-wal", "-shm"):
        cache_path.with_name(cache_path.name + suffix).unlink()
    for use in (count, record):
        with pytest.raises(StoreError, match=r"one of an older version\. Restart"):
            use(cache)
