"""All that findings look at, read once, by indexes and within bounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection, func, select
from sqlmodel import col

from dbos_mcp.domain import FAILED, IN_FLIGHT, WAITING, WorkflowStatus
from dbos_mcp.postmortem.causes import Link, find_causes
from dbos_mcp.postmortem.differences import Differences
from dbos_mcp.postmortem.peers import Peers, read_peers
from dbos_mcp.postmortem.queues import QueueLimits, QueueState, read_queue
from dbos_mcp.postmortem.waits import Wait, wait_of
from dbos_mcp.queries import applications, history
from dbos_mcp.queries import workflow as workflow_queries
from dbos_mcp.queries.applications import ExecutorItem
from dbos_mcp.queries.history import HistoryEntry
from dbos_mcp.queries.steps import StepItem
from dbos_mcp.queries.workflow import WorkflowDetail
from dbos_mcp.queries.workflows import ITEM_COLUMNS, WorkflowItem, item_of
from dbos_mcp.store import sync_state
from dbos_mcp.store.projections.steps import StepRow
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.sync_state import StepReadingRow
from dbos_mcp.store.tables import table_of

MOST_STEPS = 1_000
"""Of one workflow, the last."""
MOST_LEVELS = 12
MOST_FIRINGS = 60
MOST_ENDS = 300
MOST_CHILDREN = 100
MOST_HISTORY = 200
UP_TO_DATE_MS = 120_000
"""A mirror that looked so recently knows what is now."""
OUTPUT_CHARACTERS = 20_000


@dataclass(frozen=True)
class Traced:
    """A workflow of the chain."""

    workflow: WorkflowItem
    steps: Sequence[StepItem]
    """In the order of their ids; without outputs."""
    read_at: int | None
    """When they were read; None: never, so an empty list says nothing."""
    may_have_changed: bool = False
    link: Link | None = None
    """Of one that failed: the step, and why the chain goes on or ends here."""
    wait: Wait | None = None
    """Of one in flight, or of one whose time was over: what it waited for."""

    @property
    def failed_step(self) -> StepItem | None:
        step = self.link.step if self.link is not None else None
        if step is None:
            return None
        return next((each for each in self.steps if each.step_id == step.step_id), None)

    def before(self, step_id: int) -> Sequence[StepItem]:
        return [step for step in self.steps if step.step_id < step_id]


@dataclass(frozen=True)
class Message:
    """Sent to the workflow that waits for one."""

    topic: str | None
    created_at: int
    consumed: bool


@dataclass(frozen=True)
class ScheduleState:
    status: str
    cron: str
    last_fired_at: int | None


@dataclass(frozen=True)
class Told:
    """What only Conductor knows; None: it was not asked, or did not answer."""

    limits: QueueLimits | None = None
    queues_known: bool = False
    """Queues were listed: if `limits` is None all the same, nobody has defined this one there."""
    schedule: ScheduleState | None = None
    schedules_known: bool = False
    messages: Sequence[Message] | None = None
    wakes_at: int | None = None
    """Until when a wait for a message or an event lasts."""
    input: str | None = None
    """Of the workflow in which a failure began."""
    outputs: Mapping[int, str] = field(default_factory=dict)
    """Of its steps, by their ids."""
    refused: Sequence[str] = ()
    """What was asked for in vain, and why."""


@dataclass(frozen=True)
class Case:
    application_name: str
    now: int
    """By our clock; facts are as of `seen_at`."""
    seen_at: int
    private_mode: bool
    excerpt: bool
    """Most runs are not in it: that there are none says nothing."""
    detail: WorkflowDetail
    chain: Sequence[Traced]
    """From the workflow down to where its failure began, or to what it waits for in the end."""
    levels_left_out: int
    history: Sequence[HistoryEntry]
    """Of the last of the chain, the newest."""
    peers: Peers
    """Of the last of the chain."""
    executors: Sequence[ExecutorItem]
    queue: QueueState | None = None
    """Of the last of the chain, while it waits there."""
    source: Traced | None = None
    """What it was forked from."""
    tried: Traced | None = None
    """The newest fork of it that failed."""
    children: Mapping[str, WorkflowItem] = field(default_factory=dict)
    """Those that the last of the chain waits for, by id."""
    firings: Sequence[int] = ()
    """When its schedule started workflows, the newest first."""
    ends: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """When executors brought workflows to their end lately, the newest first."""
    stranded: Sequence[str] = ()
    """What else runs where the last of the chain does, by id."""
    kept_outputs: Mapping[int, str] = field(default_factory=dict)
    """Of the steps of the last of the chain, where the mirror keeps any."""
    told: Told = Told()
    differences: Differences | None = None

    @property
    def workflow(self) -> WorkflowItem:
        return self.detail.workflow

    @property
    def origin(self) -> Traced:
        return self.chain[-1]

    @property
    def in_flight(self) -> bool:
        return self.workflow.status in IN_FLIGHT


def read_case(connection: Connection, application_name: str, workflow_id: str, now: int) -> Case:
    """
    Raises:
        NotFoundError: the mirror has never seen it.
    """
    detail = workflow_queries.get_workflow(connection, application_name, workflow_id)
    sync = sync_state.load(connection, application_name)
    seen_at = seen_at_of(sync.succeeded_at, now)
    chain, left_out = trace(connection, application_name, detail.workflow, seen_at)
    last = chain[-1]
    focus = last.workflow
    queued = focus.status == WorkflowStatus.ENQUEUED and focus.queue_name is not None
    awaited = last.wait.children if last.wait is not None else ()
    tried = [fork for fork in detail.forks.items if fork.status in FAILED][-1:]
    entries = history.get_history(connection, application_name, focus.workflow_id)
    return Case(
        application_name=application_name,
        now=now,
        seen_at=seen_at,
        private_mode=applications.is_private(connection, application_name),
        excerpt=sync.excerpt_of is not None,
        detail=detail,
        chain=chain,
        levels_left_out=left_out,
        history=entries[-MOST_HISTORY:],
        peers=read_peers(connection, application_name, focus),
        executors=applications.list_executors(connection, application_name),
        queue=read_queue(connection, application_name, focus) if queued else None,
        source=None
        if detail.source is None
        else traced_of(connection, [detail.source])[detail.source.key],
        tried=next(iter(traced_of(connection, tried).values()), None),
        children=by_id(connection, application_name, awaited[:MOST_CHILDREN]),
        firings=_firings(connection, application_name, detail.workflow.schedule_name),
        ends=_ends(connection, application_name) if focus.status in IN_FLIGHT else {},
        stranded=_stranded(connection, application_name, focus),
        kept_outputs=_outputs(connection, last) if focus.status in FAILED else {},
    )


def seen_at_of(succeeded_at: int | None, now: int) -> int:
    """As of when facts are, by the end of the last look."""
    if succeeded_at is None or now - succeeded_at < UP_TO_DATE_MS:
        return now
    return succeeded_at


def unread(connection: Connection, application_name: str, workflow_id: str, now: int) -> list[str]:
    """The workflows of the chain whose steps are not known, or may have changed, by their ids.

    Raises:
        NotFoundError: the mirror has never seen it.
    """
    workflow = workflow_queries.get_item(connection, application_name, workflow_id)
    chain, _ = trace(connection, application_name, workflow, now)
    return [each.workflow.workflow_id for each in chain if each.may_have_changed]


def trace(
    connection: Connection, application_name: str, workflow: WorkflowItem, now: int
) -> tuple[list[Traced], int]:
    """The chain, and how many levels in its middle are left out."""
    chain: list[Traced] = []
    left_out = 0
    causes = find_causes(connection, application_name, [workflow.key])
    if workflow.key in causes.links:
        links = causes.chain(workflow.key)
        if len(links) > MOST_LEVELS:
            left_out = len(links) - MOST_LEVELS
            links = links[: MOST_LEVELS // 2] + links[-MOST_LEVELS // 2 :]
        items = _by_key(connection, [link.workflow.key for link in links])
        traced = traced_of(connection, [items[link.workflow.key] for link in links])
        chain = [replace(traced[link.workflow.key], link=link) for link in links]
        if links[-1].end != "timed out":
            return chain, left_out
        # What it was at when its time was over.
        last = chain.pop()
        item = last.workflow
        wait = wait_of(_running(item), last.steps, item.completed_at or item.updated_at)
        chain.append(replace(last, wait=wait))
    else:
        chain.append(_waiting(traced_of(connection, [workflow])[workflow.key], now))
    seen = {each.workflow.workflow_id for each in chain}
    while len(chain) < MOST_LEVELS:
        open_ = chain[-1].wait
        if open_ is None or open_.kind != "children":
            break
        below = by_id(connection, application_name, open_.children[:MOST_CHILDREN])
        child = _awaited(chain[-1], [below[i] for i in open_.children if i in below])
        if child is None or child.workflow_id in seen:
            break
        seen.add(child.workflow_id)
        traced_child = traced_of(connection, [child])[child.key]
        if child.status == WorkflowStatus.CANCELLED:
            at = child.completed_at or child.updated_at
            was = wait_of(_running(child), traced_child.steps, at)
            chain.append(replace(traced_child, wait=was))
        else:
            chain.append(_waiting(traced_child, now))
    return chain, left_out


def _awaited(parent: Traced, children: Sequence[WorkflowItem]) -> WorkflowItem | None:
    """The first that has not ended; of a parent whose time was over, the first that was ended so
    with it."""
    for child in children:
        if child.status in IN_FLIGHT:
            return child
        if parent.workflow.status == child.status == WorkflowStatus.CANCELLED:
            return child
    return None


def _running(workflow: WorkflowItem) -> WorkflowItem:
    """As it was before its end: which takes it off its queue."""
    began = workflow.dequeued_at is not None or workflow.executor_id is not None
    status = WorkflowStatus.PENDING if began else WorkflowStatus.ENQUEUED
    return workflow.model_copy(update={"status": status})


def _waiting(traced: Traced, now: int) -> Traced:
    if traced.workflow.status not in IN_FLIGHT:
        return traced
    return replace(traced, wait=wait_of(traced.workflow, traced.steps, now))


def traced_of(connection: Connection, items: Sequence[WorkflowItem]) -> dict[int, Traced]:
    keys = [item.key for item in items]
    readings = {
        row.workflow_key: row
        for row in connection.execute(
            select(table_of(StepReadingRow)).where(col(StepReadingRow.workflow_key).in_(keys))
        )
    }
    found = {}
    for item in items:
        reading = readings.get(item.key)
        rows = connection.execute(
            select(
                col(StepRow.step_id),
                col(StepRow.step_name),
                col(StepRow.child_workflow_id),
                col(StepRow.started_at),
                col(StepRow.completed_at),
                col(StepRow.error),
            )
            .where(col(StepRow.workflow_key) == item.key)
            .order_by(col(StepRow.step_id).desc())
            .limit(MOST_STEPS)
        ).all()
        steps = [StepItem.model_validate(row, from_attributes=True) for row in reversed(rows)]
        changed = item.deleted_at is None and (
            reading is None
            or item.status == WorkflowStatus.PENDING
            or reading.workflow_status != item.status
            or reading.workflow_updated_at != item.updated_at
        )
        # Nothing has run yet.
        waits = item.status in WAITING
        read_at = None if reading is None else reading.read_at
        found[item.key] = Traced(item, steps, read_at, changed and not waits)
    return found


def _by_key(connection: Connection, keys: Sequence[int]) -> dict[int, WorkflowItem]:
    rows = connection.execute(select(*ITEM_COLUMNS).where(col(WorkflowRow.id).in_(keys)))
    return {row.id: item_of(row) for row in rows}


def by_id(
    connection: Connection, application_name: str, ids: Sequence[str]
) -> dict[str, WorkflowItem]:
    if not ids:
        return {}
    rows = connection.execute(
        select(*ITEM_COLUMNS).where(
            col(WorkflowRow.application_name) == application_name,
            col(WorkflowRow.workflow_id).in_(ids),
        )
    )
    return {row.workflow_id: item_of(row) for row in rows}


def _firings(connection: Connection, application_name: str, schedule: str | None) -> list[int]:
    if schedule is None:
        return []
    return list(
        connection.execute(
            select(col(WorkflowRow.created_at))
            .where(
                col(WorkflowRow.application_name) == application_name,
                col(WorkflowRow.schedule_name) == schedule,
            )
            .order_by(col(WorkflowRow.created_at).desc())
            .limit(MOST_FIRINGS)
        ).scalars()
    )


def _ends(connection: Connection, application_name: str) -> dict[str, list[int]]:
    """Without a list of executors, only what they did shows that they live."""
    found: dict[str, list[int]] = {}
    for executor, at in connection.execute(
        select(col(WorkflowRow.executor_id), col(WorkflowRow.completed_at))
        .where(
            col(WorkflowRow.application_name) == application_name,
            col(WorkflowRow.completed_at).is_not(None),
        )
        .order_by(col(WorkflowRow.completed_at).desc())
        .limit(MOST_ENDS)
    ):
        if executor is not None and at is not None:
            found.setdefault(executor, []).append(at)
    return found


def _stranded(connection: Connection, application_name: str, workflow: WorkflowItem) -> list[str]:
    if workflow.status != WorkflowStatus.PENDING or workflow.executor_id is None:
        return []
    rows = connection.execute(
        select(col(WorkflowRow.workflow_id), col(WorkflowRow.executor_id))
        .where(
            col(WorkflowRow.application_name) == application_name,
            col(WorkflowRow.status) == WorkflowStatus.PENDING,
            col(WorkflowRow.deleted_at).is_(None),
        )
        .order_by(col(WorkflowRow.created_at))
        .limit(MOST_STEPS)
    )
    return [
        workflow_id
        for workflow_id, executor in rows
        if executor == workflow.executor_id and workflow_id != workflow.workflow_id
    ]


def _outputs(connection: Connection, traced: Traced) -> dict[int, str]:
    rows = connection.execute(
        select(col(StepRow.step_id), func.substr(col(StepRow.output), 1, OUTPUT_CHARACTERS))
        .where(
            col(StepRow.workflow_key) == traced.workflow.key,
            col(StepRow.output).is_not(None),
        )
        .limit(100)
    )
    return {row[0]: row[1] for row in rows}
