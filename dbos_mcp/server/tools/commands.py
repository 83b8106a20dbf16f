"""Cancel, resume, fork: sent straight to Conductor, and left in the log."""

from typing import Annotated

from pydantic import Field

from dbos_mcp.conductor.models import ForkRequest
from dbos_mcp.errors import UsageError
from dbos_mcp.server import render
from dbos_mcp.server.context import CurrentRuntime
from dbos_mcp.server.tools import arguments
from dbos_mcp.server.tools.arguments import ApplicationName, WorkflowIds
from dbos_mcp.sync.commands import CommandResult

MOST_AT_ONCE = 20
UNKNOWN = (
    "An outcome is unknown: the command was sent, no answer came, it may have run. Do not send it"
    " again; get_workflow shows whether it did, once Conductor answers."
)


async def cancel_workflow(
    runtime: CurrentRuntime,
    application_name: ApplicationName,
    workflow_id: WorkflowIds,
    cancel_children: Annotated[bool, Field(description="Also all child workflows")] = False,
) -> str:
    """Cancel workflows that are in flight. A running one stops at its next step; a queued one
    leaves its queue. A cancelled workflow can be resumed from where it stopped."""
    ids = _ids(workflow_id)
    commands = runtime.require_commands()
    return _answer(
        "cancel",
        await commands.cancel(application_name, ids, cancel_children=cancel_children),
    )


async def resume_workflow(
    runtime: CurrentRuntime,
    application_name: ApplicationName,
    workflow_id: WorkflowIds,
    queue_name: Annotated[str | None, Field(description="Enqueue there, not at once")] = None,
) -> str:
    """Resume workflows that are CANCELLED or MAX_RECOVERY_ATTEMPTS_EXCEEDED, from their last
    completed step; or start an ENQUEUED or DELAYED one now. One that ended as SUCCESS or ERROR
    cannot be resumed: fork it. A running one would be started again: do not."""
    ids = _ids(workflow_id)
    commands = runtime.require_commands()
    return _answer("resume", await commands.resume(application_name, ids, queue_name=queue_name))


async def fork_workflow(
    runtime: CurrentRuntime,
    application_name: ApplicationName,
    workflow_id: WorkflowIds,
    start_step: Annotated[
        int, Field(ge=0, description="Step id to run again from; 1 is the beginning")
    ] = 1,
    application_version: Annotated[
        str | None, Field(description="Version to run on, as one with the fix")
    ] = None,
    new_workflow_id: Annotated[str | None, Field(description="For one workflow only")] = None,
    queue_name: str | None = None,
    queue_partition_key: str | None = None,
) -> str:
    """Run workflows again from a step, as new workflows that keep the results of the steps before
    it. The originals stay as they are. list_steps shows the step ids; to retry a failure, fork
    from the step that failed."""
    ids = _ids(workflow_id)
    if new_workflow_id is not None and len(ids) > 1:
        raise UsageError("new_workflow_id names one workflow: leave it out for several.")
    request = ForkRequest(
        start_step=start_step,
        new_workflow_id=new_workflow_id,
        application_version=application_version,
        queue_name=queue_name,
        queue_partition_key=queue_partition_key,
    )
    return _answer("fork", await runtime.require_commands().fork(application_name, ids, request))


def _ids(workflow_id: str | list[str]) -> tuple[str, ...]:
    ids = tuple(dict.fromkeys(arguments.texts(workflow_id)))
    if not ids:
        raise UsageError(
            "No workflow id was given.", hint="An empty list would mean every workflow upstream."
        )
    if len(ids) > MOST_AT_ONCE:
        raise UsageError(
            f"{len(ids)} workflows at once are too many to undo.",
            hint=f"Pass at most {MOST_AT_ONCE} ids at a time.",
        )
    return ids


def _answer(command: str, results: list[CommandResult]) -> str:
    """Per id what came of it; raises the error of a single command that failed."""
    if len(results) == 1 and results[0].error is not None and results[0].outcome == "failed":
        raise results[0].error
    done = sum(result.outcome == "done" for result in results)
    return render.answer(
        f"{command}: {done} of {len(results)} done",
        render.table(
            [
                ("workflow_id", lambda result: result.workflow_id),
                ("outcome", lambda result: result.outcome),
                ("status_before", lambda result: result.status_before),
                ("status_now", lambda result: result.status_after),
                ("new_workflow_id", lambda result: result.new_workflow_id),
                ("detail", lambda result: result.error),
            ],
            results,
            limit=300,
        ),
        UNKNOWN if any(result.outcome == "unknown" for result in results) else None,
        "The mirror has read them again: get_workflow shows the new state and the history."
        if any(result.status_after for result in results)
        else None,
    )
