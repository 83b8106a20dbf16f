"""Failures and their causes."""

from typing import Annotated

from pydantic import Field

from dbos_mcp.server.context import CurrentAsker, CurrentRuntime
from dbos_mcp.server.tools.arguments import ApplicationName, MaxAge, Texts, Time


async def list_failures(
    asker: CurrentAsker,
    runtime: CurrentRuntime,
    application_name: ApplicationName,
    since: Annotated[Time, Field(description="Default: -24h")] = None,
    until: Time = None,
    workflow_name: Texts = None,
    group: Annotated[str | None, Field(description="Tell what sets this one apart")] = None,
    max_age_seconds: MaxAge = None,
) -> str:
    """Group what failed or timed out by its cause: where it began (a failure of a child counts
    there, once), the kind of error, how often, how often before, and which versions, executors and
    queues failed runs have more often than others. Then diagnose_workflow on one of them."""
    from dbos_mcp.server.answers import postmortem as answers

    return await answers.list_failures(
        asker,
        runtime,
        application_name,
        since=since,
        until=until,
        workflow_name=workflow_name,
        group=group,
        max_age_seconds=max_age_seconds,
    )
