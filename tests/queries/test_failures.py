"""Failures in groups: what makes one, and what is told of it."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from dbos_mcp.errors import NotFoundError
from dbos_mcp.queries.failures import (
    EXAMPLES,
    Failures,
    get_failure_group,
    key_of,
    list_failures,
)
from dbos_mcp.store import projector
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.events import ApplicationObserved, Event
from tests.plans import plans_of
from tests.store.conftest import opened
from tests.store.factories import BORN, SHOP, deleted, observed

APP = SHOP["application_name"]
SHOP_ITSELF = ApplicationObserved(**SHOP, application_id="1", status="AVAILABLE")


@pytest.fixture
def cache(new_cache: Callable[[object], Path]) -> Iterator[Cache]:
    with opened(new_cache("failures")) as cache:
        yield cache


def fill(cache: Cache, *events: Event) -> None:
    with cache.write() as connection:
        projector.record(connection, [SHOP_ITSELF, *events], recorded_at=BORN)


def failed(workflow_id: str, at: int = 0, **fields: Any) -> Event:
    return observed(
        workflow_id,
        **{
            "status": "ERROR",
            "workflow_name": "pay",
            "error": "no money\nat line 3",
            "created_at": BORN + at,
            "completed_at": BORN + at + 10,
            "payloads_loaded": True,
            **fields,
        },
    )


def groups(cache: Cache, **options: Any) -> Failures:
    with cache.read() as connection:
        return list_failures(connection, APP, **options)


def ids(found: Failures) -> Sequence[Sequence[str]]:
    return [group.examples for group in found.groups]


def test_a_group_is_of_one_name_and_the_first_line_of_one_error(cache: Cache) -> None:
    fill(
        cache,
        failed("a", 1, application_version="1", executor_id="x", queue_name="mail"),
        failed("b", 2, application_version="2", executor_id="x", error="\n no money \nat line 9"),
        failed("c", 3, error="no luck"),
        failed("d", 4, workflow_name="ship"),
        failed("e", 5, error=None),
        failed("f", 6, error=None, status="MAX_RECOVERY_ATTEMPTS_EXCEEDED"),
        observed("g", status="SUCCESS", error="no money"),
        failed("h", 7),
        deleted("h"),
    )
    found = groups(cache)
    assert ids(found) == [["f"], ["e"], ["d"], ["c"], ["b", "a"]]
    assert (found.looked_at, found.complete) == (6, True)
    pay = found.groups[-1]
    assert (pay.workflow_name, pay.error, pay.count) == ("pay", "no money", 2)
    assert (pay.first_at, pay.last_at) == (BORN + 11, BORN + 12)
    assert pay.application_versions == {"1": 1, "2": 1}
    assert (pay.executors, pay.queues) == ({"x": 2}, {"mail": 1})


def test_the_key_of_a_group_stays_the_same(cache: Cache) -> None:
    fill(cache, failed("a"))
    (before,) = groups(cache).groups
    fill(cache, failed("b", 1, executor_id="another"))
    (after,) = groups(cache).groups
    assert before.key == after.key == key_of("pay", "ERROR", "no money")
    assert key_of(None, "ERROR", "a") != key_of("None", "ERROR", "a")
    with cache.read() as connection:
        assert get_failure_group(connection, APP, after.key) == after
        with pytest.raises(NotFoundError, match="no failures of a group 'nope'"):
            get_failure_group(connection, APP, "nope")
        with pytest.raises(NotFoundError, match="Known: shop"):
            list_failures(connection, "shopp")


def test_the_newest_are_looked_at_and_that_there_are_older_ones_is_said(cache: Cache) -> None:
    fill(cache, *(failed(f"w{n}", n) for n in range(8)))
    found = groups(cache, most=7)
    assert (found.looked_at, found.complete) == (7, False)
    assert ids(found) == [[f"w{n}" for n in range(7, 7 - EXAMPLES, -1)]]
    assert found.groups[0].first_at == BORN + 11
    assert groups(cache, most=8).complete
    assert groups(cache, since=BORN + 6).groups[0].count == 2


def test_failures_are_found_in_the_order_of_an_index(cache: Cache) -> None:
    fill(cache, failed("a"))

    def question(connection: Connection) -> None:
        list_failures(connection, APP)
        list_failures(connection, APP, since=BORN)

    with cache.read() as connection:
        plan = [line for line in plans_of(connection, question) if "workflow" in line]
    assert len(plan) == 4
    assert all("USING INDEX ix_workflow_status (application_name=? AND status" in p for p in plan)
