"""Each way to write a value down, with each of a thousand hostile texts in it."""

import csv
import io
import json
import logging
import re
from collections.abc import Callable
from pathlib import PurePosixPath

import pytest
from rich.console import Console
from rich.markup import escape

from dbos_mcp.cli.logs import JsonLines
from dbos_mcp.domain import one_line, plain, visible
from dbos_mcp.inspection.sandbox import Found
from dbos_mcp.report import markdown, mermaid
from dbos_mcp.report.templates import ENVIRONMENT
from dbos_mcp.server import render
from dbos_mcp.server.budget import part_of, within
from dbos_mcp.server.found import SqlFormat, written
from dbos_mcp.server.prompts import quoted
from dbos_mcp.server.reports import file_name
from tests.exits import rules
from tests.exits.hostile import MANY, SURROGATES, corpus

HOSTILE = (*corpus(), *SURROGATES)
LIMIT = 80
_EXPANDED = len("\\U000e0001")
"""What the longest way to write a character out takes."""

Write = Callable[[str], str]


def found_as(form: SqlFormat, terminal: int | None = None) -> Write:
    return lambda text: written(Found([text], [(text,)], 0, True, 0.0), form, terminal=terminal)


def on_a_terminal(text: str) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    console.print(escape(plain(text)), soft_wrap=True, highlight=False, emoji=False)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().removesuffix("\n")


ONE_LINE: dict[str, Write] = {
    "plain": lambda text: plain(text, limit=LIMIT),
    "visible": visible,
    "one_line": lambda text: one_line(text, LIMIT),
    "quoted": quoted,
    "within": lambda text: within(text, LIMIT),
    "part_of": lambda text: part_of(text, 0, LIMIT)[0],
    "fields": lambda text: render.fields([("name", text)]),
    "a console": on_a_terminal,
    "markdown text": markdown.text,
    "markdown code": markdown.code,
    "mermaid": mermaid.words,
    "a page's name": ENVIRONMENT.filters["clipped"],
}
LINES: dict[str, Write] = {
    "a cell": lambda text: render.table([("a", str), ("b", lambda _: "x")], [text]),
    "a lone cell": lambda text: render.table([("a", str)], [text]),
    "markdown block": markdown.block,
    "a page's text": ENVIRONMENT.filters["lines"],
    "sql table": found_as(SqlFormat.TABLE),
    "sql records": found_as(SqlFormat.TABLE, terminal=10),
    "sql markdown": found_as(SqlFormat.MARKDOWN),
    "sql json": found_as(SqlFormat.JSON),
    "sql csv on a terminal": found_as(SqlFormat.CSV, terminal=80),
}


def test_there_are_a_thousand_and_no_two_are_the_same() -> None:
    assert len(set(corpus())) == MANY


@pytest.mark.parametrize("write", ONE_LINE.values(), ids=ONE_LINE)
def test_a_value_stays_in_its_line_and_is_seen_as_it_is(write: Write) -> None:
    for text in HOSTILE:
        assert rules.unsafe_in(write(text), but="") == set(), repr(text[:100])


@pytest.mark.parametrize("write", LINES.values(), ids=LINES)
def test_nothing_moves_the_cursor_or_hides(write: Write) -> None:
    for text in HOSTILE:
        assert rules.unsafe_in(write(text)) == set(), repr(text[:100])


@pytest.mark.parametrize("name", ["plain", "one_line", "within", "part_of", "quoted", "mermaid"])
def test_a_value_is_clipped(name: str) -> None:
    longest = max(len(ONE_LINE[name](text)) for text in HOSTILE)
    assert longest <= 200 * _EXPANDED + 2


@pytest.mark.parametrize("write", [LINES["a cell"], LINES["a lone cell"]], ids=["cell", "lone"])
def test_a_cell_is_never_a_line_by_itself(write: Write) -> None:
    """No value can pose as a line of ours, such as the one that tells how fresh an answer is."""
    for text in HOSTILE:
        _, *rows = write(text).split("\n")
        assert len(rows) == 1
        assert not rows[0] or " |" in rows[0], rows


def test_a_page_has_nothing_active_in_it() -> None:
    for text in HOSTILE:
        filled = ENVIRONMENT.from_string(
            "<p title='{{ text }}'>{{ text }} {{ text|clipped }} {{ text|lines }}</p>"
        ).render(text=text)
        assert rules.active_in(filled) == [], repr(text[:100])
        assert filled.count("<p") == 1


def test_markdown_has_no_link_no_image_no_html_and_no_structure_of_a_value() -> None:
    for text in HOSTILE:
        line, cell, block = markdown.text(text), markdown.code(text), markdown.block(text)
        document = (
            f"before {line} behind\n\n{line}\n\n| a | b |\n|---|---|\n| {cell} | {line} |\n\n"
        )
        document += f"{block}\n\nend\n"
        assert rules.active_in_markdown(document) == [], repr(text[:100])
        kinds = [token.type for token in rules.tokens_of(document) if token.level == 0]
        assert kinds.count("fence") == 1, repr(text[:100])
        assert kinds.count("table_open") == 1
        assert not {"heading_open", "bullet_list_open", "blockquote_open", "hr"} & set(kinds)
        assert rules.tokens_of(document)[-2].content == "end"


def test_mermaid_reads_no_keyword_and_no_separator() -> None:
    for text in HOSTILE:
        words = mermaid.words(text)
        assert not set(words) & set(":;#%{}[]<>\"'`|&\\,"), words
        assert len(words) <= mermaid.NAME_CHARACTERS


def test_a_file_name_is_one_name_of_safe_characters() -> None:
    for text in HOSTILE:
        name = file_name(text, now=0, suffix="html")
        assert re.fullmatch(r"report-[A-Za-z0-9_][A-Za-z0-9._-]{0,79}\.html", name), name
        assert PurePosixPath(name).name == name


def test_a_log_line_is_one_line_of_json_that_holds_what_was_said() -> None:
    for text in HOSTILE:
        said = logging.LogRecord("dbos_mcp", logging.WARNING, "", 0, "of %s", (text,), None)
        line = JsonLines().format(said)
        assert line.isascii()
        assert line.isprintable()
        assert json.loads(line)["message"] == f"of {text}"


def test_csv_for_programs_is_whole_and_one_record() -> None:
    for text in corpus():
        lines = list(csv.reader(io.StringIO(found_as(SqlFormat.CSV)(text), newline="")))
        assert lines == [[text], [text]] or "\x00" in text, repr(text[:100])


def test_json_for_programs_is_whole() -> None:
    for text in HOSTILE:
        assert json.loads(found_as(SqlFormat.JSON)(text)) == [{text: text}]


@pytest.mark.parametrize("text", ["\x1b[31m", "a\u202eb", "\U000e0041", "\x9b", "\ufe01", "\ud800"])
def test_the_rules_see_what_they_are_for(text: str) -> None:
    assert rules.unsafe_in(text)
    assert rules.active_in("<p onclick='x'>")
    assert rules.active_in("<a href='https://evil.example'>")
    assert rules.active_in_markdown("www.evil.example")
