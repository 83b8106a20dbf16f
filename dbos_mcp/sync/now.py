"""A look that a person asks for: now, and waited for."""

from collections.abc import Sequence
from dataclasses import dataclass

import anyio
from sqlalchemy import Connection

from dbos_mcp.errors import DbosMcpError, NotFoundError
from dbos_mcp.queries import sync_status
from dbos_mcp.queries.applications import require_application
from dbos_mcp.store import event_log, sync_state
from dbos_mcp.sync import known
from dbos_mcp.sync.visit import ApplicationReport, Progress
from dbos_mcp.sync.worker import SyncWorker


@dataclass(frozen=True)
class LookedAt:
    """What came of it for one application."""

    application_name: str
    workflows_seen: int
    events: int
    as_of: int | None
    """When the last complete look began."""
    error: DbosMcpError | None = None


@dataclass(frozen=True)
class Now:
    finished: bool
    """False: the time was over before every application had been read to its end."""
    applications: Sequence[LookedAt]


async def sync_now(
    worker: SyncWorker,
    application_name: str | None,
    *,
    timeout_seconds: float,
    progress: Progress,
) -> Now:
    """One cycle that begins now, or behind the one that runs, over one application or all.

    It goes past what keeps the worker from asking upstream too often. When the time is over it is
    left where it is; what was read is kept.

    Raises:
        AuthenticationError, ConductorError, NotFoundError: Conductor could not be asked.
        NotFoundError: neither Conductor nor the mirror knows the application.
    """
    mirror = worker.mirror
    seen: dict[str, int] = {}

    def note(name: str, subject: str, count: int) -> None:
        seen[name] = count
        progress(name, subject, count)

    position = await mirror.read(event_log.last_position)
    only = None if application_name is None else [application_name]
    mirrored = await mirror.read(known.applications)
    for name in (None, *(only or mirrored)):
        mirror.client.traffic.ask_again(name)
    reports: list[ApplicationReport] | None = None
    with anyio.move_on_after(timeout_seconds):
        reports = await worker.run_once(note, only=only)
    errors = {report.application_name: report.error for report in reports or ()}

    def result(connection: Connection) -> list[LookedAt]:
        if application_name is not None and reports is not None:
            require_application(connection, application_name)
        states = sync_state.load_all(connection)
        return [
            LookedAt(
                application_name=name,
                workflows_seen=seen.get(name, 0),
                events=sync_status.events_since(connection, name, position),
                as_of=states[name].succeeded_at if name in states else None,
                error=errors[name] if name in errors else _not_listed(name, reports),
            )
            for name in (only or known.applications(connection))
        ]

    return Now(reports is not None, await mirror.read(result))


def _not_listed(name: str, reports: list[ApplicationReport] | None) -> NotFoundError | None:
    return None if reports is None else NotFoundError(f"Conductor no longer lists {name}.")
