"""What reports are about: everything that they show, read and without secrets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dbos_mcp.domain import FAILED, IN_FLIGHT, WorkflowStatus, format_duration, one_line
from dbos_mcp.postmortem import discriminators
from dbos_mcp.postmortem.case import Case, Traced
from dbos_mcp.postmortem.diagnosis import Diagnosis
from dbos_mcp.postmortem.differences import LINE_CHARACTERS, Differences
from dbos_mcp.postmortem.discriminators import Separator
from dbos_mcp.postmortem.failures import FailureGroup, Failures, Window
from dbos_mcp.postmortem.timeline import Timeline
from dbos_mcp.queries.history import HistoryEntry
from dbos_mcp.queries.steps import StepItem
from dbos_mcp.report.histogram import Histogram, histogram

MOST_STEPS = 200
MOST_HISTORY = 200
MOST_GROUPS = 100
MOST_EXAMPLES = 3
"""Groups of failures that are shown with a timeline of one of them."""


@dataclass(frozen=True)
class Source:
    """Of what a report is, and how it was made."""

    application_name: str
    made_at: int
    freshness: str
    """In words."""
    redacted: Mapping[str, int]
    """How many texts of which kind were taken out."""
    warnings: Sequence[str] = ()
    """What was asked for in vain."""


@dataclass(frozen=True)
class Fact:
    label: str
    text: str = ""
    at: int | None = None
    is_name: bool = False
    """An id, or another word that the application made up."""


@dataclass(frozen=True)
class Steps:
    """Of one workflow, the last of them."""

    workflow_id: str
    items: Sequence[StepItem]
    left_out: int
    failed_at: int | None
    """The id of the step in which the workflow failed."""


@dataclass(frozen=True)
class Separation:
    """What sets failed runs apart from those that went well."""

    separators: Sequence[Separator]
    sure: bool
    """More than chance would come to."""
    lines: Sequence[str]
    """All else that is to be said of it."""

    def __bool__(self) -> bool:
        return bool(self.separators or self.lines)


@dataclass(frozen=True)
class GroupOverTime:
    group: FailureGroup
    histogram: Histogram
    trend: str


@dataclass(frozen=True)
class WorkflowReport:
    source: Source
    case: Case
    diagnosis: Diagnosis
    timeline: Timeline
    history: Sequence[HistoryEntry]
    group: GroupOverTime | None
    """The failures that began as this one did, within a day."""

    @property
    def title(self) -> str:
        workflow = self.case.workflow
        return f"{workflow.status}: {workflow.workflow_name or 'workflow'} {workflow.workflow_id}"

    @property
    def kind(self) -> str:
        return kind_of_status(self.case.workflow.status)

    @property
    def error(self) -> str | None:
        """Where it began."""
        origin = self.case.origin
        return origin.link.error if origin.link is not None else origin.workflow.error

    @property
    def evidence(self) -> Sequence[str]:
        """What is told elsewhere left out."""
        differences = self.case.differences
        said = set() if differences is None else set(differences.lines)
        return [line for line in self.diagnosis.evidence if line not in said]

    @property
    def separation(self) -> Separation:
        return separation(self.case.differences)

    @property
    def facts(self) -> Sequence[Fact]:
        return [fact for fact in _facts(self.case) if fact.text or fact.at is not None]

    @property
    def steps(self) -> Sequence[Steps]:
        """Of the workflow, and of the one in which its failure began."""
        first, *others = self.case.chain
        return [_steps(each) for each in (first, *others[-1:]) if each.steps]

    @property
    def shown_history(self) -> Sequence[HistoryEntry]:
        return self.history[-MOST_HISTORY:]

    @property
    def calls(self) -> Sequence[tuple[str, str]]:
        """Ready to be made, and why."""
        name = self.source.application_name
        return [(call.written(name), call.why) for call in self.diagnosis.next]


@dataclass(frozen=True)
class Example:
    """One of a group, the newest, and what sets the group apart."""

    group: FailureGroup
    number: int
    timeline: Timeline
    separation: Separation


@dataclass(frozen=True)
class FailuresReport:
    source: Source
    window: Window
    failures: Failures
    gap: str | None
    """What the window reaches behind."""
    examples: Sequence[Example]

    @property
    def title(self) -> str:
        return f"Failures of {self.source.application_name}"

    @property
    def histogram(self) -> Histogram:
        times = [time for group in self.failures.groups for time in group.times]
        return histogram(times, self.window)

    @property
    def groups(self) -> Sequence[GroupOverTime]:
        return [over_time(group, self.window) for group in self.failures.groups[:MOST_GROUPS]]

    @property
    def groups_left_out(self) -> int:
        return max(0, len(self.failures.groups) - MOST_GROUPS)

    @property
    def began(self) -> int:
        return sum(group.count for group in self.failures.groups)

    @property
    def trend(self) -> str:
        return trend(self.failures.workflows, self.failures.before)


def over_time(group: FailureGroup, window: Window) -> GroupOverTime:
    return GroupOverTime(group, histogram(group.times, window), trend(group.count, group.before))


def separation(differences: Differences | None) -> Separation:
    if differences is None:
        return Separation((), False, ())
    found = differences.discriminators
    if found is None or not (found.separating or found.perhaps):
        return Separation((), False, differences.lines)
    counted = [one_line(line, LINE_CHARACTERS) for line in discriminators.lines(found)]
    said = {line for line in counted if not line.startswith("Not what")}
    lines = [line for line in differences.lines if line not in said]
    return Separation(found.separating or found.perhaps, bool(found.separating), lines)


def trend(count: int, before: int) -> str:
    """Against as much time before."""
    if not before:
        return "new" if count else "none"
    if count == before:
        return "as many as before"
    if count >= 2 * before:
        return f"{count / before:.3g} times as many"
    return f"{100 * (count - before) / before:+.0f}%"


def kind_of_status(status: str) -> str:
    """In which colour it is shown."""
    if status in FAILED:
        return "failed"
    if status == WorkflowStatus.SUCCESS:
        return "good"
    return "waiting" if status in IN_FLIGHT else "over"


def _facts(case: Case) -> list[Fact]:
    workflow = case.workflow
    took = "" if workflow.duration_ms is None else format_duration(workflow.duration_ms)
    waited = "" if workflow.queue_wait_ms is None else format_duration(workflow.queue_wait_ms)
    timeout = "" if workflow.timeout_ms is None else format_duration(workflow.timeout_ms)
    partition = f" ({workflow.queue_partition_key})" if workflow.queue_partition_key else ""
    return [
        Fact("Application", case.application_name, is_name=True),
        Fact("Created", at=workflow.created_at),
        Fact("Started", at=workflow.dequeued_at),
        Fact("Ended", at=workflow.completed_at),
        Fact("Took", took),
        Fact("Waited in queue", waited),
        Fact("Queue", f"{workflow.queue_name or ''}{partition}", is_name=True),
        Fact("Priority", str(workflow.priority) if workflow.priority else ""),
        Fact("Version", workflow.application_version or "", is_name=True),
        Fact("Executor", workflow.executor_id or "", is_name=True),
        Fact("Delayed until", at=workflow.delay_until),
        Fact("Timeout", timeout),
        Fact("Deadline", at=workflow.deadline),
        Fact("Schedule", workflow.schedule_name or "", is_name=True),
        Fact("User", workflow.authenticated_user or "", is_name=True),
        Fact("Class", workflow.class_name or "", is_name=True),
        Fact("Deduplication", workflow.deduplication_id or "", is_name=True),
        Fact("Parent", workflow.parent_workflow_id or "", is_name=True),
        Fact("Forked from", workflow.forked_from or "", is_name=True),
        Fact("Gone upstream", at=workflow.deleted_at),
    ]


def _steps(traced: Traced) -> Steps:
    failed = traced.failed_step
    return Steps(
        traced.workflow.workflow_id,
        traced.steps[-MOST_STEPS:],
        max(0, len(traced.steps) - MOST_STEPS),
        None if failed is None else failed.step_id,
    )
