"""How syncing goes, and a look at Conductor now."""

from typing import Annotated, Any

from mcp.server.mcpserver import Context
from pydantic import Field

from dbos_mcp.server.context import CurrentSession, Sessions
from dbos_mcp.server.tools.arguments import OneApplication


async def sync_status(session: CurrentSession, application_name: OneApplication = None) -> str:
    """Show how syncing goes, per application: live or not, how complete and how old the mirror is,
    when it looks next, what it cost in requests and KB, steps still to be read, what audits found,
    the last error. Also which process syncs, and the cache file."""
    from dbos_mcp.server.answers import sync as answers

    return await answers.sync_status(session, application_name=application_name)


async def sync_now(
    session: CurrentSession,
    ctx: Context[Sessions, Any],
    application_name: OneApplication = None,
    timeout_seconds: Annotated[float, Field(ge=1, le=120)] = 30,
) -> str:
    """Look at Conductor now and wait until the mirror is as fresh as this call. Seldom needed:
    while somebody asks, the mirror is seconds old. Use it after a deployment, a login or an outage.
    It changes nothing upstream."""
    from dbos_mcp.server.answers import sync as answers

    return await answers.sync_now(
        session, ctx, application_name=application_name, timeout_seconds=timeout_seconds
    )
