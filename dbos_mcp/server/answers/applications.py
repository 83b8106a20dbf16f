"""What runs, and where."""

from functools import partial

from dbos_mcp.domain import CONDUCTOR, counted
from dbos_mcp.queries import applications
from dbos_mcp.runtime import Runtime
from dbos_mcp.server import render
from dbos_mcp.server.budget import listed
from dbos_mcp.server.context import Asker
from dbos_mcp.server.freshness import answer_from
from dbos_mcp.server.lookup import look_at
from dbos_mcp.server.sync_status import coverage


async def list_applications(
    asker: Asker, runtime: Runtime, *, max_age_seconds: float | None = None
) -> str:
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
    asker: Asker, runtime: Runtime, application_name: str, *, max_age_seconds: float | None
) -> str:
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
