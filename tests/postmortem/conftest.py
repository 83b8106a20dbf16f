"""An upstream in the making, and what a diagnosis finds in the mirror of it."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from dbos_mcp.conductor.models import Executor
from dbos_mcp.domain import now_ms
from dbos_mcp.postmortem.case import Case, Told, read_case
from dbos_mcp.postmortem.diagnosis import Diagnosis, diagnose
from tests.upstream import APP, Site, open_site, pickled, workflow

HOUR = 3_600_000
NOW = now_ms() // HOUR * HOUR


class Patient:
    """Workflows of one application; times are in milliseconds before NOW, which it is."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.executors: list[Executor] = []
        site.wire.fault = self._list_executors

    def _list_executors(self, request: httpx.Request) -> httpx.Response | None:
        if not request.url.path.endswith("/executors"):
            return None
        return httpx.Response(200, json=[each.to_wire() for each in self.executors])

    def executor(self, executor_id: str, version: str, status: str = "HEALTHY") -> None:
        self.executors.append(
            Executor(
                executor_id=executor_id,
                application_version=version,
                status=status,
                created_at=NOW - 9 * HOUR,
                updated_at=NOW - HOUR,
                hostname="host",
            )
        )

    def run(
        self,
        workflow_id: str,
        status: str = "SUCCESS",
        *,
        ago: int = HOUR,
        lasted: int = 1000,
        error: str | None = None,
        **columns: Any,
    ) -> None:
        created = NOW - ago
        ended = status not in ("PENDING", "ENQUEUED", "DELAYED")
        self.site.tables.add(
            workflow(
                workflow_id,
                created,
                status,
                **{
                    "updated_at": created + lasted if ended else created,
                    "completed_at": created + lasted if ended else None,
                    "error": None if error is None else pickled(RuntimeError(error)),
                }
                | columns,
            )
        )

    def step(
        self,
        workflow_id: str,
        step_id: int,
        name: str,
        error: str | None = None,
        *,
        ago: int = HOUR,
        lasted: int = 10,
        **columns: Any,
    ) -> None:
        self.site.tables.add_step(
            workflow_id,
            step_id,
            name,
            error,
            started_at=NOW - ago,
            completed_at=NOW - ago + lasted,
            **columns,
        )

    def well(self, count: int, *steps: str, lasted: int = 10, **columns: Any) -> None:
        """Runs that went well, all of them before the last hour."""
        for n in range(count):
            self.run(f"well-{n}", ago=2 * HOUR + n * 1000, **columns)
            for step_id, name in enumerate(steps, start=1):
                self.step(f"well-{n}", step_id, name, ago=2 * HOUR, lasted=lasted)

    async def case(self, workflow_id: str) -> Case:
        await self.site.sync_until_steps_are_read()
        with self.site.cache.read() as connection:
            return read_case(connection, APP, workflow_id, NOW)

    async def diagnosis(self, workflow_id: str, told: Told | None = None) -> Diagnosis:
        return diagnosed(await self.case(workflow_id), told)

    async def found(self, workflow_id: str, told: Told | None = None) -> dict[str, str]:
        """What each finding says, with its evidence, by their kinds."""
        diagnosis = await self.diagnosis(workflow_id, told)
        return {each.kind: " ".join([each.says, *each.evidence]) for each in diagnosis.findings}


def diagnosed(case: Case, told: Told | None = None) -> Diagnosis:
    return diagnose(case if told is None else replace(case, told=told))


@pytest.fixture
async def patient(empty_database: Path, cache_path: Path) -> AsyncIterator[Patient]:
    async with open_site(empty_database, cache_path) as site:
        yield Patient(site)
