"""Failures and their causes."""

from collections.abc import Sequence
from functools import partial

from sqlalchemy import Connection

from dbos_mcp.errors import UsageError
from dbos_mcp.postmortem import failures as queries
from dbos_mcp.postmortem.differences import LINE_CHARACTERS, Differences
from dbos_mcp.postmortem.failures import FailureGroup, Failures, Feature, Window
from dbos_mcp.postmortem.words import many
from dbos_mcp.queries.coverage import Gap, gap_of
from dbos_mcp.queries.filters import WorkflowFilter
from dbos_mcp.queries.freshness import NOTHING_LOOKED_AT, Looked
from dbos_mcp.runtime import Runtime
from dbos_mcp.server import render
from dbos_mcp.server.budget import fitting, within
from dbos_mcp.server.context import Asker
from dbos_mcp.server.differences import differences_of
from dbos_mcp.server.freshness import answer_from, gap_line, now_of
from dbos_mcp.server.lookup import look_at
from dbos_mcp.server.render import Column
from dbos_mcp.server.tools import arguments
from dbos_mcp.server.tools.arguments import Texts
from dbos_mcp.server.workflow_rows import ANSWER_BYTES, DATA_NOTE
from dbos_mcp.settings import DAY_MS

CELL_CHARACTERS = 200
ERROR_BYTES = 1_500
ORIGINS_BYTES = 600
_COLUMNS: list[Column[FailureGroup]] = [
    ("group", lambda group: group.group),
    ("began", lambda group: str(group.count)),
    ("before", lambda group: str(group.before)),
    ("failed", lambda group: str(group.workflows)),
    ("workflow_name", lambda group: group.workflow_name),
    ("step_name", lambda group: group.step_name),
    ("error", lambda group: group.kind),
    ("first_at", lambda group: render.time(group.first_at)),
    ("last_at", lambda group: render.time(group.last_at)),
    ("newest", lambda group: group.origins[0]),
]


async def list_failures(
    asker: Asker,
    runtime: Runtime,
    application_name: str,
    *,
    since: str | None,
    until: str | None,
    workflow_name: Texts,
    group: str | None,
    max_age_seconds: float | None,
) -> str:
    now = await now_of(runtime, application_name)
    began = arguments.time("since", since, now=now)
    ended = arguments.time("until", until, now=now)
    window = Window(now - DAY_MS if began is None else began, now if ended is None else ended)
    if window.until < window.since:
        raise UsageError(
            "The window ends before it begins.",
            hint="since is the earlier time, until the later one, or left out for now.",
        )
    names = arguments.texts(workflow_name)
    looked = await look_at(asker, runtime, application_name, max_age_seconds)
    return await tell_failures(
        asker, runtime, application_name, window, names=names, group=group, looked=looked
    )


async def tell_failures(
    asker: Asker,
    runtime: Runtime,
    application_name: str,
    window: Window,
    *,
    names: Sequence[str] = (),
    group: str | None = None,
    looked: Looked = NOTHING_LOOKED_AT,
    budget: int = ANSWER_BYTES,
) -> str:
    """The answer of `list_failures`, in at most so many bytes."""

    def query(connection: Connection) -> tuple[Failures, Gap | None]:
        found = queries.list_failures(
            connection, application_name, window, workflow_names=names, group=group
        )
        reach = WorkflowFilter(
            application_name=application_name,
            completed_after=window.before.since,
            deleted_upstream=None,
        )
        return found, gap_of(connection, reach)

    (found, gap), freshness = await answer_from(runtime, query, application_name, looked=looked)
    separated = Differences()
    if group is not None:
        (one,) = found.groups
        separated = await differences_of(
            asker, runtime, application_name, one.sample, of_failed=one.count
        )
    span = f"from {render.time(window.since)} to {render.time(window.until)}"
    name = render.plain(application_name)

    def answer_of(shown: int, lines: int) -> str:
        groups = found.groups[:shown]
        left = len(found.groups) - shown
        return render.answer(
            f"{many(found.workflows, 'workflow')} of {name} failed {span},"
            f" of {many(len(found.groups), 'cause')}; {found.before} in as much time before"
            if group is None
            else f"Group {render.plain(group)} of {name}, {span}",
            render.table(_COLUMNS, groups, limit=CELL_CHARACTERS) if shown else "None.",
            *(_features(each) for each in groups),
            _more(found.groups[0]) if group is not None else None,
            "\n".join(within(line, LINE_CHARACTERS) for line in separated.lines[:lines]),
            f"{left} smaller groups: narrow by workflow_name, or a shorter time." if left else None,
            _notes(found) if shown else None,
            DATA_NOTE if shown else None,
            gap_line(gap),
            freshness,
        )

    said = len(separated.lines)
    answer, shown = fitting(len(found.groups), budget, partial(answer_of, lines=said))
    if len(answer.encode()) > budget:
        answer, _ = fitting(said, budget, partial(answer_of, shown))
    return answer


def _features(group: FailureGroup) -> str | None:
    """In which way the failed runs are not like the others."""
    if not group.features:
        return None
    return f"{group.group}: " + "; ".join(_feature(feature) for feature in group.features)


def _feature(feature: Feature) -> str:
    value = "none" if feature.value is None else render.plain(feature.value)
    return (
        f"{feature.field} {value} in {feature.failed} of {feature.of_failed} failed,"
        f" {feature.others} of {feature.of_others} other runs"
    )


def _more(group: FailureGroup) -> str:
    error = within(group.error, ERROR_BYTES) if group.error is not None else None
    origins = within(", ".join(group.origins), ORIGINS_BYTES)
    return render.fields([("newest error", error), ("it began in", origins)], limit=ERROR_BYTES)


def _notes(found: Failures) -> str:
    of = "" if found.others_complete else ", the newest"
    unknown = sum(not group.known for group in found.groups)
    by_error = sum(group.by_error for group in found.groups)
    return (
        "began: at that place, each origin once; failed: with the workflows that waited for it;"
        f" before: began, in as much time before. Compared with {found.compared_with} runs{of}."
        + (
            f" Of {unknown} groups the origin is not known: steps or children are not mirrored."
            if unknown
            else ""
        )
        + (
            f" {by_error} of them, whose steps are not read yet, are counted where their workflow"
            " fails with that error."
            if by_error
            else ""
        )
    )
