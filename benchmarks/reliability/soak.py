"""Everything at once, for as long as it takes: `just soak --minutes 60`.

A DBOS application works all the time and is killed now and then; a local Conductor stands in front
of it, behind a proxy that fails in every way; four servers, each with a client that asks and
commands, and the command line share one cache, and are killed at any moment. Afterwards the faults
stop, and everything is looked through: the mirror is what upstream is, a rebuild is what is live,
the file is sound, no answer was lost, memory and WAL stayed where they were, nothing is left over.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

import anyio
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp_types import TextContent

from benchmarks.postgres import NoPostgresError, running_postgres
from benchmarks.reliability.faulty_proxy import HOST, Fault, FaultyProxy, free_port
from benchmarks.reliability.processes import adopt_orphans, children, holder_of, resident_bytes
from benchmarks.reliability.settled import Difference, come_to_rest, differences, faults_of
from benchmarks.reliability.soak_application import APPLICATION_NAME
from benchmarks.report import Report, machine, out
from dbos_mcp.conductor.client import ConductorClient
from dbos_mcp.conductor.credentials import Credentials
from dbos_mcp.conductor.identity import FixedIdentity
from dbos_mcp.settings import LOCAL_ORGANIZATION
from dbos_mcp.store.migrate import open_cache

SERVERS = 4
SPARED = 0
"""This server is not killed any more after a while: its memory is what is watched."""
SPARED_AFTER = 0.2
JUDGED_MINUTES = 5.0
"""In less a process has hardly warmed up: its memory is shown, and not judged."""
FROM, LATE = 0.25, 0.9
"""Of the time: memory then, and from then on to the end."""
GROWTH, MORE_BYTES = 1.25, 16 * 1024 * 1024
"""Memory is flat if it has become at the most so many times as much, and that."""
WAL_LIMIT_BYTES = 64 * 1024 * 1024
ANSWER_SECONDS = 120.0
START_SECONDS = 60.0
SAMPLE_SECONDS = 1.0
KEPT_IDS = 300
EXPECTED_FILES = re.compile(r"cache\.sqlite(-wal|-shm|\.checked|(\.\w+)?\.lock)?")
_IDS = re.compile(r"\b(?:order|wait|parcel)-[0-9a-f]{12}(?:-\d+)?\b")
_NAMES_AND_NUMBERS = re.compile(r"'[^']*'|\S*\d\S*")
_OF_THE_FILE = ("The cache ", "The read models", "A newer version")
ROOT = Path(__file__).parents[2]

COMMANDS = {"cancel_workflow": 2, "resume_workflow": 1, "fork_workflow": 1}
QUESTIONS = {
    "list_workflows": 6,
    "get_workflow": 6,
    "list_steps": 3,
    "get_workflow_history": 3,
    "list_changes": 3,
    "get_workflow_aggregates": 3,
    "list_failures": 2,
    "diagnose_workflow": 3,
    "compare_workflows": 1,
    "query_sql": 4,
    "list_applications": 1,
    "list_executors": 1,
    "describe_schema": 1,
    "sync_status": 2,
    "sync_now": 1,
}
_OF_A_WORKFLOW = {
    "get_workflow", "list_steps", "get_workflow_history", "diagnose_workflow", *COMMANDS,
}  # fmt: skip
_OF_NO_APPLICATION = {"query_sql", "describe_schema", "list_applications", "sync_status"}
STATEMENTS = (
    "SELECT status, count(*) FROM workflows GROUP BY status",
    "SELECT step_name, count(*), max(duration_ms) FROM steps GROUP BY step_name",
    "SELECT * FROM workflows ORDER BY created_at DESC LIMIT 20",
)


@dataclass
class Seen:
    """What clients and terminals saw."""

    answers: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    """Errors of tools, without names and numbers."""
    commands: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    programs: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    slowest_seconds: float = 0.0
    wal_peak_bytes: int = 0
    ids: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_IDS))
    wrong: list[str] = field(default_factory=list)
    """Reasons why it failed."""

    def note(self, text: str) -> None:
        self.wrong.append(text)
        out.print(f"[red]WRONG[/red] {text[:2000]}", soft_wrap=True)


@dataclass
class Place:
    """Where it all happens."""

    folder: Path
    database_url: str
    minutes: float
    seen: Seen
    began_at: float = field(default_factory=monotonic)

    @property
    def cache(self) -> Path:
        return self.folder / "cache" / "cache.sqlite"

    @property
    def temporary(self) -> Path:
        return self.folder / "temporary"

    @property
    def passed(self) -> float:
        """Of the time, 1 is the end."""
        return (monotonic() - self.began_at) / (self.minutes * 60)

    def environment(self, url: str) -> dict[str, str]:
        own = {k: v for k, v in os.environ.items() if not k.startswith(("DBOS", "XDG_"))}
        return own | {
            "HOME": str(self.folder),
            "TMPDIR": str(self.temporary),
            "DBOS_URL": url,
            "DBOS_MCP_CACHE": str(self.cache),
        }

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


class Application:
    """It is killed and started again."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        with self._place.log("application").open("a") as complaints:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.reliability.soak_application",
                 self._place.database_url],
                cwd=ROOT, text=True, stderr=complaints,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                env={**os.environ, "TMPDIR": str(self._place.folder)},
            )  # fmt: skip
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError(f"The application does not start: {self._place.log('application')}")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@contextmanager
def running_conductor(place: Place, port: int) -> Iterator[int]:
    """A local Conductor; its process."""
    command = [sys.executable, "-m", "dbos_mcp", "local-conductor", "--port", str(port)]
    command += ["--app", APPLICATION_NAME, "--system-database-url", place.database_url]
    with place.log("conductor").open("w") as complaints:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=complaints, stderr=complaints, env=place.environment("")
        )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


class Session:
    """A server that is started again whenever it was killed, and a client that asks it."""

    def __init__(self, place: Place, number: int, url: str) -> None:
        self._place = place
        self._seen = place.seen
        self._number = number
        self._url = url
        self._killed = False
        self.memory: list[tuple[float, int]] = []
        """When (of the time), and how much."""

    @property
    def process_id(self) -> int | None:
        try:
            return int(self._id_file.read_text())
        except (OSError, ValueError):
            return None

    @property
    def _id_file(self) -> Path:
        return self._place.folder / f"server-{self._number}.pid"

    def kill(self) -> bool:
        """Whether there was one to kill."""
        process_id = self.process_id
        if self._killed or process_id is None:
            return False
        self._killed = True
        os.kill(process_id, signal.SIGKILL)
        return True

    async def run(self) -> None:
        while True:
            self._killed = False
            self._id_file.unlink(missing_ok=True)
            self.memory.clear()
            try:
                async with self._client() as client:
                    while not self._killed:
                        await self._ask(client)
                        await anyio.sleep(random.expovariate(1 / 0.7))
            except Exception as error:
                if not self._killed:
                    self._seen.note(f"A client of server {self._number} broke: {error!r}")

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Client]:
        # The shell leaves its id, and becomes the server.
        server = StdioServerParameters(
            command="/bin/sh",
            args=["-c", 'echo $$ > "$0"; exec "$@"', str(self._id_file),
                  sys.executable, "-m", "dbos_mcp", "--log-level", "info"],
            env=self._place.environment(self._url),
            cwd=ROOT,
        )  # fmt: skip
        with self._place.log(f"server-{self._number}").open("a") as complaints:
            transport = stdio_client(server, errlog=complaints)
            async with Client(transport, read_timeout_seconds=ANSWER_SECONDS) as client:
                yield client

    async def _ask(self, client: Client) -> None:
        (tool,) = random.choices([*QUESTIONS, *COMMANDS], [*QUESTIONS.values(), *COMMANDS.values()])
        arguments = self._arguments(tool)
        if arguments is None:
            return
        began = monotonic()
        try:
            result = await client.call_tool(tool, arguments)
        except Exception as error:
            if not self._killed:
                self._seen.note(f"{tool} {arguments}: no answer, {error!r}")
            raise
        self._seen.slowest_seconds = max(self._seen.slowest_seconds, monotonic() - began)
        text = "\n".join(part.text for part in result.content if isinstance(part, TextContent))
        self._seen.answers += 1
        self._seen.commands += tool in COMMANDS
        if not result.is_error:
            self._seen.ids += _IDS.findall(text)[:5]
            return
        said = text.removeprefix(f"Error executing tool {tool}").removeprefix(": ")
        self._seen.refusals[f"{tool}: {_NAMES_AND_NUMBERS.sub('…', said)[:110]}"] += 1
        if not said or said.startswith(_OF_THE_FILE):
            self._seen.note(f"{tool} {arguments}: {text}")

    def _arguments(self, tool: str) -> dict[str, Any] | None:
        """None: nothing is known yet to ask about."""
        arguments: dict[str, Any] = {}
        if tool not in _OF_NO_APPLICATION:
            arguments["application_name"] = APPLICATION_NAME
        if tool in _OF_A_WORKFLOW or tool == "compare_workflows":
            if len(self._seen.ids) < 2:
                return None
            one, other = random.sample(self._seen.ids, 2)
            if tool == "compare_workflows":
                return arguments | {"workflow_id": one, "other_workflow_id": other}
            arguments["workflow_id"] = one
        match tool:
            case "list_workflows":
                filters: list[dict[str, Any]] = [
                    {}, {"status": "ERROR"}, {"status": ["PENDING", "ENQUEUED"]},
                    {"has_parent": True}, {"workflow_name": "place_order", "limit": 50},
                ]  # fmt: skip
                arguments |= random.choice(filters)
            case "get_workflow" if random.random() < 0.3:
                arguments["max_age_seconds"] = 0
            case "get_workflow_aggregates":
                arguments["group_by"] = "status"
            case "query_sql":
                arguments["sql"] = random.choice(STATEMENTS)
            case "fork_workflow":
                arguments["start_step"] = random.randint(1, 3)
        return arguments


async def run_faults(place: Place, proxy: FaultyProxy) -> None:
    """Well for a while, and bad for a while."""
    while True:
        await anyio.sleep(random.uniform(5, 25))
        await proxy.set(random.choice([fault for fault in Fault if fault is not Fault.NONE]))
        place.seen.faults[proxy.fault] += 1
        await anyio.sleep(random.uniform(3, 12))
        await proxy.set(Fault.NONE)


async def run_kills(place: Place, sessions: Sequence[Session], application: Application) -> None:
    leader_lock = place.cache.with_name(place.cache.name + ".leader.lock")
    while True:
        await anyio.sleep(random.uniform(4, 16))
        leader = holder_of(leader_lock)
        whom = random.choices(["leader", "any", "application"], [3, 4, 1])[0]
        if whom == "application":
            application.kill()
            await anyio.to_thread.run_sync(application.start)
            place.seen.kills["the application"] += 1
            continue
        mortal = [*sessions] if place.passed < SPARED_AFTER else [*sessions[SPARED + 1 :]]
        leading = [session for session in mortal if session.process_id == leader]
        victim = random.choice(leading if whom == "leader" and leading else mortal)
        if victim.kill():
            place.seen.kills["the syncing server" if victim in leading else "another server"] += 1


async def run_programs(place: Place, url: str) -> None:
    """The command line, on the same cache."""
    files = place.folder / "made"
    files.mkdir()
    programs: list[list[str]] = [
        ["sync"],
        ["sql", STATEMENTS[0]],
        ["status"],
        ["report", "--failures", "--since", "1h", "-o", str(files / "report.html"), "--force"],
        ["export", "--since=-10m", str(files / "incident.sqlite"), "--force"],
    ]
    if await _knows(place, url, "cache", "check"):
        backup = str(files / "backup.sqlite")
        programs += [["cache", "check"], ["cache", "backup", backup, "--force"]]
    while True:
        await anyio.sleep(random.uniform(5, 20))
        arguments = random.choice(programs)
        killed = random.random() < 0.2
        what = " ".join(arguments[:2]) if arguments[0] == "cache" else arguments[0]
        with anyio.move_on_after(random.uniform(0.5, 4) if killed else ANSWER_SECONDS) as time:
            done = await _run(place, url, *arguments)
        if time.cancelled_caught:
            place.seen.kills[f"dbos-mcp {what}"] += 1
            if not killed:
                place.seen.note(f"dbos-mcp {what} took longer than {ANSWER_SECONDS:.0f} s")
            continue
        place.seen.programs[f"{what}: {done.returncode}"] += 1
        said = done.stdout.decode() + done.stderr.decode()
        # What needs Conductor may fail while that does; a report of nothing is one as well.
        if "Traceback" in said or (done.returncode and what in ("sql", "status", "cache check")):
            place.seen.note(f"dbos-mcp {what} ended with {done.returncode}: {said[-1500:]}")


async def _knows(place: Place, url: str, *arguments: str) -> bool:
    return (await _run(place, url, *arguments, "--help")).returncode == 0


async def _run(place: Place, url: str, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    """Cancelled, it is killed."""
    return await anyio.run_process(
        [sys.executable, "-m", "dbos_mcp", *arguments],
        env=place.environment(url), cwd=ROOT, check=False,
    )  # fmt: skip


async def run_samples(place: Place, sessions: Sequence[Session], conductor: "Memory") -> None:
    wal = place.cache.with_name(place.cache.name + "-wal")
    while True:
        await anyio.sleep(SAMPLE_SECONDS)
        if wal.exists():
            place.seen.wal_peak_bytes = max(place.seen.wal_peak_bytes, wal.stat().st_size)
        conductor.sample(place.passed)
        for session in sessions:
            used = resident_bytes(session.process_id or 0)
            if used is not None:
                session.memory.append((place.passed, used))


@dataclass
class Memory:
    process_id: int
    samples: list[tuple[float, int]] = field(default_factory=list)

    def sample(self, passed: float) -> None:
        used = resident_bytes(self.process_id)
        if used is not None:
            self.samples.append((passed, used))


async def run_lines(place: Place, sessions: Sequence[Session], proxy: FaultyProxy) -> None:
    while True:
        await anyio.sleep(60)
        seen = place.seen
        used = [session.memory[-1][1] for session in sessions if session.memory]
        out.print(
            f"min {place.passed * place.minutes:.0f}: {seen.answers:,} answers"
            f" ({seen.refusals.total():,} errors of tools), {seen.commands:,} commands,"
            f" {seen.kills.total()} kills, {seen.programs.total()} programs,"
            f" {seen.faults.total()} faults (now: {proxy.fault}),"
            f" servers {' '.join(f'{each / 1e6:.0f}' for each in used)} MB,"
            f" WAL at most {seen.wal_peak_bytes / 1e6:.1f} MB, {len(seen.wrong)} wrong",
            soft_wrap=True,
        )


async def soak(place: Place) -> Report:
    """The hour itself, and what is found afterwards; what is left over shows only later."""
    seen, port = place.seen, free_port()
    application, proxy = Application(place), FaultyProxy(port)
    with ExitStack() as stack:
        stack.callback(application.kill)
        application.start()
        conductor = Memory(stack.enter_context(running_conductor(place, port)))
        await _answers(port)
        sessions = [Session(place, number, proxy.url) for number in range(SERVERS)]
        place.began_at = monotonic()
        with anyio.move_on_after(place.minutes * 60):
            async with anyio.create_task_group() as tasks:
                await tasks.start(proxy.serve)
                for session in sessions:
                    tasks.start_soon(session.run)
                tasks.start_soon(run_faults, place, proxy)
                tasks.start_soon(run_kills, place, sessions, application)
                tasks.start_soon(run_programs, place, proxy.url)
                tasks.start_soon(run_samples, place, sessions, conductor)
                tasks.start_soon(run_lines, place, sessions, proxy)
        application.kill()
        report = Report(f"{place.minutes:g} minutes")
        report_seen(report, seen)
        report_memory(report, place, f"server {SPARED}", sessions[SPARED].memory)
        report_memory(report, place, "local Conductor", conductor.samples)
        await report_mirror(report, place, f"http://{HOST}:{port}")
    return report


async def _answers(port: int) -> None:
    with anyio.fail_after(START_SECONDS):
        while True:
            try:
                stream = await anyio.connect_tcp(HOST, port)
            except OSError:
                await anyio.sleep(0.1)
            else:
                await stream.aclose()
                return


def report_seen(report: Report, seen: Seen) -> None:
    report.add("answers", f"{seen.answers:,}")
    report.add("… slowest", f"{seen.slowest_seconds:.1f} s", f"<= {ANSWER_SECONDS:.0f} s")
    report.add("commands", f"{seen.commands:,}")
    for name, counts in (
        ("killed", seen.kills), ("program, exit code", seen.programs), ("fault", seen.faults),
    ):  # fmt: skip
        for what, count in sorted(counts.items()):
            report.add(f"{name}: {what}", f"{count:,}")
    for what, count in seen.refusals.most_common(25):
        report.add(f"error of a tool: {what}", f"{count:,}")
    wrong = len(seen.wrong)
    report.add("no answer, a crash, a fault of the cache", f"{wrong}", "0", wrong == 0)
    peak = seen.wal_peak_bytes
    if peak > WAL_LIMIT_BYTES:
        seen.note(f"The WAL grew to {peak:,} bytes")
    report.add("WAL at most", f"{peak / 1e6:.1f} MB", "<= 64 MiB", peak <= WAL_LIMIT_BYTES)


def report_memory(
    report: Report, place: Place, name: str, samples: Sequence[tuple[float, int]]
) -> None:
    early = [used for passed, used in samples if FROM <= passed < FROM + 0.1]
    late = [used for passed, used in samples if passed >= LATE]
    if not early or not late:
        place.seen.note(f"The memory of the {name} could not be watched")
        return
    before, after = median(early), median(late)
    judged = place.minutes >= JUDGED_MINUTES
    flat = after <= before * GROWTH + MORE_BYTES if judged else None
    if flat is False:
        place.seen.note(f"The memory of the {name} grew from {before:,.0f} to {after:,.0f} bytes")
    report.add(
        f"memory of the {name}, after a quarter and at the end",
        f"{before / 1e6:.0f}, {after / 1e6:.0f} MB",
        f"<= {GROWTH:g} x and {MORE_BYTES / 1e6:.0f} MB more",
        flat,
    )


async def report_mirror(report: Report, place: Place, url: str) -> None:
    """Upstream is well, nobody works there any more, and one sync has to do."""
    seen = place.seen
    done = await _run(place, url, "sync")
    if done.returncode:
        seen.note(f"The sync at the end failed: {done.stderr.decode()[-1500:]}")
    identity = FixedIdentity(Credentials(LOCAL_ORGANIZATION), "")
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            ConductorClient(url, identity, reads_per_second=1000)
        )
        cache = stack.enter_context(closing(open_cache(place.cache)))
        after_one = [
            each
            async for each in differences(cache, client, APPLICATION_NAME, steps=False)
            if each.what != "presence" or each.theirs  # what is gone is for an audit
        ]
        _report_differences(report, seen, "after one sync", after_one)
        cycles = await come_to_rest(cache, client)
        at_rest = [each async for each in differences(cache, client, APPLICATION_NAME)]
        _report_differences(report, seen, f"at rest, {cycles} cycles later, with steps", at_rest)
        with cache.read() as connection:
            counts = connection.exec_driver_sql(
                "SELECT (SELECT count(*) FROM workflow), (SELECT count(*) FROM workflow WHERE"
                " deleted_at IS NOT NULL), (SELECT count(*) FROM step),"
                " (SELECT count(*) FROM event)"
            ).one()
        report.add(
            "workflows, of them deleted, steps, events", ", ".join(f"{each:,}" for each in counts)
        )
        faults = faults_of(cache)
    for what, fault in faults.items():
        seen.note(f"{what}: {fault}")
    report.add("integrity, log, rebuild", ", ".join(faults) or "sound", "sound", not faults)


def _report_differences(report: Report, seen: Seen, when: str, found: Sequence[Difference]) -> None:
    for each in found[:5]:
        seen.note(f"{when}: {each}")
    report.add(f"differences from upstream {when}", f"{len(found):,}", "0", not found)


def report_leftovers(report: Report, place: Place) -> None:
    left = [command for _, command in children()]
    left += [str(path) for path in place.temporary.iterdir()]
    left += [
        str(path)
        for path in place.cache.parent.iterdir()
        if not EXPECTED_FILES.fullmatch(path.name)
    ]
    for each in left:
        place.seen.note(f"Left over: {each}")
    report.add("processes and files left over", f"{len(left)}", "0", not left)
    for log in place.folder.glob("server-*.log"):
        crashes = [line for line in log.read_text().splitlines() if "Traceback" in line]
        for line in crashes[:3]:
            place.seen.note(f"In {log.name}: {line[-1500:]}")


@contextmanager
def database(folder: Path) -> Iterator[str]:
    """PostgreSQL where there is one, else a file."""
    with ExitStack() as stack:
        try:
            url = stack.enter_context(running_postgres()).format("soak")
        except NoPostgresError as reason:
            out.print(f"{reason}: the system database is a SQLite file.")
            url = f"sqlite:///{folder}/system.sqlite"
        yield url


def main() -> None:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument(
        "--keep", action="store_true", help="keep the folder, also when all is well"
    )
    options = parser.parse_args()
    random.seed(options.seed)
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by way of all that is to be ended
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    out.print(f"{machine()}; seed {options.seed}; {folder}", soft_wrap=True)
    seen = Seen()
    with database(folder) as url:
        place = Place(folder, url, options.minutes, seen)
        place.temporary.mkdir()
        place.cache.parent.mkdir()
        report = anyio.run(soak, place)
    report_leftovers(report, place)
    report.print()
    for reason in seen.wrong:
        out.print(f"- {reason[:300]}", soft_wrap=True)
    if not seen.wrong and not options.keep:
        shutil.rmtree(folder)
    sys.exit(1 if seen.wrong else 0)


if __name__ == "__main__":
    main()
