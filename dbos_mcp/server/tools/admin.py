"""What an administrator does: deletions, forks from the failure, queues, schedules, versions, and
the data of a workflow. Off by default. The reads ask Conductor, since none of it is mirrored."""

from typing import Annotated, Literal

from mcp_types import InputRequiredResult
from pydantic import Field

from dbos_mcp.server.context import Caller, CurrentRuntime
from dbos_mcp.server.tools.arguments import ApplicationName, Time, WorkflowId, WorkflowIds
from dbos_mcp.server.tools.commands import Confirm

What = Literal["events", "notifications", "streams"]
Action = Literal["pause", "resume", "trigger", "backfill"]
ScheduleName = Annotated[str, Field(description="As list_schedules shows it")]


async def delete_workflow(
    ctx: Caller,
    application_name: ApplicationName,
    workflow_id: WorkflowIds,
    delete_children: Annotated[bool, Field(description="Also all child workflows")] = False,
    confirm: Annotated[
        str | None, Field(description="From the preview, if the user agrees")
    ] = None,
) -> str | InputRequiredResult:
    """Delete workflows upstream for ever, in any state, with their steps, events and messages. The
    user is asked first, always. The mirror keeps what it holds of them, marked as deleted."""
    from dbos_mcp.server.answers import admin as answers

    return await answers.delete_workflow(
        ctx, application_name, workflow_id, delete_children=delete_children, confirm=confirm
    )


async def fork_from_failure(
    ctx: Caller,
    application_name: ApplicationName,
    workflow_id: WorkflowIds,
    start_step: Annotated[int | None, Field(ge=0, description="From this step instead")] = None,
    step_name: Annotated[str | None, Field(description="From the step of this name")] = None,
    from_last_step: bool = False,
    application_version: Annotated[str | None, Field(description="One with the fix")] = None,
    queue_name: str | None = None,
    queue_partition_key: str | None = None,
    confirm: Confirm = None,
) -> str | InputRequiredResult:
    """Run failed workflows again, each from the step that failed last, as new workflows; the
    originals stay. Conductor finds the steps: for many failures of one cause, once it is fixed."""
    from dbos_mcp.server.answers import admin as answers

    return await answers.fork_from_failure(
        ctx,
        application_name,
        workflow_id,
        start_step=start_step,
        step_name=step_name,
        from_last_step=from_last_step,
        application_version=application_version,
        queue_name=queue_name,
        queue_partition_key=queue_partition_key,
        confirm=confirm,
    )


async def list_queues(runtime: CurrentRuntime, application_name: ApplicationName) -> str:
    """List an application's queues: their limits, read live, and how many workflows wait and run in
    each by the mirror. list_workflows with queue_name shows which."""
    from dbos_mcp.server.answers import admin as answers

    return await answers.list_queues(runtime, application_name)


async def list_schedules(runtime: CurrentRuntime, application_name: ApplicationName) -> str:
    """List an application's schedules: cron expression, ACTIVE or PAUSED, and when they last fired,
    read live. manage_schedule changes them; list_workflows with schedule_name shows their runs."""
    from dbos_mcp.server.answers import admin as answers

    return await answers.list_schedules(runtime, application_name)


async def manage_schedule(
    ctx: Caller,
    application_name: ApplicationName,
    schedule_name: ScheduleName,
    action: Annotated[
        Action, Field(description="trigger: run once now; backfill: run what was missed")
    ],
    start_time: Annotated[Time, Field(description="backfill: from; ISO 8601, zone")] = None,
    end_time: Annotated[Time, Field(description="backfill: to")] = None,
    confirm: Annotated[
        str | None, Field(description="backfill: from the preview, if the user agrees")
    ] = None,
) -> str | InputRequiredResult:
    """Pause or resume a schedule, run its workflow once now, or backfill: run it for each time of
    an interval at which it should have run. trigger and backfill start workflows at each call."""
    from dbos_mcp.server.answers import admin as answers

    return await answers.manage_schedule(
        ctx,
        application_name,
        schedule_name,
        action,
        start_time=start_time,
        end_time=end_time,
        confirm=confirm,
    )


async def list_application_versions(
    runtime: CurrentRuntime, application_name: ApplicationName
) -> str:
    """List an application's versions, the latest first, read live; and by the mirror how many
    executors run each, and how many workflows in flight need it."""
    from dbos_mcp.server.answers import admin as answers

    return await answers.list_application_versions(runtime, application_name)


async def set_latest_application_version(
    ctx: Caller, application_name: ApplicationName, application_version: str
) -> str:
    """Make a registered version the latest: the one that new, resumed and scheduled workflows run
    on. A rollback of what runs, not of the code that is deployed."""
    from dbos_mcp.server.answers import admin as answers

    return await answers.set_latest_application_version(ctx, application_name, application_version)


async def get_workflow_data(
    runtime: CurrentRuntime,
    application_name: ApplicationName,
    workflow_id: WorkflowId,
    what: Annotated[What | None, Field(description="Only these; default: all three")] = None,
    key: Annotated[str | None, Field(description="Only this key or topic, values longer")] = None,
    offset: Annotated[int, Field(ge=0, description="Rows to pass over")] = 0,
) -> str:
    """Show what a workflow published and received, read live: its events (set_event), its
    notifications (messages sent to it, consumed or not) and its streams."""
    from dbos_mcp.server.answers import admin as answers

    return await answers.get_workflow_data(
        runtime, application_name, workflow_id, what=what, key=key, offset=offset
    )
