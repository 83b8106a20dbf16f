"""Which steps are read, and when."""

import logging
from functools import partial

import anyio

from dbos_mcp.errors import (
    ConductorError,
    DbosMcpError,
    NotFoundError,
    RejectedError,
    ResponseError,
    UsageError,
)
from dbos_mcp.sync import known
from dbos_mcp.sync.visit import Visit

logger = logging.getLogger(__name__)

CONCURRENT_REQUESTS = 4
STEP_READINGS_PER_CYCLE = 200
STEP_REFUSALS_PER_CYCLE = 5
STEPS_REREAD_AFTER_MS = 30_000
STEPS_REFUSED_PAUSE_MS = 600_000


async def read_steps(visit: Visit) -> None:
    """Read the steps that are due.

    Steps that upstream will not show hold up nothing else; but after a few such answers this
    cycle asks no more.
    """
    now = visit.mirror.clock()
    refused = visit.memory.steps_refused
    for workflow_id in [i for i, at in refused.items() if at + STEPS_REFUSED_PAUSE_MS <= now]:
        del refused[workflow_id]
    due = await visit.mirror.read(
        partial(
            known.steps_due,
            application_name=visit.name,
            running_read_before=now - STEPS_REREAD_AFTER_MS,
            limit=STEP_READINGS_PER_CYCLE + len(refused),
        )
    )
    requests = anyio.CapacityLimiter(CONCURRENT_REQUESTS)
    failures: list[DbosMcpError] = []
    refusals = 0

    async def read(workflow_id: str) -> None:
        nonlocal refusals
        async with requests:
            if failures or refusals >= STEP_REFUSALS_PER_CYCLE:
                return
            try:
                visit.report.events += await visit.mirror.refresh_steps(visit.name, workflow_id)
            except (NotFoundError, UsageError, RejectedError, ResponseError) as error:
                logger.info("The steps of %s cannot be read: %s", workflow_id, error)
                refused[workflow_id] = now
                refusals += 1
            except ConductorError as error:
                failures.append(error)

    visit.progress(visit.name, "steps", visit.report.workflows_seen)
    async with anyio.create_task_group() as readings:
        for workflow_id in due:
            if workflow_id not in refused:
                readings.start_soon(read, workflow_id)
    if failures:
        raise failures[0]
