"""How often something happened over time: counts in equal parts of round length."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dbos_mcp.postmortem.failures import Window
from dbos_mcp.report.axis import ROUND_LENGTHS

MOST_PARTS = 60
_LENGTHS = [each for each in ROUND_LENGTHS if each >= 100]


@dataclass(frozen=True)
class Histogram:
    since: int
    length: int
    """Of a part, in milliseconds."""
    counts: Sequence[int]

    @property
    def until(self) -> int:
        return self.since + self.length * len(self.counts)

    @property
    def most(self) -> int:
        return max(self.counts, default=0)

    def start(self, place: int) -> int:
        return self.since + place * self.length


def histogram(times: Iterable[int], window: Window) -> Histogram:
    """What lies outside of the window is of its first or last part: a failure may have begun before
    the one that was seen in the window."""
    span = max(1, window.until - window.since)
    length = next(
        (each for each in _LENGTHS if span / each < MOST_PARTS), -(-span // (MOST_PARTS - 1))
    )
    since = window.since // length * length
    parts = (window.until - since) // length + 1
    counted = Counter(min(max(0, (time - since) // length), parts - 1) for time in times)
    return Histogram(since, length, [counted[part] for part in range(parts)])
