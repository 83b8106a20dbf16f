"""The public schema as text: what there is to ask by SQL, and what it means."""

from collections.abc import Iterator, Sequence

from dbos_mcp.domain import counted
from dbos_mcp.errors import UsageError
from dbos_mcp.inspection import schema as in_use
from dbos_mcp.inspection.examples import EXAMPLES
from dbos_mcp.inspection.schema import ViewInUse
from dbos_mcp.inspection.views import EVENTS, VIEWS, View, nearest
from dbos_mcp.server.budget import within
from dbos_mcp.server.render import plain

_VALUES_BYTES = 200


def view_named(name: str) -> View:
    """Raises UsageError, with the nearest name."""
    known = {view.name: view for view in VIEWS}
    name = name.strip().lower()
    if name not in known:
        near = nearest(name, known)
        raise UsageError(
            f"There is no view {name[:80]!r}" + (f"; did you mean {near[0]}?" if near else "."),
            hint=f"Views: {', '.join(known)}.",
        )
    return known[name]


def overview(views: Sequence[ViewInUse]) -> list[str]:
    """All views, and the statements to begin with."""
    parts = [
        "Views of the mirror, for query_sql (SQLite), with their rows. Each time is ISO 8601 text"
        " (UTC), and with _ms behind its name epoch milliseconds; * has an index, behind"
        " application_name; input and output are null unless DBOS_MCP_PAYLOADS has them read."
    ]
    for each in views:
        parts.append(f"{each.view.name} ({each.rows}): {each.view.meaning}")
        parts.append(f"  {', '.join(_names(each.view))}")
        parts += [f"  {name}: {_listed(values)}" for name, values in each.values.items() if values]
    parts.append("Statements to begin with; params: :application_name, times as ISO 8601")
    parts += [f"{example.question}\n  {example.sql}" for example in EXAMPLES]
    return parts


def _names(view: View) -> list[str]:
    """A time and its integer as one."""
    names: list[str] = []
    for column in view.columns:
        mark = "*" if column.is_indexed else ""
        if column.is_integer_of_time:
            names[-1] += f"[_ms]{mark}"
        else:
            names.append(f"{column.name}{mark}")
    return names


def detail(one: ViewInUse) -> list[str]:
    """One view, with the meaning of each column."""
    return [
        f"{one.view.name}: {one.view.meaning}. {counted(one.rows, 'row')}. * has an index, behind"
        " application_name.",
        *(
            f"{column.name}{'*' if column.is_indexed else ''}: {column.meaning}"
            + (f"; here: {_listed(values)}" if (values := one.values.get(column.name)) else "")
            for column in one.view.columns
        ),
        *(event_lines() if one.view is EVENTS else ()),
    ]


def view_lines() -> Iterator[str]:
    """Each with its columns; what was told of one is not told again."""
    told: set[tuple[str, str]] = set()
    for view in VIEWS:
        columns = [(c.name, c.meaning) for c in view.columns if not c.is_integer_of_time]
        yield f"{view.name}: {view.meaning}"
        yield from (
            f"  {name}: {meaning}" for name, meaning in columns if (name, meaning) not in told
        )
        before = [name for name, meaning in columns if (name, meaning) in told]
        if before:
            yield f"  as above: {', '.join(before)}"
        told.update(columns)


def event_lines() -> list[str]:
    """The kinds of events; what was told of one is not told again."""
    lines = ["Kinds of events, and the fields of their data"]
    before: Sequence[str] = ()
    for event in in_use.events():
        same = len(event.fields) > 1 and event.fields == before
        about = event.meaning if same else f"{event.meaning} {event.about_fields}"
        lines.append(f"{event.kind}: {about}".rstrip(": "))
        lines.append(f"  {'the same' if same else ', '.join(event.fields) or '(none)'}")
        before = event.fields
    return lines


def _listed(values: Sequence[str]) -> str:
    more = ", …" if len(values) == in_use.MOST_VALUES else ""
    return within(", ".join(plain(value, limit=60) for value in values), _VALUES_BYTES) + more
