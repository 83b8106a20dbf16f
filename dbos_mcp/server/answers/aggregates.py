"""Workflows in numbers, from the mirror."""

import difflib
from collections.abc import Callable, Sequence

from sqlalchemy import Connection

from dbos_mcp.domain import FAILED, format_time
from dbos_mcp.errors import UsageError
from dbos_mcp.queries import aggregates as queries
from dbos_mcp.queries.aggregates import Aggregates, Group, Spread
from dbos_mcp.queries.coverage import Gap, gap_of
from dbos_mcp.queries.filters import WorkflowFilter
from dbos_mcp.queries.groupings import GROUPINGS, OrderBy
from dbos_mcp.runtime import Runtime
from dbos_mcp.server import render
from dbos_mcp.server.budget import table_within
from dbos_mcp.server.context import Asker
from dbos_mcp.server.freshness import answer_from, gap_line, now_of
from dbos_mcp.server.lookup import look_at
from dbos_mcp.server.render import Column
from dbos_mcp.server.tools import arguments
from dbos_mcp.server.tools.aggregates import MOST_GROUPS
from dbos_mcp.server.tools.arguments import Texts
from dbos_mcp.server.workflow_rows import ANSWER_BYTES, DATA_NOTE

_TABLE_BYTES = ANSWER_BYTES - 1_800
"""The rest is for what stands around the table."""


async def get_workflow_aggregates(
    asker: Asker,
    runtime: Runtime,
    application_name: str,
    *,
    group_by: Texts,
    status: Texts,
    workflow_name: Texts,
    queue_name: Texts,
    executor_id: Texts,
    application_version: Texts,
    schedule_name: Texts,
    start_time: str | None,
    end_time: str | None,
    order_by: OrderBy | None,
    durations: bool | None,
    compare: bool | None,
    limit: int,
    max_age_seconds: float | None,
) -> str:
    now = await now_of(runtime, application_name)
    question = WorkflowFilter(
        application_name=application_name,
        status=arguments.statuses(status),
        workflow_name=arguments.texts(workflow_name),
        queue_name=arguments.texts(queue_name),
        executor_id=arguments.texts(executor_id),
        application_version=arguments.texts(application_version),
        schedule_name=arguments.texts(schedule_name),
        start_time=arguments.time("start_time", start_time, now=now),
        end_time=arguments.time("end_time", end_time, now=now),
    )
    parts = _groupings(group_by)
    looked = await look_at(asker, runtime, application_name, max_age_seconds)

    def query(connection: Connection) -> tuple[Aggregates, Gap | None]:
        found = queries.get_aggregates(
            connection,
            question,
            group_by=parts,
            now=now,
            order_by=order_by,
            durations=durations,
            compare=compare,
        )
        reaching = (found.before or question).model_copy(update={"deleted_upstream": False})
        return found, gap_of(connection, reaching)

    (found, gap), freshness = await answer_from(runtime, query, application_name, looked=looked)
    numbers = _columns(found)
    keys = [_key_column(name, place) for place, name in enumerate(parts)]
    rows, shown = table_within(_TABLE_BYTES, [*keys, *numbers], found.groups[:limit])
    left = len(found.groups) - shown
    title = (
        f"{shown} of {len(found.groups)} groups of {render.plain(application_name)}"
        f" by {', '.join(parts)}"
    )
    return render.answer(
        title if parts else f"Workflows of {render.plain(application_name)}",
        _window(question, found),
        "total: " + ", ".join(f"{name} {cell}" for name, cell in _cells(numbers, found.total)),
        (rows if shown else "None matches.") if parts else None,
        f"{left} more groups: narrow the question"
        f"{', or raise limit' if shown == limit < MOST_GROUPS else ''}."
        if parts and left
        else None,
        *_notes(found, durations),
        DATA_NOTE if parts and shown else None,
        gap_line(gap),
        freshness,
    )


def _groupings(value: Texts) -> tuple[str, ...]:
    given = tuple(dict.fromkeys(arguments.texts(value)))
    for item in given:
        if item not in GROUPINGS:
            near = [name for name in GROUPINGS if item in name]
            near = near or difflib.get_close_matches(item, GROUPINGS, 1)
            raise UsageError(
                f"group_by: {item[:80]!r} is nothing to group by"
                + (f"; did you mean {near[0]}?" if near else "."),
                hint=f"Give one or several of {', '.join(GROUPINGS)}; [] for the total alone.",
            )
    return given


def _key_column(name: str, place: int) -> Column[Group]:
    def read(group: Group) -> str:
        part = group.key[place]
        match name, part:
            case "hour", int(start):
                return f"{format_time(start)[:16]}Z"
            case "day", int(start):
                return format_time(start)[:10]
            case _, None:
                return "(none)"
            case _:
                return str(part) or "(empty)"

    return name, read


def _columns(found: Aggregates) -> list[Column[Group]]:
    columns: list[Column[Group]] = [
        ("count", lambda group: str(group.numbers.count)),
        ("in_flight", lambda group: str(group.numbers.in_flight)),
        ("failed", lambda group: str(group.numbers.failed)),
        ("failure_rate", lambda group: _percent(group.numbers.failure_rate)),
        *_times("duration", lambda group: group.numbers.durations),
        *_times("queue_wait", lambda group: group.numbers.waits),
    ]
    if found.before is not None:
        columns += [("count_before", _count_before), ("failure_rate_before", _rate_before)]
        columns += [("duration_p95_before", _p95_before)] if found.measured else []
    return columns


def _times(name: str, spread: Callable[[Group], Spread | None]) -> list[Column[Group]]:
    def column(which: str) -> Column[Group]:
        return f"{name}_{which}", lambda group: render.duration(getattr(spread(group), which, None))

    return [column(which) for which in ("p50", "p95", "max")]


def _count_before(group: Group) -> str:
    before = group.before.count if group.before else 0
    return _changed(str(before), _growth(before, group.numbers.count))


def _rate_before(group: Group) -> str | None:
    before = group.before.failure_rate if group.before else None
    now = group.numbers.failure_rate
    if before is None:
        return None
    return _changed(
        _percent(before), None if now is None else f"{(now - before) * 100:+.1f} points"
    )


def _p95_before(group: Group) -> str | None:
    before = group.before.durations if group.before else None
    now = group.numbers.durations
    if before is None:
        return None
    return _changed(render.duration(before.p95), _growth(before.p95, now.p95) if now else None)


def _changed(before: str | None, change: str | None) -> str:
    return f"{before} ({change})" if change else f"{before}"


def _growth(before: int, now: int) -> str | None:
    return f"{(now - before) / before:+.0%}" if before else None


def _percent(rate: float | None) -> str | None:
    """Nothing that happened is 0%, and nothing but all is 100%."""
    if rate is None:
        return None
    if 0 < rate < 0.001:
        return "<0.1%"
    return ">99.9%" if 0.999 < rate < 1 else f"{rate:.1%}"


def _cells(columns: Sequence[Column[Group]], group: Group) -> list[tuple[str, object]]:
    return [(name, cell) for name, read in columns if (cell := read(group)) is not None]


def _window(question: WorkflowFilter, found: Aggregates) -> str | None:
    if question.start_time is None and question.end_time is None:
        return None
    line = f"created {_span(question)}"
    return line if found.before is None else f"{line}; before: {_span(found.before)}, with change"


def _span(question: WorkflowFilter) -> str:
    begins = render.time(question.start_time) or "the beginning"
    return f"{begins} to {render.time(question.end_time) or 'now'}"


def _notes(found: Aggregates, durations: bool | None) -> list[str]:
    since = "; duration: from dequeued_at, else created_at" if found.measured else ""
    notes = [f"failed: {', '.join(FAILED)}; failure_rate: of those that ended{since}."]
    if not found.measured and durations is None:
        notes.append(
            "Durations of so many take seconds: pass durations=true, or a shorter time to look at."
        )
    if found.deleted:
        notes.append(f"{found.deleted} that were deleted upstream are not counted.")
    return notes
