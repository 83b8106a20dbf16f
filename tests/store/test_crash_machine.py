"""Log and read models hold whatever is seen, in whatever order; `just planted-bugs` takes a hundred
thousand steps."""

from collections.abc import Callable

import pytest

from benchmarks.reliability.planted_bugs import (
    LONGEST_SECONDS,
    Planted,
    transaction_is_split,
    watermark_is_early,
    wrong_within,
)

STEPS = 400


def test_whatever_is_seen_twice_late_or_not_to_the_end_the_mirror_is_right() -> None:
    assert wrong_within(steps=STEPS) is None


@pytest.mark.parametrize("planted", [transaction_is_split, watermark_is_early])
def test_a_planted_bug_is_found(planted: Callable[[], Planted]) -> None:
    with planted():
        assert wrong_within(seconds=LONGEST_SECONDS) is not None
