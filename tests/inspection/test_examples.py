"""The worked examples: each answers its question, also where the mirror is odd."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from dbos_mcp.domain import format_time
from dbos_mcp.inspection.examples import EXAMPLES
from dbos_mcp.store import projector
from dbos_mcp.store.migrate import open_cache
from tests.store.factories import BORN, SHOP, changed, deleted, observed

DAY = 24 * 3_600_000
LATER = format_time(BORN + 600_000)
STARTED = {"status": "PENDING", "executor_id": "e1"}
QUEUED = {"status": "ENQUEUED", "queue_name": "mail"}
ENDED = {"status": "SUCCESS", "executor_id": "e1", "completed_at": BORN + 1}

Rows = list[tuple[Any, ...]]


def answered(folder: Path, name: str, *days: list[Any], **parameters: str) -> Rows:
    """What an example finds where that was seen, day after day."""
    cache = open_cache(folder / "cache.sqlite")
    with cache.write() as connection:
        for day, facts in enumerate(days):
            projector.record(connection, facts, recorded_at=BORN + day * DAY)
    cache.close()
    (example,) = (each for each in EXAMPLES if each.name == name)
    given = {**SHOP, "since": "2000-01-01", **parameters}
    with closing(sqlite3.connect(folder / "cache.sqlite")) as database:
        return database.execute(example.sql, given).fetchall()


def test_in_flight_is_what_had_begun_and_neither_ended_nor_was_deleted(tmp_path: Path) -> None:
    an_hour = BORN + 3_600_000
    found = answered(
        tmp_path,
        "in_flight_at",
        [
            observed("runs"),
            observed("waits", status="DELAYED"),
            observed("ended before", **ENDED),
            observed("ended later", status="ERROR", completed_at=an_hour),
            # Of an old SDK, which does not say when they ended.
            observed("last changed before", status="SUCCESS", updated_at=BORN + 1),
            observed("last changed later", status="SUCCESS", updated_at=an_hour),
            observed("began later", created_at=an_hour),
            observed("deleted before"),
            deleted("deleted before"),
        ],
        [observed("deleted later"), deleted("deleted later")],
        at=LATER,
    )
    assert {row[0] for row in found} == {
        *("runs", "waits", "ended later", "last changed later", "deleted later")
    }


def test_started_again_is_what_was_seen_to_run_or_wait_anew(tmp_path: Path) -> None:
    def seen(workflow_id: str, *states: dict[str, Any]) -> list[Any]:
        first, *others = states
        return [observed(workflow_id, **first), *(changed(workflow_id, **s) for s in others)]

    found = answered(
        tmp_path,
        "retries",
        [
            *seen("usual", {"status": "DELAYED"}, QUEUED, STARTED, ENDED),
            *seen("changed", STARTED, {**STARTED, "priority": 3}, ENDED),
            *seen("recovered", STARTED, {**STARTED, "executor_id": "e2"}),
            *seen("by a queue", STARTED, {**QUEUED, "executor_id": "e1"}, STARTED),
            *seen("resumed", {"status": "CANCELLED"}, QUEUED, STARTED, ENDED, QUEUED),
        ],
    )
    assert {row[:3] for row in found} == {
        *(("recovered", 1, 2), ("by a queue", 1, 1), ("resumed", 2, 1))
    }
    assert found[0][0] == "resumed"


def test_waits_and_shares_of_failures_are_of_what_was_created_since(tmp_path: Path) -> None:
    hour = format_time(BORN)[:13]
    cache_of: list[Any] = [
        observed("a", **ENDED, queue_name="mail", dequeued_at=BORN + 100, application_version="1"),
        observed("b", status="ERROR", queue_name="mail", dequeued_at=BORN + 300,
                 application_version="1"),
        observed("c", **QUEUED),
        observed("long ago", status="ERROR", queue_name="mail", created_at=0),
    ]  # fmt: skip
    since = format_time(BORN)
    waits = answered(tmp_path, "queue_waits", cache_of, since=since)
    assert waits == [(hour, "mail", 3, 200.0, 300, 1)]
    assert answered(tmp_path, "failures_by_version", since=since) == [("1", None, 2, 1, 50.0)]
