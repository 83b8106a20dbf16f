"""Events from the one field that matters, and strategies for events that nobody thought of."""

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from hypothesis import strategies as st
from pydantic import BaseModel

from dbos_mcp.store.events import (
    CommandIssued,
    CommandSettled,
    Event,
    StepsObserved,
    StepState,
    WorkflowChanged,
    WorkflowDeleted,
    WorkflowObserved,
)

Model = TypeVar("Model", bound=BaseModel)

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


ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates included
ANY_INTEGER = st.integers(-(2**70), 2**70)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | ANY_INTEGER | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=5,
)


def any_of(kind: type[Model]) -> st.SearchStrategy[Model]:
    """A model with any values in any of its fields, those that cannot be stored included."""
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for name, field in kind.model_fields.items():
        values = _values(field.annotation)
        (required if field.is_required() else optional)[name] = values
    return st.fixed_dictionaries(required, optional=optional).map(kind.model_validate)


def any_event(kind: type[Event]) -> st.SearchStrategy[Event]:
    return any_of(kind)


def _values(annotation: Any) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _values(arguments[0])
    if origin in (Union, UnionType):
        return st.one_of(*map(_values, arguments))
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(_values(arguments[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(ANY_TEXT, ANY_JSON, max_size=3)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return any_of(annotation)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        str: ANY_TEXT,
        int: ANY_INTEGER,
        bool: st.booleans(),
        NoneType: st.none(),
    }
    return simple[annotation]
