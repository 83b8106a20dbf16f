"""Cancel, resume, fork: sent straight to Conductor, and left in the log."""

from typing import Annotated

from mcp_types import InputRequiredResult
from pydantic import Field

from dbos_mcp.server.context import Caller
from dbos_mcp.server.tools.arguments import ApplicationName, WorkflowIds

Confirm = Annotated[
    str | None, Field(description="Above 20 workflows: from the preview, if the user agrees")
]


async def cancel_workflow(
    ctx: Caller,
    application_name: ApplicationName,
    workflow_id: WorkflowIds,
    cancel_children: bool = False,
    confirm: Confirm = None,
) -> str | InputRequiredResult:
    """Cancel workflows in flight. A running one stops at its next step, a queued one leaves its
    queue; each can be resumed."""
    from dbos_mcp.server.answers import commands as answers

    return await answers.cancel_workflow(
        ctx, application_name, workflow_id, cancel_children=cancel_children, confirm=confirm
    )


async def resume_workflow(
    ctx: Caller,
    application_name: ApplicationName,
    workflow_id: WorkflowIds,
    queue_name: Annotated[str | None, Field(description="Enqueue there, not at once")] = None,
    confirm: Confirm = None,
) -> str | InputRequiredResult:
    """Resume workflows that are CANCELLED or MAX_RECOVERY_ATTEMPTS_EXCEEDED, from their last
    completed step; or start an ENQUEUED or DELAYED one now. After SUCCESS or ERROR: fork_workflow.
    A PENDING one would be started again: do not."""
    from dbos_mcp.server.answers import commands as answers

    return await answers.resume_workflow(
        ctx, application_name, workflow_id, queue_name=queue_name, confirm=confirm
    )


async def fork_workflow(
    ctx: Caller,
    application_name: ApplicationName,
    workflow_id: WorkflowIds,
    start_step: Annotated[
        int, Field(ge=0, description="Step id to run again from; 1 is the beginning")
    ] = 1,
    application_version: Annotated[str | None, Field(description="One with the fix")] = None,
    new_workflow_id: Annotated[str | None, Field(description="For one workflow only")] = None,
    queue_name: str | None = None,
    queue_partition_key: str | None = None,
    confirm: Confirm = None,
) -> str | InputRequiredResult:
    """Run workflows again from a step, as new workflows that keep the results of earlier steps; the
    originals stay. To retry a failure, fork from the step that failed (list_steps)."""
    from dbos_mcp.server.answers import commands as answers

    return await answers.fork_workflow(
        ctx,
        application_name,
        workflow_id,
        start_step=start_step,
        application_version=application_version,
        new_workflow_id=new_workflow_id,
        queue_name=queue_name,
        queue_partition_key=queue_partition_key,
        confirm=confirm,
    )
