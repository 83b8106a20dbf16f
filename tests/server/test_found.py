"""What SQL found, as people and programs get it."""

import json
from typing import Any

import pytest
from markdown_it import MarkdownIt

from dbos_mcp.inspection.sandbox import Found
from dbos_mcp.server.found import SqlFormat, written

EVIL = "<b>\x1b[31m\u202e![x](https://evil.example/)|[y](javascript:a)\n\U000e0041"


def found(columns: list[str], *rows: list[Any]) -> Found:
    return Found(columns, rows, more=0, all_counted=True, ms=1.0)


def test_columns_are_as_wide_as_a_terminal_shows_them() -> None:
    wide = found(["name", "after"], ["日本語", 1], ["e\u0301", 2])
    assert written(wide, SqlFormat.TABLE).splitlines() == [
        "name    after",
        "------  -----",
        "日本語  1",
        "e\u0301       2",
    ]


def test_a_table_wider_than_the_terminal_becomes_lines_for_each_row() -> None:
    rows = found(["workflow_id", "error"], ["order-1", "a" * 70], ["order-2", None])
    assert written(rows, SqlFormat.TABLE, terminal=73).splitlines()[:2] == [
        "workflow_id  error",
        "-----------  " + "-" * 60,
    ]
    assert written(rows, SqlFormat.TABLE, terminal=72).splitlines() == [
        "-- 1",
        "workflow_id  order-1",
        "error        " + "a" * 70,
        "-- 2",
        "workflow_id  order-2",
        "error",
    ]
    assert written(found(["a" * 50, "b" * 50]), SqlFormat.TABLE, terminal=40).count("\n") == 2


def test_csv_tells_null_from_empty_and_quotes_what_would_end_a_field() -> None:
    rows = found(['a"b', "c"], [None, ""], [1.5, "x,y"], ["=1+1", "a\r\nb"])
    assert written(rows, SqlFormat.CSV) == '"a""b",c\n,""\n1.5,"x,y"\n=1+1,"a\r\nb"\n'


def test_json_gives_back_every_value() -> None:
    row = [EVIL, None, 1.5, 2**62]
    text = written(found(["a", "b", "c", "d"], row), SqlFormat.JSON)
    assert json.loads(text) == [dict(zip("abcd", row, strict=True))]
    assert text.rstrip("\n").isprintable()


def test_markdown_is_one_table_without_links_images_and_html() -> None:
    text = written(found(["id", "<i>"], [EVIL, -1.5], ["`a`|b", None]), SqlFormat.MARKDOWN)
    tokens = MarkdownIt().enable("table").parse(text)
    assert [token.type for token in tokens].count("tr_open") == 3
    assert [token.type for token in tokens].count("td_open") == 4
    inside = {child.type for token in tokens for child in token.children or []}
    assert inside <= {"text", "code_inline", "text_special"}
    assert "| -1.5 |" in text


@pytest.mark.parametrize("form", SqlFormat)
def test_nothing_at_a_terminal_can_move_its_cursor(form: SqlFormat) -> None:
    text = written(found([EVIL], [EVIL]), form, terminal=80)
    assert text.replace("\n", "").isprintable()
