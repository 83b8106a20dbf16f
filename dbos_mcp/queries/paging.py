"""Pages and their cursors. A cursor is a place in the order, so it holds while the mirror grows."""

import base64
import binascii
import json
from dataclasses import dataclass

from dbos_mcp.errors import InvalidCursorError

_INT64 = 2**63 - 1


@dataclass(frozen=True)
class Cursor:
    """The last row of a page: what the order goes by, and the row's id for the ties."""

    created_at: int
    id: int

    def encode(self) -> str:
        text = json.dumps([self.created_at, self.id], separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "Cursor":
        """The place that a cursor names.

        Raises:
            InvalidCursorError: nothing that `encode` made.
        """
        try:
            padded = text + "=" * (-len(text) % 4)
            created_at, row_id = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
            if all(type(n) is int and abs(n) <= _INT64 for n in (created_at, row_id)):
                return cls(created_at, row_id)
        except (ValueError, TypeError, binascii.Error, RecursionError):
            pass
        raise InvalidCursorError(
            f"{text[:80]!r} is not a cursor of this server.",
            hint="Pass the cursor of the last answer as it was, or leave it out to begin afresh.",
        )
