"""Two runs side by side: what is the same, what differs, what only one of them has."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dbos_mcp.postmortem.differences import Place, aligned
from dbos_mcp.postmortem.error_text import kind_of
from dbos_mcp.postmortem.runs import Outcome
from dbos_mcp.postmortem.values import Scalar, arguments, paths, positions, read, shape_of, told
from dbos_mcp.queries.workflows import WorkflowItem

FIELDS = (
    *("status", "workflow_name", "error", "application_version", "executor_id", "queue_name"),
    *("priority", "schedule_name", "authenticated_user", "attributes", "parent_workflow_id"),
    *("forked_from", "timeout_ms", "deleted_at"),
)
MOST_SHOWN = 3
SHOWN_CHARACTERS = 80

Outputs = Literal["the same", "differ in kind", "differ", "not known", ""]
"""Of a step in two runs; empty: there is none in one of them, or it raised."""


@dataclass(frozen=True)
class Differing:
    name: str
    one: object
    other: object


@dataclass(frozen=True)
class StepPair:
    place: Place
    one: Outcome | None
    other: Outcome | None
    outputs: Outputs

    @property
    def telling(self) -> bool:
        """Whether the two differ in more than data."""
        if self.one is None or self.other is None:
            return True
        errors = self.one.error, self.other.error
        if None in errors:
            return errors != (None, None) or self.outputs == "differ in kind"
        return kind_of(errors[0] or "") != kind_of(errors[1] or "")

    @property
    def step_ids(self) -> Sequence[int]:
        """One, where both have the same."""
        return list(dict.fromkeys(step.step_id for step in (self.one, self.other) if step))


@dataclass(frozen=True)
class Comparison:
    differing: Sequence[Differing]
    same: Sequence[Differing]
    """Fields that both have."""
    inputs: Sequence[Differing] | None
    """By path; None: not known of both."""
    same_inputs: int
    """So many paths are the same."""
    steps: Sequence[StepPair] | None
    """In order; None: not known of both."""


def compare(
    one: WorkflowItem,
    other: WorkflowItem,
    *,
    inputs: tuple[str | None, str | None] = (None, None),
    steps: tuple[Sequence[Outcome] | None, Sequence[Outcome] | None] = (None, None),
    outputs_known: bool = False,
) -> Comparison:
    fields = [Differing(name, getattr(one, name), getattr(other, name)) for name in FIELDS]
    differing, same = _inputs(*inputs)
    ours, theirs = steps
    return Comparison(
        differing=[each for each in fields if each.one != each.other],
        same=[each for each in fields if each.one == each.other and each.one not in (None, "")],
        inputs=differing,
        same_inputs=same,
        steps=None if ours is None or theirs is None else _steps(ours, theirs, outputs_known),
    )


def _inputs(one: str | None, other: str | None) -> tuple[list[Differing] | None, int]:
    if one is None or other is None:
        return None, 0
    values = read(one), read(other)
    alone = all(positions(value) <= 1 for value in values)
    ours, theirs = (paths(arguments(value, alone=alone), "input") for value in values)
    both = {path: (ours.get(path), theirs.get(path)) for path in (*ours, *theirs)}
    return [
        Differing(path, _shown(first), _shown(second))
        for path, (first, second) in both.items()
        if first != second
    ], sum(first == second for first, second in both.values())


def _shown(values: tuple[Scalar, ...] | None) -> str:
    if values is None:
        return "(not there)"
    more = len(values) - MOST_SHOWN
    named = ", ".join(told(value, SHOWN_CHARACTERS) for value in values[:MOST_SHOWN])
    return named + (f" and {more} more" if more > 0 else "")


def _steps(one: Sequence[Outcome], other: Sequence[Outcome], outputs_known: bool) -> list[StepPair]:
    ours, theirs = aligned(one), aligned(other)
    pairs = [
        StepPair(place, first, second, _outputs(first, second, outputs_known))
        for place in dict.fromkeys((*ours, *theirs))
        for first, second in [(ours.get(place), theirs.get(place))]
    ]
    return sorted(pairs, key=lambda pair: pair.step_ids[0])


def _outputs(one: Outcome | None, other: Outcome | None, known: bool) -> Outputs:
    if one is None or other is None or one.error is not None or other.error is not None:
        return ""
    if not known:
        return "not known"
    if one.output == other.output:
        return "the same"
    return "differ" if shape_of(one.output) == shape_of(other.output) else "differ in kind"
