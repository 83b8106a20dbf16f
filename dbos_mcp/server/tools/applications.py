"""What runs, and where."""

from dbos_mcp.server.context import CurrentAsker, CurrentRuntime, RuntimeForAll
from dbos_mcp.server.tools.arguments import ApplicationName, MaxAge


async def list_applications(
    asker: CurrentAsker, runtime: RuntimeForAll, max_age_seconds: MaxAge = None
) -> str:
    """List the applications registered with DBOS Conductor: their status, and how many workflows
    of each are mirrored, in flight and failed. Start here: other tools take an application_name."""
    from dbos_mcp.server.answers import applications as answers

    return await answers.list_applications(asker, runtime, max_age_seconds=max_age_seconds)


async def list_executors(
    asker: CurrentAsker,
    runtime: CurrentRuntime,
    application_name: ApplicationName,
    max_age_seconds: MaxAge = None,
) -> str:
    """List the executors (processes) of an application: HEALTHY, DISCONNECTED, DEAD, or REMOVED
    when no longer listed. A PENDING workflow on a dead executor waits for recovery."""
    from dbos_mcp.server.answers import applications as answers

    return await answers.list_executors(
        asker, runtime, application_name, max_age_seconds=max_age_seconds
    )
