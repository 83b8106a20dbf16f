"""Times: epoch milliseconds and their text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbos_mcp.domain import IN_FLIGHT, TERMINAL, WorkflowStatus, format_time, parse_time

YEAR_1, YEAR_9999 = -62_135_596_800_000, 253_402_300_799_999


@given(st.integers(YEAR_1, YEAR_9999))
def test_a_time_survives_its_text(ms: int) -> None:
    assert parse_time(format_time(ms)) == ms


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-11-21T06:30:05.12Z", 1_795_242_605_120),
        ("2026-11-21T06:30:05.120999999Z", 1_795_242_605_120),
        ("2026-11-21T08:30:05.120+02:00", 1_795_242_605_120),
        ("1969-12-31T23:59:59.999Z", -1),
    ],
)
def test_rfc_3339_with_any_fraction_and_zone_is_read(text: str, ms: int) -> None:
    assert parse_time(text) == ms


@pytest.mark.parametrize("text", ["", "now", "2026-11-21", "2026-11-21T06:30:05", "2026-13-01T0Z"])
def test_what_is_not_a_time_with_a_zone_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_time(text)


@pytest.mark.parametrize("ms", [YEAR_1 - 1, YEAR_9999 + 1, 2**63])
def test_a_time_of_no_calendar_is_refused(ms: int) -> None:
    with pytest.raises(ValueError, match=r"calendar|year"):
        format_time(ms)


def test_each_status_is_in_flight_or_terminal() -> None:
    assert {*IN_FLIGHT, *TERMINAL} == set(WorkflowStatus)
    assert not {*IN_FLIGHT} & {*TERMINAL}
