"""Who asks, and what they may: on stdio the user of this process, over HTTP whom a token names."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp_types import CallToolResult, TextContent

from dbos_mcp.domain import Rights
from dbos_mcp.server import audit
from dbos_mcp.server.audit import Entry
from dbos_mcp.server.render import plain


@dataclass(frozen=True)
class Principal:
    id: str = field(repr=False)
    """Tells it from all others."""
    name: str | None
    """As the log keeps it beside a command; None: the user of this process."""
    rights: Rights

    @property
    def may_command(self) -> bool:
        return self.rights is Rights.FULL


USER = Principal("user", None, Rights.FULL)
Who = Callable[[], Principal]
"""Whose the message is that is being answered."""


@dataclass(frozen=True)
class Gate:
    """Around each message: nobody sees or calls a tool that is not for them, and what commands are
    asked for is audited."""

    who: Who
    commands: Collection[str]
    logins: Collection[str]
    """Tools for the user of this process alone: a server that many share has one login, which is
    nobody's of them to change."""
    instructions: Mapping[Rights, str]
    on_listed: Callable[[], None] = lambda: None
    """Called when somebody has been told of the tools."""

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        principal = self.who()
        if ctx.method == "tools/call":
            return await self._call(principal, ctx, call_next)
        result = await call_next(ctx)
        if isinstance(result, dict):
            if ctx.method == "tools/list":
                self.on_listed()
                hidden = self._hidden_from(principal)
                tools = [tool for tool in result["tools"] if tool["name"] not in hidden]
                return {**result, "tools": tools}
            if result.get("instructions"):  # of `initialize`, or `server/discover`
                return {**result, "instructions": self.instructions[principal.rights]}
        return result

    def _hidden_from(self, principal: Principal) -> frozenset[str]:
        return frozenset(
            [
                *(() if principal.may_command else self.commands),
                *(() if principal.name is None else self.logins),
            ]
        )

    async def _call(
        self, principal: Principal, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        params = ctx.params or {}
        name = params.get("name")
        hidden = name in self._hidden_from(principal) if isinstance(name, str) else False
        if name not in self.commands:
            return _refusal(name) if hidden else await call_next(ctx)
        arguments = params.get("arguments")
        given = arguments if isinstance(arguments, dict) else {}
        entry = Entry.of(principal.name, str(name), given)
        with audit.keeping(entry):
            if hidden:
                entry.outcome = "refused"
                return _refusal(name)
            result = await call_next(ctx)
            if isinstance(result, dict) and result.get("isError"):
                entry.outcome = "failed"
            return result


def _refusal(name: object) -> CallToolResult:
    said = (
        f"{plain(name)} is not for this token. Nothing was sent. Ask whoever runs the server:"
        " `dbos-mcp token create NAME --full` there makes a token for commands, `dbos-mcp login`"
        " logs the server in."
    )
    return CallToolResult(content=[TextContent(text=said)], is_error=True)
