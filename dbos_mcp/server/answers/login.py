"""Who we are to Conductor: the OAuth device flow in two calls."""

import secrets
from contextlib import suppress
from typing import Any

import anyio
from mcp import MCPError
from mcp.server.mcpserver import Context
from mcp_types import ElicitRequest, ElicitRequestURLParams, ElicitResult, InputRequiredResult

from dbos_mcp.conductor.device_login import DeviceLogin
from dbos_mcp.server import render
from dbos_mcp.server.context import Session, Sessions, session_of
from dbos_mcp.server.dialogs import has_back_channel, opens_urls

ANSWER_SECONDS = 60.0
"""How long a client's dialog is waited for; the address is in the tool's answer as well."""

_OPEN = "open"


async def login(ctx: Context[Sessions, Any]) -> str | InputRequiredResult:
    session = await session_of(ctx)
    answered = (ctx.input_responses or {}).get(_OPEN)
    device = session.login.device if answered is not None else None
    if device is None:
        device, answered = await session.login.begin(), None
        session.asked_to_open = None
    if answered is None and opens_urls(ctx):
        request = _request(device)
        if has_back_channel(ctx):
            session.asked_to_open = request.elicitation_id
            answered = await _ask(ctx, request)
        else:
            return InputRequiredResult(input_requests={_OPEN: ElicitRequest(params=request)})
    action = answered.action if isinstance(answered, ElicitResult) else None
    if action in ("decline", "cancel"):
        session.login.abandon()
        return "The user did not want to open the login page: no login is under way."
    return render.answer(
        "The user has opened the login page, which is to show the same code:"
        if action == "accept"
        else "Ask the user to open this address in a browser and to check that it shows the same"
        " code:",
        render.fields(
            [
                ("url", device.url),
                ("host", device.host),
                ("code", device.user_code),
            ],
            limit=2000,
        ),
        "Then call login_complete, which waits for the approval.",
    )


async def login_complete(
    session: Session, ctx: Context[Sessions, Any], *, timeout_seconds: float
) -> str:
    done = await session.complete_login(timeout_seconds)
    login = done.login
    if session.asked_to_open is not None:
        await ctx.session.send_elicit_complete(session.asked_to_open, ctx.request_id)
        session.asked_to_open = None
    return render.answer(
        f"Logged in as {render.plain(login.user_name or 'an unnamed user')}"
        + (f" of {render.plain(login.organization)}." if login.organization else "."),
        f"{render.plain(done.problem, limit=500)} Then call login_complete again."
        if done.problem
        else "Syncing begins now; list_applications shows what there is.",
    )


def _request(device: DeviceLogin) -> ElicitRequestURLParams:
    host = device.host
    return ElicitRequestURLParams(
        message=f"Log in to DBOS Conductor at {render.plain(host)}. Approve it there only if the"
        f" page shows the code {render.plain(device.user_code)}.",
        url=device.url,
        elicitation_id=secrets.token_urlsafe(16),
    )


async def _ask(ctx: Context[Sessions, Any], request: ElicitRequestURLParams) -> ElicitResult | None:
    """The user's answer, if it comes within reason."""
    answer: ElicitResult | None = None
    with anyio.move_on_after(ANSWER_SECONDS), suppress(MCPError):
        answer = await ctx.session.elicit_url(
            request.message,
            request.url,
            request.elicitation_id or "",
            related_request_id=ctx.request_id,
        )
    return answer
