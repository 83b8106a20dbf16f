"""How a function becomes a tool: its hints, its errors, and arguments that must be known.

The SDK ignores unknown arguments, so a misspelt filter would answer with an unfiltered list. Here
it is an error that names the nearest argument. Schemas are made compact, since every client pays
for them at every start.
"""

import difflib
from collections.abc import Awaitable, Callable
from typing import Any

from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase
from mcp_types import ToolAnnotations
from pydantic import ConfigDict, create_model, model_validator
from pydantic_core import PydanticCustomError

from dbos_mcp.server.context import speaking_to_agents

Handler = Callable[..., Awaitable[str]]


def read_tool(function: Handler, *, open_world: bool = False) -> Tool:
    """A tool that changes nothing anywhere; one that always asks Conductor is `open_world`."""
    return _tool(function, ToolAnnotations(read_only_hint=True, open_world_hint=open_world))


def command_tool(function: Handler, *, destructive: bool, idempotent: bool) -> Tool:
    """A tool that makes Conductor do something."""
    return _tool(
        function,
        ToolAnnotations(
            read_only_hint=False,
            destructive_hint=destructive,
            idempotent_hint=idempotent,
            open_world_hint=True,
        ),
    )


def login_tool(function: Handler) -> Tool:
    """A tool that changes nothing but who we are to Conductor."""
    return _tool(
        function,
        ToolAnnotations(
            read_only_hint=False,
            destructive_hint=False,
            idempotent_hint=False,
            open_world_hint=True,
        ),
    )


def _tool(function: Handler, annotations: ToolAnnotations) -> Tool:
    tool = Tool.from_function(
        speaking_to_agents(function), annotations=annotations, structured_output=False
    )
    tool.fn_metadata.arg_model = _known_arguments_only(tool.name, tool.fn_metadata.arg_model)
    tool.parameters = _compact(tool.fn_metadata.arg_model.model_json_schema(by_alias=True))
    tool.description = " ".join(tool.description.split())
    return tool


def _known_arguments_only(name: str, arguments: type[ArgModelBase]) -> type[ArgModelBase]:
    class KnownArguments(arguments):  # type: ignore[valid-type,misc] # made per tool
        model_config = ConfigDict(extra="forbid")

        @model_validator(mode="before")
        @classmethod
        def _name_the_nearest(cls, values: Any) -> Any:
            for name in values if isinstance(values, dict) else ():
                if name not in cls.model_fields:
                    near = difflib.get_close_matches(name, cls.model_fields, n=1)
                    raise PydanticCustomError(
                        "unknown_argument",
                        "Unknown argument '{name}'{hint} Arguments: {known}",
                        {
                            "name": str(name)[:80],
                            "hint": f": did you mean '{near[0]}'?" if near else ".",
                            "known": ", ".join(cls.model_fields),
                        },
                    )
            return values

    return create_model(name, __base__=KnownArguments)


def _compact(schema: Any) -> Any:
    """The schema without titles and null alternatives, which an absent argument already covers."""
    if isinstance(schema, list):
        return [_compact(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    compact = {
        key: {name: _compact(value) for name, value in item.items()}
        if key == "properties"
        else _compact(item)
        for key, item in schema.items()
        if key != "title" and not (key == "default" and item is None)
    }
    choices = [choice for choice in compact.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) == 1:
        del compact["anyOf"]
        return choices[0] | compact
    if choices:
        compact["anyOf"] = choices
    return compact
