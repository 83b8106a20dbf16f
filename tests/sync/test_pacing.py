"""How soon each application is looked at again."""

from collections.abc import Sequence

import pytest

from dbos_mcp.domain import CONDUCTOR
from dbos_mcp.store.sync_state import SyncStateRow
from dbos_mcp.sync.pacing import (
    IDLE_AFTER_MS,
    Attention,
    Outcome,
    Pace,
    next_look,
    pace_after,
    pace_of_another,
)

APP = "shop"
START = 1_790_000_000_000
MINUTE = 60_000
QUIET, CHANGED = Outcome(), Outcome(changed=True)
FAILED, LOADING = Outcome(failed=True), Outcome(loading=True)


def waits(
    outcomes: Sequence[Outcome], attention: Attention, *, begin: int = START
) -> list[int | None]:
    """The seconds after each of these looks, each of which is made when it is due."""
    pace, now, seconds = None, begin, []
    for outcome in outcomes:
        pace = pace_after(APP, pace, outcome, attention, now)
        turn = next_look(APP, pace, attention, now)
        seconds.append(None if turn is None else (turn - now) // 1000)
        now = now if turn is None else turn
    return seconds


def asked(minutes_ago: float, name: str = APP) -> Attention:
    return Attention({name: START - round(minutes_ago * MINUTE)})


@pytest.mark.parametrize(
    ("outcomes", "minutes_ago", "seconds"),
    [
        ([QUIET] * 6, 3, [5, 10, 20, 40, 60, 60]),
        ([QUIET] * 4, 0, [5, 5, 5, 5]),
        ([QUIET, QUIET, CHANGED, QUIET], 3, [5, 10, 5, 10]),
        ([FAILED] * 6, 3, [5, 10, 20, 40, 60, 60]),
        ([FAILED] * 6, 0, [5, 10, 20, 40, 60, 60]),
        ([FAILED, FAILED, QUIET, QUIET], 0, [5, 10, 5, 5]),
        ([LOADING, LOADING, QUIET, QUIET], 3, [5, 5, 10, 20]),
        ([LOADING, FAILED, FAILED], 3, [5, 10, 20]),
    ],
    ids=["unasked", "asked", "changed", "failing", "failing and asked", "back", "loading",
         "loading fails"],
)  # fmt: skip
def test_the_interval_grows_while_nothing_happens(
    outcomes: list[Outcome], minutes_ago: float, seconds: list[int]
) -> None:
    assert waits(outcomes, asked(minutes_ago)) == seconds


def test_the_interval_begins_to_grow_when_the_last_question_is_two_minutes_old() -> None:
    looks = waits([QUIET] * 30, asked(0))
    assert looks[:28] == [5] * 24 + [10, 20, 40, 60]


def test_a_question_about_all_is_one_about_each() -> None:
    assert waits([QUIET] * 3, asked(0, CONDUCTOR)) == [5, 5, 5]


def test_what_others_ask_about_does_not_hurry_an_application() -> None:
    attention = Attention({APP: START - 3 * MINUTE, "bank": START})
    assert waits([QUIET] * 3, attention) == [5, 10, 20]


def test_a_forgotten_application_is_polled_every_five_minutes_whatever_changes_in_it() -> None:
    attention = Attention({APP: START - 61 * MINUTE, "bank": START})
    assert waits([QUIET, CHANGED, FAILED], attention) == [300, 300, 300]
    assert waits([CHANGED], Attention({"bank": START})) == [300]


@pytest.mark.parametrize("outcome", [QUIET, CHANGED, FAILED])
def test_after_an_hour_without_any_question_nothing_is_looked_at(outcome: Outcome) -> None:
    attention = Attention({APP: START, "bank": START, CONDUCTOR: START})
    pace = pace_after(APP, None, outcome, attention, START)
    last = START + IDLE_AFTER_MS - 1
    assert next_look(APP, pace, attention, last) is not None
    assert next_look(APP, pace, attention, last + 1) is None
    assert next_look("new", None, attention, last + 1) is None
    assert next_look(APP, None, Attention(), START) is None


def test_a_first_load_goes_on_though_nobody_asks() -> None:
    attention = asked(61)
    pace = pace_after(APP, None, LOADING, attention, START)
    assert next_look(APP, pace, attention, START) == START + 5_000


@pytest.mark.parametrize("outcome", [QUIET, FAILED])
def test_the_first_question_after_a_pause_is_followed_at_once(outcome: Outcome) -> None:
    before = asked(30)
    pace = pace_after(APP, Pace(START - MINUTE, MINUTE), outcome, before, START)
    assert next_look(APP, pace, before, START + 1000) == START + MINUTE
    now = START + 1000
    attention = Attention({APP: now})
    assert next_look(APP, pace, attention, now) == now
    after = pace_after(APP, pace, outcome, attention, now)
    assert next_look(APP, after, attention, now) == now + 5_000


def test_an_application_that_was_never_looked_at_is_due() -> None:
    assert next_look(APP, None, asked(0, "bank"), START) == START


def test_a_clock_that_was_set_back_postpones_nothing() -> None:
    pace = Pace(START + 10 * MINUTE)
    assert next_look(APP, pace, asked(-10), START) == START


def test_a_new_leader_goes_on_at_the_pace_of_the_one_before() -> None:
    state = SyncStateRow(application_name=APP, attempted_at=START, next_at=START + 40_000)
    pace = pace_of_another(state)
    assert pace is not None
    assert next_look(APP, pace, asked(3), START + 1) == START + 40_000
    pace = pace_after(APP, pace, QUIET, asked(3), START + 40_000)
    assert next_look(APP, pace, asked(3), START + 40_000) == START + 100_000
    assert pace_of_another(SyncStateRow(application_name=APP)) is None
