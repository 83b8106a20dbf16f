"""One workflow: its row, its relatives, and what its steps and its history come to."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, func, select
from sqlmodel import col

from dbos_mcp.queries.applications import require_application
from dbos_mcp.queries.steps import StepSummary, summarize_steps
from dbos_mcp.queries.workflows import ITEM_COLUMNS, WorkflowItem, item_of, not_mirrored
from dbos_mcp.store import event_log
from dbos_mcp.store.projections.workflows import WorkflowRow

RELATIVES = 20
ANCESTORS = 50


@dataclass(frozen=True)
class Relatives:
    """The first few, and how many there are."""

    items: list[WorkflowItem]
    total: int


@dataclass(frozen=True)
class Ancestors:
    """The parents, the root first."""

    items: list[WorkflowItem]
    ends_with: str | None = None
    """Why the chain is not shown up to the root, if it is not."""


@dataclass(frozen=True)
class WorkflowDetail:
    workflow: WorkflowItem
    ancestors: Ancestors
    children: Relatives
    forks: Relatives
    source: WorkflowItem | None
    """What it was forked from, if that is mirrored."""
    steps: StepSummary
    history_total: int
    """How many entries its history has."""


@dataclass(frozen=True)
class KeptPayload:
    """What the mirror itself has kept; None: nothing was asked for, or there was none."""

    input: str | None
    output: str | None


def get_workflow(connection: Connection, application_name: str, workflow_id: str) -> WorkflowDetail:
    """A workflow, also one that is gone upstream.

    Raises:
        NotFoundError: the mirror has never seen it.
    """
    workflow = get_item(connection, application_name, workflow_id)
    source = workflow.forked_from
    here = col(WorkflowRow.application_name) == application_name
    return WorkflowDetail(
        workflow=workflow,
        ancestors=_ancestors(connection, application_name, workflow),
        children=_relatives(connection, here, col(WorkflowRow.parent_workflow_id) == workflow_id),
        forks=_relatives(connection, here, col(WorkflowRow.forked_from) == workflow_id),
        source=(source and _find(connection, application_name, source)) or None,
        steps=summarize_steps(connection, workflow.key),
        history_total=event_log.count_of_workflow(connection, application_name, workflow_id),
    )


def get_item(connection: Connection, application_name: str, workflow_id: str) -> WorkflowItem:
    """Its row alone.

    Raises:
        NotFoundError: the mirror has never seen it.
    """
    require_application(connection, application_name)
    workflow = _find(connection, application_name, workflow_id)
    if workflow is None:
        raise not_mirrored(application_name, workflow_id)
    return workflow


def kept_payload(connection: Connection, application_name: str, workflow_id: str) -> KeptPayload:
    row = connection.execute(
        select(col(WorkflowRow.input), col(WorkflowRow.output)).where(
            *_is(application_name, workflow_id)
        )
    ).first()
    return KeptPayload(row.input, row.output) if row else KeptPayload(None, None)


def _ancestors(connection: Connection, application_name: str, workflow: WorkflowItem) -> Ancestors:
    """Ids are the application's: nothing keeps them from going round in a circle."""
    items: list[WorkflowItem] = []
    seen = {workflow.workflow_id}
    parent_id = workflow.parent_workflow_id
    ends_with = None
    while parent_id is not None:
        if parent_id in seen:
            ends_with = f"{parent_id} is its own ancestor"
            break
        if len(items) == ANCESTORS:
            ends_with = f"{parent_id} and perhaps more above it"
            break
        parent = _find(connection, application_name, parent_id)
        if parent is None:
            ends_with = f"{parent_id} is not mirrored"
            break
        items.insert(0, parent)
        seen.add(parent_id)
        parent_id = parent.parent_workflow_id
    return Ancestors(items, ends_with)


def _find(connection: Connection, application_name: str, workflow_id: str) -> WorkflowItem | None:
    row = connection.execute(
        select(*ITEM_COLUMNS).where(*_is(application_name, workflow_id))
    ).first()
    return None if row is None else item_of(row)


def _relatives(connection: Connection, *conditions: ColumnElement[bool]) -> Relatives:
    total = connection.execute(
        select(func.count()).select_from(WorkflowRow).where(*conditions)
    ).scalar_one()
    rows = connection.execute(
        select(*ITEM_COLUMNS)
        .where(*conditions)
        .order_by(col(WorkflowRow.created_at), col(WorkflowRow.id))
        .limit(RELATIVES)
    )
    return Relatives([item_of(row) for row in rows], total)


def _is(application_name: str, workflow_id: str) -> tuple[ColumnElement[bool], ...]:
    return (
        col(WorkflowRow.application_name) == application_name,
        col(WorkflowRow.workflow_id) == workflow_id,
    )
