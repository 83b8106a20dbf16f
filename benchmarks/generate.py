"""A DBOS system database of any size, as a busy shop would have left it behind.

The schema is made by DBOS's own migrations; the rows are written past DBOS, in bulk. They are a
function of the `Population` alone: same parameters, same bytes. A database is made once and kept
under the system's temporary folder; take a copy before changing anything in it.
"""

import base64
import json
import os
import pickle
import random
import sqlite3
import tempfile
from bisect import bisect
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from dbos_mcp.demo.tour import APPLICATION_NAME

ENDS_AT = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)
"""The newest row's creation, in epoch milliseconds: fixed, so that the rows are too."""

FORMAT = 1
"""Part of the cache key: raise it when the rows come out differently."""

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
_VERSION_DAYS = 5
_CHUNK = 20_000
# Of 24 hours, how busy each is.
_HOURS = (3, 2, 2, 2, 2, 3, 5, 8, 12, 14, 15, 15, 14, 15, 15, 14, 13, 12, 11, 10, 8, 7, 5, 4)
_LARGE_BATCH = 1500  # more than a page of rows that were created in one millisecond


@dataclass(frozen=True)
class Population:
    """What a database holds: `rows` workflows of `days` days, the newest `in_flight` unfinished."""

    rows: int = 100_000
    days: float = 60.0
    in_flight: int = 400
    seed: int = 1

    @property
    def key(self) -> str:
        text = json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)
        return f"{self.rows}-{blake2b(text.encode(), digest_size=6).hexdigest()}"


@dataclass(frozen=True)
class _Kind:
    """One workflow function of the shop, and how often it is called."""

    name: str
    weight: int
    class_name: str | None = None
    config_name: str | None = None
    queue_name: str | None = None
    child: bool = False
    schedule_name: str | None = None
    timeout_ms: int | None = None
    seconds: float = 2.0


_KINDS = (
    _Kind("place_order", 22, timeout_ms=600_000, seconds=4),
    _Kind("charge_card", 15, "Payments", "stripe", child=True),
    _Kind("ship_order", 13, queue_name="warehouse", child=True, seconds=60),
    _Kind("pick_items", 12, queue_name="warehouse", seconds=30),
    _Kind("send_email", 16, queue_name="mail", child=True, seconds=1),
    _Kind("quote_delivery", 7, child=True, seconds=0.4),
    _Kind("import_catalogue", 4, "Catalogue", "nightly", queue_name="imports", seconds=300),
    _Kind("reconcile_payments", 3, "Payments", "stripe", schedule_name="reconcile"),
    _Kind("refresh_prices", 4, schedule_name="prices"),
    _Kind("embed_documents", 3, "Search", queue_name="gpu", seconds=20),
    _Kind("refund", 1, "Payments", "stripe", timeout_ms=60_000),
)
QUEUES = {kind.name: kind.queue_name for kind in _KINDS}
"""Of each workflow function; None: it is called, or started, without one."""
EXECUTORS = tuple(f"shop-6f9c7d5b8-{suffix}" for suffix in ("x2vqk", "m8fzt", "q4hsn", "b7wlp"))
STEPS = ("check_stock", "reserve_items", "call_supplier", "write_ledger", "notify_customer")


def serialize(value: object) -> str:
    """As DBOS's default serializer stores it."""
    return base64.b64encode(pickle.dumps(value)).decode()


def kept() -> Path:
    """The folder of what is dear to make and the same each time."""
    folder = Path(tempfile.gettempdir()) / "dbos-mcp-benchmarks"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def database_of(population: Population, folder: Path | None = None) -> Path:
    """The population's database, made unless an earlier run has left it in `folder`."""
    path = (folder or kept()) / f"system-{population.key}.sqlite"
    if not path.exists():
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        try:
            generate(unfinished, population)
            unfinished.rename(path)
        finally:
            unfinished.unlink(missing_ok=True)
    return path


def generate(path: Path, population: Population) -> None:
    """Write the database of a population to a new file."""
    from dbos import run_dbos_database_migrations

    run_dbos_database_migrations(f"sqlite:///{path}")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        # Nothing here outlives a crash, and nobody else looks before the file has its name.
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -600000"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        indexes = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        ).fetchall()
        for name, _ in indexes:
            connection.execute(f'DROP INDEX "{name}"')
        _fill(connection, population)
        for _, statement in indexes:  # all at once costs a tenth of row by row
            connection.execute(statement)
        connection.execute("COMMIT")
        connection.execute("ANALYZE")


def _fill(connection: sqlite3.Connection, population: Population) -> None:
    rows = _Rows(population)
    for table in ("queues", "application_versions"):
        for values in rows.registry(table):
            _insert(connection, table, tuple(values), [tuple(values.values())])
    workflows = iter(rows)
    while chunk := list(islice(workflows, _CHUNK)):
        _insert(connection, "workflow_status", STATUS_COLUMNS, [row.status for row in chunk])
        inputs = [(row.workflow_id, row.input, row.created_at) for row in chunk]
        _insert(connection, "workflow_input", INPUT_COLUMNS, inputs)
        outputs = [
            (row.workflow_id, row.output, row.error, row.created_at)
            for row in chunk
            if row.output is not None or row.error is not None
        ]
        _insert(connection, "workflow_output", OUTPUT_COLUMNS, outputs)
        steps = [step for row in chunk for step in row.steps]
        _insert(connection, "operation_outputs", STEP_COLUMNS, steps)


def _insert(
    connection: sqlite3.Connection,
    table: str,
    columns: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
) -> None:
    places = ", ".join("?" * len(columns))
    connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", rows)


STATUS_COLUMNS = (
    "workflow_uuid",
    "status",
    "name",
    "authenticated_user",
    "assumed_role",
    "authenticated_roles",
    "executor_id",
    "created_at",
    "updated_at",
    "application_version",
    "application_id",
    "class_name",
    "config_name",
    "recovery_attempts",
    "queue_name",
    "workflow_timeout_ms",
    "workflow_deadline_epoch_ms",
    "started_at_epoch_ms",
    "deduplication_id",
    "priority",
    "forked_from",
    "owner_xid",
    "creator_xid",
    "parent_workflow_id",
    "serialization",
    "delay_until_epoch_ms",
    "completed_at",
    "attributes",
    "schedule_name",
    "application_name",
)
INPUT_COLUMNS = ("workflow_uuid", "inputs", "retention_timestamp")
OUTPUT_COLUMNS = ("workflow_uuid", "output", "error", "retention_timestamp")
STEP_COLUMNS = (
    "workflow_uuid",
    "function_id",
    "function_name",
    "output",
    "error",
    "started_at_epoch_ms",
    "completed_at_epoch_ms",
    "serialization",
    "application_name",
    "retention_timestamp",
)


@dataclass(frozen=True)
class WorkflowRows:
    """One workflow in all of its tables."""

    workflow_id: str
    created_at: int
    status: tuple[Any, ...]
    input: str
    output: str | None
    error: str | None
    steps: Sequence[tuple[Any, ...]]


class _Rows:
    """The workflows of a population, oldest first."""

    def __init__(self, population: Population) -> None:
        self.population = population
        self.random = random.Random(population.seed)
        self.weights = list(accumulate(kind.weight for kind in _KINDS))
        self.inputs = [
            serialize({"args": ({"order_id": f"order-{n}", "items": n % 7},), "kwargs": {}})
            for n in range(500)
        ]
        self.outputs = [serialize({"order_id": f"order-{n}", "done": True}) for n in range(500)]
        self.parents: list[tuple[str, int]] = []

    def registry(self, table: str) -> Iterator[dict[str, Any]]:
        """What an application notes of itself when it starts."""
        start = ENDS_AT - int(self.population.days * _DAY_MS)
        if table == "queues":
            for name in sorted({kind.queue_name for kind in _KINDS if kind.queue_name}):
                yield {
                    "queue_id": self._uuid(),
                    "name": name,
                    "created_at": start,
                    "updated_at": start,
                    "application_name": APPLICATION_NAME,
                }
        else:
            for at in range(ENDS_AT, start, -_VERSION_DAYS * _DAY_MS):
                yield {
                    "version_id": self._uuid(),
                    "version_name": _version(at),
                    "version_timestamp": at,
                    "created_at": at,
                    "application_name": APPLICATION_NAME,
                }

    def __iter__(self) -> Iterator[WorkflowRows]:
        times = self._times()
        first_in_flight = len(times) - self.population.in_flight
        for number, created_at in enumerate(times):
            yield self._workflow(created_at, in_flight=number >= first_in_flight)

    def _times(self) -> list[int]:
        """More by day than by night, and bursts: a batch is created in one millisecond."""
        pick = self.random
        population = self.population
        start = ENDS_AT - int(population.days * _DAY_MS)
        hours = max(1, int(population.days * 24))
        busy = list(accumulate(_HOURS[(start // _HOUR_MS + hour) % 24] for hour in range(hours)))
        length = (ENDS_AT - start) / hours

        def some_time() -> int:
            hour = bisect(busy, pick.random() * busy[-1])
            return start + int((hour + pick.random()) * length)

        times: list[int] = []
        if population.rows > 10 * _LARGE_BATCH:
            times += [some_time()] * _LARGE_BATCH
        while len(times) < population.rows:
            # One creation in a thousand is a batch: about a tenth of all rows.
            batch = pick.randrange(20, 200) if pick.random() < 0.001 else 1
            times += [some_time()] * batch
        del times[population.rows :]
        times.sort()
        times[-1] = ENDS_AT
        return times

    def _workflow(self, created_at: int, *, in_flight: bool) -> WorkflowRows:
        pick = self.random
        kind = _KINDS[bisect(self.weights, pick.randrange(self.weights[-1]))]
        workflow_id, parent_id = self._ids(kind, created_at)
        status = self._status(in_flight)
        waited = int(pick.expovariate(1 / 3000)) + 1 if kind.queue_name else None
        lasted = int(pick.expovariate(1 / kind.seconds) * 1000) + 5
        dequeued_at = None if waited is None else created_at + waited
        completed_at: int | None = (dequeued_at or created_at) + lasted
        updated_at = completed_at or created_at
        queue_name, delay_until = kind.queue_name, None
        version = _version(created_at)
        executor: str | None = EXECUTORS[pick.randrange(len(EXECUTORS))]
        if in_flight:
            completed_at = None
            updated_at = created_at
            if status != "PENDING":
                queue_name, dequeued_at, executor = queue_name or "warehouse", None, None
            if status == "DELAYED":
                delay_until = created_at + 30 * _DAY_MS
        elif status in ("CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"):
            queue_name = dequeued_at = None
        user = f"user-{pick.randrange(2000)}" if pick.random() < 0.1 else None
        running = status == "PENDING"
        xid = self._uuid()
        row = (
            workflow_id,
            status,
            kind.name,
            user,
            "customer" if user else None,
            '["customer"]' if user else None,
            executor,
            created_at,
            updated_at,
            version,
            "",
            kind.class_name,
            kind.config_name,
            1 if executor else 0,
            queue_name,
            kind.timeout_ms,
            created_at + kind.timeout_ms if kind.timeout_ms else None,
            dequeued_at,
            None,
            pick.randrange(1, 5) if kind.name == "send_email" else 0,
            self.parents[-1][0] if self.parents and pick.random() < 0.001 else None,
            xid if running else None,
            xid,
            parent_id,
            "py_pickle",
            delay_until,
            completed_at,
            json.dumps({"customer": user, "region": "EU"} if user else None),
            kind.schedule_name,
            APPLICATION_NAME,
        )
        error = serialize(self._error()) if status == "ERROR" else None
        steps: list[tuple[Any, ...]] = []
        if running or status in ("ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"):
            steps = self._steps(workflow_id, created_at, error)
        output = self.outputs[pick.randrange(500)] if status == "SUCCESS" else None
        return WorkflowRows(
            workflow_id, created_at, row, self.inputs[pick.randrange(500)], output, error, steps
        )

    def _ids(self, kind: _Kind, created_at: int) -> tuple[str, str | None]:
        """A workflow's id and its parent's; DBOS derives those of children and schedules."""
        if kind.child and self.parents:
            place = self.random.randrange(len(self.parents))
            parent_id, children = self.parents[place]
            self.parents[place] = (parent_id, children + 1)
            return f"{parent_id}-{children + 1}", parent_id
        workflow_id = self._uuid()
        if kind.schedule_name:
            at = datetime.fromtimestamp(created_at / 1000, UTC).isoformat()
            return f"sched-{kind.schedule_name}-{at}-{workflow_id[:8]}", None
        self.parents.append((workflow_id, 0))
        if len(self.parents) > 50:  # what is young has children
            del self.parents[0]
        return workflow_id, None

    def _status(self, in_flight: bool) -> str:
        chance = self.random.random()
        if in_flight:
            return "ENQUEUED" if chance < 0.67 else "PENDING" if chance < 0.92 else "DELAYED"
        if chance < 0.986:
            return "SUCCESS"
        if chance < 0.994:
            return "ERROR"
        return "CANCELLED" if chance < 0.998 else "MAX_RECOVERY_ATTEMPTS_EXCEEDED"

    def _error(self) -> Exception:
        number = self.random.randrange(10_000)
        return self.random.choice(
            (
                KeyError(f"postcode-{number}"),
                ValueError(f"order {number} has no items"),
                ConnectionError(f"supplier {number % 30} closed the connection"),
                TimeoutError(f"no answer for payment {number} within 30 s"),
                PermissionError(f"account {number} may not refund"),
            )
        )

    def _steps(self, workflow_id: str, start: int, error: str | None) -> list[tuple[Any, ...]]:
        count = self.random.randrange(1, len(STEPS) + 1)
        return [
            (
                workflow_id,
                step_id,
                STEPS[step_id - 1],
                None if error and step_id == count else self.outputs[step_id],
                error if step_id == count else None,
                start + 10 * step_id,
                start + 10 * step_id + 7,
                "py_pickle",
                APPLICATION_NAME,
                start,
            )
            for step_id in range(1, count + 1)
        ]

    def _uuid(self) -> str:
        text = f"{self.random.getrandbits(128):032x}"
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"


def _version(at: int) -> str:
    """The version that ran at a time. As DBOS makes them: a hash of the code."""
    number = (ENDS_AT - at) // (_VERSION_DAYS * _DAY_MS)
    return blake2b(str(number).encode(), digest_size=16).hexdigest()
