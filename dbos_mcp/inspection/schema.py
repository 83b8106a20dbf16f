"""The public schema of a mirror, with how much it holds; and the kinds of events in its log."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from dbos_mcp.inspection.views import VIEWS, WORKFLOWS, Column, View
from dbos_mcp.store.events import KINDS, Event
from dbos_mcp.store.projections import workflow_counts

MOST_VALUES = 8


@dataclass(frozen=True)
class ViewInUse:
    view: View
    rows: int
    values: Mapping[str, Sequence[str]]
    """Of the columns that hold few different ones: all of them, or as many as are told."""


@dataclass(frozen=True)
class EventSchema:
    kind: str
    meaning: str
    about_fields: str
    fields: Sequence[str]
    """What its `data` holds."""


def views(connection: Connection) -> list[ViewInUse]:
    return [in_use(connection, view) for view in VIEWS]


def in_use(connection: Connection, view: View) -> ViewInUse:
    counted = view.counted or f"SELECT count(*) FROM {view.name}"
    if view.kept and workflow_counts.are_kept(connection):
        counted = view.kept
    rows = connection.exec_driver_sql(counted)
    values = {
        column.name: [*_values(connection, view, column)]
        for column in view.columns
        if column.has_few
    }
    return ViewInUse(view, rows.scalar_one(), values)


def events() -> list[EventSchema]:
    return [
        EventSchema(
            kind.__name__,
            _one_line(vars(kind).get("__doc__")),
            _one_line(*(vars(base).get("__doc__") for base in _own(kind)[1:])),
            [name for name in kind.model_fields if name not in Event.model_fields],
        )
        for kind in KINDS.values()
    ]


def _values(connection: Connection, view: View, column: Column) -> Iterator[str]:
    if column.name == "kind":
        yield from KINDS
        return
    if view is not WORKFLOWS:
        rows = connection.exec_driver_sql(
            f"SELECT DISTINCT {column.name} FROM {view.name} WHERE {column.name} IS NOT NULL"
            f" ORDER BY 1 LIMIT {MOST_VALUES}"
        )
        yield from rows.scalars()
        return
    # Each value is the first behind the last one in an index, however many rows have it.
    applications = connection.exec_driver_sql("SELECT application_name FROM applications")
    found: set[str] = set()
    for (application,) in applications.all():
        last: str | None = ""
        for _ in range(MOST_VALUES):
            last = connection.exec_driver_sql(
                f"SELECT min({column.name}) FROM {view.name}"
                f" WHERE application_name = ? AND {column.name} > ?",
                (application, last),
            ).scalar_one()
            if last is None:
                break
            found.add(last)
    yield from sorted(found)[:MOST_VALUES]


def _own(kind: type[Event]) -> Sequence[type]:
    """The class and its parents, without what every event is."""
    return kind.__mro__[: kind.__mro__.index(Event)]


def _one_line(*docs: str | None) -> str:
    return " ".join(" ".join(inspect.cleandoc(doc).split()) for doc in docs if doc)
