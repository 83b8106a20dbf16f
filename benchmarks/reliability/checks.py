"""What must hold of a cache whatever befell it, and the events that are written to it."""

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from zlib import crc32

from sqlalchemy import Connection

from dbos_mcp.store import projector, sync_state
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.event_log import Recorded
from dbos_mcp.store.events import (
    Event,
    StepsDiscarded,
    StepsObserved,
    StepState,
    WorkflowChanged,
    WorkflowDeleted,
    WorkflowObserved,
    WorkflowState,
)
from dbos_mcp.store.migrate import open_cache
from tests.store.factories import changed, deleted, issued, observed, settled, steps

Log = Mapping[int, int]
"""A number for each position of the log: another event has another one."""
RECORDED = "recorded"
"""The application whose watermark is the log's end, where `record` alone writes."""
LOST = "acknowledged events are lost"
_LOG = "SELECT position, application_name, workflow_id, kind, recorded_at, data FROM event"


def batch(number: int, size: int = 20) -> list[Event]:
    """Of each kind of event that a sync or a command records; no two batches have any in common."""
    names = [f"order-{number}-{n}" for n in range(size)]
    return [
        *(observed(name) for name in names),
        steps(names[0], "pay", "pack", "ship"),
        changed(names[-1], status="ERROR", error="boom", payloads_loaded=True),
        deleted(names[-2]),
        issued(f"command-{number}", workflow_id=names[0]),
        settled(f"command-{number}", workflow_id=names[0]),
    ]


def record(cache: Cache, events: Sequence[Event], at: int) -> int:
    """Write them as a page of a sync is written: with how far it has come. Where the log ends."""
    with cache.write() as connection:
        end = projector.record(connection, events, recorded_at=at)[-1].position
        sync_state.update(connection, RECORDED, {"watermark": end})
    return end


def log_of(raw: sqlite3.Connection, after: int = 0) -> dict[int, int]:
    rows = raw.execute(f"{_LOG} WHERE position > ? ORDER BY position", (after,))
    return {row[0]: crc32(repr(row).encode()) for row in rows}


def log_in(cache: Cache) -> dict[int, int]:
    """`log_of` what is open."""
    with cache.read() as connection:
        return log_of(raw_of(connection))


def raw_of(connection: Connection) -> sqlite3.Connection:
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw


def damage(raw: sqlite3.Connection, acknowledged: Log) -> list[str]:
    """What is wrong with a file as it was found, before anything has mended it."""
    found = [
        f"integrity_check: {line}"
        for (line,) in raw.execute("PRAGMA integrity_check(3)")
        if line != "ok"
    ]
    found += [f"foreign_key_check: {row}" for row in raw.execute("PRAGMA foreign_key_check")]
    is_new = raw.execute("SELECT 1 FROM sqlite_master WHERE name = 'event'").fetchone() is None
    log = {} if is_new else log_of(raw)
    lost = [position for position in acknowledged if log.get(position) != acknowledged[position]]
    if lost:
        found.append(f"{len(lost)} {LOST}, the first at {min(lost)}")
    if is_new:
        return found
    end = max(log, default=0)
    removed = _removed(raw)
    if len(log) + removed != end:
        found.append(f"{len(log)} events end at {end}, and {removed} were removed: there are gaps")
    folded = {row[0] for row in raw.execute("SELECT position FROM projection_checkpoint")}
    if folded not in (set(), {end}):
        found.append(f"the log ends at {end}, the read models at {sorted(folded)}")
    watermark = raw.execute(
        "SELECT watermark FROM sync_state WHERE application_name = ?", (RECORDED,)
    ).fetchone()
    if watermark not in (None, (end,)):
        found.append(f"the log ends at {end}, the watermark says {watermark[0]}")
    return found


def _removed(raw: sqlite3.Connection) -> int:
    """How many events are gone on purpose; older schemas do not know of any."""
    if not raw.execute("SELECT 1 FROM sqlite_master WHERE name = 'log_removal'").fetchone():
        return 0
    (count,) = raw.execute("SELECT coalesce(sum(events), 0) FROM log_removal").fetchone()
    return int(count)


def mended(path: Path) -> list[str]:
    """What is wrong with a file once the program has opened it: its read models, too, are what the
    log makes of them."""
    with closing(open_cache(path)) as cache, cache.write() as connection:
        rebuilt = projector.rebuild(connection)
    return [f"{table.table} is not what a rebuild gives" for table in rebuilt if not table.equal]


class History:
    """What a log has told so far, so that each event can be held against those before."""

    def __init__(self, may_go_back: Collection[str] = ()) -> None:
        """`may_go_back`: the workflows whose `updated_at` may."""
        self._may_go_back = may_go_back
        self._held: dict[tuple[str, str], WorkflowState | None] = {}
        self._steps: dict[tuple[str, str], tuple[StepState, ...]] = {}

    def add(self, recorded: Recorded) -> str | None:
        """What is wrong with it: it says nothing new, or cannot follow on those before."""
        event = recorded.event
        key = event.application_name, event.workflow_id or ""
        before, wrong = self._held.get(key), False
        match event:
            case WorkflowObserved():
                wrong = before is not None
                self._held[key] = event
            case WorkflowChanged():
                wrong = before is None or _content(before) == _content(event)
                if before is not None and event.workflow_id not in self._may_go_back:
                    wrong |= before.updated_at > event.updated_at
                self._held[key] = event
            case WorkflowDeleted():
                wrong = before is None
                self._held[key] = None
            case StepsDiscarded():
                known = {step.step_id for step in self._steps.get(key, ())}
                wrong = not event.step_ids or not known.issuperset(event.step_ids)
            case StepsObserved():
                wrong = key not in self._held or self._steps.get(key, ()) == event.steps
                self._steps[key] = event.steps
        return f"at {recorded.position}, after {before!r}: {event!r}" if wrong else None


def repeated(log: Sequence[Recorded], may_go_back: Collection[str] = ()) -> list[str]:
    """The events of a log that repeat or contradict those before."""
    history = History(may_go_back)
    return [wrong for recorded in log if (wrong := history.add(recorded)) is not None]


def _content(event: WorkflowState) -> tuple[object, ...]:
    return (event.content_hash(), event.payloads_loaded, event.error)
