"""What a client may read, or watch, without calling a tool."""

import functools
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import ParamSpec

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.server.mcpserver.resources import FunctionResource, Resource, ResourceSecurity

from dbos_mcp.errors import DbosMcpError, NotFoundError
from dbos_mcp.queries import failures as failure_queries
from dbos_mcp.queries import schema as schema_queries
from dbos_mcp.queries.failures import FailureGroup
from dbos_mcp.server import addresses, render
from dbos_mcp.server.addresses import FAILURE_GROUP, FAILURES, PROFILE, SCHEMA, WORKFLOW
from dbos_mcp.server.budget import table_within
from dbos_mcp.server.context import Asker, Session, Sessions, answer_from, opened_for, words_of
from dbos_mcp.server.icons import LOOK, SYNC
from dbos_mcp.server.render import Column
from dbos_mcp.server.tools.sync import read_status
from dbos_mcp.server.tools.workflow import get_workflow
from dbos_mcp.server.workflow_rows import ANSWER_BYTES, DATA_NOTE
from dbos_mcp.store.sync_state import CONDUCTOR

TABLE_BYTES = ANSWER_BYTES - 1_000
"""The rest is for what stands around the table."""
ERROR_CHARACTERS = 100
CELL_CHARACTERS = 600
"""Of a URI nothing may be missing."""
NAMED_VALUES = 8
NOT_ALL = (
    f"There are older failures: of each status the newest {failure_queries.MOST_FAILURES} were"
    " looked at."
)

FAILURE_COLUMNS: Sequence[Column[FailureGroup]] = (
    ("count", lambda group: str(group.count)),
    ("workflow_name", lambda group: _clipped(group.workflow_name)),
    ("status", lambda group: group.status),
    ("error", lambda group: _clipped(group.error)),
    ("first_failed", lambda group: render.time(group.first_at)),
    ("last_failed", lambda group: render.time(group.last_at)),
    ("newest_workflow_id", lambda group: _clipped(group.examples[0])),
)

# A value goes into a question to the mirror and into no path.
_ANYTHING = ResourceSecurity(
    reject_path_traversal=False, reject_absolute_paths=False, reject_null_bytes=False
)

P = ParamSpec("P")


def speaking_to_readers(function: Callable[P, Awaitable[str]]) -> Callable[P, Awaitable[str]]:
    """Of what a resource raises, clients see the text of ResourceError alone."""

    @functools.wraps(function)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> str:
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

    async def schema() -> str:
        return await read_schema(sessions.current)

    return [
        *(
            _sync_status(session, profile if several else None)
            for profile, session in sessions.by_profile.items()
        ),
        FunctionResource.from_function(
            speaking_to_readers(schema),
            SCHEMA,
            name="schema",
            title="Schema of the mirror",
            description="The tables of the mirror and their columns, and the kinds of events in its"
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
        return await read_failures(named(profile), application_name, profile or None)

    async def failure_group(application_name: str, group: str) -> str:
        return await read_failure_group(sessions.current, application_name, group)

    async def failure_group_of(application_name: str, group: str, profile: str = "") -> str:
        return await read_failure_group(named(profile), application_name, group, profile or None)

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
            "An application's failed workflows, in groups of the same name and error.",
        ),
        (
            FAILURE_GROUP,
            failure_group_of if several else failure_group,
            "failure_group",
            "Failure group",
            "One of those groups: how many, since when, of which versions, executors and queues.",
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
    runtime = await opened_for(session, application_name)
    return await get_workflow(Asker(session), runtime, application_name, workflow_id)


async def read_failures(session: Session, application_name: str, profile: str | None = None) -> str:
    runtime = await opened_for(session, application_name)
    found, freshness = await answer_from(
        runtime,
        partial(failure_queries.list_failures, application_name=application_name),
        application_name,
    )
    uri: Column[FailureGroup] = (
        "uri",
        lambda group: addresses.uri_of(
            FAILURE_GROUP, profile, application_name=application_name, group=group.key
        ),
    )
    columns = [*FAILURE_COLUMNS, uri]
    rows, shown = table_within(TABLE_BYTES, columns, found.groups, limit=CELL_CHARACTERS)
    more = len(found.groups) - shown
    return render.answer(
        f"{found.looked_at} failed workflows of {render.plain(application_name)}, in"
        f" {len(found.groups)} groups; the newest failure first",
        rows if shown else "None has failed.",
        f"{more} more groups of older failures." if more else None,
        None if found.complete else NOT_ALL,
        DATA_NOTE if shown else None,
        freshness,
    )


async def read_failure_group(
    session: Session, application_name: str, key: str, profile: str | None = None
) -> str:
    runtime = await opened_for(session, application_name)
    group, freshness = await answer_from(
        runtime,
        partial(failure_queries.get_failure_group, application_name=application_name, key=key),
        application_name,
    )
    examples, _ = table_within(
        TABLE_BYTES // 2,
        [
            ("workflow_id", lambda workflow_id: _clipped(workflow_id)),
            (
                "uri",
                lambda workflow_id: addresses.uri_of(
                    WORKFLOW, profile, application_name=application_name, workflow_id=workflow_id
                ),
            ),
        ],
        group.examples,
        limit=CELL_CHARACTERS,
    )
    return render.answer(
        f"{group.count} failures of {render.plain(group.workflow_name or '(no name)')} of"
        f" {render.plain(application_name)}: {render.plain(group.status)}",
        render.fields(
            [
                ("error", group.error),
                ("first failed", render.time(group.first_at)),
                ("last failed", render.time(group.last_at)),
                ("application versions", _counts(group.application_versions)),
                ("executors", _counts(group.executors)),
                ("queues", _counts(group.queues)),
            ]
        ),
        f"the newest:\n{examples}",
        DATA_NOTE,
        freshness,
    )


async def read_schema(session: Session) -> str:
    runtime = await opened_for(session, CONDUCTOR)
    _, freshness = await answer_from(runtime, lambda _connection: None)
    told: list[str] = []
    before: Sequence[str] = ()
    for event in schema_queries.events():
        same = len(event.fields) > 1 and event.fields == before
        fields = "the same" if same else ", ".join(event.fields)
        told.append(f"{event.kind}: {event.meaning}".rstrip(": ") + f"\n  {fields or '(none)'}")
        before = event.fields
    return render.answer(
        "Tables of the mirror (SQLite): columns and types",
        *(
            f"{table.name}: {table.meaning}\n  {', '.join(table.columns)}"
            for table in schema_queries.tables()
        ),
        "Kinds of events, and the fields of their data",
        *told,
        freshness,
    )


def _sync_status(session: Session, profile: str | None) -> Resource:
    async def sync_status() -> str:
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


def _clipped(text: str | None) -> str | None:
    return text and render.plain(text, limit=ERROR_CHARACTERS)


def _counts(values: Counter[str]) -> str:
    rest = len(values) - NAMED_VALUES
    named = ", ".join(
        f"{render.plain(value, limit=40)} ({count})"
        for value, count in values.most_common(NAMED_VALUES)
    )
    return named + (f" and {rest} more" if rest > 0 else "")
