"""As much of an answer as fits: clients pay for every byte, and some cut what is too long."""

from collections.abc import Sequence
from typing import TypeVar

from dbos_mcp.server.render import CELL_CHARACTERS, Column, plain, table

T = TypeVar("T")


def table_within(
    budget: int, columns: Sequence[Column[T]], rows: Sequence[T], *, limit: int = CELL_CHARACTERS
) -> tuple[str, int]:
    """A table of as many rows as fit into so many bytes, but at least one; and how many it has."""
    shown = len(rows)
    while True:
        text = table(columns, rows[:shown], limit=limit)
        size = len(text.encode())
        if size <= budget or shown <= 1:
            return text, shown
        shown = max(1, min(shown - 1, shown * budget // size))


def part_of(text: str, offset: int, budget: int) -> tuple[str, int]:
    """A text from one of its characters on, as a line of at most so many bytes; and where that part
    ends."""
    end = min(len(text), offset + budget)
    while True:
        part = plain(text[offset:end], limit=budget)
        size = len(part.encode())
        if size <= budget or end <= offset + 1:
            return part, end
        end = max(offset + 1, min(end - 1, offset + (end - offset) * budget // size))
