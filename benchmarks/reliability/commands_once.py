"""Commands through a way that fails: how often does upstream do what was asked once, and is it told
as it is?

Upstream counts what it executes. Each command meets one fault: before it arrives, after it was
done, or in place of its answer. Nothing may be done twice; what may have been done is never told as
not done; and the state that is read again afterwards is the one upstream. A way that repeats what
it got no answer to, as common clients do, is the control that must be noticed.
"""

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import httpx

from benchmarks.report import Report, machine, out
from dbos_mcp.conductor.client import ConductorClient
from dbos_mcp.conductor.credentials import Credentials
from dbos_mcp.conductor.identity import FixedIdentity
from dbos_mcp.conductor.models import ForkRequest
from dbos_mcp.domain import WorkflowStatus, format_time, now_ms
from dbos_mcp.errors import DbosMcpError
from dbos_mcp.store.migrate import open_cache
from dbos_mcp.sync.commands import GONE, CommandResult, Commands
from dbos_mcp.sync.mirror import Mirror

APPLICATION = "shop"
COMMANDS = ("cancel", "resume", "fork", "delete")


@dataclass
class Upstream:
    """Does what it is asked, and counts it."""

    statuses: dict[str, str] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)

    def answer(self, request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content or b"{}")
        *_, workflow_id, command = request.url.path.split("/")
        if command == "search":
            there = [each for each in asked["workflowIds"] if each in self.statuses]
            return httpx.Response(200, json=[self._row(each) for each in there])
        if request.method == "DELETE":
            workflow_id, command = command, "delete"
        self.done[f"{command} {workflow_id}"] += 1
        match command:
            case "cancel":
                self.statuses[workflow_id] = WorkflowStatus.CANCELLED
            case "resume":
                self.statuses[workflow_id] = WorkflowStatus.ENQUEUED
            case "delete":
                self.statuses.pop(workflow_id, None)
            case "fork":
                self.statuses[asked["newWorkflowId"]] = WorkflowStatus.ENQUEUED
                return httpx.Response(201, json={"workflowId": asked["newWorkflowId"]})
        return httpx.Response(204)

    def _row(self, workflow_id: str) -> dict[str, str]:
        at = format_time(now_ms())
        status = self.statuses[workflow_id]
        return {"workflowId": workflow_id, "status": status, "createdAt": at, "updatedAt": at}


@dataclass(frozen=True)
class Fault:
    arrives: bool
    """Whether the command is done all the same."""
    told: Callable[[], httpx.Response | Exception]
    unknown: bool = True
    """Whether nobody can know from here that it was not done."""


def _status(status: int) -> Callable[[], httpx.Response]:
    return lambda: httpx.Response(status, json={"status": status})


FAULTS = {
    "refused": Fault(False, lambda: httpx.ConnectError("refused"), unknown=False),
    "no connection in time": Fault(False, lambda: httpx.ConnectTimeout(""), unknown=False),
    "lost on its way": Fault(False, lambda: httpx.ReadTimeout("")),
    "timed out, but done": Fault(True, lambda: httpx.ReadTimeout("")),
    "reset before it was done": Fault(False, lambda: httpx.ReadError("reset")),
    "reset when it was done": Fault(True, lambda: httpx.ReadError("reset")),
    "half an answer": Fault(True, lambda: httpx.RemoteProtocolError("half")),
    "500, not done": Fault(False, _status(500)),
    "500, but done": Fault(True, _status(500)),
    "502, not done": Fault(False, _status(502)),
    "502, but done": Fault(True, _status(502)),
    "503": Fault(False, _status(503), unknown=False),
    "504, but done": Fault(True, _status(504)),
    "HTML": Fault(True, lambda: httpx.Response(200, html="<html>")),
    "429": Fault(False, _status(429), unknown=False),
}


class Way(httpx.AsyncBaseTransport):
    """To upstream; `fault` befalls each command."""

    def __init__(self, upstream: Upstream, *, tries: int = 1) -> None:
        self._upstream = upstream
        self._tries = tries
        self.fault: Fault | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        if self.fault is None or request.url.path.endswith("/search"):
            return self._upstream.answer(request)
        for _ in range(self._tries):
            if self.fault.arrives:
                self._upstream.answer(request)
            told = self.fault.told()
        if isinstance(told, Exception):
            raise told
        return told


@dataclass
class Seen:
    commands: int = 0
    more_than_once: int = 0
    told_wrongly: list[str] = field(default_factory=list)
    not_resolved: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)


@asynccontextmanager
async def opened(way: Way) -> AsyncIterator[Commands]:
    with tempfile.TemporaryDirectory(prefix="commands-") as folder:
        cache = open_cache(Path(folder) / "cache.sqlite")
        try:
            async with ConductorClient(
                "http://upstream.test",
                FixedIdentity(Credentials("acme")),
                transport=way,
                patience_seconds=0,
                reads_per_second=100_000,
            ) as client:
                yield Commands(Mirror(cache, client))
        finally:
            cache.close()


async def run(commands: int, *, tries: int = 1, seed: int = 8) -> Seen:
    """`tries`: how often the way sends what it got no answer to."""
    chance, upstream, seen = random.Random(seed), Upstream(), Seen()
    way = Way(upstream, tries=tries)
    async with opened(way) as through:
        for number in range(commands):
            workflow_id, command = f"order-{number}", COMMANDS[number % len(COMMANDS)]
            is_over = command == "resume"
            upstream.statuses[workflow_id] = (
                WorkflowStatus.CANCELLED if is_over else WorkflowStatus.PENDING
            )
            name = chance.choice(list(FAULTS))
            way.fault = FAULTS[name]
            result = await _sent(through, command, workflow_id)
            _judge(seen, upstream, way.fault, f"{command} {workflow_id}: {name}", result)
    seen.more_than_once = sum(count > 1 for count in upstream.done.values())
    return seen


async def _sent(through: Commands, command: str, workflow_id: str) -> CommandResult:
    ids = [workflow_id]
    try:
        match command:
            case "fork":
                (result,) = await through.fork(APPLICATION, ids, ForkRequest())
            case _:
                (result,) = await getattr(through, command)(APPLICATION, ids)
    except DbosMcpError as error:  # nothing was done, and the next one would fail alike
        return CommandResult(workflow_id, "failed", error=error)
    made: CommandResult = result
    return made


def _judge(seen: Seen, upstream: Upstream, fault: Fault, about: str, result: CommandResult) -> None:
    seen.commands += 1
    seen.outcomes[result.outcome] += 1
    if result.outcome != ("unknown" if fault.unknown else "failed") or result.error is None:
        seen.told_wrongly.append(f"{about}: {result.outcome}")
    if result.outcome == "unknown":
        there = upstream.statuses.get(result.workflow_id, GONE)
        if result.status_after != there:
            seen.not_resolved.append(f"{about}: {result.status_after}, and is {there}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="commands_once", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000, help="commands, each with a fault")
    options = parser.parse_args()
    out.print(machine())
    seen = anyio.run(run, options.rounds)
    once = seen.more_than_once == 0
    right, resolved = not seen.told_wrongly, not seen.not_resolved
    report = Report(f"{seen.commands} commands, each with one of {len(FAULTS)} faults")
    report.add("done more than once", f"{seen.more_than_once}", "0", once)
    report.add("told as what they were not", f"{len(seen.told_wrongly)}", "0", right)
    report.add("unknown, and then not read as they are", f"{len(seen.not_resolved)}", "0", resolved)
    report.add("outcomes told", ", ".join(f"{n} {what}" for what, n in seen.outcomes.items()))
    control = anyio.run(partial(run, 100, tries=4)).more_than_once
    report.add("control, through a way that sends again", f"{control}", "> 0", control > 0)
    report.print()
    for line in [*seen.told_wrongly, *seen.not_resolved][:20]:
        out.print(line)
    sys.exit(0 if once and right and resolved and control > 0 else 1)


if __name__ == "__main__":
    main()
