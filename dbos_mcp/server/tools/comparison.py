"""Two workflows side by side."""

from dbos_mcp.server.context import CurrentAsker, CurrentRuntime
from dbos_mcp.server.tools.arguments import ApplicationName, MaxAge, WorkflowId


async def compare_workflows(
    asker: CurrentAsker,
    runtime: CurrentRuntime,
    application_name: ApplicationName,
    workflow_id: WorkflowId,
    other_workflow_id: WorkflowId,
    max_age_seconds: MaxAge = None,
) -> str:
    """Show two runs side by side, as one that failed and one that went well: states, versions,
    executors, durations, where their inputs differ, and their steps by name and order with
    outcomes, durations and outputs that differ. Inputs and outputs are read live."""
    from dbos_mcp.server.answers import comparison as answers

    return await answers.compare_workflows(
        asker,
        runtime,
        application_name,
        workflow_id,
        other_workflow_id,
        max_age_seconds=max_age_seconds,
    )
