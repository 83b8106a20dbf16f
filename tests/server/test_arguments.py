"""Texts that become times, durations, columns: every one is understood or refused in words."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbos_mcp.domain import parse_time
from dbos_mcp.errors import UsageError
from dbos_mcp.server.tools import arguments

NOW = parse_time("2026-11-21T06:30:05.120Z")
HOUR = 3_600_000


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (None, None),
        (" ", None),
        ("now", NOW),
        ("-2h", NOW - 2 * HOUR),
        ("-30m", NOW - HOUR // 2),
        ("-3d", NOW - 72 * HOUR),
        ("-1w", NOW - 168 * HOUR),
        (" -1d 12h ", NOW - 36 * HOUR),
        ("-1.5h", NOW - 3 * HOUR // 2),
        ("\u22122h", NOW - 2 * HOUR),
        ("today", parse_time("2026-11-21T00:00:00Z")),
        ("Yesterday", parse_time("2026-11-20T00:00:00Z")),
        ("2026-11-21T08:30:05.120+02:00", NOW),
        ("2026-11-21 06:30:05.120Z", NOW),
        (str(NOW), NOW),
        (f"{NOW}.0", NOW),
    ],
)
def test_a_time_is_relative_or_absolute(text: str | None, meant: int | None) -> None:
    assert arguments.time("start_time", text, now=NOW) == meant


@pytest.mark.parametrize(
    "text",
    [
        *(
            "2h",
            "+2h",
            "-2",
            "-2x",
            "--2h",
            "-2h-3m",
            "- ",
            "tomorrow",
            "-2hh",
            "-h",
            "1e12",
            "NaN",
        ),
        *("2026-11-21", "2026-11-21T06:30:00", "1795242605", "0", "-99999999d", "9" * 400),
        *(
            "-" + "9" * 400 + "d",
            "99999999999999999",
            "\x00",
            "٣٣٣٣٣٣٣٣٣٣٣٣٣",
            "-٣h",
            "10000-01-01Z",
        ),
    ],
)
def test_what_is_no_time_is_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(
        UsageError, match=r"start_time: .* is not a time\. Give -2h, -30m"
    ) as caught:
        arguments.time("start_time", text, now=NOW)
    assert len(str(caught.value)) < 350


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        (None, None),
        ("", None),
        ("0", 0),
        ("1500", 1500),
        ("250ms", 250),
        ("30s", 30_000),
        ("1.5S", 1500),
        ("5m", 300_000),
        ("2 h", 2 * HOUR),
        ("1d", 24 * HOUR),
        ("1h 30m", 3 * HOUR // 2),
    ],
)
def test_a_duration_has_units_or_is_of_milliseconds(text: str | None, ms: int | None) -> None:
    assert arguments.duration("min_duration", text) == ms


@pytest.mark.parametrize("text", ["-5s", "5 minutes", "h", "1d1", "9" * 400, "9e9", "∞", "1y"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"min_duration: .* is not a duration"):
        arguments.duration("min_duration", text)


ANY_TEXT = st.text() | st.from_regex(r"-?[\d.]*\s?(ms|s|m|h|d|w|T|:|Z|\+)*")


@given(ANY_TEXT, st.sampled_from([arguments.duration, arguments.time]))
def test_any_text_is_understood_or_refused(text: str, understand: Callable[..., Any]) -> None:
    clock = {"now": NOW} if understand is arguments.time else {}
    try:
        value = understand("x", text, **clock)
    except UsageError as error:
        assert error.hint
    else:
        assert value is None or abs(value) < 2**63


def test_columns_are_known_or_the_nearest_is_named() -> None:
    known = ("workflow_id", "status", "duration")
    assert arguments.columns("status, duration,status", known) == ("status", "duration")
    assert arguments.columns(["workflow_id"], known) == ("workflow_id",)
    assert arguments.columns(None, known) == ()
    with pytest.raises(UsageError, match="'staus' is not a column; did you mean status"):
        arguments.columns("staus", known)
    with pytest.raises(UsageError, match="get_workflow shows it"):
        arguments.columns("output", known)


@pytest.mark.parametrize(
    "value",
    [{"a": [1]}, {"a": {}}, {"a": 2**63}, {"a": -(10**400)}, {"a": math.nan}],
)
def test_attributes_that_cannot_be_matched_are_refused(value: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"attributes: the .* of 'a'"):
        arguments.attributes(value)
    with pytest.raises(UsageError, match="has a NUL"):
        arguments.attributes({"a\0b": 1})


def test_a_filter_takes_many_values_but_not_any_number() -> None:
    assert len(arguments.texts([f"w{n}" for n in range(arguments.MOST_VALUES)])) == 1000
    with pytest.raises(UsageError, match="at most 1000"):
        arguments.texts([f"w{n}" for n in range(arguments.MOST_VALUES + 1)])
