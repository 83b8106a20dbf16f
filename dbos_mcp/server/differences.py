"""What sets failed runs apart from those that went well. The inputs of a sample, and the outputs of
the steps of a smaller one, are read at Conductor where the mirror keeps none, in one polite burst.
Where they do not tell all, so are those of their parents, and so on up to the roots. They stay in
this session's memory: what the mirror keeps, its payload policy says.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, zip_longest

import anyio
import anyio.to_thread
from sqlalchemy import Connection, select
from sqlmodel import col

from dbos_mcp.conductor.models import WorkflowSearch
from dbos_mcp.domain import BROKEN_OFF, TERMINAL, one_line
from dbos_mcp.errors import NotFoundError, UsageError
from dbos_mcp.postmortem import differences, runs
from dbos_mcp.postmortem.differences import Differences, StepDifferences
from dbos_mcp.postmortem.discriminators import Discriminators, discriminate
from dbos_mcp.postmortem.runs import INPUT, Outcome, Run
from dbos_mcp.postmortem.values import LONGEST
from dbos_mcp.queries.applications import is_private
from dbos_mcp.runtime import Live, Runtime
from dbos_mcp.server.context import Asker, Session
from dbos_mcp.server.lookup import why_not
from dbos_mcp.server.memory import Memory
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.tables import batches
from dbos_mcp.sync.mirror import PAYLOADS_PER_REQUEST

SECONDS = 5.0
AT_ONCE = 4
MOST_KEYS = 300
OFFLINE = "the server is offline"
GONE = "they are gone at Conductor, and the mirror keeps none"
PRIVATE = "the application is in private mode, which withholds them"
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
    sizes: Sizes
    above: Sequence[Mapping[int, Run]] = ()
    """The parents by the keys of the runs, then the grandparents, then the roots."""
    private: bool = False
    inputs: dict[int, str | None] = field(default_factory=dict)
    """By key. Null: there is none, or it is withheld."""
    steps: dict[int, list[Outcome]] = field(default_factory=dict)
    """With their outputs."""
    live: bool = False
    why_not: str | None = None

    def level(self, above: int) -> tuple[list[Run], list[Run]]:
        """Those that failed and the others, or their ancestors so many levels above."""
        return self._risen(self.failed, above), self._risen(self.others, above)

    def of_steps(self, above: int) -> tuple[list[Run], list[Run]]:
        """Those whose steps are looked at. One that is on both sides tells nothing of either."""
        most = self.sizes.steps
        ours = self._risen(self.failed[:most], above)
        theirs = self._risen(_even(self.others, most), above)
        both = {run.key for run in ours} & {run.key for run in theirs}
        return [r for r in ours if r.key not in both], [r for r in theirs if r.key not in both]

    def _risen(self, runs: Sequence[Run], above: int) -> list[Run]:
        if not above:
            return list(runs)
        generation = self.above[above - 1]
        found = {
            generation[run.key].key: generation[run.key] for run in runs if run.key in generation
        }
        return list(found.values())

    @property
    def levels(self) -> range:
        return range(1 + len(self.above))


@dataclass(frozen=True)
class _Separated:
    found: Discriminators
    failed: int
    others: int
    levels: Sequence[int]
    """Of which the inputs are known and looked at: 0 are the runs themselves."""

    @property
    def told_by_value(self) -> bool:
        """Whether something sets all of them apart, so that nobody has to look further up."""
        return any(each.perfect and not each.kind_alone for each in self.found.separating)

    @property
    def by_input(self) -> bool:
        """Whether what they were given differs: it is all that they have of their parents."""
        telling = (*self.found.separating, *self.found.perhaps)
        return any(each.feature.field.startswith(INPUT) for each in telling)


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
        if not found or found[0].status not in BROKEN_OFF:
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
    await _look(asker.session, runtime.live, application_name, sample)
    return await anyio.to_thread.run_sync(_explain, sample, of_failed, more)


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
        sample = _Sample(first, second, one)
        _add_what_is_kept(connection, application_name, sample)
        return sample, runs.kept_outcomes(connection, [*first, *second])

    sample, without_outputs = await runtime.read(mirrored)
    await _look(asker.session, runtime.live, application_name, sample)
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
    above = runs.ancestors_of(connection, application_name, [*failed, *others]) if others else []
    sample = _Sample(failed, others, sizes, above)
    _add_what_is_kept(connection, application_name, sample)
    return sample


def _add_what_is_kept(connection: Connection, application_name: str, sample: _Sample) -> None:
    for level in sample.levels:
        for run in chain(*sample.level(level)):
            if run.input_loaded:
                sample.inputs[run.key] = run.input
    wanted = [run for level in sample.levels for side in sample.of_steps(level) for run in side]
    kept = runs.kept_outcomes(connection, wanted)
    sample.steps = {key: steps for key, steps in kept.items() if runs.has_outputs(steps)}
    sample.private = is_private(connection, application_name)


async def _look(
    session: Session, live: Live | None, application_name: str, sample: _Sample
) -> None:
    """At what neither the mirror nor the memory has, from the runs upwards as long as that may
    tell more; a later question goes on where this one ends."""
    reader = _Reader(session.memory, live, application_name, sample)
    reader.recall()

    async def look() -> None:
        await reader.read_inputs(0)
        await reader.read_steps(0)
        if not sample.above:
            return
        for level in sample.levels[1:]:
            if not reader.lacks_inputs(level):
                continue
            if (await anyio.to_thread.run_sync(_separated, sample)).told_by_value:
                break
            await reader.read_inputs(level)
        separated = await anyio.to_thread.run_sync(_separated, sample)
        for level in sample.levels[1:]:
            if not separated.by_input or _steps_compared(sample, level - 1).first is not None:
                break
            await reader.read_steps(level)

    if live is not None:
        sample.why_not = await why_not(session, look, seconds=SECONDS, slow=TOO_SLOW)
    elif reader.lacks_inputs(0) or reader.lacks_steps(0):
        sample.why_not = OFFLINE


class _Reader:
    """Of inputs and steps at Conductor, into a sample and the session's memory."""

    def __init__(
        self, memory: Memory, live: Live | None, application_name: str, sample: _Sample
    ) -> None:
        self._memory = memory
        self._live = live
        self._application_name = application_name
        self._sample = sample

    def recall(self) -> None:
        """What an earlier question had read."""
        sample = self._sample
        for level in sample.levels:
            for wanted, what, known in (
                (sample.level(level), "input", sample.inputs),
                (sample.of_steps(level), "steps", sample.steps),
            ):
                for run in chain(*wanted):
                    name = self._name(run, what)
                    if run.key not in known and name in self._memory:
                        known[run.key] = self._memory.get(name)
                        sample.live = True

    def lacks_inputs(self, level: int) -> list[Run]:
        return self._lacking(self._sample.level(level), self._sample.inputs)

    def lacks_steps(self, level: int) -> list[Run]:
        return self._lacking(self._sample.of_steps(level), self._sample.steps)

    async def read_inputs(self, level: int) -> None:
        for chunk in batches(self.lacks_inputs(level), PAYLOADS_PER_REQUEST):
            await self._read_inputs(chunk)

    async def read_steps(self, level: int) -> None:
        await _a_few_at_once([partial(self._read_steps, run) for run in self.lacks_steps(level)])

    async def _read_inputs(self, chunk: Sequence[Run]) -> None:
        assert self._live is not None
        ids = [run.workflow_id for run in chunk]
        search = WorkflowSearch(workflow_ids=ids, limit=len(ids), load_input=True)
        found = await self._live.client.search_workflows(self._application_name, search)
        answer = {each.workflow_id: each for each in found}
        for run in chunk:
            if run.workflow_id in answer:
                text = _clipped(answer[run.workflow_id].input)
                self._sample.inputs[run.key] = text
                self._memory.put(self._name(run, "input"), text, len(text or ""))
        self._sample.live = True

    async def _read_steps(self, run: Run) -> None:
        assert self._live is not None
        try:
            seen = await self._live.client.list_steps(self._application_name, run.workflow_id)
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
        self._sample.steps[run.key] = steps
        if run.status in TERMINAL:
            size = sum(len(step.output or "") for step in steps)
            self._memory.put(self._name(run, "steps"), steps, size)
        self._sample.live = True

    def _name(self, run: Run, what: str) -> tuple[str, str, str, int, str]:
        return (self._application_name, run.workflow_id, run.status, run.updated_at, what)

    def _lacking(
        self, sides: tuple[Sequence[Run], Sequence[Run]], known: Mapping[int, object]
    ) -> list[Run]:
        """In turn of either side, so that whatever part of them is read is of both. Those that are
        gone cannot be read."""
        return [
            run
            for pair in zip_longest(*sides)
            for run in pair
            if run is not None and run.key not in known and run.deleted_at is None
        ]


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
            except Exception as error:  # noqa: BLE001 # which the group would wrap
                failures.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(AT_ONCE):
            group.start_soon(read)
    if failures:
        raise failures[0]


def _explain(sample: _Sample, of_failed: int | None, more: bool) -> Differences:
    separated = _separated(sample)
    steps = [_steps_compared(sample, 0)]
    for level in sample.levels[1:]:
        if not separated.by_input or steps[-1].first is not None:
            break
        steps.append(_steps_compared(sample, level))
    notes = _notes(sample, separated, steps, of_failed)
    return differences.differences(separated.found, steps, notes, more=more)


def _separated(sample: _Sample) -> _Separated:
    """By what the runs themselves are and were given; if that does not tell, also by what their
    ancestors were."""
    inputs = {key: text for key, text in sample.inputs.items() if text is not None}
    failed, others, levels = list(sample.failed), list(sample.others), list[int]()
    separated = None
    for level in sample.levels:
        if level and separated is not None and separated.told_by_value:
            break
        # An input that was not read is not one without fields.
        given = [
            [r for r in side if _is_given(sample, inputs, r, level)] for side in (failed, others)
        ]
        if all(given) and any(run.key in inputs for run in chain(*sample.level(level))):
            failed, others = given
            levels.append(level)
        elif separated is not None:
            continue
        known = {
            run.key: inputs[run.key]
            for each in levels
            for run in chain(*sample.level(each))
            if run.key in inputs
        }
        facts = runs.facts_of([*failed, *others], known, sample.above)
        found = discriminate(facts[: len(failed)], facts[len(failed) :])
        separated = _Separated(found, len(failed), len(others), list(levels))
    assert separated is not None
    return separated


def _is_given(sample: _Sample, inputs: Mapping[int, str], run: Run, level: int) -> bool:
    """Whether its input is known, or that of its ancestor, if it has one."""
    if level:
        generation = sample.above[level - 1]
        return run.key not in generation or generation[run.key].key in inputs
    return run.key in inputs


def _steps_compared(sample: _Sample, level: int) -> StepDifferences:
    sides = sample.of_steps(level)
    ours, theirs = ([sample.steps[r.key] for r in side if r.key in sample.steps] for side in sides)
    if not ours or not theirs or not any(runs.has_outputs(each) for each in (*ours, *theirs)):
        return StepDifferences(0, 0)
    called, first = "", sample.failed[0]
    if level:
        generation = sample.above[level - 1]
        called = runs.called(generation, level - 1)
        first = generation.get(first.key, first)
    asked = first.workflow_id if sides[0][:1] == [first] and first.key in sample.steps else None
    return differences.compare_steps(ours, theirs, called=called, workflow_id=asked)


def _notes(
    sample: _Sample,
    separated: _Separated,
    steps: Sequence[StepDifferences],
    of_failed: int | None,
) -> list[str]:
    failed = separated.failed
    of = f" of {of_failed}" if of_failed is not None and of_failed > failed else ""
    name = one_line(sample.failed[0].workflow_name or "(no name)", 80)
    known, compared = 0 in separated.levels, steps[0].of_failed > 0
    what = "the inputs of " if known else ""
    outputs = (
        f", and the outputs of the steps of {steps[0].of_failed} and {steps[0].of_others}"
        if compared
        else ""
    )
    where = "read live" if sample.live else "as the mirror keeps them"
    notes = [
        f"Looked at {what}{failed}{of} failed and {separated.others} other runs of {name} that went"
        f" well about that time{outputs}, {where}."
    ]
    above = [
        f"the {what} of {runs.called(sample.above[level - 1], level - 1)}"
        for what, levels in (
            ("inputs", [level for level in separated.levels if level]),
            ("steps", [level for level, each in enumerate(steps) if level and each.of_failed]),
        )
        for level in levels
    ]
    if above:
        notes.append(f"Looked above them as well: {', '.join(above)}.")
    lacking = [what for what, there in (("inputs", known), ("outputs", compared)) if not there]
    if lacking or sample.why_not is not None:
        why = sample.why_not
        if why is None:
            gone = any(
                all(run.deleted_at is not None for run in side)
                for side in (sample.failed, sample.others)
            )
            why = GONE if gone else PRIVATE if sample.private else "Conductor sent none"
        said = " and ".join(lacking) if lacking else "more of them"
        notes.append(f"Not looked at: {said}: {one_line(why)}.")
    return notes


def _even(others: Sequence[Run], most: int) -> list[Run]:
    step = max(1.0, len(others) / most)
    return [others[int(place * step)] for place in range(min(most, len(others)))]


def _clipped(text: str | None) -> str | None:
    return None if text is None else text[:LONGEST]
