"""A process that is killed at any moment loses nothing that it said was stored; `just kills` does
it a thousand times."""

import os

import pytest

from benchmarks.reliability.kills import CONTROLS, OPERATIONS, kill

KILLS = {"writing": 4, "syncing, 3 processes": 2}
KILLS_OF_ANY_OTHER = 1
KILLS_OF_A_CONTROL = 40

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]


# In one test each: the process that all are forked from takes seconds to start.


def test_a_killed_process_loses_doubles_and_breaks_nothing() -> None:
    for operation in OPERATIONS:
        kills = KILLS.get(operation.name, KILLS_OF_ANY_OTHER)
        tally = kill(operation, kills)
        assert tally.found == []
        assert tally.kills >= kills


def test_kills_find_what_is_stored_apart_from_its_events() -> None:
    assert [
        control.name for control in CONTROLS if not kill(control, KILLS_OF_A_CONTROL).found
    ] == []
