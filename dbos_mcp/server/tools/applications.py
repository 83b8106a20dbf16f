"""What runs, and where."""

from functools import partial

from dbos_mcp.queries import applications
from dbos_mcp.server import render
from dbos_mcp.server.context import CurrentRuntime, RuntimeForAll, answer_from
from dbos_mcp.server.tools.arguments import ApplicationName


async def list_applications(runtime: RuntimeForAll) -> str:
    """List the applications registered with DBOS Conductor: their status, and how many workflows
    of each are mirrored, in flight and failed. Start here: other tools take an application_name."""
    items, freshness = await answer_from(runtime, applications.list_applications)
    table = render.table(
        [
            ("application_name", lambda item: item.application_name),
            ("status", lambda item: item.status),
            ("language", lambda item: item.language),
            ("workflows", lambda item: str(item.workflows)),
            ("in_flight", lambda item: str(item.in_flight)),
            ("failed", lambda item: str(item.failed)),
            ("mirrored", lambda item: render.time(item.as_of) or "loading"),
            ("private_mode", lambda item: "yes" if item.private_mode else None),
            ("offline_since", lambda item: render.time(item.offline_since)),
        ],
        items,
    )
    return render.answer(
        f"{len(items)} applications",
        table if items else "None is registered, or none has been seen yet.",
        freshness,
    )


async def list_executors(runtime: CurrentRuntime, application_name: ApplicationName) -> str:
    """List the executors (processes) of an application: HEALTHY, DISCONNECTED, DEAD, or REMOVED
    when no longer listed. A PENDING workflow on a dead executor waits for recovery."""
    items, freshness = await answer_from(
        runtime,
        partial(applications.list_executors, application_name=application_name),
        application_name,
    )
    table = render.table(
        [
            ("executor_id", lambda item: item.executor_id),
            ("status", lambda item: item.status),
            ("application_version", lambda item: item.application_version),
            ("hostname", lambda item: item.hostname),
            ("language", lambda item: item.language),
            ("dbos_version", lambda item: item.dbos_version),
            ("created_at", lambda item: render.time(item.created_at)),
            ("updated_at", lambda item: render.time(item.updated_at)),
        ],
        items,
    )
    return render.answer(
        f"{len(items)} executors of {render.plain(application_name)}",
        table if items else "Conductor lists none: it is normal while no process is connected.",
        freshness,
    )
