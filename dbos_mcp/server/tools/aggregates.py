"""Workflows in numbers, from the mirror."""

from typing import Annotated

from pydantic import Field

from dbos_mcp.queries.groupings import GROUPINGS, OrderBy
from dbos_mcp.server.context import CurrentAsker, CurrentRuntime
from dbos_mcp.server.tools.arguments import ApplicationName, MaxAge, Texts, Time

MOST_GROUPS = 200


async def get_workflow_aggregates(
    asker: CurrentAsker,
    runtime: CurrentRuntime,
    application_name: ApplicationName,
    group_by: Annotated[Texts, Field(description=", ".join(GROUPINGS))] = "workflow_name",
    status: Texts = None,
    workflow_name: Texts = None,
    queue_name: Texts = None,
    executor_id: Texts = None,
    application_version: Texts = None,
    schedule_name: Texts = None,
    start_time: Annotated[Time, Field(description="Created since")] = None,
    end_time: str | None = None,
    order_by: OrderBy | None = None,
    durations: bool | None = None,
    compare: bool | None = None,
    limit: Annotated[int, Field(ge=1, le=MOST_GROUPS)] = 20,
    max_age_seconds: MaxAge = None,
) -> str:
    """Count workflows by group: in flight, failed, failure rate, p50/p95/max of durations and of
    queue waits. With start_time, beside as much time before: is it worse now? hour and day are UTC,
    of created_at."""
    from dbos_mcp.server.answers import aggregates as answers

    return await answers.get_workflow_aggregates(
        asker,
        runtime,
        application_name,
        group_by=group_by,
        status=status,
        workflow_name=workflow_name,
        queue_name=queue_name,
        executor_id=executor_id,
        application_version=application_version,
        schedule_name=schedule_name,
        start_time=start_time,
        end_time=end_time,
        order_by=order_by,
        durations=durations,
        compare=compare,
        limit=limit,
        max_age_seconds=max_age_seconds,
    )
