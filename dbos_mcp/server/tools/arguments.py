"""Arguments that several tools take, and how their texts become values."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from dbos_mcp.domain import WorkflowStatus, one_line, parse_time, to_datetime, to_ms
from dbos_mcp.errors import UsageError

if TYPE_CHECKING:
    from dbos_mcp.queries.filters import Scalar

MOST_VALUES = 1_000


def _as_text(value: object) -> object:
    return str(value) if type(value) in (int, float) else value


def _no_less_than_0(value: float | None) -> float | None:
    if value is not None and not value >= 0:
        raise PydanticCustomError("max_age", "Give seconds, 0 or more; 0 looks at Conductor now.")
    return value


# What their names say is not said again to every agent.
ApplicationName = str
WorkflowId = str
WorkflowIds = str | list[str]
Texts = str | list[str] | None
Time = Annotated[str | None, BeforeValidator(_as_text)]
"""See `time`."""
Duration = Annotated[str | None, BeforeValidator(_as_text)]
"""See `duration`."""
MaxAge = Annotated[float | None, AfterValidator(_no_less_than_0)]
"""Seconds: what the mirror has not looked at for longer is looked at first. 0: now."""
OneApplication = Annotated[str | None, Field(description="Default: all")]
TIMES = "-2h, -30m, -3d, now, today, yesterday (UTC), ISO 8601 with a zone, or epoch ms"

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_PART = r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)"
_PARTS = re.compile(rf"{_PART}(?:\s*{_PART})*", re.ASCII | re.IGNORECASE)
_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)
_LONGEST_MS = 10_000 * 366 * _UNITS["d"]
_SURELY_SECONDS = 100_000_000_000
"""Below it, milliseconds would be of 1973 or before, seconds of before the year 5138."""


def texts(value: Texts) -> tuple[str, ...]:
    """One or many as a tuple; blank ones mean nothing was given."""
    values = [value] if isinstance(value, str) else value or []
    if len(values) > MOST_VALUES:
        raise UsageError(
            f"{len(values)} values are too many for one filter.",
            hint=f"Give at most {MOST_VALUES} at a time.",
        )
    return tuple(item for item in values if item)


def statuses(value: Texts) -> tuple[str, ...]:
    """Raises UsageError, naming the nearest, for a status that does not exist."""
    known = [status.value for status in WorkflowStatus]
    guesses = {"FAILED": "ERROR", "RUNNING": "PENDING", "COMPLETED": "SUCCESS"}
    given = tuple(item.upper() for item in texts(value))
    for item in given:
        if item not in known:
            raise UsageError(
                f"{_quoted(item)} is not a status{_did_you_mean(item, known, guesses)}",
                hint=f"Statuses: {', '.join(known)}.",
            )
    return given


def columns(value: Texts, known: Sequence[str]) -> tuple[str, ...]:
    """Raises UsageError, naming the nearest, for a column that there is not."""
    given = texts([part.strip() for part in value.split(",")] if isinstance(value, str) else value)
    for item in given:
        if item in ("input", "output"):
            raise UsageError(
                f"{item} is in no list.", hint="get_workflow shows it with include=payload."
            )
        if item not in known:
            raise UsageError(
                f"{_quoted(item)} is not a column{_did_you_mean(item.lower(), known)}",
                hint=f"Columns: {', '.join(known)}.",
            )
    return tuple(dict.fromkeys(given))


def time(name: str, value: str | None, *, now: int) -> int | None:
    """Epoch milliseconds of a time as `TIMES` lists them; days begin at midnight UTC.

    Raises:
        UsageError: it is none, and names the argument.
    """
    text = (value or "").strip()
    if not text:
        return None
    try:
        return _time(text, now)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{name}: {_quoted(text)} is not a time.",
            hint=f"Give {TIMES}, in milliseconds; with a zone is 2026-11-21T06:30:00Z"
            " or 2026-11-21T08:30:00+02:00.",
        ) from error


def choices(name: str, value: Texts, known: Sequence[str]) -> frozenset[str]:
    """Raises UsageError, naming the nearest, for one that is not known."""
    given = frozenset(item.strip().lower() for item in texts(value))
    for item in given.difference(known):
        raise UsageError(
            f"{name}: {_quoted(item)} is none of them{_did_you_mean(item, known)}",
            hint=f"There are {', '.join(known)}.",
        )
    return given


def _time(text: str, now: int) -> int:
    midnight = to_datetime(now).replace(hour=0, minute=0, second=0, microsecond=0)
    match text.lower():
        case "now":
            return now
        case "today":
            return to_ms(midnight)
        case "yesterday":
            return to_ms(midnight - timedelta(days=1))
    if text.startswith(("-", "\u2212")):
        ms = now - _duration(text[1:].strip())
    elif _NUMBER.fullmatch(text):
        ms = int(float(text)) if "." in text else int(text)
        if ms < _SURELY_SECONDS:
            raise ValueError("these are seconds, or nothing")
    else:
        ms = parse_time(text)
    to_datetime(ms)
    return ms


def duration(name: str, value: str | None) -> int | None:
    """Milliseconds of `30s`, `5m`, `2h`, `1d`, `1h 30m`, or of a number of them.

    Raises:
        UsageError: it is none, and names the argument.
    """
    text = (value or "").strip()
    if not text:
        return None
    try:
        return round(float(text)) if _NUMBER.fullmatch(text) else _duration(text)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{name}: {_quoted(text)} is not a duration.",
            hint="Give it as 250ms, 30s, 5m, 2h or 1d, or as a number of milliseconds.",
        ) from error


def _duration(text: str) -> int:
    if len(text) > 60 or not _PARTS.fullmatch(text):
        raise ValueError("no duration")
    parts = re.findall(_PART, text, re.ASCII | re.IGNORECASE)
    ms = sum(float(number) * _UNITS[unit.lower()] for number, unit in parts)
    if ms > _LONGEST_MS:
        raise ValueError("longer than any calendar")
    return round(ms)


def attributes(value: Mapping[str, Any] | None) -> "tuple[tuple[str, Scalar], ...]":
    """Raises UsageError for values that have parts: they cannot be matched."""
    for key, item in (value or {}).items():
        if "\0" in key:
            raise UsageError(
                f"attributes: the key of {_quoted(key)} has a NUL, which no attribute can have."
            )
        if isinstance(item, (dict, list)):
            raise UsageError(
                f"attributes: the value of {_quoted(key)} has parts.",
                hint="Match a key by a text, a number, true, false or null.",
            )
        if type(item) in (int, float) and not abs(item) < 2**63:
            raise UsageError(
                f"attributes: the number of {_quoted(key)} is too large, or none.",
                hint="Leave that key out, and look at the answer's attributes.",
            )
    return tuple((value or {}).items())


def _quoted(text: str) -> str:
    return repr(one_line(text, limit=80))


def _did_you_mean(item: str, known: Iterable[str], guesses: Mapping[str, str] | None = None) -> str:
    near = (guesses or {}).get(item) or next(iter(difflib.get_close_matches(item, known, 1)), None)
    return f"; did you mean {near}?" if near else "."
