"""What happened: to one workflow since it was first seen, or to all since some time."""

from functools import partial
from typing import Annotated

from pydantic import Field

from dbos_mcp.queries import history as queries
from dbos_mcp.queries.history import Change, HistoryEntry
from dbos_mcp.server import render
from dbos_mcp.server.budget import table_within
from dbos_mcp.server.context import CurrentRuntime, answer_from
from dbos_mcp.server.lookup import look_up
from dbos_mcp.server.render import Column
from dbos_mcp.server.tools.arguments import ApplicationName, WorkflowId
from dbos_mcp.server.tools.workflows import ANSWER_BYTES, DATA_NOTE

HISTORY_CHARACTERS = 300
VALUE_CHARACTERS = 80
LOOKS_NOTE = (
    "States are those seen at looks: one that came and went between two looks is missing, and the"
    " note says so where the fields show it."
)
_TIMES = ("delay_until", "deadline")
_SAID_OTHERWISE = ("status", "updated_at")

HISTORY_COLUMNS: list[Column[HistoryEntry]] = [
    ("recorded_at", lambda entry: render.time(entry.recorded_at)),
    ("upstream's clock", lambda entry: _upstream(entry)),
    ("event", lambda entry: _event(entry)),
    ("cause", lambda entry: entry.cause),
    ("changed", lambda entry: "; ".join(map(_change, _told(entry)))),
    ("note", lambda entry: _note(entry)),
]


async def get_workflow_history(
    runtime: CurrentRuntime,
    application_name: ApplicationName,
    workflow_id: WorkflowId,
    newest_first: bool = False,
    after_position: Annotated[
        int | None, Field(description="Continue behind this entry, in the same order")
    ] = None,
) -> str:
    """Tell what happened to one workflow, from the mirror's log: every state that was seen, with
    the mirror's and upstream's clock, what caused it (a dequeue, an end, recovery, resume, rewind,
    fork, retention, a command of ours), the fields that changed, commands, steps read, and which
    states must have been missed between two looks."""
    note = await look_up(runtime, application_name, workflow_id)
    entries, freshness = await answer_from(
        runtime,
        partial(queries.get_history, application_name=application_name, workflow_id=workflow_id),
        application_name,
    )
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
    rows, shown = table_within(ANSWER_BYTES, HISTORY_COLUMNS, entries, limit=HISTORY_CHARACTERS)
    more = len(entries) - shown
    order = "newest" if newest_first else "oldest"
    return render.answer(
        f"{shown} of {total} entries of {render.plain(workflow_id, limit=300)}, {order} first",
        rows if shown else "None.",
        f"{more} more: pass after_position={entries[shown - 1].position}." if more else None,
        LOOKS_NOTE if shown else None,
        DATA_NOTE if shown else None,
        note,
        freshness,
    )


def _event(entry: HistoryEntry) -> str:
    """Of a state its status, before and after: the rest is among the changes."""
    for change in entry.changes:
        if change.field == "status":
            return f"{change.old} → {change.new}"
    return entry.what


def _upstream(entry: HistoryEntry) -> str | None:
    """A change that left `updated_at` as it was happened at some later time."""
    first = entry.kind != "WorkflowChanged"
    moved = any(change.field == "updated_at" for change in entry.changes)
    return render.time(entry.occurred_at) if first or moved else None


def _told(entry: HistoryEntry) -> list[Change]:
    return [change for change in entry.changes if change.field not in _SAID_OTHERWISE]


def _change(change: Change) -> str:
    return f"{change.field}: {_value(change, change.old)} → {_value(change, change.new)}"


def _value(change: Change, value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, int) and (change.field.endswith("_at") or change.field in _TIMES):
        return str(render.time(value))
    return render.plain(value, limit=VALUE_CHARACTERS)


def _note(entry: HistoryEntry) -> str:
    return "; ".join(
        [
            *([f"not seen: {', '.join(entry.unseen)}"] if entry.unseen else []),
            *([f"seen {render.duration(entry.late_ms)} late"] if entry.late_ms else []),
        ]
    )
