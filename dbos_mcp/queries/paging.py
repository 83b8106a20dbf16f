"""Orders, pages and their cursors. A cursor is a place in an order, so it holds while the mirror
grows, and it knows which question it belongs to."""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Any

from pydantic import BaseModel

from dbos_mcp.errors import InvalidCursorError

_INT64 = 2**63 - 1


class OrderBy(StrEnum):
    CREATED = "created"
    COMPLETED = "completed"
    DURATION = "duration"
    QUEUE_WAIT = "queue_wait"


@dataclass(frozen=True)
class Order:
    """Rows without the value that it goes by are left out; ties go by the row's key."""

    by: OrderBy = OrderBy.CREATED
    descending: bool = True


NEWEST_FIRST = Order()


def name_of(question: BaseModel, order: Order) -> str:
    """The same for the same question alone."""
    text = f"{question.model_dump_json()} {order.by} {order.descending}"
    return blake2b(text.encode(), digest_size=9).hexdigest()


def pack(parts: Sequence[int | str]) -> str:
    """The parts of a place as one word, which nobody is to look into."""
    text = json.dumps(parts, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def unpack(text: str, types: Sequence[type]) -> list[Any]:
    """The parts again, of these types.

    Raises:
        InvalidCursorError: nothing that `pack` made of such parts.
    """
    try:
        padded = text + "=" * (-len(text) % 4)
        parts = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if [type(part) for part in parts] == list(types) and all(
            abs(part) <= _INT64 for part in parts if type(part) is int
        ):
            return list(parts)
    except (ValueError, TypeError, binascii.Error, RecursionError):
        pass
    raise InvalidCursorError(
        f"{text[:80]!r} is not a cursor of this server.",
        hint="Pass the cursor of the last answer as it was, or leave it out to begin afresh.",
    )


@dataclass(frozen=True)
class Cursor:
    """The last row of a page: what the order goes by, and the row's key for the ties."""

    value: int
    key: int
    question: str
    """See `name_of`."""
    asked_at: int
    """When the first page was asked for, epoch ms: the `now` of the relative times of all."""

    def encode(self) -> str:
        return pack([self.value, self.key, self.question, self.asked_at])

    @classmethod
    def decode(cls, text: str) -> "Cursor":
        """The place that a cursor names.

        Raises:
            InvalidCursorError: nothing that `encode` made.
        """
        value, key, question, asked_at = unpack(text, (int, int, str, int))
        return cls(value, key, question, asked_at)

    def require(self, question: str) -> None:
        """Raises InvalidCursorError for a cursor that belongs to another question."""
        if self.question != question:
            raise InvalidCursorError(
                "This cursor belongs to another question.",
                hint="Repeat the filters and the order of the answer that it is from, or leave"
                " the cursor out to begin afresh. columns, detail, format and limit may change.",
            )
