"""Two workflows side by side."""

import json
from collections.abc import Sequence
from itertools import zip_longest

from sqlalchemy import Connection

from dbos_mcp.errors import UsageError
from dbos_mcp.postmortem.comparison import Comparison, Differing, StepPair, compare
from dbos_mcp.postmortem.runs import Outcome
from dbos_mcp.queries import workflow
from dbos_mcp.queries.freshness import NOTHING_LOOKED_AT
from dbos_mcp.queries.workflows import WorkflowItem
from dbos_mcp.runtime import Runtime
from dbos_mcp.server import render
from dbos_mcp.server.budget import fitting
from dbos_mcp.server.context import Asker
from dbos_mcp.server.differences import Pair, read_pair
from dbos_mcp.server.freshness import answer_from
from dbos_mcp.server.lookup import look_up
from dbos_mcp.server.render import WHY_CHARACTERS, Column
from dbos_mcp.server.workflow_rows import ANSWER_BYTES, CROWDED_CELL_CHARACTERS, DATA_NOTE

COMPARED_CHARACTERS = 160
_COMPARED: list[Column[Differing]] = [
    ("what", lambda each: each.name),
    ("one", lambda each: each.one),
    ("other", lambda each: each.other),
]


async def compare_workflows(
    asker: Asker,
    runtime: Runtime,
    application_name: str,
    workflow_id: str,
    other_workflow_id: str,
    *,
    max_age_seconds: float | None,
) -> str:
    if workflow_id == other_workflow_id:
        raise UsageError(
            "Both ids are the same.",
            hint="Give two runs, such as one that failed and one of the same workflow that did not;"
            " get_workflow shows a single one.",
        )
    looked = NOTHING_LOOKED_AT
    for each in (workflow_id, other_workflow_id):
        seen = await look_up(asker, runtime, application_name, each, max_age_seconds)
        looked = looked if seen == NOTHING_LOOKED_AT else seen

    def query(connection: Connection) -> tuple[WorkflowItem, WorkflowItem]:
        return (
            workflow.get_item(connection, application_name, workflow_id),
            workflow.get_item(connection, application_name, other_workflow_id),
        )

    (one, other), freshness = await answer_from(runtime, query, application_name, looked=looked)
    pair = await read_pair(asker, runtime, application_name, (one.key, other.key))
    found = compare(
        one,
        other,
        inputs=pair.inputs,
        steps=pair.steps,
        outputs_known=all(pair.outputs_known),
    )
    inputs, steps = found.inputs or [], found.steps or []
    # What tells the most stays where not all fits.
    telling = sorted(range(len(steps)), key=lambda place: not steps[place].telling)
    parts = [
        part
        for both in zip_longest(telling, range(len(inputs)))
        for part in zip((steps, inputs), both, strict=True)
        if part[1] is not None
    ]

    def answer_of(shown: int, limit: int = COMPARED_CHARACTERS) -> str:
        kept = parts[:shown]
        some_inputs = [inputs[place] for of, place in kept if of is inputs]
        some_steps = [steps[place] for place in sorted(p for of, p in kept if of is steps)]
        return render.answer(
            f"Two workflows of {render.plain(application_name)}",
            f"one: {_headline(one)}",
            f"other: {_headline(other)}",
            render.table(_COMPARED, [*found.differing, *_times(one, other)], limit=limit),
            _the_same(found, limit),
            _inputs_compared(found, some_inputs, limit),
            _steps_compared(found, some_steps, limit),
            _deeper(found),
            _not_read(pair),
            DATA_NOTE,
            freshness,
        )

    answer, shown = fitting(len(parts), ANSWER_BYTES, answer_of)
    if len(answer.encode()) > ANSWER_BYTES:
        answer = answer_of(shown, CROWDED_CELL_CHARACTERS)
    return answer


def _headline(item: WorkflowItem) -> str:
    named = render.plain(item.workflow_id, limit=300)
    return f"{named}: {render.plain(item.status)}, {render.plain(item.workflow_name)}"


def _times(one: WorkflowItem, other: WorkflowItem) -> list[Differing]:
    times = [
        Differing("created_at", *(render.time(item.created_at) for item in (one, other))),
        Differing("queue_wait", *(render.duration(item.queue_wait_ms) for item in (one, other))),
        Differing("duration", *(render.duration(item.duration_ms) for item in (one, other))),
    ]
    return [each for each in times if (each.one, each.other) != (None, None)]


def _the_same(found: Comparison, limit: int) -> str | None:
    if not found.same:
        return None
    same = ", ".join(f"{each.name} {render.plain(each.one, limit=limit)}" for each in found.same)
    return f"the same: {same}"


def _inputs_compared(found: Comparison, shown: Sequence[Differing], limit: int) -> str | None:
    if found.inputs is None:
        return None
    left = len(found.inputs) - len(shown)
    of = f"{len(found.inputs)} of {len(found.inputs) + found.same_inputs}"
    if not found.inputs:
        return f"inputs: the same at all {found.same_inputs} paths"
    return render.answer(
        f"inputs differ at {of} paths:",
        render.table(_COMPARED, shown, limit=limit) if shown else None,
        f"{left} more." if left else None,
    )


def _steps_compared(found: Comparison, shown: Sequence[StepPair], limit: int) -> str | None:
    if found.steps is None:
        return None
    if not found.steps:
        return "steps: neither has any"
    columns: list[Column[StepPair]] = [
        ("step", lambda pair: "/".join(map(str, pair.step_ids)) + f" {pair.place[0]}"),
        ("one", lambda pair: _outcome(pair.one, limit)),
        ("other", lambda pair: _outcome(pair.other, limit)),
        ("outputs", lambda pair: _outputs(pair, limit)),
    ]
    first = next((pair for pair in found.steps if pair.telling), None)
    left = len(found.steps) - len(shown)
    return render.answer(
        f"steps ({len(found.steps)} in all"
        + (
            f", the first that differs in more than data is {render.plain(first.place[0])}):"
            if first is not None
            else ", none differs in more than data):"
        ),
        render.table(columns, shown, limit=3 * limit) if shown else None,
        f"{left} more." if left else None,
    )


def _deeper(found: Comparison) -> str | None:
    """The children to go on with, where the first step that differs awaits them."""
    first = next((pair for pair in found.steps or () if pair.telling), None)
    if first is None or first.one is None or first.other is None:
        return None
    children = [step.child_workflow_id for step in (first.one, first.other)]
    if not all(child and child.isprintable() and len(child) <= 200 for child in children):
        return None
    one, other = (json.dumps(child, ensure_ascii=False) for child in children)
    return f"Go on with compare_workflows(workflow_id={one}, other_workflow_id={other})."


def _outcome(step: Outcome | None, limit: int) -> str:
    if step is None:
        return "(not there)"
    took = render.duration(step.duration_ms) or "done"
    child = f" child {step.child_workflow_id}" if step.child_workflow_id else ""
    if step.error is not None:
        return f"raised {render.plain(step.error, limit=limit)}, {took}{child}"
    return f"{took}{child}"


def _outputs(pair: StepPair, limit: int) -> str:
    if not pair.outputs.startswith("differ") or pair.one is None or pair.other is None:
        return pair.outputs
    one, other = (
        "none" if step.output is None else render.plain(step.output, limit=limit // 2)
        for step in (pair.one, pair.other)
    )
    return f"{pair.outputs}: {one} against {other}"


def _not_read(pair: Pair) -> str | None:
    lacking = [
        what
        for what, known in (
            ("inputs", None not in pair.inputs),
            ("steps", None not in pair.steps),
            ("outputs", all(pair.outputs_known)),
        )
        if not known
    ]
    if not lacking:
        return None
    why = pair.why_not or "Conductor sent none"
    return f"Not known of both: {', '.join(lacking)}: {render.plain(why, limit=WHY_CHARACTERS)}."
