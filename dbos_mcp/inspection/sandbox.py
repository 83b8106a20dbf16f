"""Where other people's SQL runs: processes (`worker.py`) that end when they outlive their time.

A process and not a thread, for three reasons. SQLite looks at its clock between instructions, and
one call of a function may be an instruction of 25 s, which nothing inside a process can stop. Its
bound of memory holds for all connections of a process, sync's included. And some builds of SQLite
can be crashed by SQL. A process costs 30 ms when it starts and nothing later; a thread of the
caller waits for it.
"""

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import IO, Any

from dbos_mcp.domain import counted
from dbos_mcp.errors import SqlRejectedError, SqlStoppedError, SqlTimeoutError, StoreError
from dbos_mcp.inspection import worker
from dbos_mcp.inspection.views import VIEWS

SECONDS = 5.0
"""What a statement may take, by SQLite's own clock."""
PATIENCE = 1.05
"""After so many times that, the process is ended."""
CELL_CHARACTERS = 2_000
TOTAL_BYTES = 1_000_000
_START_SECONDS = 10.0
_LONGEST_ANSWER = 64 * 1024 * 1024
"""In characters of JSON: several times what a worker in good health can send."""

Parameter = str | int | float | None


@dataclass(frozen=True)
class Found:
    """What a statement found: its first rows, and how many more there are."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    more: int
    all_counted: bool
    """False: there are even more than that."""
    ms: float
    """How long it took."""

    @property
    def counted(self) -> str:
        """How many there are, in words."""
        total = len(self.rows) + self.more
        rows = counted(total, "row")
        return rows if self.all_counted else f"more than {rows}"


class Stop:
    """Ends the statement that it was given to, from another thread, or before it begins."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self.why: str | None = None
        """The `error` that the statement is answered with, when it has been ended."""

    def now(self, why: str = "stopped") -> None:
        with self._lock:
            self.why = self.why or why
            if self._process is not None:
                self._process.kill()

    def attend(self, process: "subprocess.Popen[str] | None") -> None:
        """From now on it is about this process; about none, once that has answered."""
        with self._lock:
            self._process = process
            if self.why and process is not None:
                process.kill()


class Sandbox:
    """Runs statements against one cache file, several at once if need be. Whoever has it keeps a
    connection to that file open: workers cannot make the file that connections share."""

    def __init__(self, uri: str, *, seconds: float = SECONDS) -> None:
        self._uri = uri
        self._seconds = seconds
        self._idle: list[_Worker] = []
        self._is_closed = False
        self._lock = threading.Lock()

    def run(
        self,
        sql: str,
        parameters: Mapping[str, Parameter] | None = None,
        *,
        rows: int = 100,
        cell_characters: int = CELL_CHARACTERS,
        total_bytes: int = TOTAL_BYTES,
        stop: Stop | None = None,
    ) -> Found:
        """Run one SELECT, and wait for it.

        Raises:
            SqlRejectedError: it is wrong, or may not be run here.
            SqlStoppedError: it went beyond its time or memory, was stopped, or never begun.
            StoreError: the file is damaged, or out of reach.
        """
        if len(sql) > worker.LONGEST_SQL:
            raise SqlRejectedError(
                f"The statement has {len(sql)} characters.",
                hint=f"{worker.LONGEST_SQL} are the most.",
            )
        try:
            request = json.dumps(
                {
                    "sql": sql,
                    "parameters": dict(parameters or {}),
                    "rows": rows,
                    "cell_characters": cell_characters,
                    "total_bytes": total_bytes,
                    "seconds": self._seconds,
                }
            )
        except ValueError as error:  # Python writes no integer of more than 4,300 digits
            raise SqlRejectedError(
                "A number among the parameters is too large.", hint="64 bits are the most."
            ) from error
        with self._lock:
            process = self._idle.pop() if self._idle else None
        try:
            process = process or _Worker(self._uri)
        except OSError as error:  # no memory, no files or processes left; no Python any more
            raise SqlStoppedError(
                f"No process could be started for the statement: {error.strerror or error}.",
                hint="Free what the system is short of, or restart where dbos-mcp was replaced.",
            ) from error
        try:
            answer = process.ask(request, stop or Stop(), self._seconds * PATIENCE)
        except BaseException:
            process.close()
            raise
        with self._lock:
            goes_on = process.goes_on and not self._is_closed
            if goes_on:
                self._idle.append(process)
        if not goes_on:
            process.close()
        return self._found(answer, sql)

    def close(self) -> None:
        """End the processes that wait; one that is at work ends with its statement."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for process in idle:
            process.close()

    def _found(self, answer: Mapping[str, Any], sql: str) -> Found:
        message = answer.get("message")
        match answer.get("error"):
            case None:
                return Found(**answer)
            case "time":
                raise SqlTimeoutError(
                    f"The statement was stopped after {self._seconds:g} s.",
                    hint="Ask for less: application_name = '…' with a range of created_at_ms is"
                    " found by an index; EXPLAIN QUERY PLAN says SEARCH where one is used.",
                )
            case "memory":
                raise SqlStoppedError(
                    "The statement was stopped: it needed too much memory.",
                    hint="Sort, group or join fewer rows or columns at a time.",
                )
            case "stopped":
                raise SqlStoppedError("The statement was stopped.")
            case "file":
                raise StoreError(f"The cache cannot be read: {message}.")
            case _:
                from dbos_mcp.inspection.hints import hint

                raise SqlRejectedError(
                    f"SQLite: {str(message).rstrip('.')}.", hint=hint(str(message), sql)
                )


class _Deadlines(threading.Thread):
    """Calls what is due. One thread for all that is waited for: to start one takes longer than most
    statements do."""

    def __init__(self) -> None:
        super().__init__(name="deadlines of SQL", daemon=True)
        self._due: dict[object, tuple[float, Callable[[], None]]] = {}
        self._wakes_at = math.inf
        self._is_started = False
        self._changed = threading.Condition()

    @contextmanager
    def calling(self, late: Callable[[], None], *, after: float) -> Iterator[None]:
        """Unless the context ends before."""
        this, at = object(), monotonic() + after
        with self._changed:
            self._due[this] = at, late
            if not self._is_started:  # is_alive() is wrong of one that was made before a fork
                self._is_started = True
                self.start()
            elif at < self._wakes_at:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._due.pop(this, None)

    def run(self) -> None:
        with self._changed:
            while True:
                now = monotonic()
                for this, (at, late) in [*self._due.items()]:
                    if at <= now:
                        del self._due[this]
                        late()
                self._wakes_at = min((at for at, _ in self._due.values()), default=math.inf)
                # Not woken when a statement ends, so that many in a row do not wake it each time.
                self._changed.wait(self._wakes_at - now if self._due else None)


_DEADLINES = _Deadlines()


class _Worker:
    """One process, which answers one statement after the other."""

    def __init__(self, uri: str) -> None:
        self._process = subprocess.Popen(  # noqa: S603 # Python, and a file of our own
            [sys.executable, "-I", "-S", "-B", str(Path(worker.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            cwd=Path(sys.executable).anchor,
            # What Windows cannot start a process without; nothing else of ours.
            env={name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests: IO[str] = self._process.stdin
        self._answers: IO[str] = self._process.stdout
        self.goes_on = True
        views = {view.name: [column.name for column in view.columns] for view in VIEWS}
        self._first = json.dumps({"uri": uri, "views": views})

    def ask(self, request: str, stop: Stop, seconds: float) -> Mapping[str, Any]:
        """Its answer; an `error` of ours where it did not live to give one."""
        stop.attend(self._process)
        answer: Mapping[str, Any] = {}
        try:
            if self._first:
                self._first, first = "", self._first
                answer = self._exchange(first, stop, _START_SECONDS)
            if "error" not in answer:
                answer = self._exchange(request, stop, seconds)
        finally:
            stop.attend(None)
        # Whoever ended it may have done so after it had answered.
        self.goes_on = stop.why is None and answer.get("error") not in ("memory", "file")
        return answer

    def _exchange(self, request: str, stop: Stop, seconds: float) -> dict[str, Any]:
        with _DEADLINES.calling(partial(stop.now, "time"), after=seconds):
            try:
                self._requests.write(request + "\n")
                self._requests.flush()
                line = self._answers.readline(_LONGEST_ANSWER)
            except OSError:  # it is gone
                line = ""
        if line.endswith("\n"):
            answer: dict[str, Any] = json.loads(line)
            return answer
        # Where memory is short Python may end without a word.
        return {"error": stop.why or "memory"}

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._requests, self._answers):
            with suppress(OSError):  # what was not sent has nowhere to go
                pipe.close()
