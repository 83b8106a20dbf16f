"""A mirror of a real upstream: a local Conductor over a DBOS system database that tests may change
by plain SQL, a wire between them that counts, records and fails on demand, and a clock of ours."""

import base64
import json
import pickle
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
from sqlalchemy import select
from sqlmodel import SQLModel

from dbos_mcp.conductor.client import ConductorClient
from dbos_mcp.conductor.credentials import Credentials
from dbos_mcp.conductor.identity import FixedIdentity
from dbos_mcp.domain import now_ms
from dbos_mcp.local_conductor.app import create_app
from dbos_mcp.local_conductor.system_database import SystemDatabase
from dbos_mcp.redaction.rules import NO_RULES, Rules
from dbos_mcp.settings import DAY_MS, Payloads
from dbos_mcp.store import event_log, sync_state
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.event_log import Recorded
from dbos_mcp.store.migrate import open_cache
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.sync_state import SyncStateRow
from dbos_mcp.store.tables import table_of
from dbos_mcp.sync.commands import Commands
from dbos_mcp.sync.mirror import Mirror
from dbos_mcp.sync.visit import ApplicationReport
from dbos_mcp.sync.worker import SyncWorker

APP = "shop"
COMPARED = {
    "workflow_id": "workflow_uuid",
    "status": "status",
    "workflow_name": "name",
    "created_at": "created_at",
    "updated_at": "updated_at",
    "completed_at": "completed_at",
    "dequeued_at": "started_at_epoch_ms",
    "delay_until": "delay_until_epoch_ms",
    "queue_name": "queue_name",
    "executor_id": "executor_id",
    "application_version": "application_version",
    "parent_workflow_id": "parent_workflow_id",
    "forked_from": "forked_from",
    "was_forked_from": "was_forked_from",
    "priority": "priority",
    "deduplication_id": "deduplication_id",
    "schedule_name": "schedule_name",
}
"""Our column, and DBOS's."""


class Tables:
    """Plain SQL on a system database, past everything else: a SQLite file, or that of a URL.

    Parameters are marked with `?` for either.
    """

    def __init__(self, database: Path | str) -> None:
        self.url = database if isinstance(database, str) else f"sqlite:///{database}"
        self.path = Path(self.url.removeprefix("sqlite:///"))

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        if self.is_sqlite:
            with closing(sqlite3.connect(self.path, timeout=30)) as sqlite, sqlite:
                yield sqlite.cursor()
        else:
            with psycopg.connect(self.url, options="-csearch_path=dbos") as postgres:
                yield postgres.cursor()

    @property
    def is_sqlite(self) -> bool:
        return self.url.startswith("sqlite")

    def _marked(self, statement: str) -> str:
        return statement if self.is_sqlite else statement.replace("%", "%%").replace("?", "%s")

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._cursor() as cursor:
            cursor.execute(self._marked(statement), values)
            found: list[tuple[Any, ...]] = cursor.fetchall()
            return found

    def named(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """Rows by the names of their columns."""
        with self._cursor() as cursor:
            cursor.execute(self._marked(statement), values)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    def change(self, statement: str, *values: object) -> int:
        """How many rows it changed."""
        with self._cursor() as cursor:
            cursor.execute(self._marked(statement), values)
            changed: int = cursor.rowcount
            return changed

    def clear(self) -> None:
        self.change("DELETE FROM operation_outputs")
        self.change("DELETE FROM workflow_status")

    def add(self, *workflows: dict[str, Any]) -> None:
        """Insert rows made by `workflow()`, as many as you like."""
        columns = sorted({column for row in workflows for column in row})
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT INTO workflow_status ({', '.join(columns)}) VALUES ({marks})"
        with self._cursor() as cursor:
            cursor.executemany(
                self._marked(statement),
                [
                    [row.get(column, DEFAULTS.get(column)) for column in columns]
                    for row in workflows
                ],
            )

    def add_step(
        self,
        workflow_id: str,
        step_id: int,
        name: str,
        error: str | None = None,
        *,
        child: str | None = None,
        output: object = None,
        started_at: int = 1000,
        completed_at: int = 2000,
    ) -> None:
        output = None if output is None else pickled(output)
        error = error and pickled(RuntimeError(error))
        row = (workflow_id, step_id, name, output, error, child, started_at, completed_at)
        self.add_steps((*row, "py_pickle"))

    def add_steps(self, *steps: tuple[object, ...]) -> None:
        """Rows as they are stored."""
        statement = (
            "INSERT INTO operation_outputs (workflow_uuid, function_id, function_name, output,"
            " error, child_workflow_id, started_at_epoch_ms, completed_at_epoch_ms, serialization)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        )
        with self._cursor() as cursor:
            cursor.executemany(self._marked(statement), steps)

    def update(self, workflow_id: str, **columns: object) -> None:
        """Change columns of one row."""
        assignments = ", ".join(f"{column} = ?" for column in columns)
        changed = self.change(
            f"UPDATE workflow_status SET {assignments} WHERE workflow_uuid = ?",
            *(*columns.values(), workflow_id),
        )
        assert changed == 1

    def end(self, workflow_id: str, at: int, status: str = "SUCCESS", **columns: object) -> None:
        """What DBOS does to a row at its end."""
        self.update(workflow_id, status=status, updated_at=at, completed_at=at, **columns)

    def ids(self) -> set[str]:
        return {row[0] for row in self.rows("SELECT workflow_uuid FROM workflow_status")}


DEFAULTS = {"priority": 0, "was_forked_from": False, "rate_limited": False, "is_debounced": False}


def workflow(
    workflow_id: str, created_at: int, status: str = "SUCCESS", **columns: Any
) -> dict[str, Any]:
    """A row of `workflow_status`, in DBOS's own words."""
    ended = status not in ("PENDING", "ENQUEUED", "DELAYED")
    return {
        "workflow_uuid": workflow_id,
        "status": status,
        "name": "restock",
        "created_at": created_at,
        "updated_at": created_at,
        "completed_at": created_at if ended else None,
        "application_name": APP,
        "application_version": "1.4.0",
        "executor_id": "shop-1",
        "serialization": "py_pickle",
        **DEFAULTS,
        **columns,
    }


def pickled(value: object) -> str:
    """A value as a Python application stores it."""
    return base64.b64encode(pickle.dumps(value)).decode()


Fault = Callable[[httpx.Request], httpx.Response | Exception | None]


@dataclass
class Asked:
    method: str
    path: str
    body: dict[str, Any]
    answer_bytes: int = 0


class Wire(httpx.AsyncBaseTransport):
    """The way to Conductor. `fault` may answer in its place, or cut the line; `heard` is told each
    request whose answer is about to be handed on."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner
        self.asked: list[Asked] = []
        self.fault: Fault = lambda _request: None
        self.heard: Callable[[Asked], Awaitable[None] | None] = lambda _asked: None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        content = await request.aread()
        asked = Asked(request.method, request.url.path, json.loads(content) if content else {})
        self.asked.append(asked)
        match self.fault(request):
            case httpx.Response() as response:
                return response
            case Exception() as error:
                raise error
        answer = await self.inner.handle_async_request(request)
        body = await answer.aread()
        asked.answer_bytes = len(body)
        waiting = self.heard(asked)
        if waiting is not None:
            await waiting
        return httpx.Response(answer.status_code, headers=answer.headers, content=body)

    def steps_asked(self) -> list[str]:
        """The workflows whose steps were asked for, in order."""
        return [asked.path.split("/")[-2] for asked in self.asked if "/steps" in asked.path]

    async def aclose(self) -> None:
        await self.inner.aclose()


def problem(status: int, detail: str = "") -> httpx.Response:
    return httpx.Response(
        status,
        headers={"Content-Type": "application/problem+json"},
        content=json.dumps({"status": status, "detail": detail}),
    )


def below(part: str, fault: Callable[[], httpx.Response | Exception]) -> Fault:
    """The fault for every request whose path holds `part`."""
    return lambda request: fault() if part in request.url.path else None


class Clock:
    """Ours. Upstream has its own."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def __call__(self) -> int:
        return now_ms() + self.ahead_ms


@dataclass
class Site:
    """Upstream and mirror, side by side."""

    tables: Tables
    wire: Wire
    client: ConductorClient
    cache: Cache
    mirror: Mirror
    worker: SyncWorker
    clock: Clock
    last_position: int = field(default=0)

    @property
    def commands(self) -> Commands:
        return Commands(self.mirror)

    async def sync(self) -> ApplicationReport:
        """One cycle; the report of the shop."""
        reports = await self.worker.run_once()
        return next(report for report in reports if report.application_name == APP)

    async def sync_until_steps_are_read(self) -> None:
        """Cycles until one finds no steps that are due by now."""
        while True:
            self.wire.asked.clear()
            await self.sync()
            if not self.wire.steps_asked():
                return

    def new_events(self) -> list[Recorded]:
        """What the log got since this was last asked."""
        with self.cache.read() as connection:
            recorded = [
                r for batch in event_log.read(connection, self.last_position) for r in batch
            ]
        self.last_position = recorded[-1].position if recorded else self.last_position
        return recorded

    def news(self) -> list[tuple[str, str | None]]:
        """The same, as kinds and workflow ids."""
        return [(entry.event.kind, entry.event.workflow_id) for entry in self.new_events()]

    def state(self, application_name: str = APP) -> SyncStateRow:
        with self.cache.read() as connection:
            return sync_state.load(connection, application_name)

    def table(self, model: type[SQLModel]) -> Sequence[dict[str, Any]]:
        with self.cache.read() as connection:
            return [dict(row._mapping) for row in connection.execute(select(table_of(model)))]

    def mirrored(self) -> dict[str, dict[str, Any]]:
        """The workflows that the mirror holds as being there, by id."""
        rows = self.table(WorkflowRow)
        return {row["workflow_id"]: row for row in rows if row["deleted_at"] is None}

    def differences(self) -> dict[str, object]:
        """Where the mirror and the system database do not agree; empty is what we want."""
        ours = {
            key: tuple(row[column] for column in COMPARED)
            for key, row in self.mirrored().items()
            if row["owning_application"] is None
        }
        selected = ", ".join(COMPARED.values())
        theirs = {
            row[0]: tuple(row)
            for row in self.tables.rows(
                f"SELECT {selected} FROM workflow_status WHERE coalesce(application_name, ?) = ?",
                *(APP, APP),
            )
        }
        return {
            key: (ours.get(key), theirs.get(key))
            for key in ours.keys() | theirs.keys()
            if ours.get(key) != theirs.get(key)
        }


@asynccontextmanager
async def open_site(
    database: Path | str,
    cache: Path,
    *,
    names: Iterable[str] = (APP,),
    payloads: Payloads = Payloads.ERRORS,
    history_ms: int | None = 30 * DAY_MS,
    page_limit: int = 1000,
    rules: Rules | None = NO_RULES,
) -> AsyncIterator[Site]:
    tables = Tables(database)
    system_database = SystemDatabase(tables.url, list(names))
    wire = Wire(httpx.ASGITransport(create_app(system_database)))
    opened, clock = open_cache(cache), Clock()
    try:
        async with ConductorClient(
            "http://local-conductor",
            FixedIdentity(Credentials("local"), "Call `login`."),
            transport=wire,
            patience_seconds=0,  # a fault is to be seen, not mended by another try
            reads_per_second=10_000,
        ) as client:
            mirror = Mirror(opened, client, payloads=payloads, rules=rules, clock=clock)
            worker = SyncWorker(mirror, history_ms=history_ms, page_limit=page_limit)
            yield Site(tables, wire, client, opened, mirror, worker, clock)
    finally:
        opened.close()
        system_database.close()
