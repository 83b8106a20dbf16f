"""A backup is a whole cache, of one moment, private, and found again."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from dbos_mcp.errors import UsageError
from dbos_mcp.store import projector
from dbos_mcp.store.backup import backup, backups, newest_backup, place
from dbos_mcp.store.engine import APPLICATION_ID, Cache
from dbos_mcp.store.migrate import HEAD, open_cache
from tests.store.conftest import opened
from tests.store.factories import observed


def record(cache: Cache, *workflow_ids: str) -> None:
    with cache.write() as connection:
        projector.record(connection, [observed(i) for i in workflow_ids], recorded_at=1)


def test_a_backup_is_a_private_cache_with_all_that_was_committed(
    cache: Cache, tmp_path: Path
) -> None:
    record(cache, "order-1", "order-2")
    copy = tmp_path / "copy.sqlite"
    with cache.write() as connection:  # which is under way meanwhile
        projector.record(connection, [observed("order-3")], recorded_at=2)
        size = backup(cache, copy)
    assert size == copy.stat().st_size
    assert copy.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(f"file:{copy}?mode=ro&immutable=1", uri=True)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert database.execute("SELECT count(*) FROM event").fetchone() == (2,)
    assert {path.name for path in tmp_path.iterdir() if "copy" in path.name} == {copy.name}
    with opened(copy) as opened_copy:
        record(opened_copy, "order-4")


def test_a_backup_beside_a_writer_never_holds_half_of_a_transaction(
    cache: Cache, tmp_path: Path
) -> None:
    stop = threading.Event()

    def write() -> None:
        n = 0
        while not stop.is_set():
            record(cache, f"order-{n}", f"order-{n}-twin", f"order-{n}-triplet")
            n += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        copies = [tmp_path / f"copy-{n}.sqlite" for n in range(5)]
        for copy in copies:
            backup(cache, copy)
    finally:
        stop.set()
        writer.join()
    for copy in copies:
        with closing(open_cache(copy, writable=False)) as found, found.read() as connection:
            events = connection.exec_driver_sql("SELECT count(*) FROM event").scalar_one()
            assert events % 3 == 0
            assert projector.stale(connection) == []


def test_a_backup_takes_no_other_files_place_unless_told_to(cache: Cache, tmp_path: Path) -> None:
    taken = tmp_path / "notes.txt"
    taken.write_text("mine")
    with pytest.raises(UsageError, match="There is a file"):
        backup(cache, taken)
    assert taken.read_text() == "mine"
    backup(cache, taken, force=True)
    with opened(taken):
        pass


def test_backups_are_found_by_the_name_of_their_cache_the_newest_first(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    assert newest_backup(tmp_path / "nowhere" / "cache.sqlite") is None
    assert newest_backup(path) is None
    made = [
        place(path, schema="0007", now=5, automatic=True),
        place(path, schema=HEAD, now=1_700_000_000_123),
    ]
    for other in (tmp_path / "other.sqlite", tmp_path / "cache.sqlite.backup"):
        place(other, schema=HEAD, now=9).touch()
    for each in made:
        each.touch()
    assert [(each.path, each.made_at, each.schema, each.automatic) for each in backups(path)] == [
        (made[1], 1_700_000_000_123, HEAD, False),
        (made[0], 5, "0007", True),
    ]
    alias = tmp_path / "alias.sqlite"
    alias.symlink_to(path)
    assert newest_backup(alias) == newest_backup(path)
