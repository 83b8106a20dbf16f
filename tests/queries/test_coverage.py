"""Which questions reach behind what is mirrored, to the millisecond."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from dbos_mcp.domain import IN_FLIGHT, format_time
from dbos_mcp.queries.coverage import (
    Gap,
    Missing,
    first_looked_at,
    gap_of,
    gap_of_changes,
    gap_of_history,
)
from dbos_mcp.queries.filters import WorkflowFilter
from dbos_mcp.queries.history import get_history
from dbos_mcp.server.freshness import gap_line
from dbos_mcp.store import event_log, projector, sync_state
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.events import ApplicationObserved
from tests.plans import plan_of, statements_asked
from tests.store.conftest import opened
from tests.store.factories import BORN, SHOP, observed

COVERED, LISTED, LOOKED = BORN, BORN + 1_000, BORN + 2_000
ENDED = Gap(Missing.ENDED, COVERED)


def application(name: str) -> ApplicationObserved:
    return ApplicationObserved(application_name=name, application_id=name, status="AVAILABLE")


@pytest.fixture
def cache(cache_path: Path) -> Iterator[Cache]:
    """Of a shop that was listed, and looked at a second later; another one is empty."""
    with opened(cache_path) as cache:
        with cache.write() as connection:
            projector.record(connection, [application("shop")], recorded_at=LISTED)
            old = observed("old", created_at=LOOKED - 1)
            new = observed("new", created_at=LOOKED)
            projector.record(connection, [old, new], recorded_at=LOOKED)
            projector.record(connection, [application("bank")], recorded_at=LOOKED + 5)
            state = {"covered_since": COVERED, "succeeded_at": LOOKED, "history_complete": True}
            sync_state.update(connection, "shop", state)
        yield cache


@pytest.fixture
def connection(cache: Cache) -> Iterator[Connection]:
    with cache.read() as connection:
        yield connection


def gap(connection: Connection, **about: Any) -> Gap | None:
    question = WorkflowFilter.model_validate({**SHOP, "deleted_upstream": False, **about})
    return gap_of(connection, question)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ({}, ENDED),
        ({"start_time": COVERED}, None),
        ({"start_time": COVERED - 1}, ENDED),
        ({"end_time": COVERED + 9}, ENDED),
        ({"completed_after": LOOKED}, None),
        ({"completed_after": LOOKED - 1}, ENDED),
        ({"completed_before": LOOKED + 9}, ENDED),
        ({"dequeued_after": LOOKED}, None),
        ({"dequeued_after": LOOKED - 1}, ENDED),
        ({"active_at": LOOKED}, None),
        ({"active_at": LOOKED - 1}, ENDED),
        ({"status": IN_FLIGHT}, None),
        ({"status": ["PENDING"]}, None),
        ({"status": ["PENDING", "ERROR"]}, ENDED),
        ({"queues_only": True}, None),
        ({"queues_only": True, "status": ["SUCCESS"]}, ENDED),
        ({"deleted_upstream": True}, Gap(Missing.DELETED, LOOKED)),
        ({"deleted_upstream": True, "start_time": LOOKED}, None),
        ({"deleted_upstream": True, "start_time": LOOKED - 1}, Gap(Missing.DELETED, LOOKED)),
        ({"deleted_upstream": None}, ENDED),
        ({"deleted_upstream": None, "start_time": COVERED}, Gap(Missing.DELETED, LOOKED)),
        ({"deleted_upstream": None, "start_time": LOOKED}, None),
    ],
)  # fmt: skip
def test_a_question_has_a_gap_when_it_reaches_behind_what_is_mirrored(
    connection: Connection, question: dict[str, Any], expected: Gap | None
) -> None:
    assert gap(connection, **question) == expected


def test_while_the_first_load_goes_on_the_gap_says_how_far_it_is(cache: Cache) -> None:
    with cache.write() as connection:
        sync_state.update(connection, "shop", {"history_complete": False})
        assert gap(connection) == Gap(Missing.LOADING, COVERED)
        assert gap(connection, start_time=COVERED) is None
        sync_state.update(connection, "shop", {"covered_since": None, "succeeded_at": None})
        assert gap(connection, start_time=COVERED) == Gap(Missing.ALL)
        assert gap(connection, status=["PENDING"]) == Gap(Missing.ALL)
        assert gap(connection, completed_after=LOOKED) == Gap(Missing.ALL)


def test_of_everything_nothing_is_missing(cache: Cache) -> None:
    with cache.write() as connection:
        sync_state.update(connection, "shop", {"covered_since": 0})
        assert gap(connection) is None


def test_what_was_not_looked_at_has_seen_no_end(connection: Connection) -> None:
    assert first_looked_at(connection, "shop") == LOOKED
    assert first_looked_at(connection, "bank") is None
    assert first_looked_at(connection, "nobody") is None
    assert gap(connection, application_name="bank", completed_after=LOOKED) == Gap(Missing.ALL)


@pytest.mark.parametrize(
    ("name", "since", "before"),
    [
        ("shop", LISTED, None),
        ("shop", LISTED - 1, LISTED),
        ("bank", LOOKED + 5, None),
        ("bank", LOOKED + 4, LOOKED + 5),
        (None, LISTED, None),
        (None, LISTED - 1, LISTED),
        ("shop", None, None),
        ("nobody", 0, None),
    ],
)
def test_changes_before_the_log_of_an_application_began_were_not_seen(
    connection: Connection, name: str | None, since: int | None, before: int | None
) -> None:
    expected = None if before is None else Gap(Missing.CHANGES, before)
    assert gap_of_changes(connection, name, since) == expected


def test_a_workflow_that_is_older_than_the_mirror_had_states_that_were_not_seen(
    connection: Connection,
) -> None:
    def of(workflow_id: str) -> Gap | None:
        return gap_of_history(
            connection, "shop", workflow_id, get_history(connection, "shop", workflow_id)
        )

    assert of("old") == Gap(Missing.STATES, LOOKED)
    assert of("new") is None


def test_where_a_log_begins_is_found_without_reading_it(connection: Connection) -> None:
    with statements_asked() as asked:
        assert event_log.first_of(connection) == (1, LISTED)
        assert event_log.first_of(connection, "bank") == (4, LOOKED + 5)
        assert event_log.first_of_workflows(connection, "shop", 1) == (2, LOOKED)
    assert [plan_of(connection, each) for each in asked] == [
        ["SCAN event"],  # as far as its first row
        ["SEARCH event USING INDEX ix_event_workflow_id (workflow_id=?)"],
        ["SEARCH event USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"],
    ]


@pytest.mark.parametrize("missing", Missing)
def test_each_gap_has_a_short_line_with_its_time(missing: Missing) -> None:
    line = gap_line(Gap(missing, BORN + 1))
    assert line is not None
    assert len(line.encode()) <= 120
    assert (format_time(BORN + 1) in line) == (missing not in (Missing.ALL, Missing.REST))
    assert gap_line(None) is None
