"""The public schema: in every cache, all of it told, and found by the indexes."""

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from dbos_mcp.domain import FAILED, TERMINAL, format_time
from dbos_mcp.inspection.views import VIEWS, View
from dbos_mcp.store import projector
from dbos_mcp.store.event_log import EventRow
from dbos_mcp.store.migrate import open_cache
from dbos_mcp.store.projections.commands import CommandRow
from dbos_mcp.store.projections.executors import ExecutorRow
from dbos_mcp.store.projections.workflows import WorkflowRow
from tests.store.factories import BORN, SHOP, changed, deleted, observed, steps

EACH = pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)

GOLD = {"queue_name": "orders", "attributes": '{"tier": "gold"}'}


@pytest.fixture
def database(cache_path: Path) -> Iterator[sqlite3.Connection]:
    """A cache of a few workflows, as any other program opens it."""
    cache = open_cache(cache_path)
    ended = {"dequeued_at": BORN + 250, "completed_at": BORN + 1_250, "updated_at": BORN + 1_250}
    with cache.write() as connection:
        projector.record(
            connection,
            [
                observed("order-1", **GOLD),
                changed("order-1", status="ERROR", error="lost", **GOLD, **ended),
                steps("order-1", "reserve", "charge"),
                observed("order-2"),
                deleted("order-2"),
                observed("order-3", schedule_name="nightly", created_at=2**62),
            ],
            recorded_at=BORN + 2_000,
        )
    cache.close()
    with closing(sqlite3.connect(f"{cache_path.as_uri()}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        yield database


def test_the_migrations_make_the_views_that_are_told(database: sqlite3.Connection) -> None:
    rows = database.execute("SELECT sql FROM sqlite_schema WHERE type = 'view'").fetchall()
    assert sorted(row["sql"] for row in rows) == sorted(view.sql for view in VIEWS)


@EACH
def test_each_column_that_is_there_is_told(view: View, database: sqlite3.Connection) -> None:
    held = database.execute(f"PRAGMA table_info({view.name})")
    assert [row["name"] for row in held] == [column.name for column in view.columns]


def test_a_view_only_gains_columns() -> None:
    """People's statements are written for them. A new name belongs into the file; none leaves."""
    promised = json.loads((Path(__file__).parent / "public_columns.json").read_text())
    held = {view.name: {column.name for column in view.columns} for view in VIEWS}
    lost = {name: {*columns} - held.get(name, set()) for name, columns in promised.items()}
    assert not any(lost.values()), lost
    assert {name: {*columns} for name, columns in promised.items()} == held


@EACH
def test_each_view_and_column_has_a_meaning_of_one_line(view: View) -> None:
    for text in (view.meaning, *(column.meaning for column in view.columns)):
        assert 0 < len(text) <= 100
        assert "\n" not in text
        assert not text.endswith(".")


@EACH
def test_each_time_is_text_beside_its_integer(view: View) -> None:
    names = [column.name for column in view.columns]
    assert len(set(names)) == len(names)
    for name, after in pairwise(names):
        if name.endswith("_at") or name in ("deadline", "delay_until"):
            assert after == f"{name}_ms"


@pytest.mark.parametrize(
    ("view", "row", "hidden"),
    [
        ("workflows", WorkflowRow,
         {"id", "content_hash", "payloads_loaded", "input_loaded", "output_loaded"}),
        ("events", EventRow, {"checksum"}),
        ("executors", ExecutorRow, {"id"}),
        ("commands", CommandRow, {"id"}),
    ],
)  # fmt: skip
def test_a_column_is_public_unless_it_is_named_here(
    view: str, row: type[WorkflowRow], hidden: set[str]
) -> None:
    (found,) = (each for each in VIEWS if each.name == view)
    assert {column.name for column in found.columns} >= row.model_fields.keys() - hidden
    assert hidden <= row.model_fields.keys()


def test_times_durations_and_flags_are_computed(database: sqlite3.Connection) -> None:
    failed, gone, odd = database.execute("SELECT * FROM workflows ORDER BY workflow_id")
    assert failed["created_at"] == format_time(BORN).replace("Z", ".000Z")
    assert failed["completed_at"] == format_time(BORN + 1_250)
    assert failed["completed_at_ms"] == BORN + 1_250
    assert (failed["duration_ms"], failed["queue_wait_ms"]) == (1_000, 250)
    assert (failed["is_terminal"], failed["is_failed"], failed["is_deleted"]) == (1, 1, 0)
    assert json.loads(failed["attributes"]) == {"tier": "gold"}
    assert (gone["is_terminal"], gone["is_failed"], gone["is_deleted"]) == (0, 0, 1)
    assert (odd["created_at"], odd["created_at_ms"]) == (None, 2**62)


def test_views_of_steps_queues_schedules_and_failures(database: sqlite3.Connection) -> None:
    listed = database.execute("SELECT workflow_id, step_id, step_name FROM steps ORDER BY step_id")
    assert [tuple(row) for row in listed] == [
        ("order-1", 0, "reserve"),
        ("order-1", 1, "charge"),
    ]
    (queue,) = database.execute("SELECT * FROM queues")
    assert (queue["queue_name"], queue["workflows"], queue["failed"]) == ("orders", 1, 1)
    (schedule,) = database.execute("SELECT * FROM schedules")
    assert (schedule["schedule_name"], schedule["in_flight"]) == ("nightly", 1)
    (failure,) = database.execute("SELECT * FROM failures")
    assert (failure["workflow_id"], failure["error"]) == ("order-1", "lost")
    assert failure["failed_step_id"] is None
    (event,) = database.execute("SELECT * FROM events WHERE position = 2")
    assert (event["kind"], json.loads(event["data"])["status"]) == ("WorkflowChanged", "ERROR")


@pytest.mark.parametrize("status", [*TERMINAL, "PENDING", "NEW_STATUS"])
def test_statuses_are_judged_as_everywhere(cache_path: Path, status: str) -> None:
    cache = open_cache(cache_path)
    with cache.write() as connection:
        projector.record(connection, [observed("order-9", status=status)], recorded_at=BORN)
        flags = connection.exec_driver_sql("SELECT is_terminal, is_failed FROM workflows").one()
    cache.close()
    assert tuple(flags) == (status in TERMINAL, status in FAILED)


@EACH
def test_what_is_said_to_be_indexed_is(view: View, database: sqlite3.Connection) -> None:
    has_application = "application_name" in {column.name for column in view.columns}
    for column in view.columns:
        if not column.is_indexed:
            continue
        conditions = [f"{column.name} = 1"]
        if column.is_integer_of_time:
            conditions.append(f"{column.name} > 1 AND {column.name} < 9")
        for condition in conditions:
            if has_application and column.name != "application_name":
                condition += " AND application_name = 'shop'"
            lines = [
                row["detail"]
                for row in database.execute(
                    f"EXPLAIN QUERY PLAN SELECT * FROM {view.name} WHERE {condition}"
                )
            ]
            found = "rowid" if column.name == "position" else column.name.removesuffix("_ms")
            assert re.search(rf"^SEARCH .*\b{found}[=>]", "\n".join(lines), re.MULTILINE), lines
            assert not any(line.startswith("SCAN") for line in lines), (condition, lines)


def test_an_application_is_read_in_the_order_in_which_it_is_stored(
    database: sqlite3.Connection,
) -> None:
    """Where no index leaves fewer rows: of those that are as good the one that jumps least."""
    for table in ("workflows", "steps"):
        first = database.execute(
            f"EXPLAIN QUERY PLAN SELECT * FROM {table} WHERE application_name = 'shop'"
        ).fetchone()["detail"]
        assert "INDEX ix_workflow_completed_at" in first


def test_a_plan_speaks_of_views(database: sqlite3.Connection) -> None:
    for view in VIEWS:
        plan = database.execute(f"EXPLAIN QUERY PLAN SELECT * FROM {view.name}").fetchall()
        for row in plan:
            words = row["detail"].split()
            if words[0] in ("SCAN", "SEARCH"):
                assert words[1] in {view.name for view in VIEWS}


def test_views_are_not_lost_by_a_rebuild(cache_path: Path) -> None:
    cache = open_cache(cache_path)
    with cache.write() as connection:
        projector.record(connection, [observed()], recorded_at=BORN)
        projector.rebuild(connection)
        names = connection.exec_driver_sql("SELECT name FROM sqlite_schema WHERE type = 'view'")
        assert {*names.scalars()} == {view.name for view in VIEWS}
        query = "SELECT application_name, workflow_id FROM workflows"
        assert connection.exec_driver_sql(query).one() == (SHOP["application_name"], "order-1")
    cache.close()
