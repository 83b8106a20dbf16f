"""What a workflow that has not ended waits for, as its row and its steps tell it.

Measured with the Python SDK 3.4: a sleep's row is written at its start and ends in the future. A
`recv` or `get_event` under way has no row of its own yet, but a sleep of no length at the id behind
it, in whose output (not in its times) stands until when it waits. A child's start is a row at once,
the `DBOS.getResult` comes when the child has ended: at the next id, when the child was called and
not started. A step under way has no row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dbos_mcp.domain import WorkflowStatus
from dbos_mcp.queries.steps import SLEEP, StepItem
from dbos_mcp.queries.workflows import WorkflowItem

GET_RESULT = "DBOS.getResult"
RECEIVE = "DBOS.recv"
_A_MOMENT_MS = 1_000
"""To write a row takes no longer."""

Kind = Literal["queue", "delay", "sleep", "message", "children", "work"]


@dataclass(frozen=True)
class Wait:
    """`work` is a step, or the workflow's own code, that is not done."""

    kind: Kind
    since: int
    until: int | None = None
    step_id: int | None = None
    """Of what it waits in, where that is known."""
    children: tuple[str, ...] = ()
    """Those whose results it did not get yet, in the order of their starts."""


def wait_of(workflow: WorkflowItem, steps: Sequence[StepItem], now: int) -> Wait:
    """Of a workflow that was in flight at `now`."""
    began = workflow.created_at if workflow.dequeued_at is None else workflow.dequeued_at
    match workflow.status:
        case WorkflowStatus.ENQUEUED:
            return Wait("queue", workflow.created_at)
        case WorkflowStatus.DELAYED:
            return Wait("delay", workflow.created_at, until=workflow.delay_until)
    if not steps:
        return Wait("work", began)
    last = steps[-1]
    ids = {step.step_id for step in steps}
    since = max((step.completed_at or began for step in steps), default=began)
    if last.step_name == SLEEP:
        began_at, ends_at = last.started_at or began, last.completed_at or began
        of_no_length = ends_at - began_at <= _A_MOMENT_MS
        if last.step_id - 1 not in ids and last.step_id > 1:
            until = None if of_no_length else ends_at
            return Wait("message", began_at, until, last.step_id - 1)
        if ends_at > now:
            return Wait("sleep", began_at, ends_at, last.step_id)
        since = ends_at
    children = open_children(steps)
    if children:
        started = next(s for s in steps if s.child_workflow_id == children[0])
        return Wait("children", started.started_at or since, step_id=None, children=children)
    return Wait("work", since, step_id=last.step_id + 1)


def open_children(steps: Sequence[StepItem]) -> tuple[str, ...]:
    """Started, and without a result yet."""
    started = {
        step.child_workflow_id: step.step_id
        for step in reversed(steps)
        if step.child_workflow_id is not None and step.step_name != GET_RESULT
    }
    results = [step for step in steps if step.step_name == GET_RESULT]
    got = {step.child_workflow_id for step in results}
    # A fork from a call's result names a child there that never was.
    called = {step.step_id - 1 for step in results if step.child_workflow_id not in started}
    return tuple(
        child
        for child, step_id in reversed(started.items())
        if child not in got and step_id not in called
    )
