"""Work that may never come to an end: on a network that drops what is sent, or a dead mount."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class LateError(Exception):
    """It has not come to an end yet."""


class Later(Generic[T]):
    """Work in a thread of its own, which ends with the process if not before.

    Threads of a pool would be waited for at the end, however long they take.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._done = threading.Event()
        self._error: Exception | None = None
        self._found: list[T] = []
        threading.Thread(target=self._run, daemon=True, name="doctor").start()

    def _run(self) -> None:
        try:
            self._found.append(self._work())
        except Exception as error:  # noqa: BLE001 # for whoever waits
            self._error = error
        finally:
            self._done.set()

    def result(self, until: float) -> T:
        """What came of it, or its error; `until` is a time of the monotonic clock.

        Raises:
            LateError: it is not there by then.
        """
        if not self._done.wait(max(0.0, until - time.monotonic())):
            raise LateError
        if self._error is not None:
            raise self._error
        return self._found[0]
