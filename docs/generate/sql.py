"""Fills in docs/sql.md: the statements that are examples of the program, and what each finds."""

import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from dbos_mcp.domain import format_time
from dbos_mcp.inspection.examples import EXAMPLES
from dbos_mcp.inspection.hints import caution
from dbos_mcp.inspection.sandbox import Found, Parameter, Sandbox
from dbos_mcp.server.found import SqlFormat, written
from dbos_mcp.store.migrate import open_cache
from docs.generate import night

PAGE = Path(__file__).parent.parent / "sql.md"
MOST_ROWS = 8
PARAMETERS: dict[str, Parameter] = {
    "application_name": night.APP,
    "since": format_time(night.MIDNIGHT),
    "now": format_time(night.NOW),
}
"""Of every statement of the page; a comment in it gives others: `-- :name = place_order`."""

_RECIPE = re.compile(
    r"(?P<before>(?:<!-- example: (?P<example>\w+) -->\n)?```sql\n)(?P<sql>[\s\S]*?)"
    r"(?P<after>```\n)(?P<answer>\n(?:\|.*\n)+(?:\n… .*\n)?)?"
)
_GIVEN = re.compile(r"^-- :(\w+) = (.+)$", re.MULTILINE)
_CLAUSE = re.compile(r" (?=(?:FROM|WHERE|GROUP BY|ORDER BY|HAVING|SELECT|WINDOW)\b)")


@contextmanager
def opened() -> Iterator[Sandbox]:
    """Over the mirror of the night, as `query_sql` runs what an agent writes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "cache.sqlite"
        night.write(path, night.the_night())
        cache = open_cache(path, writable=False)
        sandbox = Sandbox(cache.read_uri)
        try:
            yield sandbox
        finally:
            sandbox.close()
            cache.close()


def recipes(page: str) -> Iterator[re.Match[str]]:
    """The statements of the cookbook, with their answers."""
    return _RECIPE.finditer(page, page.index("\n## Cookbook\n"))


def parameters_in(sql: str) -> dict[str, Parameter]:
    return PARAMETERS | dict(_GIVEN.findall(sql))


def run(sandbox: Sandbox, sql: str) -> Found:
    """Raises ValueError where the program itself would say that something else was meant."""
    parameters = parameters_in(sql)
    if mind := caution(sql, parameters):
        raise ValueError(f"{mind}\n{sql}")
    return sandbox.run(sql, parameters, rows=1_000)


def made(page: str) -> str:
    """The page with the statements and the answers as they are now."""
    with opened() as sandbox:
        begins = page.index("\n## Cookbook\n")

        def filled(match: re.Match[str]) -> str:
            name = match["example"]
            sql = match["sql"] if name is None else _example(name, match["sql"])
            return f"{match['before']}{sql}{match['after']}\n{_told(run(sandbox, sql))}"

        return page[:begins] + _RECIPE.sub(filled, page[begins:])


def _example(name: str, before: str) -> str:
    """In lines that can be read; parameters that the page gives in a comment stay."""
    (example,) = (each for each in EXAMPLES if each.name == name)
    given = "".join(f"{match[0]}\n" for match in _GIVEN.finditer(before))
    wrapped = (
        line
        for clause in _CLAUSE.split(example.sql)
        for line in textwrap.wrap(
            clause, 96, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
    )
    return given + "\n".join(wrapped) + "\n"


def _told(found: Found) -> str:
    if found.columns[-1] == "detail":  # of a query plan; its numbers are those of one SQLite
        found = replace(found, columns=["detail"], rows=[row[-1:] for row in found.rows])
    lines = written(found, SqlFormat.MARKDOWN).splitlines(keepends=True)
    shown, more = lines[: MOST_ROWS + 2], len(lines) - MOST_ROWS - 2
    return "".join(shown) + (f"\n… and {more} more.\n" if more > 0 else "")


def main() -> None:
    PAGE.write_text(made(PAGE.read_text()))


if __name__ == "__main__":
    main()
