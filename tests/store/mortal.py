"""A cache whose process may die at any of its writes, in place."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection

from dbos_mcp.store.engine import Cache

Moment = Literal["before", "within", "after"]


class Death(BaseException):
    """What a process does not survive."""


class MortalCache(Cache):
    """Tells of its writes: before each, within its transaction when all is done, after it."""

    def __init__(self, path: Path, told: Callable[[Moment], None]) -> None:
        self._told = told
        super().__init__(path)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        self._told("before")
        with super().write() as connection:
            yield connection
            self._told("within")
        self._told("after")
