"""Many clients of one server over HTTP at once: `just http-load --clients 200 --seconds 60`.

The server is a process of its own over a mirror that nobody changes, and asks for tokens. The
clients are tasks of this process and speak the protocol with plain httpx: the SDK's own client
costs more than the server, on the same cores. Half of them have a session (the protocol's older
era, answers as event streams), half need none (the newer one). Each asks again as soon as it has
its answer: lists, details, aggregates, SQL and figures, so that the server never rests.

Every answer is checked. The run misses its goal at the first one that is none.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, cycle
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import anyio
import httpx

from benchmarks.generate import Population
from benchmarks.mirror import FEWEST_ROWS, mirror_of
from benchmarks.reliability.processes import processor_seconds, resident_bytes
from benchmarks.report import Report, machine, milliseconds, out, percentile
from dbos_mcp.demo.tour import APPLICATION_NAME
from dbos_mcp.domain import Rights
from dbos_mcp.serving.tokens import TokenFile

CLIENTS_OF_A_TOKEN = 10
WARM_SECONDS = 5.0
"""Memory is taken from then on: by then everything has been asked once."""
MORE_BYTES = 48 * 1024 * 1024
"""So much more may be taken at the end."""
ANSWER_SECONDS = 60.0
START_SECONDS = 60.0
OLDER, NEWER = "2025-11-25", "2026-07-28"
ACCEPT = "application/json, text/event-stream"
META = {
    "_meta": {
        "io.modelcontextprotocol/protocolVersion": NEWER,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
}
APPLICATION = {"application_name": APPLICATION_NAME}
Question = tuple[str, dict[str, object]]
QUESTIONS: tuple[Question, ...] = (
    ("list_workflows", {**APPLICATION, "status": ["ERROR"], "limit": 20}),
    ("list_workflows", {**APPLICATION, "limit": 50}),
    ("list_applications", {}),
    ("get_workflow_aggregates", {**APPLICATION, "group_by": ["status"]}),
    ("list_failures", {**APPLICATION}),
    ("list_workflows", {**APPLICATION, "status": ["SUCCESS"], "order_by": "completed"}),
    ("sync_status", {}),
)
SQL: Question = ("query_sql", {"sql": "SELECT status, count(*) FROM workflows GROUP BY status"})
SQL_EVERY = 10
FIGURES_EVERY = 50


@dataclass
class Seen:
    """What came of it."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def every(self) -> list[float]:
        return [seconds for of_one in self.seconds.values() for seconds in of_one]


@dataclass
class Client:
    """One agent."""

    http: httpx.AsyncClient
    url: str
    headers: dict[str, str]
    seen: Seen
    ids: Iterator[int] = field(default_factory=count)
    has_session: bool = False

    async def open_session(self) -> None:
        """As the older era begins."""
        params = {
            "protocolVersion": OLDER,
            "capabilities": {},
            "clientInfo": {"name": "load", "version": "1"},
        }
        self.has_session = True
        self.headers["mcp-protocol-version"] = OLDER
        answer = await self._post("initialize", params)
        self.headers["mcp-session-id"] = answer.headers["mcp-session-id"]
        told = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        await self.http.post(f"{self.url}/mcp", json=told, headers=self.headers)

    async def ask(self, tool: str, arguments: dict[str, object]) -> None:
        with self._timed(tool):
            answer = await self._post("tools/call", {"name": tool, "arguments": arguments}, tool)
            result = _message(answer)["result"]
            if result.get("isError"):
                raise ValueError(result["content"][0]["text"])

    async def read_figures(self) -> None:
        with self._timed("/metrics"):
            answer = await self.http.get(f"{self.url}/metrics", headers=self.headers)
            answer.raise_for_status()

    async def _post(
        self, method: str, params: dict[str, Any], name: str | None = None
    ) -> httpx.Response:
        headers = dict(self.headers)
        if not self.has_session:
            params = params | META
            headers |= {"mcp-protocol-version": NEWER, "mcp-method": method}
            headers |= {"mcp-name": name} if name is not None else {}
        body = {"jsonrpc": "2.0", "id": next(self.ids), "method": method, "params": params}
        answer = await self.http.post(f"{self.url}/mcp", json=body, headers=headers)
        answer.raise_for_status()
        return answer

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        begun = monotonic()
        try:
            yield
        except (httpx.HTTPError, ValueError, KeyError) as error:
            self.seen.faults[f"{what}: {type(error).__name__} {error}"[:160]] += 1
        self.seen.seconds[what].append(monotonic() - begun)


def _message(answer: httpx.Response) -> Any:
    """What it says, as a document or as the last event of a stream."""
    if answer.headers["content-type"].startswith("text/event-stream"):
        data = [line for line in answer.text.splitlines() if line.startswith("data: {")]
        return json.loads(data[-1].removeprefix("data: "))
    return answer.json()


async def _work(client: Client, number: int, until: float) -> None:
    turn = number % len(QUESTIONS)
    questions = cycle(QUESTIONS[turn:] + QUESTIONS[:turn])
    if number % 2:
        await client.open_session()
    for asked in count(number):
        if monotonic() >= until:
            return
        if asked % FIGURES_EVERY == 0:
            await client.read_figures()
        else:
            await client.ask(*(SQL if asked % SQL_EVERY == 0 else next(questions)))


@dataclass(frozen=True)
class Served:
    url: str
    process_id: int
    tokens: Sequence[str]

    @property
    def resident(self) -> int:
        return resident_bytes(self.process_id) or 0


@contextmanager
def serving(mirror: Path, clients: int) -> Iterator[Served]:
    """A server over the mirror, which it only reads, with a token for some clients each."""
    with tempfile.TemporaryDirectory(prefix="http-load-") as name:
        home = Path(name)
        file = TokenFile(home / ".dbos-mcp" / "tokens.json")
        names = [f"team-{number}" for number in range(-(-clients // CLIENTS_OF_A_TOKEN))]
        tokens = [file.create(each, Rights.READ)[0] for each in names]
        command = [sys.executable, "-m", "dbos_mcp", "--offline", "--cache", str(mirror)]
        environ = {**os.environ, "HOME": name}
        with (home / "log").open("w+") as log:
            process = subprocess.Popen(
                [*command, "serve", "--http", "--port", "0"], env=environ, stderr=log
            )
            try:
                yield Served(_url(home / "log", process), process.pid, tokens)
            finally:
                process.terminate()
                process.wait()
            if process.returncode:
                raise SystemExit(f"The server ended with {process.returncode}.")


def _url(log: Path, process: "subprocess.Popen[bytes]") -> str:
    until = monotonic() + START_SECONDS
    while "/mcp;" not in (said := log.read_text()):
        if process.poll() is not None or monotonic() > until:
            raise SystemExit(f"The server did not start: {said}")
        sleep(0.05)
    return said.partition("served at ")[2].partition("/mcp;")[0]


@dataclass(frozen=True)
class Run:
    seen: Seen
    seconds: float
    processor_seconds: float
    """The server's, without that of its worker for SQL."""
    begin_bytes: int
    warm_bytes: int
    end_bytes: int

    @property
    def is_good(self) -> bool:
        return not self.seen.faults and self.end_bytes - self.warm_bytes <= MORE_BYTES


def load(mirror: Path, clients: int, seconds: float) -> Run:
    with serving(mirror, clients) as served:
        return anyio.run(_load, served, clients, seconds)


async def _load(served: Served, clients: int, seconds: float) -> Run:
    seen = Seen()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(timeout=ANSWER_SECONDS, limits=limits, trust_env=False) as http:
        begin, begun = served.resident, monotonic()
        used = processor_seconds(served.process_id)
        async with anyio.create_task_group() as tasks:
            for number in range(clients):
                token = served.tokens[number // CLIENTS_OF_A_TOKEN]
                headers = {"authorization": f"Bearer {token}", "accept": ACCEPT}
                client = Client(http, served.url, headers, seen)
                tasks.start_soon(_work, client, number, begun + seconds)
            await anyio.sleep(min(WARM_SECONDS, seconds / 2))
            warm = served.resident
        used = processor_seconds(served.process_id) - used
        return Run(seen, monotonic() - begun, used, begin, warm, served.resident)


def _print(run: Run, clients: int) -> None:
    every = run.seen.every
    report = Report(f"{clients} clients over HTTP for {run.seconds:.0f} s")
    faults = sum(run.seen.faults.values())
    report.add("answers", f"{len(every):,}", f"{len(every) / run.seconds:,.0f} a second")
    report.add("faults", str(faults), "0", not faults)
    of_one = run.processor_seconds / len(every)
    report.add("the server's processor, ms an answer", milliseconds(of_one))
    report.add("p50, ms", milliseconds(percentile(every, 50)))
    report.add("p99, ms", milliseconds(percentile(every, 99)))
    report.add("longest, ms", milliseconds(max(every)))
    for what, times in sorted(run.seen.seconds.items()):
        report.add(f"p99 of {what}, ms", milliseconds(percentile(times, 99)), f"{len(times):,}")
    report.add("memory at the start, MB", f"{run.begin_bytes / 1e6:.0f}")
    report.add("memory when warm, MB", f"{run.warm_bytes / 1e6:.0f}")
    flat = run.end_bytes - run.warm_bytes <= MORE_BYTES
    report.add(
        "memory at the end, MB", f"{run.end_bytes / 1e6:.0f}", f"+{MORE_BYTES / 1e6:.0f}", flat
    )
    report.print()
    for fault, often in run.seen.faults.most_common(10):
        out.print(f"{often} times {fault}", markup=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rows", type=int, default=FEWEST_ROWS, help="workflows in the mirror")
    arguments = parser.parse_args()
    out.print(machine())
    mirror = anyio.run(mirror_of, Population(rows=arguments.rows))
    run = load(mirror, arguments.clients, arguments.seconds)
    _print(run, arguments.clients)
    sys.exit(0 if run.is_good else 1)


if __name__ == "__main__":
    main()
