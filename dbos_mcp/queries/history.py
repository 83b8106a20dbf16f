"""What the log knows of one workflow: each state that was seen, what led to it, and how all of it
stood at an instant. Pure functions over its events; `get_history` and `get_as_of` read them.

The log holds what was seen at looks. What came and went between two of them left no event: where
the fields show that something did, the entry says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Connection, select
from sqlmodel import col

from dbos_mcp.domain import (
    IN_FLIGHT,
    TERMINAL,
    EpochMs,
    WorkflowStatus,
    counted,
    format_duration,
    format_time,
    plain,
)
from dbos_mcp.queries.applications import require_application
from dbos_mcp.queries.steps import StepItem
from dbos_mcp.queries.workflows import WorkflowItem, not_mirrored
from dbos_mcp.store import event_log
from dbos_mcp.store.event_log import Recorded
from dbos_mcp.store.events import (
    ENVELOPE,
    CommandIssued,
    CommandSettled,
    StepsDiscarded,
    StepsObserved,
    StepState,
    WorkflowDeleted,
    WorkflowState,
)
from dbos_mcp.store.projections.applications import ApplicationRow
from dbos_mcp.store.projections.commands import CommandRow

LATE_MS = 60_000
"""A change is looked for every few seconds while somebody asks, and at least every minute while
anything happens: one that was seen later than this had time to hide another."""
INTERNAL_QUEUE = "_dbos_internal_queue"
"""Where DBOS puts what is resumed or recovered and has no queue of its own."""

VALUE_CHARACTERS = 80

_TIMES = ("delay_until", "deadline")
_SAID_OTHERWISE = ("status", "updated_at")
_ENDED_FOR_GOOD = (WorkflowStatus.SUCCESS, WorkflowStatus.ERROR)
_RAN_TO_ITS_END = (*_ENDED_FOR_GOOD, WorkflowStatus.MAX_RECOVERY_ATTEMPTS_EXCEEDED)
_COMPARED = tuple(
    name
    for name in WorkflowState.model_fields
    if name not in ENVELOPE | set(WorkflowState.LOADED.values())
)
_MOVED_BY_COMMANDS = ("status", "queue_name", "dequeued_at", "updated_at")
_SHOWN_AT_FIRST = (
    "delay_until", "dequeued_at", "completed_at", "parent_workflow_id", "forked_from", "error",
)  # fmt: skip


@dataclass(frozen=True)
class Snapshot:
    """A workflow as the log knew it behind one of its events."""

    key: int
    state: WorkflowState
    """With the payloads that are known of it, whichever look they came by."""
    observed_at: int
    deleted_at: int | None = None

    def item(self) -> WorkflowItem:
        return WorkflowItem.model_validate(
            {
                **vars(self.state),
                "id": self.key,
                "observed_at": self.observed_at,
                "deleted_at": self.deleted_at,
            }
        )


class Change(BaseModel):
    """A field, by its name, and what it was and became."""

    field: str
    old: Any = None
    new: Any = None

    def __str__(self) -> str:
        return f"{self.field}: {self._told(self.old)} → {self._told(self.new)}"

    def _told(self, value: object) -> str:
        if value is None:
            return "none"
        if isinstance(value, int) and (self.field.endswith("_at") or self.field in _TIMES):
            return format_time(value)
        return plain(value, limit=VALUE_CHARACTERS)


class HistoryEntry(BaseModel):
    """One thing that was observed of a workflow, or done to it."""

    position: int
    recorded_at: EpochMs
    occurred_at: EpochMs | None = None
    """By upstream's clock; of a state, when it says that it last changed."""
    kind: str
    what: str
    cause: str | None = None
    changes: tuple[Change, ...] = ()
    unseen: tuple[str, ...] = ()
    """Statuses that it must have had since the entry before."""
    late_ms: int | None = None
    """How long upstream had been in this state when it was seen, where that was long."""

    @property
    def event(self) -> str:
        """Of a state its status, before and after: the rest is among the changes."""
        for change in self.changes:
            if change.field == "status":
                return f"{change.old} → {change.new}"
        return self.what

    @property
    def changed_at(self) -> int | None:
        """A change that left `updated_at` as it was happened at some later time."""
        first = self.kind != "WorkflowChanged"
        moved = any(change.field == "updated_at" for change in self.changes)
        return self.occurred_at if first or moved else None

    @property
    def told(self) -> Sequence[Change]:
        """What is said neither by the event nor by the times."""
        return [change for change in self.changes if change.field not in _SAID_OTHERWISE]

    @property
    def note(self) -> str:
        return "; ".join(
            [
                *([f"not seen: {', '.join(self.unseen)}"] if self.unseen else []),
                *([f"seen {format_duration(self.late_ms)} late"] if self.late_ms else []),
            ]
        )


@dataclass(frozen=True)
class AsOf:
    """What the log knew at an instant; the times are by our clock."""

    workflow: WorkflowItem | None
    """None: it had not been seen yet."""
    steps: list[StepItem]
    steps_read_at: int | None
    first_seen_at: int
    created_at: int
    """By upstream's clock."""
    entries: int
    total: int
    """How many entries the history has by now."""
    next: HistoryEntry | None
    """The state that was seen next."""


def get_history(
    connection: Connection, application_name: str, workflow_id: str
) -> list[HistoryEntry]:
    """Everything the log holds of a workflow, oldest first.

    Raises:
        NotFoundError: the mirror has never seen it.
    """
    recorded = _recorded_of(connection, application_name, workflow_id)
    retention_ms = connection.execute(
        select(col(ApplicationRow.gc_time_threshold_ms)).where(
            col(ApplicationRow.application_name) == application_name
        )
    ).scalar()
    first = next(entry.event for entry in recorded if isinstance(entry.event, WorkflowState))
    made_by_us = first.forked_from is not None and _forked_by_us(
        connection, application_name, first.forked_from, workflow_id
    )
    return list(entries_of(recorded, retention_ms=retention_ms, made_by_us=made_by_us))


def get_as_of(
    connection: Connection, application_name: str, workflow_id: str, instant: int
) -> AsOf:
    """A workflow as the mirror knew it then, by our clock.

    Raises:
        NotFoundError: the mirror has never seen it.
    """
    return as_of(_recorded_of(connection, application_name, workflow_id), instant)


def as_of(recorded: Sequence[Recorded], instant: int) -> AsOf:
    """Of the events of one workflow, which hold a state of it."""
    count = len(recorded)
    while count and recorded[count - 1].recorded_at > instant:
        count -= 1
    known: Snapshot | None = None
    steps: tuple[StepState, ...] = ()
    read_at: int | None = None
    for entry in recorded[:count]:
        known, steps = advance(known, entry), advance_steps(steps, entry)
        read_at = entry.recorded_at if isinstance(entry.event, StepsObserved) else read_at
    first_seen_at, first = next(
        (entry.recorded_at, entry.event)
        for entry in recorded
        if isinstance(entry.event, WorkflowState)
    )
    later = (entry for entry in recorded[count:] if isinstance(entry.event, WorkflowState))
    following = next(later, None)
    return AsOf(
        workflow=None if known is None else known.item(),
        steps=[StepItem.model_validate(step, from_attributes=True) for step in steps],
        steps_read_at=read_at,
        first_seen_at=first_seen_at,
        created_at=first.created_at,
        entries=count,
        total=len(recorded),
        next=following and _entry(following, what=_what(following)),
    )


def advance(known: Snapshot | None, entry: Recorded) -> Snapshot | None:
    """What is known of a workflow after one more event: the row that is folded from it."""
    position, recorded_at, event = entry
    if isinstance(event, WorkflowState):
        if known is None:
            return Snapshot(position, event, recorded_at)
        state = event.model_copy(update=_payloads_kept(known, event))
        return Snapshot(known.key, state, recorded_at)
    if isinstance(event, WorkflowDeleted) and known is not None:
        return replace(known, observed_at=recorded_at, deleted_at=recorded_at)
    return known


def advance_steps(known: tuple[StepState, ...], entry: Recorded) -> tuple[StepState, ...]:
    match entry.event:
        case StepsObserved(steps=steps):
            return steps
        case StepsDiscarded(step_ids=gone):
            return tuple(step for step in known if step.step_id not in gone)
    return known


def _payloads_kept(known: Snapshot, seen: WorkflowState) -> dict[str, object]:
    """Those that the look did not ask for, as long as they are of the same workflow and, but for
    the input, of the same status."""
    if known.deleted_at is not None:
        return {}
    return {
        name: getattr(known.state, name)
        for payload, loaded in WorkflowState.LOADED.items()
        if not getattr(seen, loaded) and (payload == "input" or seen.status == known.state.status)
        for name in (payload, loaded)
    }


def entries_of(
    recorded: Sequence[Recorded], *, retention_ms: int | None = None, made_by_us: bool = False
) -> Iterator[HistoryEntry]:
    """The history that the events of one workflow tell, each entry with its cause.

    `retention_ms` is how long the application keeps workflows that have ended; `made_by_us` says
    that a command of ours made the workflow.
    """
    known: Snapshot | None = None
    ours = _Commands(recorded)
    for index, entry in enumerate(recorded):
        before, known = known, advance(known, entry)
        ours.note(entry)
        match entry.event:
            case WorkflowState() as state:
                assert known is not None
                old = None if before is None or before.deleted_at is not None else before.state
                command = ours.behind(old, state)
                rewound = _discards_steps(recorded[index + 1 :])
                yield _entry(
                    entry,
                    what=_what(entry),
                    cause=command
                    or _cause(before, known.state, rewound=rewound, made_by_us=made_by_us),
                    changes=_changes(old, known.state),
                    unseen=_unseen(old, known.state),
                    late_ms=_late_ms(old, entry),
                )
            case WorkflowDeleted():
                yield _entry(
                    entry,
                    what=_what(entry),
                    cause=ours.behind_deletion() or _why_deleted(before, entry, retention_ms),
                )
            case _:
                yield _entry(entry, what=_what(entry))


class _Commands:
    """Commands of ours whose effect has not been seen yet. The state before a command is looked up,
    and the one after it, so the first one that is seen behind its end is what came of it."""

    def __init__(self, recorded: Sequence[Recorded]) -> None:
        self._outcomes = {
            entry.event.command_id: entry.event.outcome
            for entry in recorded
            if isinstance(entry.event, CommandSettled)
        }
        self._open: dict[str, str] = {}
        self._settled: set[str] = set()

    def note(self, entry: Recorded) -> None:
        match entry.event:
            case CommandIssued(command_id=command_id, command=command):
                if self._outcomes.get(command_id) != "failed":
                    self._open[command_id] = command
            case CommandSettled(command_id=command_id):
                self._settled.add(command_id)

    def behind(self, old: WorkflowState | None, new: WorkflowState) -> str | None:
        for command_id, command in reversed(self._open.items()):
            if _fits(command, old, new):
                del self._open[command_id]
                return self._words(command_id, command)
        self._open = {key: name for key, name in self._open.items() if key not in self._settled}
        return None

    def behind_deletion(self) -> str | None:
        for command_id, command in reversed(self._open.items()):
            if command == "delete":
                del self._open[command_id]
                return self._words(command_id, command)
        return None

    def _words(self, command_id: str, command: str) -> str:
        sure = self._outcomes.get(command_id) == "done"
        return f"our {command}" if sure else f"our {command}, whose answer never came"


def _fits(command: str, old: WorkflowState | None, new: WorkflowState) -> bool:
    if old is None:
        return False
    # Not `updated_at` alone: some upstreams stamp whole seconds.
    moved = any(getattr(old, name) != getattr(new, name) for name in _MOVED_BY_COMMANDS)
    match command:
        case "cancel":
            return moved and new.status == WorkflowStatus.CANCELLED
        case "resume":
            return moved and old.status not in _ENDED_FOR_GOOD
        case "fork" | "fork_from_failure":
            return new.was_forked_from and not old.was_forked_from
    return False


def _cause(before: Snapshot | None, new: WorkflowState, *, rewound: bool, made_by_us: bool) -> str:
    """In a few words, from what the transitions of DBOS leave in a row."""
    if before is None:
        if new.forked_from is not None:
            return "our fork" if made_by_us else "forked"
        return "first seen"
    if before.deleted_at is not None:
        return "seen again after it was gone"
    old = before.state
    if new.created_at != old.created_at:
        return "another workflow of the same id"
    if old.status in TERMINAL and _ran_again(old, new):
        again = "rewound" if rewound or old.status in _ENDED_FOR_GOOD else "resumed"
        return again if new.status in IN_FLIGHT else f"{again}, and {_end_of(new)}"
    if old.status == new.status:
        return _cause_without_status(old, new)
    match old.status, new.status:
        case _, WorkflowStatus.ENQUEUED if old.status == WorkflowStatus.PENDING:
            return _why_enqueued_again(old, new)
        case WorkflowStatus.DELAYED, WorkflowStatus.ENQUEUED:
            moved = new.queue_name != old.queue_name or new.updated_at != old.updated_at
            return "resumed" if moved else "its delay was over"
        case _, WorkflowStatus.PENDING:
            return "dequeued"
    return _end_of(new) if new.status in TERMINAL else "changed upstream"


def _cause_without_status(old: WorkflowState, new: WorkflowState) -> str:
    if new.status == WorkflowStatus.CANCELLED and new.completed_at != old.completed_at:
        return "cancelled again"
    if new.status == WorkflowStatus.PENDING and (
        new.executor_id != old.executor_id or new.dequeued_at != old.dequeued_at
    ):
        return "recovered"
    if new.status == WorkflowStatus.ENQUEUED and new.queue_name != old.queue_name:
        return "resumed"
    if new.delay_until != old.delay_until:
        return "delay changed, or debounced" if old.deduplication_id else "delay changed"
    if new.was_forked_from and not old.was_forked_from:
        return "forked by somebody"
    changed = {change.field for change in _changes(old, new)}
    if "attributes" in changed:
        return "attributes set"
    if "owning_application" in changed:
        return "application renamed"
    if changed and changed <= set(WorkflowState.LOADED):
        return "payload read"
    return "changed upstream" if changed else "payload asked for; there was none"


def _why_enqueued_again(old: WorkflowState, new: WorkflowState) -> str:
    """A resume takes away the deadline and the deduplication id, and may change the queue."""
    if (old.deadline, old.deduplication_id) != (new.deadline, new.deduplication_id):
        return "resumed"
    if new.queue_name == old.queue_name:
        return "recovered"
    if old.queue_name is None and new.queue_name == INTERNAL_QUEUE:
        return "recovered, or resumed"
    return "resumed"


def _ran_again(old: WorkflowState, new: WorkflowState) -> bool:
    if new.status in IN_FLIGHT:
        return True
    if new.status == WorkflowStatus.CANCELLED:
        return False
    return new.status != old.status or new.completed_at != old.completed_at


def _end_of(new: WorkflowState) -> str:
    match new.status:
        case WorkflowStatus.SUCCESS:
            return "succeeded"
        case WorkflowStatus.ERROR:
            return "failed"
        case WorkflowStatus.CANCELLED:
            due = new.deadline is not None and (new.completed_at or 0) >= new.deadline
            return "timed out" if due else "cancelled by somebody"
    return "recovered too often"


def _why_deleted(before: Snapshot | None, entry: Recorded, retention_ms: int | None) -> str:
    if before is None or before.state.status in IN_FLIGHT:
        return "deleted by somebody"
    ended_at = before.state.completed_at or before.state.updated_at
    if retention_ms is not None and entry.recorded_at - ended_at >= retention_ms:
        return "retention, by its age"
    return "deleted by somebody, or by retention"


def _discards_steps(following: Sequence[Recorded]) -> bool:
    """Whether steps were found to be gone before the next state was seen."""
    for entry in following:
        if isinstance(entry.event, WorkflowState):
            return False
        if isinstance(entry.event, StepsDiscarded):
            return True
    return False


def _changes(old: WorkflowState | None, new: WorkflowState) -> tuple[Change, ...]:
    if old is None:
        return tuple(
            Change(field=name, new=getattr(new, name))
            for name in _SHOWN_AT_FIRST
            if getattr(new, name) is not None
        )
    return tuple(
        Change(field=name, old=getattr(old, name), new=getattr(new, name))
        for name in _COMPARED
        if getattr(old, name) != getattr(new, name)
    )


def _unseen(old: WorkflowState | None, new: WorkflowState) -> tuple[str, ...]:
    """The statuses that lie between two that were seen."""
    ran = new.status in _RAN_TO_ITS_END
    enqueued, pending = (WorkflowStatus.ENQUEUED.value,), (WorkflowStatus.PENDING.value,)
    if old is None:
        queued = new.dequeued_at is not None and new.status != WorkflowStatus.ENQUEUED
        return (enqueued if queued else ()) + (pending if ran else ())
    if old.status in TERMINAL and _ran_again(old, new):
        if new.status == WorkflowStatus.ENQUEUED:
            return ()
        return enqueued + (pending if ran else ())
    match old.status:
        case WorkflowStatus.DELAYED if new.status == WorkflowStatus.PENDING or ran:
            return enqueued + (pending if ran else ())
        case WorkflowStatus.ENQUEUED if new.status in _ENDED_FOR_GOOD:
            return pending
        case WorkflowStatus.PENDING if new.dequeued_at not in (None, old.dequeued_at):
            return enqueued + (pending if ran else ())
    return ()


def _late_ms(old: WorkflowState | None, entry: Recorded) -> int | None:
    """None also where upstream's clock does not tell: some changes do not move `updated_at`."""
    occurred_at = entry.event.occurred_at
    if occurred_at is None or (old is not None and old.updated_at == occurred_at):
        return None
    late = entry.recorded_at - occurred_at
    return late if late > LATE_MS else None


def _entry(entry: Recorded, **fields: Any) -> HistoryEntry:
    return HistoryEntry(
        position=entry.position,
        recorded_at=entry.recorded_at,
        occurred_at=entry.event.occurred_at,
        kind=entry.event.kind,
        **fields,
    )


def _what(recorded: Recorded) -> str:
    match recorded.event:
        case WorkflowState(status=status, queue_name=queue, executor_id=executor):
            places = [
                *([f"queue {queue}"] if queue else []),
                *([f"executor {executor}"] if executor else []),
            ]
            return f"{status} ({', '.join(places)})" if places else status
        case WorkflowDeleted():
            return "gone upstream"
        case StepsObserved(steps=steps):
            failed = sum(step.error is not None for step in steps)
            count = counted(len(steps), "step")
            return count + (f", {failed} failed" if failed else "")
        case StepsDiscarded(step_ids=ids):
            return f"steps {', '.join(map(str, ids))} discarded: a rewind"
        case CommandIssued(command=command, requested_by=who):
            return f"{command} asked for" + (f" by {who}" if who else "")
        case CommandSettled(outcome=outcome, new_workflow_id=new_id, detail=detail):
            return (
                f"{outcome}"
                + (f", as {new_id}" if new_id else "")
                + (f": {detail}" if detail else "")
            )
    return ""


def _recorded_of(connection: Connection, application_name: str, workflow_id: str) -> list[Recorded]:
    require_application(connection, application_name)
    recorded = event_log.read_workflow(connection, application_name, workflow_id)
    if not any(isinstance(entry.event, WorkflowState) for entry in recorded):
        raise not_mirrored(application_name, workflow_id)
    return recorded


def _forked_by_us(
    connection: Connection, application_name: str, source: str, workflow_id: str
) -> bool:
    made = connection.execute(
        select(col(CommandRow.id)).where(
            col(CommandRow.application_name) == application_name,
            col(CommandRow.workflow_id) == source,
            col(CommandRow.new_workflow_id) == workflow_id,
        )
    )
    return made.first() is not None
