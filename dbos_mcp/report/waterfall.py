"""A timeline as a waterfall: a row for each lane, its bars in SVG, its words in HTML, so that they
stay readable at any width. It needs no script, and its style stands alone or follows the page's."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from dbos_mcp.domain import WorkflowStatus, format_duration
from dbos_mcp.postmortem.timeline import Kind, Lane, Span, Timeline
from dbos_mcp.postmortem.words import at, many, name, some, took
from dbos_mcp.report.axis import Axis, axis_of
from dbos_mcp.report.templates import ENVIRONMENT, filled

DEEPEST = 8
"""Whatever is nested deeper is not indented further."""
NARROWEST = 0.005
"""Of a bar."""
MOST_FOCUSABLE = 40
"""With more rows, the keyboard stops only where something is to be seen."""
TICK_APART, TICK_APART_NARROW = 0.085, 0.25
BREAK_APART, BREAK_APART_NARROW = 0.07, 0.15

WORDS: dict[Kind, str] = {
    "delayed": "delayed",
    "queued": "in a queue",
    "attempt": "an earlier run",
    "run": "runs",
    "step": "step",
    "sleep": "sleeps",
    "wait": "waits",
}


@dataclass(frozen=True)
class Bar:
    kind: Kind
    left: float
    width: float
    lasts: bool


@dataclass(frozen=True)
class Row:
    depth: int
    is_step: bool
    classes: str
    number: int | None
    """Of the step."""
    label: str
    about: str
    """Of a workflow its id and status."""
    took: str
    note: str
    exact: str
    """Everything in words, with exact times."""
    bars: Sequence[Bar]
    end: float
    """Of its last bar."""
    failed: bool
    cancelled: bool
    lasts: bool
    origin: bool
    asked: bool
    focusable: bool


@dataclass(frozen=True)
class Mark:
    """Something written on the axis; `crowded` where a narrow one has no space for it."""

    at: float
    text: str
    below: str = ""
    crowded: bool = False

    @property
    def anchor(self) -> str:
        return "start" if self.at < 0.06 else "end" if self.at > 0.94 else "middle"


def style() -> Markup:
    """To be put into a page once."""
    return filled("waterfall.css", {})


def draw(timeline: Timeline, *, prefix: str = "waterfall", with_style: bool = True) -> Markup:
    """A fragment of a page; `prefix` keeps apart the ids of several in one page."""
    axis = axis_of(timeline)
    rows = [row_of(lane, timeline, axis) for lane in timeline.lanes]
    kinds = {span.kind for lane in timeline.lanes for span in lane.spans}
    return filled(
        "waterfall.html",
        {
            "prefix": prefix,
            "style": style() if with_style else None,
            "title": title_of(timeline),
            "summary": summary_of(timeline),
            "rows": rows,
            "ticks": list(_ticks(axis)),
            "breaks": list(_breaks(axis)),
            "legend": [(kind, words) for kind, words in WORDS.items() if kind in kinds],
            "any_failed": any(row.failed for row in rows),
            "any_lasting": any(row.lasts for row in rows),
            "notes": list(notes_of(timeline)),
        },
    )


def title_of(timeline: Timeline) -> str:
    return f"Timeline of {name(timeline.asked)}"


def summary_of(timeline: Timeline) -> str:
    length = timeline.end - timeline.start
    return (
        f"{at(timeline.start)} to {at(timeline.end)} (UTC), {took(length)};"
        f" {many(len(timeline.lanes), 'row')}"
    )


def notes_of(timeline: Timeline) -> Iterator[str]:
    """What the picture does not show."""
    left_out = timeline.left_out
    if left_out.workflows or left_out.steps:
        yield (
            f"Not shown for want of space: {many(left_out.workflows, 'workflow')},"
            f" {many(left_out.steps, 'step')}."
        )
    if timeline.unread:
        yield (
            f"Steps not read yet, so some may be missing:"
            f" {many(len(timeline.unread), 'workflow')}: {some(timeline.unread, 3)}."
        )
    yield from timeline.relatives
    if timeline.seen_at < timeline.now:
        yield f"As of {at(timeline.seen_at)}, when the mirror last looked."


def exact(lane: Lane, timeline: Timeline) -> str:
    """A lane in words."""
    workflow = lane.workflow
    if lane.alike:
        what = "workflows" if lane.step is None else "steps"
        start, end = lane.spans[0].start, lane.spans[-1].end
        return f"{what}, {lane.label}, {lane.note}; from {at(start)} to {at(end)}"
    if lane.step is None:
        who = f"workflow {name(workflow.workflow_id)}, {name(workflow.workflow_name)}, "
        who += name(workflow.status)
    else:
        who = f"step {lane.step_id}, {lane.label}, {lane.state}"
    origin = ["the failure began here"] if lane.origin else []
    spans = [_span_in_words(span, timeline) for span in lane.spans]
    return "; ".join([who, *origin, *spans, *([lane.note] if lane.note else [])])


def row_of(lane: Lane, timeline: Timeline, axis: Axis) -> Row:
    is_step = lane.step is not None
    cancelled = not is_step and lane.workflow.status == WorkflowStatus.CANCELLED
    lasts = any(span.end is None for span in lane.spans)
    worth_a_stop = lane.failed or lane.origin or lane.asked or lasts or cancelled
    bars = [_bar(span, timeline, axis) for span in lane.spans]
    marks = {
        "step": is_step,
        "workflow": not is_step,
        "failed": lane.failed,
        "origin": lane.origin,
        "asked": lane.asked,
    }
    return Row(
        depth=min(lane.depth, DEEPEST),
        is_step=is_step,
        classes=" ".join(mark for mark, there in marks.items() if there),
        number=lane.step_id,
        label=lane.label,
        about=lane.note
        if lane.alike
        else ""
        if is_step
        else f"{name(lane.workflow.workflow_id)} {name(lane.workflow.status)}",
        took=_took(lane, timeline),
        note="" if lane.alike else lane.note if is_step or lane.origin or not lane.failed else "",
        exact=exact(lane, timeline),
        bars=bars,
        end=max((bar.left + bar.width for bar in bars), default=0.0),
        failed=lane.failed,
        cancelled=cancelled,
        lasts=lasts,
        origin=lane.origin,
        asked=lane.asked,
        focusable=worth_a_stop or len(timeline.lanes) <= MOST_FOCUSABLE,
    )


def _bar(span: Span, timeline: Timeline, axis: Axis) -> Bar:
    left = min(axis.place(span.start), 1 - NARROWEST)
    width = max(axis.place(timeline.end_of(span)) - left, NARROWEST)
    return Bar(span.kind, left, width, lasts=span.end is None)


def _took(lane: Lane, timeline: Timeline) -> str:
    if not lane.spans:
        return "?"
    end = max(timeline.end_of(span) for span in lane.spans)
    length = format_duration(end - min(span.start for span in lane.spans))
    return f"≥ {length}" if any(span.end is None for span in lane.spans) else length


def _span_in_words(span: Span, timeline: Timeline) -> str:
    length = format_duration(timeline.end_of(span) - span.start)
    says = f", {span.says}" if span.says else ""
    if span.end is None:
        return f"{WORDS[span.kind]} since {at(span.start)}, {length} so far{says}"
    return f"{WORDS[span.kind]} {at(span.start)} to {at(span.end)}, {length}{says}"


def _ticks(axis: Axis) -> Iterator[Mark]:
    last = last_narrow = -1.0
    date = ""
    for tick in axis.ticks():
        date = tick.date or date
        if tick.at - last < TICK_APART:
            continue
        crowded = tick.at - last_narrow < TICK_APART_NARROW
        yield Mark(tick.at, tick.time, date, crowded)
        last, date = tick.at, ""
        last_narrow = last_narrow if crowded else tick.at


def _breaks(axis: Axis) -> Iterator[tuple[float, float, Mark]]:
    """Where, how wide, and what is written on it: the longest first, as there is space."""
    written: list[float] = []
    for piece in sorted(axis.breaks, key=lambda piece: -piece.length):
        middle = (piece.left + piece.right) / 2
        nearest = min((abs(middle - other) for other in written), default=1.0)
        written.append(middle)
        text = format_duration(piece.length) if nearest >= BREAK_APART else ""
        crowded = nearest < BREAK_APART_NARROW
        yield piece.left, piece.right - piece.left, Mark(middle, text, crowded=crowded)


def _percent(part: float) -> str:
    return f"{100 * part:.3f}%"


ENVIRONMENT.filters["percent"] = _percent
