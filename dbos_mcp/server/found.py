"""What SQL found, as text for people and for programs."""

import csv
import io
from collections.abc import Sequence
from enum import StrEnum

from dbos_mcp.inspection.sandbox import Found
from dbos_mcp.server.render import compact_json, plain

WIDEST = 60


class SqlFormat(StrEnum):
    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    MARKDOWN = "markdown"


def written(found: Found, form: SqlFormat, *, for_people: bool) -> str:
    """All rows. What people look at has no character that could move their terminal's cursor."""
    match form:
        case SqlFormat.JSON:
            return "[" + ",\n ".join(_object(found.columns, row) for row in found.rows) + "]\n"
        case SqlFormat.CSV:
            return _csv(found, for_people=for_people)
        case SqlFormat.MARKDOWN:
            lines = [found.columns, ["---"] * len(found.columns), *found.rows]
            return "".join(f"| {' | '.join(map(_markdown, line))} |\n" for line in lines)
        case SqlFormat.TABLE:
            return _aligned(found)


def _object(columns: Sequence[str], row: Sequence[object]) -> str:
    """Of columns with one name the last one counts, as everywhere in JSON."""
    text = compact_json(dict(zip(columns, row, strict=True)))
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def _csv(found: Found, *, for_people: bool) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    for line in (found.columns, *found.rows):
        writer.writerow([_whole(value) for value in line] if for_people else line)
    return file.getvalue()


def _markdown(value: object) -> str:
    return _whole(value).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _aligned(found: Found) -> str:
    lines = [[plain(v, limit=WIDEST) for v in line] for line in (found.columns, *found.rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(line, widths, strict=True)
        ).rstrip() + "\n"
        for line in lines
    )  # fmt: skip


def _whole(value: object) -> str:
    text = "" if value is None else str(value)
    return plain(text, limit=len(text) + 1)
