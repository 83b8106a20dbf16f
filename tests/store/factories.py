"""Events from the one field that matters."""

from typing import Any

from dbos_mcp.store.events import (
    CommandIssued,
    CommandSettled,
    StepsObserved,
    StepState,
    WorkflowChanged,
    WorkflowDeleted,
    WorkflowObserved,
)

SHOP: dict[str, Any] = {"application_name": "shop"}
BORN = 1_790_000_000_000


def observed(workflow_id: str = "order-1", **fields: Any) -> WorkflowObserved:
    return WorkflowObserved.model_validate(_state(workflow_id) | fields)


def changed(workflow_id: str = "order-1", **fields: Any) -> WorkflowChanged:
    return WorkflowChanged.model_validate(_state(workflow_id) | fields)


def deleted(workflow_id: str = "order-1") -> WorkflowDeleted:
    return WorkflowDeleted(**SHOP, workflow_id=workflow_id)


def steps(workflow_id: str = "order-1", *names: str) -> StepsObserved:
    states = tuple(StepState(step_id=n, step_name=name) for n, name in enumerate(names))
    return StepsObserved(**SHOP, workflow_id=workflow_id, steps=states)


def issued(command_id: str = "command-1", **fields: Any) -> CommandIssued:
    return CommandIssued.model_validate(
        {**SHOP, "workflow_id": "order-1", "command_id": command_id, "command": "cancel", **fields}
    )


def settled(command_id: str = "command-1", **fields: Any) -> CommandSettled:
    return CommandSettled.model_validate(
        {**SHOP, "workflow_id": "order-1", "command_id": command_id, "outcome": "done", **fields}
    )


def _state(workflow_id: str) -> dict[str, Any]:
    return {
        **SHOP,
        "workflow_id": workflow_id,
        "status": "PENDING",
        "created_at": BORN,
        "updated_at": BORN,
    }
