"""What the mirror's tables and the kinds of its events are: told by their own definitions."""

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Column
from sqlalchemy.dialects import sqlite
from sqlmodel import SQLModel

from dbos_mcp.store.event_log import EventRow
from dbos_mcp.store.events import KINDS, Event
from dbos_mcp.store.projections import PROJECTIONS
from dbos_mcp.store.tables import table_of

_DIALECT = sqlite.dialect()


@dataclass(frozen=True)
class TableSchema:
    name: str
    meaning: str
    columns: Sequence[str]
    """`name TYPE`, with what else holds of it."""


@dataclass(frozen=True)
class EventSchema:
    kind: str
    meaning: str
    fields: Sequence[str]
    """What its `data` holds."""


def tables() -> list[TableSchema]:
    """The log, and the read models that are folded from it."""
    models = [table for projection in PROJECTIONS for table in projection.tables]
    return [
        _table(EventRow, ""),
        *(_table(model, sys.modules[model.__module__].__doc__ or "") for model in models),
    ]


def events() -> list[EventSchema]:
    return [
        EventSchema(
            kind.__name__,
            _one_line(*(vars(base).get("__doc__") for base in _own(kind))),
            [name for name in kind.model_fields if name not in Event.model_fields],
        )
        for kind in KINDS.values()
    ]


def _table(model: type[SQLModel], subject: str) -> TableSchema:
    table = table_of(model)
    return TableSchema(
        table.name,
        _one_line(subject, vars(model).get("__doc__")),
        [_column(column) for column in table.columns],
    )


def _column(column: Column[object]) -> str:
    parts = [column.name, column.type.compile(_DIALECT)]
    if column.primary_key:
        parts.append("key")
    elif not column.nullable:
        parts.append("not null")
    parts += [f"→ {key.target_fullname}" for key in column.foreign_keys]
    return " ".join(parts)


def _own(kind: type[Event]) -> Sequence[type]:
    """The class and its parents, without what every event is."""
    return kind.__mro__[: kind.__mro__.index(Event)]


def _one_line(*docs: str | None) -> str:
    return " ".join(" ".join(inspect.cleandoc(doc).split()) for doc in docs if doc)
