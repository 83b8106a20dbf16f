"""How long a client waits for a server that it starts: `just bench-start`.

Until `initialize` is answered, until the tools are listed, and until the first `list_workflows` is,
each from the start of the process; ours beside a bare `MCPServer`, in turns, since machines are
noisy. The first answer is measured with a mirror that is there, and without one in front of
Conductors that are well, slow, gone, or never answer. Bytecode is compiled before, as it is from
the second start on.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import anyio

from benchmarks.generate import Population, database_of
from benchmarks.mirror import make_mirror
from benchmarks.report import Report, machine, milliseconds, out, percentile
from dbos_mcp.demo.tour import APPLICATION_NAME, running_conductor

TIMES_BARE = 1.3
FIRST_ANSWER_SECONDS = 2.0
SLOW_SECONDS = 1.0
BARE = ["-m", "benchmarks.bare"]
OURS = ["-m", "dbos_mcp"]
COMMANDS = (("--version",), ("--help",), ("cache", "path"), ("status",))
_HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "bench-start", "version": "1"},
}


@dataclass
class Started:
    """Seconds from the start of the process to each answer; of the first question also from when it
    was asked."""

    initialize: float
    tools: float
    answered: float = 0.0
    asked_for: float = 0.0
    said: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench-start", description=__doc__)
    parser.add_argument("--starts", type=int, default=10, help="of each")
    parser.add_argument("--rows", type=int, default=20_000, help="workflows in Conductor")
    given = parser.parse_args()
    anyio.run(run, given.starts, Population(rows=given.rows))


async def run(starts: int, population: Population) -> None:
    out.print(f"{machine()}; {starts} starts of each.")
    with tempfile.TemporaryDirectory(prefix="dbos-mcp-benchmark-") as name:
        folder = Path(name)
        system = Path(shutil.copy(database_of(population), folder))
        cache = folder / "cache.sqlite"
        await make_mirror(system, cache)
        async with running_conductor(system) as url:
            await anyio.to_thread.run_sync(_measure, starts, url, cache, folder)


def _measure(starts: int, url: str, cache: Path, folder: Path) -> None:
    warm = {"DBOS_URL": url, "DBOS_MCP_CACHE": str(cache)}
    _started(BARE, folder, {})
    _started(OURS, folder, warm, question=True)
    bare, ours, ends = [], [], []
    for _ in range(starts):
        bare.append(_started(BARE, folder, {}))
        ours.append(_started(OURS, folder, warm))
        ends.append(_started(OURS, folder, warm, question=True))
    report = Report("From the start of a process; the median")
    for what, of in _ANSWERS:
        floor, figure = (percentile([of(each) for each in them], 50) for them in (bare, ours))
        ratio = floor and figure / floor
        target = (f"<= {TIMES_BARE} x bare", ratio <= TIMES_BARE) if what == "initialize" else ()
        report.add(f"{what}, of a bare server", f"{milliseconds(floor)} ms")
        report.add(f"{what}, of ours ({ratio:.2f} x)", f"{milliseconds(figure)} ms", *target)
    _add_first(report, "a mirror that is there", ends)
    port = int(url.rpartition(":")[2])
    with _relay(port, SLOW_SECONDS) as slow, _relay(None, 0) as hanging:
        gone = f"http://127.0.0.1:{_free_port()}"
        for what, variables in (
            ("none yet", {"DBOS_URL": url}),
            (f"none yet, each answer takes {SLOW_SECONDS:g} s", {"DBOS_URL": slow}),
            ("none yet, Conductor is gone", {"DBOS_URL": gone}),
            ("none yet, Conductor never answers", {"DBOS_URL": hanging}),
            ("none yet, nobody is logged in", {}),
        ):
            with tempfile.TemporaryDirectory(dir=folder) as home:
                _add_first(report, what, [_started(OURS, Path(home), variables, question=True)])
    for command in COMMANDS:
        times = [_ran(command, folder, warm) for _ in range(starts)]
        report.add(f"dbos-mcp {' '.join(command)}", f"{milliseconds(percentile(times, 50))} ms")
    report.print()


_ANSWERS: Sequence[tuple[str, Callable[[Started], float]]] = (
    ("initialize", lambda each: each.initialize),
    ("tools/list", lambda each: each.tools),
)


def _add_first(report: Report, what: str, starts: Sequence[Started]) -> None:
    call = percentile([each.asked_for for each in starts], 50)
    whole = percentile([each.answered for each in starts], 50)
    within = call <= FIRST_ANSWER_SECONDS
    name = f"first list_workflows; {what}"
    report.add(name, f"{milliseconds(call)} ms", f"<= {FIRST_ANSWER_SECONDS * 1000:,.0f}", within)
    report.add("… from the start of the process", f"{milliseconds(whole)} ms")
    report.add(f"… it said: {starts[-1].said[-400:]}", "")


def _started(
    command: Sequence[str], home: Path, variables: Mapping[str, str], *, question: bool = False
) -> Started:
    began = perf_counter()
    with subprocess.Popen(
        [sys.executable, *command],
        env=_environment(home, variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        _ask(process, "initialize", _HELLO)
        started = Started(perf_counter() - began, 0)
        _say(process, {"method": "notifications/initialized"})
        _ask(process, "tools/list", {})
        started.tools = perf_counter() - began
        if question:
            arguments = {"application_name": APPLICATION_NAME}
            asked = perf_counter()
            answer = _ask(process, "tools/call", {"name": "list_workflows", "arguments": arguments})
            started.answered = perf_counter() - began
            started.asked_for = perf_counter() - asked
            started.said = answer["result"]["content"][0]["text"]
    return started


def _environment(home: Path, variables: Mapping[str, str]) -> dict[str, str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("DBOS", "PYTHONDONTWRITE"))}
    return {**own, "HOME": str(home), **variables}


def _ask(process: subprocess.Popen[bytes], method: str, params: Mapping[str, Any]) -> Any:
    _say(process, {"id": 1, "method": method, "params": params})
    assert process.stdout is not None
    while True:
        answer = json.loads(process.stdout.readline())
        if "id" in answer:
            return answer


def _say(process: subprocess.Popen[bytes], message: Mapping[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    process.stdin.flush()


def _ran(command: Sequence[str], home: Path, variables: Mapping[str, str]) -> float:
    began = perf_counter()
    subprocess.run(
        [sys.executable, *OURS, *command],
        env=_environment(home, variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return perf_counter() - began


@contextmanager
def _relay(port: int | None, delay: float) -> Iterator[str]:
    """The URL of a way to a port of this machine on which each answer takes that much longer; none:
    everybody is let in, and nobody is answered."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        held: list[socket.socket] = []

        def pass_on(source: socket.socket, to: socket.socket, wait: float) -> None:
            with suppress(OSError):
                while data := source.recv(1 << 20):
                    sleep(wait)
                    to.sendall(data)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    held.append(client)
                    if port is not None:
                        server = socket.create_connection(("127.0.0.1", port))
                        held.append(server)
                        for way in ((client, server, 0.0), (server, client, delay)):
                            threading.Thread(target=pass_on, args=way, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        for each in held:
            each.close()


def _free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
