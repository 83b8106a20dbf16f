"""From the bytes of an answer to the classes of `conductor.models`.

What comes may be somebody's data gone wrong: half characters, numbers that no database has, a row
without its id. A list is read whole where that is possible, and row by row where it is not. What a
row says is mended where that is honest (see `storable`), but never its id, by which it could no
longer be asked for. A row that cannot be read is set aside, and holds up no other.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from dbos_mcp.conductor.models import Application, EpochMs, Executor, Step, Wire, Workflow
from dbos_mcp.domain import INTEGER_LIMIT, one_line, storable, to_datetime

T = TypeVar("T")
Row = TypeVar("Row", bound=Wire)

Read = Callable[[bytes, bool], T]
"""How an answer is read: what came of it, and whether that is only its beginning.

Raises UnfitError."""

_IDS: dict[type[Wire], str] = {
    Application: "name",
    Executor: "executor_id",
    Workflow: "workflow_id",
    Step: "step_id",
}
_UNFIT_ID = "its id cannot be used"
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[][{},]', re.DOTALL)
_OPEN, _CLOSED, _COMMA = b"[{", b"]}", b","
_LONGEST_INTEGER = 20
"""Digits; with more, it is beyond every limit."""
_REASONS = {
    "missing": "is missing",
    "string_type": "is not text",
    "value_error": "cannot be used",
    "bool_type": "is neither true nor false",
    "int_type": "is not a whole number",
    "int_parsing": "is not a whole number",
    "int_from_float": "is not a whole number",
}
_TIME: TypeAdapter[int] = TypeAdapter(EpochMs)
LONGEST_NAME = 4_096
LONGEST_LIST = 65_536
"""Characters. Nobody means longer ones; payloads are cut where they are stored."""
_LISTS = frozenset({"attributes", "authenticated_roles"})
_PAYLOADS = frozenset({"input", "output", "error"})


class UnfitError(Exception):
    """The answer is not of API v2: where and why, without any of its text."""


@dataclass(frozen=True)
class Unreadable:
    """A row of a list that is not one of API v2, and what can be told of it all the same."""

    reason: str
    digest: str
    """Tells those without an id apart."""
    after: int
    """How many rows that can be read came before it."""
    row_id: str | None = None
    status: str | None = None
    created_at: int | None = None


class Rows(list[T], Generic[T]):
    """The rows of a list that can be read, and what is known of the others."""

    def __init__(
        self,
        found: Iterable[T] = (),
        unreadable: Sequence[Unreadable] = (),
        *,
        is_cut: bool = False,
    ) -> None:
        super().__init__(found)
        self.unreadable = unreadable
        self.is_cut = is_cut
        """There are more: the answer was too large."""


def whole(shape: type[T]) -> Read[T]:
    """Of an answer that is of no use in part."""
    key: Any = shape
    adapter: TypeAdapter[T] = _adapter(key)

    def read(content: bytes, is_cut: bool) -> T:
        if is_cut:
            raise UnfitError("it is too large")
        try:
            return adapter.validate_json(content or b"null")
        except ValidationError as error:
            kind, place = _fault(error)
        # Outside the handler: the validation error holds the answer's text.
        raise UnfitError(".".join(filter(None, [kind, place])))

    return read


def rows(shape: type[Row], *, in_part: bool = False) -> Read[Rows[Row]]:
    """Of a list, as far as its rows can be read; `in_part`, as far as they are there as well."""
    adapter: TypeAdapter[list[Row]] = _adapter(list[shape])  # type: ignore[valid-type]

    def read(content: bytes, is_cut: bool) -> Rows[Row]:
        if is_cut and not in_part:
            raise UnfitError("it is too large")
        if not is_cut:
            try:
                found = adapter.validate_json(content or b"null")
            except ValidationError:
                pass
            else:
                if not any(map(_flaw, found)):
                    return Rows(found)
        return _one_by_one(shape, content, is_cut)

    return read


def _one_by_one(shape: type[Row], content: bytes, is_cut: bool) -> Rows[Row]:
    found: list[Row] = []
    unreadable: list[Unreadable] = []
    for text, is_complete in _items(content):
        if not is_complete and not is_cut:
            raise UnfitError("json_invalid")
        if is_complete:
            row = _row(shape, text, len(found))
        elif not found and not unreadable:
            row = _unparsed(shape, text, "it is too large", 0)
        else:
            break  # it is asked for again
        if isinstance(row, Unreadable):
            unreadable.append(row)
        else:
            found.append(row)
    return Rows(found, unreadable, is_cut=is_cut)


def _items(content: bytes) -> Iterator[tuple[bytes, bool]]:
    """The texts of a list's items, however deep those are nested, and whether each is complete:
    where the list does not come to its end, the last one is not."""
    if content.lstrip()[:1] != b"[":
        raise UnfitError("it is no list")
    depth = begin = 0
    for token in _TOKEN.finditer(content):
        at = token.start()
        mark = content[at]
        if mark in _OPEN:
            depth += 1
            if depth == 1:
                begin = at + 1
        elif mark in _CLOSED or (mark in _COMMA and depth == 1):
            depth -= mark in _CLOSED
            if depth == 0 or mark in _COMMA:
                text = content[begin:at]
                if mark in _COMMA or text.strip():
                    yield text, True
                begin = at + 1
            if depth == 0:
                if content[begin:].strip():
                    raise UnfitError("json_invalid")
                return
    yield content[begin:], False


def _row(shape: type[Row], text: bytes, after: int) -> Row | Unreadable:
    adapter: TypeAdapter[Row] = _adapter(shape)
    try:
        row = adapter.validate_json(text)
        if _flaw(row) is None:
            return row
    except ValidationError:
        pass
    try:
        # Escapes for bytes that are no UTF-8 are as little storable as half a character is.
        said = json.loads(text.decode(errors="surrogateescape"), strict=False, parse_int=_integer)
        row = adapter.validate_python(storable(said))
    except RecursionError:
        return _unparsed(shape, text, "it is nested too deeply", after)
    except ValidationError as error:
        kind, place = _fault(error)
        reason = f"{place or 'it'} {_REASONS.get(kind, kind)}"
    except ValueError:
        return _unparsed(shape, text, "it is not JSON", after)
    else:
        same_id = _says_id(shape, said) == getattr(row, _IDS[shape])
        reason = _flaw(row) or ("" if same_id else _UNFIT_ID)
        if not reason:
            return row
    return _described(shape, said, _digest(text), reason, after)


def _described(shape: type[Wire], said: object, digest: str, reason: str, after: int) -> Unreadable:
    members = said if isinstance(said, dict) else {}
    row_id, status = _says_id(shape, said), members.get("status")
    try:
        created_at = _TIME.validate_python(members.get("createdAt"))
        to_datetime(created_at)
    except ValueError:
        created_at = None
    return Unreadable(
        one_line(reason),
        digest,
        after,
        row_id=str(row_id) if row_id is not None and _is_fit(row_id) else None,
        status=storable(status) if isinstance(status, str) else None,
        created_at=created_at,
    )


def _unparsed(shape: type[Wire], text: bytes, reason: str, after: int) -> Unreadable:
    """With its id, if that stands near its beginning."""
    name, start = _id_on_wire(shape), text[:4096]
    said: object = None
    if match := re.search(rb'"%b"\s*:\s*("(?:[^"\\]|\\.)+"|\d{1,18}\b)' % name.encode(), start):
        with suppress(ValueError):
            said = {name: json.loads(match[1])}
    return _described(shape, said, _digest(start), reason, after)


def _flaw(row: Wire) -> str | None:
    """Why it cannot be kept by its id, and by the time that lists are read by; None: it can."""
    row_id = getattr(row, _IDS[type(row)])
    if not _is_fit(row_id):
        return _UNFIT_ID
    if isinstance(row, Workflow):
        try:
            to_datetime(row.created_at + 1)
            to_datetime(row.updated_at + 1)
        except ValueError:
            return "its times cannot be used"
    for name, longest in _names(type(row)):
        if len(getattr(row, name) or "") > longest:
            return f"{name} is too long"
    return None


def _is_fit(row_id: str | int) -> bool:
    """Whether it can be kept, and asked for."""
    if isinstance(row_id, str) and (not 0 < len(row_id) <= LONGEST_NAME or "\0" in row_id):
        return False
    return bool(storable(row_id) == row_id)


@cache
def _names(shape: type[Wire]) -> Sequence[tuple[str, int]]:
    """Its fields that hold names, ids and words, and how long each may be."""
    texts = (str, str | None)
    found = {name for name, field in shape.model_fields.items() if field.annotation in texts}
    return [
        (name, LONGEST_LIST if name in _LISTS else LONGEST_NAME)
        for name in sorted(found - _PAYLOADS)
    ]


def _says_id(shape: type[Wire], said: object) -> str | int | None:
    row_id = said.get(_id_on_wire(shape)) if isinstance(said, dict) else None
    return row_id if type(row_id) is shape.model_fields[_IDS[shape]].annotation else None


def _id_on_wire(shape: type[Wire]) -> str:
    name = _IDS[shape]
    return shape.model_fields[name].alias or name


def _integer(text: str) -> int:
    """However many digits: `int` refuses to read thousands of them."""
    if len(text) <= _LONGEST_INTEGER:
        return int(text)
    return -INTEGER_LIMIT - 1 if text.startswith("-") else INTEGER_LIMIT


def _fault(error: ValidationError) -> tuple[str, str]:
    """Its kind, and its place."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return first["type"], ".".join(map(str, first["loc"]))


def _digest(text: bytes) -> str:
    return blake2b(text, digest_size=4).hexdigest()


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)
