"""How fresh and how complete the mirror is, and who keeps it so."""

from collections.abc import Iterator

from dbos_mcp.doctor.cache import SYNC, not_read, of_a_known_cache
from dbos_mcp.doctor.finding import Fact, Finding, ok, skip, warn
from dbos_mcp.doctor.subject import Subject
from dbos_mcp.domain import format_duration, format_time
from dbos_mcp.queries.sync_status import ApplicationSync, SyncCondition, SyncStatus

MOST_SHOWN = 8
LATE_MS = 3_600_000
"""Nobody may have asked for that long, and then nothing is looked at."""


@of_a_known_cache
def process(subject: Subject) -> Iterator[Finding]:
    held = subject.held
    if not held.exists:
        yield skip("there is no cache yet")
        return
    if held.is_excerpt:
        yield skip("an incident file is not synced")
        return
    facts: dict[str, Fact] = {"synced": held.led}
    if held.led is None:
        yield ok("whether a process syncs cannot be seen from here", **facts)
    elif not held.led:
        yield ok("none: a server, or `dbos-mcp sync`, syncs while it runs", **facts)
    else:
        leader = held.leader
        told, since = "a process syncs", None
        if leader is not None:
            facts["process"] = leader.process
            told = f"process {leader.process} syncs"
            since = leader.started_at
        if since is not None:
            facts["since"] = format_time(since)
            told += f"; it runs since {format_time(since // 1000 * 1000)}"
        yield ok(told, **facts)


@of_a_known_cache
def mirror(subject: Subject) -> Iterator[Finding]:
    status = subject.held.status
    if status is None:
        yield skip(not_read(subject.held) or "its schema is another one")
        return
    if status.conductor.condition is SyncCondition.EXCERPT:
        yield ok(f"an excerpt, of {len(status.applications)} applications")
        return
    if status.conductor.last_error is not None and not status.applications:
        yield _failing(subject, status)
        return
    if not status.applications:
        yield ok("nothing is mirrored yet: the first sync begins with the newest")
        return
    worst = sorted(status.applications, key=lambda each: each.condition is SyncCondition.LIVE)
    for application in worst[:MOST_SHOWN]:
        yield _one(subject, application)
    if len(worst) > MOST_SHOWN:
        yield ok(f"and {len(worst) - MOST_SHOWN} more: `dbos-mcp status` has them all")


def _failing(subject: Subject, status: SyncStatus) -> Finding:
    error = status.conductor.last_error
    return warn(f"the last look failed. {error}", SYNC, last_error=error)


def _one(subject: Subject, item: ApplicationSync) -> Finding:
    name, led = item.application_name, subject.held.led
    facts: dict[str, Fact] = {
        "application": name,
        "condition": item.condition.value,
        "as_of": None if item.as_of is None else format_time(item.as_of),
        "last_error": item.last_error,
    }
    age = "never looked at"
    if item.as_of is not None:
        behind = max(0, subject.now - item.as_of)
        facts["age_ms"] = behind
        age = f"{format_duration(behind)} old"
    if item.unreadable:
        facts["unreadable"] = item.unreadable
        age += f", {item.unreadable} rows could not be read"
    match item.condition:
        case SyncCondition.LOGIN_NEEDED:
            return warn(f"{name}: {age}, and waits for a login", "Type `dbos-mcp login`.", **facts)
        case SyncCondition.OFFLINE:
            since = format_time(item.offline_since or 0)
            told = f"{name}: {age}; no executor or no Conductor answers since {since}"
            return warn(f"{told}. {item.last_error or ''}".rstrip(), SYNC, **facts)
        case SyncCondition.FAILING:
            return warn(f"{name}: {age}; the last look failed. {item.last_error}", SYNC, **facts)
    late = item.as_of is None or subject.now - item.as_of > LATE_MS
    if led and late and item.asked_at is not None and subject.now - item.asked_at < LATE_MS:
        return warn(f"{name}: {age}, though a process syncs", "Type `dbos-mcp status`.", **facts)
    return ok(f"{name}: {age}", **facts)


@of_a_known_cache
def coverage(subject: Subject) -> Iterator[Finding]:
    status = subject.held.status
    if status is None:
        yield skip(not_read(subject.held) or "its schema is another one")
        return
    if not status.applications:
        yield skip("nothing is mirrored yet")
        return
    if status.conductor.condition is SyncCondition.EXCERPT:
        yield ok("what an incident file holds")
        return
    for item in status.applications[:MOST_SHOWN]:
        yield _covered(item)


def _covered(item: ApplicationSync) -> Finding:
    name = item.application_name
    facts: dict[str, Fact] = {
        "application": name,
        "covered_since": item.covered_since and format_time(item.covered_since),
        "history_complete": item.history_complete,
    }
    if item.covered_since is None:
        return ok(f"{name}: the first load has not begun", **facts)
    since = format_time(item.covered_since) if item.covered_since else "the beginning"
    if item.history_complete:
        return ok(f"{name}: complete since {since}", **facts)
    return ok(f"{name}: complete since {since}, and further back is being loaded", **facts)
