"""The program, started in a situation and asked: what came of it, in words for a table."""

import json
import os
import re
import select
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from time import monotonic, sleep
from typing import Any

PATIENCE_SECONDS = 60.0
SQL = "SELECT application_name, count(*) AS workflows FROM workflows GROUP BY 1"
COMMANDS = (
    ("install", "cursor"),
    ("doctor",),
    ("status",),
    ("sql", SQL),
    ("report", "--failures", "-o", "night.md", "--force"),
)
LONGEST_ERROR_LINES = 3
_CODES = range(5)
"""What `dbos_mcp.cli` says that it ends with."""
_HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "clean-machine", "version": "1"},
}
_ROWS = re.compile(r"[1-9]\d* (?:of \d+ workflows? of |rows?\b)")
_NOT_YET = re.compile(r"The first look is not finished(?!; offline)|first load has only begun")
_UNEXPECTED = ("Traceback", "does not expect", "Exception ignored")


class Outcome(StrEnum):
    """What a question came to."""

    ROWS = "answered"
    EMPTY = "nothing found"
    ERROR = "an error"
    """Of a server that goes on."""
    ENDS = "says why"
    """And ends."""
    WRONG = "wrong"
    """A traceback, silence, or words that say nothing."""


@dataclass
class Situation:
    home: Path
    variables: Mapping[str, str | None] = field(default_factory=dict)
    """None: it is not set."""
    before: Sequence[str] = ()
    """What starts the program."""
    in_child: Callable[[], None] | None = None
    cwd: Path | None = None
    """Its home, if it is left out."""
    expected: Outcome = Outcome.ROWS
    sql: Outcome | None = None
    """Where SQL has another one."""


@dataclass
class Seen:
    outcome: Outcome
    said: str


def ask_server(program: Sequence[str], given: Situation, application_name: str) -> dict[str, Seen]:
    """What it answers to the two questions, by the tool; one that it ended before is left out."""
    seen: dict[str, Seen] = {}
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [*given.before, *program],
            **_surroundings(given),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as process,
    ):
        try:
            if _ask(process, "initialize", _HELLO) is not None:
                _ask(process, "notifications/initialized", None)
                _ask(process, "tools/list", {})
                questions: dict[str, dict[str, Any]] = {
                    "list_workflows": {"application_name": application_name, "limit": 3},
                    "query_sql": {"sql": SQL},
                }
                for tool, arguments in questions.items():
                    if (one := _answered(process, tool, arguments)) is not None:
                        seen[tool] = one
        finally:
            code = _ended(process)
        errors.seek(0)
        told = errors.read().decode(errors="replace").strip()
    if any(sign in told for sign in _UNEXPECTED):
        return {"the server": Seen(Outcome.WRONG, _short(told))}
    if not seen:
        clear = code in _CODES[1:] and 1 <= len(told.splitlines()) <= LONGEST_ERROR_LINES
        outcome = Outcome.ENDS if clear else Outcome.WRONG
        return {"the server": Seen(outcome, f"exit {code}: {_short(told)}")}
    if code != 0:
        seen["the server"] = Seen(Outcome.WRONG, f"exit {code}: {_short(told)}")
    return seen


def ask_command(program: Sequence[str], given: Situation, arguments: Sequence[str]) -> Seen:
    command = [*given.before, *program, *arguments]
    if arguments[0] == "install":  # without a HOME it would be that of whoever runs this
        command.append("--print" if given.variables.get("HOME", "") is None else "--force")
    try:
        done = subprocess.run(
            command,
            **_surroundings(given),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Seen(Outcome.WRONG, f"nothing came of it in {PATIENCE_SECONDS:g} s")
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    told = "\n".join(line for line in lines if not line.startswith('{"time": '))  # of the log
    said = done.stdout.decode(errors="replace").strip()
    if done.returncode not in _CODES or any(sign in told + said for sign in _UNEXPECTED):
        return Seen(Outcome.WRONG, f"exit {done.returncode}: {_short(told or said)}")
    if done.returncode == 0:
        return Seen(Outcome.ROWS, _short(said or told))
    found = told.startswith("Error: ") and len(told.splitlines()) <= LONGEST_ERROR_LINES
    outcome = Outcome.ENDS if found or (said and not told) else Outcome.WRONG
    return Seen(outcome, f"exit {done.returncode}: {_short(told or said)}")


def _surroundings(given: Situation) -> dict[str, Any]:
    plain: dict[str, str | None] = {
        "HOME": os.fspath(given.home),
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "DBOS_MCP_TOOLSETS": "all",
    }
    environment = {k: v for k, v in (plain | {**given.variables}).items() if v is not None}
    cwd = given.cwd or (given.home if given.home.is_dir() else Path("/"))
    return {"env": environment, "cwd": cwd, "preexec_fn": given.in_child}


def _answered(
    process: "subprocess.Popen[bytes]", tool: str, arguments: Mapping[str, Any]
) -> Seen | None:
    """Asked again while the mirror is being filled; None: it ended instead."""
    until = monotonic() + PATIENCE_SECONDS
    while True:
        answer = _ask(process, "tools/call", {"name": tool, "arguments": arguments})
        if answer is None:
            return None
        text = str(answer["result"]["content"][0]["text"])
        if not (_NOT_YET.search(text) and not _ROWS.match(text)) or monotonic() > until:
            break
        sleep(0.2)
    failed = bool(answer["result"].get("isError"))
    answered = Outcome.ROWS if _ROWS.match(text) else Outcome.EMPTY
    return Seen(Outcome.ERROR if failed else answered, _short(text))


def _ask(
    process: "subprocess.Popen[bytes]", method: str, params: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """None: it ended instead, or is silent."""
    assert process.stdin is not None
    assert process.stdout is not None
    message = {"jsonrpc": "2.0", "method": method}
    asked = message if params is None else message | {"id": 1, "params": params}
    try:
        process.stdin.write(json.dumps(asked).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        return None
    until = monotonic() + PATIENCE_SECONDS
    while params is not None:
        if not select.select([process.stdout], [], [], max(0, until - monotonic()))[0]:
            return None
        line = process.stdout.readline()
        if not line:
            return None
        answer: dict[str, Any] = json.loads(line)
        if "id" in answer:
            return answer
    return {}


def _ended(process: "subprocess.Popen[bytes]") -> int:
    """Its exit code, now that the client has left."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    try:
        return process.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) < 330 else f"{text[:160]} … {text[-165:]}"
