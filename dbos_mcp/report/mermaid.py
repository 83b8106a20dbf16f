"""A timeline as the text of a Mermaid gantt, for Markdown.

Mermaid's axis is linear and speaks the reader's local time, so places on our own axis stand for
times there, and durations are written beside the names.
"""

from collections.abc import Iterator, Sequence

from dbos_mcp.domain import format_duration, written_out
from dbos_mcp.postmortem.timeline import IDLE, Lane, Span, Timeline
from dbos_mcp.report.axis import Axis, axis_of
from dbos_mcp.report.waterfall import WORDS

MOST_ROWS = 60
NAME_CHARACTERS = 60
SECTION_CHARACTERS = 40
_CHARACTER_PX = 6
"""Of Mermaid's small type, at the most; it leaves no room for long sections by itself."""
WIDTH = 10_000
NARROWEST = 40
_HARMLESS = " _-.()/+="


def gantt(timeline: Timeline, *, most: int = MOST_ROWS) -> str:
    """Without the fence around it."""
    return "\n".join(_lines(timeline, most)) + "\n"


def words(text: str) -> str:
    """No character that means anything to Mermaid, to Markdown or to HTML."""
    safe = written_out(text, lambda _: "·")
    harmless = "".join(c if c.isalnum() or c in _HARMLESS else "·" for c in safe)
    return " ".join(harmless.split())[:NAME_CHARACTERS].strip() or "·"


def _lines(timeline: Timeline, most: int) -> Iterator[str]:
    lanes = _most_telling(timeline.lanes, most)
    axis = axis_of(timeline)
    left_out = len(timeline.lanes) - len(lanes)
    more = f", {left_out} rows left out" if left_out else ""
    scale = ", long waits drawn short" if axis.breaks else ""
    sections = [
        words(f"{lane.workflow.workflow_name} {lane.workflow.workflow_id}")[:SECTION_CHARACTERS]
        for lane in lanes
    ]
    padding = (max(map(len, sections), default=0) + 4) * _CHARACTER_PX
    yield f'%%{{init: {{"gantt": {{"leftPadding": {padding}}}}}}}%%'
    yield "gantt"
    yield f"    title Timeline of {words(timeline.asked)}{scale}{more}"
    yield "    dateFormat x"
    yield "    axisFormat ·"
    before: int | None = None
    for lane, section in zip(lanes, sections, strict=True):
        if lane.workflow.key != before:
            before = lane.workflow.key
            yield f"    section {section}"
        for span in lane.spans:
            yield f"    {_task(lane, span, timeline, axis)}"


def _most_telling(lanes: Sequence[Lane], most: int) -> list[Lane]:
    """Those that failed or are workflows first, in their order."""

    def rank(place: int) -> tuple[bool, bool, int]:
        lane = lanes[place]
        return (not (lane.failed or lane.origin or lane.asked), lane.step is not None, place)

    return [lanes[place] for place in sorted(sorted(range(len(lanes)), key=rank)[:most])]


def _task(lane: Lane, span: Span, timeline: Timeline, axis: Axis) -> str:
    end = timeline.end_of(span)
    left = min(round(axis.place(span.start) * WIDTH), WIDTH - NARROWEST)
    right = max(round(axis.place(end) * WIDTH), left + NARROWEST)
    failed = lane.failed and (lane.step is not None or span is lane.spans[-1])
    at_least = "at least " if span.end is None else ""
    # A number or a sign comes first: no name can be taken for a keyword.
    name = f"· {WORDS[span.kind]}"
    if lane.step is not None or lane.alike:
        name = f"{lane.step_id or '·'}. {lane.label}"
    text = f"{'✕ ' if failed else ''}{words(name)} {at_least}{format_duration(end - span.start)}"
    if lane.origin:
        text += " (the failure began here)"
    tag = "crit, " if failed else "done, " if span.kind in IDLE else "active, "
    return f"{text} :{tag}{left}, {right}"
