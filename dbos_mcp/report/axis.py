"""A time axis in which long stretches without any news are drawn short: piecewise linear, never
backwards, from 0 at its start to 1 at its end."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate, pairwise

from dbos_mcp.domain import to_datetime
from dbos_mcp.postmortem.timeline import IDLE, Timeline

MOST_BREAKS = 6
IDLE_WIDTH, BUSY_WIDTH = 0.08, 0.16
"""Of a break, as a part of the axis."""
WIDEST_IN_ALL = 0.5
SHORTEST_BREAK_MS = 1_000
IDLE_FACTOR, BUSY_FACTOR = 1, 6
"""How much longer than all that is drawn to scale a stretch is that becomes a break."""
MOST_TICKS = 8
_SECOND, _MINUTE, _HOUR, _DAY = 1_000, 60_000, 3_600_000, 86_400_000
ROUND_LENGTHS = (
    *(1, 2, 5, 10, 20, 50, 100, 200, 500),
    *(n * _SECOND for n in (1, 2, 5, 10, 15, 30)),
    *(n * _MINUTE for n in (1, 2, 5, 10, 15, 30)),
    *(n * _HOUR for n in (1, 2, 3, 6, 12)),
    *(n * _DAY for n in (1, 2, 7, 14, 30, 90, 365)),
)
"""Of time, in milliseconds, as clocks and calendars divide it."""


@dataclass(frozen=True)
class Piece:
    """A stretch of time, and where on the axis it is."""

    start: int
    end: int
    left: float
    right: float
    is_break: bool = False

    @property
    def length(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Tick:
    at: float
    time: str
    date: str
    """Where it is another than that of the tick before; else empty."""


@dataclass(frozen=True)
class Axis:
    pieces: Sequence[Piece]

    def place(self, moment: int) -> float:
        index = bisect_right(self.pieces, moment, key=lambda piece: piece.start) - 1
        piece = self.pieces[max(0, index)]
        if piece.length == 0:
            return piece.left
        inside = min(max(moment, piece.start), piece.end) - piece.start
        return piece.left + (piece.right - piece.left) * (inside / piece.length)

    @property
    def breaks(self) -> list[Piece]:
        return [piece for piece in self.pieces if piece.is_break]

    def ticks(self) -> Iterator[Tick]:
        """At round times of the clock, in UTC, and where a part of the axis that has none begins;
        none where no calendar reaches."""
        linear = self._linear()
        wanted = sum(end - start for start, end in linear) / MOST_TICKS
        step = next((step for step in ROUND_LENGTHS if step >= wanted), None)
        if step is None:
            step = int(wanted // _DAY + 1) * _DAY
        before = None
        for start, end in linear:
            for moment in range(-(-start // step) * step, end + 1, step) or (start,):
                try:
                    time = to_datetime(moment)
                except ValueError:
                    continue
                clock, date = _on_the_clock(time, step)
                yield Tick(self.place(moment), clock, "" if date == before else date)
                before = date

    def _linear(self) -> list[tuple[int, int]]:
        """The parts that are drawn to scale, between breaks."""
        found: list[tuple[int, int]] = []
        for piece in self.pieces:
            if piece.is_break:
                continue
            if found and found[-1][1] == piece.start:
                found[-1] = (found[-1][0], piece.end)
            else:
                found.append((piece.start, piece.end))
        return found


def _on_the_clock(time: datetime, step: int) -> tuple[str, str]:
    """The time of the day and the date, as exact as steps of that length ask for."""
    date = f"{time.day} {time:%b}" if step < 30 * _DAY else f"{time:%b %Y}"
    if step >= _DAY:
        return date, ""
    if step >= _MINUTE:
        return f"{time:%H:%M}", date
    if step >= _SECOND:
        return f"{time:%H:%M:%S}", date
    digits = 1 if step >= 100 else 2 if step >= 10 else 3
    return f"{time:%H:%M:%S}" + f".{time.microsecond:06}"[: digits + 1], date


def axis_of(timeline: Timeline) -> Axis:
    stretches = _stretches(timeline)
    if not stretches:
        return Axis([Piece(timeline.start, timeline.end, 0.0, 1.0)])
    broken = _broken(stretches)
    widths = {place: IDLE_WIDTH if stretches[place].idle else BUSY_WIDTH for place in broken}
    whole = sum(widths.values())
    if whole > WIDEST_IN_ALL:
        widths = {place: width * WIDEST_IN_ALL / whole for place, width in widths.items()}
    linear = sum(each.length for place, each in enumerate(stretches) if place not in broken)
    scale = (1 - sum(widths.values())) / linear if linear else 0.0
    sizes = [
        widths[place] if place in broken else each.length * scale
        for place, each in enumerate(stretches)
    ]
    ends = [min(1.0, end) for end in accumulate(sizes)]
    ends[-1] = 1.0
    return Axis(
        [
            Piece(each.start, each.end, left, right, place in broken)
            for place, (each, left, right) in enumerate(
                zip(stretches, [0.0, *ends], ends, strict=False)
            )
        ]
    )


@dataclass(frozen=True)
class _Stretch:
    """Between two moments at which something starts or ends."""

    start: int
    end: int
    idle: bool

    @property
    def length(self) -> int:
        return self.end - self.start


def _stretches(timeline: Timeline) -> list[_Stretch]:
    moments = {timeline.start, timeline.end}
    changes: dict[int, int] = {}
    lanes = timeline.lanes
    for place, lane in enumerate(lanes):
        leaf = place + 1 == len(lanes) or lanes[place + 1].depth <= lane.depth
        for span in lane.spans:
            end = timeline.end_of(span)
            moments |= {span.start, end}
            # While a workflow awaits what is below it, it does nothing by itself.
            if span.kind not in IDLE and (leaf or lane.step is not None):
                changes[span.start] = changes.get(span.start, 0) + 1
                changes[end] = changes.get(end, 0) - 1
    busy = 0
    found = []
    for start, end in pairwise(sorted(moments)):
        busy += changes.get(start, 0)
        found.append(_Stretch(start, end, idle=busy == 0))
    return found


def _broken(stretches: Sequence[_Stretch]) -> set[int]:
    """Those, by their places, that are so long that nothing else could be seen beside them."""

    def weight(place: int) -> float:
        return stretches[place].length / _factor(stretches[place])

    by_weight = sorted(range(len(stretches)), key=weight)
    to_scale = 0
    for done, place in enumerate(by_weight):
        few = len(by_weight) - done <= MOST_BREAKS
        length = stretches[place].length
        if to_scale and few and length >= SHORTEST_BREAK_MS and weight(place) > to_scale:
            return set(by_weight[done:])
        to_scale += length
    return set()


def _factor(stretch: _Stretch) -> int:
    return IDLE_FACTOR if stretch.idle else BUSY_FACTOR
