"""Compacts the log: of what ended long ago, the last known state takes the place of all that led to
it.

A workflow's states become one, at the place of the first and recorded when the last was; of its
steps the last list stays, of its end upstream the last mark, of our commands everything. So the row
that is folded from them is the same in every column: its key is still where it was first seen, its
`observed_at` when it last was. Of an application or an executor the first and the last observation
stay. What is not compacted: what may still change, the newest event, and each application's first
workflow, which tells since when the mirror looks.

Nothing is taken for granted: a workflow is compacted only if folding what stays gives the same rows
as folding all of it, by the read models' own code. Each transaction is complete by itself, so that
an end in the middle leaves a log that is whole.
"""

import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, delete, func, select, update
from sqlmodel import SQLModel, col

from dbos_mcp.domain import TERMINAL
from dbos_mcp.errors import StoreError
from dbos_mcp.store import event_log, indexes, log_removals, projector
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.event_log import EventRow, RawEvent, Recorded
from dbos_mcp.store.events import (
    ApplicationObserved,
    ExecutorObserved,
    StepsDiscarded,
    StepsObserved,
    StepState,
    WorkflowChanged,
    WorkflowDeleted,
    WorkflowObserved,
    WorkflowState,
)
from dbos_mcp.store.log_removals import LogRemovalRow, Reason
from dbos_mcp.store.projections import steps, workflows
from dbos_mcp.store.projections.steps import StepRow
from dbos_mcp.store.projections.workflow_counts import WorkflowCountRow
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.tables import batches, table_of
from dbos_mcp.upkeep import replace

AT_ONCE = 500
MOST_WAL_BYTES = 48 * 1024 * 1024
WAIT_SECONDS = 60.0
WORTH_BYTES = 4 * 1024 * 1024
"""So much free space is given back, if it is a tenth of the file as well."""

Progress = Callable[[int], None]
"""Told how many events have gone."""
_Key = tuple[str, str]
"""Of a workflow: its application, and its id."""


@dataclass(frozen=True)
class Pruned:
    """What went, or would go."""

    events: int
    """Of so many fewer the log consists."""
    workflows: int
    """How many have their last state alone now."""
    bytes: int
    """What those events held."""
    left: int
    """How many workflows were left alone because their events are damaged, or would not fold into
    the same rows."""
    free_bytes: int = 0
    """Room in the file for what comes next."""
    given_back_bytes: int = 0


@dataclass
class _Part:
    """What one transaction does."""

    rewritten: list[RawEvent]
    gone: list[int]
    bytes: int = 0
    workflows: int = 0
    left: int = 0


def prune(
    cache: Cache,
    before: int,
    application_name: str | None = None,
    *,
    now: int,
    dry_run: bool = False,
    progress: Progress = lambda _events: None,
) -> Pruned:
    """Compact what was last heard of before a time of our clock, in one application or in all.

    Raises:
        StoreError: the cache is not in order, or readers keep its WAL from being folded back.
            What was compacted until then stays so.
    """
    run = _Run(cache, min(before, now), application_name, now)
    with cache.read() as connection:
        if projector.stale(connection) or indexes.missing(connection):
            raise StoreError(
                f"The cache {cache.path} is not up to date with its own log.",
                hint="Run `dbos-mcp sync`, or `dbos-mcp rebuild`, and try again.",
            )
    transaction = cache.read if dry_run else cache.write
    with _scratch() as scratch:
        for look in (run.workflows, run.observations):
            reached: Any = None
            while True:
                with transaction() as connection:
                    part, reached = look(connection, scratch, reached)
                    if not dry_run:
                        run.carry_out(connection, part)
                run.note(part)
                if reached is None:
                    break
                if not dry_run:
                    _fold_back(cache)
                progress(run.events)
    free = 0
    if not dry_run:
        _fold_back(cache)
        with cache.read() as connection:
            free = _free_bytes(connection)
    return Pruned(run.events, run.compacted, run.bytes, run.left, free)


class _Run:
    def __init__(self, cache: Cache, before: int, application_name: str | None, now: int) -> None:
        self._cache, self._before, self._now = cache, before, now
        self._application_name = application_name
        self._removal: int | None = None
        self.events = self.compacted = self.bytes = self.left = 0

    def note(self, part: _Part) -> None:
        self.events += len(part.gone)
        self.compacted += part.workflows
        self.bytes += part.bytes
        self.left += part.left

    def workflows(
        self, connection: Connection, scratch: Connection, reached: str | None
    ) -> tuple[_Part, str | None]:
        """Of the next so many workflows that have more than one event."""
        ids = _ids_with_several(connection, reached or "")
        kept = _kept(connection)
        chains = {
            key: chain
            for key, chain in _chains(connection, ids).items()
            if (self._application_name in (None, key[0]))
            and max(event.recorded_at for event in chain) < self._before
            and kept.isdisjoint(event.position for event in chain)
            and _may_be_shorter(chain)
        }
        part = _Part([], [])
        sound = {
            key: [event_log.from_raw(event) for event in chain]
            for key, chain in chains.items()
            if all(event.is_sound is not False for event in chain)
        }
        folded = _fold(scratch, sound)
        shorter = {
            key: _compacted(chain, *folded[key])
            for key, chain in sound.items()
            if key in folded and _is_over(folded[key][0])
        }
        again = _fold(scratch, shorter)
        for key, stay in shorter.items():
            if again.get(key) != folded[key]:
                part.left += 1
            elif len(stay) < len(chains[key]):
                _add(part, chains[key], [event_log.to_raw(each) for each in stay])
        part.left += len(chains) - len(sound)
        return part, ids[-1] if len(ids) == AT_ONCE else None

    def observations(
        self, connection: Connection, _scratch: Connection, _reached: None
    ) -> tuple[_Part, None]:
        """Of applications and executors what lies between the first and the last of each."""
        part, kept = _Part([], []), _kept(connection)
        names = select(col(EventRow.application_name)).distinct()
        for name in connection.execute(names.where(col(EventRow.workflow_id).is_(None))).scalars():
            if self._application_name not in (None, name):
                continue
            seen: defaultdict[object, list[Recorded]] = defaultdict(list)
            for recorded in event_log.read_without_workflow(connection, name):
                event = recorded.event
                if recorded.recorded_at >= self._before:
                    break
                if isinstance(event, ApplicationObserved):
                    seen[None].append(recorded)
                elif isinstance(event, ExecutorObserved):
                    seen[event.executor_id].append(recorded)
            for of_one in seen.values():
                gone = [each for each in of_one[1:-1] if each.position not in kept]
                part.gone += [each.position for each in gone]
                part.bytes += sum(len(each.event.data()) for each in gone)
        return part, None

    def carry_out(self, connection: Connection, part: _Part) -> None:
        if not part.gone:
            return
        connection.exec_driver_sql("PRAGMA secure_delete = ON")  # gone also from the file's pages
        with event_log.unlocked(connection):
            table = table_of(EventRow)
            for event in part.rewritten:
                values = event._asdict()
                position = values.pop("position")
                connection.execute(update(table).where(table.c.position == position).values(values))
            for positions in batches(part.gone):
                connection.execute(delete(table).where(table.c.position.in_(positions)))
        self._note_removal(connection, part)

    def _note_removal(self, connection: Connection, part: _Part) -> None:
        """In the same transaction: at any moment it explains each gap."""
        table = table_of(LogRemovalRow)
        if self._removal is None:
            removal = LogRemovalRow(
                reason=Reason.PRUNED,
                application_name=self._application_name or "",
                before=self._before,
                until_position=0,
                events=0,
                removed_at=self._now,
            )
            log_removals.note(connection, removal)
            self._removal = connection.execute(select(func.max(table.c.id))).scalar_one()
        connection.execute(
            update(table)
            .where(table.c.id == self._removal)
            .values(
                events=table.c.events + len(part.gone),
                until_position=func.max(table.c.until_position, max(part.gone)),
            )
        )


_ONE_STAYS = (
    {WorkflowObserved.__name__, WorkflowChanged.__name__},
    {StepsObserved.__name__, StepsDiscarded.__name__},
    {WorkflowDeleted.__name__},
)


def _may_be_shorter(chain: Sequence[RawEvent]) -> bool:
    return any(sum(event.kind in kinds for event in chain) > 1 for kinds in _ONE_STAYS)


def _ids_with_several(connection: Connection, after: str) -> list[str]:
    workflow_id = col(EventRow.workflow_id)
    found = connection.execute(
        select(workflow_id)
        .where(workflow_id > after)
        .group_by(workflow_id)
        .having(func.count() > 1)
        .order_by(workflow_id)
        .limit(AT_ONCE)
    ).scalars()
    return [each for each in found if each is not None]


def _chains(connection: Connection, ids: Sequence[str]) -> dict[_Key, list[RawEvent]]:
    chains: defaultdict[_Key, list[RawEvent]] = defaultdict(list)
    table = table_of(EventRow)
    for batch in batches(ids):
        rows = connection.execute(
            select(table).where(table.c.workflow_id.in_(batch)).order_by(table.c.position)
        )
        for row in rows:
            event = RawEvent._make(row)
            chains[event.application_name, str(event.workflow_id)].append(event)
    return chains


def _kept(connection: Connection) -> set[int]:
    """Events that others go by: the last, and of each application the first of a workflow."""
    kept = {event_log.last_position(connection)}
    names = select(col(EventRow.application_name)).distinct()
    for name in connection.execute(names.where(col(EventRow.workflow_id).is_(None))).scalars():
        listed = event_log.first_of(connection, name)
        assert listed is not None
        seen = event_log.first_of_workflows(connection, name, listed.position)
        if seen is not None:
            kept.add(seen.position)
    return kept


# Folding, by the read models' own code

_Folded = tuple[dict[str, Any], list[dict[str, Any]]]
"""A workflow's row, and those of its steps."""


@contextmanager
def _scratch() -> Iterator[Connection]:
    """Read models in memory."""
    engine = create_engine("sqlite://")
    tables = [table_of(model) for model in (WorkflowRow, WorkflowCountRow, StepRow)]
    try:
        with engine.begin() as connection:
            SQLModel.metadata.create_all(connection, tables=tables)
            yield connection
    finally:
        engine.dispose()


def _fold(scratch: Connection, chains: dict[_Key, list[Recorded]]) -> dict[_Key, _Folded]:
    workflow, step = table_of(WorkflowRow), table_of(StepRow)
    scratch.execute(delete(step))
    scratch.execute(delete(workflow))
    for chain in chains.values():
        workflows.apply(scratch, chain)
    folded: dict[_Key, _Folded] = {}
    keys: dict[int, _Key] = {}
    for row in scratch.execute(select(workflow)).mappings():
        key = keys[row["id"]] = (row["application_name"], row["workflow_id"])
        folded[key] = (dict(row), [])
    for key in folded:
        steps.apply(scratch, chains[key])
    for row in scratch.execute(select(step).order_by(*step.primary_key.columns)).mappings():
        folded[keys[row["workflow_key"]]][1].append(dict(row))
    return folded


def _is_over(row: dict[str, Any]) -> bool:
    return row["status"] in TERMINAL or row["deleted_at"] is not None


def _compacted(
    chain: Sequence[Recorded], row: dict[str, Any], step_rows: Sequence[dict[str, Any]]
) -> list[Recorded]:
    """What folds into the same."""
    states = [each for each in chain if isinstance(each.event, WorkflowState)]
    occurred_at = states[-1].event.occurred_at
    state = WorkflowObserved.model_validate({**row, "occurred_at": occurred_at})
    stay = [Recorded(states[0].position, states[-1].recorded_at, state)]
    ends = [each for each in chain if isinstance(each.event, WorkflowDeleted)]
    if row["deleted_at"] is not None:
        stay.append(ends[-1])
    lists = [each for each in chain if isinstance(each.event, StepsObserved)]
    if lists:
        left = tuple(StepState.model_validate(each) for each in step_rows)
        stay.append(lists[-1]._replace(event=lists[-1].event.model_copy(update={"steps": left})))
    made = (WorkflowState, WorkflowDeleted, StepsObserved, StepsDiscarded)
    stay += [each for each in chain if not isinstance(each.event, made)]
    return sorted(stay, key=lambda each: each.position)


def _add(part: _Part, chain: Sequence[RawEvent], stay: Sequence[RawEvent]) -> None:
    before = {event.position: event for event in chain}
    after = {event.position: event for event in stay}
    part.rewritten += [event for event in stay if event != before[event.position]]
    gone = before.keys() - after.keys()
    part.gone += gone
    part.bytes += sum(len(event.data) for event in chain) - sum(len(event.data) for event in stay)
    part.workflows += 1


# Room


def _free_bytes(connection: Connection) -> int:
    pages, size = (
        connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
        for name in ("freelist_count", "page_size")
    )
    return int(pages * size)


def _fold_back(cache: Cache) -> None:
    """Not before there is room for the next part does it go on."""
    wal = cache.path.with_name(f"{cache.path.name}-wal")
    until = time.monotonic() + WAIT_SECONDS
    while not cache.checkpoint() and wal.exists() and wal.stat().st_size > MOST_WAL_BYTES:
        if time.monotonic() > until:
            raise StoreError(
                f"A reader keeps the WAL of the cache {cache.path} from being folded back.",
                hint="Try again; what is pruned until now is complete.",
            )
        time.sleep(0.2)


def give_back(path: Path, *, at_least: int = WORTH_BYTES) -> int:
    """Write the cache anew without its free pages, if there are many; how many bytes that freed.

    To do that in place would take a WAL as large as the cache. Nobody writes meanwhile; who reads
    goes on, and finds the new file at the next question. No connection of this process may be open.

    Raises:
        StoreError: there is no room for a second one. The cache is as it was.
    """
    with (
        replace.write_lock(path) as file,
        replace.workplace(file) as folder,
    ):
        draft = folder / "draft.sqlite"
        draft.touch(mode=0o600)
        before = file.stat().st_size
        try:
            with closing(sqlite3.connect(file, isolation_level=None)) as raw:
                raw.execute("PRAGMA busy_timeout = 5000")
                raw.execute("PRAGMA wal_autocheckpoint = 0")
                (busy, *_) = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                (pages,) = raw.execute("PRAGMA freelist_count").fetchone()
                (size,) = raw.execute("PRAGMA page_size").fetchone()
                if busy or pages * size < max(at_least, before // 10):
                    return 0
                raw.execute("VACUUM INTO ?", (str(draft),))
                replace.put(draft, file, aside=None)
        except sqlite3.OperationalError as error:
            raise StoreError(
                f"The free space in the cache {path} cannot be given back: {error}.",
                hint="What is pruned is gone, and its room is used again by what comes next.",
            ) from error
        return before - file.stat().st_size
