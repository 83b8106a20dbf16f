"""Failed workflows in groups: those of one name that ended with the same words."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from sqlalchemy import Connection, Row, func, select
from sqlmodel import col

from dbos_mcp.domain import FAILED
from dbos_mcp.errors import NotFoundError
from dbos_mcp.queries.applications import require_application
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.tables import table_of

MOST_FAILURES = 5_000
"""So many of each status are looked at, the newest."""
EXAMPLES = 5
ERROR_CHARACTERS = 300

_WORKFLOW = table_of(WorkflowRow)


@dataclass
class FailureGroup:
    """Times are epoch milliseconds by upstream's clock, of the failures themselves."""

    key: str
    """Opaque, and the same for as long as what the group is made of is."""
    workflow_name: str | None
    status: str
    error: str | None
    """Its first line."""
    count: int = 0
    first_at: int = 0
    last_at: int = 0
    application_versions: Counter[str] = field(default_factory=Counter)
    executors: Counter[str] = field(default_factory=Counter)
    queues: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    """The ids of the newest."""


@dataclass(frozen=True)
class Failures:
    groups: Sequence[FailureGroup]
    """The one with the newest failure first."""
    looked_at: int
    complete: bool
    """Whether there is no older failure than those that were looked at."""


def key_of(workflow_name: str | None, status: str, error: str | None) -> str:
    """What puts two failures into one group."""
    text = json.dumps([workflow_name, status, error])
    return blake2b(text.encode(), digest_size=6).hexdigest()


def list_failures(
    connection: Connection,
    application_name: str,
    *,
    since: int | None = None,
    most: int = MOST_FAILURES,
) -> Failures:
    """Of what upstream still has; `since` a time of creation.

    Raises:
        NotFoundError: an application that was never listed.
    """
    require_application(connection, application_name)
    groups: dict[str, FailureGroup] = {}
    looked_at, complete = 0, True
    for status in FAILED:
        rows = _newest(connection, application_name, status, since, most + 1)
        complete = complete and len(rows) <= most
        for row in rows[:most]:
            looked_at += 1
            _add(groups, row, status)
    return Failures(
        sorted(groups.values(), key=lambda group: (-group.last_at, group.key)), looked_at, complete
    )


def get_failure_group(
    connection: Connection, application_name: str, key: str, *, most: int = MOST_FAILURES
) -> FailureGroup:
    """Raises NotFoundError: no failure that is looked at is of such a group."""
    for group in list_failures(connection, application_name, most=most).groups:
        if group.key == key:
            return group
    raise NotFoundError(
        f"{application_name} has no failures of a group {key!r} (any more).",
        hint="The list of its failures names the groups that there are.",
    )


def _newest(
    connection: Connection, application_name: str, status: str, since: int | None, limit: int
) -> Sequence[Any]:
    """One status at a time: then the index holds them in order."""
    columns = _WORKFLOW.c
    statement = (
        select(
            columns.workflow_id,
            columns.workflow_name,
            func.substr(columns.error, 1, 4 * ERROR_CHARACTERS).label("error"),
            columns.created_at,
            func.coalesce(columns.completed_at, columns.updated_at).label("failed_at"),
            columns.application_version,
            columns.executor_id,
            columns.queue_name,
        )
        .where(
            columns.application_name == application_name,
            columns.status == status,
            columns.deleted_at.is_(None),
        )
        .order_by(col(WorkflowRow.created_at).desc())
        .limit(limit)
    )
    if since is not None:
        statement = statement.where(columns.created_at >= since)
    return connection.execute(statement).all()


def _add(groups: dict[str, FailureGroup], row: Row[Any], status: str) -> None:
    values = row._mapping
    error = _first_line(row.error)
    key = key_of(row.workflow_name, status, error)
    group = groups.get(key)
    if group is None:
        group = groups[key] = FailureGroup(key, row.workflow_name, status, error)
    group.first_at = min(group.first_at or row.failed_at, row.failed_at)
    group.last_at = max(group.last_at, row.failed_at)
    group.count += 1
    for counts, name in (
        (group.application_versions, "application_version"),
        (group.executors, "executor_id"),
        (group.queues, "queue_name"),
    ):
        if values[name] is not None:
            counts[str(values[name])] += 1
    if len(group.examples) < EXAMPLES:
        group.examples.append(row.workflow_id)


def _first_line(error: str | None) -> str | None:
    lines = (line.strip() for line in (error or "").splitlines())
    return next((line[:ERROR_CHARACTERS] for line in lines if line), None)
