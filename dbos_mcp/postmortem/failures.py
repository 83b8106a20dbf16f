"""Failures grouped by their causes: what failed, where it began, and what sets it apart."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, and_, case, func, or_, select, text
from sqlmodel import col

from dbos_mcp.domain import FAILED, WorkflowStatus
from dbos_mcp.errors import NotFoundError
from dbos_mcp.postmortem.causes import (
    FAILED_COLUMNS,
    Causes,
    FailedWorkflow,
    Link,
    causes_of,
    find_causes,
)
from dbos_mcp.queries.applications import require_application
from dbos_mcp.store import indexes
from dbos_mcp.store.projections.workflows import ENDED_BADLY, WorkflowRow
from dbos_mcp.store.tables import table_of

MOST_OTHERS = 50_000
"""So many other runs, the newest, are compared with the failed ones: 0.1 s."""
MOST_COMPARED = 60
"""Groups, the largest: more than one answer shows."""
EXAMPLES = 5
SAMPLED = 300
FEATURES = ("application_version", "executor_id", "queue_name", "schedule_name")
_values_of = attrgetter(*FEATURES)
MOST_FEATURES = 3
SURE = 10.83
"""Of the G-test: chance alone would come to it once in a thousand times."""

_BY_END = "ix_workflow_ended_badly"
FAILED_AT = func.coalesce(col(WorkflowRow.completed_at), col(WorkflowRow.updated_at))
"""Old SDKs leave the time of an end out."""
TIMED_OUT = and_(
    col(WorkflowRow.status) == WorkflowStatus.CANCELLED,
    col(WorkflowRow.deadline).is_not(None),
    # Some upstreams stamp whole seconds: as `causes.was_due`.
    col(WorkflowRow.deadline) <= FAILED_AT + case((FAILED_AT % 1000 == 0, 999), else_=0),
)
"""Cancelled by nobody but its deadline."""


@dataclass(frozen=True)
class Feature:
    """A value that failed runs have more often than others of the same workflow."""

    field: str
    value: str | None
    failed: int
    """How many of the failed runs have it, of `of_failed`."""
    of_failed: int
    others: int
    """How many of the other runs have it, of `of_others`."""
    of_others: int


@dataclass(frozen=True)
class FailureGroup:
    """Failures that began at the same place in the same way. Times are epoch milliseconds."""

    group: str
    """An opaque name: the same wherever and whenever such a failure is seen."""
    workflow_name: str | None
    step_name: str | None
    """None: the workflow's own code failed, or nothing is known of its steps."""
    kind: str
    """Of error, without the data in it, or how it ended."""
    error: str | None
    """Of the newest."""
    count: int
    """How often it began: each origin once."""
    workflows: int
    """How many workflows failed of it, those included that only waited for another."""
    before: int
    """`count` in the window before."""
    first_at: int
    """Of the failures that were looked at, those of the window before included."""
    last_at: int
    features: Sequence[Feature]
    """Of the largest groups alone."""
    origins: Sequence[str]
    """Ids of the newest workflows in which it began."""
    sample: Sequence[int]
    """Keys of more of them."""
    times: Sequence[int]
    """When it began, each origin once; one may have begun before what it made fail."""
    by_error: int
    """How many origins are counted here for their workflow and error alone: their steps are not
    read."""
    known: bool
    """Whether its origin is known: else the chain broke off there."""


@dataclass(frozen=True)
class Failures:
    groups: Sequence[FailureGroup]
    """The one that began most often first."""
    workflows: int
    """How many failed in the window."""
    before: int
    compared_with: int
    """How many other runs the features are compared with."""
    others_complete: bool


@dataclass(frozen=True)
class Window:
    """Of the times of failures, both ends inclusive."""

    since: int
    until: int

    @property
    def before(self) -> "Window":
        return Window(2 * self.since - self.until - 1, self.since - 1)


def list_failures(
    connection: Connection,
    application_name: str,
    window: Window,
    *,
    workflow_names: Sequence[str] = (),
    group: str | None = None,
    most_others: int = MOST_OTHERS,
    most_compared: int = MOST_COMPARED,
) -> Failures:
    """Of one application, by when they failed; `workflow_names` are those of the workflows that
    failed, wherever that began.

    Raises:
        NotFoundError: an application that was never listed, or no such group in the window.
    """
    require_application(connection, application_name)
    both = Window(window.before.since, window.until)
    failed = _failed_in(connection, application_name, both, workflow_names)
    now = [workflow for workflow in failed if workflow.failed_at >= window.since]
    before = failed[len(now) :]
    causes = causes_of(connection, application_name, failed)
    groups = _grouped(causes, now)
    groups_before = _grouped(causes, before)
    if group is not None:
        group = _called(group, causes)
        if group not in groups:
            raise NotFoundError(
                f"No failure of group {group!r} of {application_name} is in this window.",
                hint="list_failures names the groups that there are; a longer time may have it.",
            )
        groups = {group: groups[group]}
    names = {link.workflow.workflow_name for members in groups.values() for link in members.origins}
    others = _Others(connection, application_name, window, names, most_others)
    found = [_group(name, members, groups_before.get(name)) for name, members in groups.items()]
    found.sort(key=lambda each: (-each.count, -each.last_at, each.group))
    for place, each in enumerate(found[:most_compared]):
        found[place] = replace(each, features=others.features(groups[each.group].origins))
    return Failures(found, len(now), len(before), others.seen, others.complete)


def _called(group: str, causes: Causes) -> str:
    """By the name that it has, now that more of its steps may be read."""
    for link in causes.links.values():
        if link.end == "steps not read" and link.fingerprint == group:
            return causes.place_of(link).fingerprint
    return group


@dataclass(frozen=True)
class Outline:
    """A group, without what it is compared with."""

    group: str
    count: int
    last_at: int


def outline(connection: Connection, application_name: str, window: Window) -> list[Outline]:
    """The groups of `list_failures`, the one with the newest failure first: what completes a name,
    or tells whether anything has changed, takes a part of the time.

    Raises:
        NotFoundError: an application that was never listed.
    """
    require_application(connection, application_name)
    failed = _failed_in(connection, application_name, window, ())
    groups = _grouped(causes_of(connection, application_name, failed), failed)
    return [
        Outline(name, len(members.origins), members.failed[0].workflow.failed_at)
        for name, members in groups.items()
    ]


def _failed_in(
    connection: Connection, application_name: str, window: Window, names: Sequence[str]
) -> list[FailedWorkflow]:
    """The newest failure first."""
    there = _BY_END not in {index.name for index in indexes.missing(connection)}
    ended, changed = col(WorkflowRow.completed_at), col(WorkflowRow.updated_at)
    named = [col(WorkflowRow.workflow_name).in_(names)] if names else []
    found: list[FailedWorkflow] = []
    for at, ends in ((ended, []), (changed, [ended.is_(None)])):
        rows = connection.execute(
            select(*FAILED_COLUMNS)
            .with_hint(table_of(WorkflowRow), f"INDEXED BY {_BY_END}" if there else "")
            .where(
                col(WorkflowRow.application_name) == application_name,
                text(f"({ENDED_BADLY})"),
                *ends,
                at.between(window.since, window.until),
                or_(col(WorkflowRow.status).in_(FAILED), TIMED_OUT),
                *named,
            )
        )
        found += map(FailedWorkflow._make, rows.all())
    return sorted(found, key=lambda workflow: (workflow.failed_at, workflow.key), reverse=True)


@dataclass(frozen=True)
class _Members:
    failed: list[Link]
    """Of the workflows that failed, the newest first, each in its place in the chain."""
    origins: list[Link]
    place: Link
    """One whose steps tell where all of them began, if there is any."""


def _grouped(causes: Causes, workflows: Iterable[FailedWorkflow]) -> dict[str, _Members]:
    failed: defaultdict[str, list[Link]] = defaultdict(list)
    origins: defaultdict[str, dict[int, Link]] = defaultdict(dict)
    places: dict[str, Link] = {}
    for workflow in workflows:
        origin = causes.origin(workflow.key)
        place = causes.place_of(origin)
        name = place.fingerprint
        places.setdefault(name, place)
        failed[name].append(causes.links[workflow.key])
        origins[name].setdefault(origin.workflow.key, origin)
    return {
        name: _Members(members, list(origins[name].values()), places[name])
        for name, members in failed.items()
    }


def _group(name: str, members: _Members, before: _Members | None) -> FailureGroup:
    newest, place = members.origins[0], members.place
    return FailureGroup(
        group=name,
        workflow_name=place.workflow.workflow_name,
        step_name=None if place.step is None else place.step.step_name,
        kind=place.kind,
        error=newest.error,
        count=len(members.origins),
        workflows=len(members.failed),
        before=0 if before is None else len(before.origins),
        first_at=(before or members).failed[-1].workflow.failed_at,
        last_at=members.failed[0].workflow.failed_at,
        features=(),
        origins=[link.workflow.workflow_id for link in members.origins[:EXAMPLES]],
        sample=[link.workflow.key for link in members.origins[:SAMPLED]],
        times=[link.workflow.failed_at for link in members.origins],
        by_error=sum(link.fingerprint != name for link in members.origins),
        known=place.end in ("step", "code", "recovered too often", "timed out", "cancelled"),
    )


class _Others:
    """All runs of some workflows that ended in a window, failed or not, by their features; where
    they are too many, the newest."""

    def __init__(
        self,
        connection: Connection,
        application_name: str,
        window: Window,
        names: Iterable[str | None],
        most: int,
    ) -> None:
        ended = col(WorkflowRow.completed_at)
        here = col(WorkflowRow.application_name) == application_name
        newest = select(ended).where(here, ended <= window.until).order_by(ended.desc())
        first = connection.execute(newest.offset(most).limit(1)).scalar()
        self._since = window.since if first is None else max(window.since, first + 1)
        self.complete = self._since == window.since
        columns = [col(getattr(WorkflowRow, name)) for name in ("workflow_name", *FEATURES)]
        wanted = set(names)
        self._counts: defaultdict[str | None, Counter[tuple[Any, ...]]] = defaultdict(Counter)
        for name, *values, count in connection.execute(
            select(*columns, func.count())
            .where(here, ended.between(self._since, window.until))
            .group_by(*columns)
        ):
            if name in wanted:
                self._counts[name][tuple(values)] += count
        self.seen = sum(counts.total() for counts in self._counts.values())

    def features(self, origins: Sequence[Link]) -> list[Feature]:
        """What the runs in which failures began have more often than others of their workflows."""
        failed: Counter[tuple[Any, ...]] = Counter(
            _values_of(link.workflow) for link in origins if link.workflow.failed_at >= self._since
        )
        everyone: Counter[tuple[Any, ...]] = Counter()
        for name in {link.workflow.workflow_name for link in origins}:
            everyone.update(self._counts[name])
        rest = everyone - failed
        found = [
            feature
            for place, name in enumerate(FEATURES)
            if name in features_of(origins[0].workflow.status)
            for feature in over_represented(name, _by(failed, place), _by(rest, place))
        ]
        found.sort(key=lambda feature: -g_test(feature))
        return found[:MOST_FEATURES]


def features_of(status: str) -> Sequence[str]:
    """Whatever ends otherwise than by an error loses its queue."""
    if status == WorkflowStatus.ERROR:
        return FEATURES
    return [name for name in FEATURES if name != "queue_name"]


def _by(counts: Mapping[tuple[Any, ...], int], place: int) -> Counter[Any]:
    by: Counter[Any] = Counter()
    for values, count in counts.items():
        by[values[place]] += count
    return by


def over_represented(name: str, failed: Counter[Any], rest: Counter[Any]) -> list[Feature]:
    of_failed, of_others = failed.total(), rest.total()
    features = [
        Feature(name, value, count, of_failed, rest[value], of_others)
        for value, count in failed.items()
        if of_others and count * of_others > rest[value] * of_failed
    ]
    return [feature for feature in features if g_test(feature) >= SURE]


def g_test(feature: Feature) -> float:
    """How surely the difference is no chance: twice the log-likelihood ratio of the 2 by 2 table
    (https://en.wikipedia.org/wiki/G-test)."""
    with_it, without = feature.failed, feature.of_failed - feature.failed
    others, others_without = feature.others, feature.of_others - feature.others
    total = feature.of_failed + feature.of_others
    g = 0.0
    for cell, row, column in (
        (with_it, feature.of_failed, with_it + others),
        (without, feature.of_failed, without + others_without),
        (others, feature.of_others, with_it + others),
        (others_without, feature.of_others, without + others_without),
    ):
        if cell:
            g += cell * log(cell * total / (row * column))
    return 2 * g


def failed_alike(
    connection: Connection, application_name: str, key: int, window: Window
) -> list[list[Link]]:
    """The chains of the failures in a window that began as that of a workflow did, the newest
    first, its own included wherever it is; none if it did not fail."""
    own = find_causes(connection, application_name, [key])
    if key not in own.links:
        return []
    failed = _failed_in(connection, application_name, window, ())
    if all(workflow.key != key for workflow in failed):
        failed.append(own.links[key].workflow)
    causes = causes_of(connection, application_name, failed)
    group = causes.place_of(causes.origin(key)).fingerprint
    return [
        causes.chain(each)
        for each in causes.links
        if causes.place_of(causes.origin(each)).fingerprint == group
    ]
