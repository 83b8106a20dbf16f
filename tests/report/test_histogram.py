"""Counts over time."""

from hypothesis import given
from hypothesis import strategies as st

from dbos_mcp.postmortem.failures import Window
from dbos_mcp.report.histogram import MOST_PARTS, histogram

MOMENTS = st.integers(0, 4_000_000_000_000)


@given(st.tuples(MOMENTS, MOMENTS), st.lists(MOMENTS, max_size=50))
def test_everything_is_counted_once_in_a_few_parts_of_the_window(
    ends: tuple[int, int], times: list[int]
) -> None:
    window = Window(min(ends), max(ends))
    found = histogram(times, window)
    assert sum(found.counts) == len(times)
    assert 1 <= len(found.counts) <= MOST_PARTS + 1
    assert found.since <= window.since <= window.until < found.until


def test_parts_begin_at_round_times() -> None:
    day = 86_400_000
    found = histogram([day, day + 1, 2 * day - 1], Window(day + 600_000, 2 * day + 600_000))
    assert found.length == 1_800_000
    assert found.since == day
    assert found.counts[:2] == [2, 0]
    assert found.counts[-2:] == [1, 0]
    assert found.start(47) == 2 * day - 1_800_000
