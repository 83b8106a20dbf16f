"""Rendering: what an application wrote reaches an agent as one line of printable text."""

import pytest

from dbos_mcp.queries.freshness import Freshness
from dbos_mcp.server import render
from dbos_mcp.server.freshness import freshness_line

HOSTILE = [
    "two\nlines",
    "tab\tand\rreturn",
    "\x1b[31mred\x1b[0m",
    "\x9b31mC1",
    "null\x00byte",
    "right \u202eto left",
    "isolate\u2066d\u2069",
    "zero\u200bwidth\ufeff",
    "soft\xadhyphen",
    "tag\U000e0041s",
    "lone \ud800 surrogate",
    "line\u2028separator",
]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_hostile_text_becomes_one_printable_line(text: str) -> None:
    shown = render.plain(text)
    assert shown.isprintable()
    assert shown.encode()


def test_what_was_replaced_stays_recognizable() -> None:
    assert render.plain("a\nb\x1b[0m\u202e") == "a\\nb\\x1b[0m\\u202e"


def test_ordinary_text_of_any_language_is_left_alone() -> None:
    assert render.plain("Ünïcödé 日本語 عربى 🚀") == "Ünïcödé 日本語 عربى 🚀"


def test_long_text_is_cut_with_a_mark() -> None:
    assert render.plain("x" * 200, limit=10) == "x" * 9 + "…"


def test_a_table_leaves_out_empty_columns_and_trailing_cells() -> None:
    columns = [
        ("a", lambda row: row[0]),
        ("b", lambda row: row[1]),
        ("c", lambda row: row[2]),
    ]
    text = render.table(columns, [("1", None, "3"), ("4", None, None)])
    assert text == "a | c\n1 | 3\n4 |"


def test_a_cell_cannot_pose_as_two() -> None:
    assert render.table([("a", lambda row: row)], ["x | y"]) == "a\nx ¦ y |"


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (None, None),
        (0, "0ms"),
        (999, "999ms"),
        (1200, "1.2s"),
        (59_949, "59.9s"),
        (60_000, "1m"),
        (185_000, "3m 5s"),
        (7_800_000, "2h 10m"),
        (273_600_000, "3d 4h"),
    ],
)
def test_durations_are_short(ms: int | None, text: str | None) -> None:
    assert render.duration(ms) == text


DAY = 1_795_000_000_000


@pytest.mark.parametrize(
    ("freshness", "line"),
    [
        (
            Freshness(None, None, False, None, None),
            "The first look is not finished. Ask again in a moment; sync_status tells how far it"
            " is.",
        ),
        (
            Freshness(DAY, DAY - 60_000, False, None, None),
            "As of 2026-11-18T11:06:40Z (5.0s ago); still loading, complete for workflows created"
            " since 2026-11-18T11:05:40Z; live.",
        ),
        (
            Freshness(DAY, 0, True, None, None),
            "As of 2026-11-18T11:06:40Z (5.0s ago); complete; live.",
        ),
        (
            Freshness(DAY, 0, True, DAY + 1000, "no executor is connected"),
            "As of 2026-11-18T11:06:40Z (5.0s ago); complete; offline since 2026-11-18T11:06:41Z."
            " Last error: no executor is connected",
        ),
        (
            Freshness(DAY, 0, True, None, "refused"),
            "As of 2026-11-18T11:06:40Z (5.0s ago); complete. Last error: refused",
        ),
    ],
)  # fmt: skip
def test_freshness_says_when_how_complete_and_how_live(freshness: Freshness, line: str) -> None:
    assert freshness_line(freshness, now=DAY + 5000) == line


def test_a_freshness_of_the_future_is_not_negative() -> None:
    assert "(0ms ago)" in freshness_line(Freshness(DAY, 0, True, None, None), now=DAY - 60_000)
