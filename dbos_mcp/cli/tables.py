"""Tables for a terminal: by the width that it has."""

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from dbos_mcp.cli.terminal import out


def shown(
    title: str, columns: Mapping[str, Sequence[str]], *, caption: Text | None = None
) -> RenderableType:
    """Where they are wider than the terminal, each row has lines of its own."""
    table = Table(title=title, caption=caption)
    for heading in columns:
        table.add_column(heading)
    rows = list(zip(*columns.values(), strict=True))
    for row in rows:
        table.add_row(*map(Text, row))
    if Measurement.get(out, out.options, table).minimum < out.width:
        return table
    _, *headings = columns
    lines = [Text(f"{title}\n", "italic")]
    for name, *cells in rows:
        lines.append(Text(name, "bold"))
        named = zip(headings, cells, strict=True)
        lines += [Text(f"  {heading}: {cell}") for heading, cell in named if cell]
    return Group(*lines, *filter(None, [caption]))
