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
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import IO, Any

from dbos_mcp.errors import SqlRejectedError, SqlStoppedError, StoreError
from dbos_mcp.inspection import worker
from dbos_mcp.inspection.views import VIEWS, nearest

SECONDS = 5.0
"""What a statement may take, by SQLite's own clock."""
PATIENCE = 1.05
"""After so many times that, the process is ended."""
AT_ONCE = 2
CELL_CHARACTERS = 2_000
TOTAL_BYTES = 1_000_000
_START_SECONDS = 10.0

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


class Stop:
    """Ends the statement that it was given to, from another thread, or before it begins."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self.is_set = False

    def now(self) -> None:
        with self._lock:
            self.is_set = True
            if self._process is not None:
                self._process.kill()

    def attend(self, process: "subprocess.Popen[str] | None") -> None:
        """From now on it is about this process; about none, once that has answered."""
        with self._lock:
            self._process = process
            if self.is_set and process is not None:
                process.kill()


class Sandbox:
    """Runs statements against one cache file, several at once if need be. Whoever has it keeps a
    connection to that file open: workers cannot make the file that connections share."""

    def __init__(self, uri: str, *, seconds: float = SECONDS) -> None:
        self._uri = uri
        self._seconds = seconds
        self._idle: list[_Worker] = []
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
            SqlStoppedError: it went beyond its time or memory, or was stopped.
            StoreError: the file is damaged, or out of reach.
        """
        if len(sql) > worker.LONGEST_SQL:
            raise SqlRejectedError(
                f"The statement has {len(sql)} characters.",
                hint=f"{worker.LONGEST_SQL} are the most.",
            )
        request = {
            "sql": sql,
            "parameters": dict(parameters or {}),
            "rows": rows,
            "cell_characters": cell_characters,
            "total_bytes": total_bytes,
            "seconds": self._seconds,
        }
        stop = stop or Stop()
        with self._lock:
            process = self._idle.pop() if self._idle else None
        process = process or _Worker(self._uri)
        try:
            answer = process.ask(request, stop, self._seconds * PATIENCE)
        except BaseException:
            process.close()
            raise
        if process.goes_on:
            with self._lock:
                self._idle.append(process)
        else:
            process.close()
        return self._found(answer, sql)

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.close()

    def _found(self, answer: Mapping[str, Any], sql: str) -> Found:
        message = answer.get("message")
        match answer.get("error"):
            case None:
                return Found(**answer)
            case "time":
                raise SqlStoppedError(
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
                raise SqlRejectedError(
                    f"SQLite: {str(message).rstrip('.')}.", hint=_hint(str(message), sql)
                )


class _Deadlines(threading.Thread):
    """Calls what is due. One thread for all that is waited for: to start one takes longer than most
    statements do."""

    def __init__(self) -> None:
        super().__init__(name="deadlines of SQL", daemon=True)
        self._due: dict[object, tuple[float, Callable[[], None]]] = {}
        self._wakes_at = math.inf
        self._changed = threading.Condition()

    @contextmanager
    def calling(self, late: Callable[[], None], *, after: float) -> Iterator[None]:
        """Unless the context ends before."""
        this, at = object(), monotonic() + after
        with self._changed:
            self._due[this] = at, late
            if not self.is_alive():
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
        self._process = subprocess.Popen(
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

    def ask(self, request: Mapping[str, Any], stop: Stop, seconds: float) -> Mapping[str, Any]:
        """Its answer; an `error` of ours where it did not live to give one."""
        stop.attend(self._process)
        try:
            if self._first:
                self._first, first = "", self._first
                started = self._exchange(first, stop, _START_SECONDS)
                if started:
                    return started
            return self._exchange(json.dumps(request), stop, seconds)
        finally:
            stop.attend(None)

    def _exchange(self, request: str, stop: Stop, seconds: float) -> dict[str, Any]:
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        with _DEADLINES.calling(end, after=seconds):
            try:
                self._requests.write(request + "\n")
                self._requests.flush()
                line = self._answers.readline()
            except OSError:  # it is gone
                line = ""
        answer: dict[str, Any] = {}
        if line.endswith("\n"):
            answer = json.loads(line)
        elif stop.is_set:
            answer = {"error": "stopped"}
        else:
            # Where memory is short Python may end without a word.
            answer = {"error": "time" if late.is_set() else "memory"}
        if late.is_set() or not line or answer.get("error") in ("memory", "file"):
            self.goes_on = False
        return answer

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._requests, self._answers):
            with suppress(OSError):  # what was not sent has nowhere to go
                pipe.close()


_NO_TABLE = re.compile(r"no such table: (?:main\.|temp\.)?(.*)")
_NO_COLUMN = re.compile(r"no such column: (.*)|no column named (.*)")
_ALL = "Views: " + ", ".join(view.name for view in VIEWS)


def _hint(message: str, sql: str) -> str:
    """What may have been meant, and a statement that works."""
    if match := _NO_TABLE.match(message):
        near = _did_you_mean(match[1], [view.name for view in VIEWS])
        return f"{near or f'{_ALL}.'} Try: {_try(_named(near) or VIEWS[0].name)}"
    if match := _NO_COLUMN.match(message):
        mentioned = [view for view in VIEWS if re.search(rf"\b{view.name}\b", sql, re.IGNORECASE)]
        name = (match[1] or match[2]).rpartition(".")[2]
        columns = [column.name for view in mentioned or VIEWS for column in view.columns]
        view = (mentioned or VIEWS)[0].name
        near = _did_you_mean(name, columns)
        return f"{near or f'describe_schema tells the columns of {view}.'} Try: {_try(view)}"
    if "authorized to use function" in message:
        return "Functions that make long texts are not among those that may be used; || joins them."
    if "malformed JSON" in message:
        return "Look only where json_valid(…)."
    if "too big" in message:
        return "A value is longer than can be looked at here: leave out input, output, error, data."
    if "parameter" in message or "binding" in message.lower():
        return "Write :name where a value belongs, and give each in params."
    return (
        "One SELECT (or WITH … SELECT, EXPLAIN QUERY PLAN) over the views is answered, nothing"
        f" else. {_ALL}. Try: {_try(VIEWS[0].name)}"
    )


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = nearest(name, known)
    return f"Did you mean {' or '.join(near)}?" if near else ""


def _named(near: str) -> str | None:
    return next((view.name for view in VIEWS if f" {view.name}" in near.replace("?", "")), None)


def _try(view: str) -> str:
    return f"SELECT * FROM {view} LIMIT 5"
