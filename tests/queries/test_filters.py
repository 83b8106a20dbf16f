"""Every filter finds what the same filter finds upstream; those that upstream lacks, what a walk
over all rows finds."""

from itertools import combinations
from typing import Any

import pytest
from pydantic import ValidationError

from dbos_mcp.conductor.models import WorkflowSearch
from dbos_mcp.queries.filters import WorkflowFilter
from dbos_mcp.queries.workflows import list_workflows
from tests.queries.conftest import NOON
from tests.queries.predicates import PREDICATES, VALUES
from tests.upstream import APP, Site

CASES: dict[str, list[Any]] = {
    "workflow_id": [("order-1001",), ("order-1001", "Tie_3", "nobody"), ("ORDER-1001",)],
    "workflow_id_prefix": [("order-",), ("Tie_", "child"), ("tie%",), ("%",), ("o",)],
    "workflow_name": [("place_order",), ("place_order", "restock"), ("place",)],
    "status": [("SUCCESS",), ("ERROR", "CANCELLED"), ("PENDING", "ENQUEUED", "DELAYED"), ("odd",)],
    "queue_name": [("emails",), ("emails", "warehouse"), ("nowhere",)],
    "executor_id": [("shop-1",), ("shop-1", "shop-2"), ("shop",)],
    "application_version": [("1.4.0",), ("2.0", "3.0")],
    "authenticated_user": [("user-1",), ("user-0", "user-2")],
    "parent_workflow_id": [("Tie_0",), ("order-1001", "order-1002")],
    "forked_from": [("order-1001",), ("Tie_0",)],
    "schedule_name": [("nightly-report",), ("nightly",)],
    "start_time": [NOON, NOON + 1, NOON + 5, NOON + 6],
    "end_time": [NOON - 1, NOON, NOON + 3],
    "completed_after": [NOON, NOON + 2],
    "completed_before": [NOON, NOON + 1],
    "dequeued_after": [NOON + 4, NOON + 5],
    "dequeued_before": [NOON + 4, NOON + 6],
    "has_parent": [True, False],
    "was_forked_from": [True, False],
    "queues_only": [True, False],
}
OF_THE_MIRROR = {
    *("attributes", "active_at", "error_contains", "min_duration", "max_duration"),
    *("min_queue_wait", "max_queue_wait", "has_failed_step", "step_name", "deleted_upstream"),
}
"""Their cases are in test_search.py. Upstream has `attributes` too, but not on SQLite."""
NOTHING_FOUND = [("status", ("odd",)), ("queue_name", ("nowhere",)), ("end_time", NOON - 1)]


def test_every_filter_has_a_case() -> None:
    fields = WorkflowFilter.model_fields.keys() - {"application_name"}
    assert CASES.keys() | OF_THE_MIRROR == fields
    assert PREDICATES.keys() == VALUES.keys() == fields


async def assert_same(both: Site, **filters: Any) -> set[str]:
    wire = {"workflow_ids" if name == "workflow_id" else name: v for name, v in filters.items()}
    search = WorkflowSearch(**wire, limit=1000)
    theirs = {row.workflow_id for row in await both.client.search_workflows(APP, search)}
    question = WorkflowFilter(application_name=APP, **filters)
    with both.cache.read() as connection:
        page = list_workflows(connection, question, limit=1000)
    ours = [item.workflow_id for item in page.items]
    assert len(ours) == len(set(ours)) == page.total
    assert set(ours) == theirs
    return theirs


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in CASES.items() for value in values]
)
async def test_a_filter_finds_what_it_finds_upstream(both: Site, name: str, value: Any) -> None:
    found = await assert_same(both, **{name: value})
    if value == CASES[name][0] and (name, value) not in NOTHING_FOUND:
        assert found


async def test_the_start_of_an_id_minds_the_case_as_it_does_on_postgresql(both: Site) -> None:
    with both.cache.read() as connection:
        for prefix, count in (("Tie_", 9), ("tie_", 0), ("tie%", 1)):
            question = WorkflowFilter(application_name=APP, workflow_id_prefix=(prefix,))
            assert list_workflows(connection, question, limit=1).total == count


async def test_any_two_filters_together_find_what_they_find_upstream(both: Site) -> None:
    found = 0
    for one, other in combinations(CASES, 2):
        found += bool(await assert_same(both, **{one: CASES[one][0], other: CASES[other][-1]}))
    assert found > 30


async def test_no_filter_finds_everything(both: Site) -> None:
    assert await assert_same(both) == both.tables.ids()


async def test_an_empty_list_is_no_filter(both: Site) -> None:
    with both.cache.read() as connection:
        question = WorkflowFilter(application_name=APP, status=(), workflow_id=())
        assert list_workflows(connection, question, limit=1).total == len(both.tables.ids())


def test_a_filter_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError):
        WorkflowFilter.model_validate({"application_name": APP, "app_version": ("1",)})
