"""As much of an answer as fits: clients pay for every byte, and some cut what is too long."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from dbos_mcp.server.render import CELL_CHARACTERS, Column, plain, table

T = TypeVar("T")

LIST_BYTES = 24_000


def fitting(count: int, budget: int, render: Callable[[int], str]) -> tuple[str, int]:
    """The first rows of `count` that fit into so many bytes, and how many they are; one at least,
    if there is one. `render` makes the text of that many."""
    whole = render(count)
    if count <= 1 or len(whole.encode()) <= budget:
        return whole, count
    fit, text, too_many = 1, render(1), count
    while too_many - fit > 1:
        middle = (fit + too_many) // 2
        tried = render(middle)
        if len(tried.encode()) <= budget:
            fit, text = middle, tried
        else:
            too_many = middle
    return text, fit


def table_within(
    budget: int, columns: Sequence[Column[T]], rows: Sequence[T], *, limit: int = CELL_CHARACTERS
) -> tuple[str, int]:
    """A table of as many rows as fit into so many bytes, but at least one; and how many it has."""
    return fitting(len(rows), budget, lambda shown: table(columns, rows[:shown], limit=limit))


def listed(columns: Sequence[Column[T]], rows: Sequence[T]) -> str:
    """A list without pages, which is long only where somebody means harm."""
    text, shown = table_within(LIST_BYTES, columns, rows)
    return text if shown == len(rows) else f"{text}\n{len(rows) - shown} more are not shown."


def within(text: str, budget: int) -> str:
    """A text as a line of at most so many bytes, with a mark where it is cut."""
    part, end = part_of(text, 0, budget)
    if end == len(text) and len(part.encode()) <= budget:
        return part
    mark = "…"
    return part_of(text, 0, budget - len(mark.encode()))[0] + mark


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
