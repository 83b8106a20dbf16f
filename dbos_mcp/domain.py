"""Words that both sides of the event log use: statuses, and times as epoch milliseconds; and how
text from elsewhere is made fit to be shown."""

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from time import time_ns
from typing import Annotated, Any

CONDUCTOR = ""
"""The name under which the list of applications itself is looked at, asked about and kept."""


class Rights(StrEnum):
    """What somebody else may do through a server of ours."""

    READ = "read"
    FULL = "full"
    """Commands, too."""


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class WorkflowStatus(StrEnum):
    """The statuses known today. Conductor's field is open: a newer SDK may report others."""

    ENQUEUED = "ENQUEUED"
    DELAYED = "DELAYED"
    PENDING = "PENDING"
    SUCCESS = "SUCCESS"
    ERROR = "ERROR"
    MAX_RECOVERY_ATTEMPTS_EXCEEDED = "MAX_RECOVERY_ATTEMPTS_EXCEEDED"
    CANCELLED = "CANCELLED"


WAITING = (WorkflowStatus.ENQUEUED, WorkflowStatus.DELAYED)
"""In a queue, or for the time when it is put there."""
IN_FLIGHT = (WorkflowStatus.PENDING, *WAITING)
FAILED = (WorkflowStatus.ERROR, WorkflowStatus.MAX_RECOVERY_ATTEMPTS_EXCEEDED)
BROKEN_OFF = (WorkflowStatus.CANCELLED, *FAILED)
"""It ended, and not well."""
TERMINAL = (WorkflowStatus.SUCCESS, *BROKEN_OFF)

CELL_CHARACTERS = 100
INTEGER_LIMIT = 2**63
"""Of SQLite's integers."""

_EPOCH = datetime.fromtimestamp(0, UTC)
_MILLISECOND = timedelta(milliseconds=1)
# C0, DEL and C1 controls, line separators, surrogates, interlinear marks, and what Unicode calls
# ignorable: zero-width, bidi and tag characters, fillers, and selectors of variations, in which
# whole sentences can be hidden; but U+FE0F, which only makes an emoji colourful.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0e\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_UNITS = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s"))


def now_ms() -> int:
    """This machine's clock, in epoch milliseconds."""
    return time_ns() // 1_000_000


def to_datetime(ms: int) -> datetime:
    """Epoch milliseconds as an aware UTC datetime.

    Raises:
        ValueError: a time that no calendar has (before year 1 or after 9999).
    """
    try:
        return _EPOCH + timedelta(milliseconds=ms)
    except OverflowError as error:
        raise ValueError(f"{ms} ms is not a time of the calendar") from error


def to_ms(moment: datetime) -> int:
    """An aware datetime as epoch milliseconds, fractions below a millisecond dropped."""
    return (moment - _EPOCH) // _MILLISECOND


def format_time(ms: int) -> str:
    """Epoch milliseconds as RFC 3339 in UTC: `2026-11-21T06:30:05.120Z`, no fraction if 0."""
    moment = to_datetime(ms)
    timespec = "milliseconds" if moment.microsecond else "seconds"
    return moment.isoformat(timespec=timespec).removesuffix("+00:00") + "Z"


def format_duration(ms: int) -> str:
    """`850ms`, `1.2s`, `3m 5s`, `2h 10m`, `3d 4h`."""
    if ms < 1000:
        return f"{ms}ms"
    if ms < 60_000:
        return f"{ms / 1000:.1f}s"
    seconds = ms // 1000
    size, unit, smaller, small_unit = next(units for units in _UNITS if seconds >= units[0])
    rest = seconds % size // smaller
    return f"{seconds // size}{unit}" + (f" {rest}{small_unit}" if rest else "")


def counted(count: int, noun: str) -> str:
    """`1 workflow`, `2 workflows`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def size_text(count: int) -> str:
    if count >= 10**9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1000:.0f} KB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def tell_time(seconds: int) -> str:
    """Unix seconds by somebody else's word, for people: it may be no time at all."""
    try:
        return format_time(seconds * 1000)
    except ValueError:
        return "a time that no calendar has"


def parse_time(text: str) -> int:
    """RFC 3339 or ISO 8601 text with a zone as epoch milliseconds.

    Raises:
        ValueError: not a time, or a time without a zone.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return to_ms(moment)


class _TellsTime:
    """Loads pydantic only where there is a model: these words are needed in programs without."""

    @staticmethod
    def __get_pydantic_core_schema__(source: Any, handler: Any) -> Any:
        from pydantic import PlainSerializer

        serializer = PlainSerializer(format_time, return_type=str, when_used="json")
        return serializer.__get_pydantic_core_schema__(source, handler)


EpochMs = Annotated[int, _TellsTime]
"""Epoch milliseconds in Python, RFC 3339 in a JSON answer."""


def storable(value: Any) -> Any:
    """The nearest value that SQLite and JSON can hold: U+FFFD for half a character, the largest
    integer for a larger one, null for what is not a number."""
    match value:
        case str():
            return _LONE_SURROGATE.sub("\ufffd", value)
        case int():
            return max(-INTEGER_LIMIT, min(value, INTEGER_LIMIT - 1))
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {storable(key): storable(item) for key, item in value.items()}
        case list() | tuple():
            return [storable(item) for item in value]
        case _:
            return value


def one_line(text: str, limit: int = 300) -> str:
    """Text from elsewhere, fit for an error: no control or invisible characters, and not long."""
    safe = written_out(text[:limit], lambda _: " ")
    printable = "".join(c if c.isprintable() else " " for c in safe)
    return " ".join(printable.split()) + ("…" if len(text) > limit else "")


def plain(value: object, *, limit: int = CELL_CHARACTERS) -> str:
    """A value as one line of printable text, cut at `limit` characters with a mark."""
    if value is None:
        return ""
    text = str(value)
    clipped = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return visible(clipped)


def visible(text: str) -> str:
    """With control, bidirectional and invisible characters written out."""
    return written_out(text, _escape)


def written_out(text: str, write: Callable[[str], str]) -> str:
    """With something else for each such character: what the place that it goes to can show."""
    return _UNSAFE.sub(lambda match: write(match[0]), text)


def _escape(character: str) -> str:
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    code = ord(character)
    number = (
        f"x{code:02x}" if code < 0x100 else f"u{code:04x}" if code < 0x10000 else f"U{code:08x}"
    )
    return named.get(character) or f"\\{number}"
