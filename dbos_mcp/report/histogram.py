"""How often something happened over time: counts in equal parts of round length."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dbos_mcp.postmortem.failures import Window

MOST_PARTS = 60
_SECOND, _MINUTE, _HOUR, _DAY = 1_000, 60_000, 3_600_000, 86_400_000
_LENGTHS = (
    100,
    200,
    500,
    *(n * _SECOND for n in (1, 2, 5, 10, 15, 30)),
    *(n * _MINUTE for n in (1, 2, 5, 10, 15, 30)),
    *(n * _HOUR for n in (1, 2, 3, 6, 12)),
    *(n * _DAY for n in (1, 2, 7, 14, 30, 90, 365)),
)


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
