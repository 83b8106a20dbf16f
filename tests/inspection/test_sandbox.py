"""Other people's SQL: what is harmless is answered, and nothing else happens."""

import itertools
import json
import math
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from dbos_mcp.errors import QueryError, SqlRejectedError, SqlStoppedError, StoreError
from dbos_mcp.inspection.examples import EXAMPLES, Example
from dbos_mcp.inspection.hints import caution
from dbos_mcp.inspection.sandbox import Parameter, Sandbox, Stop
from dbos_mcp.inspection.views import VIEWS
from dbos_mcp.store import projector
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.migrate import open_cache
from tests.store.conftest import opened
from tests.store.factories import BORN, changed, deleted, issued, observed, settled, steps

HERE = Path(__file__).parent
HOSTILE = json.loads((HERE / "hostile.json").read_text())
HARMLESS = json.loads((HERE / "harmless.json").read_text())
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
MOST_KIB = 256 * 1024


@pytest.fixture
def cache(cache_path: Path) -> Iterator[Cache]:
    with opened(cache_path) as cache:
        with cache.write() as connection:
            facts = [
                observed("order-1", queue_name="orders", dequeued_at=BORN),
                changed("order-1", status="ERROR", error="lost", executor_id="shop-2"),
                steps("order-1", "reserve", "charge"),
                observed("order-2", parent_workflow_id="order-1", schedule_name="nightly"),
                deleted("order-2"),
                issued(),
                settled(),
            ]
            projector.record(connection, facts, recorded_at=BORN)
        yield cache


@pytest.fixture
def sandbox(cache: Cache) -> Iterator[Sandbox]:
    sandbox = Sandbox(cache.read_uri)
    yield sandbox
    sandbox.close()


def left_behind(cache: Cache) -> dict[str, tuple[int, int]]:
    """How large every file of its folder is, and when it was written; without the memory that
    connections share. Nothing is opened: closing it would drop the locks of this process."""
    files = {path: path.stat() for path in cache.path.parent.iterdir()}
    return {
        path.name: (file.st_size, file.st_mtime_ns)
        for path, file in files.items()
        if path.suffix != ".sqlite-shm"
    }


def nothing_is_held(cache: Cache) -> bool:
    """Whether a WAL can be folded back: no reader is left in the midst of it."""
    with cache.write() as connection:
        projector.record(connection, [observed("order-9")], recorded_at=BORN)
    cache._wal._not_before = 0.0  # the pause that follows a busy one is over
    return cache.checkpoint(wal_limit_bytes=0)


def workers(sandbox: Sandbox) -> list[int]:
    return [idle.pid for idle in sandbox._idle]


def open_files() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def is_there(pid: int) -> bool:
    """Also where it has ended and nobody has asked how."""
    return Path(f"/proc/{pid}").exists()


def peak_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def test_there_are_enough_of_them() -> None:
    hostile = [*chain.from_iterable(HOSTILE["refused"].values()), *HOSTILE["bombs"]]
    assert len(set(hostile)) >= 400
    assert len(set(HARMLESS)) >= 60


@pytest.mark.parametrize("kind", HOSTILE["refused"])
def test_what_is_not_a_question_is_refused(cache: Cache, sandbox: Sandbox, kind: str) -> None:
    sandbox.run("SELECT 1")
    first, before = workers(sandbox), left_behind(cache)
    for sql in HOSTILE["refused"][kind]:
        with pytest.raises(SqlRejectedError) as refusal:
            sandbox.run(sql)
        assert "CREATE TABLE" not in refusal.value.message, sql
        assert len(str(refusal.value)) < 2_000, sql
    assert left_behind(cache) == before
    assert workers(sandbox) == first
    assert sandbox.run("SELECT count(*) FROM events").rows == [[7]]
    assert nothing_is_held(cache)


def test_a_bomb_is_stopped_in_its_bounds_of_time_and_memory(cache: Cache) -> None:
    sandbox = Sandbox(cache.read_uri, seconds=0.2)
    before, open_before = left_behind(cache), open_files()
    for sql in HOSTILE["bombs"]:
        try:
            found = sandbox.run(sql)
        except QueryError as error:
            refused = any(words in str(error) for words in ("too big", "malformed JSON"))
            assert isinstance(error, SqlStoppedError) or refused, (sql, error)
        else:
            assert len(json.dumps(found.rows)) < 3_000_000, sql
        for pid in workers(sandbox):
            assert peak_kib(pid) < MOST_KIB, sql
    assert left_behind(cache) == before
    assert sandbox.run("SELECT count(*) FROM events").rows == [[7]]
    assert nothing_is_held(cache)
    last = workers(sandbox)
    sandbox.close()
    assert not any(is_there(pid) for pid in last)
    assert open_files() == open_before


def test_a_statement_in_one_instruction_that_does_not_end_is_ended(cache: Cache) -> None:
    """SQLite does not look at its clock inside a function."""
    (slow,) = (sql for sql in HOSTILE["bombs"] if "SELECT instr(s, substr(s" in sql)
    sandbox = Sandbox(cache.read_uri, seconds=0.2)
    with pytest.raises(SqlStoppedError, match=r"stopped after 0\.2 s"):
        sandbox.run(slow)
    assert workers(sandbox) == []
    sandbox.close()


def test_a_harmless_statement_is_answered(sandbox: Sandbox) -> None:
    for sql in HARMLESS:
        assert sandbox.run(sql).columns, sql
        assert caution(sql, {}) is None, sql


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_the_examples_answer_their_question(sandbox: Sandbox, example: Example) -> None:
    found = sandbox.run(example.sql, {"application_name": "shop", **example.parameters})
    assert found.columns
    plan = sandbox.run(
        f"EXPLAIN QUERY PLAN {example.sql}", {"application_name": "shop", **example.parameters}
    )
    assert any("SEARCH" in row[3] for row in plan.rows) or "events" in example.sql


def test_there_are_eight_examples_of_different_names() -> None:
    assert len({example.name for example in EXAMPLES}) == len(EXAMPLES) == 8


def test_a_plan_tells_how_without_private_names(sandbox: Sandbox) -> None:
    plan = "EXPLAIN QUERY PLAN SELECT * FROM {} WHERE application_name = 'shop' AND {} = 1"
    assert [row[3] for row in sandbox.run(plan.format("workflows", "created_at_ms")).rows] == [
        "SEARCH workflows USING INDEX (application_name=? AND created_at=?)"
    ]
    counting = sandbox.run("EXPLAIN QUERY PLAN SELECT count(*) FROM events").rows
    assert [row[3] for row in counting] == ["SCAN events USING COVERING INDEX"]
    steps = [row[3] for row in sandbox.run(plan.format("steps", "step_name")).rows]
    assert "SEARCH workflows USING INTEGER PRIMARY KEY (key=?)" in steps
    assert not any("ix_" in step or "workflow_key" in step for step in steps)


def test_parameters_are_bound_as_what_they_are(sandbox: Sandbox) -> None:
    given: dict[str, Parameter] = {
        "text": "'; DROP TABLE workflow; --",
        "number": 2**53 + 1,
        "half": 0.5,
        "none": None,
    }
    found = sandbox.run("SELECT :text, :number, :half, :none", given)
    assert found.rows == [[*given.values()]]
    with pytest.raises(SqlRejectedError, match="too large"):
        sandbox.run("SELECT :number", {"number": 2**63})
    with pytest.raises(SqlRejectedError, match=r"give each in params"):
        sandbox.run("SELECT :number")
    with pytest.raises(SqlRejectedError, match="too large"):
        sandbox.run("SELECT :number", {"number": 10**5_000})
    assert sandbox.run("SELECT :x", {"x": math.nan}).rows == [[None]]
    assert sandbox.run("SELECT :x", {"x": "a\x00\n"}).rows == [["a\x00\n"]]
    with pytest.raises(SqlRejectedError, match="surrogates"):
        sandbox.run("SELECT :x", {"x": "\ud800"})


def test_what_is_beyond_the_limits_of_an_answer_is_counted(sandbox: Sandbox) -> None:
    some = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {}) SELECT i FROM n"
    )
    found = sandbox.run(some.format(50), rows=10)
    assert (len(found.rows), found.more, found.all_counted) == (10, 40, True)
    found = sandbox.run(some.format(10**9), rows=10)
    assert (len(found.rows), found.all_counted) == (10, False)
    assert found.more > 1_000
    long = "SELECT 'abcdefgh', x'0102030405060708', 1"
    assert sandbox.run(long, cell_characters=4).rows == [["abc…", "x'0102…'", 1]]
    assert sandbox.run(long, cell_characters=4).columns == ["'ab…", "x'0…", "1"]


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("SELECT * FROM workflow", "Did you mean workflows?"),
        ("SELECT * FROM failure", "SELECT * FROM failures LIMIT 5"),
        ("SELECT * FROM zzz", "Views: workflows, steps"),
        ("SELECT create_at FROM workflows", "Did you mean created_at or created_at_ms?"),
        ("SELECT w.step_nam FROM steps AS w", "SELECT step_name FROM steps LIMIT 5"),
        ("SELECT zzz FROM queues", "describe_schema tells the columns of queues"),
        ("SELECT printf('x')", "not authorized to use function: printf"),
        ("PRAGMA table_info(workflow)", "describe_schema tells the views"),
        ("ATTACH 'x' AS y", "One SELECT (or WITH … SELECT"),
        ("SELECT * FROM workflows WHERE", "incomplete input"),
        ("SELECT '" + "x" * 10_000 + "'", "10000 are the most"),
    ],
)
def test_a_refusal_names_the_next_step(sandbox: Sandbox, sql: str, told: str) -> None:
    with pytest.raises(SqlRejectedError) as refusal:
        sandbox.run(sql)
    assert told in str(refusal.value)


def test_what_a_refusal_proposes_works(sandbox: Sandbox) -> None:
    for view in VIEWS:
        with pytest.raises(SqlRejectedError) as refusal:
            sandbox.run(f"SELECT zzz FROM {view.name}")
        _, _, proposed = refusal.value.hint.partition("Try: ")
        assert view.name in proposed
        assert sandbox.run(proposed).columns == [column.name for column in view.columns]


def test_somebody_else_may_stop_it(sandbox: Sandbox) -> None:
    stop, ended = Stop(), []

    def run() -> None:
        with pytest.raises(SqlStoppedError, match="was stopped"):
            sandbox.run(ENDLESS, stop=stop)
        ended.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    stop.now()
    thread.join()
    assert ended
    assert sandbox.run("SELECT 1").rows == [[1]]


class Hears(Stop):
    """Knows when the statement has a process."""

    def __init__(self) -> None:
        super().__init__()
        self.began = threading.Event()
        self.pid = 0

    def attend(self, process: subprocess.Popen[str] | None) -> None:
        super().attend(process)
        if process is not None:
            self.pid = process.pid
            self.began.set()


class StopsLate(Stop):
    """At the last moment: its statement has answered."""

    def attend(self, process: subprocess.Popen[str] | None) -> None:
        if process is None:
            self.now()
        super().attend(process)


def test_who_is_stopped_when_it_has_answered_leaves_no_dead_process_to_the_next(
    sandbox: Sandbox,
) -> None:
    assert sandbox.run("SELECT 1", stop=StopsLate()).rows == [[1]]
    assert workers(sandbox) == []
    assert sandbox.run("SELECT 2").rows == [[2]]


def test_what_is_stopped_before_it_begins_does_not_run(sandbox: Sandbox) -> None:
    sandbox.run("SELECT 1")
    stop = Stop()
    stop.now()
    with pytest.raises(SqlStoppedError, match="was stopped"):
        sandbox.run("SELECT 1", stop=stop)
    assert sandbox.run("SELECT 2").rows == [[2]]


def test_a_statement_that_runs_while_all_is_closed_leaves_no_process(sandbox: Sandbox) -> None:
    stop = Hears()

    def run() -> None:
        with pytest.raises(SqlStoppedError):
            sandbox.run(ENDLESS, stop=stop)

    thread = threading.Thread(target=run)
    thread.start()
    stop.began.wait()
    sandbox.close()
    assert is_there(stop.pid)
    stop.now()
    thread.join()
    assert not is_there(stop.pid)
    done = Hears()
    sandbox.run("SELECT 1", stop=done)
    assert not is_there(done.pid)


def test_statements_and_writers_run_beside_one_that_does_not_end(
    cache: Cache, sandbox: Sandbox
) -> None:
    stop = Hears()
    stopped: list[Exception] = []

    def run() -> None:
        try:
            Sandbox(cache.read_uri, seconds=3600).run(ENDLESS, stop=stop)
        except SqlStoppedError as error:
            stopped.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    stop.began.wait()
    assert sandbox.run("SELECT count(*) FROM events").rows == [[7]]
    # What it may still read stays in the WAL, and nobody waits for that.
    assert any(not nothing_is_held(cache) for _ in range(1_000))
    (found,) = sandbox.run("SELECT count(*) FROM events").rows
    assert found[0] > 7
    assert not stopped
    stop.now()
    thread.join()
    assert "was stopped." in str(stopped)
    assert nothing_is_held(cache)


def test_a_worker_that_died_is_replaced(sandbox: Sandbox) -> None:
    sandbox.run("SELECT 1")
    os.kill(workers(sandbox)[0], signal.SIGKILL)
    with pytest.raises(SqlStoppedError):
        sandbox.run("SELECT 1")
    assert sandbox.run("SELECT 1").rows == [[1]]


def test_a_worker_sees_a_schema_that_changed(cache: Cache, sandbox: Sandbox) -> None:
    sandbox.run("SELECT * FROM applications")
    with cache.write() as connection:
        connection.exec_driver_sql("DROP VIEW applications")
        connection.exec_driver_sql(
            "CREATE VIEW applications AS SELECT kind AS application_name FROM event"
        )
    assert len(sandbox.run("SELECT application_name FROM applications").rows) == 7


def test_a_file_that_lost_a_view_is_said_to_be_of_no_use(cache: Cache, sandbox: Sandbox) -> None:
    sandbox.run("SELECT 1")
    (view,) = (view for view in VIEWS if view.name == "commands")
    with cache.write() as connection:
        connection.exec_driver_sql("DROP VIEW commands")
    with pytest.raises(StoreError, match=r"cannot be read: no such table"):
        sandbox.run("SELECT count(*) FROM events")
    with cache.write() as connection:
        connection.exec_driver_sql(view.sql)
    assert sandbox.run("SELECT count(*) FROM events").rows == [[7]]


def test_a_schema_that_changes_at_any_moment_gets_no_statement_refused(
    cache: Cache, sandbox: Sandbox
) -> None:
    """It is learned and read in one state of the file."""
    columns = itertools.cycle(["kind", "application_name"])
    ended = threading.Event()

    def change() -> None:
        while not ended.is_set():
            with cache.write() as connection:
                connection.exec_driver_sql("DROP VIEW applications")
                connection.exec_driver_sql(
                    f"CREATE VIEW applications AS SELECT {next(columns)} AS name FROM event"
                )

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(150):
            assert len(sandbox.run("SELECT * FROM applications").rows) == 7
    finally:
        ended.set()
        thread.join()


def test_a_damaged_file_is_said_to_be(empty_cache: Path, tmp_path: Path) -> None:
    whole = empty_cache.read_bytes()
    damaged = {
        "nonsense": b"nonsense" * 4096,
        "cut": whole[: len(whole) // 2],
        "blank": whole[:100] + bytes(len(whole) - 100),
    }
    for name, content in damaged.items():
        path = tmp_path / f"{name}.sqlite"
        path.write_bytes(content)
        sandbox = Sandbox(f"{path.as_uri()}?mode=ro&immutable=1")
        with pytest.raises(StoreError, match="cannot be read"):
            sandbox.run("SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM workflows)")
        sandbox.close()


def test_a_file_that_is_only_read_is_looked_into_as_well(cache: Cache) -> None:
    path = cache.path
    cache.close()
    path.chmod(0o400)
    sealed = open_cache(path, writable=False)
    sandbox = Sandbox(sealed.read_uri)
    assert sandbox.run("SELECT count(*) FROM workflows").rows == [[2]]
    sandbox.close()
    sealed.close()


def test_a_file_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    sandbox = Sandbox(f"{(tmp_path / 'none.sqlite').as_uri()}?mode=ro")
    with pytest.raises(StoreError, match="unable to open"):
        sandbox.run("SELECT 1")
    sandbox.close()


def test_a_statement_for_which_no_process_can_be_started_is_answered(sandbox: Sandbox) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(SqlStoppedError, match=r"No process could be started.*open files"):
            sandbox.run("SELECT 1")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert sandbox.run("SELECT 1").rows == [[1]]
