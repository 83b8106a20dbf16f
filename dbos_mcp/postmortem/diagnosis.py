"""From a case to a verdict: what was found, the evidence, what is not known, what to do next."""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dbos_mcp.domain import BROKEN_OFF, FAILED, IN_FLIGHT, WAITING, WorkflowStatus
from dbos_mcp.postmortem.case import UP_TO_DATE_MS, Case, Traced
from dbos_mcp.postmortem.findings import FINDINGS, HEALTHY, Finding, culprit, next_in
from dbos_mcp.postmortem.forks import Advice, BadStep, advise, last_replayed, told
from dbos_mcp.postmortem.peers import FEWEST
from dbos_mcp.postmortem.words import at, many, name, some
from dbos_mcp.settings import DAY_MS

MOST_DECISIVE = 5
MOST_CALLS = 3
_LONGEST_ID = 400
"""In bytes, as it is written."""


@dataclass(frozen=True)
class Call:
    """A tool call, ready to be made."""

    tool: str
    arguments: Mapping[str, str | int | bool]
    why: str
    command: bool = False

    def written(self, application_name: str, profile: str | None = None) -> str:
        """As an agent calls it."""
        target = {"profile": profile} if profile is not None else {}
        arguments = {**target, "application_name": application_name, **self.arguments}
        given = ", ".join(f"{name}={_exactly(value)}" for name, value in arguments.items())
        return f"{self.tool}({given})"

    @property
    def described(self) -> str:
        """In no form that could be taken for a call."""
        given = ", ".join(f"{name} {_exactly(value)}" for name, value in self.arguments.items())
        return f"{self.tool} with {given}"


def _exactly(value: object) -> str:
    """As JSON, in which what no terminal shows is spelled out."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


@dataclass(frozen=True)
class Diagnosis:
    verdict: str
    chain: Sequence[str]
    """A line for each workflow from the one that was asked about down to the last."""
    evidence: Sequence[str]
    not_known: Sequence[str]
    next: Sequence[Call]
    out_of_reach: Sequence[Call]
    """What would help as well, and whoever asks cannot call."""
    findings: Sequence[Finding]


def diagnose(case: Case, tools: Collection[str] | None = None) -> Diagnosis:
    """`tools` are those that whoever asks can call; None: any."""
    findings = [found for each in FINDINGS if (found := each(case)) is not None]
    # What does not fit into an answer is left out at its end.
    decisive = [finding for finding in findings if finding.decisive]
    advice = advise(
        case.chain,
        bad=_bad_step(case),
        above=case.detail.ancestors.items,
        replayed=_replayed(case, findings),
    )
    calls = _next(case, findings, advice)
    reached = [call for call in calls if tools is None or call.tool in tools]
    evidence = [
        *(f"{each.says}." for each in decisive[MOST_DECISIVE:]),
        *_differences(case, decisive[:MOST_DECISIVE]),
        *told(advice),
        *(line for finding in findings for line in finding.evidence),
        *_forks_so_far(case),
    ]
    return Diagnosis(
        verdict=". ".join(each.says for each in decisive[:MOST_DECISIVE]) + "."
        if decisive
        else f"Nothing is known to be wrong with it; it is {case.workflow.status}.",
        chain=_chain(case),
        evidence=list(dict.fromkeys(evidence)),
        not_known=_not_known(case, findings),
        next=reached[:MOST_CALLS],
        out_of_reach=[call for call in calls if call not in reached and call.command],
        findings=findings,
    )


def _bad_step(case: Case) -> BadStep | None:
    """Whose output the error complains of, else the first that differs from those of others."""
    made_by = culprit(case)
    if made_by is not None:
        return BadStep(case.origin.workflow.workflow_id, made_by[0].step_id)
    found = case.differences
    if found is None or found.first_step is None or found.first_workflow_id is None:
        return None
    return BadStep(found.first_workflow_id, found.first_step)


def _differences(case: Case, told: Sequence[Finding]) -> list[str]:
    """But what the verdict says already."""
    said = {f"{finding.says}." for finding in told}
    lines = () if case.differences is None else case.differences.lines
    return [line for line in lines if line not in said]


def _replayed(case: Case, findings: Sequence[Finding]) -> int | None:
    """The last step that a fork replayed, only to fail as its source did."""
    if any(finding.kind == "bad fork" for finding in findings):
        return last_replayed(case.chain[0], case.source)
    tried = case.tried
    if tried is None or len(case.chain) > 1 or tried.workflow.error != case.workflow.error:
        return None
    return last_replayed(tried, case.chain[0])


def _chain(case: Case) -> list[str]:
    if len(case.chain) == 1:
        return []
    lines = []
    for level, each in enumerate(case.chain):
        workflow = each.workflow
        lines.append(
            f"{name(workflow.workflow_id, 120)} {workflow.status} {name(workflow.workflow_name)}"
            + _place(each)
        )
        if case.levels_left_out and level == len(case.chain) // 2 - 1:
            lines.append(f"… {case.levels_left_out} more …")
    return lines


def _place(each: Traced) -> str:
    step = each.failed_step
    if step is not None:
        return f", step {step.step_id} {name(step.step_name)}"
    wait = each.wait
    if wait is None:
        return ""
    place = f" step {wait.step_id}" if wait.step_id is not None else ""
    return f", since {at(wait.since)} at{place or ' its'} {wait.kind}"


def _forks_so_far(case: Case) -> list[str]:
    forks = case.detail.forks
    if not forks.total or case.workflow.status not in FAILED:
        return []
    each = [f"{fork.workflow_id} {fork.status}" for fork in forks.items]
    return [f"Forked already, {many(forks.total, 'time')}: {some(each, 3)}."]


def _not_known(case: Case, findings: Sequence[Finding]) -> list[str]:
    kinds = {finding.kind for finding in findings}
    lines = list(case.told.refused)
    for each in case.chain:
        workflow = each.workflow
        if workflow.status in WAITING:
            continue
        if each.read_at is None:
            lines.append(f"the steps of {name(workflow.workflow_id)}: not read yet")
        elif workflow.status in IN_FLIGHT and case.now - each.read_at > UP_TO_DATE_MS:
            lines.append(f"the steps of {name(workflow.workflow_id)} since {at(each.read_at)}")
        if workflow.status == WorkflowStatus.ERROR and workflow.error is None:
            why = "private mode withholds it" if case.private_mode else "the mirror keeps none"
            lines.append(f"the error of {name(workflow.workflow_id)}: {why}")
    link = case.origin.link
    if link is not None and link.end == "child not mirrored" and link.step is not None:
        lines.append(f"child {name(link.step.child_workflow_id)}: not mirrored")
    if any(each.link is not None and each.link.by_error for each in case.chain):
        lines.append("which step led to the child: it was found by its error, which is the same")
    if case.workflow.status in IN_FLIGHT:
        if not case.executors:
            lines.append("whether its executor lives: Conductor lists none")
        if case.queue is not None and not case.told.queues_known:
            lines.append(f"the limits of queue {name(case.queue.name)}: read from Conductor alone")
        if case.queue is not None and not case.queue.complete:
            lines.append("all that runs and waits there: only the oldest were looked through")
    if case.excerpt:
        lines.append("what else there is: of an excerpt, counts are of what it holds")
    if case.seen_at < case.now:
        lines.append(f"anything since {at(case.seen_at)}, when the mirror last looked")
    if case.workflow.schedule_name is not None and not case.told.schedules_known:
        lines.append("whether its schedule is active: read from Conductor alone")
    if "message" in kinds and case.told.messages is None:
        lines.append("the topic or the key it waits for, and what was sent to it")
    if case.workflow.status in BROKEN_OFF:
        well = len(case.peers.succeeded)
        if well < FEWEST:
            lines.append(f"what is usual: {many(well, 'run')} of that workflow went well")
        elif len(case.peers.steps) < FEWEST:
            lines.append("what steps are usual: those of the runs that went well are not read yet")
    return list(dict.fromkeys(lines))


def _next(case: Case, findings: Sequence[Finding], advice: Advice) -> list[Call]:
    """Those that mend it first."""
    kinds = {finding.kind for finding in findings}
    workflow, focus = case.workflow, case.origin.workflow
    calls: list[Call] = []

    def call(tool: str, why: str, *, command: bool = False, **arguments: str | int | bool) -> None:
        texts = [value for value in arguments.values() if isinstance(value, str)]
        if all(len(_exactly(text).encode()) <= _LONGEST_ID for text in texts):
            calls.append(Call(tool, arguments, why, command))

    if "schedule" in kinds and workflow.schedule_name is not None:
        if case.told.schedule is not None:
            call(
                "manage_schedule",
                "it fires again",
                command=True,
                schedule_name=workflow.schedule_name,
                action="resume",
            )
        call("list_workflows", "what it started", schedule_name=workflow.schedule_name)
    if advice.fork is not None:
        version, why = _version_for_fork(case)
        call(
            "fork_workflow",
            advice.fork.why + why,
            command=True,
            workflow_id=advice.fork.workflow_id,
            start_step=advice.fork.start_step,
            **_given(application_version=version),
        )
    if workflow.deleted_at is None and (
        workflow.status in (WorkflowStatus.CANCELLED, WorkflowStatus.MAX_RECOVERY_ATTEMPTS_EXCEEDED)
    ):
        why = "goes on behind its last completed step" + (
            ", without a deadline" if "timed out" in kinds else ""
        )
        call("resume_workflow", why, command=True, workflow_id=workflow.workflow_id)
    if kinds & {"no executor", "no version"}:
        healthy = _healthy_versions(case)
        if healthy and focus.application_version not in healthy:
            step = case.origin.steps[-1].step_id + 1 if case.origin.steps else 1
            call(
                "fork_workflow",
                "goes on behind its last completed step, in a version that runs; cancel the"
                " stranded one"
                if case.origin.steps
                else "runs in a version that is there; cancel the one that waits for another",
                command=True,
                workflow_id=focus.workflow_id,
                start_step=step,
                application_version=healthy[0],
            )
        call("list_executors", "who is connected")
    if "past deadline" in kinds:
        call(
            "cancel_workflow",
            "its time is over, and nobody else ends it",
            command=True,
            workflow_id=workflow.workflow_id,
        )
    if "deadlock" in kinds and case.queue is not None:
        first = next_in(
            case.queue, by_priority=case.told.limits is None or case.told.limits.by_priority
        )
        is_child = first is not None and first.workflow_id in case.queue.blocking.values()
        call(
            "cancel_workflow",
            "frees a place, so that a child can start"
            if first is None or is_child
            else f"frees a place, but {name(first.workflow_id, 40)} is next in line, and no child"
            " that is waited for: cancel that as well",
            command=True,
            workflow_id=case.queue.running[-1].workflow_id,
        )
    if "full queue" in kinds and case.queue is not None:
        call(
            "diagnose_workflow",
            "what holds a place longest",
            workflow_id=case.queue.running[0].workflow_id,
        )
    if case.queue is not None:
        call("list_workflows", "what waits there", queue_name=case.queue.name, status="ENQUEUED")
    if "delayed" in kinds:
        call(
            "resume_workflow",
            "starts it now, if it should not wait",
            command=True,
            workflow_id=focus.workflow_id,
        )
    if focus.error is None and focus.status == WorkflowStatus.ERROR:
        for child in case.detail.children.items[::-1]:
            if child.status in FAILED:
                call("diagnose_workflow", "a child that failed", workflow_id=child.workflow_id)
    near = _nearest_that_went_well(case)
    if near is not None and (focus.status in FAILED or "timed out" in kinds):
        call(
            "compare_workflows",
            "step by step, with inputs and outputs, beside the nearest run that went well",
            workflow_id=focus.workflow_id,
            other_workflow_id=near,
        )
    top = next(iter(case.detail.ancestors.items), None)
    if top is not None and workflow.status in FAILED and top.status in FAILED:
        call(
            "diagnose_workflow",
            "the root, which failed too: a fork of it runs all of it again",
            workflow_id=top.workflow_id,
        )
    link = case.origin.link
    if link is not None and "group" in kinds:
        first_at = min(run.ended_at for run in case.peers.alike)
        old = link.workflow.failed_at < case.seen_at - DAY_MS
        call(
            "list_failures",
            "all that failed so, and what sets it apart",
            group=link.fingerprint,
            **_given(since=at(first_at) if old else None),
        )
    if focus.status != WorkflowStatus.SUCCESS and (case.origin.steps or focus.error):
        call("list_steps", "its steps, with times and errors", workflow_id=focus.workflow_id)
    return calls


def _given(**arguments: str | None) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if value is not None}


def _version_for_fork(case: Case) -> tuple[str | None, str]:
    """Where the version is what sets the failed apart: the one to fork in, and why that. Without
    one a fork is taken by the latest, which may be the bad one."""
    feature = next((f for f in case.peers.features if f.field == "application_version"), None)
    if feature is None:
        return None, ""
    failed = {run.application_version for run in case.peers.alike}
    well = Counter(run.application_version for run in reversed(case.peers.succeeded))
    healthy = _healthy_versions(case)
    for version in well:
        if version is not None and version in healthy and version not in failed:
            return version, f" ({name(version, 30)} runs, and {well[version]} went well in it)"
    newer = [version for version in healthy if version not in failed]
    if newer:
        return newer[0], f" ({name(newer[0], 30)} runs, and has not failed so)"
    if not healthy:
        return None, "; name a version that has it: else the latest runs it"
    return None, f"; only {some(healthy, 2)} runs now, and fails so"


def _healthy_versions(case: Case) -> list[str]:
    """Of the executor that came last first."""
    healthy = [each for each in case.executors if each.status == HEALTHY]
    healthy.sort(key=lambda each: -each.created_at)
    versions = [each.application_version for each in healthy]
    return list(dict.fromkeys(version for version in versions if version is not None))


def _nearest_that_went_well(case: Case) -> str | None:
    """If its steps were read, the better."""
    began = case.origin.workflow.created_at
    near = min(
        case.peers.succeeded,
        key=lambda run: (run.key not in case.peers.steps, abs(run.created_at - began)),
        default=None,
    )
    return None if near is None else near.workflow_id
