"""What a look could not read, as rows of `store.unreadable`."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from dbos_mcp.conductor.decoding import Rows, Unreadable
from dbos_mcp.conductor.models import Workflow
from dbos_mcp.store.unreadable import STEP, WORKFLOW, UnreadableRow


def workflows(application_name: str, seen: Rows[Workflow], *, now: int) -> list[UnreadableRow]:
    """With the time of creation of the neighbour that says it, where they do not say it: lists are
    in its order, and counts go by it."""
    return [
        _row(
            application_name,
            WORKFLOW,
            _named(WORKFLOW, row),
            row if row.created_at is not None else replace(row, created_at=_near(seen, row)),
            row.row_id,
            now=now,
        )
        for row in seen.unreadable
    ]


def steps(
    application_name: str, workflow_id: str, unreadable: Sequence[Unreadable], *, now: int
) -> list[UnreadableRow]:
    return [
        _row(
            application_name,
            STEP,
            f"{_named(STEP, row)} of workflow {workflow_id}",
            row,
            workflow_id,
            now=now,
        )
        for row in unreadable
    ]


def others(
    application_name: str, kind: str, unreadable: Sequence[Unreadable], *, now: int
) -> list[UnreadableRow]:
    """Of a kind that is no part of a workflow."""
    return [
        _row(application_name, kind, _named(kind, row), row, None, now=now) for row in unreadable
    ]


def called(workflow_id: str, row: UnreadableRow) -> UnreadableRow:
    """Who it is, when nobody else was asked for."""
    subject = f"{WORKFLOW} {workflow_id}"
    return row.model_copy(update={"subject": subject, "workflow_id": workflow_id})


def spared(unreadable: Sequence[Unreadable], held: Collection[str]) -> set[str]:
    """Those that a list does not show and that may be in it all the same."""
    ids = {row.row_id for row in unreadable}
    return set(held) if None in ids else {each for each in ids if each is not None}


def _row(
    application_name: str,
    kind: str,
    subject: str,
    row: Unreadable,
    workflow_id: str | None,
    *,
    now: int,
) -> UnreadableRow:
    return UnreadableRow(
        application_name=application_name,
        subject=subject,
        kind=kind,
        reason=row.reason,
        workflow_id=workflow_id,
        status=row.status,
        created_at=row.created_at,
        seen_at=now,
    )


def _named(kind: str, row: Unreadable) -> str:
    return f"{kind} {row.row_id}" if row.row_id else f"{kind} without an id ({row.digest})"


def _near(seen: Sequence[Workflow], row: Unreadable) -> int | None:
    return seen[max(0, row.after - 1)].created_at if seen else None
