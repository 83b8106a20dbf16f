"""Makes a damaged cache whole again: from a backup, or from what can still be read of it.

What is read from a damaged file proves itself by its checksum, and the newest sound backup of the
same log fills in what is missing. What sync knows of itself is never taken from a damaged file: a
watermark that has moved would leave a hole which nobody ever sees. The state of a backup holds as
long as all of its events are there: sync then reads what happened since. Without one the mirror is
compared with upstream from the beginning. In either case everything is read again by its id, in
small shares, for deletions that nobody remembers.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select
from sqlmodel import SQLModel, col

from dbos_mcp.domain import to_datetime
from dbos_mcp.errors import DbosMcpError, NotFoundError, StoreError, UsageError
from dbos_mcp.store import engine, event_log, log_removals, projector, sync_state
from dbos_mcp.store.backup import Backup, backups
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.event_log import RawEvent
from dbos_mcp.store.events import (
    StepsDiscarded,
    StepsObserved,
    WorkflowChanged,
    WorkflowObserved,
)
from dbos_mcp.store.log_removals import LogRemovalRow, Reason
from dbos_mcp.store.migrate import HEAD, open_cache
from dbos_mcp.store.projections.applications import ApplicationRow
from dbos_mcp.store.sync_state import (
    AttentionRow,
    RedactionRow,
    StepDueRow,
    StepReadingRow,
    SyncStateRow,
)
from dbos_mcp.store.tables import batches, table_of
from dbos_mcp.store.unreadable import UnreadableRow
from dbos_mcp.upkeep import pages, replace
from dbos_mcp.upkeep.check import check

AT_ONCE = 5_000
_SYNC_TABLES: Sequence[type[SQLModel]] = (
    *(SyncStateRow, StepReadingRow, StepDueRow, AttentionRow, RedactionRow, UnreadableRow),
)


@dataclass(frozen=True)
class Restored:
    """What came of it."""

    path: Path
    set_aside: Path | None
    """Where the old file is now; None: there was none."""
    source: Path | None
    """The backup that it was made of, or filled up from."""
    saved: int
    """How many events were read from the damaged file itself."""
    filled: int
    """How many came from the backup."""
    lost: int
    """How many are known to be missing, of those that were not removed before."""
    events: int


def restore(path: Path, backup: Path | None = None, *, now: int, force: bool = False) -> Restored:
    """Put a backup in the place of a cache; or, without one, the best that there is. The caller
    sees to it that nobody syncs.

    Raises:
        UsageError: the cache is sound, and was not to be replaced.
        NotFoundError: there is neither a backup nor a cache to read from.
        StoreError: nothing sound can be made of it; everything is as it was.
    """
    _refuse_excerpt(path)
    with replace.write_lock(path) as file:
        replace.undo_half(file)
    is_sound = path.exists() and check(path, now=now, deep=True).is_sound
    if is_sound and not force:
        raise UsageError(
            f"The cache {path} is sound; it was left as it is.",
            hint="--force replaces it all the same; it is set aside, not removed.",
        )
    with replace.write_lock(path) as file, replace.workplace(file) as folder:
        draft = folder / "draft.sqlite"
        if backup is not None:
            _copy_sound(backup, draft, now=now)
            made = Restored(path, None, backup, 0, _count(draft), 0, _count(draft))
        elif not file.exists():
            made = _newest_backup(path, draft, now=now)
        else:
            made = _salvage(path, file, draft, folder, now=now, is_sound=is_sound)
        aside = _aside(file, now) if file.exists() else None
        replace.put(draft, file, aside)
    return Restored(path, aside, made.source, made.saved, made.filled, made.lost, made.events)


def _refuse_excerpt(path: Path) -> None:
    try:
        with closing(Cache(path, writable=False)) as cache:
            is_excerpt = cache.is_excerpt
    except DbosMcpError:
        return
    if is_excerpt:
        raise UsageError(
            f"{path} is an incident file: it can only be read.",
            hint="Ask for it again where it was made.",
        )


def _aside(file: Path, now: int) -> Path:
    time = to_datetime(now).strftime("%Y%m%dT%H%M%S.%f")[:-3]
    return file.with_name(f"{file.name}.damaged-{time}Z")


def _newest_backup(path: Path, draft: Path, *, now: int) -> Restored:
    for found in backups(path):
        try:
            _copy_sound(found.path, draft, now=now)
        except StoreError:
            continue
        count = _count(draft)
        return Restored(path, None, found.path, 0, count, 0, count)
    raise NotFoundError(
        f"There is neither a cache at {path} nor a sound backup beside it.",
        hint="Name a backup, or begin anew with `dbos-mcp sync`.",
    )


def _copy_sound(backup: Path, draft: Path, *, now: int) -> None:
    """Of this version's schema.

    Raises:
        StoreError: it is damaged.
    """
    if not backup.exists():
        raise NotFoundError(f"There is no backup at {backup}.")
    found = check(backup, now=now, deep=True)
    if not found.is_sound:
        first = next(each for each in found.findings if each.level == "fail")
        raise StoreError(
            f"The backup {backup} is damaged: {first.told}.",
            hint="Name another one; without a name the cache itself is saved as far as it goes.",
        )
    with closing(Cache(backup, writable=False)) as cache:
        if cache.is_excerpt:
            raise StoreError(
                f"{backup} is an incident file: a part of a mirror, and no backup.",
                hint="`dbos-mcp --offline --cache FILE` answers from it.",
            )
        engine.copy(cache, draft)
    open_cache(draft).close()


def _salvage(
    path: Path, file: Path, draft: Path, folder: Path, *, now: int, is_sound: bool
) -> Restored:
    damaged = _Damaged(file)
    with closing(_Found(folder / "found.sqlite")) as found:
        saved = found.add(pages.events_of(file))
        candidates = backups(path)
        if is_sound:  # then what sync knows of itself is as good as in any backup
            candidates.insert(0, Backup(file, now, HEAD, automatic=True))
        base, filled = _fill(candidates, found, damaged, folder, now=now)
        orphans = found.discard_orphans()
        if not found.count():
            raise StoreError(
                f"No event could be read from {path}, and there is no sound backup beside it.",
                hint="Name a backup; or move it away, and begin anew with `dbos-mcp sync`.",
            )
        with closing(open_cache(draft)) as cache:
            for batch in found.in_order():
                with cache.write() as connection:
                    event_log.insert_raw(connection, batch)
                cache.checkpoint()
            with cache.write() as connection:
                projector.catch_up(connection)
            cache.checkpoint()
            with cache.write() as connection:
                lost = _note_lost(connection, damaged, base, now=now)
                if base is not None:
                    _take_state_of(connection, base.path)
                else:
                    _begin_anew(connection, damaged, found.whole_until())
            cache.checkpoint(wal_limit_bytes=0)
        events = found.count()
    source = None if base is None or base.source.path == file else base.source.path
    return Restored(path, None, source, saved - orphans, filled, lost, events)


class _Damaged:
    """What SQLite can still read of the file beside its events; nothing, as often as not."""

    def __init__(self, file: Path) -> None:
        self._uri = f"{file.as_uri()}?mode=ro"
        self.removals = [
            LogRemovalRow(**row) for row in self._rows("SELECT * FROM log_removal ORDER BY id")
        ]
        ends = self._rows("SELECT max(position) AS position FROM projection_checkpoint")
        self.last_position = next((row["position"] or 0 for row in ends), 0)

    def readings(self) -> list[dict[str, Any]]:
        return self._rows("SELECT * FROM step_reading")

    def _rows(self, statement: str) -> list[dict[str, Any]]:
        try:
            with closing(sqlite3.connect(self._uri, uri=True)) as raw:
                raw.row_factory = sqlite3.Row
                return [dict(row) for row in raw.execute(statement)]
        except (sqlite3.Error, OverflowError, UnicodeDecodeError):
            return []


@dataclass(frozen=True)
class _Base:
    """A sound backup of the same log, all of whose events are in the result."""

    source: Backup
    path: Path
    """A copy, of this version's schema."""


def _fill(
    candidates: Sequence[Backup], found: "_Found", damaged: _Damaged, folder: Path, *, now: int
) -> tuple[_Base | None, int]:
    """The first that is sound and of the same log, and how many events came from it."""
    for number, backup in enumerate(candidates):
        copy = folder / f"backup-{number}.sqlite"
        try:
            _copy_sound(backup.path, copy, now=now)
        except DbosMcpError:
            continue
        pruned = [
            removal.until_position
            for removal in damaged.removals
            if removal.reason == Reason.PRUNED and removal.removed_at > backup.made_at
        ]
        filled = found.fill(copy, pruned_until=max(pruned, default=0))
        if filled is not None:
            return _Base(backup, copy), filled
    return None, 0


class _Found:
    """The events that were found, in a file: they come in no order, and may be many."""

    _STATES = f"('{WorkflowObserved.__name__}', '{WorkflowChanged.__name__}')"
    _OF_STEPS = f"('{StepsObserved.__name__}', '{StepsDiscarded.__name__}')"

    def __init__(self, path: Path) -> None:
        self._raw = sqlite3.connect(path, isolation_level=None)
        self._raw.execute("PRAGMA journal_mode = OFF")
        self._raw.execute("PRAGMA synchronous = OFF")
        columns = ", ".join(RawEvent._fields[1:])
        self._raw.execute(f"CREATE TABLE found (position INTEGER PRIMARY KEY, {columns})")

    def add(self, events: Iterator[RawEvent]) -> int:
        """Of two at one place the one that was recorded later: the other one was pruned."""
        marks = ", ".join("?" * len(RawEvent._fields))
        values = ", ".join(f"{name} = excluded.{name}" for name in RawEvent._fields[1:])
        statement = (
            f"INSERT INTO found VALUES ({marks}) ON CONFLICT DO UPDATE SET {values}"
            " WHERE excluded.recorded_at > found.recorded_at"
        )
        for batch in batches(events, AT_ONCE):
            self._raw.execute("BEGIN")
            self._raw.executemany(statement, batch)
            self._raw.execute("COMMIT")
        return self.count()

    def fill(self, backup: Path, *, pruned_until: int) -> int | None:
        """Add what a backup has, but what was pruned since; None: it is of another log."""
        self._raw.execute("ATTACH ? AS backup", (str(backup),))
        try:
            (differ,) = self._raw.execute(
                "SELECT count(*) FROM backup.event AS old JOIN found USING (position)"
                " WHERE (old.application_name, old.workflow_id)"
                " IS NOT (found.application_name, found.workflow_id)"
            ).fetchone()
            if differ:
                return None
            before = self.count()
            self._raw.execute("CREATE INDEX IF NOT EXISTS of_workflow ON found (workflow_id)")
            self._raw.execute(
                f"INSERT OR IGNORE INTO found SELECT {', '.join(RawEvent._fields)}"
                " FROM backup.event AS old WHERE position > :pruned OR workflow_id IS NULL"
                " OR NOT EXISTS (SELECT 1 FROM found WHERE found.workflow_id = old.workflow_id"
                " AND found.application_name = old.application_name)",
                {"pruned": pruned_until},
            )
            return self.count() - before
        finally:
            self._raw.execute("DETACH backup")

    def discard_orphans(self) -> int:
        """Steps of a workflow that is not there: they cannot be folded, and are read again."""
        self._raw.execute("CREATE INDEX IF NOT EXISTS of_workflow ON found (workflow_id)")
        return self._raw.execute(
            f"DELETE FROM found WHERE kind IN {self._OF_STEPS} AND NOT EXISTS"
            f" (SELECT 1 FROM found AS its WHERE its.workflow_id = found.workflow_id"
            " AND its.application_name = found.application_name"
            f" AND its.position < found.position AND its.kind IN {self._STATES})"
        ).rowcount

    def count(self) -> int:
        (count,) = self._raw.execute("SELECT count(*) FROM found").fetchone()
        return int(count)

    def whole_until(self) -> int:
        """When the event before the first gap was recorded: nothing is lost from before."""
        moment = 0
        rows = self._raw.execute("SELECT position, recorded_at FROM found ORDER BY position")
        for expected, (position, recorded_at) in enumerate(rows, 1):
            if position != expected:
                break
            moment = recorded_at
        return moment

    def in_order(self) -> Iterator[Sequence[RawEvent]]:
        rows = self._raw.execute("SELECT * FROM found ORDER BY position")
        yield from batches((_with_checksum(RawEvent._make(row)) for row in rows), AT_ONCE)

    def close(self) -> None:
        self._raw.close()


def _with_checksum(event: RawEvent) -> RawEvent:
    if event.checksum is not None:
        return event
    return event._replace(checksum=event_log.checksum_of(*event[:-1]))


def _note_lost(connection: Connection, damaged: _Damaged, base: _Base | None, *, now: int) -> int:
    """How many events are missing that had not been removed before."""
    removals = damaged.removals or ([] if base is None else _removals_of(base.path))
    last = event_log.last_position(connection)
    gaps = last - event_log.count(connection)
    for removal in removals:  # some of it may be back
        explained = min(removal.events, gaps)
        log_removals.note(connection, removal.model_copy(update={"events": explained}))
        gaps -= explained
    at_the_end = max(0, damaged.last_position - last)
    if gaps or at_the_end:
        lost = LogRemovalRow(
            reason=Reason.LOST,
            application_name="",
            before=now,
            until_position=last,
            events=gaps,
            removed_at=now,
        )
        log_removals.note(connection, lost)
    return gaps + at_the_end


def _removals_of(path: Path) -> list[LogRemovalRow]:
    with closing(open_cache(path, writable=False)) as cache, cache.read() as connection:
        return log_removals.load_all(connection)


def _take_state_of(connection: Connection, base: Path) -> None:
    """What sync knew at the time of the backup, whose every event is there. Since then steps may
    have been read that are lost: the walk meets all whose reading the backup does not know."""
    with closing(open_cache(base, writable=False)) as cache, cache.read() as source:
        for model in _SYNC_TABLES:
            for batch in batches(
                dict(row._mapping) for row in source.execute(select(table_of(model)))
            ):
                connection.execute(insert(table_of(model)), batch)
    for name in sync_state.load_all(connection):
        sync_state.update(connection, name, _READ_AGAIN | {"steps_since": None})


_READ_AGAIN: dict[str, int | bool | str | None] = {
    "audited_at": None,
    "audit_cursor": None,
    "reread_at": 0,
    "reread_began_at": None,
    "reread_position": None,
}
"""Compare with what upstream has, at once; and read everything again by its id."""


def _begin_anew(connection: Connection, damaged: _Damaged, whole_until: int) -> None:
    """As if nothing had been looked at yet; but the readings of steps from before the first event
    that is lost are known to be whole, where the workflow still is what it was then."""
    names = connection.execute(select(col(ApplicationRow.application_name))).scalars().all()
    for name in names:
        sync_state.update(connection, name, _READ_AGAIN)
    table = table_of(StepReadingRow)
    for batch in batches(damaged.readings()):
        known = {
            row.id: (row.status, row.updated_at)
            for row in connection.exec_driver_sql(
                "SELECT id, status, updated_at FROM workflow WHERE id IN"
                f" ({', '.join(str(int(each['workflow_key'])) for each in batch)})"
            )
        }
        kept = [
            each
            for each in batch
            if known.get(each["workflow_key"])
            == (each["workflow_status"], each["workflow_updated_at"])
            and each["read_at"] < whole_until
        ]
        if kept:
            connection.execute(insert(table), kept)


def _count(path: Path) -> int:
    with closing(open_cache(path, writable=False)) as cache, cache.read() as connection:
        return event_log.count(connection)
