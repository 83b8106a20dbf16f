"""What SQL found, as text for people and for programs."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from rich.cells import cell_len

from dbos_mcp.server.render import plain, printable_json

if TYPE_CHECKING:
    from dbos_mcp.inspection.sandbox import Found

WIDEST = 60
LONGEST = 2_000
"""Of a value that has lines to itself."""


class SqlFormat(StrEnum):
    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    MARKDOWN = "markdown"


def written(found: "Found", form: SqlFormat, *, terminal: int | None = None) -> str:
    """All rows, for programs, or for people at a terminal of so many columns: what they look at has
    no character that could move its cursor."""
    match form:
        case SqlFormat.JSON:
            return "[" + ",\n ".join(_object(found.columns, row) for row in found.rows) + "]\n"
        case SqlFormat.CSV:
            field = _csv if terminal is None else _visible_csv
            lines = (found.columns, *found.rows)
            return "".join(",".join(map(field, line)) + "\n" for line in lines)
        case SqlFormat.MARKDOWN:
            return _markdown(found)
        case SqlFormat.TABLE:
            return _table(found, terminal)


def _object(columns: Sequence[str], row: Sequence[object]) -> str:
    """Of columns with one name the last one counts, as everywhere in JSON."""
    return printable_json(dict(zip(columns, row, strict=True)))


def _csv(value: object) -> str:
    """As RFC 4180 has it, and as PostgreSQL and DuckDB tell null from an empty text, which Python
    before 3.12 cannot: the one has no quotes, the other has."""
    if value is None:
        return ""
    text = str(value)
    return text if text and not set(text) & set(',"\r\n') else '"' + text.replace('"', '""') + '"'


def _visible_csv(value: object) -> str:
    return _csv(value if value is None else plain(value, limit=len(str(value)) + 1))


def _markdown(found: "Found") -> str:
    from dbos_mcp.report.markdown import text  # templates, which nothing else here needs

    def cell(value: object) -> str:
        written = plain(value, limit=len(str(value)) + 1)
        return str(text(written, len(written))) if isinstance(value, str) else written

    rules = ["---"] * len(found.columns)
    lines = [map(cell, found.columns), rules, *(map(cell, row) for row in found.rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _table(found: "Found", terminal: int | None) -> str:
    """Aligned; where that is wider than the terminal, each row as lines of its own."""
    lines = [[plain(v, limit=WIDEST) for v in line] for line in (found.columns, *found.rows)]
    widths = [max(map(cell_len, cells)) for cells in zip(*lines, strict=True)]
    if terminal is not None and found.rows and sum(widths) + 2 * (len(widths) - 1) > terminal:
        return _records(found)
    lines.insert(1, ["-" * width for width in widths])
    return "".join(_line(line, widths) for line in lines)


def _records(found: "Found") -> str:
    names = [plain(name, limit=WIDEST) for name in found.columns]
    widths = [max(map(cell_len, names)), 0]
    lines: list[str] = []
    for number, row in enumerate(found.rows, start=1):
        values = (plain(value, limit=LONGEST) for value in row)
        lines.append(f"-- {number}\n")
        lines += (_line(line, widths) for line in zip(names, values, strict=True))
    return "".join(lines)


def _line(cells: Iterable[str], widths: Iterable[int]) -> str:
    padded = (
        cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)
    )
    return "  ".join(padded).rstrip() + "\n"
