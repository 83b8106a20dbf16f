"""Reports as Markdown, read by a parser of it."""

from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from dbos_mcp.report.markdown import block, code, markdown, text
from tests.report import hostile
from tests.report.conftest import Report, mirrored, reports_on
from tests.upstream import Tables

KINDS = ("workflow", "failures")
PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
HEADINGS = {
    "workflow": [
        "Evidence",
        "Next steps",
        "What is not known",
        "Timeline",
        "What separates failed from succeeded",
        "Failures alike",
        "Steps of",
        "Steps of",
        "History",
    ],
    "failures": ["Causes", "Failures over time", "1."],
}


@pytest.fixture
async def hostile_reports(empty_database: Path, tmp_path: Path) -> dict[str, Report]:
    hostile.add_hostile(Tables(empty_database))
    async with mirrored(empty_database, tmp_path) as runtime:
        return await reports_on(runtime, hostile.TOP)


@pytest.mark.parametrize("kind", KINDS)
async def test_hostile_names_make_nothing_in_markdown(
    hostile_reports: dict[str, Report], kind: str
) -> None:
    written = markdown(hostile_reports[kind])
    assert not set(written) & set("\u202e\u2066\u200b\x1b\x07")
    assert hostile.TOKEN not in written
    tokens = parsed(written)
    types = {token.type for token in tokens}
    assert not types & {"html_block", "html_inline", "link_open", "image", "blockquote_open"}
    assert {token.info for token in tokens if token.type == "fence"} <= {"mermaid", "text"}
    assert not any(token.type == "code_block" for token in tokens)
    headings = [
        after.content
        for before, after in pairwise(tokens)
        if before.type == "heading_open" and before.tag == "h2"
    ]
    assert len(headings) == len(HEADINGS[kind])
    for heading, expected in zip(headings, HEADINGS[kind], strict=True):
        assert heading.startswith(expected)
    for token in tokens:
        if token.type == "text":
            # Readers make links and mentions of these, wherever they stand.
            assert "https://" not in token.content
            assert "@" not in token.content
            assert "www." not in token.content


@pytest.mark.parametrize("kind", KINDS)
async def test_tables_have_as_many_cells_in_each_row(
    shop_reports: dict[str, Report], kind: str
) -> None:
    tokens = parsed(markdown(shop_reports[kind]))
    for table in _between(tokens, "table"):
        rows = [
            sum(token.type in ("td_open", "th_open") for token in row)
            for row in _between(table, "tr")
        ]
        assert len(rows) > 1
        assert len(set(rows)) == 1


async def test_a_verdict_is_told_and_a_gantt_drawn(
    shop_reports: dict[str, Report],
) -> None:
    written = markdown(shop_reports["workflow"])
    assert written.startswith(
        "# place\\_order: ERROR\n\n`order-1005`\n\n**It failed because a child"
    )
    (drawing,) = [each.content for each in parsed(written) if each.info == "mermaid"]
    assert "\ngantt\n" in drawing
    assert "quote_delivery" in drawing
    assert "| 2 | `quote_delivery` |" in written
    assert "\n\n\n" not in written


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a_b *c* [d](e)", r"a\_b \*c\* \[d\](e)"),
        ("# no heading", r"\# no heading"),
        ("- no item", r"\- no item"),
        ("12. no item", r"12\. no item"),
        ("<b>&amp;</b>", r"\<b\>\&amp;\</b\>"),
        ("see https://evil.example/a_b now", "see `https://evil.example/a_b` now"),
        ("ask @everyone", "ask `@everyone`"),
        ("two\nlines", "two lines"),
    ],
)
def test_prose_is_escaped(value: str, expected: str) -> None:
    assert text(value) == expected
    (paragraph,) = [token for token in PARSER.parse(expected) if token.type == "inline"]
    shown = "".join(token.content for token in paragraph.children or [])
    assert shown == " ".join(value.split())


def test_code_ends_at_its_own_fence_only() -> None:
    assert code("a `b` ``c``") == "``` a `b` ``c`` ```"
    assert code("`") == "`` ` ``"
    assert code("a|b") == "`a¦b`"
    assert code("") == "`   `"
    assert block("````\n```") == "`````text\n````\n```\n`````"
    assert "996 more characters" in block("x" * 1_000, 4)


def parsed(written: str) -> list[Token]:
    """Flat, with what is inside of lines."""
    return [token for outer in PARSER.parse(written) for token in (outer, *(outer.children or []))]


def _between(tokens: list[Token], name: str) -> list[list[Token]]:
    starts = [n for n, token in enumerate(tokens) if token.type == f"{name}_open"]
    ends = [n for n, token in enumerate(tokens) if token.type == f"{name}_close"]
    return [tokens[start:end] for start, end in zip(starts, ends, strict=True)]
