"""One workflow and its steps: now, or as the mirror knew it at some instant."""

from typing import Annotated

from pydantic import Field

from dbos_mcp.server.context import CurrentAsker, CurrentRuntime
from dbos_mcp.server.tools.arguments import ApplicationName, MaxAge, Texts, Time, WorkflowId

Offset = Annotated[int, Field(ge=0)]


async def get_workflow(
    asker: CurrentAsker,
    runtime: CurrentRuntime,
    application_name: ApplicationName,
    workflow_id: WorkflowId,
    include: Annotated[
        Texts, Field(description="steps, history, children (more of them), payload")
    ] = None,
    as_of: Annotated[
        Time, Field(description="As the mirror knew it then; include steps or history")
    ] = None,
    payload_offset: Annotated[Offset, Field(description="First character of each to show")] = 0,
    max_age_seconds: MaxAge = None,
) -> str:
    """Show one workflow: state, error, parents up to the root, children, forks, what it was forked
    from, failed and slowest steps. From the mirror, also when it was deleted upstream; one that the
    mirror lacks is looked up. The payload (input and output) is read live."""
    from dbos_mcp.server.answers import workflow as answers

    return await answers.get_workflow(
        asker,
        runtime,
        application_name,
        workflow_id,
        include=include,
        as_of=as_of,
        payload_offset=payload_offset,
        max_age_seconds=max_age_seconds,
    )


async def list_steps(
    asker: CurrentAsker,
    runtime: CurrentRuntime,
    application_name: ApplicationName,
    workflow_id: WorkflowId,
    failed_only: bool = False,
    step_id: Annotated[int | None, Field(description="This step alone")] = None,
    include_output: Annotated[bool, Field(description="Of that step")] = False,
    output_offset: Annotated[Offset, Field(description="First character of it to show")] = 0,
    limit: Annotated[int, Field(ge=1, le=500)] = 100,
    after_step_id: Annotated[int | None, Field(description="Continue behind this step")] = None,
    max_age_seconds: MaxAge = None,
) -> str:
    """List the steps of one workflow in order: names, times, durations, errors, and the child
    workflow that a step started or awaited. Follow child_workflow_id of a failed step down to the
    cause. Steps are read live when the mirror does not have them or the workflow still runs."""
    from dbos_mcp.server.answers import workflow as answers

    return await answers.list_steps(
        asker,
        runtime,
        application_name,
        workflow_id,
        failed_only=failed_only,
        step_id=step_id,
        include_output=include_output,
        output_offset=output_offset,
        limit=limit,
        after_step_id=after_step_id,
        max_age_seconds=max_age_seconds,
    )
