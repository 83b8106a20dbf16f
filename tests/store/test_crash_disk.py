"""A disk that loses what was not synced, or fails at any operation; `just power-cuts` and
`just file-faults` do much more of it."""

import sys

import pytest

from benchmarks.reliability import power_cuts
from benchmarks.reliability.disk import NoDiskError, watched
from benchmarks.reliability.file_faults import FAULTS, WORKS, fail_everywhere

CUTS = 100
CUTS_OF_A_CONTROL = 100
COMMITS = 15


@pytest.fixture(autouse=True, scope="module")
def disk() -> None:
    if sys.platform == "win32":
        pytest.skip("needs a POSIX disk")
    try:
        with watched(lambda _operation: None):
            pass
    except NoDiskError as error:
        pytest.skip(str(error))


def test_a_power_cut_damages_nothing_and_loses_nothing_acknowledged() -> None:
    tally = power_cuts.run(CUTS, commits=COMMITS)
    assert (tally.cuts, tally.examples) == (CUTS, [])


def test_power_cuts_find_a_cache_that_syncs_too_little() -> None:
    sloppy = power_cuts.run(CUTS_OF_A_CONTROL, synchronous="NORMAL", commits=COMMITS)
    careless = power_cuts.run(CUTS_OF_A_CONTROL, synchronous="OFF", commits=COMMITS)
    assert sloppy.lost > 0
    assert careless.damaged > 0


@pytest.mark.parametrize(
    ("work", "fault", "lasts", "every"),
    [
        ("writing", "ENOSPC", True, 31),
        ("writing", "EIO", False, 29),
        ("folding back", "EIO", False, 11),
        ("closing and opening", "ENOSPC", True, 67),
        ("making a new file", "ENOSPC", False, 97),
    ],
)
def test_whatever_operation_fails_nothing_is_lost_and_writing_goes_on(
    work: str, fault: str, lasts: bool, every: int
) -> None:
    tally = fail_everywhere(WORKS[work], FAULTS[fault], lasts=lasts, every=every)
    assert tally.found == []
    assert tally.refused > 0
