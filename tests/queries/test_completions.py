"""How names and ids go on, by indexes alone."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from dbos_mcp.queries import completions
from dbos_mcp.queries.completions import LOOKED_AT, MOST
from dbos_mcp.store import event_log, projector
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.events import ApplicationObserved
from tests.plans import plans_of
from tests.store.conftest import opened
from tests.store.factories import BORN, SHOP, observed

APP = SHOP["application_name"]
MANY = LOOKED_AT + 500
OLD_FAILURE, NEW_FAILURE = "job-00003", "job-01400"


@pytest.fixture
def cache(new_cache: Callable[[object], Path]) -> Iterator[Cache]:
    with opened(new_cache("completions")) as cache:
        with cache.write() as connection:
            projector.record(
                connection,
                [
                    ApplicationObserved(**SHOP, application_id="1", status="AVAILABLE"),
                    ApplicationObserved(
                        application_name="shelf", application_id="2", status="AVAILABLE"
                    ),
                    *(
                        observed(
                            workflow_id := f"job-{n:05}",
                            created_at=BORN + n,
                            status="ERROR"
                            if workflow_id in (OLD_FAILURE, NEW_FAILURE)
                            else "SUCCESS",
                        )
                        for n in range(MANY)
                    ),
                    *(
                        observed(workflow_id, created_at=BORN + n, status=status)
                        for n, (workflow_id, status) in enumerate(
                            [("100%", "SUCCESS"), ("100%-b", "ERROR"), ("100%-c", "SUCCESS")]
                        )
                    ),
                ],
                recorded_at=BORN,
            )
        yield cache


@pytest.fixture
def connection(cache: Cache) -> Iterator[Connection]:
    with cache.read() as connection:
        yield connection


def test_applications_go_on_by_name(connection: Connection) -> None:
    assert completions.application_names(connection, "").values == ["shelf", "shop"]
    assert completions.application_names(connection, "sho").values == ["shop"]
    assert completions.application_names(connection, "x").total == 0


def test_of_few_ids_all_are_known_the_failed_ones_first(connection: Connection) -> None:
    found = completions.workflow_ids(connection, APP, "100%")
    assert (found.values, found.total) == (["100%-b", "100%-c", "100%"], 3)
    assert completions.workflow_ids(connection, APP, "100%-c").values == ["100%-c"]
    assert completions.workflow_ids(connection, "shelf", "100%").total == 0


def test_of_many_ids_the_newest_are_shown_the_failed_ones_first(connection: Connection) -> None:
    found = completions.workflow_ids(connection, APP, "job-")
    assert found.values[:3] == [NEW_FAILURE, OLD_FAILURE, f"job-{MANY - 1:05}"]
    assert (len(found.values), len(set(found.values)), found.total) == (MOST, MOST, None)
    exact = completions.workflow_ids(connection, APP, "job-000")
    assert (len(exact.values), exact.total) == (100, 100)
    assert exact.values[:2] == [OLD_FAILURE, "job-00099"]
    some = completions.workflow_ids(connection, APP, "job-00")
    assert (len(some.values), some.total) == (MOST, 1000)


@pytest.mark.parametrize("prefix", ["", "job-", "job-0140"])
def test_ids_are_found_by_indexes_and_never_sorted_by_the_database(
    connection: Connection, prefix: str
) -> None:
    plan = plans_of(connection, lambda c: completions.workflow_ids(c, APP, prefix))
    assert plan
    for line in plan:
        assert line.startswith("SEARCH workflow USING "), plan
        assert "ux_workflow" in line or "ix_workflow_status" in line or "created_at" in line


def test_the_last_event_of_a_workflow_is_found_by_an_index(connection: Connection) -> None:
    asked = [event_log.last_position_of_workflow(connection, APP, i) for i in ("100%", "job-")]
    assert asked == [MANY + 3, None]
    (line,) = plans_of(
        connection, lambda c: event_log.last_position_of_workflow(c, APP, OLD_FAILURE)
    )
    assert line.startswith("SEARCH event USING INDEX ix_event_workflow_id")
