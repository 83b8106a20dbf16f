"""What sets failed runs apart from those that went well. The inputs of a sample, and the outputs of
the steps of a smaller one, are read at Conductor where the mirror keeps none, in one polite burst.
They stay in this session's memory: what the mirror keeps, its payload policy says.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest

import anyio
import anyio.to_thread
from sqlalchemy import Connection, select
from sqlmodel import col

from dbos_mcp.conductor.models import WorkflowSearch
from dbos_mcp.domain import FAILED, TERMINAL, WorkflowStatus, one_line
from dbos_mcp.errors import NotFoundError, UsageError
from dbos_mcp.postmortem import differences, runs
from dbos_mcp.postmortem.differences import Differences, StepDifferences
from dbos_mcp.postmortem.discriminators import discriminate
from dbos_mcp.postmortem.runs import Outcome, Run
from dbos_mcp.postmortem.values import LONGEST
from dbos_mcp.runtime import Live, Runtime
from dbos_mcp.server.context import Asker, Session
from dbos_mcp.server.lookup import why_not
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.sync.mirror import PAYLOADS_PER_REQUEST

SECONDS = 5.0
AT_ONCE = 4
MOST_KEYS = 300
OFFLINE = "the server is offline"
GONE = "they are gone at Conductor, and the mirror keeps none"
TOO_SLOW = f"the rest takes more than {SECONDS:g} s; the same call goes on from there"


@dataclass(frozen=True)
class Sizes:
    """How many runs are looked at, at most."""

    failed: int
    others: int
    steps: int
    """Of either, for the outputs of their steps: one request each."""


OF_A_GROUP = Sizes(100, 200, 10)
OF_ONE = Sizes(50, 100, 5)


@dataclass
class _Sample:
    failed: Sequence[Run]
    others: Sequence[Run]
    inputs: dict[int, str | None] = field(default_factory=dict)
    """By key. Null: there is none, or it is withheld."""
    steps: dict[int, list[Outcome]] = field(default_factory=dict)
    """With their outputs."""
    live: bool = False
    why_not: str | None = None

    def of_steps(self, most: int) -> list[Run]:
        """Runs whose steps are looked at: in turn of either side, so that what comes first is of
        both."""
        return [
            run
            for pair in zip_longest(self.failed[:most], _even(self.others, most))
            for run in pair
            if run is not None
        ]


async def explain_differences(
    asker: Asker,
    runtime: Runtime,
    application_name: str,
    workflow_id: str,
    *,
    alike: Sequence[int] = (),
) -> Differences:
    """Of a workflow in which a failure began, and of those that failed alike (their keys; left out,
    they are looked for), beside runs that went well. Never fails for Conductor's sake: the lines
    say what was not to be had."""

    def keys(connection: Connection) -> list[int]:
        key = connection.execute(
            select(col(WorkflowRow.id)).where(
                col(WorkflowRow.application_name) == application_name,
                col(WorkflowRow.workflow_id) == workflow_id,
            )
        ).scalar()
        found = [] if key is None else runs.runs_of(connection, [key])
        if not found or found[0].status not in (*FAILED, WorkflowStatus.CANCELLED):
            return []
        if alike:
            return [found[0].key, *alike]
        return runs.failed_alike(connection, application_name, found[0], OF_ONE.failed)

    return await differences_of(
        asker, runtime, application_name, await runtime.read(keys), sizes=OF_ONE, more=False
    )


async def differences_of(
    asker: Asker,
    runtime: Runtime,
    application_name: str,
    keys: Sequence[int],
    *,
    sizes: Sizes = OF_A_GROUP,
    of_failed: int | None = None,
    more: bool = True,
) -> Differences:
    """Of failed runs by their keys, as far as they are of the workflow that most are of; there are
    `of_failed` of them in all. `more`: also of steps that are missing, or extra, or took longer."""
    sample = await runtime.read(
        partial(_mirrored, application_name=application_name, keys=keys, sizes=sizes)
    )
    if not sample.failed:
        return Differences()
    if not sample.others:
        name = one_line(sample.failed[0].workflow_name or "its workflow")
        return Differences(lines=[f"No run of {name} about that time went well: none to compare."])
    await _read(asker.session, runtime.live, application_name, sample, sizes)
    return await anyio.to_thread.run_sync(_explain, sample, sizes, of_failed, more)


@dataclass(frozen=True)
class Pair:
    """Of two runs that are compared with each other; what is not known is None."""

    inputs: tuple[str | None, str | None]
    steps: tuple[Sequence[Outcome] | None, Sequence[Outcome] | None]
    outputs_known: tuple[bool, bool]
    why_not: str | None


async def read_pair(
    asker: Asker, runtime: Runtime, application_name: str, keys: tuple[int, int]
) -> Pair:
    """Inputs and steps of two runs, read live where the mirror does not keep them."""
    one = Sizes(1, 1, 1)

    def mirrored(connection: Connection) -> tuple[_Sample, dict[int, list[Outcome]]]:
        first, second = (runs.runs_of(connection, [key]) for key in keys)
        return _kept(connection, first, second, one), runs.kept_outcomes(
            connection, [*first, *second]
        )

    sample, without_outputs = await runtime.read(mirrored)
    await _read(asker.session, runtime.live, application_name, sample, one)
    first, second = keys
    # Private mode withholds all of them.
    told = any(runs.has_outputs(steps) for steps in sample.steps.values())
    known = told and first in sample.steps, told and second in sample.steps
    steps = without_outputs | sample.steps
    return Pair(
        (sample.inputs.get(first), sample.inputs.get(second)),
        (steps.get(first), steps.get(second)),
        known,
        sample.why_not,
    )


def _mirrored(
    connection: Connection, application_name: str, keys: Sequence[int], sizes: Sizes
) -> _Sample:
    """With what the mirror has kept."""
    found = runs.runs_of(connection, keys[:MOST_KEYS])
    names = Counter(run.workflow_name for run in found)
    name = max(names, key=lambda name: names[name], default=None)
    failed = [run for run in found if run.workflow_name == name][: sizes.failed]
    others = runs.went_well(connection, application_name, failed, sizes.others)
    return _kept(connection, failed, others, sizes)


def _kept(
    connection: Connection, failed: Sequence[Run], others: Sequence[Run], sizes: Sizes
) -> _Sample:
    sample = _Sample(failed, others)
    sample.inputs = {run.key: run.input for run in (*failed, *others) if run.input_loaded}
    kept = runs.kept_outcomes(connection, sample.of_steps(sizes.steps))
    sample.steps = {key: steps for key, steps in kept.items() if runs.has_outputs(steps)}
    return sample


async def _read(
    session: Session, live: Live | None, application_name: str, sample: _Sample, sizes: Sizes
) -> None:
    """What neither the mirror nor the memory has; a later question goes on where this one ends."""
    memory = session.memory

    def name(run: Run, what: str) -> tuple[str, str, str, int, str]:
        return (application_name, run.workflow_id, run.status, run.updated_at, what)

    for run in (*sample.failed, *sample.others):
        if run.key not in sample.inputs and name(run, "input") in memory:
            sample.inputs[run.key] = memory.get(name(run, "input"))
            sample.live = True
    for run in sample.of_steps(sizes.steps):
        if run.key not in sample.steps and name(run, "steps") in memory:
            sample.steps[run.key] = memory.get(name(run, "steps"))
            sample.live = True
    inputs = list(_alternating(sample.failed, sample.others, without=sample.inputs))
    steps = [
        run
        for run in sample.of_steps(sizes.steps)
        if run.key not in sample.steps and run.deleted_at is None
    ]
    if live is None or not (inputs or steps):
        sample.why_not = OFFLINE if inputs or steps else None
        return
    client = live.client

    async def read_inputs(chunk: Sequence[Run]) -> None:
        ids = [run.workflow_id for run in chunk]
        search = WorkflowSearch(workflow_ids=ids, limit=len(ids), load_input=True)
        answer = {
            each.workflow_id: each
            for each in await client.search_workflows(application_name, search)
        }
        for run in chunk:
            if run.workflow_id in answer:
                text = _clipped(answer[run.workflow_id].input)
                sample.inputs[run.key] = text
                memory.put(name(run, "input"), text, len(text or ""))
        sample.live = True

    async def read_steps(run: Run) -> None:
        try:
            seen = await client.list_steps(application_name, run.workflow_id)
        except (NotFoundError, UsageError):  # gone, or an id that no URL can hold
            return
        steps = [
            Outcome(
                step.step_id,
                step.step_name,
                _clipped(step.output),
                _clipped(step.error),
                step.child_workflow_id,
                step.started_at,
                step.completed_at,
            )
            for step in seen
        ]
        sample.steps[run.key] = steps
        if run.status in TERMINAL:
            memory.put(name(run, "steps"), steps, sum(len(step.output or "") for step in steps))
        sample.live = True

    async def read() -> None:
        for chunk in _chunks(inputs, PAYLOADS_PER_REQUEST):
            await read_inputs(chunk)
        await _a_few_at_once([partial(read_steps, run) for run in steps])

    sample.why_not = await why_not(session, read, seconds=SECONDS, slow=TOO_SLOW)


async def _a_few_at_once(readings: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Until the first that fails."""
    waiting = iter(readings)
    failures: list[Exception] = []

    async def read() -> None:
        for each in waiting:
            if failures:
                return
            try:
                await each()
            except Exception as error:  # which the group would wrap
                failures.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(AT_ONCE):
            group.start_soon(read)
    if failures:
        raise failures[0]


def _explain(sample: _Sample, sizes: Sizes, of_failed: int | None, more: bool) -> Differences:
    inputs = {key: text for key, text in sample.inputs.items() if text is not None}
    given = [[run for run in side if run.key in inputs] for side in (sample.failed, sample.others)]
    # An input that was not read is not one without fields.
    known = all(given)
    failed, others = given if known else (sample.failed, sample.others)
    facts = runs.facts_of([*failed, *others], inputs if known else {})
    separating = discriminate(facts[: len(failed)], facts[len(failed) :])
    ours, theirs = (
        [sample.steps[run.key] for run in side if run.key in sample.steps]
        for side in (sample.failed[: sizes.steps], _even(sample.others, sizes.steps))
    )
    steps = StepDifferences(0, 0)
    told = any(runs.has_outputs(each) for each in (*ours, *theirs))
    if ours and theirs and told:
        steps = differences.compare_steps(ours, theirs)
    notes = _notes(sample, len(failed), len(others), of_failed, known, steps)
    return differences.differences(separating, steps, notes, more=more)


def _notes(
    sample: _Sample,
    failed: int,
    others: int,
    of_failed: int | None,
    known: bool,
    steps: StepDifferences,
) -> list[str]:
    of = f" of {of_failed}" if of_failed is not None and of_failed > failed else ""
    name = one_line(sample.failed[0].workflow_name or "(no name)", 80)
    what = "the inputs of " if known else ""
    outputs = (
        f", and the outputs of the steps of {steps.of_failed} and {steps.of_others}"
        if steps.of_failed
        else ""
    )
    where = "read live" if sample.live else "as the mirror keeps them"
    notes = [
        f"Looked at {what}{failed}{of} failed and {others} other runs of {name} that went"
        f" well{outputs}, {where}."
    ]
    lacking = [
        what for what, there in (("inputs", known), ("outputs", steps.of_failed)) if not there
    ]
    if lacking or sample.why_not is not None:
        why = sample.why_not
        if why is None:
            gone = any(
                all(run.deleted_at is not None for run in side)
                for side in (sample.failed, sample.others)
            )
            why = GONE if gone else "Conductor sent none"
        said = " and ".join(lacking) if lacking else "more of them"
        notes.append(f"Not looked at: {said}: {one_line(why)}.")
    return notes


def _even(others: Sequence[Run], most: int) -> list[Run]:
    step = max(1.0, len(others) / most)
    return [others[int(place * step)] for place in range(min(most, len(others)))]


def _alternating(
    failed: Sequence[Run], others: Sequence[Run], *, without: Mapping[int, object]
) -> Iterator[Run]:
    """So that whatever part of them is read is of both. Those that are gone cannot be read."""
    for pair in zip_longest(failed, others):
        for run in pair:
            if run is not None and run.key not in without and run.deleted_at is None:
                yield run


def _chunks(found: Sequence[Run], size: int) -> Iterator[Sequence[Run]]:
    return (found[start : start + size] for start in range(0, len(found), size))


def _clipped(text: str | None) -> str | None:
    return None if text is None else text[:LONGEST]
