"""Why one workflow failed, or what it waits for."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from dbos_mcp.conductor.models import Queue
from dbos_mcp.domain import FAILED, WorkflowStatus, now_ms
from dbos_mcp.postmortem.case import Case, Message, ScheduleState, Told, read_case, unread
from dbos_mcp.postmortem.diagnosis import Call, diagnose
from dbos_mcp.postmortem.queues import QueueLimits
from dbos_mcp.runtime import Runtime
from dbos_mcp.server import render
from dbos_mcp.server.budget import fitting, within
from dbos_mcp.server.context import CurrentAsker, CurrentRuntime, answer_from
from dbos_mcp.server.differences import explain_differences
from dbos_mcp.server.lookup import NOT_TO_BE_READ, look_up
from dbos_mcp.server.tools.arguments import ApplicationName, MaxAge, WorkflowId
from dbos_mcp.server.workflow_rows import DATA_NOTE

DIAGNOSIS_BYTES = 4_096
VERDICT_BYTES = 1_000
LINE_BYTES = 400
ID_BYTES = 200
WHY_CHARACTERS = 160
MOST_READ = 5
"""Workflows of a chain whose steps are read before it is told."""
QUEUED = (WorkflowStatus.ENQUEUED, WorkflowStatus.DELAYED)


async def diagnose_workflow(
    asker: CurrentAsker,
    runtime: CurrentRuntime,
    application_name: ApplicationName,
    workflow_id: WorkflowId,
    max_age_seconds: MaxAge = None,
) -> str:
    """Say why a workflow failed, or what it waits for, in one call: down through its children to
    where that began, what differs from runs that went well, since when and which others are alike,
    what is not known, and what to do, such as a fork from the step that mends it."""
    now = now_ms()
    looked = await look_up(asker, runtime, application_name, workflow_id, max_age_seconds)
    refused = await _read_chain(runtime, application_name, workflow_id)
    read = partial(read_case, application_name=application_name, workflow_id=workflow_id, now=now)
    case, freshness = await answer_from(runtime, read, application_name, looked=looked)
    if await _read_peers(runtime, application_name, case):
        case, freshness = await answer_from(runtime, read, application_name, looked=looked)
    case = replace(case, told=await _ask(runtime, case, refused))
    origin = case.origin.workflow
    if origin.status in FAILED:
        alike = [run.key for run in case.peers.alike]
        differences = await explain_differences(
            asker, runtime, application_name, origin.workflow_id, alike=alike
        )
        case = replace(case, differences=differences)
    found = diagnose(case, _tools_there(runtime))
    calls = [
        *(_call(asker.profile, application_name, call) for call in found.next),
        *(_out_of_reach(runtime, call) for call in found.out_of_reach[:1]),
    ]
    workflow = case.workflow
    evidence = [*found.chain, *found.evidence]

    called = within(workflow.workflow_name or "", ID_BYTES)

    def answer_of(shown: int, calls: Sequence[str]) -> str:
        lines = [f"- {within(line, LINE_BYTES)}" for line in evidence[:shown]]
        return render.answer(
            f"{within(workflow_id, ID_BYTES)}: {render.plain(workflow.status)},"
            f" {called} of {render.plain(application_name)}",
            f"verdict: {within(found.verdict, VERDICT_BYTES)}",
            "\n".join(["evidence:", *lines]) if lines else None,
            f"not known: {within('; '.join(found.not_known), LINE_BYTES)}."
            if found.not_known
            else None,
            "\n".join(["next:", *calls]) if calls else None,
            DATA_NOTE,
            freshness,
        )

    # Ids are long where they are hostile; then there are fewer calls.
    for kept in range(len(calls), -1, -1):
        of_these = partial(answer_of, calls=calls[:kept])
        answer, _ = fitting(len(evidence), DIAGNOSIS_BYTES, of_these)
        if len(answer.encode()) <= DIAGNOSIS_BYTES:
            break
    return answer


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
                why = render.plain(error, limit=WHY_CHARACTERS)
                refused.append(f"the steps of {render.plain(each)}: {why}")
                return refused
    return refused


async def _read_peers(runtime: Runtime, application_name: str, case: Case) -> bool:
    """Of a failure, the steps of a few runs that went well, if the mirror lacks them."""
    if runtime.live is None or case.workflow.status in (WorkflowStatus.SUCCESS, *QUEUED):
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
        why = render.plain(error, limit=WHY_CHARACTERS)
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


def _tools_there(runtime: Runtime) -> frozenset[str]:
    """Those that can be called, and do something."""
    from dbos_mcp.server.tools import tools_of  # which lists this one

    settings = runtime.settings
    silent = settings.read_only or runtime.live is None
    return frozenset(tool.name for tool in tools_of(settings.toolsets, read_only=silent))


def _call(profile: str | None, application_name: str, call: Call) -> str:
    why = render.plain(call.why, limit=WHY_CHARACTERS)
    return f"- {call.written(application_name, profile)}: {why}"


def _out_of_reach(runtime: Runtime, call: Call) -> str:
    """Nothing that could be taken for a call."""
    if runtime.settings.read_only:
        why = "this server is read-only"
    elif runtime.live is None:
        why = "this server is offline"
    else:
        why = "DBOS_MCP_TOOLSETS=all adds that tool; or in Conductor's console"
    told = render.plain(call.why, limit=WHY_CHARACTERS)
    return f"- not from here: {call.described}: {told}; {why}"
