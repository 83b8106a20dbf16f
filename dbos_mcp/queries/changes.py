"""What changed in a part of the log, by workflow: first state → last state, and what came of it."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from itertools import groupby

from sqlalchemy import Connection, select
from sqlmodel import col

from dbos_mcp.domain import FAILED, IN_FLIGHT, TERMINAL, WorkflowStatus
from dbos_mcp.errors import InvalidCursorError, UsageError
from dbos_mcp.queries.applications import require_application
from dbos_mcp.queries.paging import pack, unpack
from dbos_mcp.store import event_log
from dbos_mcp.store.event_log import Brief
from dbos_mcp.store.events import (
    ApplicationObserved,
    CommandIssued,
    CommandSettled,
    ExecutorObserved,
    WorkflowChanged,
    WorkflowDeleted,
    WorkflowObserved,
)
from dbos_mcp.store.projections.workflows import WorkflowRow

MOST_EVENTS = 20_000
"""What one answer takes in: a third of a second, and some 15 MB."""
MOST_SHOWN = 150
_AT_ONCE = 500
_STATES = (WorkflowObserved.__name__, WorkflowChanged.__name__)
_COMMANDS = (CommandIssued.__name__, CommandSettled.__name__)

OUTCOMES = (
    "failed",
    "cancelled",
    "cancelled by our command",
    "deleted",
    "started again",
    "in flight",
    "succeeded",
    "changed otherwise",
    "only commanded",
    "ran on",
)
"""What may come of a workflow, in the order in which it is shown; each has exactly one."""
STEPS_READ = "steps read"
"""Of one that had ended before: it is news to the mirror alone, so it is counted and not shown."""


@dataclass(slots=True)
class WorkflowChange:
    """What a part of the log tells of one workflow."""

    application_name: str
    workflow_id: str
    events: int = 0
    position: int = 0
    recorded_at: int = 0
    """Of its last event."""
    first_seen: bool = False
    before: str | None = None
    """Its status before; None: it was not there."""
    status: str | None = None
    """The last one that was seen; None: no state was."""
    deleted: bool = False
    states: int = 0
    commands: dict[str, str] = field(default_factory=dict)
    """What was asked for through us, and what came of it, by command id."""
    workflow_name: str | None = None
    error: str | None = None

    @property
    def outcome(self) -> str:
        if self.deleted:
            return "deleted"
        status, moved = self.status, self.status != self.before
        if moved and status in FAILED:
            return "failed"
        if moved and status == WorkflowStatus.CANCELLED:
            ours = {"cancel done", "cancel unknown", "cancel asked for"} & {*self.commands.values()}
            return "cancelled by our command" if ours else "cancelled"
        if moved and status == WorkflowStatus.SUCCESS:
            return "succeeded"
        if moved and status in IN_FLIGHT:
            return "started again" if self.before in TERMINAL else "in flight"
        if self.states:
            return "changed otherwise"
        if self.commands:
            return "only commanded"
        return "ran on" if self.before in IN_FLIGHT else STEPS_READ


@dataclass(frozen=True)
class ChangesCursor:
    """The last workflow that was shown of a part of the log. The log does not change, so the same
    part comes to the same order."""

    after: int
    until: int
    since: int
    """Epoch ms: what was asked for, 0 if it was a position."""
    application_name: str
    outcome: int
    """Its place among `OUTCOMES`."""
    position: int

    def encode(self) -> str:
        return pack(astuple(self))

    @classmethod
    def decode(cls, text: str) -> "ChangesCursor":
        """Raises InvalidCursorError for what `encode` did not make."""
        return cls(*unpack(text, (int, int, int, str, int, int)))


@dataclass(frozen=True)
class OtherChange:
    """The last status of an application or executor that was observed, or a command of ours that
    was about no workflow."""

    kind: str
    application_name: str
    name: str
    status: str | None


@dataclass(frozen=True)
class Changes:
    """Of the events behind `after` up to and with `until`."""

    after: int
    until: int
    remaining: int
    """How many events of the log lie behind `until`."""
    events: int
    """How many there are of what was asked about."""
    since: int | None
    """When the first of them was recorded."""
    outcomes: Mapping[str, int]
    """How many workflows came to each, by outcome."""
    first_seen: int
    steps_read: int
    """How many workflows had nothing but their steps read; they are in no other count."""
    workflows: Sequence[WorkflowChange]
    """The first ones, failures first, the newest first; with name and error."""
    left: Mapping[str, int]
    """How many came to each, without those that the answers before have shown."""
    others: Sequence[OtherChange]


def list_changes(
    connection: Connection,
    *,
    application_name: str | None = None,
    after: int | None = None,
    since: int | None = None,
    most: int = MOST_EVENTS,
    cursor: ChangesCursor | None = None,
) -> Changes:
    """What changed behind a position of the log, or since a time of our clock. A `cursor` goes on
    where an answer about the same application stopped.

    Raises:
        NotFoundError: an application that was never listed.
        UsageError: a position that this log does not have.
        InvalidCursorError: a cursor about another application.
    """
    if application_name is not None:
        require_application(connection, application_name)
    end = event_log.last_position(connection)
    if cursor is not None:
        if cursor.application_name != (application_name or ""):
            raise InvalidCursorError(
                "This cursor is about another application, or about all.",
                hint="Pass the application_name of the answer that it is from.",
            )
        after, most = cursor.after, min(max(0, cursor.until - cursor.after), MOST_EVENTS)
    if after is None:
        after = 0 if since is None else event_log.position_before(connection, since)
    if not 0 <= after <= end:
        raise UsageError(
            f"The log has no position {after}: it ends at {end}.",
            hint="Pass the position of an answer of this mirror, or since.",
        )
    until = min(end, after + most)
    found: dict[tuple[str, str], WorkflowChange] = {}
    others: dict[tuple[str, str, str], OtherChange] = {}
    commands: dict[str, dict[str, str]] = {}
    events, began = 0, None
    for brief in event_log.read_briefly(connection, after, until, application_name):
        events += 1
        began = brief.recorded_at if began is None else began
        if brief.workflow_id is not None:
            key = (brief.application_name, brief.workflow_id)
            if key not in found:
                found[key] = WorkflowChange(*key)
            _count(found[key], brief)
        elif brief.kind in _COMMANDS:
            _count_command(commands.setdefault(brief.application_name, {}), brief)
        else:
            other = _other(brief)
            others[other.kind, other.application_name, other.name] = other
    _look_before(connection, found.values(), after)
    outcomes = {key: change.outcome for key, change in found.items()}
    news = [change for key, change in found.items() if outcomes[key] != STEPS_READ]
    news.sort(key=_place)
    before = bisect_right(news, (cursor.outcome, -cursor.position), key=_place) if cursor else 0
    shown = news[before : before + MOST_SHOWN]
    _name(connection, shown)
    return Changes(
        after=after,
        until=until,
        remaining=end - until,
        events=events,
        since=began,
        outcomes=Counter(outcomes[c.application_name, c.workflow_id] for c in news),
        first_seen=sum(change.first_seen for change in found.values()),
        steps_read=len(found) - len(news),
        workflows=shown,
        left=Counter(change.outcome for change in news[before:]),
        others=[
            *others.values(),
            *(
                OtherChange("our command", name, told, None)
                for name, of_it in commands.items()
                for told in of_it.values()
            ),
        ],
    )


def cursor_behind(
    found: Changes, change: WorkflowChange, application_name: str | None, since: int | None
) -> ChangesCursor:
    """To go on behind one of its workflows."""
    outcome, position = _place(change)
    name = application_name or ""
    return ChangesCursor(found.after, found.until, since or 0, name, outcome, -position)


def _place(change: WorkflowChange) -> tuple[int, int]:
    """In the order in which they are shown."""
    return OUTCOMES.index(change.outcome), -change.position


def _count(change: WorkflowChange, brief: Brief) -> None:
    change.events += 1
    change.position, change.recorded_at = brief.position, brief.recorded_at
    if brief.kind in _STATES:
        change.states += 1
        change.status, change.deleted = brief.status, False
    elif brief.kind == WorkflowDeleted.__name__:
        change.deleted = True
    elif brief.kind in _COMMANDS:
        _count_command(change.commands, brief)


def _count_command(commands: dict[str, str], brief: Brief) -> None:
    """One that was asked for before has no name here."""
    command_id = brief.command_id or ""
    asked = commands.get(command_id, "command").split()[0]
    commands[command_id] = (
        f"{brief.command} asked for" if brief.command else f"{asked} {brief.outcome}"
    )


def _other(brief: Brief) -> OtherChange:
    names = {
        ApplicationObserved.__name__: ("application", brief.application_name),
        ExecutorObserved.__name__: ("executor", brief.executor_id or ""),
    }
    kind, name = names.get(brief.kind, (brief.kind, ""))
    return OtherChange(kind, brief.application_name, name, brief.status)


def _look_before(connection: Connection, changes: Iterable[WorkflowChange], after: int) -> None:
    """Find what each workflow was at `after`: one that was not there then was first seen since."""
    by_application = sorted(changes, key=lambda change: change.application_name)
    for application_name, group in groupby(by_application, lambda change: change.application_name):
        of_it = {change.workflow_id: change for change in group}
        ids = list(of_it)
        for start in range(0, len(ids), _AT_ONCE):
            chunk = ids[start : start + _AT_ONCE]
            there = event_log.statuses_at(connection, application_name, chunk, after)
            for workflow_id in chunk:
                change = of_it[workflow_id]
                change.first_seen = bool(change.states) and workflow_id not in there
                change.before = there.get(workflow_id)


def _name(connection: Connection, changes: Sequence[WorkflowChange]) -> None:
    """Names, and the errors of those that still are what they came to."""
    for change in changes:
        row = connection.execute(
            select(
                col(WorkflowRow.workflow_name), col(WorkflowRow.status), col(WorkflowRow.error)
            ).where(
                col(WorkflowRow.application_name) == change.application_name,
                col(WorkflowRow.workflow_id) == change.workflow_id,
            )
        ).first()
        if row is not None:
            change.workflow_name = row.workflow_name
            change.error = row.error if row.status == (change.status or change.before) else None
