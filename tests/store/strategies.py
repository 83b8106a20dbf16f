"""Events that nobody thought of."""

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from hypothesis import strategies as st
from pydantic import BaseModel

from dbos_mcp.store.events import Event

Model = TypeVar("Model", bound=BaseModel)

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
