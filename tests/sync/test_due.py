"""Whose steps are due: decided without a clock, a network or a database."""

from typing import Any

import pytest

from dbos_mcp.store.events import WorkflowObserved, WorkflowState
from dbos_mcp.sync.diff import NO_TEXTS, KnownWorkflow, Texts
from dbos_mcp.sync.due import (
    GRACE_MS,
    LONG_AGO_MS,
    LONGEST_PAUSE_MS,
    READINGS_PER_CYCLE,
    REREAD_MS,
    SHARE,
    Priority,
    Reading,
    State,
    allot,
    priority,
    read_again_at,
)

NOW = 1_790_000_000_000


def seen(status: str, updated_at: int = NOW, **fields: Any) -> WorkflowState:
    return WorkflowObserved.model_validate(
        {
            "application_name": "shop",
            "workflow_id": "w",
            "status": status,
            "created_at": NOW,
            "updated_at": updated_at,
            **fields,
        }
    )


def known(status: str, updated_at: int = NOW, **fields: Any) -> KnownWorkflow:
    return KnownWorkflow(b"", status, updated_at, **{"deleted": False, **fields})


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (None, "ERROR", Priority.FAILED),
        (None, "MAX_RECOVERY_ATTEMPTS_EXCEEDED", Priority.FAILED),
        (None, "PENDING", Priority.IN_FLIGHT),
        (None, "ENQUEUED", None),
        (None, "DELAYED", None),
        (None, "SUCCESS", None),
        (None, "CANCELLED", None),
        ("PENDING", "ERROR", Priority.FAILED),
        ("PENDING", "SUCCESS", Priority.COMPLETED),
        ("ENQUEUED", "CANCELLED", Priority.COMPLETED),
        ("PENDING", "SOMETHING_NEW", Priority.COMPLETED),
        ("ENQUEUED", "PENDING", Priority.IN_FLIGHT),
        ("DELAYED", "ENQUEUED", None),
        ("PENDING", "ENQUEUED", Priority.IN_FLIGHT),  # recovered
        ("ERROR", "ENQUEUED", Priority.IN_FLIGHT),  # resumed, or rewound
        ("PENDING", "PENDING", None),
    ],
)
def test_what_was_recorded_says_how_soon_its_steps_are_due(
    before: str | None, now: str, expected: Priority | None
) -> None:
    held = None if before is None else known(before)
    assert priority(held, seen(now), walked_to=None, now=NOW) is expected


def test_a_workflow_that_ended_again_is_due_again() -> None:
    again = seen("ERROR", NOW + 1)
    assert priority(known("ERROR"), again, walked_to=None, now=NOW) is Priority.FAILED


def test_a_workflow_that_is_back_is_as_if_it_were_new() -> None:
    gone = known("ERROR", deleted=True)
    assert priority(gone, seen("ERROR"), walked_to=None, now=NOW) is Priority.FAILED


@pytest.mark.parametrize(
    ("loaded", "expected"), [(NO_TEXTS, Priority.BACKGROUND), (frozenset({"output"}), None)]
)
def test_outputs_that_are_kept_from_now_on_make_the_steps_due_once(
    loaded: Texts, expected: Priority | None
) -> None:
    wider = seen("SUCCESS", output_loaded=True)
    assert priority(known("SUCCESS", loaded=loaded), wider, walked_to=0, now=NOW) is expected


def test_a_success_that_the_walk_has_passed_is_queued() -> None:
    def of(walked_to: int, now: int = NOW) -> Priority | None:
        return priority(None, seen("SUCCESS"), walked_to=walked_to, now=now)

    assert of(NOW + 1) is None  # the walk meets it
    assert of(NOW) is Priority.COMPLETED
    assert of(NOW, now=NOW + LONG_AGO_MS + 1) is Priority.BACKGROUND


def running(before: Reading | None, now: int, *, changed: bool = False) -> int | None:
    return read_again_at(State(1, "PENDING", NOW, None), before, changed=changed, now=now)


def test_the_pause_of_a_running_workflow_doubles_until_a_change_is_seen() -> None:
    now, reading, pauses = NOW, None, []
    for _ in range(8):
        next_at = running(reading, now, changed=reading is None)
        assert next_at is not None
        pauses.append(next_at - now)
        reading, now = Reading(now, next_at), next_at
    assert pauses[:3] == [REREAD_MS, 2 * REREAD_MS, 4 * REREAD_MS]
    assert pauses[-2:] == [LONGEST_PAUSE_MS, LONGEST_PAUSE_MS]
    assert running(reading, now, changed=True) == now + REREAD_MS


def test_who_asks_in_between_does_not_move_the_next_reading() -> None:
    assert running(Reading(NOW, NOW + 100_000), NOW + 5_000) == NOW + 100_000


def test_what_waits_is_not_read_again() -> None:
    assert read_again_at(State(1, "ENQUEUED", NOW, None), None, changed=True, now=NOW) is None


def ended(before: Reading | None, now: int, **fields: Any) -> int | None:
    state = State(1, "SUCCESS", **{"updated_at": NOW, "completed_at": NOW, **fields})
    return read_again_at(state, before, changed=True, now=now)


def test_what_has_ended_is_read_once_more_after_the_grace_period() -> None:
    grace = NOW + GRACE_MS
    assert ended(None, NOW) == grace
    assert ended(Reading(NOW, grace), NOW + 10) == grace  # somebody asked
    assert ended(Reading(NOW, grace), grace) is None
    assert ended(Reading(NOW, None), grace + 1) is None


def test_what_ended_long_ago_is_read_once() -> None:
    late = NOW + LONG_AGO_MS + 1
    assert ended(None, late) is None
    assert ended(None, late, completed_at=None) is None
    assert ended(None, late, updated_at=late) is None  # attributes were set
    assert ended(None, late, completed_at=late - 1) == late + GRACE_MS


@pytest.mark.parametrize("status", ["PENDING", "SUCCESS"])
def test_a_clock_that_was_set_back_postpones_nothing_for_long(status: str) -> None:
    before = Reading(NOW, NOW + GRACE_MS)
    now = NOW - 30 * 3_600_000
    next_at = read_again_at(State(1, status, NOW, NOW), before, changed=False, now=now)
    assert next_at is None or next_at <= now + LONGEST_PAUSE_MS


def test_all_readings_may_be_of_one_class_but_not_of_those_that_come_back_for_ever() -> None:
    many = 1000
    assert allot({Priority.FAILED: many})[Priority.FAILED] == READINGS_PER_CYCLE
    assert allot({Priority.COMPLETED: many})[Priority.COMPLETED] == READINGS_PER_CYCLE
    assert allot({Priority.IN_FLIGHT: many})[Priority.IN_FLIGHT] == 20
    assert allot({Priority.BACKGROUND: many})[Priority.BACKGROUND] == 10
    assert sum(allot({}).values()) == 0


def test_no_class_starves_and_what_is_left_goes_by_priority() -> None:
    everything = allot(dict.fromkeys(Priority, 1000))
    assert everything == {
        Priority.FAILED: READINGS_PER_CYCLE - 4 * SHARE,
        Priority.ASKED: SHARE,
        Priority.COMPLETED: SHARE,
        Priority.IN_FLIGHT: SHARE,
        Priority.BACKGROUND: SHARE,
    }
    some = allot({Priority.FAILED: 2, Priority.COMPLETED: 1000, Priority.BACKGROUND: 1})
    assert some[Priority.COMPLETED] == READINGS_PER_CYCLE - 3
    assert (some[Priority.FAILED], some[Priority.BACKGROUND]) == (2, 1)


@pytest.mark.parametrize("applications", [2, 4, 7, 50])
def test_many_applications_share_a_cycle_and_each_reads_something(applications: int) -> None:
    allotted = allot(dict.fromkeys(Priority, 1000), applications)
    assert min(allotted.values()) >= 1
    most = READINGS_PER_CYCLE // applications
    assert sum(allotted.values()) == max(len(Priority), most)
