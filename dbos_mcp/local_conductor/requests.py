"""What a request says, checked as Conductor's OpenAPI document has it.

The classes of `conductor.models` carry the names and types. What they leave open, because a client
need not distrust its own words, is here: which nulls are refused, what range a number has, what a
time looks like, and that all text can be stored.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from pydantic import ValidationError
from pydantic.alias_generators import to_snake

from dbos_mcp.conductor.models import Body, WorkflowSelection
from dbos_mcp.errors import UsageError

B = TypeVar("B", bound=Body)

INT32 = 2**31 - 1
INT64 = 2**63 - 1
_DEEPEST = 100


class InvalidRequestError(UsageError):
    """A request that cannot be answered: its HTTP status, and a (location, message) for each
    thing that is wrong with it."""

    def __init__(self, status: int, *errors: tuple[str, str]) -> None:
        super().__init__("; ".join(f"{location} {message}" for location, message in errors))
        self.status = status
        self.errors = errors


def _within(least: int, most: int) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        fine = not isinstance(value, int) or least <= value <= most
        return None if fine else f"must be from {least} to {most}"

    return check


_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _time(value: Any) -> str | None:
    if isinstance(value, str) and _RFC_3339.fullmatch(value):
        return None
    return "must be an RFC 3339 time with a zone"


def _not_blank(value: Any) -> str | None:
    return "must not be blank" if isinstance(value, str) and not value.strip() else None


def _fine(_: Any) -> None:
    return None


_CHECKS: dict[str, Callable[[Any], str | None]] = {
    "limit": _within(0, INT64),
    "offset": _within(0, INT64),
    "timeBucketSizeMs": _within(1, INT64),
    "startStep": _within(-INT32 - 1, INT32),
    "fromStep": _within(-INT32 - 1, INT32),
    "newWorkflowId": _not_blank,
    "startTime": _time,
    "endTime": _time,
    "completedAfter": _time,
    "completedBefore": _time,
    "dequeuedAfter": _time,
    "dequeuedBefore": _time,
}
"""By wire name, in bodies and queries alike."""

_ONE_OF = ("fromLastFailure", "fromLastStep", "fromStep", "fromStepName")
_NULLABLE = {
    field.alias
    for field in WorkflowSelection.model_fields.values()
    if "Sequence" in str(field.annotation)
}
"""The arrays of search and of workflow aggregates are all that may be null."""


def parse_path(segments: Mapping[str, str]) -> dict[str, str]:
    """Path parameters, still percent-encoded, as text by snake_case name."""
    return {to_snake(name): _decoded(name, segment) for name, segment in segments.items()}


def _decoded(name: str, segment: str) -> str:
    try:
        text = unquote_to_bytes(segment).decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(422, (f"path.{name}", "must be UTF-8")) from error
    for message in _unstorable(text):
        raise InvalidRequestError(422, (f"path.{name}", message))
    return text


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text]


def _integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d{1,20}", text, re.ASCII):
        raise ValueError(text)
    return int(text)


_CONVERTERS: dict[type, tuple[Callable[[str], object], str]] = {
    bool: (_boolean, "must be true or false"),
    int: (_integer, "must be an integer"),
    str: (str, ""),
}


def parse_query(types: Mapping[str, type], given: Mapping[str, str]) -> dict[str, Any]:
    """The query parameters of `types` by snake_case name. As upstream, a blank filter is no filter,
    and an unknown parameter is nobody's business."""
    values: dict[str, Any] = {}
    errors = []
    for name in types.keys() & given.keys():
        if types[name] is str and not given[name]:
            continue
        convert, expected = _CONVERTERS[types[name]]
        try:
            value = convert(given[name])
        except (KeyError, ValueError):
            errors.append((f"query.{name}", expected))
            continue
        messages = [*_unstorable(value), _CHECKS.get(name, _fine)(value)]
        errors += [(f"query.{name}", message) for message in messages if message]
        values[to_snake(name)] = value
    if errors:
        raise InvalidRequestError(422, *errors)
    return values


def parse_body(model: type[B], raw: bytes, *, required: bool) -> B:
    """The body as `model`, which an absent body leaves empty unless it is `required`.

    Raises:
        InvalidRequestError: 400 for what is not JSON, 422 for what is not this body.
    """
    if not raw:
        if required:
            raise InvalidRequestError(400, ("body", "is required"))
        return model()
    try:
        body = json.loads(raw, parse_constant=_number, parse_float=_number)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(400, ("body", f"is not JSON: {error}")) from error
    if not isinstance(body, dict):
        raise InvalidRequestError(422, ("body", "must be an object"))
    errors = list(_body_errors(model, body))
    if errors:
        raise InvalidRequestError(422, *errors)
    return model.model_validate(body)


def _number(text: str) -> float:
    """A number with a point; `2.0` is an integer in JSON Schema."""
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text} is not a number of JSON, or too large for one")
    return int(number) if number.is_integer() else number


def _body_errors(model: type[Body], body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in body.items():
        nullable = issubclass(model, WorkflowSelection) and name in _NULLABLE
        check = _CHECKS.get(name, _fine)
        null = "must not be null" if value is None and not nullable else None
        for message in (*_unstorable(value), null or check(value)):
            if message:
                yield f"body.{name}", message
    try:
        model.model_validate(body, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_context=False, include_input=False):
            yield ".".join(["body", *map(str, detail["loc"])]), detail["msg"]
    if _ONE_OF[0] in _wire_names(model) and sum(_is_set(body.get(name)) for name in _ONE_OF) != 1:
        yield "body", f"must have exactly one of {', '.join(_ONE_OF)}"


def _wire_names(model: type[Body]) -> set[str | None]:
    return {field.alias for field in model.model_fields.values()}


def _is_set(value: object) -> bool:
    return value is not None and value is not False


def _unstorable(value: object, depth: int = 0) -> Iterator[str]:
    """What no database takes as text: PostgreSQL refuses NUL, and half a surrogate pair has no
    UTF-8. Objects and arrays inside each other end at `_DEEPEST`."""
    if depth > _DEEPEST:
        yield "is nested too deeply"
        return
    match value:
        case str():
            if "\0" in value:
                yield "must not contain NUL"
            if any("\ud800" <= character <= "\udfff" for character in value):
                yield "must not contain a lone surrogate"
        case dict():
            for key, item in value.items():
                yield from _unstorable(key)
                yield from _unstorable(item, depth + 1)
        case list():
            for item in value:
                yield from _unstorable(item, depth + 1)
