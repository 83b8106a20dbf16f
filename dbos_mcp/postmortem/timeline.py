"""When a tree of workflows did what: a lane for each workflow and for each step, the children under
the step that started them. What upstream says of times may be late, missing, or in no order; here
no span ends before it starts, and none lies outside the axis."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from typing import Literal

from sqlalchemy import Connection, func, select
from sqlmodel import col

from dbos_mcp.domain import FAILED, IN_FLIGHT, WAITING, WorkflowStatus, one_line
from dbos_mcp.postmortem.case import MOST_STEPS, Traced, by_id, seen_at_of, trace, traced_of
from dbos_mcp.postmortem.waits import GET_RESULT, RECEIVE, wait_of
from dbos_mcp.postmortem.words import at, many, name, some
from dbos_mcp.queries import workflow as workflow_queries
from dbos_mcp.queries.steps import SLEEP, StepItem
from dbos_mcp.queries.workflow import WorkflowDetail
from dbos_mcp.queries.workflows import ITEM_COLUMNS, WorkflowItem, item_of
from dbos_mcp.store import event_log, sync_state
from dbos_mcp.store.events import WorkflowState
from dbos_mcp.store.projections.steps import StepRow
from dbos_mcp.store.projections.workflows import WorkflowRow

MOST_LANES = 300
MOST_WORKFLOWS = 150
"""Whose steps and children are read."""
MOST_ALIKE, SHOWN_ALIKE = 6, 3
"""So many steps or children of one name that went well are shown by themselves; of more, a few, and
the others in one lane."""
MOST_PIECES = 60
"""Of such a lane."""
MOST_CHILDREN = 500
"""Of one level, the failed ones first."""
NOTE_CHARACTERS = 160
GET_EVENT = "DBOS.getEvent"
_WAITS: Mapping[str, str] = {
    RECEIVE: "waits for a message",
    GET_EVENT: "waits for an event",
    GET_RESULT: "waits for a result",
}

Kind = Literal["delayed", "queued", "attempt", "run", "step", "sleep", "wait"]
"""An attempt is a run that ended when the workflow was recovered."""

IDLE: frozenset[Kind] = frozenset({"delayed", "queued", "sleep", "wait"})
"""While nothing else lasts, nothing happens."""


@dataclass(frozen=True)
class Span:
    kind: Kind
    start: int
    end: int | None
    """None: it still lasts."""
    says: str = ""
    """What it waits for, and the like."""


@dataclass(frozen=True)
class Lane:
    depth: int
    workflow: WorkflowItem
    """The one that it shows, or whose step it shows."""
    step: StepItem | None
    """Of a workflow's lane: None."""
    spans: Sequence[Span]
    """In order."""
    failed: bool = False
    origin: bool = False
    """Here the failure began."""
    note: str = ""
    """The first line of its error, or what is to be known of it."""
    step_id: int | None = None
    """Of the step, or of the step of its parent that started the workflow."""
    asked: bool = False
    """The workflow that the timeline is of."""
    alike: int = 0
    """So many that went well are drawn as this one, which is of the first of them."""

    @property
    def label(self) -> str:
        times = f"{self.alike} × " if self.alike else ""  # noqa: RUF001 # the sign is meant
        if self.step is not None:
            return times + name(self.step.step_name)
        return times + name(self.workflow.workflow_name or self.workflow.workflow_id)

    @property
    def state(self) -> str:
        """In a word: of a workflow its status."""
        if self.step is None:
            return self.workflow.status
        if self.failed:
            return "failed"
        return "lasts" if any(span.end is None for span in self.spans) else "done"


@dataclass(frozen=True)
class LeftOut:
    """Not shown, for want of space."""

    workflows: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Timeline:
    application_name: str
    asked: str
    """The workflow's id."""
    lanes: Sequence[Lane]
    """The root first, each workflow followed by its steps and children."""
    start: int
    end: int
    now: int
    """By our clock; what lasts is known to have lasted until `seen_at`."""
    seen_at: int
    left_out: LeftOut = LeftOut()
    unread: Sequence[str] = ()
    """Ids of workflows whose steps were never read, so that their lanes may lack some."""
    relatives: Sequence[str] = ()
    """Lines on what it was forked from, on its forks, and on parents that are not shown."""

    def end_of(self, span: Span) -> int:
        """Where to draw the end of a span, also of one that lasts."""
        return max(span.start, self.seen_at) if span.end is None else span.end


@dataclass
class _Node:
    traced: Traced
    depth: int
    children: "dict[str, _Node]" = field(default_factory=dict)
    is_leaf: bool = False
    """There was no space to look below it."""

    @property
    def workflow(self) -> WorkflowItem:
        return self.traced.workflow


def read_timeline(
    connection: Connection,
    application_name: str,
    workflow_id: str,
    *,
    now: int,
    most: int = MOST_LANES,
) -> Timeline:
    """
    Raises:
        NotFoundError: the mirror has never seen it.
    """
    detail = workflow_queries.get_workflow(connection, application_name, workflow_id)
    seen_at = seen_at_of(sync_state.load(connection, application_name).succeeded_at, now)
    chain, _ = trace(connection, application_name, detail.workflow, seen_at)
    tree = _Tree(connection, application_name, chain, most=min(most, MOST_WORKFLOWS))
    top = tree.grow(detail.workflow, detail.ancestors.items)
    starts = {
        each.workflow.workflow_id: _starts(connection, application_name, each.workflow.workflow_id)
        for each in chain
    }
    drawing = _Drawing(chain, seen_at, starts)
    ranked = [
        (0, drawing.lane_of(parent, depth)) for depth, parent in enumerate(detail.ancestors.items)
    ]
    ranked += drawing.lanes(top, None, asked=True)
    lanes, steps_left_out = _best(ranked, most)
    shown = {lane.workflow.key for lane in lanes if lane.step is None}
    workflows_left_out = sum(
        max(1, lane.alike)
        for _, lane in ranked
        if lane.step is None and lane.workflow.key not in shown
    )
    start, end = _axis(lanes, seen_at)
    return Timeline(
        application_name=application_name,
        asked=workflow_id,
        lanes=lanes,
        start=start,
        end=end,
        now=now,
        seen_at=seen_at,
        left_out=LeftOut(
            tree.workflows_left_out + workflows_left_out, tree.steps_left_out + steps_left_out
        ),
        unread=tree.unread,
        relatives=list(_relatives(detail)),
    )


class _Tree:
    """Read level by level, so that what is nearest is there when there is no more space; but first
    of all what leads to the cause."""

    def __init__(
        self,
        connection: Connection,
        application_name: str,
        chain: Sequence[Traced],
        *,
        most: int,
    ) -> None:
        self._connection = connection
        self._application_name = application_name
        self._most = most
        self._chain = {each.workflow.workflow_id for each in chain}
        self._chained: dict[str, list[WorkflowItem]] = {}
        for parent, child in pairwise(chain):
            self._chained.setdefault(parent.workflow.workflow_id, []).append(child.workflow)
        self.workflows_left_out = 0
        self.steps_left_out = 0
        self.unread: list[str] = []

    def grow(self, workflow: WorkflowItem, ancestors: Sequence[WorkflowItem]) -> _Node:
        (top,) = level = self._nodes([workflow], len(ancestors))
        placed = {workflow.workflow_id, *(each.workflow_id for each in ancestors)}
        space = self._most - 1
        while level:
            found: dict[str, tuple[_Node, WorkflowItem]] = {}
            for node, child in self._children(level):
                if child.workflow_id not in placed:
                    found.setdefault(child.workflow_id, (node, child))
            placed.update(found)
            by_rank = sorted(found.values(), key=lambda pair: self._rank(pair[1]))
            looked_into = by_rank[: max(space, sum(c in self._chain for c in found))]
            space -= len(looked_into)
            level = self._nodes([child for _, child in looked_into], level[0].depth + 1)
            nodes = {node.workflow.workflow_id: node for node in level}
            for node, child in found.values():
                leaf = _Node(Traced(child, (), None), node.depth + 1, is_leaf=True)
                node.children[child.workflow_id] = nodes.get(child.workflow_id, leaf)
        return top

    def _rank(self, workflow: WorkflowItem) -> int:
        return -1 if workflow.workflow_id in self._chain else _rank(workflow.status)

    def _nodes(self, workflows: Sequence[WorkflowItem], depth: int) -> list[_Node]:
        traced = traced_of(self._connection, workflows)
        nodes = [_Node(traced[each.key], depth) for each in workflows]
        for node in nodes:
            if node.traced.read_at is None and _has_run(node.workflow):
                self.unread.append(node.workflow.workflow_id)
            if len(node.traced.steps) == MOST_STEPS:
                self.steps_left_out += self._count_of_steps(node.workflow) - MOST_STEPS
        return nodes

    def _children(self, level: Sequence[_Node]) -> list[tuple[_Node, WorkflowItem]]:
        """Those that the steps of these name, and those that name them."""
        by_parent = {node.workflow.workflow_id: node for node in level}
        found = [
            (by_parent[parent], child)
            for parent, children in self._chained.items()
            for child in children
            if parent in by_parent
        ]
        named = {
            step.child_workflow_id: node
            for node in reversed(level)
            for step in node.traced.steps
            if step.child_workflow_id is not None and step.step_name != GET_RESULT
        }
        ids = list(islice(named, MOST_CHILDREN))
        by_name = by_id(self._connection, self._application_name, ids)
        found += [(named[workflow_id], child) for workflow_id, child in by_name.items()]
        here = (
            col(WorkflowRow.application_name) == self._application_name,
            col(WorkflowRow.parent_workflow_id).in_(by_parent),
        )
        for more in ((col(WorkflowRow.status).in_(FAILED),), ()):
            rows = self._connection.execute(
                select(*ITEM_COLUMNS)
                .where(*here, *more)
                .order_by(col(WorkflowRow.created_at), col(WorkflowRow.id))
                .limit(MOST_CHILDREN)
            ).all()
            children = [item_of(row) for row in rows]
            found += [(by_parent[child.parent_workflow_id or ""], child) for child in children]
        if len(rows) == MOST_CHILDREN:
            total = self._connection.execute(
                select(func.count()).select_from(WorkflowRow).where(*here)
            ).scalar_one()
            read = {c.workflow_id for _, c in found if c.parent_workflow_id in by_parent}
            self.workflows_left_out += max(0, total - len(read))
        return sorted(found, key=lambda pair: (pair[1].created_at, pair[1].key))

    def _count_of_steps(self, workflow: WorkflowItem) -> int:
        return self._connection.execute(
            select(func.count())
            .select_from(StepRow)
            .where(col(StepRow.workflow_key) == workflow.key)
        ).scalar_one()


class _Drawing:
    """From what was read to lanes, each with a rank: the lower, the more it matters."""

    def __init__(
        self,
        chain: Sequence[Traced],
        seen_at: int,
        starts: Mapping[str, "Sequence[_Start]"],
    ) -> None:
        self._seen_at = seen_at
        self._starts = starts
        self._chain = {each.workflow.workflow_id for each in chain}
        last = chain[-1]
        self._origin: tuple[int, int | None] | None = None
        if last.link is not None:
            step = last.link.step
            self._origin = (last.workflow.key, None if step is None else step.step_id)

    def lanes(
        self, node: _Node, started_by: StepItem | None, *, asked: bool = False
    ) -> list[tuple[int, Lane]]:
        workflow = node.workflow
        blocks: list[list[tuple[int, Lane]]] = []
        steps = node.traced.steps
        shown: set[str] = set()
        for place, step in enumerate(steps):
            child = node.children.get(step.child_workflow_id or "")
            if child is not None:
                # Its result is awaited in a row of its own, which says nothing more.
                if child.workflow.workflow_id not in shown:
                    shown.add(child.workflow.workflow_id)
                    blocks.append(self.lanes(child, step))
            elif not _belongs_to_the_one_before(steps, place):
                blocks.append([self._step(node, step, important=asked)])
        for child_id, child in node.children.items():
            if child_id not in shown:
                blocks.append(self.lanes(child, None))
        below = _folded(blocks)
        under_way = self._under_way(node)
        if under_way is not None:
            below.append((1, under_way))
        rank = 0 if workflow.workflow_id in self._chain else 2 + _rank(workflow.status)
        lane = self.lane_of(workflow, node.depth, steps, started_by, asked=asked)
        if node.is_leaf:
            lane = replace(lane, note="; ".join(filter(None, (lane.note, "steps not shown"))))
        return [(min([rank, *(each for each, _ in below if each < 5)]), lane), *below]

    def lane_of(
        self,
        workflow: WorkflowItem,
        depth: int,
        steps: Sequence[StepItem] = (),
        started_by: StepItem | None = None,
        *,
        asked: bool = False,
    ) -> Lane:
        launched_at = None if started_by is None else started_by.started_at
        return Lane(
            depth,
            workflow,
            step=None,
            spans=self._spans_of(_in_milliseconds(workflow, steps, launched_at)),
            failed=workflow.status in FAILED,
            origin=self._origin == (workflow.key, None),
            note=_note(workflow),
            step_id=None if started_by is None else started_by.step_id,
            asked=asked,
        )

    def _spans_of(self, workflow: WorkflowItem) -> list[Span]:
        """Of a workflow: what it went through until it ended."""
        created, ended = workflow.created_at, _end_of(workflow)
        if not _has_run(workflow):
            delayed = workflow.status == WorkflowStatus.DELAYED
            until = f"until {at(workflow.delay_until)}" if workflow.delay_until is not None else ""
            kind: Kind = "delayed" if delayed else "queued"
            return [_span(kind, created, ended, until if delayed else _queue(workflow))]
        begun = created if workflow.dequeued_at is None else max(created, workflow.dequeued_at)
        starts = self._starts.get(workflow.workflow_id, ())
        if starts:
            begun = min(max(created, starts[0].at), begun)
        spans = []
        if workflow.delay_until is not None and created < workflow.delay_until:
            spans.append(_span("delayed", created, min(workflow.delay_until, begun)))
        if created < begun:
            spans.append(_span("queued", created, begun, _queue(workflow)))
        for this, following in pairwise(starts):
            over = following.at if this.over is None else min(this.over, following.at)
            spans.append(_span("attempt", this.at, over, this.where))
            begun = following.at
        where = f"executor {name(workflow.executor_id)}" if workflow.executor_id else ""
        return _one_after_another([*spans, _span("run", begun, ended, where)])

    def _step(self, node: _Node, step: StepItem, *, important: bool) -> tuple[int, Lane]:
        workflow = node.workflow
        origin = self._origin == (workflow.key, step.step_id)
        failed = step.error is not None
        kind, says = _kind_of(step)
        start, end = step.started_at, step.completed_at
        notes = []
        if start is None:
            start = end
        if end is None:
            end = start
        if start is None or end is None:
            spans = []
            notes.append("its times are not known")
        else:
            ended = _end_of(workflow)
            if kind == "sleep" and ended is not None:
                end = min(end, ended)
            lasts = kind == "sleep" and end > self._seen_at
            if lasts:
                notes.append(f"until {at(step.completed_at)}")
            spans = [_span(kind, start, None if lasts else end, says)]
        if failed:
            notes.insert(0, _first_line(step.error))
        elif step.child_workflow_id is not None:
            what = "awaits" if step.step_name == GET_RESULT else "started"
            notes.append(f"{what} {name(step.child_workflow_id)}, which is not shown")
        in_chain = workflow.workflow_id in self._chain
        rank = 0 if origin else 1 if failed and in_chain else 5 if important or in_chain else 6
        lane = Lane(
            node.depth + 1,
            workflow,
            step,
            spans,
            failed=failed,
            origin=origin,
            note="; ".join(notes),
            step_id=step.step_id,
        )
        return rank, lane

    def _under_way(self, node: _Node) -> Lane | None:
        """Of one in flight, what has no row yet."""
        workflow, steps = node.workflow, node.traced.steps
        if workflow.status != WorkflowStatus.PENDING or node.traced.read_at is None:
            return None
        wait = wait_of(workflow, steps, self._seen_at)
        kind: Kind
        match wait.kind:
            case "message":
                kind, label = "wait", f"{RECEIVE} or {GET_EVENT}"
                says = "waits for a message or an event"
            case "work":
                kind, label = "step", "(under way)"
                says = "a step whose row is written at its end, or code outside of any step"
            case _:
                return None
        until = f", until {at(wait.until)}" if wait.until is not None else ""
        step_id = wait.step_id or 1
        return Lane(
            node.depth + 1,
            workflow,
            StepItem(step_id=step_id, step_name=label, started_at=wait.since),
            [Span(kind, wait.since, None)],
            note=says + until,
            step_id=step_id,
        )


def _folded(blocks: Sequence[list[tuple[int, Lane]]]) -> list[tuple[int, Lane]]:
    """The lanes below a workflow, a block for each step or child; many that went well and have the
    same name become one lane."""
    alike: dict[tuple[bool, str], list[int]] = {}
    for place, block in enumerate(blocks):
        if all(_went_well(lane) for _, lane in block):
            lane = block[0][1]
            alike.setdefault((lane.step is None, lane.label), []).append(place)
    found = dict(enumerate(blocks))
    for places in alike.values():
        if len(places) > MOST_ALIKE:
            hidden = places[SHOWN_ALIKE:]
            rank = min(found[place][0][0] for place in hidden)
            one = _as_one([found[place][0][1] for place in hidden])
            for place in hidden:
                del found[place]
            found[hidden[0]] = [(rank, one)]
    return [ranked for place in sorted(found) for ranked in found[place]]


def _went_well(lane: Lane) -> bool:
    if lane.alike:
        return True
    if lane.failed or lane.origin or lane.asked or not lane.spans:
        return False
    if lane.step is None and lane.workflow.status != WorkflowStatus.SUCCESS:
        return False
    return all(span.end is not None for span in lane.spans)


def _as_one(lanes: Sequence[Lane]) -> Lane:
    first = lanes[0]
    kind = first.spans[-1].kind
    pieces: list[Span] = []
    for start, end in sorted((lane.spans[0].start, lane.spans[-1].end or 0) for lane in lanes):
        last = pieces[-1] if pieces else None
        if last is not None and start <= (last.end or 0):
            pieces[-1] = _span(kind, last.start, max(end, last.end or 0))
        else:
            pieces.append(_span(kind, start, end))
    if len(pieces) > MOST_PIECES:
        pieces = [_span(kind, pieces[0].start, pieces[-1].end)]
    also = "" if first.step is not None else ", steps not shown"
    return replace(first, spans=pieces, alike=len(lanes), note=f"went well{also}")


def _best(ranked: Sequence[tuple[int, Lane]], most: int) -> tuple[list[Lane], int]:
    """Those that matter most, in their order, and how many steps were dropped."""
    places = sorted(range(len(ranked)), key=lambda place: (ranked[place][0], place))
    kept = set(places[:most])
    lanes = [lane for place, (_, lane) in enumerate(ranked) if place in kept]
    dropped = (lane for place, (_, lane) in enumerate(ranked) if place not in kept)
    return lanes, sum(max(1, lane.alike) for lane in dropped if lane.step is not None)


def _axis(lanes: Sequence[Lane], seen_at: int) -> tuple[int, int]:
    moments = [
        moment
        for lane in lanes
        for span in lane.spans
        for moment in (span.start, max(span.start, seen_at) if span.end is None else span.end)
    ]
    return min(moments), max(moments)


def _span(kind: Kind, start: int, end: int | None, says: str = "") -> Span:
    """Clocks differ: what ends before it starts took no time."""
    return Span(kind, start, None if end is None else max(start, end), says)


def _in_milliseconds(
    workflow: WorkflowItem, steps: Sequence[StepItem], launched_at: int | None
) -> WorkflowItem:
    """Some upstreams stamp workflows in whole seconds, and steps in milliseconds: what those say of
    the same second is nearer."""

    def nearer(moment: int | None, other: int | None) -> int | None:
        if moment is None or other is None or moment % 1000:
            return moment
        return other if 0 <= other - moment < 1000 else moment

    begun = min((step.started_at for step in steps if step.started_at is not None), default=None)
    ended = max(
        (
            step.completed_at
            for step in steps
            if step.completed_at is not None and step.step_name != SLEEP
        ),
        default=None,
    )
    created = launched_at
    if created is None and workflow.dequeued_at is None:
        created = begun
    return workflow.model_copy(
        update={
            "created_at": nearer(workflow.created_at, created),
            "dequeued_at": nearer(workflow.dequeued_at, begun),
            "updated_at": nearer(workflow.updated_at, ended),
            "completed_at": nearer(workflow.completed_at, ended),
        }
    )


def _one_after_another(spans: Sequence[Span]) -> list[Span]:
    """What a workflow goes through does not overlap, whatever the clocks say."""
    found: list[Span] = []
    for span in spans:
        before = found[-1].end if found else None
        begun = span.start if before is None else max(span.start, before)
        found.append(_span(span.kind, begun, span.end, span.says))
    long = [span for span in found if span.kind == "run" or span.start != span.end]
    return long or found


def _has_run(workflow: WorkflowItem) -> bool:
    if workflow.status in WAITING:
        return False
    if workflow.status == WorkflowStatus.CANCELLED:
        return workflow.dequeued_at is not None or workflow.executor_id is not None
    return True


def _end_of(workflow: WorkflowItem) -> int | None:
    if workflow.status in IN_FLIGHT:
        return workflow.deleted_at
    return workflow.updated_at if workflow.completed_at is None else workflow.completed_at


def _note(workflow: WorkflowItem) -> str:
    notes = [_first_line(workflow.error)] if workflow.error else []
    if workflow.deleted_at is not None:
        notes.append("gone upstream")
    return "; ".join(notes)


def _queue(workflow: WorkflowItem) -> str:
    return f"queue {name(workflow.queue_name)}" if workflow.queue_name else ""


def _kind_of(step: StepItem) -> tuple[Kind, str]:
    if step.step_name == SLEEP:
        return "sleep", ""
    if step.step_name in _WAITS:
        return "wait", _WAITS[step.step_name]
    return "step", ""


def _belongs_to_the_one_before(steps: Sequence[StepItem], place: int) -> bool:
    """A wait for a message or an event writes a sleep behind its own row."""
    step = steps[place]
    if step.step_name != SLEEP:
        return False
    if place == 0:
        return step.step_id > 1
    before = steps[place - 1]
    if before.step_id == step.step_id - 1:
        return before.step_name in (RECEIVE, GET_EVENT)
    return True


def _rank(status: str) -> int:
    if status in FAILED:
        return 0
    return 2 if status == WorkflowStatus.SUCCESS else 1


def _first_line(error: str | None) -> str:
    lines = (line for line in (error or "").splitlines() if line.strip())
    return one_line(next(lines, ""), NOTE_CHARACTERS) or "failed without an error text"


@dataclass(frozen=True)
class _Start:
    """Of a run, as history saw it."""

    at: int
    where: str
    over: int | None = None
    """When it had come to an end, so that somebody began it again."""


def _starts(connection: Connection, application_name: str, workflow_id: str) -> Sequence[_Start]:
    """By what the log saw of it; empty if there was only one."""
    starts: list[_Start] = []
    before: WorkflowState | None = None
    for _, _, state in event_log.read_workflow(connection, application_name, workflow_id):
        if not isinstance(state, WorkflowState):
            continue
        if starts and before is not None and before.completed_at is not None:
            starts[-1] = replace(starts[-1], over=before.completed_at)
        if state.status not in WAITING:
            where = f"executor {name(state.executor_id)}" if state.executor_id else ""
            if not starts:
                begun = state.created_at if state.dequeued_at is None else state.dequeued_at
                starts.append(_Start(begun, where))
            elif before is not None and state.dequeued_at not in (None, before.dequeued_at):
                starts.append(_Start(state.dequeued_at or 0, where))
            elif before is not None and state.executor_id not in (None, before.executor_id):
                starts.append(_Start(state.updated_at, where))
            before = state
    return starts if len(starts) > 1 else ()


def _relatives(detail: WorkflowDetail) -> Iterator[str]:
    source = detail.workflow.forked_from
    if source is not None:
        status = "" if detail.source is None else f", which is {detail.source.status}"
        yield f"Forked from {name(source)}{status}."
    if detail.forks.total:
        each = [f"{fork.workflow_id} {fork.status}" for fork in detail.forks.items]
        yield f"Forked {many(detail.forks.total, 'time')}: {some(each, 3)}."
    if detail.ancestors.ends_with is not None:
        yield f"Parents: {name(detail.ancestors.ends_with)}."
