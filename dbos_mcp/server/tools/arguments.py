"""Arguments that several tools take, and how their texts become values."""

import difflib
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from dbos_mcp.domain import WorkflowStatus, parse_time
from dbos_mcp.errors import UsageError

ApplicationName = Annotated[str, Field(description="As list_applications shows it")]
WorkflowId = Annotated[str, Field(description="The workflow's id")]
WorkflowIds = Annotated[str | list[str], Field(description="One or many ids")]
Texts = str | list[str] | None
Time = Annotated[str | None, Field(description="ISO 8601 with a zone: 2026-11-21T06:30:00Z")]


def texts(value: Texts) -> tuple[str, ...]:
    """One or many as a tuple; blank ones mean nothing was given."""
    values = [value] if isinstance(value, str) else value or []
    return tuple(item for item in values if item)


def statuses(value: Texts) -> tuple[str, ...]:
    """Raises UsageError, naming the nearest, for a status that does not exist."""
    known = [status.value for status in WorkflowStatus]
    given = tuple(item.upper() for item in texts(value))
    for item in given:
        if item not in known:
            guesses = {"FAILED": "ERROR", "RUNNING": "PENDING", "COMPLETED": "SUCCESS"}
            near = guesses.get(item) or next(iter(difflib.get_close_matches(item, known, 1)), None)
            raise UsageError(
                f"{item[:80]!r} is not a status" + (f"; did you mean {near}?" if near else "."),
                hint=f"Statuses: {', '.join(known)}.",
            )
    return given


def time(name: str, value: str | None) -> int | None:
    """Epoch milliseconds. Raises UsageError, naming the argument, for what is not a time."""
    if value is None or not value.strip():
        return None
    try:
        return parse_time(value.strip())
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{name}: {value[:80]!r} is not a time with a zone.",
            hint="Give ISO 8601 with a zone, as 2026-11-21T06:30:00Z or 2026-11-21T08:30:00+02:00.",
        ) from error


def choices(name: str, value: Texts, known: Sequence[str]) -> frozenset[str]:
    """Raises UsageError, naming the nearest, for one that is not known."""
    given = frozenset(item.strip().lower() for item in texts(value))
    for item in given.difference(known):
        near = difflib.get_close_matches(item, known, 1)
        raise UsageError(
            f"{name}: {item[:80]!r} is none of them"
            + (f"; did you mean {near[0]}?" if near else "."),
            hint=f"There are {', '.join(known)}.",
        )
    return given
