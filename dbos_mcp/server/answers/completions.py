"""How the arguments of prompts and of the resources' templates go on."""

from collections.abc import Callable
from functools import partial

from mcp_types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)
from sqlalchemy import Connection

from dbos_mcp.errors import DbosMcpError
from dbos_mcp.postmortem import failures
from dbos_mcp.postmortem.failures import Window
from dbos_mcp.queries import completions as queries
from dbos_mcp.queries.completions import Matches
from dbos_mcp.runtime import Runtime
from dbos_mcp.server.context import Sessions
from dbos_mcp.server.freshness import now_of
from dbos_mcp.server.render import plain
from dbos_mcp.server.windows import failures_of_a_week


def _failure_groups(
    connection: Connection, application_name: str, prefix: str, window: Window
) -> Matches:
    groups = failures.outline(connection, application_name, window)
    return queries.of((group.group for group in groups), prefix)


_OF_AN_APPLICATION: dict[str, Callable[..., Matches]] = {
    "workflow_id": queries.workflow_ids,
}


async def complete(
    sessions: Sessions,
    _ref: PromptReference | ResourceTemplateReference,
    argument: CompletionArgument,
    context: CompletionContext | None,
) -> Completion | None:
    """Who types asks no question yet: nothing is opened, looked up or noted for it but the mirror
    itself, and where that is out of reach nothing goes on."""
    given = (context.arguments if context else None) or {}
    if argument.name == "profile":
        return _completion(queries.of(filter(None, sessions.by_profile), argument.value))
    try:
        runtime = await sessions.named(given.get("profile")).runtime()
        found = await _matches(runtime, argument, given.get("application_name"))
    except DbosMcpError:
        return None
    return None if found is None else _completion(found)


async def _matches(
    runtime: Runtime, argument: CompletionArgument, application_name: str | None
) -> Matches | None:
    if argument.name == "application_name":
        return await runtime.read(partial(queries.application_names, prefix=argument.value))
    query = _OF_AN_APPLICATION.get(argument.name)
    if query is None and argument.name != "group":
        return None
    if application_name is None:  # not said yet: it is clear where there is one
        names = (await runtime.read(partial(queries.application_names, prefix=""))).values
        application_name = names[0] if len(names) == 1 else None
    if application_name is None:
        return None
    if query is None:
        window = failures_of_a_week(await now_of(runtime, application_name))
        query = partial(_failure_groups, window=window)
    return await runtime.read(
        partial(query, application_name=application_name, prefix=argument.value)
    )


def _completion(found: Matches) -> Completion:
    """Without what a person could not see as it is, and so would not choose."""
    values = [value for value in found.values if plain(value, limit=len(value)) == value]
    return Completion(
        values=values,
        total=found.total,
        has_more=found.total is None or found.total > len(found.values),
    )
