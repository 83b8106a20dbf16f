"""All operations of ConductorClient with made-up arguments, so that a new one is tried as well."""

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, get_type_hints

from dbos_mcp.conductor.client import ConductorClient
from dbos_mcp.conductor.models import Body

Operation = Callable[[ConductorClient], Awaitable[object]]


def operations(name: str = "x") -> dict[str, Operation]:
    """All public methods; `name` is what they are given wherever they want text."""
    return {
        operation: partial(_call, method, name)
        for operation, method in inspect.getmembers(ConductorClient, inspect.iscoroutinefunction)
        if not operation.startswith("_") and operation != "aclose"
    }


def says_nothing(operation: str) -> bool:
    """Whether any JSON is a success: a command that has nothing to tell."""
    returned: object = get_type_hints(getattr(ConductorClient, operation))["return"]
    return returned is type(None)


def _call(
    method: Callable[..., Awaitable[object]], name: str, client: ConductorClient
) -> Awaitable[object]:
    parameters = inspect.signature(method).parameters
    required = {
        key: _made_up(hint, name)
        for key, hint in get_type_hints(method).items()
        if key != "return" and parameters[key].default is inspect.Parameter.empty
    }
    return method(client, **required)


def _made_up(hint: Any, name: str) -> object:
    if inspect.isclass(hint) and issubclass(hint, Body):
        fields = hint.model_fields
        given = {
            key: _made_up(each.annotation, "x")
            for key, each in fields.items()
            if each.is_required()
        }
        return hint(**given, **({"limit": 5} if "limit" in fields else {}))
    return {str: name, int: 5}.get(hint, ["x"])


OPERATIONS = operations()
