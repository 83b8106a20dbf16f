"""Everything that is to be known of one workflow: what the mirror has, and what it lacks of that
workflow and of its like, asked of Conductor. The case says what was not to be had of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import anyio

from dbos_mcp.conductor.models import Queue
from dbos_mcp.domain import FAILED, WAITING, WorkflowStatus, now_ms, plain
from dbos_mcp.postmortem.case import Case, Message, ScheduleState, Told, read_case, unread
from dbos_mcp.postmortem.queues import QueueLimits
from dbos_mcp.queries.freshness import Freshness
from dbos_mcp.runtime import Runtime
from dbos_mcp.server.context import Asker
from dbos_mcp.server.differences import explain_differences
from dbos_mcp.server.freshness import found_by
from dbos_mcp.server.lookup import NOT_TO_BE_READ, look_up

READ_SECONDS = 5.0
"""For all that is asked of Conductor before the answer; what differs from others has its own."""
TOO_SLOW = f"it takes more than {READ_SECONDS:g} s"
WHY_CHARACTERS = 160
MOST_READ = 5
"""Workflows of a chain whose steps are read before it is told."""


@dataclass(frozen=True)
class Investigation:
    case: Case
    freshness: Freshness


async def investigate(
    asker: Asker,
    runtime: Runtime,
    application_name: str,
    workflow_id: str,
    max_age_seconds: float | None = None,
) -> Investigation:
    """
    Raises:
        NotFoundError: there is no such workflow, as far as is known.
    """
    now = now_ms()
    looked = await look_up(asker, runtime, application_name, workflow_id, max_age_seconds)
    until = anyio.current_time() + READ_SECONDS
    refused = [f"the steps that led to it: {TOO_SLOW}"]
    with anyio.CancelScope(deadline=until):
        refused = await _read_chain(runtime, application_name, workflow_id)
    read = partial(read_case, application_name=application_name, workflow_id=workflow_id, now=now)
    case, freshness = await found_by(runtime, read, application_name, looked=looked)
    with anyio.CancelScope(deadline=until):
        if not refused and await _read_peers(runtime, application_name, case):
            case, freshness = await found_by(runtime, read, application_name, looked=looked)
    told = Told(refused=refused or [f"what only Conductor knows: {TOO_SLOW}"])
    with anyio.CancelScope(deadline=until):
        told = await _ask(runtime, case, refused)
    case = replace(case, told=told)
    origin = case.origin.workflow
    if origin.status in FAILED:
        alike = [run.key for run in case.peers.alike]
        differences = await explain_differences(
            asker, runtime, application_name, origin.workflow_id, alike=alike
        )
        case = replace(case, differences=differences)
    return Investigation(case, freshness)


async def _read_chain(runtime: Runtime, application_name: str, workflow_id: str) -> list[str]:
    """Read the steps that lead down to the cause, a few workflows at most; what could not be."""
    if runtime.live is None:
        return []
    mirror = runtime.live.mirror
    tried: set[str] = set()
    refused: list[str] = []
    while len(tried) < MOST_READ:
        missing = await runtime.read(
            partial(
                unread,
                application_name=application_name,
                workflow_id=workflow_id,
                now=now_ms(),
            )
        )
        ids = [each for each in missing if each not in tried][: MOST_READ - len(tried)]
        if not ids:
            break
        for each in ids:
            tried.add(each)
            try:
                await mirror.refresh_steps(application_name, each)
            except NOT_TO_BE_READ as error:
                why = plain(error, limit=WHY_CHARACTERS)
                refused.append(f"the steps of {plain(each)}: {why}")
                return refused
    return refused


async def _read_peers(runtime: Runtime, application_name: str, case: Case) -> bool:
    """Of a failure, the steps of a few runs that went well, if the mirror lacks them."""
    if runtime.live is None or case.workflow.status in (WorkflowStatus.SUCCESS, *WAITING):
        return False
    for each in case.peers.unread:
        try:
            await runtime.live.mirror.refresh_steps(application_name, each)
        except NOT_TO_BE_READ:
            return False
    return bool(case.peers.unread)


async def _ask(runtime: Runtime, case: Case, refused: Sequence[str]) -> Told:
    """What only Conductor knows, and findings on such a case look at."""
    told = Told(refused=refused)
    if runtime.live is None or refused:
        return told
    client, application_name = runtime.live.client, case.application_name
    origin = case.origin
    try:
        if case.queue is not None:
            queues = await client.list_queues(application_name)
            limits = next((_limits(q) for q in queues if q.name == case.queue.name), None)
            told = replace(told, limits=limits, queues_known=True)
        if case.workflow.schedule_name is not None:
            schedules = await client.list_schedules(application_name)
            state = next(
                (
                    ScheduleState(each.status, each.cron_expression, each.last_fired_at)
                    for each in schedules
                    if each.schedule_name == case.workflow.schedule_name
                ),
                None,
            )
            told = replace(told, schedule=state, schedules_known=True)
        workflow_id = origin.workflow.workflow_id
        if case.in_flight and origin.wait is not None and origin.wait.kind == "message":
            sent = await client.list_notifications(application_name, workflow_id)
            steps = await client.list_steps(application_name, workflow_id)
            told = replace(
                told,
                messages=[Message(each.topic, each.created_at, each.consumed) for each in sent],
                wakes_at=_wakes_at(steps[-1].output if steps else None),
            )
        elif (
            origin.link is not None
            and origin.link.error is not None
            and origin.workflow.deleted_at is None
        ):
            steps = await client.list_steps(application_name, workflow_id)
            whole = await client.get_workflow(application_name, workflow_id)
            outputs = {step.step_id: step.output for step in steps if step.output is not None}
            told = replace(told, outputs=outputs, input=whole.input)
    except NOT_TO_BE_READ as error:
        why = plain(error, limit=WHY_CHARACTERS)
        told = replace(told, refused=[f"what only Conductor knows: {why}"])
    return told


def _limits(queue: Queue) -> QueueLimits:
    period = queue.rate_limit_period_secs
    return QueueLimits(
        concurrency=queue.concurrency,
        worker_concurrency=queue.worker_concurrency,
        rate_limit_max=queue.rate_limit_max,
        rate_limit_period_ms=None if period is None else int(period * 1000),
        by_priority=queue.priority_enabled,
    )


def _wakes_at(output: str | None) -> int | None:
    """A sleep's output is when it ends: in Python seconds, elsewhere milliseconds."""
    try:
        moment = float(output or "")
    except ValueError:
        return None
    seconds = moment < 100_000_000_000
    return int(moment * 1000 if seconds else moment) if 0 < moment < 1e15 else None
