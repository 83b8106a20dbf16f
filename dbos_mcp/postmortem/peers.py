"""The runs of the same workflow around one: how many failed alike, what sets those apart, and what
is usual for the ones that went well."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, func, select
from sqlmodel import col

from dbos_mcp.domain import BROKEN_OFF, WorkflowStatus
from dbos_mcp.postmortem.causes import was_due
from dbos_mcp.postmortem.error_text import kind_of
from dbos_mcp.postmortem.failures import Feature, features_of, g_test, over_represented
from dbos_mcp.queries.steps import duration
from dbos_mcp.queries.workflows import WorkflowItem
from dbos_mcp.store.projections.steps import StepRow
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.sync_state import StepReadingRow

OLDER, NEWER = 300, 200
"""So many runs before and behind it are looked at: a few milliseconds."""
NEAREST = 20
"""So many of those that went well are compared step by step."""
FEWEST = 3
"""Fewer say nothing of what is usual."""
MOST_STEPS = 4_000
_ALIKE_KINDS = 30
_ERROR_CHARACTERS = 1_000
_DATA = re.compile(r"(?<!\w)\w*\d\w*|'[^']*'|\"[^\"]*\"")


class Peer(NamedTuple):
    key: int
    workflow_id: str
    status: str
    created_at: int
    updated_at: int
    dequeued_at: int | None
    completed_at: int | None
    deadline: int | None
    application_version: str | None
    executor_id: str | None
    queue_name: str | None
    schedule_name: str | None
    error: str | None

    @property
    def ended_at(self) -> int:
        return self.updated_at if self.completed_at is None else self.completed_at

    @property
    def timed_out(self) -> bool:
        cancelled = self.status == WorkflowStatus.CANCELLED
        return cancelled and was_due(self.deadline, self.ended_at)

    @property
    def wait_ms(self) -> int | None:
        return None if self.dequeued_at is None else max(0, self.dequeued_at - self.created_at)

    @property
    def duration_ms(self) -> int:
        began = self.created_at if self.dequeued_at is None else self.dequeued_at
        return max(0, self.ended_at - began)


class PeerStep(NamedTuple):
    key: int
    step_id: int
    step_name: str
    started_at: int | None
    completed_at: int | None
    failed: bool

    @property
    def duration_ms(self) -> int | None:
        return duration(self.started_at, self.completed_at)


@dataclass(frozen=True)
class Usual:
    """Of some measure in milliseconds."""

    runs: int
    median: float
    p95: float
    most: int

    @classmethod
    def of(cls, values: Sequence[int]) -> "Usual | None":
        if len(values) < FEWEST:
            return None
        ordered = sorted(values)
        p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
        return cls(len(ordered), median(ordered), p95, ordered[-1])


@dataclass(frozen=True)
class Peers:
    """Runs of one workflow by name, the oldest first, the one that they are the peers of left out
    of none but `succeeded`."""

    runs: Sequence[Peer]
    alike: Sequence[Peer]
    """Those that failed as it did, itself included; empty if it did not fail."""
    oldest_known: bool
    """There are none before the first of `runs`."""
    newest_known: bool
    steps: Mapping[int, Sequence[PeerStep]]
    """By the keys of the nearest that went well, where their steps were read."""
    unread: Sequence[str] = ()
    """The nearest that went well and whose steps were not read, by id, if there are not enough."""
    done_by_alike: Counter[str] = field(default_factory=Counter)
    """Steps that were completed in those that failed alike."""
    alike_read: int = 0
    """How many of them that is of."""

    @cached_property
    def succeeded(self) -> Sequence[Peer]:
        return [run for run in self.runs if run.status == WorkflowStatus.SUCCESS]

    @cached_property
    def features(self) -> list[Feature]:
        """What sets those that failed alike apart from those that went well, the surest first."""
        found: list[Feature] = []
        if len(self.alike) < FEWEST:
            return found
        for name in features_of(self.alike[0].status):
            failed = Counter(getattr(run, name) for run in self.alike)
            well = Counter(getattr(run, name) for run in self.succeeded)
            found += over_represented(name, failed, well)
        return sorted(found, key=lambda feature: -g_test(feature))

    def position(self, step_id: int) -> Counter[str]:
        """What the step of an id was in those that went well."""
        return Counter(
            step.step_name
            for steps in self.steps.values()
            for step in steps
            if step.step_id == step_id
        )

    def durations(self, step_name: str) -> Usual | None:
        return self._durations.get(step_name)

    @cached_property
    def _durations(self) -> Mapping[str, Usual | None]:
        found: defaultdict[str, list[int]] = defaultdict(list)
        for steps in self.steps.values():
            for step in steps:
                if step.duration_ms is not None:
                    found[step.step_name].append(step.duration_ms)
        return {step_name: Usual.of(lasted) for step_name, lasted in found.items()}

    @cached_property
    def total(self) -> Usual | None:
        return Usual.of([run.duration_ms for run in self.succeeded])

    @cached_property
    def queue_wait(self) -> Usual | None:
        waits = [run.wait_ms for run in self.succeeded]
        return Usual.of([wait for wait in waits if wait is not None])


def read_peers(connection: Connection, application_name: str, workflow: WorkflowItem) -> Peers:
    before = _runs(connection, application_name, workflow, newer=False)
    behind = _runs(connection, application_name, workflow, newer=True)
    runs = [*reversed(before), *behind]
    alike = _alike(workflow, runs)
    near = sorted(
        (run for run in runs if run.status == WorkflowStatus.SUCCESS and run.key != workflow.key),
        key=lambda run: abs(run.created_at - workflow.created_at),
    )[: 3 * NEAREST]
    read = _steps_read(connection, [run.key for run in near])
    chosen = [run.key for run in near if run.key in read][:NEAREST]
    done, of = _done(connection, [run.key for run in alike])
    return Peers(
        runs,
        alike,
        oldest_known=len(before) < OLDER,
        newest_known=len(behind) < NEWER,
        steps=_steps(connection, chosen),
        unread=[run.workflow_id for run in near if run.key not in read][: FEWEST + 2]
        if len(chosen) < FEWEST
        else [],
        done_by_alike=done,
        alike_read=of,
    )


_COLUMNS = [
    col(getattr(WorkflowRow, "id" if name == "key" else name))
    for name in Peer._fields
    if name != "error"
]


def _runs(
    connection: Connection, application_name: str, workflow: WorkflowItem, *, newer: bool
) -> list[Peer]:
    """Itself is among those behind."""
    created_at = col(WorkflowRow.created_at)
    side: ColumnElement[bool] = (
        created_at >= workflow.created_at if newer else created_at < workflow.created_at
    )
    if workflow.workflow_name is None:
        return []
    error = func.substr(col(WorkflowRow.error), 1, _ERROR_CHARACTERS)
    rows = connection.execute(
        select(*_COLUMNS, error)
        .where(
            col(WorkflowRow.application_name) == application_name,
            col(WorkflowRow.workflow_name) == workflow.workflow_name,
            side,
        )
        .order_by(created_at if newer else created_at.desc())
        .limit(NEWER if newer else OLDER)
    )
    found = [Peer._make(row) for row in rows.all()]
    if newer and all(run.key != workflow.key for run in found):
        # More than that many were created in one millisecond.
        found.insert(0, _peer_of(workflow))
    return found


def _peer_of(workflow: WorkflowItem) -> Peer:
    values: dict[str, Any] = {field: getattr(workflow, field) for field in Peer._fields}
    error = (workflow.error or "")[:_ERROR_CHARACTERS] or None
    values["error"] = error
    return Peer(**values)


def _alike(workflow: WorkflowItem, runs: Sequence[Peer]) -> list[Peer]:
    """Whose end and kind of error are the same. Telling kinds takes a third of a millisecond, so
    texts that differ in numbers and quoted words alone are one, and of the others a few are told
    apart."""
    kinds: dict[str, str] = {}

    def kind(error: str | None) -> str:
        if error is None:
            return ""
        crude = _DATA.sub("0", error)
        if crude not in kinds:
            kinds[crude] = kind_of(error) if len(kinds) < _ALIKE_KINDS else crude
        return kinds[crude]

    if workflow.status not in BROKEN_OFF:
        return []
    own = _peer_of(workflow)
    if own.error is None and own.status == WorkflowStatus.ERROR:
        return [run for run in runs if run.key == own.key]
    return [
        run
        for run in runs
        if (run.status, run.timed_out) == (own.status, own.timed_out)
        and kind(run.error) == kind(own.error)
    ]


def _steps_read(connection: Connection, keys: Sequence[int]) -> set[int]:
    if not keys:
        return set()
    reading = col(StepReadingRow.workflow_key)
    return set(connection.execute(select(reading).where(reading.in_(keys))).scalars())


def _steps(connection: Connection, keys: Sequence[int]) -> dict[int, list[PeerStep]]:
    found: defaultdict[int, list[PeerStep]] = defaultdict(list)
    rows = connection.execute(
        select(
            col(StepRow.workflow_key),
            col(StepRow.step_id),
            col(StepRow.step_name),
            col(StepRow.started_at),
            col(StepRow.completed_at),
            col(StepRow.error).is_not(None),
        )
        .where(col(StepRow.workflow_key).in_(keys))
        .order_by(col(StepRow.workflow_key), col(StepRow.step_id))
        .limit(MOST_STEPS)
    )
    for row in rows:
        found[row[0]].append(PeerStep(*row))
    return {key: found.get(key, []) for key in keys}


def _done(connection: Connection, keys: Sequence[int]) -> tuple[Counter[str], int]:
    """Of those whose steps were read, the newest."""
    read = sorted(_steps_read(connection, keys[-200:]))[-100:]
    rows = connection.execute(
        select(col(StepRow.step_name))
        .where(col(StepRow.workflow_key).in_(read), col(StepRow.error).is_(None))
        .limit(MOST_STEPS)
    ).scalars()
    return Counter(rows), len(read)
