"""What others do to a cache file in use: the server goes on, or says in a sentence why not."""

import os
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from dbos_mcp.errors import NotOurFileError, StoreError
from dbos_mcp.store.backup import backup
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.migrate import open_cache
from tests.store.conftest import opened
from tests.store.test_engine import count, folder_of, record, without_rights
from tests.store.test_versions import OLDER, made_by


@pytest.fixture
def wal(cache_path: Path) -> Path:
    return cache_path.with_name("cache.sqlite-wal")


def remove(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """As on a read-only file system."""
    files = [*folder.iterdir(), folder]
    modes = [file.stat().st_mode for file in files]
    for file in files:
        file.chmod(0o555 if file.is_dir() else 0o444)
    for parent in folder.parents:  # pytest's own are for their owner alone
        if parent.stat().st_uid == os.geteuid() and len(parent.parts) > 2:
            parent.chmod(parent.stat().st_mode | 0o111)
    try:
        with without_rights():
            yield
    finally:
        for file, mode in zip(files, modes, strict=True):
            file.chmod(mode)


def test_a_file_that_is_deleted_in_use_is_told_and_not_made_anew(
    cache: Cache, cache_path: Path
) -> None:
    record(cache, "order-1")
    remove(cache_path)
    before = folder_of(cache_path.parent)
    for use in (count, record):
        with pytest.raises(StoreError, match=r"was deleted, or moved away.*cache restore"):
            use(cache)
    assert not cache_path.exists()
    assert set(folder_of(cache_path.parent)) - set(before) <= {"cache.sqlite.lock"}


def test_a_file_that_is_put_back_goes_on_with_all_that_its_wal_held(
    cache: Cache, cache_path: Path
) -> None:
    record(cache, "order-1")
    away = cache_path.with_name("away.sqlite")
    cache_path.rename(away)
    with pytest.raises(StoreError, match="moved away"):
        count(cache)
    away.rename(cache_path)
    record(cache, "order-2")
    assert count(cache) == 2


def test_a_restored_backup_is_read_and_written_from_then_on(
    cache: Cache, cache_path: Path, tmp_path: Path
) -> None:
    record(cache, "order-1")
    copy = tmp_path / "copy.sqlite"
    backup(cache, copy)
    record(cache, "order-2", "order-3")
    aside = tmp_path / "aside"
    aside.mkdir()
    with opened(cache_path) as other:  # which has it open too, and is not asked meanwhile
        for suffix in ("", "-wal", "-shm"):
            file = cache_path.with_name(cache_path.name + suffix)
            file.rename(aside / file.name)
        copy.rename(cache_path)
        assert count(cache) == 1
        record(cache, "order-4")
        assert count(other) == 2
        record(other, "order-5")
    record(cache, "order-6")
    with cache.read() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        assert connection.exec_driver_sql("SELECT count(*) FROM event").scalar() == 4
    with opened(aside / "cache.sqlite") as old:
        assert count(old) == 3


@pytest.mark.parametrize("what", ["text", "nothing", "another database"])
def test_something_else_in_its_place_is_told_and_left_as_it_is(
    cache: Cache, cache_path: Path, what: str
) -> None:
    remove(cache_path)
    if what == "another database":
        with closing(sqlite3.connect(cache_path)) as database:
            database.execute("CREATE TABLE note (body)")
    else:
        cache_path.write_text("My shopping list. " * 100 if what == "text" else "")
    before = cache_path.read_bytes()
    for use in (count, record):
        with pytest.raises(NotOurFileError):
            use(cache)
    assert cache_path.read_bytes() == before


def test_a_wal_that_is_deleted_in_use_is_told_and_saved_by_who_stops_last(
    cache_path: Path, wal: Path
) -> None:
    with opened(cache_path) as cache:
        record(cache, "order-1")
        wal.unlink()
        for use in (count, lambda cache: record(cache, "order-2")):
            with pytest.raises(StoreError, match=r"-wal .*was deleted.*Stop every"):
                use(cache)
    with opened(cache_path) as cache:
        assert count(cache) == 1


def test_a_wal_whose_file_is_gone_is_not_thrown_away(cache_path: Path, tmp_path: Path) -> None:
    left = tmp_path / "left.sqlite"
    with opened(cache_path) as cache:
        record(cache, "order-1")
        shutil.copy(f"{cache_path}-wal", f"{left}-wal")
        shutil.copy(cache_path, tmp_path / "left.main")
    for empty in (False, True):
        if empty:
            left.touch()
        with pytest.raises(StoreError, match=r"is gone, while left.sqlite-wal .*cache restore"):
            open_cache(left)
    (tmp_path / "left.main").replace(left)
    with opened(left) as cache:
        assert count(cache) == 1


def test_a_wal_that_a_crash_left_behind_is_read(cache_path: Path, tmp_path: Path) -> None:
    crashed = tmp_path / "crashed.sqlite"
    with opened(cache_path) as cache:
        record(cache, "order-1")
        for suffix in ("", "-wal"):
            shutil.copy(f"{cache_path}{suffix}", f"{crashed}{suffix}")
    with opened(crashed) as cache:
        assert count(cache) == 1


def test_a_cache_whose_wal_is_missing_is_as_of_its_last_checkpoint(
    cache_path: Path, tmp_path: Path
) -> None:
    without = tmp_path / "without.sqlite"
    with opened(cache_path) as cache:
        record(cache, "order-1")
        assert cache.checkpoint(wal_limit_bytes=0)
        record(cache, "order-2")
        shutil.copy(cache_path, without)
    with opened(without) as cache:
        assert count(cache) == 1
        record(cache, "order-3")


def test_a_cache_that_cannot_be_written_to_is_read_and_says_so(
    cache_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(cache_path) as cache:
        record(cache, "order-1")
    with unwritable(cache_path.parent), opened(cache_path) as cache:
        assert count(cache) == 1
        assert cache.notice is not None
        assert "only read, and nothing is synced" in cache.notice
        assert cache.notice in caplog.text
        with pytest.raises(StoreError, match="only read, and nothing is synced"):
            record(cache, "order-2")


@pytest.mark.parametrize("writable", [True, False])
def test_an_older_cache_that_cannot_be_written_to_is_not_to_be_rebuilt_there(
    tmp_path: Path, writable: bool
) -> None:
    folder = tmp_path / "older"
    folder.mkdir()
    path = folder / "cache.sqlite"
    made_by(path, tmp_path / "migrations", OLDER[-1])
    before = path.read_bytes()
    with (
        unwritable(folder),
        pytest.raises(StoreError, match="by an older version") as failed,
    ):
        open_cache(path, writable=writable)
    assert "rebuild" not in failed.value.hint
    assert "name a copy of it with DBOS_MCP_CACHE" in failed.value.hint
    assert path.read_bytes() == before


@contextmanager
def no_file_longer_than(size_bytes: int) -> Iterator[None]:
    """What a full disk is to SQLite, wherever the tests run."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_cache_that_cannot_be_opened_for_want_of_room_says_so(
    cache_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4096))
    with (
        no_file_longer_than(16 * 1024),
        pytest.raises(StoreError, match=r"opened: the disk is full \(disk I/O error\)") as failed,
    ):
        open_cache(cache_path)
    assert failed.value.hint.startswith("Free some space")
    monkeypatch.undo()
    with opened(cache_path) as cache:
        record(cache, "order-1")


def test_a_write_without_room_stores_nothing_and_the_same_connection_works_afterwards(
    cache: Cache, cache_path: Path, wal: Path
) -> None:
    record(cache, "order-0")
    acknowledged = 1
    with no_file_longer_than(wal.stat().st_size + 300_000):
        for n in range(100):
            try:
                record(cache, *(f"order-{n}-{m}" for m in range(10)))
            except StoreError as error:
                assert "cannot be written" in error.message
                break
            acknowledged += 10
        else:
            pytest.fail("there was room for all")
        assert count(cache) == acknowledged
        with pytest.raises(StoreError, match="cannot be written"):
            record(cache, *(f"again-{n}" for n in range(100)))
        assert count(cache) == acknowledged
    record(cache, "afterwards")
    with no_file_longer_than(cache_path.stat().st_size):  # there is no room to fold it back
        with pytest.raises(StoreError, match="cannot be written"):
            cache.checkpoint(wal_limit_bytes=0)
        assert count(cache) == acknowledged + 1
    assert cache.checkpoint(wal_limit_bytes=0)
    with cache.read() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        assert connection.exec_driver_sql("SELECT count(*) FROM event").scalar() == acknowledged + 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """8 MB, in memory; only root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("needs to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_up(folder: Path) -> Path:
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096) == 4096:
                pass
        except OSError:
            pass
    return ballast


def test_a_disk_without_room_is_told_at_opening_writing_and_migrating(small_disk: Path) -> None:
    path = small_disk / "cache.sqlite"
    ballast = fill_up(small_disk)
    with pytest.raises(StoreError):
        open_cache(path)
    ballast.unlink()
    with opened(path) as cache:
        record(cache, "order-1")
        ballast = fill_up(small_disk)
        with pytest.raises(StoreError, match=r"full.*Free some space"):
            record(cache, *(f"order-2-{n}" for n in range(2000)))
        assert count(cache) == 1
        with pytest.raises(StoreError, match="no room for a backup"):
            backup(cache, small_disk / "copy.sqlite")
        ballast.unlink()
        record(cache, "order-3")
        backup(cache, small_disk / "copy.sqlite")
    with opened(path) as cache, cache.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM event").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    assert {file.name for file in small_disk.iterdir()} == {
        "cache.sqlite",
        "cache.sqlite.lock",
        "copy.sqlite",
    }


def test_a_file_system_that_cannot_be_written_to_is_read(small_disk: Path) -> None:
    path = small_disk / "cache.sqlite"
    with opened(path) as cache:
        record(cache, "order-1")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with opened(path) as cache:
        assert count(cache) == 1
        assert not cache.writable
