"""Workflows and their steps, from the mirror."""

from functools import partial
from typing import Annotated, Any, Literal

from mcp_types import CallToolResult
from pydantic import Field

from dbos_mcp.domain import now_ms
from dbos_mcp.errors import ConductorError, NotFoundError, UsageError
from dbos_mcp.queries import steps as step_queries
from dbos_mcp.queries import workflows as queries
from dbos_mcp.queries.filters import WorkflowFilter
from dbos_mcp.queries.paging import Cursor, Order, OrderBy
from dbos_mcp.queries.workflows import WorkflowItem
from dbos_mcp.runtime import Runtime
from dbos_mcp.server import render, workflow_rows
from dbos_mcp.server.context import CurrentRuntime, answer_from, found_by
from dbos_mcp.server.tools import arguments
from dbos_mcp.server.tools.arguments import (
    TIMES,
    ApplicationName,
    Duration,
    Texts,
    Time,
    WorkflowId,
)
from dbos_mcp.server.tools.define import structured
from dbos_mcp.server.workflow_rows import DATA_NOTE

DETAIL_CHARACTERS = 2_000

# UsageError: an id such as `..`, which no URL can hold, is mirrored like any other.
_NOT_TO_BE_READ = (ConductorError, NotFoundError, UsageError)

_COLUMNS = workflow_rows.table_columns(workflow_rows.concise())
_NARROWING = ("status", "workflow_name", "start_time", "error_contains")


async def list_workflows(
    runtime: CurrentRuntime,
    application_name: ApplicationName,
    status: Annotated[
        Texts,
        Field(
            description="ENQUEUED, DELAYED, PENDING, SUCCESS, ERROR, CANCELLED or"
            " MAX_RECOVERY_ATTEMPTS_EXCEEDED"
        ),
    ] = None,
    workflow_name: Texts = None,
    workflow_id: Texts = None,
    workflow_id_prefix: Texts = None,
    queue_name: Texts = None,
    executor_id: Texts = None,
    application_version: Texts = None,
    authenticated_user: Texts = None,
    parent_workflow_id: Annotated[Texts, Field(description="Children of this workflow")] = None,
    forked_from: Annotated[Texts, Field(description="Forks of this workflow")] = None,
    schedule_name: Texts = None,
    step_name: Annotated[Texts, Field(description="Has such a mirrored step")] = None,
    has_failed_step: bool | None = None,
    # Of an optional text the SDK would take `null` or `{}` for JSON.
    error_contains: Annotated[str, Field(description="In upper or lower case")] = "",
    attributes: Annotated[
        dict[str, Any] | None, Field(description='All of these: {"customer": "acme"}')
    ] = None,
    start_time: Annotated[Time, Field(description=f"Created since. Times: {TIMES}")] = None,
    end_time: Annotated[Time, Field(description="Created until")] = None,
    completed_after: Time = None,
    completed_before: Time = None,
    dequeued_after: Time = None,
    dequeued_before: Time = None,
    active_at: Annotated[
        Time,
        Field(
            description="In flight then, waiting or running: created by then and not ended before"
            " it, by the last known times"
        ),
    ] = None,
    min_duration: Annotated[
        Duration, Field(description="From start to end: 30s, 5m, 2h, 1d, or ms; only ended ones")
    ] = None,
    max_duration: Duration = None,
    min_queue_wait: Annotated[Duration, Field(description="From creation to start")] = None,
    max_queue_wait: Duration = None,
    has_parent: bool | None = None,
    was_forked_from: bool | None = None,
    queues_only: Annotated[bool, Field(description="Waiting in, or running from, a queue")] = False,
    deleted_upstream: Annotated[
        bool | Literal["include"], Field(description="true: only what upstream no longer has")
    ] = False,
    order_by: Annotated[
        Literal["created", "completed", "duration", "queue_wait"],
        Field(description="Those that lack the value are left out"),
    ] = "created",
    descending: bool = True,
    columns: Annotated[Texts, Field(description="Other columns, by the filters' names")] = None,
    detail: Annotated[
        Literal["concise", "full"], Field(description="full: every column that holds something")
    ] = "concise",
    format: Literal["text", "json"] = "text",
    limit: Annotated[int, Field(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Field(description="Of the answer to continue")] = None,
) -> str | CallToolResult:
    """List an application's workflows, newest first, by any combination of filters; a filter takes
    one value or a list of alternatives, matched exactly, bounds included. Answered from the local
    mirror in milliseconds, also while the application is down. The first line counts all matches;
    rows stop at 8 KB, and then the answer says how many more there are; the last line says how
    fresh and complete the mirror is. get_workflow explains one, list_steps shows its steps."""
    after = Cursor.decode(cursor) if cursor else None
    # What `-2h` meant on the first page it means on all.
    now = after.asked_at if after else now_ms()
    time = partial(arguments.time, now=now)
    question = WorkflowFilter(
        application_name=application_name,
        status=arguments.statuses(status),
        workflow_name=arguments.texts(workflow_name),
        workflow_id=arguments.texts(workflow_id),
        workflow_id_prefix=arguments.texts(workflow_id_prefix),
        queue_name=arguments.texts(queue_name),
        executor_id=arguments.texts(executor_id),
        application_version=arguments.texts(application_version),
        authenticated_user=arguments.texts(authenticated_user),
        parent_workflow_id=arguments.texts(parent_workflow_id),
        forked_from=arguments.texts(forked_from),
        schedule_name=arguments.texts(schedule_name),
        step_name=arguments.texts(step_name),
        has_failed_step=has_failed_step,
        error_contains=error_contains or None,
        attributes=arguments.attributes(attributes),
        start_time=time("start_time", start_time),
        end_time=time("end_time", end_time),
        completed_after=time("completed_after", completed_after),
        completed_before=time("completed_before", completed_before),
        dequeued_after=time("dequeued_after", dequeued_after),
        dequeued_before=time("dequeued_before", dequeued_before),
        active_at=time("active_at", active_at),
        min_duration=arguments.duration("min_duration", min_duration),
        max_duration=arguments.duration("max_duration", max_duration),
        min_queue_wait=arguments.duration("min_queue_wait", min_queue_wait),
        max_queue_wait=arguments.duration("max_queue_wait", max_queue_wait),
        has_parent=has_parent,
        was_forked_from=was_forked_from,
        queues_only=queues_only,
        deleted_upstream=None if deleted_upstream == "include" else deleted_upstream,
    )
    order = Order(OrderBy(order_by), descending)
    shown = arguments.columns(columns, workflow_rows.COLUMNS)
    if not shown:
        full = detail == "full"
        deleted = question.deleted_upstream is not False
        shown = workflow_rows.COLUMNS if full else workflow_rows.concise(order, deleted=deleted)
    clip_errors = not columns and detail == "concise"
    page, freshness = await found_by(
        runtime,
        partial(
            queries.list_workflows,
            question=question,
            order=order,
            limit=limit,
            cursor=after,
            asked_at=now,
        ),
        application_name,
    )
    offline = runtime.live is None
    if format == "json":
        return structured(
            workflow_rows.as_json(
                application_name, page, shown, freshness, live=not offline, clip_errors=clip_errors
            )
        )
    unused = [name for name in _NARROWING if not getattr(question, name)]
    return workflow_rows.as_text(
        f"workflows of {render.plain(application_name)}, {workflow_rows.in_words(order)}",
        page,
        workflow_rows.table_columns(shown, clip_errors=clip_errors),
        render.freshness_line(freshness, now=now_ms(), offline=offline),
        narrowing=f"narrow by {', '.join(unused)}" if unused else "narrow the question",
    )


async def get_workflow(
    runtime: CurrentRuntime,
    application_name: ApplicationName,
    workflow_id: WorkflowId,
    include_payload: Annotated[
        bool, Field(description="Also input and output, read live from the application")
    ] = False,
) -> str:
    """Show one workflow: its state and error, its children and forks, how many steps failed, and
    the history of what was observed of it and done to it. From the local mirror; a workflow that
    was deleted upstream is still shown, and one that the mirror lacks is looked up."""
    note = await _look_up(runtime, application_name, workflow_id)
    detail, freshness = await answer_from(
        runtime,
        partial(queries.get_workflow, application_name=application_name, workflow_id=workflow_id),
        application_name,
    )
    item = detail.workflow
    if runtime.live is not None:
        await runtime.live.mirror.want_steps(application_name, workflow_id)
    payload = await _payload(runtime, application_name, workflow_id) if include_payload else None
    shown_history = len(detail.history)
    return render.answer(
        f"{render.plain(item.workflow_id, limit=300)}: {render.plain(item.status)},"
        f" {render.plain(item.workflow_name)} of {render.plain(application_name)}",
        render.fields(_details(item), limit=DETAIL_CHARACTERS),
        payload,
        _relatives("children", detail.children),
        _relatives("forks", detail.forks),
        f"steps: {detail.steps} mirrored, {detail.failed_steps} failed; list_steps shows them",
        f"history ({shown_history} of {detail.history_total}, oldest first):",
        render.table(
            [
                ("recorded_at", lambda entry: render.time(entry.recorded_at)),
                ("upstream's clock", lambda entry: render.time(entry.occurred_at)),
                ("event", lambda entry: entry.kind),
                ("what", lambda entry: entry.what),
            ],
            detail.history,
            limit=160,
        ),
        DATA_NOTE,
        note,
        freshness,
    )


async def list_steps(
    runtime: CurrentRuntime,
    application_name: ApplicationName,
    workflow_id: WorkflowId,
    limit: Annotated[int, Field(ge=1, le=500)] = 100,
    after_step_id: Annotated[int | None, Field(description="Continue behind this step")] = None,
) -> str:
    """List the steps of one workflow in order: names, times, durations, errors, and the child
    workflow that a step started or awaited. Follow child_workflow_id of a failed step down to the
    cause. Steps are read live when the mirror does not have them or the workflow still runs."""
    note = await _look_up(runtime, application_name, workflow_id)
    find = partial(
        step_queries.list_steps, application_name=application_name, workflow_id=workflow_id
    )
    steps, freshness = await answer_from(runtime, find, application_name)
    if steps.may_have_changed and note is None and runtime.live is not None:
        try:
            await runtime.live.mirror.refresh_steps(application_name, workflow_id)
        except _NOT_TO_BE_READ as error:
            note = f"Not read afresh: {render.plain(error, limit=DETAIL_CHARACTERS)}"
            await runtime.live.mirror.want_steps(application_name, workflow_id)
        steps, freshness = await answer_from(runtime, find, application_name)
    behind = [step for step in steps.items if after_step_id is None or step.step_id > after_step_id]
    shown = behind[:limit]
    failed = sum(step.error is not None for step in steps.items)
    return render.answer(
        f"{len(shown)} of {len(steps.items)} steps of {render.plain(workflow_id, limit=300)}"
        f" ({render.plain(steps.workflow_status)}), {failed} failed",
        render.table(
            [
                ("step_id", lambda step: str(step.step_id)),
                ("step_name", lambda step: step.step_name),
                ("started_at", lambda step: render.time(step.started_at)),
                ("duration", lambda step: render.duration(step.duration_ms)),
                ("child_workflow_id", lambda step: step.child_workflow_id),
                ("error", lambda step: step.error and render.plain(step.error, limit=300)),
            ],
            shown,
            limit=300,
        )
        if shown
        else "None has been read of it yet."
        if steps.read_at is None
        else "None.",
        f"More: pass after_step_id={shown[-1].step_id}." if len(shown) < len(behind) else None,
        DATA_NOTE if shown else None,
        note,
        f"Steps read at {render.time(steps.read_at)}." if steps.read_at is not None else None,
        freshness,
    )


async def _look_up(runtime: Runtime, application_name: str, workflow_id: str) -> str | None:
    """Ask upstream for a workflow that the mirror lacks; why it could not, if it could not.

    Raises:
        NotFoundError: upstream does not have it either.
    """
    held = await runtime.read(
        partial(queries.holds, application_name=application_name, workflow_id=workflow_id)
    )
    if held or runtime.live is None:
        return None
    try:
        reread = await runtime.live.mirror.refresh_workflows(application_name, [workflow_id])
    except ConductorError as error:
        return f"Not looked up at Conductor: {render.plain(error, limit=DETAIL_CHARACTERS)}"
    if not reread.statuses:
        raise NotFoundError(
            f"{application_name} has no workflow {workflow_id!r}, here or at Conductor.",
            hint="Look ids up with list_workflows (workflow_id_prefix finds the start of one).",
        )
    return None


async def _payload(runtime: Runtime, application_name: str, workflow_id: str) -> str:
    client = runtime.require_live().client
    try:
        live = await client.get_workflow(application_name, workflow_id)
    except _NOT_TO_BE_READ as error:
        return f"payload: not to be had: {render.plain(error, limit=DETAIL_CHARACTERS)}"
    if live.input is None and live.output is None:
        return "payload: Conductor sent none (private mode withholds it)"
    return render.fields([("input", live.input), ("output", live.output)], limit=DETAIL_CHARACTERS)


def _details(item: WorkflowItem) -> list[tuple[str, object]]:
    return [
        ("error", item.error),
        ("deleted upstream, noticed at", render.time(item.deleted_at)),
        ("class_name", item.class_name),
        ("config_name", item.config_name),
        ("created_at", render.time(item.created_at)),
        ("dequeued_at", render.time(item.dequeued_at)),
        ("completed_at", render.time(item.completed_at)),
        ("updated_at", render.time(item.updated_at)),
        ("duration", render.duration(item.duration_ms)),
        ("delay_until", render.time(item.delay_until)),
        ("deadline", render.time(item.deadline)),
        ("timeout_ms", item.timeout_ms),
        ("queue_name", item.queue_name),
        ("queue_partition_key", item.queue_partition_key),
        ("priority", item.priority or None),
        ("deduplication_id", item.deduplication_id),
        ("application_version", item.application_version),
        ("executor_id", item.executor_id),
        ("parent_workflow_id", item.parent_workflow_id),
        ("forked_from", item.forked_from),
        ("was_forked_from", "yes" if item.was_forked_from else None),
        ("schedule_name", item.schedule_name),
        ("authenticated_user", item.authenticated_user),
        ("assumed_role", item.assumed_role),
        ("authenticated_roles", item.authenticated_roles),
        ("attributes", item.attributes),
        ("owning application", item.owning_application),
    ]


def _relatives(name: str, relatives: queries.Relatives) -> str | None:
    if not relatives.total:
        return None
    return f"{name} ({len(relatives.items)} of {relatives.total}):\n" + render.table(
        _COLUMNS, relatives.items
    )
