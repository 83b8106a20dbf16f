"""How the cache file is opened, who may write to it, and what is told when it cannot be used."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from dbos_mcp.errors import NotFoundError, NotOurFileError, StoreError
from dbos_mcp.store import projector
from dbos_mcp.store.engine import Cache, has_wal_reset_bug
from dbos_mcp.store.migrate import open_cache
from tests.store.conftest import opened
from tests.store.factories import observed

HOLD_THE_LOCK = """
import sys
from pathlib import Path
from dbos_mcp.store.engine import Cache

cache = Cache(Path(sys.argv[1]))
with cache.write() as connection:
    print("held", flush=True)
    sys.stdin.readline()
cache.close()
"""


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def without_rights() -> Iterator[None]:
    """Root may write everywhere; nobody may not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def another_process_writing(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Inside, another process is in the middle of a transaction, until it is sent a line."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_LOCK, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def folder_of(path: Path) -> dict[str, bytes]:
    """Everything in a folder, by name."""
    return {entry.name: entry.read_bytes() for entry in path.iterdir() if entry.is_file()}


def pragma(connection: Connection, name: str) -> Any:
    return connection.exec_driver_sql(f"PRAGMA {name}").scalar()


def record(cache: Cache, *workflow_ids: str) -> None:
    with cache.write() as connection:
        projector.record(connection, [observed(i) for i in workflow_ids], recorded_at=1)


def count(cache: Cache) -> int:
    with cache.read() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM event").scalar_one())


def test_new_files_are_for_their_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "home" / "folder" / "cache.sqlite"
    with umask(0), opened(path) as cache:
        record(cache, "order-1")
        modes = {entry.name: entry.stat().st_mode & 0o777 for entry in path.parent.iterdir()}
    assert modes == dict.fromkeys(
        ("cache.sqlite", "cache.sqlite-wal", "cache.sqlite-shm", "cache.sqlite.lock"), 0o600
    )
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.parent.parent.stat().st_mode & 0o777 == 0o700


def test_an_empty_file_of_another_program_becomes_a_private_cache(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    path.touch(0o644)
    with opened(path) as cache:
        record(cache, "order-1")
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_settings_are_in_force_on_the_writer(cache: Cache) -> None:
    with cache.write() as connection:
        assert pragma(connection, "journal_mode") == "wal"
        assert pragma(connection, "synchronous") == 2  # FULL
        assert pragma(connection, "busy_timeout") == 5000
        assert pragma(connection, "foreign_keys") == 1
        assert pragma(connection, "trusted_schema") == 0
        assert pragma(connection, "cell_size_check") == 1
        assert pragma(connection, "mmap_size") == 0
        assert pragma(connection, "wal_autocheckpoint") == 0
        assert pragma(connection, "journal_size_limit") == 16 * 1024 * 1024


def test_the_settings_are_in_force_on_a_reader(cache: Cache) -> None:
    with cache.read() as connection:
        assert pragma(connection, "query_only") == 1
        assert pragma(connection, "wal_autocheckpoint") == 0
        assert pragma(connection, "busy_timeout") == 5000
        assert pragma(connection, "trusted_schema") == 0
        assert pragma(connection, "cell_size_check") == 1
        assert pragma(connection, "mmap_size") == 0


def test_a_reader_cannot_write_even_when_it_lifts_its_own_ban(cache: Cache) -> None:
    for sql in ("PRAGMA query_only = OFF", "SELECT 1"):
        with pytest.raises(StoreError, match="readonly"), cache.read() as connection:
            connection.exec_driver_sql(sql)
            connection.exec_driver_sql("DELETE FROM sync_state")


def test_a_cache_opened_for_reading_refuses_to_write(cache_path: Path) -> None:
    with opened(cache_path, writable=False) as cache:
        with pytest.raises(StoreError, match="open for reading only"), cache.write():
            pass
        assert not cache.checkpoint(wal_limit_bytes=0)


def test_reading_sees_one_moment(cache: Cache) -> None:
    with cache.read() as connection:
        assert pragma(connection, "query_only") == 1
        connection.exec_driver_sql("SELECT count(*) FROM event")
        record(cache, "order-1")
        assert connection.exec_driver_sql("SELECT count(*) FROM event").scalar() == 0
    assert count(cache) == 1


@pytest.fixture(params=["rollback journal", "WAL", "other application", "text", "short text"])
def foreign_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "notes.sqlite"
    if "text" in request.param:
        path.write_text("x" if request.param == "short text" else "My shopping list. " * 1000)
        return path
    with closing(sqlite3.connect(path)) as database:
        if request.param == "WAL":
            database.execute("PRAGMA journal_mode = WAL")
        if request.param == "other application":
            database.execute("PRAGMA application_id = 1196444487")  # GeoPackage, still empty
        else:
            database.execute("CREATE TABLE note (body)")
    return path


@pytest.mark.parametrize("writable", [True, False])
def test_a_file_that_is_not_ours_is_refused_and_left_as_it_is(
    foreign_file: Path, writable: bool
) -> None:
    before = folder_of(foreign_file.parent)
    with pytest.raises(NotOurFileError, match="is not a dbos-mcp cache") as refused:
        Cache(foreign_file, writable=writable)
    assert "DBOS_MCP_CACHE" in refused.value.hint
    assert folder_of(foreign_file.parent) == before


def test_a_foreign_database_left_by_a_crash_keeps_what_its_wal_holds(tmp_path: Path) -> None:
    crashed = tmp_path / "crashed.sqlite"
    with closing(sqlite3.connect(tmp_path / "notes.sqlite")) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE note (body)")
        for suffix in ("", "-wal"):
            shutil.copy(tmp_path / f"notes.sqlite{suffix}", f"{crashed}{suffix}")
    wal = crashed.with_name("crashed.sqlite-wal")
    before = crashed.read_bytes(), wal.read_bytes()
    with pytest.raises(NotOurFileError):
        Cache(crashed)
    assert (crashed.read_bytes(), wal.read_bytes()) == before


def test_a_link_that_leads_to_itself_is_told_in_a_sentence(tmp_path: Path) -> None:
    loop = tmp_path / "cache.sqlite"
    loop.symlink_to(loop)
    with pytest.raises(StoreError):
        Cache(loop)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotOurFileError):
        Cache(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_not_created_for_a_reader(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="There is no cache at"):
        Cache(tmp_path / "folder" / "cache.sqlite", writable=False)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_told_in_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o500)
    with (
        without_rights(),
        pytest.raises(StoreError, match=r"cannot be opened: Permission denied\. .*DBOS_MCP_CACHE"),
    ):
        Cache(folder / "cache.sqlite")


def test_a_file_in_the_place_of_the_folder_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder").touch()
    with pytest.raises(StoreError, match="cannot be opened: "):
        Cache(tmp_path / "folder" / "cache.sqlite")


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 0), True),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
        ((4, 0, 0), False),
    ],
)
def test_the_wal_reset_bug_is_known_by_version(version: tuple[int, ...], affected: bool) -> None:
    assert has_wal_reset_bug(version) is affected


def test_a_second_process_waits_for_the_first_and_says_so_when_it_gives_up(
    cache_path: Path,
) -> None:
    cache = Cache(cache_path, lock_timeout_seconds=0.1)
    with closing(cache), another_process_writing(cache_path) as process:
        with pytest.raises(StoreError, match=r"locked for 0\.1 s"), cache.write():
            pass
        process.communicate("\n")
        assert process.returncode == 0
        record(cache, "order-1")
        assert count(cache) == 1


def test_a_killed_writer_leaves_the_lock_free_and_nothing_stored(cache_path: Path) -> None:
    with another_process_writing(cache_path) as process:
        process.kill()
        process.wait()
        with closing(Cache(cache_path, lock_timeout_seconds=0.1)) as cache:
            record(cache, "order-1")
            assert count(cache) == 1


def test_readers_do_not_wait_for_a_writer(cache_path: Path) -> None:
    with another_process_writing(cache_path), opened(cache_path, writable=False) as cache:
        assert count(cache) == 0


def test_a_program_that_keeps_no_lock_of_ours_is_waited_for_too(
    cache: Cache, cache_path: Path
) -> None:
    with cache.write() as connection:  # the one connection that the writer has
        connection.exec_driver_sql("PRAGMA busy_timeout = 10")
    with closing(sqlite3.connect(cache_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"locked.*Close the other program"):
            record(cache, "order-1")
        other.execute("ROLLBACK")
    record(cache, "order-1")


def test_writers_in_two_threads_take_turns(cache: Cache) -> None:
    def write(name: str) -> None:
        for n in range(20):
            record(cache, f"{name}-{n}")

    threads = [threading.Thread(target=write, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with cache.read() as connection:
        positions = (
            connection.exec_driver_sql("SELECT position FROM event ORDER BY 1").scalars().all()
        )
    assert positions == list(range(1, 61))


def test_two_names_of_one_file_share_the_lock(cache_path: Path) -> None:
    alias = cache_path.with_name("alias.sqlite")
    alias.symlink_to(cache_path)
    with another_process_writing(cache_path), pytest.raises(StoreError, match="locked"):
        Cache(alias, lock_timeout_seconds=0.1)


def test_an_exception_inside_a_transaction_leaves_nothing(cache: Cache) -> None:
    with pytest.raises(ZeroDivisionError), cache.write() as connection:
        projector.record(connection, [observed()], recorded_at=1)
        raise ZeroDivisionError
    assert count(cache) == 0
    record(cache, "order-1")
    assert count(cache) == 1


@pytest.mark.parametrize(
    "name",
    ["a b.sqlite", "50%25.sqlite", "what?mode=memory.sqlite", "c#1", "größe-書.sqlite", "'@:"],
)
def test_any_path_works(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / name
    with opened(path) as cache:
        record(cache, "order-1")
        assert count(cache) == 1
    assert {entry.name for entry in path.parent.iterdir()} == {name, f"{name}.lock"}


def test_a_path_relative_to_the_working_folder_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with opened(Path("cache.sqlite")) as cache:
        record(cache, "order-1")
    assert (tmp_path / "cache.sqlite").exists()


@pytest.mark.parametrize(
    "table", ["sqlite_schema", "alembic_version", "projection_checkpoint", "event", "workflow"]
)
def test_a_damaged_file_is_told_in_a_sentence_and_left_there(cache_path: Path, table: str) -> None:
    with opened(cache_path) as cache:
        record(cache, *(f"order-{n}" for n in range(200)))
    with closing(sqlite3.connect(cache_path)) as database:
        row = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", [table])
        (page,) = row.fetchone() or [1]
    damaged = bytearray(cache_path.read_bytes())
    # Not the header of the first page: without it, nobody can tell whose file it was.
    start = max(100, (page - 1) * 4096)
    damaged[start : page * 4096] = b"\xa5" * (page * 4096 - start)
    cache_path.write_bytes(damaged)

    def use() -> None:
        with opened(cache_path) as cache:
            record(cache, *(f"order-{n}" for n in range(200)))

    with pytest.raises(StoreError, match="damaged") as error:
        use()
    assert "`dbos-mcp cache restore`" in error.value.hint
    assert not isinstance(error.value, NotOurFileError)
    assert cache_path.read_bytes() == damaged


def test_a_file_whose_header_is_gone_is_left_for_its_owner_to_judge(cache_path: Path) -> None:
    damaged = b"\0" * 100 + cache_path.read_bytes()[100:]
    cache_path.write_bytes(damaged)
    with pytest.raises(NotOurFileError) as refused:
        open_cache(cache_path)
    assert "`dbos-mcp cache restore`" not in refused.value.hint
    cache_path.with_name("cache.sqlite.lock").touch()  # which only a cache has beside it
    with pytest.raises(NotOurFileError, match=r"If it was one: .*`dbos-mcp cache restore`"):
        open_cache(cache_path)
    assert cache_path.read_bytes() == damaged


def test_a_cut_off_file_is_told_in_a_sentence(cache_path: Path) -> None:
    with opened(cache_path) as cache:
        record(cache, *(f"order-{n}" for n in range(200)))
    os.truncate(cache_path, 3 * 4096)
    with pytest.raises(StoreError, match="damaged"):
        open_cache(cache_path)
