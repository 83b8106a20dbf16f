"""docs/tools.md: what the server tells, and what it answers."""

import re
from itertools import chain
from pathlib import Path

from dbos_mcp.server.tools import TOOLS
from docs.generate import told, tools

SOURCES = "\n".join(
    path.read_text() for path in (Path(__file__).parent.parent.parent / "dbos_mcp").rglob("*.py")
)


async def test_the_page_is_what_the_server_tells_and_answers() -> None:
    assert await tools.made() == tools.PAGE.read_text(), "docs/tools.md is stale: run `just docs`"


def test_each_tool_has_a_sample_and_says_when_another_serves_better() -> None:
    names = {tool.name for tool in TOOLS}
    assert told.SAMPLES.keys() == told.PREFERRED.keys() == names
    assert all(told.SAMPLES.values())
    for name, words in told.PREFERRED.items():
        others = set(re.findall(r"`(\w+)`", words)) & names
        assert others - {name} or "dbos-mcp" in words or "docs/" in words, name


def test_no_meaning_is_left_of_an_argument_that_is_gone() -> None:
    arguments = {
        name: {tool.name for tool in TOOLS if name in tool.parameters.get("properties", {})}
        for tool in TOOLS
        for name in tool.parameters.get("properties", {})
    }
    for key in told.MEANINGS:
        tool, _, name = key.rpartition(".")
        assert name in arguments, key
        assert not tool or tool in arguments[name], key


def test_the_errors_that_are_explained_are_the_programs_own_words() -> None:
    for says, *_ in told.ERRORS:
        assert says in SOURCES, says


def test_nothing_on_the_page_names_this_machine() -> None:
    page = tools.PAGE.read_text()
    assert not re.search(r"/tmp/|/home/|/root|/var/", page)
    shown = chain.from_iterable(told.SAMPLES.values())
    assert all(f"> {call}\n" in page for call in shown)
