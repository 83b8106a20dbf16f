"""Where failed runs of a workflow part from those that went well: the first step whose output is of
another kind, which is often one before the step that raised."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from dbos_mcp.domain import format_duration, one_line
from dbos_mcp.postmortem.causes import INTERNAL
from dbos_mcp.postmortem.discriminators import Discriminators
from dbos_mcp.postmortem.discriminators import lines as lines_of_discriminators
from dbos_mcp.postmortem.failures import SURE, Feature, g_test
from dbos_mcp.postmortem.runs import Outcome
from dbos_mcp.postmortem.values import shape_of
from dbos_mcp.postmortem.waits import GET_RESULT

RAISED = "raised"
WITHHELD = "DBOS.sleep"
"""The output of a sleep is its end, and that of no other step is a time by its nature."""
LIKELY = 5.0
"""Of the G-test: once in forty times chance alone would come to it."""
MOST_NAMED = 3
SLOWER = 2
SLOWER_MS = 100
VALUE_CHARACTERS = 80
LINE_CHARACTERS = 400

Place = tuple[str, int]
"""The name of a step, and the how-manieth of that name it is."""


@dataclass(frozen=True)
class Kinds:
    """Of the outputs of one step."""

    place: Place
    step_id: int
    """In the first of the failed runs that have it."""
    failed: Counter[str]
    """By their shapes."""
    others: Counter[str]
    examples: Mapping[str, str | None]
    """An output of each shape."""
    in_the_first: int | None = None
    """Which step of the first failed run it is, if that has such an output as well."""

    @property
    def foreign(self) -> Counter[str]:
        """Kinds that failed runs have alone."""
        return Counter({kind: n for kind, n in self.failed.items() if kind not in self.others})

    @property
    def feature(self) -> Feature:
        """How many runs have such a kind."""
        foreign = self.foreign.total()
        return Feature(self.place[0], None, foreign, self.failed.total(), 0, self.others.total())

    @property
    def surprise(self) -> float:
        """How surely that is no chance: where each of the others has a kind of its own, as random
        texts do, one more kind is nothing."""
        alone = sum(count == 1 for count in self.others.values())
        random = len(self.others) > 1 and 2 * alone >= self.others.total()
        return 0.0 if random else g_test(self.feature)


@dataclass(frozen=True)
class StepDifferences:
    """Of runs, or of their ancestors."""

    of_failed: int
    of_others: int
    first: Kinds | None = None
    """The first step of which most failed runs have an output of a kind that no other run has."""
    compared: int = 0
    """Steps before the first that raised, of which outputs of both sides are known."""
    raised: Place | None = None
    missing: Sequence[tuple[str, int]] = ()
    """Steps that most others have before that, and failed runs do not: how many others."""
    extra: Sequence[tuple[str, int]] = ()
    """Steps that failed runs have, and no other: how many failed runs."""
    slower: Sequence[tuple[str, float, int]] = ()
    """Steps that took failed runs longer than any other: their median, and the most of others."""
    called: str = ""
    """Whose steps these are, if they are of ancestors."""
    workflow_id: str | None = None
    """Of the first failed run, or of its ancestor."""

    @property
    def sure(self) -> bool:
        return self.first is not None and self.first.surprise >= SURE


@dataclass(frozen=True)
class Differences:
    """What sets failed runs of a workflow apart from runs of it that went well."""

    first_step: int | None = None
    """The first step of which the output is of another kind, in the run that was asked about, or in
    an ancestor of it."""
    first_workflow_id: str | None = None
    """Of that step."""
    lines: Sequence[str] = ()
    discriminators: Discriminators | None = None
    steps: Sequence[StepDifferences] = ()
    """Of the runs, then of their parents and so on, as far up as was looked."""


def aligned(steps: Sequence[Outcome]) -> dict[Place, Outcome]:
    """By name, and the how-manieth of that name it is; the result of a child by what started it."""
    children = {
        step.child_workflow_id: step.step_name
        for step in steps
        if step.child_workflow_id is not None and step.step_name != GET_RESULT
    }
    seen: Counter[str] = Counter()
    found = {}
    for step in sorted(steps, key=lambda each: each.step_id):
        name = step.step_name
        if name == GET_RESULT and step.child_workflow_id in children:
            name = f"{name} of {children[step.child_workflow_id]}"
        seen[name] += 1
        found[name, seen[name]] = step
    return found


def compare_steps(
    failed: Sequence[Sequence[Outcome]],
    others: Sequence[Sequence[Outcome]],
    *,
    called: str = "",
    workflow_id: str | None = None,
) -> StepDifferences:
    """Of failed runs, the one that was asked about first, and of runs that went well; or of their
    ancestors, and what those are called."""
    ours, theirs = [aligned(steps) for steps in failed], [aligned(steps) for steps in others]
    order: dict[Place, int] = {}
    for run in (*ours, *theirs):
        for place, step in run.items():
            order.setdefault(place, step.step_id)
    raised, compared, first = None, 0, None
    for place in sorted(order, key=lambda each: order[each]):
        kinds = _kinds(place, ours, theirs)
        if raised is None and _mostly(kinds.failed[RAISED], len(ours)):
            raised = place
        if raised is not None or not kinds.failed or not kinds.others or place[0] == WITHHELD:
            continue
        compared += 1
        if (
            first is None
            and _mostly(kinds.foreign.total(), kinds.failed.total())
            and kinds.surprise >= LIKELY
        ):
            first = kinds
    until = order[raised] if raised is not None else max(order.values(), default=0) + 1
    missing = [
        (_named(place), count)
        for place, step_id in order.items()
        if step_id < until
        and _mostly(count := sum(place in run for run in theirs), len(theirs))
        and not any(place in run for run in ours)
    ]
    extra = [
        (_named(place), count)
        for place in order
        if place != raised
        and _mostly(count := sum(place in run for run in ours), len(ours))
        and theirs
        and not any(place in run for run in theirs)
    ]
    return StepDifferences(
        len(failed),
        len(others),
        first,
        compared,
        raised,
        missing,
        extra,
        _slower(ours, theirs),
        called,
        workflow_id,
    )


def lines(found: StepDifferences, *, more: bool = False) -> list[str]:
    """In words; `more`: also steps that are missing, or are extra, or took longer."""
    if not found.of_failed or not found.of_others:
        return []
    said = []
    if found.first is not None:
        said.append(_first(found.first, found))
    elif found.compared:
        before = f" before {_named(found.raised)} raised" if found.raised is not None else ""
        steps = f"{found.compared} steps" if found.compared > 1 else "only step"
        said.append(
            f"The outputs of the {steps}{before} are of the same kinds in {found.of_failed} failed"
            f" and {found.of_others} other runs."
        )
    if more:
        for what, of, runs in (
            ("only failed runs have", found.extra, f"of {found.of_failed}"),
            ("failed runs lack, which others have", found.missing, f"of {found.of_others}"),
        ):
            if of:
                named = ", ".join(f"{name} ({count} {runs})" for name, count in of[:MOST_NAMED])
                said.append(f"Steps that {what}: {named}.")
        for name, ours, most in found.slower[:MOST_NAMED]:
            said.append(
                f"{name} took failed runs {format_duration(int(ours))} (median), and no other more"
                f" than {format_duration(most)}."
            )
    return said


def differences(
    discriminators: Discriminators,
    steps: Sequence[StepDifferences],
    notes: Sequence[str],
    *,
    more: bool = False,
) -> Differences:
    """Both, in words."""
    first = next((each for each in steps if each.first is not None), None)
    place = None if first is None or first.first is None else first.first.in_the_first
    workflow_id = None if first is None or place is None else first.workflow_id
    of_steps = [
        line
        for each in steps
        # Of ancestors there is nothing to tell but where it began; then nothing began below.
        if not each.called or each.first is not None
        for line in lines(
            each if first in (None, each) else replace(each, compared=0),
            more=more and not each.called,
        )
    ]
    said = [*lines_of_discriminators(discriminators), *of_steps, *notes]
    # The first step is the surest hint of what to mend, behind the field that is to blame.
    said.sort(key=lambda line: line.startswith("Not what"))
    return Differences(
        None if workflow_id is None else place,
        workflow_id,
        [one_line(line, LINE_CHARACTERS) for line in said],
        discriminators,
        steps,
    )


def _kinds(
    place: Place,
    failed: Sequence[Mapping[Place, Outcome]],
    others: Sequence[Mapping[Place, Outcome]],
) -> Kinds:
    examples: dict[str, str | None] = {}
    counts: list[Counter[str]] = []
    for runs in (failed, others):
        counts.append(Counter())
        for run in runs:
            if place in run:
                kind = kind_of_output(run[place])
                counts[-1][kind] += 1
                examples.setdefault(kind, run[place].output)
    step_id = next((run[place].step_id for run in (*failed, *others) if place in run), 0)
    asked = failed[0].get(place) if failed else None
    in_it = asked is not None and kind_of_output(asked) not in counts[1]
    return Kinds(
        place, step_id, counts[0], counts[1], examples, asked.step_id if asked and in_it else None
    )


def kind_of_output(step: Outcome) -> str:
    return RAISED if step.error is not None else one_line(shape_of(step.output), VALUE_CHARACTERS)


def _mostly(count: int, of: int) -> bool:
    return count > 0 and 2 * count >= of


def _slower(
    failed: Sequence[Mapping[Place, Outcome]], others: Sequence[Mapping[Place, Outcome]]
) -> list[tuple[str, float, int]]:
    took: defaultdict[Place, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, runs in enumerate((failed, others)):
        for run in runs:
            for place, step in run.items():
                if step.duration_ms is not None and place[0] != WITHHELD:
                    took[place][side].append(step.duration_ms)
    found = [
        (_named(place), median(ours), max(theirs))
        for place, (ours, theirs) in took.items()
        if len(ours) >= MOST_NAMED
        and len(theirs) >= MOST_NAMED
        and median(ours) > max(SLOWER * max(theirs), SLOWER_MS)
    ]
    return sorted(found, key=lambda each: -each[1])


def _named(place: Place) -> str:
    name, turn = place
    return one_line(name, VALUE_CHARACTERS) + (f" ({turn}.)" if turn > 1 else "")


def _first(kinds: Kinds, found: StepDifferences) -> str:
    feature = kinds.feature
    ours = ", ".join(_kind(kinds, kind) for kind, _ in kinds.foreign.most_common(MOST_NAMED))
    theirs = ", ".join(_kind(kinds, kind) for kind, _ in kinds.others.most_common(MOST_NAMED))
    before = ""
    if found.raised is not None:
        before = f", before {_named(found.raised)} raised"
    chance = "" if kinds.surprise >= SURE else "; so few that it may be chance"
    of = f" of {found.called}" if found.called else ""
    awaited = " (a child's result)" if kinds.place[0].startswith(INTERNAL) else ""
    return (
        f"The first step whose output differs in kind is {_named(kinds.place)}{awaited}, step"
        f" {kinds.step_id}{of}{before}: {ours} in {feature.failed} of {feature.of_failed} failed"
        f" and 0 of {feature.of_others} others, which have {theirs}{chance}."
    )


def _kind(kinds: Kinds, kind: str) -> str:
    example = kinds.examples.get(kind)
    if example is None or kind == example:
        return kind
    return f"{kind} such as {one_line(example, VALUE_CHARACTERS)}"
