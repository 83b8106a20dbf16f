"""What a client may read, or watch, without calling a tool."""

import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.server.mcpserver.resources import FunctionResource, Resource, ResourceSecurity

from dbos_mcp.domain import CONDUCTOR
from dbos_mcp.errors import DbosMcpError, NotFoundError
from dbos_mcp.server import addresses, render
from dbos_mcp.server.addresses import FAILURE_GROUP, FAILURES, PROFILE, SCHEMA, WORKFLOW
from dbos_mcp.server.context import Asker, Session, Sessions, import_answers, opened_for, words_of
from dbos_mcp.server.icons import LOOK, SYNC

# A value goes into a question to the mirror and into no path.
_ANYTHING = ResourceSecurity(
    reject_path_traversal=False, reject_absolute_paths=False, reject_null_bytes=False
)

P = ParamSpec("P")


def speaking_to_readers(function: Callable[P, Awaitable[str]]) -> Callable[P, Awaitable[str]]:
    """Of what a resource raises, clients see the text of ResourceError alone."""

    @functools.wraps(function)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> str:
        await import_answers()
        try:
            return await function(*args, **kwargs)
        except NotFoundError as error:
            raise ResourceNotFoundError(words_of(error)) from error
        except DbosMcpError as error:
            raise ResourceError(words_of(error)) from error

    return wrapper


def resources_of(sessions: Sessions) -> list[Resource]:
    """The SDK hands a resource without parameters no context, so its session comes along."""
    several = len(sessions.by_profile) > 1

    async def schema_now() -> str:
        return await read_schema(sessions.current)

    return [
        *(
            _sync_status(session, profile if several else None)
            for profile, session in sessions.by_profile.items()
        ),
        FunctionResource.from_function(
            speaking_to_readers(schema_now),
            SCHEMA,
            name="schema",
            title="Schema of the mirror",
            description="The views of the mirror and their columns, and the kinds of events in its"
            " log, with what each means.",
            mime_type="text/plain",
            icons=[LOOK],
        ),
    ]


def add_templates(server: MCPServer[Sessions], sessions: Sessions) -> None:
    """The SDK wants a function whose parameters are those of the template: where there are several
    profiles, also which one is meant."""

    async def workflow(application_name: str, workflow_id: str) -> str:
        return await read_workflow(sessions.current, application_name, workflow_id)

    async def workflow_of(application_name: str, workflow_id: str, profile: str = "") -> str:
        return await read_workflow(named(profile), application_name, workflow_id)

    async def failures(application_name: str) -> str:
        return await read_failures(sessions.current, application_name)

    async def failures_of(application_name: str, profile: str = "") -> str:
        return await read_failures(named(profile), application_name)

    async def failure_group(application_name: str, group: str) -> str:
        return await read_failure_group(sessions.current, application_name, group)

    async def failure_group_of(application_name: str, group: str, profile: str = "") -> str:
        return await read_failure_group(named(profile), application_name, group)

    def named(profile: str) -> Session:
        return sessions.named(profile)

    several = len(sessions.by_profile) > 1
    for template, read, name, title, description in (
        (
            WORKFLOW,
            workflow_of if several else workflow,
            "workflow",
            "Workflow",
            "One workflow: the answer of get_workflow.",
        ),
        (
            FAILURES,
            failures_of if several else failures,
            "failures",
            "Failures",
            "What failed in an application in the last 24 hours, by cause: the answer of"
            " list_failures.",
        ),
        (
            FAILURE_GROUP,
            failure_group_of if several else failure_group,
            "failure_group",
            "Failure group",
            "One of those causes, in the last 7 days, and what sets apart the runs that failed of"
            " it.",
        ),
    ):
        server.resource(
            template + (PROFILE if several else ""),
            name=name,
            title=title,
            description=description,
            mime_type="text/plain",
            icons=[LOOK],
            security=_ANYTHING,
        )(speaking_to_readers(read))


async def read_workflow(session: Session, application_name: str, workflow_id: str) -> str:
    from dbos_mcp.server.answers.workflow import get_workflow

    runtime = await opened_for(session, application_name)
    return await get_workflow(Asker(session), runtime, application_name, workflow_id)


async def read_failures(session: Session, application_name: str) -> str:
    from dbos_mcp.server.answers.postmortem import tell_failures
    from dbos_mcp.server.freshness import now_of
    from dbos_mcp.server.windows import failures_of_a_day

    runtime = await opened_for(session, application_name)
    window = failures_of_a_day(await now_of(runtime, application_name))
    return await tell_failures(Asker(session), runtime, application_name, window)


async def read_failure_group(session: Session, application_name: str, group: str) -> str:
    from dbos_mcp.server.answers.postmortem import tell_failures
    from dbos_mcp.server.freshness import now_of
    from dbos_mcp.server.windows import failures_of_a_week

    runtime = await opened_for(session, application_name)
    window = failures_of_a_week(await now_of(runtime, application_name))
    return await tell_failures(Asker(session), runtime, application_name, window, group=group)


async def read_schema(session: Session) -> str:
    from dbos_mcp.server import schema
    from dbos_mcp.server.freshness import answer_from

    runtime = await opened_for(session, CONDUCTOR)
    _, freshness = await answer_from(runtime, lambda _connection: None)
    return render.answer(
        "Views of the mirror (SQLite), for query_sql; each time is ISO 8601 text (UTC), and with"
        " _ms behind its name epoch milliseconds",
        *schema.view_lines(),
        *schema.event_lines(),
        freshness,
    )


def _sync_status(session: Session, profile: str | None) -> Resource:
    async def sync_status() -> str:
        from dbos_mcp.server.answers.sync import read_status

        return await read_status(session)

    return FunctionResource.from_function(
        speaking_to_readers(sync_status),
        addresses.sync_status_of(profile),
        name="sync_status",
        title="Sync status" if profile is None else f"Sync status of {profile}",
        description="How far, how fresh and at what cost each application is mirrored: the"
        " answer of sync_status.",
        mime_type="text/plain",
        icons=[SYNC],
    )
