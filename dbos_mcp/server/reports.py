"""Reports: what they show is read from the mirror, and at Conductor what the mirror lacks."""

import re
from functools import partial
from typing import NamedTuple

from sqlalchemy import Connection, select
from sqlmodel import col

from dbos_mcp.domain import format_time
from dbos_mcp.errors import NotFoundError, UsageError
from dbos_mcp.incident.selection import find_workflow
from dbos_mcp.postmortem.case import Case
from dbos_mcp.postmortem.diagnosis import diagnose
from dbos_mcp.postmortem.failures import FailureGroup, Failures, Window, list_failures
from dbos_mcp.postmortem.timeline import Timeline, read_timeline
from dbos_mcp.queries.coverage import Gap, gap_of
from dbos_mcp.queries.filters import WorkflowFilter
from dbos_mcp.queries.freshness import Looked
from dbos_mcp.queries.history import HistoryEntry, get_history
from dbos_mcp.redaction import Redactor
from dbos_mcp.report.markdown import markdown
from dbos_mcp.report.page import page
from dbos_mcp.report.redacted import redacted
from dbos_mcp.report.subjects import (
    MOST_EXAMPLES,
    Example,
    FailuresReport,
    Source,
    WorkflowReport,
    over_time,
    separation,
)
from dbos_mcp.runtime import Runtime
from dbos_mcp.server.context import Asker, Session
from dbos_mcp.server.differences import differences_of
from dbos_mcp.server.freshness import found_by, gap_line, line_of, now_of
from dbos_mcp.server.investigation import investigate
from dbos_mcp.server.lookup import look_at
from dbos_mcp.server.tools import arguments
from dbos_mcp.settings import DAY_MS, Settings
from dbos_mcp.store.projections.applications import ApplicationRow


async def report_on_workflow(
    runtime: Runtime, application_name: str | None, workflow_id: str
) -> WorkflowReport:
    """Also on one that the mirror lacks, where the application is known.

    Raises:
        NotFoundError: there is no such workflow, as far as is known.
        UsageError: several applications have one of that id.
    """
    find = partial(find_workflow, application_name=None, workflow_id=workflow_id)
    name = application_name or (await runtime.read(find))[0]
    asker = Asker(Session(runtime.settings))
    investigation = await investigate(asker, runtime, name, workflow_id, _max_age(runtime))
    case = investigation.case
    origin = case.origin
    window = None
    if origin.link is not None:
        # A day, and the failure in it.
        until = min(case.now, origin.link.workflow.failed_at + DAY_MS // 2)
        window = Window(until - DAY_MS, until)

    def read(connection: Connection) -> _Read:
        return _Read(
            read_timeline(connection, name, workflow_id, now=case.now),
            get_history(connection, name, workflow_id),
            None if window is None else _group_of(connection, case, window),
        )

    timeline, history, group = await runtime.read(read)
    redactor = Redactor()
    case, freshness = redacted((case, line_of(runtime, investigation.freshness)), redactor)
    # Of what is redacted already: a verdict quotes parts of texts, and a part of a secret is one.
    diagnosis = diagnose(case)
    timeline, history, group = redacted((timeline, history, group), redactor)
    return WorkflowReport(
        source=Source(
            case.application_name,
            case.now,
            freshness,
            dict(redactor.found),
            _warnings(investigation.freshness.looked, redactor) or case.told.refused,
        ),
        case=case,
        diagnosis=diagnosis,
        timeline=timeline,
        history=history,
        group=None if group is None else over_time(group, _lifetime(group)),
    )


class _Read(NamedTuple):
    timeline: Timeline
    history: list[HistoryEntry]
    group: FailureGroup | None


def _group_of(connection: Connection, case: Case, window: Window) -> FailureGroup | None:
    link = case.origin.link
    if link is None:
        return None
    try:
        found = list_failures(connection, case.application_name, window, group=link.fingerprint)
    except NotFoundError:  # the steps that tell of it were read only now
        return None
    return found.groups[0]


def _lifetime(group: FailureGroup) -> Window:
    """With some space around it."""
    margin = max(1_500, (group.last_at - group.first_at) // 10)
    return Window(group.first_at - margin, group.last_at + margin)


async def report_on_failures(
    runtime: Runtime,
    application_name: str | None,
    since: str | None = None,
    until: str | None = None,
    *,
    now: int,
) -> FailuresReport:
    """`24h` is 24 hours ago, as `-24h` is.

    Raises:
        NotFoundError: an application that was never listed.
        UsageError: none was named, and there are several; a time is none.
    """
    name = await runtime.read(
        partial(_application, settings=runtime.settings, given=application_name)
    )
    window = _window(since, until, now=await now_of(runtime, name))
    asker = Asker(Session(runtime.settings))
    looked = await look_at(asker, runtime, name, _max_age(runtime))

    def read(connection: Connection) -> tuple[Failures, list[Timeline], Gap | None]:
        found = list_failures(connection, name, window)
        timelines = [
            read_timeline(connection, name, group.origins[0], now=now)
            for group in found.groups[:MOST_EXAMPLES]
        ]
        reach = WorkflowFilter(
            application_name=name,
            completed_after=window.before.since,
            deleted_upstream=None,
        )
        return found, timelines, gap_of(connection, reach)

    (failures, timelines, gap), state = await found_by(runtime, read, name, looked=looked)
    separations = [
        separation(await differences_of(asker, runtime, name, group.sample, of_failed=group.count))
        for group in failures.groups[:MOST_EXAMPLES]
    ]
    redactor = Redactor()
    failures = redacted(failures, redactor)
    examples = [
        Example(group, number, *redacted((timeline, separation), redactor))
        for number, (group, timeline, separation) in enumerate(
            zip(failures.groups, timelines, separations, strict=False), start=1
        )
    ]
    shown_name, freshness = redacted((name, line_of(runtime, state)), redactor)
    return FailuresReport(
        source=Source(
            shown_name, now, freshness, dict(redactor.found), _warnings(looked, redactor)
        ),
        window=window,
        failures=failures,
        gap=gap_line(gap),
        examples=examples,
    )


def _max_age(runtime: Runtime) -> float | None:
    """A report is of now, where Conductor can be asked."""
    return None if runtime.live is None else 0.0


def _warnings(looked: Looked, redactor: Redactor) -> list[str]:
    return [] if looked.why_not is None else [redacted(looked.why_not, redactor)]


def _application(connection: Connection, settings: Settings, given: str | None) -> str:
    """The one that is named, or else meant."""
    if given is not None:
        return given
    usual = settings.application_name
    names = sorted(connection.execute(select(col(ApplicationRow.application_name))).scalars())
    if usual is not None and usual in names:
        return usual
    if len(names) == 1:
        return names[0]
    if not names:
        raise NotFoundError(
            "No application is mirrored yet.", hint="`dbos-mcp sync` mirrors what there is."
        )
    raise UsageError(
        "There are several applications.", hint=f"Name one with --application: {', '.join(names)}."
    )


def _window(since: str | None, until: str | None, *, now: int) -> Window:
    began, ended = (
        arguments.time(name, _ago(text), now=now)
        for name, text in (("--since", since), ("--until", until))
    )
    ended = now if ended is None else ended
    window = Window(ended - DAY_MS if began is None else began, ended)
    if window.until < window.since:
        raise UsageError(
            "The window ends before it begins.",
            hint="--since is the earlier time, --until the later one, or left out for now.",
        )
    return window


def _ago(text: str | None) -> str | None:
    return f"-{text}" if text and re.fullmatch(r"\d.*[smhdw]\s*", text, re.I) else text


def file_name(workflow_id: str | None, *, now: int, suffix: str) -> str:
    """Of characters that are safe in every shell and on every file system."""
    if workflow_id is None:
        moment = format_time(now // 60_000 * 60_000).replace(":", "").replace("-", "")
        return f"failures-{moment.removesuffix('00Z')}.{suffix}"
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", workflow_id)[:80].strip("-.")
    return f"report-{name or 'workflow'}.{suffix}"


def rendered(report: WorkflowReport | FailuresReport, form: str) -> str:
    return markdown(report) if form == "md" else page(report)
