"""An incident file answers as the mirror does, and holds nothing that was to stay behind."""

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from dbos_mcp.errors import (
    NotOurFileError,
    SchemaTooNewError,
    StoreError,
    UnknownEventError,
    UsageError,
)
from dbos_mcp.incident.export import export
from dbos_mcp.incident.selection import select_workflow
from dbos_mcp.inspection.sandbox import Sandbox
from dbos_mcp.inspection.views import VIEWS
from dbos_mcp.settings import Settings
from dbos_mcp.store import engine, event_log, projector
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.events import (
    ApplicationObserved,
    CommandIssued,
    CommandSettled,
    Event,
    ExecutorObserved,
)
from dbos_mcp.store.migrate import open_cache
from tests.incident.conftest import NOW, PASSWORD, SECRET, STRANGER, Export, opened
from tests.server.conftest import Serve, ToolFailedError, serve
from tests.store.conftest import blank_cache, cache
from tests.store.factories import BORN, changed, observed
from tests.upstream import APP

__all__ = ["blank_cache", "cache", "serve"]  # fixtures

LAST_LINES = ("As of ", "This is of an excerpt", "It is older than the mirror", "Ended workflows")


def facts(answer: str) -> list[str]:
    """Without what the answer says of the file that it is from."""
    return [line for line in answer.splitlines() if not line.startswith(LAST_LINES)]


@pytest.fixture
def nothing_else(tmp_path: Path, exporting: Export) -> Iterator[None]:
    """When the test is done, only the file is there."""
    yield
    assert [path.name for path in tmp_path.iterdir()] == ["incident.sqlite"]


@pytest.mark.usefixtures("nothing_else")
async def test_an_agent_offline_gets_the_answers_of_the_mirror(
    mirror: Path, exporting: Export, serve: Serve, tmp_path: Path
) -> None:
    file = exporting("order-1005").path
    settings = {"home": tmp_path / "nothing-here", "offline": True}
    order = {"application_name": APP, "workflow_id": "order-1005"}
    child = {"application_name": APP, "workflow_id": "order-1005-5-4"}
    questions = [
        ("get_workflow", order),
        ("get_workflow", child),
        ("list_steps", order),
        ("list_steps", child),
        ("get_workflow_history", order),
        ("list_workflows", {"application_name": APP, "parent_workflow_id": "order-1005"}),
        ("list_executors", {"application_name": APP}),
    ]
    async with (
        serve(Settings.model_validate({**settings, "cache": mirror})) as ask_mirror,
        serve(Settings.model_validate({**settings, "cache": file})) as ask_file,
    ):
        for tool, arguments in questions:
            theirs, ours = await ask_mirror(tool, **arguments), await ask_file(tool, **arguments)
            assert facts(ours) == facts(theirs)
            assert "an excerpt made at" in ours
            assert "; complete" not in ours
        window = {"application_name": APP, "since": "-1d"}
        (group,) = (
            line.split(" | ")
            for line in (await ask_file("list_failures", **window)).splitlines()
            if " | quote_delivery | " in line
        )
        assert " | ".join(group) in await ask_mirror("list_failures", **window)
        theirs = await ask_mirror("diagnose_workflow", **order)
        ours = await ask_file("diagnose_workflow", **order)
        (verdict,) = (line for line in ours.splitlines() if line.startswith("verdict: "))
        assert "step 2 quote_delivery" in verdict
        assert "of an excerpt, counts are of what it holds" in ours
        assert "of an excerpt" not in theirs
        listed = await ask_file("list_workflows", application_name=APP)
        assert "counts and comparisons are of what it holds" in listed
        assert "excerpt" in await ask_file("sync_status")


def test_the_log_keeps_its_places_and_the_read_models_are_folded_from_it(
    mirror: Path, exporting: Export, tmp_path: Path
) -> None:
    done = exporting("order-1005")
    with opened(mirror) as connection, opened(done.path) as copied:
        there = {
            recorded.position: recorded
            for batch in event_log.read(connection)
            for recorded in batch
        }
        here = [recorded for batch in event_log.read(copied) for recorded in batch]
        position = event_log.last_position(copied)
    assert len(here) == done.events < len(there)
    for recorded in here:
        original = there[recorded.position]
        assert recorded.recorded_at == original.recorded_at
        assert type(recorded.event) is type(original.event)
        assert recorded.event.workflow_id == original.event.workflow_id
    assert position == here[-1].position

    ordinary = tmp_path / "ordinary.sqlite"
    shutil.copy(done.path, ordinary)
    with closing(sqlite3.connect(ordinary)) as database:
        database.execute(f"PRAGMA application_id = {engine.APPLICATION_ID}")
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            database.execute("DELETE FROM event")
    cache = open_cache(ordinary)
    with cache.write() as writing:
        assert all(table.equal for table in projector.rebuild(writing))
    cache.close()


def test_nothing_of_other_workflows_and_no_secret_is_in_the_file(exporting: Export) -> None:
    done = exporting("pay-source")
    content = done.path.read_bytes()
    for canary in (STRANGER, "stranger_canary", "step_canary", PASSWORD, SECRET, "-canary"):
        assert canary.encode() not in content
    assert b"[redacted:url-password]" in content
    assert b"[redacted:stripe-key-" in content
    assert done.redacted.keys() >= {"url-password", "stripe-key"}
    with opened(done.path) as connection:
        for table in ("step_due", "attention"):
            assert not connection.exec_driver_sql(f"SELECT * FROM {table}").all()


def test_payloads_come_along_only_when_they_are_asked_for(exporting: Export) -> None:
    without = exporting("pay").path.read_bytes()
    assert b"input-canary" not in without
    assert b"output-canary" not in without
    done = exporting("pay", with_payloads=True, force=True)
    content = done.path.read_bytes()
    assert b"input-canary" in content
    assert b"output-canary" in content
    assert done.excerpt.payloads
    assert PASSWORD.encode() not in content


def test_a_payload_that_was_left_behind_counts_as_not_asked_for(exporting: Export) -> None:
    with opened(exporting("pay").path) as connection:
        loaded = "SELECT DISTINCT input_loaded, output_loaded FROM workflow"
        assert connection.exec_driver_sql(loaded).all() == [(0, 0)]
        assert connection.exec_driver_sql(
            "SELECT attributes FROM workflow WHERE workflow_id = 'pay'"
        ).scalar() == json.dumps({"api_key": "[redacted:password]", "currency": "EUR"})


def test_users_are_kept_unless_they_are_to_be_redacted(exporting: Export) -> None:
    assert b"alice" in exporting("pay").path.read_bytes()
    done = exporting("pay", redact_users=True, force=True)
    assert b"alice" not in done.path.read_bytes()
    assert done.redacted["user"] > 0


def test_commands_come_with_their_workflow(exporting: Export) -> None:
    with opened(exporting("pay").path) as connection:
        commands = connection.exec_driver_sql("SELECT command, workflow_id, outcome FROM command")
        assert commands.all() == [("cancel", "pay-waiting", "done")]


def test_what_is_about_no_workflow_comes_along_where_it_matters(
    cache: Cache, tmp_path: Path
) -> None:
    def executor(executor_id: str, status: str) -> ExecutorObserved:
        return ExecutorObserved(
            application_name=APP,
            executor_id=executor_id,
            status=status,
            created_at=BORN,
            updated_at=BORN,
        )

    def ordered(number: int, *made: str) -> list[Event]:
        issued = CommandIssued(
            application_name=APP, command_id=f"command-{number}", command="backfill_schedule"
        )
        settled = CommandSettled(
            application_name=APP,
            command_id=f"command-{number}",
            outcome="done",
            new_workflow_ids=made,
        )
        return [issued, settled]

    with cache.write() as connection:
        projector.record(
            connection,
            [
                ApplicationObserved(application_name=APP, application_id="1", status="AVAILABLE"),
                executor("dead", "REMOVED"),
                executor("idle", "CONNECTED"),
                executor("stranger", "REMOVED"),
                *ordered(1, "nightly-1", "nightly-2"),
                *ordered(2, "other-1", "other-2"),
                observed("nightly-1", executor_id="dead"),
                observed("other-1", executor_id="stranger"),
                changed("nightly-1", executor_id="idle", status="ERROR"),
            ],
            recorded_at=BORN,
        )
    with cache.read() as connection:
        chosen = select_workflow(connection, None, "nightly-1")
        done = export(connection, chosen, tmp_path / "incident.sqlite", now=NOW)
    with opened(done.path) as connection:
        read = connection.exec_driver_sql
        assert set(read("SELECT executor_id FROM executor").scalars()) == {"dead", "idle"}
        assert list(read("SELECT command_id FROM command").scalars()) == ["command-1"]
        assert read("SELECT data FROM event WHERE kind = 'CommandSettled'").scalar() == (
            '{"command_id":"command-1","outcome":"done","new_workflow_id":"nightly-1"}'
        )
    assert b"nightly-2" not in done.path.read_bytes()


def test_an_excerpt_of_an_excerpt_still_says_of_how_many(exporting: Export, tmp_path: Path) -> None:
    first = exporting("pay")
    with opened(first.path) as connection:
        chosen = select_workflow(connection, None, "pay-child")
        second = export(connection, chosen, tmp_path / "second.sqlite", now=NOW)
    assert second.excerpt.workflows < first.excerpt.workflows
    assert second.excerpt.of_workflows == first.excerpt.of_workflows


def test_the_file_is_private_small_alone_and_not_written_over(
    exporting: Export, tmp_path: Path
) -> None:
    done = exporting("pay")
    assert done.path.stat().st_mode & 0o777 == 0o600
    assert done.bytes == done.path.stat().st_size < 200_000
    assert list(tmp_path.iterdir()) == [done.path]
    before = done.path.read_bytes()
    with pytest.raises(UsageError, match="already"):
        exporting("pay-source")
    assert done.path.read_bytes() == before
    exporting("pay-source", force=True)
    assert done.path.read_bytes() != before
    assert list(tmp_path.iterdir()) == [done.path]


def test_what_goes_wrong_leaves_nothing_behind(mirror: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    broken = tmp_path / "broken.sqlite"
    shutil.copy(mirror, broken)
    with opened(broken) as connection:
        chosen = select_workflow(connection, None, "pay")
        with pytest.raises(StoreError, match="cannot be written"):
            export(connection, chosen, tmp_path / "none" / "file", now=NOW)
    with closing(sqlite3.connect(broken)) as database, database:
        database.execute(
            "INSERT INTO event SELECT max(position) + 1, 'shop', 'pay', 'Unheard', 0, 0, '{}', NULL"
            " FROM event"
        )
    cache = engine.Cache(broken, writable=False)
    with cache.read() as connection, pytest.raises(UnknownEventError):
        export(connection, chosen, folder / "file.sqlite", now=NOW)
    cache.close()
    assert list(folder.iterdir()) == []


@contextmanager
def as_nobody(*paths: Path) -> Iterator[None]:
    """Who may not write wherever root may."""
    if os.geteuid() != 0:
        yield
        return
    for path in paths:
        os.chown(path, 65534, 65534)
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.mark.parametrize("kind", ["incident file", "mirror"])
def test_a_file_can_be_read_where_nothing_can_be_written(
    kind: str, mirror: Path, exporting: Export
) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        file = folder / "file.sqlite"
        shutil.copy(exporting("pay").path if kind == "incident file" else mirror, file)
        folder.chmod(0o555)
        with as_nobody(folder, file), opened(file) as connection:
            pay = "SELECT status FROM workflow WHERE workflow_id = 'pay'"
            assert connection.exec_driver_sql(pay).scalar() == "ERROR"
            assert list(folder.iterdir()) == [file]
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_the_file_has_the_public_views_and_can_be_asked_by_sql(exporting: Export) -> None:
    done = exporting("pay")
    cache = open_cache(done.path, writable=False)
    with closing(Sandbox(cache.read_uri)) as sandbox:
        listed = sandbox.run("SELECT workflow_id FROM failures WHERE workflow_id LIKE 'pay%'")
        assert ["pay"] in listed.rows
        for view in VIEWS:
            assert sandbox.run(f"SELECT * FROM {view.name}").columns
    cache.close()


def test_it_is_never_opened_for_writing(exporting: Export, tmp_path: Path) -> None:
    file = exporting("pay").path
    before = file.read_bytes()
    with pytest.raises(StoreError, match="is an incident file: it can only be read"):
        open_cache(file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_an_older_one_is_read_from_a_copy_that_is_made_current(
    exporting: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = exporting("pay").path
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE projection_checkpoint SET version = 0 WHERE name = 'workflows'")
        database.execute("UPDATE workflow SET status = 'OLD'")
    before = file.read_bytes()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with opened(file) as connection:
        statuses = set(connection.exec_driver_sql("SELECT status FROM workflow").scalars())
        assert len(list(temporary.iterdir())) == 1
    assert "ERROR" in statuses
    assert "OLD" not in statuses
    assert list(temporary.iterdir()) == []
    assert file.read_bytes() == before


def test_a_newer_one_a_damaged_one_and_another_file_are_refused(exporting: Export) -> None:
    file = exporting("pay").path
    good = file.read_bytes()
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    with closing(open_cache(file, writable=False)) as cache:
        assert "this one only reads it" in str(cache.notice)
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("PRAGMA user_version = 9999")
    with pytest.raises(SchemaTooNewError, match="newer version"):
        open_cache(file, writable=False)
    file.write_bytes(good[: len(good) // 2])
    with pytest.raises(StoreError, match="damaged"), opened(file) as connection:
        connection.exec_driver_sql("SELECT * FROM event").all()
    file.write_text("Dear colleague, ")
    with pytest.raises(NotOurFileError):
        open_cache(file, writable=False)


ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"


@pytest.mark.parametrize(
    "statements",
    [
        ["ALTER TABLE workflow RENAME TO w", f"CREATE VIEW workflow AS {ENDLESS}"],
        ["DROP TABLE step", "CREATE VIRTUAL TABLE step USING fts4(output)"],
        ["DROP TABLE attention", "CREATE TABLE attention (a, b AS (hex(zeroblob(9e8))))"],
        ["DROP TABLE attention", "CREATE TABLE attention (a CHECK (length(zeroblob(9e8))))"],
        ["CREATE INDEX slow ON workflow (hex(zeroblob(9)))"],
        ['CREATE INDEX slow ON workflow (status) WHERE "abs"(1) = 1'],
    ],
)
@pytest.mark.parametrize("application_id", [engine.EXCERPT_ID, engine.APPLICATION_ID])
def test_a_file_that_would_run_code_of_its_maker_is_left_unread(
    statements: list[str], application_id: int, exporting: Export
) -> None:
    file = exporting("pay").path
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("PRAGMA legacy_alter_table = ON")
        database.execute(f"PRAGMA application_id = {application_id}")
        for statement in statements:
            database.execute(statement)
    with pytest.raises(StoreError, match="could run code of its maker's"):
        open_cache(file, writable=False)


def test_triggers_of_an_older_one_never_run(exporting: Export) -> None:
    file = exporting("pay").path
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE projection_checkpoint SET version = 0 WHERE name = 'workflows'")
        for table in ("workflow", "projection_checkpoint", "workflow_count", "step"):
            for change in ("INSERT", "UPDATE", "DELETE"):
                database.execute(
                    f'CREATE TRIGGER "a ""{table} {change}" BEFORE {change} ON {table}'
                    " BEGIN SELECT RAISE(ABORT, 'it ran'); END"
                )
    with opened(file) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM workflow").scalar()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE sync_state SET excerpt = '{no json'",
        "UPDATE alembic_version SET version_num = '0000'",
        "UPDATE alembic_version SET version_num = x'00ff'",
        "DELETE FROM alembic_version",
        "DROP TABLE projection_checkpoint",
    ],
)
async def test_what_makes_no_sense_is_an_error_that_says_so(
    change: str, exporting: Export, serve: Serve, tmp_path: Path
) -> None:
    file = exporting("pay").path
    with closing(sqlite3.connect(file)) as database, database:
        database.execute(change)
    settings = Settings.model_validate({"home": tmp_path, "offline": True, "cache": file})
    async with serve(settings) as ask:
        with pytest.raises(ToolFailedError, match=r"damaged|newer|empty|no such table|not as"):
            await ask("list_workflows", application_name=APP)


def test_a_file_that_is_cut_off_or_no_file_at_all_is_refused_at_once(
    exporting: Export, tmp_path: Path
) -> None:
    file = exporting("pay").path
    good = file.read_bytes()
    for size in (len(good) // 2, len(good) // 1024 * 1024 - 1024, 2048, 100):
        file.write_bytes(good[:size])
        with pytest.raises((StoreError, NotOurFileError)):
            open_cache(file, writable=False)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, Path("/dev/null")):
        with pytest.raises(NotOurFileError):
            open_cache(path, writable=False)
    link = tmp_path / "link"
    file.write_bytes(good)
    link.symlink_to(file)
    open_cache(link, writable=False).close()
    pipe.unlink()
