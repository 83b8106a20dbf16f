"""Answers as compact text: a header line, a table of the columns that hold something, freshness.

What came from an application is data, and hostile until shown otherwise: every cell passes
`plain()`, which leaves no control, bidirectional or invisible tag character, and no line break.
"""

import json
from collections.abc import Callable, Sequence
from typing import TypeVar

from dbos_mcp.domain import CELL_CHARACTERS as CELL_CHARACTERS
from dbos_mcp.domain import format_duration, format_time, written_out
from dbos_mcp.domain import plain as plain
from dbos_mcp.queries.coverage import Gap, Missing
from dbos_mcp.queries.freshness import Freshness

WHY_CHARACTERS = 2_000
LATE_MS = 600_000
"""Even what nobody asks about is looked at every five minutes, while anybody asks anything."""
MOST_BEHIND = 3
LAST_ERROR = " Last error: "

T = TypeVar("T")
Column = tuple[str, Callable[[T], object]]


def table(columns: Sequence[Column[T]], rows: Sequence[T], *, limit: int = CELL_CHARACTERS) -> str:
    """Rows under a header, cells separated by ` | `; a column that holds nothing is left
    out, and a `|` inside a cell becomes `¦`."""
    cells = [
        [plain(read(row), limit=limit).replace("|", "¦") for _, read in columns] for row in rows
    ]
    kept = [index for index in range(len(columns)) if any(row[index] for row in cells)]
    header = " | ".join(columns[index][0] for index in kept)
    return "\n".join([header, *(row_of(_trimmed([row[i] for i in kept])) for row in cells)])


def _trimmed(cells: list[str]) -> list[str]:
    """Empty cells at the end cost bytes and say nothing."""
    while cells and not cells[-1]:
        cells = cells[:-1]
    return cells


def row_of(cells: Sequence[str]) -> str:
    """No cell is alone in its line: there it could pose as one of ours, such as that on
    freshness."""
    return f"{cells[0]} |" if len(cells) == 1 else " | ".join(cells)


def compact_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def printable_json(value: object) -> str:
    """For programs, and whole: what a terminal would act upon, or not show, as JSON's escapes."""
    return written_out(compact_json(value), lambda character: json.dumps(character)[1:-1])


def fields(pairs: Sequence[tuple[str, object]], *, limit: int = 400) -> str:
    """`name: value` lines, of those that have a value."""
    return "\n".join(
        f"{name}: {plain(value, limit=limit)}"
        for name, value in pairs
        if value is not None and value != ""
    )


def time(ms: int | None) -> str | None:
    return None if ms is None else format_time(ms)


def duration(ms: int | None) -> str | None:
    return None if ms is None else format_duration(ms)


def freshness_line(
    freshness: Freshness,
    *,
    now: int,
    offline: bool = False,
    times_from_then: bool = True,
    notice: str | None = None,
) -> str:
    """As of when, how complete, live or offline; `notice` is why it can only be read."""
    parts = []
    looked = freshness.looked
    if looked.read_at is not None:
        parts.append(f"This workflow as of {_as_of(looked.read_at, now)}")
    if freshness.as_of is None:
        parts.append("The first look is not finished")
    else:
        what = "As of" if not parts else "all else as of"
        parts.append(f"{what} {_as_of(freshness.as_of, now)}")
    if freshness.covered_since:
        word = "complete" if freshness.history_complete else "still loading, complete"
        parts.append(f"{word} for workflows created since {format_time(freshness.covered_since)}")
    elif freshness.history_complete:
        parts.append("complete")
    excerpt = freshness.excerpt
    if excerpt is not None:
        rest = excerpt.of_workflows - excerpt.workflows
        parts.append(
            f"an excerpt made at {format_time(excerpt.made_at)}:"
            f" {plain(excerpt.subject, limit=WHY_CHARACTERS)};"
            f" {rest} of {excerpt.of_workflows} workflows are not in it"
        )
        if excerpt.left_out:
            left_out = plain(", ".join(excerpt.left_out), limit=WHY_CHARACTERS)
            parts.append(f"left out: {left_out}")
    if offline:
        old = freshness.as_of is not None and now - freshness.as_of > LATE_MS
        parts.append("offline: answered from the cache alone")
        if old and times_from_then:
            parts.append("`now` and times such as -24h count from then")
    elif freshness.offline_since is not None:
        parts.append(f"offline since {format_time(freshness.offline_since)}")
    elif freshness.reason is None and freshness.as_of is not None:
        late = now - freshness.as_of > LATE_MS
        parts.append("no look since then; sync_now makes one" if late else "live")
    if freshness.behind:
        parts.append(f"but {_first_of(freshness.behind)}")
    line = "; ".join(parts) + "."
    if looked.why_not is not None:
        line += f" {plain(looked.why_not, limit=WHY_CHARACTERS)}"
    elif freshness.reason is not None:
        line += f"{LAST_ERROR}{plain(freshness.reason, limit=300)}"
    if notice is not None:
        line += f" {plain(notice, limit=WHY_CHARACTERS)}"
    return line


def _as_of(moment: int, now: int) -> str:
    return f"{format_time(moment)} ({duration(max(0, now - moment))} ago)"


def _first_of(texts: Sequence[str]) -> str:
    more = len(texts) - MOST_BEHIND
    shown = ", ".join(plain(text) for text in texts[:MOST_BEHIND])
    return shown + (f" and {more} more" if more > 0 else "")


def gap_line(gap: Gap | None) -> str | None:
    """What an answer may lack because it reaches behind what is mirrored, and how to get it."""
    if gap is None:
        return None
    at = time(gap.before)
    match gap.missing:
        case Missing.REST:
            return "This is of an excerpt: counts and comparisons are of what it holds."
        case Missing.ENDED:
            return (
                f"Ended workflows created before {at} may be missing; DBOS_MCP_HISTORY=all"
                " mirrors them."
            )
        case Missing.LOADING:
            return (
                f"Ended workflows created before {at} are still being loaded; sync_status shows"
                " how far."
            )
        case Missing.ALL:
            return "The first load has only begun: much may be missing. sync_status shows how far."
        case Missing.DELETED:
            first = f", at {at}," if at else ""
            return f"What was deleted upstream before the mirror first looked{first} is missing."
        case Missing.CHANGES:
            return f"The mirror's log begins at {at}: changes before that were not seen."
        case Missing.STATES:
            return f"It is older than the mirror: its states before {at} were not seen."
        case Missing.PRUNED:
            return (
                f"Older events were pruned before {at}: of what had ended by then, only the last"
                " known state is left."
            )
        case Missing.LOST:
            return f"Events from before {at} were lost with a damaged file: some may be missing."


def answer(*parts: str | None) -> str:
    """The parts that say something, one below the other."""
    return "\n".join(part for part in parts if part)
