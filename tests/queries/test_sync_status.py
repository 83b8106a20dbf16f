"""How syncing goes, as the cache tells it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from dbos_mcp.domain import CONDUCTOR
from dbos_mcp.errors import NotFoundError
from dbos_mcp.queries.sync_status import (
    SyncCondition,
    SyncStatus,
    events_since,
    steps_pending,
    sync_status,
)
from dbos_mcp.server.sync_status import status_text
from dbos_mcp.store import projector, sync_state
from dbos_mcp.store.events import ApplicationObserved
from dbos_mcp.store.migrate import open_cache
from dbos_mcp.store.sync_state import StepDueRow
from dbos_mcp.store.tables import table_of

NOW = 1_790_000_000_000


@pytest.fixture
def connection(new_cache: Callable[[object], Path]) -> Iterator[Connection]:
    """Of a cache that knows two applications."""
    cache = open_cache(new_cache("status"))
    try:
        with cache.write() as connection:
            events = [
                ApplicationObserved(application_name=name, application_id=name, status="AVAILABLE")
                for name in ("shop", "bank")
            ]
            projector.record(connection, events, recorded_at=NOW)
            yield connection
    finally:
        cache.close()


LOOKED = {"attempted_at": NOW, "succeeded_at": NOW, "covered_since": 5, "history_complete": True}
REFUSED = {"last_error": "no", "login_needed": True}


@pytest.mark.parametrize(
    ("of_shop", "of_all", "condition"),
    [
        ({}, {}, SyncCondition.NOT_SEEN),
        ({"covered_since": 9}, LOOKED, SyncCondition.LOADING),
        (LOOKED, LOOKED, SyncCondition.LIVE),
        ({**LOOKED, "last_error": "403"}, LOOKED, SyncCondition.FAILING),
        ({**LOOKED, "last_error": "503", "offline_since": NOW}, LOOKED, SyncCondition.OFFLINE),
        (LOOKED, {**LOOKED, **REFUSED}, SyncCondition.LOGIN_NEEDED),
        ({**LOOKED, **REFUSED}, LOOKED, SyncCondition.LOGIN_NEEDED),
    ],
)
def test_what_the_last_look_came_to(
    connection: Connection,
    of_shop: dict[str, int | bool | str],
    of_all: dict[str, int | bool | str],
    condition: SyncCondition,
) -> None:
    sync_state.update(connection, "shop", of_shop)
    sync_state.update(connection, CONDUCTOR, of_all)
    (shop,) = sync_status(connection, "shop", now=NOW).applications
    assert shop.condition is condition


def test_the_list_of_applications_has_a_condition_without_a_history(connection: Connection) -> None:
    sync_state.update(connection, CONDUCTOR, {"attempted_at": NOW, "succeeded_at": NOW})
    assert sync_status(connection, now=NOW).conductor.condition is SyncCondition.LIVE


def test_costs_are_added_up_and_questions_and_due_steps_counted(connection: Connection) -> None:
    sync_state.add(connection, "shop", {"requests": 3, "bytes_received": 100})
    sync_state.add(connection, "shop", {"requests": 2, "failed_requests": 1, "bytes_sent": 7})
    sync_state.add(connection, CONDUCTOR, {"requests": 1})
    sync_state.note_question(connection, "shop", NOW)
    sync_state.note_question(connection, "shop", NOW + 5)
    sync_state.note_question(connection, CONDUCTOR, NOW + 3)
    connection.execute(
        table_of(StepDueRow).insert(),
        [
            {"workflow_key": key, "application_name": "shop", "priority": 0, "due_at": NOW + later}
            for key, later in ((1, -5), (2, 0), (3, 5))
        ],
    )
    status = sync_status(connection, now=NOW)
    bank, shop = status.applications
    assert (shop.requests, shop.failed_requests) == (5, 1)
    assert (shop.bytes_sent, shop.bytes_received) == (7, 100)
    assert (shop.asked_at, bank.asked_at) == (NOW + 5, NOW + 3)
    assert (shop.steps_pending, bank.steps_pending) == (2, 0)
    assert steps_pending(connection, "shop") == 3
    assert (bank.requests, status.conductor.requests) == (0, 1)
    assert status.events == 2
    assert status.bytes > 10_000


def test_events_are_counted_from_a_position_on(connection: Connection) -> None:
    assert events_since(connection, "bank", 0) == 1
    assert events_since(connection, "bank", 2) == 0


def test_an_application_that_nobody_knows_is_an_error(connection: Connection) -> None:
    with pytest.raises(NotFoundError, match="Known: bank, shop"):
        sync_status(connection, "shopp", now=NOW)


def line(status: SyncStatus, syncing: str) -> dict[str, str]:
    """The first application's row, by heading."""
    _, headings, row, *_ = status_text(status, cache=Path("c"), syncing=syncing).splitlines()
    return dict(zip(headings.split(" | "), row.split(" | "), strict=False))


def test_the_text_says_what_comes_next_only_while_somebody_syncs(connection: Connection) -> None:
    sync_state.update(connection, "shop", {**LOOKED, "next_at": NOW})
    status = sync_status(connection, "shop", now=NOW)
    assert line(status, "another process")["next_look"] == "now"
    assert "next_look" not in line(status, "no process")
    sync_state.update(connection, "shop", {"next_at": None})
    assert (
        line(sync_status(connection, "shop", now=NOW), "this process")["next_look"] == "once asked"
    )


def test_the_text_tells_coverage_audits_and_errors_in_one_line_each(connection: Connection) -> None:
    sync_state.update(
        connection,
        "shop",
        {**LOOKED, "audited_at": NOW, "audit_found": 4, "last_error": "a\nb | \x1b[31mc"},
    )
    shop = line(sync_status(connection, "shop", now=NOW), "this process")
    assert shop["complete_since"] == "1970-01-01T00:00:00.005Z"
    assert shop["audit_found"] == "4"
    assert shop["last_error"] == "a\\nb ¦ \\x1b[31mc"
    sync_state.update(connection, "shop", {"covered_since": 0, "history_complete": False})
    shop = line(sync_status(connection, "shop", now=NOW), "this process")
    assert shop["complete_since"] == "the beginning, loading"
