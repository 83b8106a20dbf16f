"""Who we are to Conductor: the OAuth device flow in two calls."""

from typing import Annotated, Any

from mcp.server.mcpserver import Context
from mcp_types import InputRequiredResult
from pydantic import Field

from dbos_mcp.server.context import CurrentSession, Sessions


async def login(ctx: Context[Sessions, Any]) -> str | InputRequiredResult:
    """Begin a login to DBOS Conductor. Only when the user wants to log in, or a tool says that
    nobody is. Show the user the URL, its host and the code; then call login_complete."""
    from dbos_mcp.server.answers import login as answers

    return await answers.login(ctx)


async def login_complete(
    session: CurrentSession,
    ctx: Context[Sessions, Any],
    timeout_seconds: Annotated[float, Field(ge=1, le=300)] = 60,
) -> str:
    """Wait for the user to approve the login that login began, and keep the credentials. If it is
    still pending after timeout_seconds, call it again."""
    from dbos_mcp.server.answers import login as answers

    return await answers.login_complete(session, ctx, timeout_seconds=timeout_seconds)
