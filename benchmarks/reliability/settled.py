"""A mirror that has come to rest, held against its upstream: every workflow and every step."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from dbos_mcp.conductor.client import ConductorClient
from dbos_mcp.conductor.models import Step, Workflow, WorkflowSearch
from dbos_mcp.domain import now_ms
from dbos_mcp.store import projector
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.events import WorkflowState
from dbos_mcp.store.projections.steps import StepRow
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.tables import table_of
from dbos_mcp.sync.audit import REREAD_EVERY_MS
from dbos_mcp.sync.mirror import Mirror
from dbos_mcp.sync.worker import SyncWorker

MOST_CYCLES = 2000
QUIET_CYCLES = 3
_PAGE = 1000
_ROWS = table_of(WorkflowRow)
_STEPS = table_of(StepRow)
_COMPARED = sorted((Workflow.model_fields.keys() & _ROWS.columns.keys()) - WorkflowState.PAYLOAD)
_COMPARED_OF_STEPS = ("step_id", "step_name", "child_workflow_id", "started_at", "completed_at")


@dataclass(frozen=True)
class Difference:
    workflow_id: str
    what: str
    ours: object
    theirs: object

    def __str__(self) -> str:
        return f"{self.what} of {self.workflow_id}: {self.ours!r} here, {self.theirs!r} upstream"


async def come_to_rest(cache: Cache, client: ConductorClient) -> int:
    """Cycles by a clock that jumps over all pauses, until nothing is found any more; how many.

    Raises:
        TimeoutError: it goes on and on.
        DbosMcpError: a cycle failed.
    """
    mirror = Mirror(cache, client)
    worker = SyncWorker(mirror, history_ms=None)
    ahead_ms = quiet = 0
    mirror.clock = lambda: now_ms() + ahead_ms
    for cycle in range(1, MOST_CYCLES + 1):
        reports = await worker.run_once()
        for report in reports:
            if report.error is not None:
                raise report.error
        quiet = 0 if any(report.events for report in reports) else quiet + 1
        waiting = await mirror.read(_steps_waiting)
        if quiet >= QUIET_CYCLES and not waiting:
            return cycle
        # While steps wait, time stands still: each reading would ask for the next one.
        ahead_ms += 0 if waiting else REREAD_EVERY_MS
    raise TimeoutError(f"The mirror still found something after {MOST_CYCLES} cycles.")


def _steps_waiting(connection: Connection) -> int:
    due = "SELECT count(*) FROM step_due WHERE due_at <= ?"
    return int(connection.exec_driver_sql(due, (now_ms(),)).scalar_one())


async def differences(
    cache: Cache, client: ConductorClient, application_name: str, *, steps: bool = True
) -> AsyncIterator[Difference]:
    """Of each workflow that is upstream or in the mirror; and with them, or not, of their steps."""
    with cache.read() as connection:
        ours = {
            row["workflow_id"]: row
            for row in connection.execute(
                select(_ROWS).where(_ROWS.c.application_name == application_name)
            ).mappings()
            if row["deleted_at"] is None
        }
    theirs = {row.workflow_id: row async for row in _upstream(client, application_name)}
    for workflow_id in sorted(ours.keys() | theirs.keys()):
        row, workflow = ours.get(workflow_id), theirs.get(workflow_id)
        if row is None or workflow is None:
            yield Difference(workflow_id, "presence", row is not None, workflow is not None)
            continue
        for name in _COMPARED:
            if row[name] != getattr(workflow, name):
                yield Difference(workflow_id, name, row[name], getattr(workflow, name))
        if steps:
            seen = await client.list_steps(application_name, workflow_id)
            held = _held_steps(cache, row["id"])
            if held != (wanted := [_compared(step) for step in seen]):
                yield Difference(workflow_id, "steps", held, wanted)


async def _upstream(client: ConductorClient, application_name: str) -> AsyncIterator[Workflow]:
    for offset in range(0, 10**9, _PAGE):
        page = await client.search_workflows(
            application_name, WorkflowSearch(limit=_PAGE, offset=offset)
        )
        for workflow in page:
            yield workflow
        if len(page) < _PAGE:
            return


def _held_steps(cache: Cache, key: int) -> list[tuple[Any, ...]]:
    columns = [_STEPS.c[name] for name in _COMPARED_OF_STEPS]
    with cache.read() as connection:
        rows = connection.execute(
            select(*columns).where(_STEPS.c.workflow_key == key).order_by(_STEPS.c.step_id)
        )
        return [tuple(row) for row in rows]


def _compared(step: Step) -> tuple[Any, ...]:
    return tuple(getattr(step, name) for name in _COMPARED_OF_STEPS)


def faults_of(cache: Cache) -> Mapping[str, str]:
    """What is wrong with the file itself; empty is what we want."""
    found: dict[str, str] = {}
    with cache.read() as connection:
        integrity = connection.exec_driver_sql("PRAGMA integrity_check(3)").scalars().all()
        if integrity != ["ok"]:
            found["integrity_check"] = "; ".join(map(str, integrity))
        if connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
            found["foreign_key_check"] = "a row refers to none"
        count, newest = connection.exec_driver_sql(
            "SELECT count(*), coalesce(max(position), 0) FROM event"
        ).one()
        if count != newest:
            found["log"] = f"{count} events up to the position {newest}"
    with cache.write() as connection:
        unequal = [table.table for table in projector.rebuild(connection) if not table.equal]
    if unequal:
        found["rebuild"] = f"{', '.join(unequal)}: not what the log says"
    return found
