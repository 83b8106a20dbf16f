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

WHY_CHARACTERS = 2_000

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


def answer(*parts: str | None) -> str:
    """The parts that say something, one below the other."""
    return "\n".join(part for part in parts if part)
