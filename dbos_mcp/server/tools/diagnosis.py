"""Why one workflow failed, or what it waits for."""

from mcp_types import CallToolResult

from dbos_mcp.server.context import CurrentAsker, CurrentRuntime, ShowsApps
from dbos_mcp.server.tools.arguments import ApplicationName, MaxAge, WorkflowId


async def diagnose_workflow(
    asker: CurrentAsker,
    runtime: CurrentRuntime,
    application_name: ApplicationName,
    workflow_id: WorkflowId,
    shows_apps: ShowsApps,
    max_age_seconds: MaxAge = None,
) -> str | CallToolResult:
    """Say why a workflow failed, or what it waits for, in one call: down through its children to
    where that began, what differs from runs that went well, since when and which others are alike,
    what is not known, and what to do, such as a fork from the step that mends it."""
    from dbos_mcp.server.answers import diagnosis as answers

    return await answers.diagnose_workflow(
        asker, runtime, application_name, workflow_id, shows_apps, max_age_seconds=max_age_seconds
    )
