"""Lists of workflows, from the mirror."""

from typing import Annotated, Any, Literal

from mcp_types import CallToolResult
from pydantic import Field

from dbos_mcp.server.context import CurrentAsker, CurrentRuntime
from dbos_mcp.server.tools.arguments import (
    TIMES,
    ApplicationName,
    Duration,
    MaxAge,
    Texts,
    Time,
)


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
    from dbos_mcp.server.answers import workflows as answers

    return await answers.list_workflows(
        asker,
        runtime,
        application_name,
        status=status,
        workflow_name=workflow_name,
        workflow_id=workflow_id,
        workflow_id_prefix=workflow_id_prefix,
        queue_name=queue_name,
        executor_id=executor_id,
        application_version=application_version,
        authenticated_user=authenticated_user,
        parent_workflow_id=parent_workflow_id,
        forked_from=forked_from,
        schedule_name=schedule_name,
        step_name=step_name,
        has_failed_step=has_failed_step,
        error_contains=error_contains,
        attributes=attributes,
        start_time=start_time,
        end_time=end_time,
        completed_after=completed_after,
        completed_before=completed_before,
        dequeued_after=dequeued_after,
        dequeued_before=dequeued_before,
        active_at=active_at,
        min_duration=min_duration,
        max_duration=max_duration,
        min_queue_wait=min_queue_wait,
        max_queue_wait=max_queue_wait,
        has_parent=has_parent,
        was_forked_from=was_forked_from,
        queues_only=queues_only,
        deleted_upstream=deleted_upstream,
        order_by=order_by,
        descending=descending,
        columns=columns,
        detail=detail,
        format=format,
        limit=limit,
        cursor=cursor,
        max_age_seconds=max_age_seconds,
    )
