"""Read the steps that are due, a few in each cycle; `due` says which those are."""

import logging
from functools import partial

import anyio

from dbos_mcp.errors import (
    NotFoundError,
    RejectedError,
    ResponseError,
    UsageError,
)
from dbos_mcp.sync import due, known
from dbos_mcp.sync.due import MOST, READINGS_PER_CYCLE, Priority
from dbos_mcp.sync.visit import Visit

logger = logging.getLogger(__name__)

CONCURRENT_REQUESTS = 4
STEP_REFUSALS_PER_CYCLE = 5
STEPS_REFUSED_PAUSE_MS = 600_000


async def read_steps(visit: Visit) -> None:
    """Read the steps that are due, as many as a cycle may.

    Steps that upstream will not show hold up nothing else; but after a few such answers this
    cycle asks no more.
    """
    waiting = await _waiting(visit)
    if len(waiting[Priority.BACKGROUND]) < MOST[Priority.BACKGROUND] and await visit.mirror.read(
        partial(due.has_more, application_name=visit.name)
    ):
        now = visit.mirror.clock()
        await visit.mirror.write(partial(due.walk, application_name=visit.name, now=now))
        waiting = await _waiting(visit)
    counts = {urgency: len(ids) for urgency, ids in waiting.items()}
    allotted = due.allot(counts, visit.applications)
    chosen = [(i, urgency) for urgency, ids in waiting.items() for i in ids[: allotted[urgency]]]
    requests = anyio.CapacityLimiter(CONCURRENT_REQUESTS)
    failures: list[Exception] = []
    refusals = 0

    async def read(workflow_id: str, urgency: Priority) -> None:
        nonlocal refusals
        async with requests:
            if failures or refusals >= STEP_REFUSALS_PER_CYCLE:
                return
            try:
                # Added afterwards: others add to it while this one waits.
                events = await visit.mirror.refresh_steps(visit.name, workflow_id)
                visit.report.events += events
                if urgency is Priority.BACKGROUND:
                    visit.report.background_events += events
            except (NotFoundError, UsageError, RejectedError, ResponseError) as error:
                logger.info("The steps of %s cannot be read: %s", workflow_id, error)
                refusals += 1
                await visit.mirror.write(
                    partial(
                        due.postpone,
                        application_name=visit.name,
                        workflow_id=workflow_id,
                        until=visit.mirror.clock() + STEPS_REFUSED_PAUSE_MS,
                    )
                )
            except Exception as error:  # noqa: BLE001 # which the group would wrap
                failures.append(error)

    visit.progress(visit.name, "steps", visit.report.workflows_seen)
    async with anyio.create_task_group() as readings:
        for workflow_id, urgency in chosen:
            readings.start_soon(read, workflow_id, urgency)
    if failures:
        raise failures[0]


async def _waiting(visit: Visit) -> dict[Priority, list[str]]:
    return await visit.mirror.read(
        partial(
            known.steps_due,
            application_name=visit.name,
            now=visit.mirror.clock(),
            limit=READINGS_PER_CYCLE,
        )
    )
