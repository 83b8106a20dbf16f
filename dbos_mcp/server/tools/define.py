"""How a function becomes a tool: its hints, its errors, and arguments that must be known.

The SDK ignores unknown arguments, so a misspelt filter would answer with an unfiltered list. Here
it is an error that names the nearest argument. Schemas are made compact, since every client pays
for them at every start; so are hints: what a tool does not say of itself is that it writes, reaches
out into an open world, and would not do the same twice, as the protocol has it.
"""

import difflib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase
from mcp_types import CallToolResult, InputRequiredResult, TextContent, ToolAnnotations
from pydantic import ConfigDict, Field, create_model, model_validator
from pydantic_core import PydanticCustomError

from dbos_mcp.domain import visible
from dbos_mcp.server.context import speaking_to_agents
from dbos_mcp.server.render import compact_json, plain

Handler = (
    Callable[..., Awaitable[str]]
    | Callable[..., Awaitable[str | InputRequiredResult]]
    | Callable[..., Awaitable[str | CallToolResult]]
)
About = Callable[[str], AbstractContextManager[None]]

_TITLES = {"login": "Log in", "login_complete": "Complete the login", "query_sql": "Query with SQL"}
"""Where the name itself is no title."""


def read_tool(function: Handler, *, open_world: bool = False, app: str | None = None) -> Tool:
    """A tool that changes nothing anywhere; one that always asks Conductor is `open_world`. `app`
    is what shows its answers in clients that show MCP Apps."""
    return _tool(
        function,
        ToolAnnotations(read_only_hint=True, open_world_hint=None if open_world else False),
        meta=None if app is None else {"ui": {"resourceUri": app}},
    )


class _PlainTool(Tool):
    """Its errors are seen as they are: those of the SDK quote arguments, and have lines."""

    async def run(
        self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False
    ) -> Any:
        try:
            return await super().run(arguments, context, convert_result)
        except ToolError as error:
            error.args = ("\n".join(map(visible, str(error).split("\n"))),)
            raise


class CommandTool(_PlainTool):
    """A tool that makes Conductor do something: not registered in a server that is read-only."""


def command_tool(function: Handler, *, destructive: bool, idempotent: bool) -> Tool:
    return _tool(
        function,
        ToolAnnotations(destructive_hint=destructive, idempotent_hint=idempotent or None),
        CommandTool,
    )


class LoginTool(Tool):
    """A tool for the user of this process: over HTTP, nobody whom a token names may call it."""


def login_tool(function: Handler) -> Tool:
    """A tool that changes nothing but who we are to Conductor."""
    return _tool(
        function,
        ToolAnnotations(destructive_hint=False),
        LoginTool,
    )


def structured(content: dict[str, Any]) -> CallToolResult:
    """An answer for programs, the same in both channels: clients hand on one or the other."""
    return CallToolResult(
        content=[TextContent(text=compact_json(content))], structured_content=content
    )


def of_profile(tool: Tool, profiles: Sequence[str], about: About) -> Tool:
    """The same tool for a server of several profiles: with an argument that says which one is
    meant, and an answer that ends with it. `about` takes the call there."""
    of_one = tool.fn_metadata.arg_model

    class Arguments(of_one):  # type: ignore[valid-type,misc] # made per tool
        also_known: ClassVar[tuple[str, ...]] = ("profile",)

    metadata = tool.fn_metadata.model_copy(update={"arg_model": Arguments})
    properties = tool.parameters.get("properties", {}) | {
        "profile": {"type": "string", "enum": list(profiles), "default": profiles[0]}
    }
    return _OfProfile(
        **{name: getattr(tool, name) for name in Tool.model_fields}
        | {"fn_metadata": metadata, "parameters": tool.parameters | {"properties": properties}},
        profiles=tuple(profiles),
        about=about,
    )


class _OfProfile(_PlainTool):
    profiles: tuple[str, ...] = Field(exclude=True)
    about: About = Field(exclude=True)

    async def run(
        self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False
    ) -> Any:
        others = {name: value for name, value in arguments.items() if name != "profile"}
        profile = arguments.get("profile") or self.profiles[0]
        if profile not in self.profiles:
            near = difflib.get_close_matches(str(profile), self.profiles, n=1)
            raise ToolError(
                f"There is no profile {plain(profile)!r} here"
                + (f"; did you mean {near[0]}?" if near else ".")
                + f" Profiles: {', '.join(self.profiles)}."
            )
        with self.about(profile):
            result = await super().run(others, context, convert_result)
        if isinstance(result, CallToolResult):
            if result.structured_content is not None:
                return structured({**result.structured_content, "profile": profile})
            for content in result.content:
                if isinstance(content, TextContent):
                    content.text += f"\nProfile: {profile}."
        return result


def _tool(
    function: Handler,
    annotations: ToolAnnotations,
    kind: type[Tool] = _PlainTool,
    *,
    meta: dict[str, Any] | None = None,
) -> Tool:
    name = function.__name__
    tool = kind.from_function(
        speaking_to_agents(function),
        title=_TITLES.get(name) or name.replace("_", " ").capitalize(),
        annotations=annotations,
        meta=meta,
        structured_output=False,
    )
    arguments = (_KnownArguments, tool.fn_metadata.arg_model)
    tool.fn_metadata.arg_model = create_model(name, __base__=arguments)
    tool.parameters = _compact({"additionalProperties": False, **tool.parameters})
    tool.description = " ".join(tool.description.split())
    return tool


class _KnownArguments(ArgModelBase):
    model_config = ConfigDict(extra="forbid")
    also_known: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest(cls, values: Any) -> Any:
        known = (*cls.model_fields, *cls.also_known)
        for name in values if isinstance(values, dict) else ():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise PydanticCustomError(
                    "unknown_argument",
                    "Unknown argument '{name}'{hint} Arguments: {known}",
                    {
                        "name": str(name)[:80],
                        "hint": f": did you mean '{near[0]}'?" if near else ".",
                        "known": ", ".join(known),
                    },
                )
        try:
            compact_json(values).encode()
        except UnicodeEncodeError as error:
            raise PydanticCustomError(
                "no_text",
                "A lone surrogate (\\ud800 to \\udfff) is no character: leave it out.",
            ) from error
        return values


def _compact(schema: Any) -> Any:
    """The schema without what says nothing: titles, null alternatives, defaults that an absent
    argument stands for anyway, bounds that nobody would go below.

    Of one text or a list of them, the list alone is told, which every model provider understands;
    the text is taken as well.
    """
    if isinstance(schema, list):
        return [_compact(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    compact = {
        key: {name: _compact(value) for name, value in item.items()}
        if key == "properties"
        else _compact(item)
        for key, item in schema.items()
        if not _says_nothing(key, item)
    }
    choices = [choice for choice in compact.get("anyOf", []) if choice != {"type": "null"}]
    if _ONE_TEXT in choices and _TEXTS in choices:
        choices.remove(_ONE_TEXT)
        if isinstance(compact.get("default"), str):
            compact["default"] = [compact["default"]]
    if len(choices) == 1:
        del compact["anyOf"]
        return choices[0] | compact
    if choices:
        compact["anyOf"] = choices
    return compact


_ONE_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _ONE_TEXT}


def _says_nothing(key: str, value: object) -> bool:
    match key:
        case "title":
            return True
        case "default":
            return value in (None, False, 0, "")
        case "minimum":
            return value in (0, 1)
        case "additionalProperties":
            return value is True
        case _:
            return False
