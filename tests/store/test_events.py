"""Every kind of event comes out of the log as it went in, whatever upstream's data holds."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbos_mcp.domain import storable
from dbos_mcp.errors import UnknownEventError
from dbos_mcp.store import event_log, projector
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.events import KINDS, Event, StepsObserved, StepState, from_log
from dbos_mcp.store.migrate import open_cache
from tests.store.factories import BORN, SHOP, changed, issued, observed
from tests.store.strategies import ANY_JSON, any_event, any_of

HOSTILE = (
    "'; DROP TABLE event; -- \"\0\r\n\u2028\u202e\x1b[31m\x9b é 書 👩‍👩‍👧 \U000e0041 {{x}} <b>"
)
LONE = "half \ud83d of an emoji \udc69"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cache]:
    """One log for all the examples of this module."""
    cache = open_cache(tmp_path_factory.mktemp("log") / "cache.sqlite")
    yield cache
    cache.close()


def through_the_log(cache: Cache, event: Event) -> event_log.Recorded:
    with cache.write() as connection:
        (recorded,) = event_log.append(connection, [event], recorded_at=7)
    with cache.read() as connection:
        ((read,),) = event_log.read(connection, after=recorded.position - 1)
    assert read == recorded
    return read


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_each_kind_round_trips_through_the_log(log: Cache, kind: type[Event]) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(any_event(kind))
    def check(event: Event) -> None:
        read = through_the_log(log, event)
        assert read.event == event
        assert type(read.event) is kind
        assert read.event.data() == event.data()
        assert json.loads(event.data()).keys().isdisjoint(Event.model_fields)

    check()


def test_defaults_are_left_out_of_the_data() -> None:
    event = observed(priority=0, was_forked_from=False, queue_name=None)
    assert json.loads(event.data()) == {
        "status": "PENDING",
        "created_at": BORN,
        "updated_at": BORN,
    }
    steps = StepsObserved(
        **SHOP, workflow_id="w", steps=(StepState(step_id=0, step_name="pay", error=None),)
    )
    assert steps.data() == '{"steps":[{"step_id":0,"step_name":"pay"}]}'


def test_hostile_text_survives(log: Cache) -> None:
    event = observed(HOSTILE, status=HOSTILE, workflow_name=HOSTILE, error=HOSTILE)
    read = through_the_log(log, event)
    assert read.event == event
    assert read.event.workflow_id == HOSTILE


def test_half_a_character_becomes_a_replacement_character_everywhere(cache: Cache) -> None:
    event = observed(LONE, workflow_name=LONE, error=LONE, payloads_loaded=True)
    with cache.write() as connection:
        projector.record(connection, [event], recorded_at=1)
    whole = "half \ufffd of an emoji \ufffd"
    assert event == observed(whole, workflow_name=whole, error=whole, payloads_loaded=True)
    assert event.content_hash() == observed(whole, workflow_name=whole).content_hash()
    with cache.read() as connection:
        row = connection.exec_driver_sql("SELECT workflow_id, workflow_name, error FROM workflow")
        assert row.one() == (whole, whole, whole)


def test_numbers_that_sqlite_cannot_hold_become_the_nearest_that_it_can(log: Cache) -> None:
    event = observed(priority=2**63, timeout_ms=10**5000, deadline=-(2**64), created_at=2**63 - 1)
    assert (event.priority, event.timeout_ms, event.deadline) == (2**63 - 1, 2**63 - 1, -(2**63))
    through_the_log(log, event)


def test_a_step_is_made_storable_like_an_event() -> None:
    step = StepState(step_id=2**70, step_name=LONE)
    assert step == StepState(step_id=2**63 - 1, step_name="half \ufffd of an emoji \ufffd")


def test_the_arguments_of_a_command_are_made_storable(log: Cache) -> None:
    event = issued(arguments={LONE: [float("nan"), {"deep": 2**64}, True, None, 1.5, "ok"]})
    assert event.arguments == {
        "half \ufffd of an emoji \ufffd": [None, {"deep": 2**63 - 1}, True, None, 1.5, "ok"]
    }
    through_the_log(log, event)


@given(ANY_JSON)
def test_what_is_storable_stays_as_it_is(value: object) -> None:
    stored = storable(value)
    assert storable(stored) == stored
    json.dumps(stored, allow_nan=False, ensure_ascii=False).encode()


@given(any_of(KINDS["WorkflowChanged"]), st.text())
def test_the_content_hash_leaves_payloads_out(event: Any, text: str) -> None:
    payloads = {"input": text, "output": text, "error": text, "payloads_loaded": True}
    assert event.model_copy(update=payloads).content_hash() == event.content_hash()


def test_the_content_hash_tells_any_other_field() -> None:
    plain = observed().content_hash()
    assert changed().content_hash() == plain
    differences: list[dict[str, Any]] = [
        {"status": "ERROR"},
        {"updated_at": BORN + 1},
        {"priority": 1},
        {"was_forked_from": True},
        {"occurred_at": BORN},
    ]
    for difference in differences:
        assert observed(**difference).content_hash() != plain


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("WorkflowTeleported", "{}"),
        ("WorkflowObserved", "{}"),
        ("WorkflowObserved", "[1]"),
        ("WorkflowObserved", "null"),
        ("WorkflowObserved", "{"),
        ("WorkflowObserved", ""),
        ("WorkflowObserved", '{"status": 1, "created_at": 1, "updated_at": 1}'),
        ("WorkflowObserved", '{"status": "x", "created_at": "soon", "updated_at": 1}'),
        ("WorkflowObserved", '{"created_at": ' + "1" * 5000 + "}"),
        ("WorkflowObserved", "[" * 100_000),
        ("CommandIssued", '{"command_id": "c", "command": "obliterate"}'),
    ],
    ids=lambda value: value[:30],
)
def test_an_event_that_this_version_cannot_read_is_told_in_a_sentence(kind: str, data: str) -> None:
    with pytest.raises(UnknownEventError, match=f"The log holds a {kind} event") as error:
        from_log(kind, "shop", "order-1", None, data)
    assert "dbos-mcp@latest" in error.value.hint


def test_a_field_of_a_newer_version_is_passed_over() -> None:
    data = '{"status":"PENDING","created_at":1,"updated_at":1,"mood":"good"}'
    assert from_log("WorkflowObserved", "shop", "w", 1, data).data() == data.replace(
        ',"mood":"good"', ""
    )


def test_an_unknown_event_in_the_log_stops_a_rebuild_and_changes_nothing(
    cache: Cache, cache_path: Path
) -> None:
    with cache.write() as connection:
        projector.record(connection, [observed()], recorded_at=1)
    with sqlite3.connect(cache_path) as other:
        other.execute(
            "INSERT INTO event (position, application_name, kind, recorded_at, data)"
            " VALUES (2, 'shop', 'WorkflowTeleported', 1, '{}')"
        )
    other.close()
    with pytest.raises(UnknownEventError), cache.write() as connection:
        projector.rebuild(connection)
    with cache.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM workflow").scalar() == 1
