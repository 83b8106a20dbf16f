"""Lists of workflows, from the mirror."""

from functools import partial
from typing import Any, Literal

from mcp_types import CallToolResult
from sqlalchemy import Connection

from dbos_mcp.queries import workflows as queries
from dbos_mcp.queries.coverage import Gap, gap_of
from dbos_mcp.queries.filters import WorkflowFilter
from dbos_mcp.queries.paging import Cursor, Order, OrderBy
from dbos_mcp.queries.workflows import WorkflowPage
from dbos_mcp.runtime import Runtime
from dbos_mcp.server import render, workflow_rows
from dbos_mcp.server.context import Asker
from dbos_mcp.server.freshness import found_by, gap_line, line_of, now_of
from dbos_mcp.server.lookup import look_at
from dbos_mcp.server.tools import arguments
from dbos_mcp.server.tools.arguments import (
    Texts,
)
from dbos_mcp.server.tools.define import structured

_COLUMNS = workflow_rows.table_columns(workflow_rows.concise())
_NARROWING = ("status", "workflow_name", "start_time", "error_contains")


async def list_workflows(
    asker: Asker,
    runtime: Runtime,
    application_name: str,
    *,
    status: Texts,
    workflow_name: Texts,
    workflow_id: Texts,
    workflow_id_prefix: Texts,
    queue_name: Texts,
    executor_id: Texts,
    application_version: Texts,
    authenticated_user: Texts,
    parent_workflow_id: Texts,
    forked_from: Texts,
    schedule_name: Texts,
    step_name: Texts,
    has_failed_step: bool | None,
    error_contains: str,
    attributes: dict[str, Any] | None,
    start_time: str | None,
    end_time: str | None,
    completed_after: str | None,
    completed_before: str | None,
    dequeued_after: str | None,
    dequeued_before: str | None,
    active_at: str | None,
    min_duration: str | None,
    max_duration: str | None,
    min_queue_wait: str | None,
    max_queue_wait: str | None,
    has_parent: bool | None,
    was_forked_from: bool | None,
    queues_only: bool,
    deleted_upstream: bool | Literal["include"],
    order_by: Literal["created", "completed", "duration", "queue_wait"],
    descending: bool,
    columns: Texts,
    detail: Literal["concise", "full"],
    format: Literal["text", "json"],
    limit: int,
    cursor: str | None,
    max_age_seconds: float | None,
) -> str | CallToolResult:
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
        render.answer(gap_line(gap), line_of(runtime, freshness)),
        narrowing=f"narrow by {', '.join(unused)}" if unused else "narrow the question",
    )
