"""What a client can ask its user, and how the question gets there."""

from contextlib import suppress
from typing import Any

import anyio
from mcp import MCPError
from mcp.server.mcpserver import Context
from mcp_types import ElicitationCapability, ElicitRequestFormParams, ElicitResult
from mcp_types.version import is_version_at_least

_NO_BACK_CHANNEL_SINCE = "2026-07-28"


def has_back_channel(ctx: Context[Any, Any]) -> bool:
    """Whether a request can be sent within the call, or the call is to be answered with it."""
    version = ctx.protocol_version
    return version is None or not is_version_at_least(version, _NO_BACK_CHANNEL_SINCE)


def opens_urls(ctx: Context[Any, Any]) -> bool:
    """Whether the client can take the user to an address, with the user's consent."""
    can = _can(ctx)
    return can is not None and can.url is not None


def shows_forms(ctx: Context[Any, Any]) -> bool:
    """Whether the client can ask the user a question; saying nothing of modes means that it can."""
    can = _can(ctx)
    return can is not None and (can.form is not None or can.url is None)


def _can(ctx: Context[Any, Any]) -> ElicitationCapability | None:
    capabilities = ctx.client_capabilities
    return capabilities.elicitation if capabilities is not None else None


async def ask_form(
    ctx: Context[Any, Any], form: ElicitRequestFormParams, *, patience_seconds: float
) -> ElicitResult | None:
    """The user's answer, over the back channel, if it comes in time."""
    answer: ElicitResult | None = None
    with anyio.move_on_after(patience_seconds), suppress(MCPError):
        answer = await ctx.session.elicit_form(
            form.message, form.requested_schema, related_request_id=ctx.request_id
        )
    return answer
