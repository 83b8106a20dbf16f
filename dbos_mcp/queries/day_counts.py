"""What the counts of workflows say, which the store keeps of every day and kind."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select
from sqlmodel import col

from dbos_mcp.queries.filters import WorkflowFilter
from dbos_mcp.store.projections import workflow_counts
from dbos_mcp.store.projections.workflow_counts import NULL, WorkflowCountRow

MOST_ROWS = 100_000
"""More than these are not read: an application that makes up a new name for everything has nearly
as many kinds of workflows as workflows."""

_DAY, _COUNT = col(WorkflowCountRow.day), col(WorkflowCountRow.count)


def all_of(connection: Connection, application: ColumnElement[bool]) -> int | None:
    """How many workflows an application has; None: there are no counts, or too many to go by."""
    if not workflow_counts.are_kept(connection):
        return None
    too_many = select(_DAY).where(application).offset(MOST_ROWS).limit(1)
    return None if connection.execute(too_many).first() else total(connection, [application])


def by_day(connection: Connection, conditions: Sequence[ColumnElement[bool]]) -> dict[int, int]:
    """How many workflows each day has for which these hold, in the order of the days, without the
    days that have none."""
    rows = connection.execute(
        select(_DAY, func.sum(_COUNT).label("matching"))
        .where(*conditions)
        .group_by(_DAY)
        .order_by(_DAY)
    )
    return {row.day: row.matching for row in rows.all()}


def total(
    connection: Connection,
    conditions: Sequence[ColumnElement[bool]],
    days: tuple[int, int] | None = None,
) -> int:
    """How many workflows there are for which these hold, of the days from one to another."""
    counted = select(func.coalesce(func.sum(_COUNT), 0)).where(*conditions)
    if days is not None:
        counted = counted.where(_DAY.between(*days))
    return int(connection.execute(counted).scalar_one())


def by_kind(
    connection: Connection, question: WorkflowFilter, names: Sequence[str], days: range
) -> Iterator[tuple[Sequence[Any], str, bool, int]]:
    """How many workflows of whole days there are of each kind, which the columns `names` make: with
    its status, and whether they are deleted."""
    kind = [col(getattr(WorkflowCountRow, name)) for name in names]
    others = [col(WorkflowCountRow.status), col(WorkflowCountRow.deleted)]
    conditions = [
        part.counted for part in question.indexed_conditions() if part.counted is not None
    ]
    rows = connection.execute(
        select(*kind, *others, func.sum(_COUNT))
        .where(*conditions, _DAY.between(days.start, days.stop - 1))
        .group_by(*kind, *others)
    )
    for row in rows.all():
        *parts, status, deleted, count = row
        yield [None if part == NULL else part for part in parts], status, deleted, count
