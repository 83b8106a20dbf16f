"""What may be found in a case: a plain list of small functions, ordered by how much they explain.

Each says what it found in a sentence with the numbers that it rests on, or nothing. The sentences
of the first few that are `decisive` are the verdict; lines of evidence stand below it.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from statistics import median

from dbos_mcp.domain import BROKEN_OFF, FAILED, IN_FLIGHT, WorkflowStatus
from dbos_mcp.postmortem.case import Case
from dbos_mcp.postmortem.causes import INTERNAL, was_due
from dbos_mcp.postmortem.discriminators import TOO_FEW
from dbos_mcp.postmortem.error_text import LONGEST
from dbos_mcp.postmortem.failures import Feature, features_of
from dbos_mcp.postmortem.forks import copied, is_transient, side_effects, started
from dbos_mcp.postmortem.peers import FEWEST, NEAREST
from dbos_mcp.postmortem.queues import QueueState
from dbos_mcp.postmortem.runs import INPUT
from dbos_mcp.postmortem.waits import GET_RESULT
from dbos_mcp.postmortem.words import at, counted, many, name, quoted, some, took
from dbos_mcp.queries.applications import ExecutorItem
from dbos_mcp.queries.steps import SLEEP, StepItem
from dbos_mcp.queries.workflows import WorkflowItem

HEALTHY = "HEALTHY"
_A_WHILE_MS = 60_000
"""Less is nothing to speak of where something waits."""
_SHORT_MS = 100
"""Nor is so little where something took longer than usual."""
_MANY_TIMES = 2
_MOST_LINES = 3
_MOST_QUOTED = 20
_RETRIES = re.compile(
    r"Step (?P<step>.{1,200}?) has exceeded its maximum of (?P<tries>\d{1,9}) retries"
)
_QUOTED = re.compile(r"'([^'\n]{2,80})'|\"([^\"\n]{2,80})\"")


@dataclass(frozen=True)
class Finding:
    kind: str
    says: str
    evidence: Sequence[str] = ()
    decisive: bool = True


# What came of it


def deleted(case: Case) -> Finding | None:
    workflow = case.workflow
    if workflow.deleted_at is None:
        return None
    cause = next((e.cause for e in reversed(case.history) if e.kind == "WorkflowDeleted"), None)
    return Finding(
        "deleted",
        f"It was deleted upstream (noticed at {at(workflow.deleted_at)}"
        + (f": {cause}" if cause else "")
        + "); this is what the mirror kept",
    )


def succeeded(case: Case) -> Finding | None:
    workflow, total = case.workflow, case.peers.total
    if workflow.status != WorkflowStatus.SUCCESS:
        return None
    beside = ""
    if total is not None:
        beside = (
            f"; {many(total.runs, 'run')} that went well took {took(total.median)} at the median,"
            f" {took(total.p95)} at p95"
        )
    return Finding("succeeded", f"It succeeded in {took(workflow.duration_ms)}{beside}")


def bad_fork(case: Case) -> Finding | None:
    """A fork that runs again all but what was wrong."""
    fork, source = case.chain[0], case.source
    workflow = fork.workflow
    if workflow.forked_from is None or workflow.status not in FAILED:
        return None
    replayed = copied(fork, source)
    if not replayed:
        return None
    first = replayed[-1].step_id + 1
    of = f"It is a fork of {name(workflow.forked_from)} from step {first}"
    if len(case.chain) > 1:
        child = case.chain[1].workflow
        start = started(fork, child.workflow_id)
        if start is None or start not in replayed:
            return None
        return Finding(
            "bad fork",
            f"{of}, which awaits again the child {name(child.workflow_id)} that had failed before:"
            f" the start of that child, step {start.step_id}, was replayed",
        )
    found = culprit(case)
    if found is not None and found[0] in replayed:
        step, value = found
        return Finding(
            "bad fork",
            f"{of}, which replays the recorded output of step {step.step_id}"
            f" {name(step.step_name)}: the wrong {quoted(value)} is in it",
        )
    theirs = None if source is None else source.workflow
    own = [step for step in replayed if not step.step_name.startswith(INTERNAL)]
    if theirs is None or theirs.status not in FAILED or not own or not _alike(case, theirs):
        return None
    return Finding(
        "bad fork",
        f"{of}, and fails as that did: the recorded outputs of {many(len(own), 'step')}"
        f" ({some([step.step_name for step in own])}) were replayed, not made anew",
    )


def failed(case: Case) -> Finding | None:
    """Where it began."""
    origin, link = case.origin, case.origin.link
    if link is None or case.workflow.status not in FAILED:
        return None
    workflow = origin.workflow
    levels = len(case.chain) - 1 + case.levels_left_out
    where = f"{name(workflow.workflow_name)} failed"
    if levels:
        where = (
            f"It failed because a child did, {many(levels, 'level')} down:"
            f" {name(workflow.workflow_name)} {name(workflow.workflow_id)}"
        )
    step = link.step
    match link.end:
        case "step" if step is not None:
            says = f"{where} in step {step.step_id} {name(step.step_name)}: {quoted(step.error)}"
            known = [f"The step's error is the workflow's: {step.evidence}."]
        case "code" if workflow.error is None:
            last = origin.steps[-1] if origin.steps else None
            behind = (
                "" if last is None else f"; its last step is {last.step_id} {name(last.step_name)}"
            )
            says = f"{where}{behind}; why, and in which step, is not known: no error text is there"
            below = [c for c in case.detail.children.items if c.status in FAILED]
            known = (
                [f"Children that failed: {some([c.workflow_id for c in below])}."] if below else []
            )
            return Finding("failed", says, known)
        case "code":
            last = origin.steps[-1] if origin.steps else None
            behind = "before any step" if last is None else f"behind step {last.step_id}"
            named = "" if last is None else f" {name(last.step_name)}"
            says = (
                f"{where} in its own code, {behind}{named}, where no step failed:"
                f" {quoted(workflow.error)}"
            )
            known = []
        case "recovered too often":
            says = f"{where}: it was recovered too often ({workflow.status})"
            known = []
        case "timed out" | "cancelled":
            says = f"{where}, which {'timed out' if link.end == 'timed out' else 'was cancelled'}"
            known = []
        case _:
            says = f"{where}: {quoted(link.error)}; where that began is not known: {link.end}"
            known = []
    return Finding("failed", says, [*known[: step is not None and step.evidence != "same error"]])


def retries(case: Case) -> Finding | None:
    link = case.origin.link
    found = _RETRIES.search((link.error if link is not None else None) or "", 0, LONGEST)
    if found is None:
        return None
    step = case.origin.failed_step
    lasted = "" if step is None else f", in {took(step.duration_ms)}"
    return Finding(
        "retries",
        f"Step {name(found['step'])} used up its {found['tries']} retries{lasted}: what it calls"
        " kept failing",
    )


def timed_out(case: Case) -> Finding | None:
    """Which step took the time."""
    top, origin = case.workflow, case.origin
    if top.status != WorkflowStatus.CANCELLED or not was_due(top.deadline, _ended(top)):
        return None
    given = f" of {took(top.timeout_ms)}" if top.timeout_ms is not None else ""
    says = f"It timed out: its deadline{given} passed at {at(top.deadline)}, and it was CANCELLED"
    wait, workflow = origin.wait, origin.workflow
    if wait is None:
        return Finding("timed out", says)
    below = "" if origin is case.chain[0] else f" of {name(workflow.workflow_id)}"
    ended = top.deadline or _ended(top)
    spent = took(ended - wait.since)
    evidence = []
    if wait.kind == "work":
        usual, runs = _usual_step(case, wait.step_id)
        if usual is not None:
            says += (
                f". The last {spent} went into what {runs} runs that went well have as step"
                f" {wait.step_id}{below}: {name(usual)}"
            )
            evidence += _trend(case, usual)
        else:
            says += f". Nothing{below} was completed in the last {spent}"
    elif wait.kind == "queue":
        says += f". {name(workflow.workflow_id)} had waited in its queue for {spent}"
    elif wait.kind in ("sleep", "message"):
        says += (
            f". It had slept{below} for {spent}"
            if wait.kind == "sleep"
            else (f". It had waited{below} for a message or an event for {spent}")
        )
    return Finding("timed out", says, evidence)


def cancelled(case: Case) -> Finding | None:
    workflow = case.workflow
    if workflow.status != WorkflowStatus.CANCELLED or was_due(workflow.deadline, _ended(workflow)):
        return None
    cause = next((e.cause for e in reversed(case.history) if e.cause and "cancel" in e.cause), None)
    ours = cause is not None and cause.startswith("our")
    by = f"by {cause}" if ours else "by somebody, not through this mirror"
    parent = next(
        (p for p in case.detail.ancestors.items[-1:] if p.status == WorkflowStatus.CANCELLED), None
    )
    above = "" if parent is None else f"; its parent {name(parent.workflow_id)} is CANCELLED too"
    return Finding("cancelled", f"It was cancelled {by}, at {at(_ended(workflow))}{above}")


def group(case: Case) -> Finding | None:
    """One of many, since when."""
    alike, runs = case.peers.alike, case.peers.runs
    if len(alike) < 2 or not (alike[0].status in FAILED or alike[0].timed_out):
        return None
    first = min(alike, key=lambda run: run.created_at)
    last = max(alike, key=lambda run: run.created_at)
    earlier = [run for run in runs if run.created_at < first.created_at]
    later = [run for run in runs if run.created_at >= first.created_at]
    since = f"since {at(first.created_at)}" + (
        "" if earlier or case.peers.oldest_known else " or earlier"
    )
    well = sum(run.status == WorkflowStatus.SUCCESS for run in later)
    before = sum(run.status == WorkflowStatus.SUCCESS for run in earlier)
    how = "timed out" if first.timed_out else "failed"
    versions = {run.application_version for run in alike}
    of = f" (all of version {name(versions.pop())})" if len(versions) == 1 else ""
    more = "" if case.peers.newest_known else " or more"
    return Finding(
        "group",
        f"{len(alike)}{more} runs of {name(case.origin.workflow.workflow_name)} {how} so {since}",
        [
            f"Of {many(len(runs), 'run')} around it {len(alike)} {how} so{of}, from"
            f" {at(first.created_at)} to {at(last.created_at)}; meanwhile {well} went well,"
            f" before that {before}."
        ],
    )


def only_on(case: Case) -> Finding | None:
    """What the failed have and the others have not."""
    features = case.peers.features
    if not features:
        return None
    first = features[0]
    return Finding(
        "only on",
        f"{first.field} {_value(first)} sets them apart: {first.failed} of {first.of_failed}"
        f" that failed so have it, {first.others} of {first.of_others} that went well",
        []  # which says as much, and more
        if case.differences is not None and case.differences.lines
        else [_feature(case, feature) for feature in features[:_MOST_LINES]],
    )


def elsewhere(case: Case) -> Finding | None:
    """It ran where none of those nearest to it that went well did: which may be chance."""
    own, peers = case.origin.workflow, case.peers
    if own.status not in BROKEN_OFF:
        return None
    near = sorted(peers.succeeded, key=lambda run: abs(run.created_at - own.created_at))[:NEAREST]
    if len(near) < FEWEST:
        return None
    told = () if case.differences is None else case.differences.lines
    lines = []
    for field in features_of(own.status):
        theirs = Counter(getattr(run, field) or "none" for run in near)
        value = getattr(own, field) or "none"
        said = any(feature.field == field for feature in peers.features) or any(
            line.startswith(field) for line in told
        )
        if value in theirs or len(theirs) > _MOST_LINES or said:
            continue
        lines.append(
            f"{field} is {name(value)}; the {len(near)} nearest runs that went well have"
            f" {counted(theirs)}."
        )
    return Finding("elsewhere", "It ran elsewhere", lines, decisive=False) if lines else None


def input_separates(case: Case) -> Finding | None:
    lines = () if case.differences is None else case.differences.lines
    if not lines or not lines[0].startswith(INPUT) or TOO_FEW in lines[0]:
        return None
    return Finding("input", lines[0].rstrip("."))


def nothing_separates(case: Case) -> Finding | None:
    """So it is the data."""
    peers = case.peers
    first = min((run.created_at for run in peers.alike), default=0)
    well = [run for run in peers.succeeded if run.created_at >= first]
    link = case.origin.link
    if peers.features or len(peers.alike) < FEWEST or len(well) < len(peers.alike):
        return None
    if link is None or link.error is None or is_transient(link.error):
        return None
    if case.differences is not None and case.differences.lines:
        return None
    return Finding(
        "data",
        "Neither version, executor, queue nor schedule sets them apart",
        [
            f"Neither version, executor, queue nor schedule sets the {len(peers.alike)} that failed"
            f" so apart from {len(well)} that went well meanwhile: look at their inputs."
        ],
        decisive=False,
    )


def wrong_value(case: Case) -> Finding | None:
    """An output of an earlier step is what the error complains of."""
    found = culprit(case)
    if found is None:
        return None
    step, value = found
    return Finding(
        "wrong value",
        f"Step {step.step_id} {name(step.step_name)} made the value that it failed on,"
        f" {quoted(value)}",
        [
            f"The recorded output of step {step.step_id} {name(step.step_name)} holds"
            f" {quoted(value)}, which the error names."
        ],
    )


def other_steps(case: Case) -> Finding | None:
    """Where its way parts from that of the runs that went well."""
    peers, origin = case.peers, case.origin
    ways = [tuple(step.step_name for step in steps) for steps in peers.steps.values() if steps]
    if len(ways) < FEWEST or not origin.steps:
        return None
    own = [step.step_name for step in origin.steps]
    usual = [[names[place] for names in ways if len(names) > place] for place in range(len(own))]
    for place, step in enumerate(origin.steps):
        theirs = Counter(usual[place])
        if own[place] in theirs or step.child_workflow_id is not None:
            continue
        never = not any(own[place] in names for names in ways)
        instead = (
            f"where {theirs.total()} of {len(ways)} runs that went well have"
            f" {counted(theirs, most=2)}"
            if theirs
            else f"behind the end of all {len(ways)} runs that went well"
        )
        none = ", and none of them ever has it" if never else ""
        return Finding(
            "other steps",
            f"It took another way than the others at step {step.step_id}",
            [f"Step {step.step_id} is {name(own[place])}, {instead}{none}."],
            decisive=False,
        )
    return None


def slow_steps(case: Case) -> Finding | None:
    lines = []
    for step in case.origin.steps:
        usual = case.peers.durations(step.step_name)
        took_ms = step.duration_ms
        if usual is None or took_ms is None or step.step_name in (SLEEP, GET_RESULT):
            continue
        if took_ms > max(_MANY_TIMES * usual.p95, usual.most, _SHORT_MS):
            lines.append(
                f"Step {step.step_id} {name(step.step_name)} took {took(took_ms)}; in"
                f" {many(usual.runs, 'step')} of runs that went well {took(usual.median)} at the"
                f" median, {took(usual.most)} at most."
            )
    if not lines:
        return None
    return Finding("slow steps", "Steps took longer than usual", lines[:_MOST_LINES], False)


def slow_queue(case: Case) -> Finding | None:
    wait, usual = case.origin.workflow.queue_wait_ms, case.peers.queue_wait
    if wait is None or usual is None or wait <= max(_MANY_TIMES * usual.p95, usual.most, 1_000):
        return None
    return Finding(
        "slow queue",
        "It waited longer in its queue than usual",
        [
            f"It waited {took(wait)} in its queue; {usual.runs} that went well {took(usual.median)}"
            f" at the median, {took(usual.most)} at most."
        ],
        decisive=False,
    )


def done_already(case: Case) -> Finding | None:
    """What failed runs have done to the world."""
    if case.workflow.status not in BROKEN_OFF:
        return None
    lines = []
    done = side_effects(case.chain)
    if done:
        lines.append(f"Done already, and not undone: {counted(done)}.")
    peers = case.peers
    own = Counter({n: c for n, c in peers.done_by_alike.items() if not n.startswith(INTERNAL)})
    if peers.alike_read > 1 and own:
        lines.append(f"In {peers.alike_read} runs that failed so: {counted(own)}.")
    return Finding("done", "Some of it is done", lines, False) if lines else None


def recovered(case: Case) -> Finding | None:
    """Again and again."""
    times = [e for e in case.history if e.cause is not None and e.cause.startswith("recovered")]
    again = [e for e in times if e.cause != "recovered too often"]
    if len(again) < _MANY_TIMES:
        return None
    return Finding(
        "recovered",
        f"It was recovered {len(again)} times between {at(again[0].recorded_at)} and"
        f" {at(again[-1].recorded_at)}: its executors die, or restart, while it runs",
    )


# What it waits for


def stopped_schedule(case: Case) -> Finding | None:
    schedule, told = case.workflow.schedule_name, case.told
    if schedule is None or not case.firings:
        return None
    last = case.firings[0]
    fired = f"its last run was created at {at(last)}, {took(case.seen_at - last)} ago"
    if told.schedule is not None and told.schedule.status != "ACTIVE":
        return Finding(
            "schedule",
            f"Schedule {name(schedule)} is {name(told.schedule.status)}"
            f" ({name(told.schedule.cron)}): {fired}",
        )
    if told.schedules_known and told.schedule is None:
        return Finding("schedule", f"Schedule {name(schedule)} does not exist any more: {fired}")
    gaps = [newer - older for newer, older in pairwise(case.firings)]
    if len(gaps) < FEWEST or case.excerpt:
        return None
    usual = median(gaps)
    silent = case.seen_at - last
    if silent < 2 * max(gaps) or silent < 3 * usual or not usual:
        return None
    return Finding(
        "schedule",
        f"Schedule {name(schedule)} fires no more: {fired}, and {many(len(gaps), 'run')} before it"
        f" came every {took(usual)}, so some {int(silent // usual)} are missing",
    )


def no_executor(case: Case) -> Finding | None:
    """It runs where nothing runs any more."""
    workflow = case.origin.workflow
    if workflow.status != WorkflowStatus.PENDING or not case.executors:
        return None
    executor = next((e for e in case.executors if e.executor_id == workflow.executor_id), None)
    if workflow.executor_id is None or (executor is not None and executor.status == HEALTHY):
        return None
    state = "gone: Conductor does not list it" if executor is None else executor.status
    if executor is not None:
        state += f" (since {at(executor.updated_at)})"
    version = workflow.application_version
    same = [e.executor_id for e in _healthy(case) if e.application_version == version]
    recovery = (
        f"{some(same)}, of the same version {name(version)}, can recover it"
        if same
        else f"no healthy executor is of its version {name(version)}, so nobody recovers it"
    )
    others = [f"{e.executor_id} of version {e.application_version}" for e in _healthy(case)]
    evidence = [f"Healthy executors: {some(others)}." if others else "No executor is healthy."]
    if case.stranded:
        evidence.append(f"Stranded there too: {some(case.stranded)}.")
    return Finding(
        "no executor",
        f"{_it(case)} is PENDING on executor {name(workflow.executor_id)}, which is {state};"
        f" {recovery}",
        evidence,
    )


def no_version(case: Case) -> Finding | None:
    workflow = case.origin.workflow
    version = workflow.application_version
    if workflow.status != WorkflowStatus.ENQUEUED or version is None or not case.executors:
        return None
    versions = Counter(e.application_version or "unknown" for e in _healthy(case))
    if version in versions:
        return None
    return Finding(
        "no version",
        f"{_it(case)} is ENQUEUED for version {name(version)}, which no healthy executor runs",
        [f"Healthy executors, by version: {counted(versions) or 'none'}."],
    )


def next_in(queue: QueueState, *, by_priority: bool = True) -> WorkflowItem | None:
    """Which of those that wait is taken first."""
    return min(
        queue.waiting,
        key=lambda item: (item.priority if by_priority else 0, item.created_at),
        default=None,
    )


def deadlock(case: Case) -> Finding | None:
    queue, limits = case.queue, case.told.limits
    if queue is None or not queue.running:
        return None
    if any(item.workflow_id not in queue.blocking for item in queue.running):
        return None
    concurrency = None if limits is None else limits.concurrency
    if concurrency is not None and len(queue.running) < concurrency:
        return None
    places = (
        f"all {concurrency} places of queue {name(queue.name)} (concurrency {concurrency})"
        if concurrency is not None
        else f"the {many(len(queue.running), 'place')} in use of queue {name(queue.name)}"
    )
    example = queue.running[0].workflow_id
    held = [
        f"{name(item.workflow_id)} waits for {name(queue.blocking[item.workflow_id])}"
        for item in queue.running[:_MOST_LINES]
    ]
    child = next((i for i in queue.waiting if i.workflow_id == queue.blocking[example]), None)
    kind = "their children" if child is None else f"their children {name(child.workflow_name)}"
    return Finding(
        "deadlock",
        f"A deadlock: {places} are held by workflows that wait for {kind}, which wait in the same"
        " queue and cannot start",
        [f"In queue {name(queue.name)}: {'; '.join(held)}{_and(queue.running)}."],
    )


def full_queue(case: Case) -> Finding | None:
    queue, limits = case.queue, case.told.limits
    if queue is None or not queue.running or deadlock(case) is not None:
        return None
    concurrency = None if limits is None else limits.concurrency
    worker = None if limits is None else limits.worker_concurrency
    full = concurrency is not None and len(queue.running) >= concurrency
    busy = worker is not None and _all_busy(case, queue, worker)
    if limits is not None and not full and not busy:
        return None
    limit = f"concurrency {concurrency}" if concurrency is not None else "its limit is not known"
    if busy and not full:
        limit = f"worker concurrency {worker}"
    holders = Counter(item.workflow_name or "?" for item in queue.running)
    longest = queue.running[0]
    ahead = _ahead(case)
    started_at = queue.starts[0] if queue.starts else None
    healthy = {executor.executor_id for executor in _healthy(case)}
    dead = [i for i in queue.running if case.executors and i.executor_id not in healthy]
    lost = f", {len(dead)} of them on executors that are not healthy" if dead else ""
    return Finding(
        "full queue",
        f"{_it(case)} waits in queue {name(queue.name)} since"
        f" {at(case.origin.workflow.created_at)}: {len(queue.running)} running ({limit}),"
        f" {ahead} of {len(queue.waiting)} waiting are ahead of it; the places are held by"
        f" {counted(holders)}{lost}",
        [
            "Running there: "
            + "; ".join(
                f"{name(i.workflow_id)} {name(i.workflow_name)} for"
                f" {took(case.seen_at - (i.dequeued_at or i.created_at))}"
                for i in queue.running[:_MOST_LINES]
            )
            + _and(queue.running)
            + ".",
            f"The longest of them, {name(longest.workflow_id)}, holds its place since"
            f" {at(longest.dequeued_at or longest.created_at)}; the last start from that queue was"
            f" at {at(started_at)}; {len(queue.waiting)} wait.",
        ],
    )


def rate_limit(case: Case) -> Finding | None:
    queue, limits = case.queue, case.told.limits
    if queue is None or limits is None:
        return None
    most, period = limits.rate_limit_max, limits.rate_limit_period_ms
    if most is None or period is None:
        return None
    lately = [start for start in queue.starts if start > case.seen_at - period]
    if len(lately) < most:
        return None
    return Finding(
        "rate limit",
        f"{_it(case)} waits for the rate limit of queue {name(queue.name)}: {len(lately)} were"
        f" started in the last {took(period)}, {most} may be; {_ahead(case)} are ahead of it",
        [f"The next may start at {at(lately[most - 1] + period)}."],
    )


def overtaken(case: Case) -> Finding | None:
    """Others, of a higher priority, go first."""
    queue, mine, limits = case.queue, case.origin.workflow, case.told.limits
    if queue is None or (limits is not None and not limits.by_priority):
        return None
    first = [
        item
        for item in queue.waiting
        if item.priority < mine.priority and item.created_at > mine.created_at
    ]
    if not first:
        return None
    return Finding(
        "overtaken",
        f"{many(len(first), 'workflow')} that came later go first: their priority is higher",
        [f"Its priority is {mine.priority}; that of the others {first[0].priority} and less."],
        decisive=False,
    )


def untaken(case: Case) -> Finding | None:
    """Nothing stands in its way, and still nobody takes it."""
    queue, workflow = case.queue, case.origin.workflow
    waited = case.seen_at - workflow.created_at
    if queue is None or any(each(case) for each in (deadlock, full_queue, rate_limit, no_version)):
        return None
    if waited < _A_WHILE_MS or case.excerpt:
        long = ", which is not long" if waited < _A_WHILE_MS else ""
        return Finding(
            "queued",
            f"{_it(case)} waits in queue {name(queue.name)} for {took(waited)}{long}:"
            f" {len(queue.running)} run and {_ahead(case)} are ahead of it",
        )
    last = f"the last start was at {at(queue.starts[0])}" if queue.starts else "nothing ever did"
    unknown = case.told.queues_known and case.told.limits is None
    return Finding(
        "untaken",
        f"{_it(case)} waits in queue {name(queue.name)} for {took(waited)}, though"
        f" {len(queue.running)} run and {_ahead(case)} are ahead: no executor takes from it"
        f" ({last})" + ("; Conductor knows no queue of that name" if unknown else ""),
    )


def children(case: Case) -> Finding | None:
    """Down to the one that it waits for in the end."""
    if case.workflow.status not in IN_FLIGHT:
        return None
    if len(case.chain) > 1:
        last = case.origin.workflow
        levels = len(case.chain) - 1
        deep = "" if levels == 1 else f", {levels} levels down"
        first = case.chain[0].wait
        also = ""
        if first is not None and len(first.children) > 1:
            also = f" (one of {len(first.children)} children without a result)"
        return Finding(
            "children",
            f"It waits for its child {name(last.workflow_name)} {name(last.workflow_id)}{deep},"
            f" which is {last.status}{also}",
        )
    wait = case.origin.wait
    if wait is None or wait.kind != "children":
        return None
    states = Counter(child.status for child in case.children.values())
    if len(case.children) < len(wait.children):
        missing = [each for each in wait.children if each not in case.children]
        return Finding(
            "children",
            f"It waits for {many(len(wait.children), 'child workflow')}; not mirrored:"
            f" {some(missing)}",
        )
    return Finding(
        "children",
        f"It waits for {some(wait.children)}, but all of that ended ({counted(states)}): it goes on"
        " as soon as an executor runs it",
    )


def sleeping(case: Case) -> Finding | None:
    wait = case.origin.wait
    if not case.in_flight or wait is None or wait.kind != "sleep":
        return None
    return Finding(
        "sleeping",
        f"{_it(case)} sleeps (step {wait.step_id}) since {at(wait.since)} until {at(wait.until)};"
        f" it is {at(case.seen_at)}, so {took((wait.until or 0) - case.seen_at)} more",
    )


def message(case: Case) -> Finding | None:
    wait = case.origin.wait
    if not case.in_flight or wait is None or wait.kind != "message" or wait.step_id is None:
        return None
    usual, runs = _usual_step(case, wait.step_id)
    what = "a message or an event" if usual is None else f"{name(usual)} (so in {runs} others)"
    until = wait.until if wait.until is not None else case.told.wakes_at
    late = "its timeout is not known"
    if until is not None:
        left = until - case.seen_at
        late = f"until {at(until)}, " + (
            f"{took(left)} from now" if left >= 0 else f"overdue by {took(-left)}"
        )
    evidence = []
    if case.told.messages is not None:
        open_ = [m for m in case.told.messages if not m.consumed]
        topics = Counter(m.topic or "(no topic)" for m in open_)
        evidence.append(
            f"Sent to it and not received: {counted(topics)}: a wait for another topic goes on."
            if open_
            else f"No message that was sent to it is left ({len(case.told.messages)} received)."
        )
    return Finding(
        "message",
        f"{_it(case)} waits in step {wait.step_id} for {what}, which has not come, since"
        f" {at(wait.since)}; {late}; it is {at(case.seen_at)}",
        evidence,
    )


def delayed(case: Case) -> Finding | None:
    workflow = case.origin.workflow
    if workflow.status != WorkflowStatus.DELAYED:
        return None
    until = workflow.delay_until
    late = "an unknown time" if until is None else at(until)
    over = (
        ""
        if until is None or until > case.seen_at
        else (f", overdue by {took(case.seen_at - until)}: nobody moves it on")
    )
    return Finding(
        "delayed", f"{_it(case)} is delayed until {late}; it is {at(case.seen_at)}{over}"
    )


def past_deadline(case: Case) -> Finding | None:
    workflow = case.workflow
    if not case.in_flight or workflow.deadline is None or workflow.deadline > case.seen_at:
        return None
    return Finding(
        "past deadline",
        f"It is past its deadline by {took(case.seen_at - workflow.deadline)}, and still"
        f" {workflow.status}: an executor that ran it would have cancelled it",
    )


def at_work(case: Case) -> Finding | None:
    """Nothing else is known: a step is under way, or its own code."""
    wait, workflow = case.origin.wait, case.origin.workflow
    if not case.in_flight or wait is None or wait.kind != "work":
        return None
    for_ms = case.seen_at - wait.since
    usual, runs = _usual_step(case, wait.step_id if case.origin.steps else 1)
    says = f"{_it(case)} has run for {took(for_ms)} without completing a step"
    if case.origin.steps:
        last = case.origin.steps[-1]
        says += f", behind step {last.step_id} {name(last.step_name)}"
    there = next((e for e in case.executors if e.executor_id == workflow.executor_id), None)
    if there is not None:
        says += f", on executor {name(there.executor_id)}, which is {there.status}"
    evidence = []
    if usual is not None:
        says += f": {runs} runs that went well have {name(usual)} there"
        of = case.peers.durations(usual)
        if of is not None:
            evidence.append(
                f"{name(usual)} takes {took(of.median)} at the median, {took(of.most)} at most of"
                f" {of.runs}."
            )
    executor = workflow.executor_id
    if executor is not None and not case.executors and case.ends:
        own = case.ends.get(executor, [])
        others = sum(len(ends) for each, ends in case.ends.items() if each != executor)
        evidence.append(
            f"Of the last {others + len(own)} workflows that ended, {len(own)} did on"
            f" {name(executor)}" + (f", the newest at {at(own[0])}." if own else ".")
        )
    if no_executor(case) is not None:  # it hardly is
        return Finding("at work", says, [f"{says}.", *evidence], decisive=False)
    return Finding("at work", says, evidence)


FINDINGS: tuple[Callable[[Case], Finding | None], ...] = (
    stopped_schedule,
    bad_fork,
    failed,
    timed_out,
    cancelled,
    children,
    no_executor,
    deadlock,
    no_version,
    full_queue,
    rate_limit,
    untaken,
    delayed,
    sleeping,
    message,
    at_work,
    past_deadline,
    recovered,
    succeeded,
    retries,
    wrong_value,
    deleted,
    input_separates,
    only_on,
    elsewhere,
    group,
    overtaken,
    other_steps,
    slow_steps,
    slow_queue,
    nothing_separates,
    done_already,
)


def culprit(case: Case) -> tuple[StepItem, str] | None:
    """The step whose recorded output is a value that the error quotes, else the first whose output
    has it somewhere; and the value. One that was in the input already is nobody's."""
    origin = case.origin
    link = origin.link
    outputs = {**case.kept_outputs, **case.told.outputs}
    if link is None or link.error is None or not outputs:
        return None
    before = origin.steps if link.step is None else origin.before(link.step.step_id)
    quoted_in = _QUOTED.finditer(link.error, 0, LONGEST)
    for value in islice(dict.fromkeys(match[1] or match[2] for match in quoted_in), _MOST_QUOTED):
        whole = re.compile(rf"(?<!\w){re.escape(value)}(?!\w)")
        if case.told.input is not None and whole.search(case.told.input):
            continue
        holding = [step for step in before if whole.search(outputs.get(step.step_id, ""))]
        for step in holding:
            if outputs[step.step_id].strip("'\"") == value:
                return step, value
        if holding:
            return holding[0], value
    return None


def _alike(case: Case, other: WorkflowItem) -> bool:
    return any(run.key == other.key for run in case.peers.alike) or (
        other.error is not None and other.error == case.workflow.error
    )


def _feature(case: Case, feature: Feature) -> str:
    runs = [run for run in case.peers.runs if getattr(run, feature.field) == feature.value]
    return (
        f"{feature.field} {_value(feature)}: {feature.failed} of {feature.of_failed} that"
        f" failed so, {feature.others} of {feature.of_others} that went well; of its"
        f" {many(len(runs), 'run')} {feature.failed} failed so."
    )


def _value(feature: Feature) -> str:
    return "none" if feature.value is None else name(feature.value)


def _usual_step(case: Case, step_id: int | None) -> tuple[str | None, str]:
    """What runs that went well have at a step, and how many of them."""
    if step_id is None:
        return None, ""
    there = case.peers.position(step_id)
    if not there:
        return None, ""
    usual, count = there.most_common(1)[0]
    return usual, f"{count} of {len(case.peers.steps)}"


def _trend(case: Case, step_name: str) -> list[str]:
    """How long a step takes, before and lately."""
    by_key = {run.key: run for run in case.peers.runs}
    timed = sorted(
        (by_key[key].created_at, step.step_id, step.duration_ms)
        for key, steps in case.peers.steps.items()
        for step in steps
        if step.step_name == step_name and step.duration_ms is not None and key in by_key
    )
    if len(timed) < FEWEST:
        return []
    durations = [duration for *_, duration in timed]
    last = durations[-1]
    return [
        f"{name(step_name)} takes {took(median(durations))} at the median of {len(durations)} runs"
        f" that went well, {took(max(durations))} at most; {took(last)} in the last of them."
    ]


def _ahead(case: Case) -> str:
    """How many are taken before it: by priority, the lower number first, then by age. Of those that
    came in the same millisecond, or second where the upstream stamps no finer, nobody can tell."""
    limits, waiting = case.told.limits, [] if case.queue is None else case.queue.waiting
    weighs = limits is None or limits.by_priority

    def place(item: WorkflowItem) -> tuple[int, int]:
        return item.priority if weighs else 0, item.created_at

    mine = case.origin.workflow
    places = [place(item) for item in waiting if item.workflow_id != mine.workflow_id]
    surely = sum(each < place(mine) for each in places)
    same = places.count(place(mine))
    return f"{surely} to {surely + same}" if same else str(surely)


def _all_busy(case: Case, queue: QueueState, worker_concurrency: int) -> bool:
    """Whether each executor runs as many as one may; without a list of them, each that was seen
    there."""
    version = case.origin.workflow.application_version
    running = Counter(item.executor_id for item in queue.running)
    able = [e.executor_id for e in _healthy(case) if version in (None, e.application_version)]
    return all(running[each] >= worker_concurrency for each in able or running)


def _ended(workflow: WorkflowItem) -> int:
    return workflow.updated_at if workflow.completed_at is None else workflow.completed_at


def _healthy(case: Case) -> list[ExecutorItem]:
    return [executor for executor in case.executors if executor.status == HEALTHY]


def _it(case: Case) -> str:
    return "It" if len(case.chain) == 1 else name(case.origin.workflow.workflow_id)


def _and(items: Sequence[object]) -> str:
    more = len(items) - _MOST_LINES
    return f"; and {more} more" if more > 0 else ""
