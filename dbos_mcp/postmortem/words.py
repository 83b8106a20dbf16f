"""How findings speak: numbers, times, and the application's words, which are data."""

from collections import Counter
from collections.abc import Sequence

from dbos_mcp.domain import format_duration, format_time, one_line

NAME_CHARACTERS = 80
ERROR_CHARACTERS = 240
MOST_NAMED = 6


def name(text: str | None, limit: int = NAME_CHARACTERS) -> str:
    return one_line(text, limit) if text else "(no name)"


def quoted(error: str | None, limit: int = ERROR_CHARACTERS) -> str:
    return f"“{one_line(error, limit)}”" if error else "(no error text)"


def at(ms: int | None) -> str:
    if ms is None:
        return "an unknown time"
    try:
        return format_time(ms)
    except ValueError:
        return "a time that no calendar has"


def took(ms: float | None) -> str:
    return "an unknown time" if ms is None else format_duration(max(0, int(ms)))


def some(names: Sequence[str], most: int = MOST_NAMED) -> str:
    """The first few, and how many more."""
    told = ", ".join(name(each) for each in names[:most])
    return told + (f" and {len(names) - most} more" if len(names) > most else "")


def counted(counts: Counter[str], most: int = MOST_NAMED) -> str:
    """`reserve 3, charge`: the most frequent first."""
    told = [name(each) + (f" {n}" if n > 1 else "") for each, n in counts.most_common(most)]
    more = len(counts) - len(told)
    return ", ".join(told) + (f" and {more} more" if more > 0 else "")


def many(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
