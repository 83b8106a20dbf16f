"""Secrets taken out of whatever goes into a report: it is passed on, as an incident file is."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from typing import Any, TypeVar

from pydantic import BaseModel

from dbos_mcp.redaction import Redactor

T = TypeVar("T")


def redacted(thing: T, redactor: Redactor) -> T:
    """The same, with every text in it redacted. What refers to something still does: a secret has
    the same mark wherever it stands."""
    return _redacted(thing, redactor)  # type: ignore[no-any-return]


def _redacted(thing: Any, redactor: Redactor) -> Any:
    match thing:
        case Enum():
            return thing
        case str():
            return redactor.reference(thing)
        case BaseModel():
            values = _changed(vars(thing), redactor)
            return thing.model_copy(update=values) if values else thing
        case Mapping():
            items = {_redacted(k, redactor): _redacted(v, redactor) for k, v in thing.items()}
            return Counter(items) if isinstance(thing, Counter) else items
        case tuple() if hasattr(thing, "_fields"):
            return type(thing)(*(_redacted(item, redactor) for item in thing))
        case list() | tuple() | set() | frozenset():
            return type(thing)(_redacted(item, redactor) for item in thing)
    if is_dataclass(thing) and not isinstance(thing, type):
        values = {each.name: getattr(thing, each.name) for each in fields(thing) if each.init}
        changed = _changed(values, redactor)
        return replace(thing, **changed) if changed else thing
    return thing


def _changed(values: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    new = {name: _redacted(value, redactor) for name, value in values.items()}
    return {name: value for name, value in new.items() if value is not values[name]}
