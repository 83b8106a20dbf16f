"""A report as one HTML page, which needs nothing but itself: no network, no script."""

from base64 import b64encode
from hashlib import sha256

from markupsafe import Markup, escape

from dbos_mcp.domain import format_time, visible
from dbos_mcp.postmortem.words import at
from dbos_mcp.report import waterfall
from dbos_mcp.report.histogram import Histogram
from dbos_mcp.report.subjects import FailuresReport, WorkflowReport
from dbos_mcp.report.templates import ENVIRONMENT, filled

NAME_CHARACTERS = 200
TEXT_CHARACTERS = 4_000
BAR_GAP = 0.18
"""Of the width of a bar."""


def page(report: WorkflowReport | FailuresReport) -> str:
    style = Markup(f"{filled('page.css', {})}\n{waterfall.style()}")  # noqa: S704 # ours
    digest = b64encode(sha256(style.encode()).digest()).decode()
    of_failures = isinstance(report, FailuresReport)
    template = "failures.html" if of_failures else "workflow.html"
    return filled(template, {"report": report, "style": style, "style_hash": f"sha256-{digest}"})


def _time(ms: int | None) -> Markup:
    if ms is None:
        return Markup("")
    try:
        exact = format_time(ms)
    except ValueError:
        return Markup("a time that no calendar has")
    day, _, time = exact.rstrip("Z").partition("T")
    return Markup('<time datetime="{}"><b>{}</b> <span>{}</span></time>').format(exact, day, time)


def _clipped(text: object, limit: int = NAME_CHARACTERS) -> Markup:
    """In one line."""
    line = " ".join(str(text).splitlines())
    return _marked(visible(line[:limit]), len(line) - limit)


def _lines(text: object, limit: int = TEXT_CHARACTERS) -> Markup:
    """As it is, in lines."""
    whole = str(text)
    shown = "\n".join(visible(line) for line in whole[:limit].splitlines())
    return _marked(shown, len(whole) - limit)


def _marked(shown: str, left_out: int) -> Markup:
    """With how much is left out."""
    if left_out <= 0:
        return escape(shown)
    more = f"… {left_out:,} more characters"
    return Markup('{}<span class="left-out">{}</span>').format(shown, more)


def _columns(histogram: Histogram) -> list[tuple[float, float, float, int]]:
    """Of each bar its left, width and height, of 1000 by 100, and how many it stands for."""
    width = 1000 / len(histogram.counts)
    return [
        (
            round((place + BAR_GAP / 2) * width, 2),
            round((1 - BAR_GAP) * width, 2),
            round(max(100 * count / histogram.most, 3), 2),
            count,
        )
        for place, count in enumerate(histogram.counts)
        if count
    ]


ENVIRONMENT.filters |= {
    "time": _time,
    "clipped": _clipped,
    "lines": _lines,
    "iso": at,
    "columns": _columns,
    "waterfall": lambda timeline, prefix: waterfall.draw(timeline, prefix=prefix, with_style=False),
}
