"""Answers as compact text: a header line, a table of the columns that hold something, freshness.

What came from an application is data, and hostile until shown otherwise: every cell passes
`plain()`, which leaves no control, bidirectional or invisible tag character, and no line break.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from dbos_mcp.domain import format_duration, format_time
from dbos_mcp.queries.freshness import Freshness

CELL_CHARACTERS = 100

T = TypeVar("T")
Column = tuple[str, Callable[[T], object]]

# C0, DEL and C1 controls, soft hyphen, zero-width and bidi marks, line separators, interlinear and
# tag characters, surrogates.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def plain(value: object, *, limit: int = CELL_CHARACTERS) -> str:
    """A value as one line of printable text, cut at `limit` characters with a mark."""
    text = "" if value is None else str(value)
    clipped = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return _UNSAFE.sub(_escape, clipped)


def _escape(match: re.Match[str]) -> str:
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    code = ord(match[0])
    return named.get(match[0]) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def table(columns: Sequence[Column[T]], rows: Sequence[T], *, limit: int = CELL_CHARACTERS) -> str:
    """Rows under a header, cells separated by ` | `; a column that holds nothing is left
    out, and a `|` inside a cell becomes `¦`."""
    cells = [
        [plain(read(row), limit=limit).replace("|", "¦") for _, read in columns] for row in rows
    ]
    kept = [index for index in range(len(columns)) if any(row[index] for row in cells)]
    lines = [[columns[index][0] for index in kept]]
    lines += [[row[index] for index in kept] for row in cells]
    return "\n".join(_line(line) for line in lines)


def _line(cells: list[str]) -> str:
    """Empty cells at the end cost bytes and say nothing."""
    while cells and not cells[-1]:
        cells = cells[:-1]
    return " | ".join(cells)


def compact_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


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


def freshness_line(freshness: Freshness, *, now: int, offline: bool = False) -> str:
    """As of when, how complete, live or offline."""
    parts = []
    if freshness.as_of is None:
        parts.append("The first look is not finished")
    else:
        age = duration(max(0, now - freshness.as_of))
        parts.append(f"As of {format_time(freshness.as_of)} ({age} ago)")
    if freshness.covered_since:
        word = "complete" if freshness.history_complete else "still loading, complete"
        parts.append(f"{word} for workflows created since {format_time(freshness.covered_since)}")
    elif freshness.history_complete:
        parts.append("complete")
    if offline:
        parts.append("offline: answered from the cache alone")
    elif freshness.offline_since is not None:
        parts.append(f"offline since {format_time(freshness.offline_since)}")
    elif freshness.reason is None:
        parts.append("live")
    line = "; ".join(parts) + "."
    if freshness.reason is not None:
        line += f" Last error: {plain(freshness.reason, limit=300)}"
    return line


def answer(*parts: str | None) -> str:
    """The parts that say something, one below the other."""
    return "\n".join(part for part in parts if part)
