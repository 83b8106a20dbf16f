"""From which step, and at which level, a fork runs again what was wrong; and which do not.

Measured with the Python SDK 3.4, forks sent through the local Conductor:

- A fork from step n copies the rows below n, their outputs and errors, and runs the rest: a wrong
  output that was recorded below n is used again.
- From a step `DBOS.getResult` (or any behind the child's start) it awaits the same child again, and
  fails as that did. From the child's start it starts a new child, `<fork's id>-<step id>`, which
  runs from its beginning.
- A child whose id the application chose is found again by that id, from whichever step of its
  parent: only a fork of the child itself runs again, and its parent does not get that result.
- A message that was received is not there a second time: a fork from `DBOS.recv` or before waits.
- A fork has neither the timeout nor the deadline of its source. It may begin behind the last step:
  then all steps are replayed, and only the workflow's own code runs.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from dbos_mcp.domain import FAILED, WorkflowStatus
from dbos_mcp.postmortem.case import Traced
from dbos_mcp.postmortem.causes import INTERNAL
from dbos_mcp.postmortem.waits import GET_RESULT, RECEIVE
from dbos_mcp.postmortem.words import counted, many, name
from dbos_mcp.queries.steps import StepItem
from dbos_mcp.queries.workflows import WorkflowItem

_TRANSIENT = re.compile(
    r"time[d -]?out|timed out|connection|unavailable|temporar|refused|reset by|throttl|rate.?limit"
    r"|too many requests|\b(?:429|50[0-4])\b(?![.,]\d)|maximum of \d+ retries|unreachable|deadlock"
    r"|busy",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Fork:
    workflow_id: str
    start_step: int
    why: str
    repeats: Counter[str]
    """What is done already and would be done again, by name."""


@dataclass(frozen=True)
class Advice:
    """`fork` is None where none is sane; `warnings` say what others do."""

    fork: Fork | None
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class BadStep:
    """A step whose recorded output is known to be wrong."""

    workflow_id: str
    step_id: int


def advise(
    chain: Sequence[Traced],
    *,
    bad: BadStep | None = None,
    above: Sequence[WorkflowItem] = (),
    replayed: int | None = None,
) -> Advice:
    """Of a failed workflow and what its failure comes from. `bad` is a step of one of them, or of
    one of its ancestors, which are `above` it, the root first; `replayed` the last step that was of
    no help to a fork."""
    top = chain[0].workflow
    if top.deleted_at is not None:
        return Advice(None, ["Nothing can be forked: it is gone upstream."])
    if top.status != WorkflowStatus.ERROR:
        return Advice(None)
    if bad is not None:
        for level, ancestor in enumerate(above):
            if ancestor.workflow_id == bad.workflow_id:
                return _above(chain, above[level:], bad)
    base = 0
    warnings = []
    for level, (parent, child) in enumerate(pairwise(chain)):
        start = started(parent, child.workflow.workflow_id)
        if start is None or not _derived(parent, start):
            base = level + 1
            warnings.append(
                f"{name(child.workflow.workflow_id)} has an id that the application chose: a fork"
                f" of {name(parent.workflow.workflow_id)}, from any step, finds the same"
                f" {child.workflow.status} child again."
            )
        elif level == base:
            warnings.append(
                f"A fork of {name(parent.workflow.workflow_id)} from a later step than"
                f" {start.step_id} awaits the same {child.workflow.status} child again."
            )
    forked = chain[base]
    if forked.workflow.deleted_at is not None:
        return Advice(None, [*warnings, f"{name(forked.workflow.workflow_id)} is gone upstream."])
    made_at = next(
        (n for n, each in enumerate(chain) if bad and each.workflow.workflow_id == bad.workflow_id),
        None,
    )
    if made_at is not None and made_at < base:
        return Advice(None, [*warnings, _too_deep(chain[made_at].workflow.workflow_id)])
    bad_step = bad.step_id if bad is not None and made_at == base else None
    if base == len(chain) - 1 or bad_step is not None:
        step, why = _within(forked, bad_step, replayed)
    else:
        below = chain[base + 1].workflow.workflow_id
        start = started(forked, below)
        assert start is not None
        step, why = start.step_id, f"starts {name(start.step_name)} anew, with all below it"
    if step is None:
        return Advice(None, [*warnings, why])
    if bad_step is not None:
        later = f"A fork of {name(forked.workflow.workflow_id)} from a later step than {step}"
        warnings = [*warnings[:base], f"{later} uses its wrong output again."]
    again = Counter(_done(forked.steps, since=step))
    for deeper in chain[base + 1 :]:
        again.update(_done(deeper.steps))
    kept = [each for each in forked.steps if each.step_id < step and not _internal(each)]
    if any(each.step_name == RECEIVE and each.step_id >= step for each in forked.steps):
        warnings.append("It waits for its message again: the one it got is used up.")
    if made_at is None and kept:
        warnings.append(
            f"It uses the recorded outputs of {many(len(kept), 'step')} again: if one of them is"
            " wrong, fork from that step."
        )
    return Advice(Fork(forked.workflow.workflow_id, step, why, again), warnings)


def _above(chain: Sequence[Traced], path: Sequence[WorkflowItem], bad: BadStep) -> Advice:
    """What is wrong was made further up, and came down as an input. `path` leads down to the parent
    of the first of the chain."""
    ancestor = path[0]
    asked = chain[0].workflow.workflow_id
    warnings = [
        f"A fork of {name(asked)} from any step is given the same input again, which was wrong."
    ]
    if ancestor.deleted_at is not None:
        return Advice(None, [*warnings, f"{name(ancestor.workflow_id)} is gone upstream."])
    ids = [*(each.workflow_id for each in path), asked]
    # Each names the parent that it was started by, and its place there.
    if not all(_is_derived(parent, child) for parent, child in pairwise(ids)):
        return Advice(None, [*warnings, _too_deep(ancestor.workflow_id)])
    why = f"runs its step {bad.step_id} again, whose output was wrong, and all below it anew"
    again = Counter(step for each in chain for step in _done(each.steps))
    return Advice(Fork(ancestor.workflow_id, bad.step_id, why, again), warnings)


def _too_deep(workflow_id: str) -> str:
    return (
        f"No fork mends it: a step of {name(workflow_id)} made what is wrong, and below that is a"
        " child that every fork finds again by its id. Start it anew, by another id."
    )


def _is_derived(parent_id: str, child_id: str) -> bool:
    return child_id.startswith(f"{parent_id}-") and child_id[len(parent_id) + 1 :].isdecimal()


def started(parent: Traced, child: str) -> StepItem | None:
    """The step that started a child."""
    for step in parent.steps:
        if step.child_workflow_id == child and step.step_name != GET_RESULT:
            return step
    return None


def copied(fork: Traced, source: Traced | None) -> list[StepItem]:
    """The steps that a fork took over: they have the times of its source's, or are older than it
    is."""
    theirs = {} if source is None else {step.step_id: step for step in source.steps}
    found = []
    for step in fork.steps:
        other = theirs.get(step.step_id)
        if other is not None:
            same = (other.started_at, other.completed_at) == (step.started_at, step.completed_at)
        else:
            ended = step.completed_at
            same = ended is not None and ended < fork.workflow.created_at
        if same:
            found.append(step)
    return found


def last_replayed(fork: Traced, source: Traced | None) -> int | None:
    """The last step of the application's own that a fork took over."""
    own = [step.step_id for step in copied(fork, source) if not _internal(step)]
    return max(own, default=None)


def side_effects(chain: Sequence[Traced]) -> Counter[str]:
    """What was done and stays done, by name."""
    done: Counter[str] = Counter()
    for each in chain:
        done.update(_done(each.steps))
    return done


def is_transient(error: str | None) -> bool:
    """Whether the same may go well another time."""
    return bool(error and _TRANSIENT.search(error))


def _within(origin: Traced, bad_step: int | None, replayed: int | None) -> tuple[int | None, str]:
    link = origin.link
    failed = None if link is None else link.step
    if link is not None and link.end in ("steps not read", "child not mirrored"):
        return None, f"From which step a fork would help is not known: {link.end}."
    if link is not None and link.error is None and link.end == "code":
        return None, "From which step a fork would help is not known: no error text is there."
    if bad_step is not None:
        step = next((each for each in origin.steps if each.step_id == bad_step), None)
        called = "" if step is None else f" {name(step.step_name)}"
        return bad_step, f"runs step {bad_step}{called} again, whose output was wrong"
    if replayed is not None:
        return replayed, f"a fork from step {replayed + 1} or later has failed the same way already"
    if failed is not None:
        again = "" if is_transient(failed.error) else ", once what it needs is mended"
        return failed.step_id, f"runs the failed step {name(failed.step_name)} again{again}"
    if origin.workflow.status in FAILED and origin.steps:
        behind = origin.steps[-1].step_id + 1
        return behind, "replays every step, and runs the workflow's own code, once it is mended"
    return 1, "runs all of it again, once it is mended"


def _derived(parent: Traced, start: StepItem) -> bool:
    """From the parent's id, as DBOS does by itself, or from that of what the parent is a fork of.

    A fork of a fork keeps the ids of the first one's children, which it does not name."""
    child = start.child_workflow_id or ""
    ending = f"-{start.step_id}"
    workflow = parent.workflow
    return child == workflow.workflow_id + ending or (
        workflow.forked_from is not None and child.endswith(ending)
    )


def _internal(step: StepItem) -> bool:
    return step.step_name.startswith(INTERNAL)


def _done(steps: Sequence[StepItem], since: int = 0) -> list[str]:
    return [
        step.step_name
        for step in steps
        if step.step_id >= since
        and step.error is None
        and not _internal(step)
        and step.child_workflow_id is None
    ]


def told(advice: Advice) -> list[str]:
    lines = []
    if advice.fork is not None and advice.fork.repeats:
        lines.append(f"That fork does again: {counted(advice.fork.repeats)}.")
    return [*lines, *advice.warnings]
