"""Who we are to Conductor: the OAuth device flow in two calls."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field

from dbos_mcp.server import render
from dbos_mcp.server.context import CurrentSession


async def login(session: CurrentSession) -> str:
    """Begin a login to DBOS-managed Conductor. Only when the user wants to log in, or a tool says
    that nobody is. Show the user the URL, its host and the code; then call login_complete."""
    device = await session.login.begin()
    url = device.url
    return render.answer(
        "Ask the user to open this address in a browser and to check that it shows the same code:",
        render.fields(
            [
                ("url", url),
                ("host", urlsplit(url).hostname),
                ("code", device.user_code),
            ],
            limit=2000,
        ),
        "Then call login_complete, which waits for the approval.",
    )


async def login_complete(
    session: CurrentSession,
    timeout_seconds: Annotated[float, Field(ge=1, le=300)] = 60,
) -> str:
    """Wait for the user to approve the login that login began, and keep the credentials. If it is
    still pending after timeout_seconds, call it again."""
    done = await session.complete_login(timeout_seconds)
    login = done.login
    return render.answer(
        f"Logged in as {render.plain(login.user_name or 'an unnamed user')}"
        + (f" of {render.plain(login.organization)}." if login.organization else "."),
        f"{render.plain(done.problem, limit=500)} Then call login_complete again."
        if done.problem
        else "Syncing begins now; list_applications shows what there is.",
    )
