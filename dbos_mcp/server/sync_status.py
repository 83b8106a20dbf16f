"""How syncing goes, as text: for the tool, the resource, and the command line."""

from pathlib import Path

from dbos_mcp.domain import counted, now_ms
from dbos_mcp.queries.sync_status import (
    ApplicationSync,
    SyncCondition,
    SyncItem,
    SyncStatus,
)
from dbos_mcp.redaction import told
from dbos_mcp.server import render
from dbos_mcp.server.render import Column
from dbos_mcp.sync.leadership import Leadership

ERROR_CHARACTERS = 200


def who_syncs(leadership: Leadership) -> str:
    if leadership.held:
        return "this process"
    return {True: "another process", False: "no process", None: "unknown"}[leadership.taken()]


def columns(*, now: int, syncing: str) -> list[Column[ApplicationSync]]:
    """`syncing` is what `who_syncs` says."""
    return [
        ("application_name", lambda item: item.application_name),
        ("state", lambda item: item.condition),
        ("offline_since", lambda item: render.time(item.offline_since)),
        ("complete_since", lambda item: coverage(item.covered_since, item.history_complete)),
        ("lag", lambda item: _ago(item.as_of, now)),
        ("asked", lambda item: _ago(item.asked_at, now)),
        ("next_look", lambda item: _next(item, now) if syncing != "no process" else None),
        ("requests", _requests),
        ("kb", _kilobytes),
        ("steps_pending", lambda item: str(item.steps_pending)),
        ("audited", lambda item: _ago(item.audited_at, now)),
        ("audit_found", lambda item: str(item.audit_found) if item.audited_at else None),
        ("last_error", lambda item: item.last_error),
    ]


def status_text(status: SyncStatus, *, cache: Path, syncing: str) -> str:
    conductor = status.conductor
    found = render.table(
        columns(now=now_ms(), syncing=syncing), status.applications, limit=ERROR_CHARACTERS
    )
    return render.answer(
        f"{counted(len(status.applications), 'application')}, synced by {syncing}",
        found if status.applications else "None is registered, or none has been seen yet.",
        *(redacted_line(item) for item in status.applications),
        f"Besides: {_requests(conductor)} requests, {_kilobytes(conductor)} KB for what concerns no"
        " application.",
        f"Cache: {render.plain(cache, limit=300)}, {counted(status.events, 'event')},"
        f" {status.bytes / 1_000_000:.1f} MB.",
        *(_unreadable(item.application_name, item) for item in status.applications),
        _unreadable("the list of applications", conductor),
        "Call login: what is mirrored is still answered, but nothing new is seen."
        if conductor.condition is SyncCondition.LOGIN_NEEDED
        else None,
    )


def _unreadable(of_what: str, item: SyncItem) -> str | None:
    if not item.unreadable:
        return None
    rows = counted(item.unreadable, "row")
    example = render.plain(item.unreadable_example, limit=ERROR_CHARACTERS)
    return (
        f"{rows} of {render.plain(of_what)} could not be read, and may be missing or out of date"
        f" here; for example {example}. All else is read, and these are tried again."
    )


def redacted_line(item: ApplicationSync) -> str | None:
    """What was taken out of what is stored of an application."""
    if not item.redacted:
        return None
    return f"{render.plain(item.application_name)}: redacted before storing: {told(item.redacted)}."


def coverage(covered_since: int | None, history_complete: bool) -> str | None:
    """Since when the mirror of an application is complete."""
    if covered_since is None:
        return None
    since = render.time(covered_since) if covered_since else "the beginning"
    return since if history_complete else f"{since}, loading"


def _next(item: ApplicationSync, now: int) -> str:
    if item.next_at is None:
        return "once asked"
    return "now" if item.next_at <= now else f"in {render.duration(item.next_at - now)}"


def _ago(moment: int | None, now: int) -> str | None:
    return None if moment is None else render.duration(max(0, now - moment))


def _requests(item: SyncItem) -> str:
    failed = f" ({item.failed_requests} failed)" if item.failed_requests else ""
    return f"{item.requests}{failed}"


def _kilobytes(item: SyncItem) -> str:
    return f"{(item.bytes_sent + item.bytes_received) / 1000:.1f}"
