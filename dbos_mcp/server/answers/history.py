"""What happened: to one workflow since it was first seen, or to all since some time."""

from collections import Counter
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from dbos_mcp.domain import counted
from dbos_mcp.errors import UsageError
from dbos_mcp.queries import changes as change_queries
from dbos_mcp.queries import history as queries
from dbos_mcp.queries.changes import (
    OUTCOMES,
    Changes,
    ChangesCursor,
    OtherChange,
    WorkflowChange,
)
from dbos_mcp.queries.coverage import Gap, gap_of_changes, gap_of_history
from dbos_mcp.queries.history import HistoryEntry
from dbos_mcp.runtime import Runtime
from dbos_mcp.server import render
from dbos_mcp.server.budget import fitting
from dbos_mcp.server.context import Asker
from dbos_mcp.server.freshness import answer_from, gap_line, now_of
from dbos_mcp.server.lookup import look_at, look_up
from dbos_mcp.server.render import CELL_CHARACTERS, Column
from dbos_mcp.server.tools import arguments
from dbos_mcp.server.workflow_rows import ANSWER_BYTES, DATA_NOTE
from dbos_mcp.settings import DAY_MS

HISTORY_CHARACTERS = 300
MOST_OTHERS = 20
LOOKS_NOTE = (
    "States are those seen at looks: one that came and went between two looks is missing, and the"
    " note says so where the fields show it."
)
_SEEN_IN_STATUS = ("failed", "cancelled", "deleted", "in flight", "succeeded")

HISTORY_COLUMNS: list[Column[HistoryEntry]] = [
    ("recorded_at", lambda entry: render.time(entry.recorded_at)),
    ("upstream's clock", lambda entry: render.time(entry.changed_at)),
    ("event", lambda entry: entry.event),
    ("cause", lambda entry: entry.cause),
    ("changed", lambda entry: "; ".join(map(str, entry.told))),
    ("note", lambda entry: entry.note),
]


async def get_workflow_history(
    asker: Asker,
    runtime: Runtime,
    application_name: str,
    workflow_id: str,
    *,
    newest_first: bool,
    after_position: int | None,
    max_age_seconds: float | None,
) -> str:
    looked = await look_up(asker, runtime, application_name, workflow_id, max_age_seconds)

    def query(connection: Connection) -> tuple[list[HistoryEntry], Gap | None]:
        entries = queries.get_history(connection, application_name, workflow_id)
        return entries, gap_of_history(connection, application_name, workflow_id, entries)

    (entries, gap), freshness = await answer_from(runtime, query, application_name, looked=looked)
    total = len(entries)
    if newest_first:
        entries.reverse()
    if after_position is not None:
        entries = [
            entry
            for entry in entries
            if (
                entry.position < after_position if newest_first else entry.position > after_position
            )
        ]
    order = "newest" if newest_first else "oldest"

    def answer_of(shown: int) -> str:
        more = len(entries) - shown
        return render.answer(
            f"{shown} of {total} entries of {render.plain(workflow_id, limit=300)}, {order} first",
            render.table(HISTORY_COLUMNS, entries[:shown], limit=HISTORY_CHARACTERS)
            if shown
            else "None.",
            f"{more} more: pass after_position={entries[shown - 1].position}." if more else None,
            LOOKS_NOTE if shown else None,
            DATA_NOTE if shown else None,
            gap_line(gap),
            freshness,
        )

    answer, _ = fitting(len(entries), ANSWER_BYTES, answer_of)
    return answer


async def list_changes(
    asker: Asker,
    runtime: Runtime,
    *,
    application_name: str | None,
    since: str | None,
    after_position: int | None,
    cursor: str | None,
    max_age_seconds: float | None,
) -> str:
    now = await now_of(runtime, application_name)
    began = arguments.time("since", since, now=now)
    if sum(given is not None for given in (began, after_position, cursor)) > 1:
        raise UsageError("since, after_position and cursor are beginnings: pass one of them.")
    place = None if cursor is None else ChangesCursor.decode(cursor)
    if place is not None:
        began = place.since or None
    elif began is None and after_position is None:
        began = now - DAY_MS
    looked = await look_at(asker, runtime, application_name, max_age_seconds)

    def query(connection: Connection) -> tuple[Changes, Gap | None]:
        changes = change_queries.list_changes(
            connection,
            application_name=application_name,
            after=after_position,
            since=began,
            cursor=place,
        )
        return changes, gap_of_changes(connection, application_name, began, changes.after)

    (changes, gap), freshness = await answer_from(runtime, query, application_name, looked=looked)
    columns = _changes_columns(application_name)
    total = sum(changes.outcomes.values())
    of_what = f" of {render.plain(application_name)}" if application_name else ""
    start = (
        f"since {render.time(began)}" if began is not None else f"behind position {changes.after}"
    )
    first_seen = f", {changes.first_seen} first seen" if changes.first_seen else ""
    header = (
        f"{counted(total, 'workflow')}{of_what} changed {start}, in"
        f" {counted(changes.events, 'event')}{first_seen}"
        + (f": {_counts(changes.outcomes)}" if total else "")
    )

    def go_on(shown: int) -> str | None:
        left_out = Counter(changes.left)
        left_out.subtract(change.outcome for change in changes.workflows[:shown])
        if not any(left_out.values()):
            return None
        last = changes.workflows[shown - 1]
        behind = change_queries.cursor_behind(changes, last, application_name, began)
        return (
            f"{left_out.total()} more workflows ({_counts(left_out)}): pass"
            f" cursor={behind.encode()}."
        )

    def answer_of(shown: int) -> str:
        rows = changes.workflows[:shown]
        return render.answer(
            header,
            render.table(columns, rows, limit=CELL_CHARACTERS) if rows else None,
            go_on(shown),
            f"Of {changes.steps_read} others, which had ended before, nothing but the steps was"
            " read."
            if changes.steps_read and place is None
            else None,
            _others(changes.others) if place is None else None,
            f"Not all yet: {changes.remaining} later events of the log remain; pass"
            f" after_position={changes.until} to go on."
            if changes.remaining
            else f"Next time pass after_position={changes.until}.",
            DATA_NOTE if shown else None,
            gap_line(gap),
            freshness,
        )

    answer, _ = fitting(len(changes.workflows), ANSWER_BYTES, answer_of)
    return answer


def _changes_columns(application_name: str | None) -> list[Column[WorkflowChange]]:
    """With the application where that may differ."""
    columns: list[Column[WorkflowChange]] = [
        ("workflow_id", lambda change: change.workflow_id),
        ("change", _from_to),
        ("outcome", lambda change: None if change.outcome in _SEEN_IN_STATUS else change.outcome),
        ("workflow_name", lambda change: change.workflow_name),
        ("seen_at", lambda change: render.time(change.recorded_at)),
        ("events", lambda change: str(change.events)),
        ("commands", lambda change: ", ".join(change.commands.values())),
        ("error", lambda change: change.error),
    ]
    if application_name is None:
        columns.insert(1, ("application_name", lambda change: change.application_name))
    return columns


def _from_to(change: WorkflowChange) -> str:
    before = "new" if change.first_seen else change.before or "gone"
    after = "deleted" if change.deleted else change.status or before
    return before if after == before else f"{before} → {after}"


def _counts(outcomes: Mapping[str, int]) -> str:
    return ", ".join(
        f"{outcomes[outcome]} {outcome}" for outcome in OUTCOMES if outcomes.get(outcome)
    )


def _others(others: Sequence[OtherChange]) -> str | None:
    if not others:
        return None
    told = [
        f"{other.kind} {render.plain(other.name)}"
        + (f" {render.plain(other.status)}" if other.status else "")
        for other in others[:MOST_OTHERS]
    ]
    left_out = len(others) - len(told)
    return f"Also: {', '.join(told)}" + (f", and {left_out} more." if left_out else ".")
