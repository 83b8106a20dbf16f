"""What happened: to one workflow since it was first seen, or to all since some time."""

from typing import Annotated

from pydantic import Field

from dbos_mcp.server.context import CurrentAsker, CurrentRuntime
from dbos_mcp.server.tools.arguments import (
    ApplicationName,
    MaxAge,
    OneApplication,
    Time,
    WorkflowId,
)


async def get_workflow_history(
    asker: CurrentAsker,
    runtime: CurrentRuntime,
    application_name: ApplicationName,
    workflow_id: WorkflowId,
    newest_first: bool = False,
    after_position: Annotated[
        int | None, Field(description="Continue behind this entry, in the same order")
    ] = None,
    max_age_seconds: MaxAge = None,
) -> str:
    """Tell what happened to one workflow, from the mirror's log: every state that was seen, with
    the mirror's and upstream's clock, what caused it (recovery, resume, rewind, fork, retention, a
    command of ours), the fields that changed, commands, steps read, and which states must have been
    missed between two looks."""
    from dbos_mcp.server.answers import history as answers

    return await answers.get_workflow_history(
        asker,
        runtime,
        application_name,
        workflow_id,
        newest_first=newest_first,
        after_position=after_position,
        max_age_seconds=max_age_seconds,
    )


async def list_changes(
    asker: CurrentAsker,
    runtime: CurrentRuntime,
    application_name: OneApplication = None,
    since: Annotated[Time, Field(description="Default: a day ago; as -2h or ISO 8601")] = None,
    after_position: Annotated[
        int | None, Field(ge=0, description="Of the last answer, in place of since")
    ] = None,
    cursor: Annotated[str | None, Field(description="Of the last answer")] = None,
    max_age_seconds: MaxAge = None,
) -> str:
    """Tell what happened while you were away: what changed since a time or since the last answer.
    One line per workflow, from its first state to its last, failures first, under exact counts of
    what came of all; also executors and our commands."""
    from dbos_mcp.server.answers import history as answers

    return await answers.list_changes(
        asker,
        runtime,
        application_name=application_name,
        since=since,
        after_position=after_position,
        cursor=cursor,
        max_age_seconds=max_age_seconds,
    )
