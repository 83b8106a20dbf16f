"""What runs, and where."""

from functools import partial

from dbos_mcp.domain import counted
from dbos_mcp.queries import applications
from dbos_mcp.server import render
from dbos_mcp.server.budget import listed
from dbos_mcp.server.context import CurrentAsker, CurrentRuntime, RuntimeForAll, answer_from
from dbos_mcp.server.lookup import look_at
from dbos_mcp.server.sync_status import coverage
from dbos_mcp.server.tools.arguments import ApplicationName, MaxAge
from dbos_mcp.store.sync_state import CONDUCTOR


async def list_applications(
    asker: CurrentAsker, runtime: RuntimeForAll, max_age_seconds: MaxAge = None
) -> str:
    """List the applications registered with DBOS Conductor: their status, and how many workflows
    of each are mirrored, in flight and failed. Start here: other tools take an application_name."""
    looked = await look_at(asker, runtime, CONDUCTOR, max_age_seconds)
    items, freshness = await answer_from(runtime, applications.list_applications, looked=looked)
    table = listed(
        [
            ("application_name", lambda item: item.application_name),
            ("status", lambda item: item.status),
            ("language", lambda item: item.language),
            ("workflows", lambda item: str(item.workflows)),
            ("in_flight", lambda item: str(item.in_flight)),
            ("failed", lambda item: str(item.failed)),
            ("mirrored", lambda item: render.time(item.as_of) or "loading"),
            ("complete_since", lambda item: coverage(item.covered_since, item.history_complete)),
            ("private_mode", lambda item: "yes" if item.private_mode else None),
            ("offline_since", lambda item: render.time(item.offline_since)),
        ],
        items,
    )
    return render.answer(
        counted(len(items), "application"),
        table if items else "None is registered, or none has been seen yet.",
        freshness,
    )


async def list_executors(
    asker: CurrentAsker,
    runtime: CurrentRuntime,
    application_name: ApplicationName,
    max_age_seconds: MaxAge = None,
) -> str:
    """List the executors (processes) of an application: HEALTHY, DISCONNECTED, DEAD, or REMOVED
    when no longer listed. A PENDING workflow on a dead executor waits for recovery."""
    looked = await look_at(asker, runtime, application_name, max_age_seconds)
    items, freshness = await answer_from(
        runtime,
        partial(applications.list_executors, application_name=application_name),
        application_name,
        looked=looked,
    )
    table = listed(
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
