"""A file of any age, opened by any number at once, is made current or left as it is."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, event
from sqlmodel import SQLModel

from dbos_mcp.errors import SchemaTooNewError, StoreError
from dbos_mcp.inspection.views import VIEWS
from dbos_mcp.store import projector
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.migrate import HEAD, migrations_folder, open_cache, upgrade
from dbos_mcp.store.projections import workflow_counts
from dbos_mcp.sync.due import Priority
from tests.store.conftest import opened
from tests.store.factories import observed
from tests.store.test_versions import made_by

UPGRADE = """
import sys
from pathlib import Path
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.migrate import upgrade

upgrade(Cache(Path(sys.argv[1])), Path(sys.argv[2]))
"""


def contents(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as database:
        return list(database.iterdump())


def execute(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.executescript(sql)


def next_migration(folder: Path, what: str) -> Path:
    """The migrations, and one more, which does `what` between two changes."""
    shutil.copytree(migrations_folder(), folder)
    (folder / "versions" / "9999_next.py").write_text(
        f"import os, signal\n"
        f"from alembic import op\n"
        f"revision, down_revision = '9999', '{HEAD}'\n"
        f"def upgrade():\n"
        f"    op.execute('CREATE TABLE half (way INTEGER)')\n"
        f"    op.execute('DROP TABLE step')\n"
        f"    {what}\n"
        f"    op.execute('CREATE TABLE done (way INTEGER)')\n"
    )
    return folder


def test_head_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_the_migrations_make_exactly_the_tables_of_the_models(cache: Cache) -> None:
    with cache.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, SQLModel.metadata) == []
        names = connection.exec_driver_sql(
            "SELECT type, name FROM sqlite_schema WHERE type IN ('table', 'trigger', 'view')"
        )
        made = {(kind, name) for kind, name in names}
    tables = {("table", name) for name in SQLModel.metadata.tables}
    triggers = {("trigger", f"event_refuses_{what}") for what in ("update", "delete", "replace")}
    triggers |= {("trigger", name) for name in workflow_counts.TRIGGERS}
    views = {("view", view.name) for view in VIEWS}
    assert made == tables | triggers | views | {("table", "alembic_version")}


@pytest.mark.parametrize("table", ["step", "workflow_count"])
def test_the_tables_without_a_rowid_are_made_so(cache: Cache, table: str) -> None:
    with cache.read() as connection:
        listed = connection.exec_driver_sql(f"PRAGMA table_list({table})").mappings().one()
        assert listed["wr"] == 1


def test_triggers_that_are_made_again_are_those_of_the_migrations(cache_path: Path) -> None:
    before = contents(cache_path)
    with opened(cache_path) as cache, cache.write() as connection:
        workflow_counts.drop(connection)
        assert not workflow_counts.are_kept(connection)
        workflow_counts.build(connection)
        assert workflow_counts.are_kept(connection)
    assert sorted(contents(cache_path)) == sorted(before)


def test_opening_twice_does_nothing(cache_path: Path) -> None:
    with opened(cache_path) as cache, cache.write() as connection:
        projector.record(connection, [observed()], recorded_at=1)
    before = cache_path.read_bytes()
    with opened(cache_path):
        wal = cache_path.with_name("cache.sqlite-wal")
        assert not wal.exists() or wal.stat().st_size == 0
    assert cache_path.read_bytes() == before


def test_threads_of_one_process_make_several_files_at_once(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.sqlite" for number in range(8)]
    with ThreadPoolExecutor(len(paths)) as threads:
        for cache in threads.map(open_cache, paths):
            cache.close()
    for path in paths:
        open_cache(path, writable=False).close()


@pytest.mark.parametrize("writable", [True, False])
@pytest.mark.parametrize(
    "trace",
    [
        "UPDATE alembic_version SET version_num = '9999'; PRAGMA user_version = 9999",
        "UPDATE alembic_version SET version_num = '9999'; PRAGMA user_version = 0",
        "UPDATE projection_checkpoint SET version = 99 WHERE name = 'steps'",
        "INSERT INTO projection_checkpoint VALUES ('moods', 1, 0)",
    ],
    ids=["schema", "schema of unknown reach", "read model", "new read model"],
)
def test_a_cache_of_a_newer_version_is_left_as_it_is(
    cache_path: Path, trace: str, writable: bool
) -> None:
    execute(cache_path, trace)
    before = cache_path.read_bytes()
    with pytest.raises(SchemaTooNewError, match="newer version of dbos-mcp") as error:
        open_cache(cache_path, writable=writable)
    assert "dbos-mcp@latest" in error.value.hint
    assert cache_path.read_bytes() == before


def test_a_reader_of_an_empty_file_is_told_how_to_fill_it(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    path.touch()
    with pytest.raises(StoreError, match=r"still empty\. .*dbos-mcp sync"):
        open_cache(path, writable=False)
    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    "trace",
    [
        "UPDATE alembic_version SET version_num = '0000'",
        "UPDATE projection_checkpoint SET version = 0 WHERE name = 'steps'",
    ],
)
def test_a_reader_of_an_older_file_is_told_how_to_make_it_current(
    cache_path: Path, trace: str
) -> None:
    execute(cache_path, trace)
    with pytest.raises(StoreError, match=r"older version of dbos-mcp\. `dbos-mcp rebuild`"):
        open_cache(cache_path, writable=False)


def test_a_migration_that_fails_leaves_the_file_as_it_was(cache_path: Path, tmp_path: Path) -> None:
    before = contents(cache_path)
    folder = next_migration(tmp_path / "migrations", "raise ZeroDivisionError")
    with closing(Cache(cache_path)) as cache, pytest.raises(ZeroDivisionError):
        upgrade(cache, folder)
    assert contents(cache_path) == before
    with opened(cache_path):
        pass


def test_a_migration_that_is_killed_leaves_the_file_as_it_was(
    cache_path: Path, tmp_path: Path
) -> None:
    before = contents(cache_path)
    folder = next_migration(tmp_path / "migrations", "os.kill(os.getpid(), signal.SIGKILL)")
    killed = subprocess.run([sys.executable, "-c", UPGRADE, str(cache_path), str(folder)])
    assert killed.returncode == -9
    with opened(cache_path):
        pass
    assert contents(cache_path) == before
    next_migration(tmp_path / "fixed", "pass")
    with closing(Cache(cache_path)) as cache:
        upgrade(cache, tmp_path / "fixed")
    with opened(cache_path) as cache:  # of the next version, for this one
        assert not cache.writable


@contextmanager
def failing_at(statement: int) -> Iterator[None]:
    """The program ends, as by a signal, before its k-th statement."""
    seen = 0

    def fail(*_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == statement:
            raise KeyboardInterrupt

    event.listen(Engine, "before_cursor_execute", fail)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", fail)


def test_a_first_opening_may_stop_at_any_statement(tmp_path: Path, blank_cache: Path) -> None:
    """The suite tries one in seven, `just fuzz-openings` each of them."""
    each = 1 if os.environ.get("FUZZ_EXAMPLES") else 7
    stopped = 0
    while True:
        path = tmp_path / f"{stopped}.sqlite"
        try:
            with failing_at(stopped + 1), opened(path):
                break
        except KeyboardInterrupt:
            stopped += each
        with opened(path):
            pass
        assert contents(path) == contents(blank_cache)
    assert stopped > 25


def test_workflows_of_an_older_cache_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    made_by(path, tmp_path / "migrations", "0004")
    for key, created_at, name in (
        (1, -1, "NULL"),
        (2, 0, "NULL"),
        (3, 86_399_999, "NULL"),
        (4, 7, "''"),
    ):
        execute(
            path,
            "INSERT INTO workflow (id, application_name, workflow_id, created_at, updated_at,"
            " status, workflow_name, priority, was_forked_from, payloads_loaded, content_hash,"
            f" observed_at) VALUES ({key}, 'shop', 'w-{key}', {created_at}, 6, 'SUCCESS', {name},"
            " 0, 0, 0, x'00', 7)",
        )
    with closing(Cache(path)) as cache:
        upgrade(cache)
    with closing(sqlite3.connect(path)) as database:
        counts = database.execute("SELECT day, workflow_name, count FROM workflow_count").fetchall()
    assert counts == [(-1, b"", 1), (0, "", 1), (0, b"", 2)]


def test_step_readings_of_an_older_cache_stay_and_running_workflows_are_due(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    made_by(path, tmp_path / "migrations", "0001")
    for key, status in (("1", "SUCCESS"), ("2", "PENDING")):
        execute(
            path,
            "INSERT INTO workflow (id, application_name, workflow_id, created_at, updated_at,"
            " status, priority, was_forked_from, payloads_loaded, content_hash, observed_at)"
            f" VALUES ({key}, 'shop', 'w-{key}', 5, 6, '{status}', 0, 0, 0, x'00', 7)",
        )
        execute(path, f"INSERT INTO step_reading VALUES ('shop', 'w-{key}', 8, 6)")
    with closing(Cache(path)) as cache:
        upgrade(cache)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT * FROM step_reading").fetchall() == [
            (1, 8, "SUCCESS", 6, None),
            (2, 8, "PENDING", 6, None),
        ]
        due = database.execute("SELECT * FROM step_due").fetchall()
    assert due == [(2, "shop", int(Priority.IN_FLIGHT), 0)]
