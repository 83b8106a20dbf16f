"""Failures and their causes."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated

from pydantic import Field
from sqlalchemy import Connection

from dbos_mcp.conductor.models import Queue
from dbos_mcp.domain import WorkflowStatus, now_ms
from dbos_mcp.errors import UsageError
from dbos_mcp.postmortem import failures as queries
from dbos_mcp.postmortem.case import Case, Message, ScheduleState, Told, read_case, unread
from dbos_mcp.postmortem.diagnosis import Call, diagnose
from dbos_mcp.postmortem.failures import FailureGroup, Failures, Feature, Window
from dbos_mcp.postmortem.queues import QueueLimits
from dbos_mcp.queries.coverage import Gap, gap_of
from dbos_mcp.queries.filters import WorkflowFilter
from dbos_mcp.runtime import Runtime
from dbos_mcp.server import render
from dbos_mcp.server.budget import fitting
from dbos_mcp.server.context import CurrentAsker, CurrentRuntime, answer_from
from dbos_mcp.server.lookup import NOT_TO_BE_READ, look_at, look_up
from dbos_mcp.server.render import Column, compact_json
from dbos_mcp.server.tools import arguments
from dbos_mcp.server.tools.arguments import ApplicationName, MaxAge, Texts, Time, WorkflowId
from dbos_mcp.server.workflow_rows import ANSWER_BYTES, DATA_NOTE
from dbos_mcp.settings import DAY_MS, Toolset

CELL_CHARACTERS = 200
DIAGNOSIS_BYTES = 4_096
VERDICT_CHARACTERS = 900
LINE_CHARACTERS = 400
ID_CHARACTERS = 200
WHY_CHARACTERS = 160
MOST_READ = 5
"""Workflows of a chain whose steps are read before it is told."""
QUEUED = (WorkflowStatus.ENQUEUED, WorkflowStatus.DELAYED)
_COLUMNS: list[Column[FailureGroup]] = [
    ("group", lambda group: group.group),
    ("began", lambda group: str(group.count)),
    ("before", lambda group: str(group.before)),
    ("failed", lambda group: str(group.workflows)),
    ("workflow_name", lambda group: group.workflow_name),
    ("step_name", lambda group: group.step_name),
    ("error", lambda group: group.kind),
    ("first_at", lambda group: render.time(group.first_at)),
    ("last_at", lambda group: render.time(group.last_at)),
    ("newest", lambda group: group.origins[0]),
]


async def list_failures(
    asker: CurrentAsker,
    runtime: CurrentRuntime,
    application_name: ApplicationName,
    since: Annotated[Time, Field(description="Default: -24h")] = None,
    until: Time = None,
    workflow_name: Texts = None,
    group: Annotated[str | None, Field(description="Tell more of this one")] = None,
    max_age_seconds: MaxAge = None,
) -> str:
    """Group what failed or timed out by its cause: where it began (a failure of a child counts
    there, once), the kind of error, how often, how often before, and which versions, executors and
    queues failed runs have more often than others. Then diagnose_workflow on one of them."""
    now = now_ms()
    began = arguments.time("since", since, now=now)
    ended = arguments.time("until", until, now=now)
    window = Window(now - DAY_MS if began is None else began, now if ended is None else ended)
    if window.until < window.since:
        raise UsageError(
            "The window ends before it begins.",
            hint="since is the earlier time, until the later one, or left out for now.",
        )
    names = arguments.texts(workflow_name)
    looked = await look_at(asker, runtime, application_name, max_age_seconds)

    def query(connection: Connection) -> tuple[Failures, Gap | None]:
        found = queries.list_failures(
            connection, application_name, window, workflow_names=names, group=group
        )
        reach = WorkflowFilter(
            application_name=application_name,
            completed_after=window.before.since,
            deleted_upstream=None,
        )
        return found, gap_of(connection, reach)

    (found, gap), freshness = await answer_from(runtime, query, application_name, looked=looked)
    span = f"from {render.time(window.since)} to {render.time(window.until)}"
    name = render.plain(application_name)

    def answer_of(shown: int) -> str:
        groups = found.groups[:shown]
        left = len(found.groups) - shown
        return render.answer(
            f"{found.workflows} workflows of {name} failed {span}, of {len(found.groups)} causes;"
            f" {found.before} in as much time before"
            if group is None
            else f"Group {render.plain(group)} of {name}, {span}",
            render.table(_COLUMNS, groups, limit=CELL_CHARACTERS) if shown else "None.",
            *(_features(each) for each in groups),
            _more(found.groups[0]) if group is not None else None,
            f"{left} smaller groups: narrow by workflow_name, or a shorter time." if left else None,
            _notes(found) if shown else None,
            DATA_NOTE if shown else None,
            render.gap_line(gap),
            freshness,
        )

    answer, _ = fitting(len(found.groups), ANSWER_BYTES, answer_of)
    return answer


def _features(group: FailureGroup) -> str | None:
    """In which way the failed runs are not like the others."""
    if not group.features:
        return None
    return f"{group.group}: " + "; ".join(_feature(feature) for feature in group.features)


def _feature(feature: Feature) -> str:
    value = "none" if feature.value is None else render.plain(feature.value)
    return (
        f"{feature.field} {value} in {feature.failed} of {feature.of_failed} failed,"
        f" {feature.others} of {feature.of_others} other runs"
    )


def _more(group: FailureGroup) -> str:
    return render.fields(
        [("newest error", group.error), ("it began in", ", ".join(group.origins))], limit=1_500
    )


def _notes(found: Failures) -> str:
    of = "" if found.others_complete else ", the newest"
    unknown = sum(not group.known for group in found.groups)
    return (
        "began: at that place, each origin once; failed: with the workflows that waited for it;"
        f" before: began, in as much time before. Compared with {found.compared_with} runs{of}."
        + (
            f" Of {unknown} groups the origin is not known: steps or children are not mirrored."
            if unknown
            else ""
        )
    )


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
    found = diagnose(case)
    calls = [
        _call(application_name, call, admin=Toolset.ADMIN in runtime.settings.toolsets)
        for call in found.next
        if not (call.command and runtime.settings.read_only)
    ]
    workflow = case.workflow
    evidence = [*found.chain, *found.evidence]

    def answer_of(shown: int) -> str:
        lines = [f"- {render.plain(line, limit=LINE_CHARACTERS)}" for line in evidence[:shown]]
        return render.answer(
            f"{render.plain(workflow_id, limit=ID_CHARACTERS)}: {render.plain(workflow.status)},"
            f" {render.plain(workflow.workflow_name)} of {render.plain(application_name)}",
            f"verdict: {render.plain(found.verdict, limit=VERDICT_CHARACTERS)}",
            "\n".join(["evidence:", *lines]) if lines else None,
            f"not known: {render.plain('; '.join(found.not_known), limit=LINE_CHARACTERS)}."
            if found.not_known
            else None,
            "\n".join(["next:", *calls]) if calls else None,
            DATA_NOTE,
            freshness,
        )

    answer, _ = fitting(len(evidence), DIAGNOSIS_BYTES, answer_of)
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


def _call(application_name: str, call: Call, *, admin: bool) -> str:
    arguments = {"application_name": application_name, **call.arguments}
    given = ", ".join(f"{key}={compact_json(value)}" for key, value in arguments.items())
    needs = " (of the toolset admin)" if call.tool == "manage_schedule" and not admin else ""
    return f"- {call.tool}({given}): {render.plain(call.why, limit=WHY_CHARACTERS)}{needs}"
