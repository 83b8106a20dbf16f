"""Lists of workflows, from the mirror."""

from functools import partial
from typing import Annotated, Any, Literal

from mcp_types import CallToolResult
from pydantic import Field
from sqlalchemy import Connection

from dbos_mcp.queries import workflows as queries
from dbos_mcp.queries.coverage import Gap, gap_of
from dbos_mcp.queries.filters import WorkflowFilter
from dbos_mcp.queries.paging import Cursor, Order, OrderBy
from dbos_mcp.queries.workflows import WorkflowPage
from dbos_mcp.server import render, workflow_rows
from dbos_mcp.server.context import CurrentAsker, CurrentRuntime, found_by, line_of, now_of
from dbos_mcp.server.lookup import look_at
from dbos_mcp.server.tools import arguments
from dbos_mcp.server.tools.arguments import (
    TIMES,
    ApplicationName,
    Duration,
    MaxAge,
    Texts,
    Time,
)
from dbos_mcp.server.tools.define import structured

_COLUMNS = workflow_rows.table_columns(workflow_rows.concise())
_NARROWING = ("status", "workflow_name", "start_time", "error_contains")


async def list_workflows(
    asker: CurrentAsker,
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
            description="Waiting or running then: created, and not ended, by the last known times"
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
        Literal["concise", "full"], Field(description="full: every column")
    ] = "concise",
    format: Literal["text", "json"] = "text",
    limit: Annotated[int, Field(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Field(description="Of the last answer")] = None,
    max_age_seconds: MaxAge = None,
) -> str | CallToolResult:
    """List an application's workflows, newest first, by any combination of filters; a filter takes
    one value or a list of alternatives, matched exactly, bounds included. The first line counts all
    matches; rows stop at 8 KB, and then the answer says how many more there are, and how to go on.
    get_workflow explains one."""
    after = Cursor.decode(cursor) if cursor else None
    # What `-2h` meant on the first page it means on all.
    now = after.asked_at if after else await now_of(runtime, application_name)
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
    looked = await look_at(asker, runtime, application_name, max_age_seconds)

    def query(connection: Connection) -> tuple[WorkflowPage, Gap | None]:
        page = queries.list_workflows(
            connection, question, order=order, limit=limit, cursor=after, asked_at=now
        )
        all_named = question.workflow_id and page.total == len(set(question.workflow_id))
        return page, None if all_named else gap_of(connection, question)

    (page, gap), freshness = await found_by(runtime, query, application_name, looked=looked)
    if format == "json":
        return structured(
            workflow_rows.as_json(
                application_name,
                page,
                shown,
                freshness,
                gap=gap,
                live=runtime.live is not None,
                clip_errors=clip_errors,
            )
        )
    unused = [name for name in _NARROWING if not getattr(question, name)]
    return workflow_rows.as_text(
        f"workflows of {render.plain(application_name)}, {workflow_rows.in_words(order)}",
        page,
        workflow_rows.table_columns(shown, clip_errors=clip_errors),
        render.answer(render.gap_line(gap), line_of(runtime, freshness)),
        narrowing=f"narrow by {', '.join(unused)}" if unused else "narrow the question",
    )
