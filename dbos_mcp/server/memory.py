"""What a session has read at Conductor and the mirror may not keep, until it is forgotten."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

MOST_CHARACTERS = 8_000_000


class Memory:
    """Things by what they are of, together no longer than so many characters; what nobody has asked
    for the longest is forgotten first."""

    def __init__(self, most_characters: int = MOST_CHARACTERS) -> None:
        self._most = most_characters
        self._held: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._characters = 0

    def __contains__(self, what: Hashable) -> bool:
        return what in self._held

    def get(self, what: Hashable) -> Any:
        """Raises KeyError: it was never put here, or is forgotten."""
        self._held.move_to_end(what)
        return self._held[what][0]

    def put(self, what: Hashable, thing: object, characters: int) -> None:
        self._characters -= self._held.pop(what, (None, 0))[1]
        # Small things take room as well.
        size = characters + 500
        self._held[what] = (thing, size)
        self._characters += size
        while self._characters > self._most:
            _, (_, forgotten) = self._held.popitem(last=False)
            self._characters -= forgotten
