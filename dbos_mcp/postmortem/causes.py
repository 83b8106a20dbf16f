"""Where failures began: from a workflow that failed down through its failed children to the step,
or the code, that failed first. For one workflow or for very many at once, read in batches."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, func, select
from sqlmodel import col

from dbos_mcp.domain import BROKEN_OFF, FAILED, WorkflowStatus
from dbos_mcp.postmortem.error_text import fingerprint, kind_of
from dbos_mcp.store.projections.steps import StepRow
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.sync_state import StepReadingRow
from dbos_mcp.store.tables import batches

INTERNAL = "DBOS."
"""The names of DBOS's own steps begin with it."""

Evidence = Literal["same error", "its error is part of it", "the last step", "an earlier step"]
"""What ties a failed step to the failure of its workflow, the surest first."""

End = Literal[
    "step",
    "code",
    "steps not read",
    "child not mirrored",
    "child did not fail",
    "recovered too often",
    "cancelled",
    "timed out",
    "circle",
]
"""Why a chain ends at a workflow: a step of its own failed; its code did, outside of any step; or
nothing further is known, and why."""

_StepValues = Sequence[Any]
"""The key of its workflow, and the fields of a `FailedStep` without the evidence."""

"""What a child may come to that makes the one who waits for it fail."""


class FailedWorkflow(NamedTuple):
    key: int
    workflow_id: str
    status: str
    workflow_name: str | None
    error: str | None
    updated_at: int
    completed_at: int | None
    deadline: int | None
    application_version: str | None
    executor_id: str | None
    queue_name: str | None
    schedule_name: str | None
    parent_workflow_id: str | None

    @property
    def failed_at(self) -> int:
        """Old SDKs leave the time of an end out."""
        return self.updated_at if self.completed_at is None else self.completed_at


class FailedStep(NamedTuple):
    step_id: int
    step_name: str
    child_workflow_id: str | None
    completed_at: int | None
    error: str
    evidence: Evidence


class Link(NamedTuple):
    """A workflow of a chain, and either the child (its key) that the chain goes on with, or why it
    ends here."""

    workflow: FailedWorkflow
    step: FailedStep | None
    child: int | None = None
    end: End | None = None
    by_error: bool = False
    """The child was found by the same kind of error, since no step tells of it."""

    @property
    def error(self) -> str | None:
        return self.step.error if self.step is not None else self.workflow.error

    @property
    def kind(self) -> str:
        """What kind of failure has its origin here: of error, or of end."""
        return kind_of(self.error) if self.error is not None else str(self.end)

    @property
    def fingerprint(self) -> str:
        """Of the failure that has its origin here: its place in the code, and its kind."""
        step = self.step
        if step is None or step.step_name.startswith(INTERNAL):
            internal = None if step is None else step.step_name
            return fingerprint(self.workflow.workflow_name, internal, self.kind)
        return fingerprint(step.step_name, self.kind)


@dataclass(frozen=True)
class Causes:
    """Of failed workflows, and of all that their chains lead through."""

    links: Mapping[int, Link]
    """By the key of the workflow."""

    def chain(self, key: int) -> list[Link]:
        """From the workflow to the origin of its failure."""
        return list(self._walk(key))

    def origin(self, key: int) -> Link:
        link = self.links[key]
        while link.child is not None:
            link = self.links[link.child]
        return link

    def place_of(self, origin: Link) -> Link:
        """An origin that tells where this one was: itself, or, if its steps are not read, another
        of the same workflow and error, if all of those are at one place."""
        if origin.end != "steps not read":
            return origin
        places = self._places.get(_seen_from_outside(origin), {})
        return next(iter(places.values())) if len(places) == 1 else origin

    @cached_property
    def _places(self) -> Mapping[tuple[str | None, str], Mapping[str, Link]]:
        """By what is known without steps; and by fingerprint."""
        found: defaultdict[tuple[str | None, str], dict[str, Link]] = defaultdict(dict)
        for link in self.links.values():
            if link.end in ("step", "code"):
                found[_seen_from_outside(link)].setdefault(link.fingerprint, link)
        return found

    def _walk(self, key: int | None) -> Iterator[Link]:
        while key is not None:
            link = self.links[key]
            yield link
            key = link.child


def _seen_from_outside(link: Link) -> tuple[str | None, str]:
    return link.workflow.workflow_name, kind_of(link.workflow.error or "")


def find_causes(connection: Connection, application_name: str, keys: Iterable[int]) -> Causes:
    """Of workflows, by their keys; those that did not fail are left out."""
    finder = _Finder(connection, application_name)
    return finder.find(list(finder.workflows(col(WorkflowRow.id), keys)))


def causes_of(
    connection: Connection, application_name: str, failed: Sequence[FailedWorkflow]
) -> Causes:
    """The same, of workflows that were read already."""
    return _Finder(connection, application_name).find(failed)


class _Finder:
    def __init__(self, connection: Connection, application_name: str) -> None:
        self._connection = connection
        self._here = col(WorkflowRow.application_name) == application_name
        self._found: dict[int, Link] = {}
        self._failed: dict[str, FailedWorkflow] = {}
        """By id: most children that somebody waited for failed in the same time."""

    def find(self, failed: Sequence[FailedWorkflow]) -> Causes:
        level = failed
        while level:
            level = self._follow(level)
        return Causes(_without_circles(self._found))

    def _follow(self, level: Sequence[FailedWorkflow]) -> list[FailedWorkflow]:
        """Link these; the children that are still to be linked."""
        steps = self._steps(level)
        self._failed |= {workflow.workflow_id: workflow for workflow in level}
        wanted = {
            step.child_workflow_id
            for step in steps.values()
            if step is not None and step.child_workflow_id is not None
        }
        children = {each: self._failed[each] for each in wanted & self._failed.keys()}
        others = wanted - children.keys()
        for found in self.workflows(col(WorkflowRow.workflow_id), others, failed=False):
            children[found.workflow_id] = found
        steps |= self._with_children_found(level, steps, children)
        without = [w for w in level if w.key not in steps and w.status in FAILED]
        read = self._read(without)
        unread = [w for w in without if w.key not in read]
        alike = self._alike(unread)
        reached: dict[int, FailedWorkflow] = {}
        for workflow in level:
            step = steps.get(workflow.key)
            child, end, by_error = None, _end_of(workflow), False
            if end is not None:
                step = None
            elif step is None:
                child = alike.get(workflow.key)
                by_error = child is not None
                if child is None:
                    end = "code" if workflow.key in read else "steps not read"
            elif step.child_workflow_id is None:
                end = "step"
            else:
                child = children.get(step.child_workflow_id)
                if child is None:
                    end = "child not mirrored"
                elif child.status not in BROKEN_OFF:
                    child, end = None, "child did not fail"
            self._found[workflow.key] = Link(
                workflow, step, None if child is None else child.key, end, by_error
            )
            if child is not None:
                reached[child.key] = child
        return [child for key, child in reached.items() if key not in self._found]

    def _with_children_found(
        self,
        level: Sequence[FailedWorkflow],
        steps: Mapping[int, FailedStep | None],
        children: dict[str, FailedWorkflow],
    ) -> dict[int, FailedStep | None]:
        """A fork from the result of a child that was called names one there that never was: the
        step before, which was copied, names the child that it awaited."""
        lost = {
            workflow.key: step
            for workflow in level
            if (step := steps.get(workflow.key)) is not None
            and step.child_workflow_id is not None
            and step.child_workflow_id not in children
        }
        if not lost:
            return {}
        found: dict[int, FailedStep | None] = {}
        for key, step_id, child_id in self._connection.execute(
            select(
                col(StepRow.workflow_key),
                col(StepRow.step_id),
                col(StepRow.child_workflow_id),
            ).where(
                col(StepRow.workflow_key).in_(_among(list(lost))),
                col(StepRow.child_workflow_id).is_not(None),
            )
        ):
            if step_id == lost[key].step_id - 1:
                found[key] = lost[key]._replace(child_workflow_id=child_id)
        wanted = {step.child_workflow_id for step in found.values() if step is not None}
        for child in self.workflows(col(WorkflowRow.workflow_id), wanted, failed=False):
            children[child.workflow_id] = child
        return found

    def workflows(
        self, column: Any, values: Iterable[Any], *, failed: bool = True
    ) -> Iterator[FailedWorkflow]:
        broken = [col(WorkflowRow.status).in_(BROKEN_OFF)] if failed else []
        for chunk in batches(values):
            for row in self._connection.execute(
                select(*FAILED_COLUMNS).where(self._here, column.in_(chunk), *broken)
            ).all():
                yield FailedWorkflow._make(row)

    def _steps(self, level: Sequence[FailedWorkflow]) -> dict[int, FailedStep | None]:
        """The failed step that explains each failure best, where one is known."""
        failed: defaultdict[int, list[_StepValues]] = defaultdict(list)
        keys = [workflow.key for workflow in level if workflow.status in FAILED]
        for row in self._connection.execute(_failed_steps(keys)).all():
            failed[row[0]].append(row)
        found = {
            workflow.key: _with_its_error(workflow.error, failed[workflow.key])
            for workflow in level
            if workflow.key in failed
        }
        unclear = [key for key, step in found.items() if step is None]
        last = self._last_steps(unclear)
        for key in unclear:
            # The last that failed: what came behind it may have been to make good for it.
            values = failed[key][-1]
            at_last = values[1] == last[key]
            found[key] = _step(values, "the last step" if at_last else "an earlier step")
        return found

    def _last_steps(self, keys: Sequence[int]) -> dict[int, int]:
        if not keys:
            return {}
        key, step_id = col(StepRow.workflow_key), col(StepRow.step_id)
        return {
            row[0]: row[1]
            for row in self._connection.execute(
                select(key, func.max(step_id)).where(key.in_(_among(keys))).group_by(key)
            )
        }

    def _read(self, level: Sequence[FailedWorkflow]) -> set[int]:
        """Those whose steps were read."""
        if not level:
            return set()
        reading = col(StepReadingRow.workflow_key)
        keys = _among([workflow.key for workflow in level])
        return set(self._connection.execute(select(reading).where(reading.in_(keys))).scalars())

    def _alike(self, workflows: Sequence[FailedWorkflow]) -> dict[int, FailedWorkflow]:
        """The newest child of each that failed in the same way."""
        by_id = {workflow.workflow_id: workflow for workflow in workflows if workflow.error}
        found: dict[int, FailedWorkflow] = {}
        for child in self.workflows(col(WorkflowRow.parent_workflow_id), by_id):
            parent = by_id[child.parent_workflow_id or ""]
            if not child.error or kind_of(child.error) != kind_of(parent.error or ""):
                continue
            best = found.get(parent.key)
            if best is None or child.failed_at > best.failed_at:
                found[parent.key] = child
        return found


FAILED_COLUMNS = [
    col(getattr(WorkflowRow, "id" if name == "key" else name)) for name in FailedWorkflow._fields
]
"""Of a `FailedWorkflow`, in the order of its fields."""


def _failed_steps(keys: Sequence[int]) -> Any:
    failed: ColumnElement[bool] = col(StepRow.error).is_not(None)
    return (
        select(
            col(StepRow.workflow_key),
            col(StepRow.step_id),
            col(StepRow.step_name),
            col(StepRow.child_workflow_id),
            col(StepRow.completed_at),
            col(StepRow.error),
        )
        .where(col(StepRow.workflow_key).in_(_among(keys)), failed)
        .order_by(col(StepRow.workflow_key), col(StepRow.step_id))
    )


def _among(keys: Sequence[int]) -> Select[tuple[int]]:
    """For very many at once: as one parameter."""
    return select(func.json_each(json.dumps(keys)).table_valued("value", name="given").c.value)


def _with_its_error(error: str | None, failed: Sequence[_StepValues]) -> FailedStep | None:
    """The last step whose error the workflow's is, or has in it."""
    for row in reversed(failed):
        if row[-1] == error:
            return _step(row, "same error")
    for row in reversed(failed):
        if error and row[-1] and row[-1] in error:
            return _step(row, "its error is part of it")
    return None


def _step(row: _StepValues, evidence: Evidence) -> FailedStep:
    _, step_id, step_name, child, completed_at, error = row
    return FailedStep(step_id, step_name, child, completed_at, error, evidence)


def was_due(deadline: int | None, ended_at: int) -> bool:
    """Whether a deadline was over at an end: which some upstreams stamp in whole seconds."""
    if deadline is None:
        return False
    return deadline <= (ended_at + 999 if ended_at % 1000 == 0 else ended_at)


def _end_of(workflow: FailedWorkflow) -> End | None:
    if workflow.status == WorkflowStatus.MAX_RECOVERY_ATTEMPTS_EXCEEDED:
        return "recovered too often"
    if workflow.status == WorkflowStatus.CANCELLED:
        return "timed out" if was_due(workflow.deadline, workflow.failed_at) else "cancelled"
    return None


def _without_circles(links: dict[int, Link]) -> dict[int, Link]:
    """Ids are the application's: nothing keeps a chain from coming back to where it was."""
    done: set[int] = set()
    for start in [key for key, link in links.items() if link.child is not None]:
        walked: dict[int, None] = {}
        key: int | None = start
        while key is not None and key not in done and key not in walked:
            walked[key] = None
            key = links[key].child
        if key in walked:
            last = next(reversed(walked))
            link = links[last]
            links[last] = Link(link.workflow, link.step, None, "circle", link.by_error)
        done.update(walked)
    return links
