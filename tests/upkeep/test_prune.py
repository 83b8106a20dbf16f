"""Pruning forgets how things came to be, and nothing of what they are."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dbos_mcp.store import event_log, log_removals, projector
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.projections import PROJECTIONS
from dbos_mcp.upkeep import prune as pruning
from dbos_mcp.upkeep.check import check
from dbos_mcp.upkeep.prune import give_back, prune
from tests.store.conftest import opened
from tests.store.factories import BORN, changed, observed, steps
from tests.upkeep.conftest import NOW, ORDERS

TABLES = [table for projection in PROJECTIONS for table in projection.tables]


def read_models(cache: Cache) -> dict[str, Any]:
    with cache.read() as connection:
        return {str(t.__tablename__): projector.digest(connection, t) for t in TABLES}


def kinds(cache: Cache, workflow_id: str) -> list[str]:
    with cache.read() as connection:
        events = event_log.read_workflow(connection, "shop", workflow_id)
    return [recorded.event.kind for recorded in events]


def rebuilt(cache: Cache) -> bool:
    with cache.write() as connection:
        return all(table.equal for table in projector.rebuild(connection))


def test_the_last_known_state_takes_the_place_of_what_led_to_it(
    cache: Cache, cache_path: Path
) -> None:
    before = read_models(cache)
    done = prune(cache, NOW, now=NOW)
    assert kinds(cache, "order-2") == ["WorkflowObserved", "StepsObserved"]
    assert kinds(cache, "order-1") == [
        *("WorkflowObserved", "StepsObserved", "CommandIssued", "CommandSettled"),
        "WorkflowDeleted",
    ]
    assert kinds(cache, f"order-{ORDERS - 1}") == ["WorkflowObserved"]  # it is in flight
    assert len(kinds(cache, "order-0")) == 4  # the first that was seen
    assert (done.workflows, done.left) == (ORDERS - 11, 0)
    assert done.events == 2 * (ORDERS - 11) + 2  # and two observations of the executor
    assert read_models(cache) == before
    assert rebuilt(cache)
    assert check(cache_path, now=NOW, deep=True).is_sound
    assert prune(cache, NOW, now=NOW).events == 0


def test_a_dry_run_tells_the_same_and_changes_nothing(cache: Cache) -> None:
    with cache.read() as connection:
        before = event_log.count(connection)
    told = prune(cache, NOW, now=NOW, dry_run=True)
    with cache.read() as connection:
        assert event_log.count(connection) == before
        assert log_removals.load_all(connection) == []
    done = prune(cache, NOW, now=NOW)
    assert (told.events, told.bytes, told.workflows) == (done.events, done.bytes, done.workflows)
    assert done.bytes > 0


def test_what_was_heard_of_since_stays_whole(cache: Cache) -> None:
    with cache.write() as connection:
        again = [changed("order-7", status="SUCCESS", updated_at=BORN + 20)]
        projector.record(connection, again, recorded_at=BORN + 900_000)
    assert prune(cache, BORN + 500, now=NOW).events == 0
    prune(cache, BORN + 900_000, now=NOW)
    assert len(kinds(cache, "order-7")) == 5
    assert len(kinds(cache, "order-8")) == 2
    assert len(kinds(cache, "order-0")) == 4


def test_one_application_is_pruned_by_itself(cache: Cache) -> None:
    with cache.write() as connection:
        elsewhere = {"application_name": "bank", "status": "SUCCESS"}
        events = [observed("order-5", application_name="bank"), changed("order-5", **elsewhere)]
        projector.record(connection, events, recorded_at=BORN + 5_000)
        projector.record(connection, [observed("last")], recorded_at=BORN + 5_001)
    assert prune(cache, NOW, "bank", now=NOW).events == 1
    assert len(kinds(cache, "order-5")) == 4
    with cache.read() as connection:
        assert log_removals.latest(connection, "shop") is None
        assert log_removals.latest(connection, "bank") is not None


def test_the_newest_event_stays_in_its_place(cache: Cache) -> None:
    with cache.write() as connection:
        events = [observed("newest"), changed("newest", status="SUCCESS")]
        recorded = projector.record(connection, events, recorded_at=BORN + 5_000)
    prune(cache, NOW, now=NOW)
    with cache.read() as connection:
        assert event_log.last_position(connection) == recorded[-1].position
        assert projector.stale(connection) == []
    with cache.write() as connection:
        (next_one,) = projector.record(connection, [steps("newest", "a")], recorded_at=NOW)
    assert next_one.position == recorded[-1].position + 1


def test_an_end_in_the_middle_leaves_a_whole_log(
    cache: Cache, cache_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "AT_ONCE", 20)
    before = read_models(cache)

    def stop(events: int) -> None:
        if events > 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune(cache, NOW, now=NOW, progress=stop)
    assert read_models(cache) == before
    assert rebuilt(cache)
    assert check(cache_path, now=NOW, deep=True).is_sound
    assert prune(cache, NOW, now=NOW).events > 0


def test_damaged_events_are_left_alone(cache: Cache, cache_path: Path) -> None:
    with closing(sqlite3.connect(cache_path, isolation_level=None)) as raw:
        raw.execute("DROP TRIGGER event_refuses_update")
        raw.execute(
            "UPDATE event SET data = replace(data, 'ERROR', 'EXTRA')"
            " WHERE workflow_id = 'order-9' AND kind = 'WorkflowChanged'"
        )
        raw.execute(
            "CREATE TRIGGER event_refuses_update BEFORE UPDATE ON event"
            " BEGIN SELECT RAISE(ABORT, 'the event log is append-only'); END"
        )
    assert prune(cache, NOW, now=NOW).left == 1
    assert len(kinds(cache, "order-9")) == 4


@pytest.mark.parametrize("change", ["DELETE FROM event", "UPDATE event SET data = '{}'"])
def test_no_other_program_can_do_the_same(cache: Cache, cache_path: Path, change: str) -> None:
    guards = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name"
    with closing(sqlite3.connect(cache_path, isolation_level=None)) as other:
        before = other.execute(guards).fetchall()
        with cache.write() as connection, event_log.unlocked(connection):
            assert other.execute(guards).fetchall() == before
        prune(cache, NOW, now=NOW)
        assert other.execute(guards).fetchall() == before
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            other.execute(f"{change} WHERE position = 1")


def test_the_free_space_is_given_back_while_others_read(cache: Cache, cache_path: Path) -> None:
    before = read_models(cache)
    prune(cache, NOW, now=NOW)
    cache.close()
    size = cache_path.stat().st_size
    with closing(sqlite3.connect(f"{cache_path.as_uri()}?mode=ro", uri=True)) as reader:
        reader.execute("SELECT count(*) FROM event").fetchone()
        freed = give_back(cache_path, at_least=0)
        assert reader.execute("SELECT count(*) FROM event").fetchone() > (0,)
    assert freed > 10_000
    assert cache_path.stat().st_size == size - freed
    assert cache_path.stat().st_mode & 0o777 == 0o600
    with opened(cache_path) as smaller:
        assert read_models(smaller) == before
    assert check(cache_path, now=NOW, deep=True).is_sound
