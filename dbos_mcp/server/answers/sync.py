"""How syncing goes, and a look at Conductor now."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from mcp.server.mcpserver import Context

from dbos_mcp.domain import CONDUCTOR, counted, now_ms
from dbos_mcp.queries import sync_status as queries
from dbos_mcp.runtime import Runtime
from dbos_mcp.server import render
from dbos_mcp.server.context import Session, Sessions
from dbos_mcp.server.freshness import answer_from
from dbos_mcp.server.progress import telling
from dbos_mcp.server.sync_status import ERROR_CHARACTERS, status_text, who_syncs
from dbos_mcp.sync.leadership import Leadership
from dbos_mcp.sync.now import LookedAt
from dbos_mcp.sync.now import sync_now as look_now


async def sync_status(session: Session, *, application_name: str | None) -> str:
    session.note_question(application_name or CONDUCTOR)
    return await read_status(session, application_name)


async def sync_now(
    session: Session,
    ctx: Context[Sessions, Any],
    *,
    application_name: str | None,
    timeout_seconds: float,
) -> str:
    runtime = await session.runtime()
    worker = runtime.require_live().worker
    try:
        now = await telling(
            ctx,
            lambda progress: look_now(
                worker, application_name, timeout_seconds=timeout_seconds, progress=progress
            ),
        )
    finally:  # not before: the cycle that follows would be the one to wait for
        session.note_question(application_name or CONDUCTOR)
    if now.finished and session.scheduler is not None:
        session.scheduler.ask_again()  # were credentials refused before, they are not any more
    _, freshness = await answer_from(
        runtime, lambda _connection: None, application_name or CONDUCTOR
    )
    headline = f"Looked at {counted(len(now.applications), 'application')} now"
    if not now.finished:
        syncing = who_syncs(leadership_of(session, runtime))
        headline = f"Not finished within {timeout_seconds:g} s; what was read is kept. " + (
            "Call sync_now again to go on."
            if syncing == "no process"
            else f"It goes on in the background ({syncing} syncs); sync_status shows how far."
        )
    return render.answer(headline, _table(now.applications), freshness)


def _table(applications: Sequence[LookedAt]) -> str | None:
    """Raises the error of a single application that failed."""
    if len(applications) == 1 and applications[0].error is not None:
        raise applications[0].error
    if not applications:
        return None
    return render.table(
        [
            ("application_name", lambda item: item.application_name),
            ("workflows_seen", lambda item: str(item.workflows_seen)),
            ("events", lambda item: str(item.events)),
            ("as_of", lambda item: render.time(item.as_of)),
            ("error", lambda item: item.error),
        ],
        applications,
        limit=ERROR_CHARACTERS,
    )


async def read_status(session: Session, application_name: str | None = None) -> str:
    """As text, with how fresh the list of applications is, or the one that is named.

    Raises:
        NotFoundError: an application that was never listed.
    """
    runtime = await session.runtime()
    status, freshness = await answer_from(
        runtime,
        partial(queries.sync_status, application_name=application_name, now=now_ms()),
        application_name or CONDUCTOR,
    )
    cache = runtime.cache.path
    syncing = who_syncs(leadership_of(session, runtime))
    asking = None if runtime.live is None else runtime.live.client.identity.described()
    return render.answer(
        status_text(status, cache=cache, syncing=syncing),
        asking and f"Conductor is asked as: {render.plain(asking, limit=300)}.",
        freshness,
    )


def leadership_of(session: Session, runtime: Runtime) -> Leadership:
    return session.scheduler.leadership if session.scheduler else Leadership(runtime.cache.path)
