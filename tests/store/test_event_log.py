"""The log only grows, in order, without a gap."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dbos_mcp.store import event_log
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.events import Event
from tests.store.factories import changed, deleted, observed


def append(cache: Cache, *events: Event, at: int = 1) -> list[event_log.Recorded]:
    with cache.write() as connection:
        return event_log.append(connection, events, recorded_at=at)


def test_positions_count_from_one_without_a_gap(cache: Cache) -> None:
    first = append(cache, observed("a"), observed("b"))
    with pytest.raises(ZeroDivisionError), cache.write() as connection:
        event_log.append(connection, [observed("lost")], recorded_at=2)
        raise ZeroDivisionError
    second = append(cache, observed("c"), at=3)
    assert [recorded.position for recorded in first + second] == [1, 2, 3]
    with cache.read() as connection:
        assert [*event_log.read(connection)] == [first + second]
        assert event_log.last_position(connection) == 3


def test_an_empty_log_ends_at_zero_and_reads_as_nothing(cache: Cache) -> None:
    assert append(cache) == []
    with cache.read() as connection:
        assert event_log.last_position(connection) == 0
        assert [*event_log.read(connection)] == []


def test_reading_goes_on_behind_a_position_in_batches(cache: Cache) -> None:
    append(cache, *(observed(f"order-{n}") for n in range(7)))
    with cache.read() as connection:
        batches = [
            [recorded.position for recorded in batch]
            for batch in event_log.read(connection, after=1, batch=3)
        ]
    assert batches == [[2, 3, 4], [5, 6, 7]]


def test_a_workflow_is_read_by_itself_oldest_first(cache: Cache) -> None:
    elsewhere = observed("a", application_name="other")
    events = [observed("a"), observed("b"), elsewhere, changed("a", status="ERROR"), deleted("a")]
    append(cache, *events)
    with cache.read() as connection:
        history = event_log.read_workflow(connection, "shop", "a")
    assert [(recorded.position, recorded.event) for recorded in history] == [
        (1, events[0]),
        (4, events[3]),
        (5, events[4]),
    ]


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE event SET data = '{}'",
        "UPDATE event SET position = 9 WHERE position = 2",
        "DELETE FROM event",
        "DELETE FROM event WHERE position = 2",
        "INSERT OR REPLACE INTO event SELECT * FROM event WHERE position = 2",
        "REPLACE INTO event SELECT 1, 'x', workflow_id, kind, 1, 1, data, 0 FROM event",
        "INSERT INTO event SELECT 0, 'x', workflow_id, kind, 1, 1, data, 0 FROM event LIMIT 1",
        "UPDATE OR REPLACE event SET position = 1",
    ],
)
def test_the_log_refuses_every_change_also_from_other_programs(
    cache: Cache, cache_path: Path, tampering: str
) -> None:
    append(cache, observed("a"), observed("b"))
    with closing(sqlite3.connect(cache_path)) as other:
        before = other.execute("SELECT * FROM event").fetchall()
        with pytest.raises(sqlite3.IntegrityError, match="the event log is append-only"):
            other.execute(tampering)
        other.rollback()
        assert other.execute("SELECT * FROM event").fetchall() == before
