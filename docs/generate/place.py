"""A server over the night's mirror, whose Conductor is there and says the same: what it answers is
what a user sees. And one whose user is not logged in."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from mcp import Client
from starlette.applications import Starlette

from dbos_mcp.conductor.models import Executor
from dbos_mcp.local_conductor.app import create_app
from dbos_mcp.local_conductor.system_database import SystemDatabase
from dbos_mcp.server.app import build_server
from dbos_mcp.settings import Settings
from dbos_mcp.store.events import ExecutorObserved
from docs.generate import night
from docs.generate.night import APP, Night
from tests.upstream import Tables, pickled, workflow

_NAMES = {"workflow_name": "name", "dequeued_at": "started_at_epoch_ms"}
_SAME = (
    *("updated_at", "completed_at", "queue_name", "executor_id", "application_version"),
    *("parent_workflow_id", "forked_from", "deduplication_id", "schedule_name"),
    *("authenticated_user", "attributes"),
)
_REST: dict[str, tuple[tuple[str, ...], list[tuple[Any, ...]]]] = {
    "queues": (
        ("queue_id", "name", "concurrency", "application_name"),
        [("q-1", "emails", 1, APP), ("q-2", "search", 4, APP)],
    ),
    "workflow_schedules": (
        (
            *("schedule_id", "schedule_name", "workflow_name", "schedule", "status", "context"),
            *("last_fired_at", "application_name"),
        ),
        [
            (
                *("s-1", "nightly-report", "nightly_report", "0 2 * * *", "PAUSED"),
                *(pickled(None), "2026-03-13T02:00:00+00:00", APP),
            ),
            (
                *("s-2", "refresh-prices", "refresh_prices", "0 * * * *", "ACTIVE"),
                *(pickled(None), "2026-03-14T03:00:00+00:00", APP),
            ),
        ],
    ),
    "application_versions": (
        ("version_id", "version_name", "version_timestamp", "created_at", "application_name"),
        [
            ("v-1", night.OLD, *[night.MIDNIGHT - 3 * night.DAY] * 2, APP),
            ("v-2", night.NEW, *[night.DEPLOYED_AT] * 2, APP),
        ],
    ),
    "workflow_events": (
        ("workflow_uuid", "key", "value", "serialization"),
        [("order-1030", "payment", pickled("payment-1030"), "py_pickle")],
    ),
    "notifications": (
        (
            *("message_uuid", "destination_uuid", "topic", "message", "created_at_epoch_ms"),
            *("serialization", "consumed"),
        ),
        [
            (
                *("m-1", "order-1030", "courier", pickled("no rate for BT")),
                *(night.MIDNIGHT + 171 * night.MINUTE, "py_pickle", 0),
            )
        ],
    ),
    "streams": (
        ("workflow_uuid", "key", "value", "offset", "function_id", "serialization"),
        [
            ("order-1030", "progress", pickled(words), offset, offset, "py_pickle")
            for offset, words in enumerate(("reserving items", "booking a courier"))
        ],
    ),
}


class _Conductor(httpx.ASGITransport):
    """A local Conductor that knows executors, which a system database does not."""

    def __init__(self, app: Starlette, executors: Sequence[Executor]) -> None:
        super().__init__(app)
        self._executors = [executor.to_wire() for executor in executors]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET" and request.url.path.endswith("/executors"):
            return httpx.Response(200, json=self._executors)
        return await super().handle_async_request(request)


@asynccontextmanager
async def open_place(folder: Path) -> AsyncIterator[Client]:
    """A client of a server with all tools, at four in the morning."""
    told = night.the_night()
    cache, database = folder / "cache.sqlite", folder / "shop.sqlite"
    night.write(cache, told)
    url = f"sqlite:///{database}"
    _fill(database, told)
    settings = Settings.from_env(
        {"HOME": str(folder), "DBOS_SYSTEM_DATABASE_URL": url}, cache=cache, toolsets="all"
    )
    system_database = SystemDatabase(url, [APP])
    transport = _Conductor(create_app(system_database), _executors(told))
    try:
        with night.clock():
            async with Client(build_server(settings, transport=transport)) as client:
                yield client
    finally:
        system_database.close()


def _fill(database: Path, told: Night) -> None:
    from dbos import run_dbos_database_migrations

    run_dbos_database_migrations(f"sqlite:///{database}")
    tables = Tables(database)
    rows = []
    for workflow_id, state in told.states.items():
        columns = {name: state.get(name) for name in _SAME}
        columns |= {theirs: state.get(ours) for ours, theirs in _NAMES.items()}
        if "error" in state:
            columns["error"] = pickled(RuntimeError(state["error"]))
        if order := night.order_of(workflow_id):
            columns["inputs"] = pickled({"args": (order,), "kwargs": {}})
        columns["was_forked_from"] = state.get("was_forked_from", False)
        rows.append(workflow(workflow_id, state["created_at"], state["status"], **columns))
    tables.add(*rows)
    tables.add_steps(
        *(
            (
                *(workflow_id, step.step_id, step.step_name),
                None if step.output is None else pickled(json.loads(step.output)),
                None if step.error is None else pickled(RuntimeError(step.error)),
                *(step.child_workflow_id, step.started_at, step.completed_at, "py_pickle"),
            )
            for workflow_id, steps in told.steps.items()
            for step in steps
        )
    )
    for table, (names, values) in _REST.items():
        listed, marks = ", ".join(f'"{name}"' for name in names), ", ".join("?" * len(names))
        for row in values:
            tables.change(f"INSERT INTO {table} ({listed}) VALUES ({marks})", *row)


def _executors(told: Night) -> list[Executor]:
    newest = {
        event.executor_id: event for _, event in told.told if isinstance(event, ExecutorObserved)
    }
    return [
        Executor(
            executor_id=event.executor_id,
            status=event.status,
            application_version=event.application_version,
            hostname=event.hostname,
            language=event.language,
            dbos_version=event.dbos_version,
            created_at=event.created_at,
            updated_at=event.updated_at,
        )
        for event in newest.values()
        if event.status != "REMOVED"
    ]


@asynccontextmanager
async def open_login(folder: Path) -> AsyncIterator[Client]:
    """A client of a server whose Conductor wants a login. The person approves it at once."""
    issuer = "https://login.example.com"
    answers = {
        "/.well-known/openid-configuration": {
            "device_authorization_endpoint": f"{issuer}/device",
            "token_endpoint": f"{issuer}/token",
        },
        "/device": {
            "device_code": "not shown",
            "user_code": "WDJB-MJHT",
            "verification_uri": f"{issuer}/activate",
            "expires_in": 900,
            "interval": 1,
        },
        "/token": {"access_token": "not-shown"},
        "/v2/users/me": {
            "name": "ada@example.com",
            "orgName": "acme",
            "role": {"name": "developer", "permissions": ["application.read"]},
        },
    }

    def answer(request: httpx.Request) -> httpx.Response:
        found = answers.get(request.url.path)
        return httpx.Response(404 if found is None else 200, json=found or {})

    settings = Settings.from_env(
        {
            "HOME": str(folder),
            "DBOS_URL": "https://conductor.example.com",
            "DBOS_MCP_ISSUER": issuer,
            "DBOS_MCP_CLIENT_ID": "dbos-mcp",
        }
    )
    with night.clock():
        server = build_server(settings, transport=httpx.MockTransport(answer))
        async with Client(server) as client:
            yield client
