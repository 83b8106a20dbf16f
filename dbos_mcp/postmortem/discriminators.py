"""What separates failed runs from others: which field has which value, kind of value, or number
beyond which limit, in how many of either. Pure, and the same for the same runs.

Whoever looks at hundreds of conditions finds one that chance alone made: so the more there are, the
surer a difference has to be.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

from dbos_mcp.domain import one_line
from dbos_mcp.postmortem.failures import SURE, Feature, g_test
from dbos_mcp.postmortem.values import Opaque, Scalar, shape, told

MOST_FIELDS = 400
MOST_SEPARATORS = 5
MOST_ALIKE = 3
MOST_COMMON = 6
CHANCE = 3.84
"""Of the G-test: below it, a difference is as good as none."""
FEW_VALUES = 12
"""A field with more than that is not the same in many runs by its nature."""
SAYS_CHARACTERS = 120
TOO_FEW = "too few to tell"
OF_VALUE, OF_PRESENCE, OF_LIMIT, OF_KIND = range(4)
"""Ranks of conditions: the plainest first."""
ID_SHARE = 20
"""A field of which more than one in so many values is of one run alone may be an id."""
LARGEST = 1e300
_NUMBER = re.compile(r"[+-]?\d{1,15}(?:\.\d{1,15})?")

Facts = Mapping[str, tuple[Scalar, ...]]
"""Of a run, by field: mostly one value, several of a field inside of a list."""


@dataclass(frozen=True)
class Separator:
    """A condition that failed runs meet more often than others."""

    says: str
    feature: Feature
    alike: Sequence[str] = ()
    """Other conditions that the very same runs meet."""
    kind_alone: bool = False
    """It tells of which kind a value is, and not which."""

    @property
    def perfect(self) -> bool:
        return self.feature.failed == self.feature.of_failed and not self.feature.others


@dataclass(frozen=True)
class Discriminators:
    of_failed: int
    of_others: int
    separating: Sequence[Separator]
    """The surest first."""
    perhaps: Sequence[Separator]
    """All failed runs meet it and no other, but they are too few to tell that from chance."""
    common: Sequence[Feature]
    """What does not separate them."""


@dataclass(frozen=True)
class _Condition:
    field: str
    value: str
    says: str
    rank: int
    runs: int
    """A bit for each run that meets it, failed ones first."""


def discriminate(failed: Sequence[Facts], others: Sequence[Facts]) -> Discriminators:
    """Give the fields that are to be told first of all first."""
    if not failed or not others:
        return Discriminators(len(failed), len(others), [], [], [])
    counting = _Counting(len(failed), len(others))
    runs = [*failed, *others]
    fields = list(islice(dict.fromkeys(field for run in runs for field in run), MOST_FIELDS))
    conditions = [
        condition for field in fields for condition in _conditions(field, runs, len(failed))
    ]
    by_runs: defaultdict[int, list[_Condition]] = defaultdict(list)
    for condition in conditions:
        by_runs[condition.runs].append(condition)
    tried = [
        counting.separator(alike)
        for mask, alike in by_runs.items()
        if counting.is_over_represented(mask)
    ]
    bar = SURE + 2 * math.log(max(1, len(tried))) if len(failed) > 1 else math.inf
    tried.sort(key=lambda each: (-g_test(each.feature), each.says))
    surest = g_test(tried[0].feature) if tried else 0.0
    separating = [
        each for each in tried if g_test(each.feature) >= max(bar, surest / 2)
    ][:MOST_SEPARATORS]  # fmt: skip
    perhaps = [each for each in tried if each.perfect and g_test(each.feature) < bar]
    telling = {each.feature.field for each in (*separating, *perhaps)}
    return Discriminators(
        len(failed),
        len(others),
        separating,
        perhaps[:MOST_ALIKE],
        list(islice(_common(conditions, counting, telling), MOST_COMMON)),
    )


def lines(found: Discriminators, *, others: str = "others") -> list[str]:
    """In words, with the numbers."""
    if not found.of_failed or not found.of_others:
        return []
    said = [
        f"{each.says}: {_counts(each.feature, others)}{_alike(each)}." for each in found.separating
    ]
    if not said:
        for each in found.perhaps:
            counts = _counts(each.feature, others)
            said.append(f"{each.says}: {counts}: {TOO_FEW}{_alike(each)}.")
    if not said:
        said.append("No field that was looked at separates them.")
    if found.common:
        common = ", ".join(
            f"{each.field} {each.value} ({each.failed} of {each.of_failed},"
            f" {each.others} of {each.of_others})"
            for each in found.common
        )
        said.append(f"Not what separates them: {common}.")
    return said


def _counts(feature: Feature, others: str) -> str:
    return (
        f"{feature.failed} of {feature.of_failed} failed,"
        f" {feature.others} of {feature.of_others} {others}"
    )


def _alike(separator: Separator) -> str:
    if not separator.alike:
        return ""
    more = len(separator.alike) - MOST_ALIKE
    named = "; ".join(separator.alike[:MOST_ALIKE])
    return f" (the same runs: {named}" + (f" and {more} more" if more > 0 else "") + ")"


class _Counting:
    def __init__(self, of_failed: int, of_others: int) -> None:
        self._of_failed = of_failed
        self._of_others = of_others
        self._failed = (1 << of_failed) - 1

    def feature(self, field: str, value: str, runs: int) -> Feature:
        failed = (runs & self._failed).bit_count()
        others = (runs & ~self._failed).bit_count()
        return Feature(field, value, failed, self._of_failed, others, self._of_others)

    def is_over_represented(self, runs: int) -> bool:
        each = self.feature("", "", runs)
        return each.failed * each.of_others > each.others * each.of_failed

    def separator(self, alike: Iterable[_Condition]) -> Separator:
        """Of conditions that the same runs meet, told by the plainest; one of each field."""
        by_field: dict[str, _Condition] = {}
        for condition in sorted(alike, key=lambda each: (each.rank, len(each.says), each.says)):
            by_field.setdefault(condition.field, condition)
        first, *rest = by_field.values()
        feature = self.feature(first.field, first.value, first.runs)
        kind_alone = first.rank == OF_KIND
        return Separator(first.says, feature, [each.says for each in rest], kind_alone)


def _conditions(field: str, runs: Sequence[Facts], of_failed: int) -> Iterator[_Condition]:
    """That a failed run meets, and at least one run does not need to."""
    masks: defaultdict[tuple[type, Scalar], int] = defaultdict(int)
    there = 0
    for place, run in enumerate(runs):
        values = run.get(field)
        if values is not None:
            there |= 1 << place
            for value in values:
                masks[type(value), value] |= 1 << place
    failed, everyone = (1 << of_failed) - 1, (1 << len(runs)) - 1
    name = one_line(field, SAYS_CHARACTERS)
    by_value: defaultdict[str, int] = defaultdict(int)
    by_shape: defaultdict[str, int] = defaultdict(int)
    for (_, value), mask in masks.items():
        by_value[one_line(told(value), SAYS_CHARACTERS)] |= mask
        if isinstance(value, str | Opaque):
            by_shape[one_line(shape(value), SAYS_CHARACTERS)] |= mask
    for value, mask in _met_often(by_value, there, of_failed):
        if mask & failed:
            yield _Condition(field, value, f"{name} = {value}", OF_VALUE, mask)
    if there != everyone:
        for says, mask in (("is there", there), ("is missing", everyone & ~there)):
            if mask & failed:
                yield _Condition(field, says, f"{name} {says}", OF_PRESENCE, mask)
    yield from _limits(field, name, runs, of_failed)
    if len(by_shape) > 1:
        for kind, mask in _met_often(by_shape, there, of_failed):
            if mask & failed:
                yield _Condition(field, kind, f"{name} looks like {kind}", OF_KIND, mask)


def _met_often(masks: Mapping[str, int], there: int, of_failed: int) -> Iterator[tuple[str, int]]:
    """One failed run of many is no pattern; nor is the only one, where each has a value of its own,
    as ids are."""
    failed = (1 << of_failed) - 1
    alone = sum(mask.bit_count() == 1 for mask in masks.values())
    ids = ID_SHARE * alone > there.bit_count()
    for value, mask in masks.items():
        few = 2 if of_failed > 1 or (ids and mask.bit_count() == 1) else 1
        if (mask & failed).bit_count() >= few:
            yield value, mask


def _limits(field: str, name: str, runs: Sequence[Facts], of_failed: int) -> Iterator[_Condition]:
    """The limit above, and the one below which the failed runs stand out most."""
    numbers = [_numbers(run.get(field, ())) for run in runs]
    if of_failed < 2 or sum(1 for each in numbers if each) < len(runs) // 2:
        return
    for says, extreme, sign in ((">", max, 1), ("<", min, -1)):
        ordered = sorted(
            ((sign * extreme(each), place) for place, each in enumerate(numbers) if each),
            reverse=True,
        )
        best: tuple[float, int, float] | None = None
        mask = a = b = 0
        for (value, place), (following, _) in pairwise(ordered):
            mask |= 1 << place
            a, b = (a + 1, b) if place < of_failed else (a, b + 1)
            if value == following:
                continue
            of_others = len(runs) - of_failed
            if a * of_others <= b * of_failed:
                continue
            g = g_test(Feature("", None, a, of_failed, b, of_others))
            if best is None or g > best[0]:
                best = (g, mask, sign * following)
        if best is not None:
            limit = told(_whole(best[2]))
            yield _Condition(field, f"{says} {limit}", f"{name} {says} {limit}", OF_LIMIT, best[1])


def _numbers(values: Iterable[Scalar]) -> list[float]:
    """Also those that are written as texts, as decimals mostly are."""
    return [
        float(value)
        for value in values
        if (isinstance(value, str) and _NUMBER.fullmatch(value))
        or (isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST)
    ]


def _whole(number: float) -> int | float:
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


def _common(
    conditions: Sequence[_Condition], counting: _Counting, telling: set[str]
) -> Iterator[Feature]:
    """The most frequent value of each field that takes few, and is as frequent in others."""
    values: defaultdict[str, list[Feature]] = defaultdict(list)
    for each in conditions:
        if each.rank == OF_VALUE and each.field not in telling:
            values[each.field].append(counting.feature(each.field, each.value, each.runs))
    for features in values.values():
        first = max(features, key=lambda each: each.failed)
        if (
            len(features) <= FEW_VALUES
            and 2 * first.failed >= first.of_failed
            and g_test(first) < CHANCE
        ):
            yield first
