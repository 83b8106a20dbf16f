"""An upstream whose every word means harm, and a mirror of it."""

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
from sqlalchemy import select
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from dbos_mcp.conductor.decoding import LONGEST_NAME
from dbos_mcp.conductor.models import (
    Application,
    ApplicationVersion,
    Event,
    Executor,
    Notification,
    Queue,
    Role,
    Schedule,
    StreamEntry,
    UserProfile,
)
from dbos_mcp.domain import now_ms
from dbos_mcp.local_conductor.app import create_app
from dbos_mcp.local_conductor.system_database import SystemDatabase
from dbos_mcp.runtime import open_runtime
from dbos_mcp.settings import LOCAL_ORGANIZATION, Settings
from dbos_mcp.store import unreadable
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.tables import table_of
from tests.exits.hostile import SURROGATES, corpus
from tests.upstream import Tables, pickled, workflow

HOSTILE = corpus()
APP = "sh\u202eop <script>alert('ran')</script> | \U000e0041"
"""The application that has all of them; with control characters in its name it could not be asked
for."""
OTHERS = 40
"""Applications with nothing but a name."""
FAILED_OF = 20
"""So many of them there is one that failed."""
STEPS = 6
_APART = 37
"""Places between the texts that two fields of one workflow have."""

FIELDS = (
    *("name", "class_name", "config_name", "queue_name", "executor_id", "application_version"),
    *("authenticated_user", "assumed_role"),
    *("deduplication_id", "queue_partition_key", "schedule_name"),
)
"""Of DBOS's table, as they are; its ids are the texts themselves."""
WRAPPED: Mapping[str, Callable[[str], str]] = {
    "inputs": lambda text: pickled({"args": (text,), "kwargs": {}}),
    "output": lambda text: pickled({text: text}),
    "error": lambda text: pickled(RuntimeError(text)),
    "authenticated_roles": lambda text: json.dumps([text]),
    "attributes": lambda text: json.dumps({text[:2_000]: text[:2_000]}),
}


def text(place: int) -> str:
    return HOSTILE[place % len(HOSTILE)]


def name(place: int) -> str:
    """What is longer is set aside."""
    return text(place)[:LONGEST_NAME]


def workflow_id(place: int) -> str:
    """What a search by id can name: no database takes a NUL there."""
    return name(place).replace("\x00", "\x01\x02")[:LONGEST_NAME]


def failed_ids() -> list[str]:
    return [workflow_id(place) for place in range(0, len(HOSTILE), FAILED_OF)]


def fill(tables: Tables) -> None:
    """A thousand workflows, each with another text in each of its fields."""
    created = now_ms() - 600_000
    statuses = islice(cycle(("SUCCESS", "PENDING", "CANCELLED", "ENQUEUED")), len(HOSTILE))
    tables.add(
        *(
            workflow(
                workflow_id(place),
                created + place,
                "ERROR" if place % FAILED_OF == 0 else status,
                **{
                    field: name(place + _APART * number) or None
                    for number, field in enumerate(FIELDS, start=1)
                },
                **{
                    field: wrap(text(place + _APART * number))
                    for number, (field, wrap) in enumerate(WRAPPED.items(), start=len(FIELDS))
                },
                application_name=APP,
                parent_workflow_id=workflow_id(place - 1) if place % FAILED_OF == 1 else None,
                started_at_epoch_ms=created + place + 10,
            )
            for place, status in enumerate(statuses)
        )
    )
    tables.add_steps(
        *(
            (
                *(each, step, name(place * STEPS + step)),
                pickled(text(place * STEPS + step + 300)),
                pickled(ValueError(text(place * STEPS + step + 500))) if step == STEPS else None,
                workflow_id(FAILED_OF * place + 1) if step == 3 else None,
                *(created + 20, created + 30, "py_pickle"),
            )
            for place, each in enumerate(failed_ids())
            for step in range(1, STEPS + 1)
        )
    )


class HostileConductor:
    """In front of a local Conductor, for what a system database does not hold."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner
        self.refusing: Sequence[int] = ()
        """With which statuses each request is refused, in words that mean harm."""
        self._refused = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = [unquote(part) for part in scope["raw_path"].decode("latin-1").split("/")[1:]]
        below = path[2:] if path[1] == "users" else path[3:]
        answer = self._refusal() if self.refusing else self._answer(scope["method"], below)
        await (answer or self._inner)(scope, receive, send)

    def _refusal(self) -> JSONResponse:
        self._refused += 1
        said = (*SURROGATES, *HOSTILE)[self._refused * 7 % 1000]
        status = self.refusing[self._refused % len(self.refusing)]
        content = {
            "status": status,
            "title": said,
            "detail": said,
            "errors": [{"location": said, "message": said}],
        }
        # ASCII, as surrogates can be sent in no other way.
        return _Ascii(content, status, media_type="application/problem+json")

    def _answer(self, method: str, path: list[str]) -> JSONResponse | None:
        match method, path:
            case "GET", ["me"]:
                return JSONResponse(_user().to_wire())
            case "GET", ["apps"]:
                return _listed(_applications())
            case "GET", ["apps", name] if name != APP:
                return _listed(_applications()[:1])
            case "GET" | "POST", ["apps", name, *_] if name != APP:
                return JSONResponse([])
            case "GET", [_, _, "executors"]:
                return _listed(_executors())
            case "GET", [_, _, "versions"]:
                return _listed(_versions())
            case "GET", [_, _, "queues"]:
                return _listed(_queues())
            case "GET", [_, _, "schedules"]:
                return _listed(_schedules())
            case "GET", [_, _, "schedules", _]:
                return JSONResponse(_schedules()[0].to_wire())
            case "GET", [_, _, "workflows", _, "events"]:
                return _listed([Event(key=text(n), value=text(n + 1)) for n in range(400, 430)])
            case "GET", [_, _, "workflows", _, "notifications"]:
                return _listed(_notifications())
            case "GET", [_, _, "workflows", _, "streams"]:
                values = [text(n) for n in range(450, 480)]
                return _listed([StreamEntry(key=text(431), values=values)])
        return None


class _Ascii(JSONResponse):
    def render(self, content: Any) -> bytes:
        return json.dumps(content).encode()


def _listed(items: Any) -> JSONResponse:
    return JSONResponse([item.to_wire() for item in items])


def _applications() -> list[Application]:
    names = [APP, *(f"{text(n * 23)} {n}" for n in range(OTHERS))]
    return [
        Application(
            id=text(n + 600),
            name=name,
            status="AVAILABLE" if name == APP else text(n + 610),
            language=text(n + 620),
        )
        for n, name in enumerate(names)
    ]


def _user() -> UserProfile:
    role = Role(name=text(703), permissions=[text(n) for n in range(704, 720)])
    return UserProfile(
        name=text(700), org_name=text(701), email=text(702), role=role, subscription_plan=text(720)
    )


def _executors() -> list[Executor]:
    return [
        Executor(
            executor_id=f"{text(n)}{n}",
            app_id=text(n + 1),
            application_version=text(n + 2),
            status=("HEALTHY", "DEAD", text(n))[n % 3],
            created_at=now_ms() - 1000,
            updated_at=now_ms(),
            hostname=text(n + 3),
            host_id=text(n + 4),
            language=text(n + 5),
            dbos_version=text(n + 6),
            executor_metadata={text(n + 7): text(n + 8)},
        )
        for n in range(100, 150)
    ]


def _versions() -> list[ApplicationVersion]:
    return [
        ApplicationVersion(
            version_id=text(n), version_name=text(n + 1), version_timestamp=n, created_at=n
        )
        for n in range(200, 240)
    ]


def _queues() -> list[Queue]:
    return [Queue(name=text(n), application_name=text(n + 1)) for n in range(250, 300)]


def _schedules() -> list[Schedule]:
    return [
        Schedule(
            schedule_id=text(n),
            schedule_name=text(n + 1),
            application_name=text(n + 2),
            workflow_name=text(n + 3),
            class_name=text(n + 4),
            cron_expression=text(n + 5),
            cron_timezone=text(n + 6),
            status=text(n + 7),
            context=text(n + 8),
        )
        for n in range(300, 350)
    ]


def _notifications() -> list[Notification]:
    return [
        Notification(topic=text(n), message=text(n + 1), created_at=n, consumed=False)
        for n in range(480, 500)
    ]


@dataclass(frozen=True)
class Site:
    home: Path
    conductor: HostileConductor
    environment: Mapping[str, str]

    @property
    def settings(self) -> Settings:
        return Settings.from_env(dict(self.environment), toolsets="all")

    @property
    def cache(self) -> Path:
        return self.settings.cache_path(LOCAL_ORGANIZATION)

    @property
    def transport(self) -> httpx.AsyncBaseTransport:
        return httpx.ASGITransport(self.conductor)


@contextmanager
def opened(database: Path, home: Path) -> Iterator[Site]:
    tables = Tables(database)
    with closing(SystemDatabase(tables.url, [APP])) as system_database:
        yield Site(
            home,
            HostileConductor(create_app(system_database)),
            {"HOME": str(home), "DBOS_SYSTEM_DATABASE_URL": tables.url, "DBOS_MCP_PAYLOADS": "all"},
        )


async def mirror(site: Site) -> None:
    async with open_runtime(site.settings, transport=site.transport) as runtime:
        reports = await runtime.require_live().worker.run_until_read()
        found = await runtime.read(lambda c: c.execute(select(table_of(WorkflowRow))).all())
        aside = await runtime.read(lambda c: unreadable.workflows(c, APP))
    (report,) = (report for report in reports if report.application_name == APP)
    assert report.error is None, report.error
    assert [row.workflow_id for row in aside] == [None] * HOSTILE.count("")
    assert len(found) == len(HOSTILE) - HOSTILE.count("")  # which is no id


@asynccontextmanager
async def refusing(site: Site) -> AsyncIterator[None]:
    site.conductor.refusing = (400, 403, 404, 409, 422, 500, 503)
    try:
        yield
    finally:
        site.conductor.refusing = ()
