"""What is asked of the API is what the system database holds, on SQLite and on PostgreSQL."""

from typing import Any

import httpx
import pytest

from dbos_mcp.domain import format_time
from tests.local_conductor.conftest import Tables


async def search(shop: httpx.AsyncClient, **body: object) -> list[dict[str, Any]]:
    response = await shop.post("/workflows/search", json=body)
    assert response.status_code == 200, response.text
    answer: list[dict[str, Any]] = response.json()
    return answer


async def ids(shop: httpx.AsyncClient, **body: object) -> list[str]:
    return [workflow["workflowId"] for workflow in await search(shop, **body)]


FILTERS = [
    ({"status": ["ERROR", "PENDING"]}, "status IN ('ERROR', 'PENDING')"),
    ({"workflowName": ["book_courier"]}, "name = 'book_courier'"),
    ({"queueName": ["warehouse"]}, "queue_name = 'warehouse'"),
    ({"executorId": ["shop-1"]}, "executor_id = 'shop-1'"),
    ({"appVersion": ["1.4.0"]}, "application_version = '1.4.0'"),
    ({"user": ["nobody"]}, "authenticated_user = 'nobody'"),
    ({"scheduleName": ["nightly-report"]}, "schedule_name = 'nightly-report'"),
    ({"parentWorkflowId": ["order-1005"]}, "parent_workflow_id = 'order-1005'"),
    ({"forkedFrom": ["order-1005"]}, "forked_from = 'order-1005'"),
    ({"workflowIds": ["order-1005", "no such"]}, "workflow_uuid = 'order-1005'"),
    ({"workflowIdPrefix": ["order-100", "pick"]}, "substr(workflow_uuid, 1, 9) = 'order-100'"),
    ({"workflowIdPrefix": ["%"]}, "1 = 0"),
    ({"hasParent": True}, "parent_workflow_id IS NOT NULL"),
    ({"hasParent": False}, "parent_workflow_id IS NULL"),
    ({"wasForkedFrom": True}, "was_forked_from"),
    ({"wasForkedFrom": False}, "NOT was_forked_from"),
    ({"status": ["ERROR"], "hasParent": False}, "status = 'ERROR' AND parent_workflow_id IS NULL"),
    ({"status": [""]}, "1 = 0"),
    ({"status": None}, "1 = 1"),
    ({"workflowIds": []}, "1 = 1"),
]


@pytest.mark.parametrize(("body", "condition"), FILTERS)
async def test_a_filter_finds_the_rows_that_it_names(
    shop: httpx.AsyncClient, tables: Tables, body: dict[str, Any], condition: str
) -> None:
    if "pick" in body.get("workflowIdPrefix", []):
        condition += " OR workflow_uuid LIKE 'pick%'"
    await shop.post("/workflows/order-1005/fork")
    expected = tables.column(f"SELECT workflow_uuid FROM workflow_status WHERE {condition}")
    assert sorted(await ids(shop, **body)) == sorted(expected)


@pytest.mark.parametrize(("body", "condition"), FILTERS)
async def test_aggregates_count_what_a_search_with_the_same_filter_lists(
    shop: httpx.AsyncClient, body: dict[str, Any], condition: str
) -> None:
    await shop.post("/workflows/order-1005/fork")
    response = await shop.post("/workflows/aggregates", json=body | {"groupByStatus": True})
    listed = [workflow["status"] for workflow in await search(shop, **body)]
    counted = {row["group"]["status"]: row["count"] for row in response.json()}
    assert counted == {status: listed.count(status) for status in set(listed)}


@pytest.mark.parametrize(
    ("column", "first", "last"),
    [
        ("created_at", "startTime", "endTime"),
        ("completed_at", "completedAfter", "completedBefore"),
        ("started_at_epoch_ms", "dequeuedAfter", "dequeuedBefore"),
    ],
)
async def test_both_ends_of_a_time_range_are_inclusive_to_the_millisecond(
    shop: httpx.AsyncClient, tables: Tables, column: str, first: str, last: str
) -> None:
    moment = 1_795_245_423_217
    for offset, order in ((-1, "order-1001"), (0, "order-1002"), (1, "order-1003")):
        tables.change(
            f"UPDATE workflow_status SET {column} = :at WHERE workflow_uuid = :id",
            at=moment + offset,
            id=order,
        )
    orders = ["order-1001", "order-1002", "order-1003"]
    time = format_time(moment)
    assert await ids(shop, workflowIds=orders, **{first: time, last: time}) == ["order-1002"]
    assert "order-1001" not in await ids(shop, workflowIds=orders, **{first: time})
    assert "order-1003" not in await ids(shop, workflowIds=orders, **{last: time})


async def test_a_time_of_another_zone_is_the_same_time(
    shop: httpx.AsyncClient, tables: Tables
) -> None:
    tables.change("UPDATE workflow_status SET created_at = 0 WHERE workflow_uuid = 'order-1001'")
    assert await ids(shop, endTime="1970-01-01T05:30:00+05:30") == ["order-1001"]


async def test_pages_in_either_direction_bring_each_workflow_once(
    shop: httpx.AsyncClient, tables: Tables
) -> None:
    for at, workflow_id in enumerate(await ids(shop)):
        tables.change(
            "UPDATE workflow_status SET created_at = :at WHERE workflow_uuid = :id",
            at=at,
            id=workflow_id,
        )
    everything = await ids(shop)
    for descending in (False, True):
        pages = []
        for offset in range(0, len(everything), 7):
            pages += await ids(shop, limit=7, offset=offset, sortDesc=descending)
        assert pages == (everything[::-1] if descending else everything)


async def test_workflows_of_one_time_are_all_listed_between_those_before_and_after(
    shop: httpx.AsyncClient, tables: Tables
) -> None:
    """In whatever order: as upstream there is no tie-breaker, so on PostgreSQL pages by `offset`
    within one time may repeat and skip."""
    everything = await ids(shop)
    tables.change("UPDATE workflow_status SET created_at = 1000")
    tables.change("UPDATE workflow_status SET created_at = 999 WHERE workflow_uuid = 'order-1007'")
    ascending, descending = await ids(shop), await ids(shop, sortDesc=True)
    assert sorted(ascending) == sorted(descending) == sorted(everything)
    assert ascending[0] == descending[-1] == "order-1007"
    assert await ids(shop, limit=1) == ["order-1007"]


async def test_a_limit_of_zero_is_no_limit(shop: httpx.AsyncClient) -> None:
    assert await ids(shop, limit=0) == await ids(shop)
    steps = (await shop.get("/workflows/order-1005/steps")).json()
    assert (await shop.get("/workflows/order-1005/steps?limit=0")).json() == steps
    assert (await shop.get("/workflows/order-1005/steps?limit=2&offset=1")).json() == steps[1:3]
    assert (await shop.get("/workflows/order-1005/steps?offset=3")).json() == steps[3:]


async def test_a_list_by_query_is_a_search_with_fewer_filters(shop: httpx.AsyncClient) -> None:
    listed = await shop.get(
        "/workflows?status=ERROR&workflowName=place_order&limit=1&offset=1&sortDesc=true"
        "&loadInput=false&loadOutput=true"
    )
    searched = await search(
        shop,
        status=["ERROR"],
        workflowName=["place_order"],
        limit=1,
        offset=1,
        sortDesc=True,
        loadOutput=True,
    )
    assert listed.json() == searched
    assert len(searched) == 1
    assert (await shop.get("/workflows?status=&limit=3")).json() == await search(shop, limit=3)


async def test_only_queued_workflows_in_flight_are_listed_unless_a_status_is_given(
    shop: httpx.AsyncClient,
) -> None:
    queued = await search(shop, queuesOnly=True)
    assert {workflow["queueName"] for workflow in queued} == {"warehouse"}
    assert {workflow["status"] for workflow in queued} == {"PENDING", "ENQUEUED", "DELAYED"}
    receipts = await search(shop, queuesOnly=True, status=["SUCCESS"])
    assert {workflow["queueName"] for workflow in receipts} == {"emails"}


async def test_attributes_are_a_filter_on_postgresql_only(
    shop: httpx.AsyncClient, tables: Tables
) -> None:
    body = {"attributes": {"city": "Belfast"}}
    searched = await shop.post("/workflows/search", json=body)
    counted = await shop.post("/workflows/aggregates", json=body | {"groupByStatus": True})
    if tables.engine.dialect.name == "sqlite":
        assert (searched.status_code, counted.status_code) == (500, 500)
        assert "not supported on SQLite" in searched.json()["detail"]
        assert "not supported on SQLite" in counted.json()["detail"]
    else:
        assert {workflow["workflowName"] for workflow in searched.json()} == {"place_order"}
        assert counted.json() == [{"group": {"status": "ERROR"}, "count": len(searched.json())}]


async def test_an_application_sees_its_own_rows_and_those_that_nobody_owns(
    shop: httpx.AsyncClient, tables: Tables
) -> None:
    for owner, order in (("bakery", "order-1001"), (None, "order-1002")):
        tables.change(
            "UPDATE workflow_status SET application_name = :owner WHERE workflow_uuid = :id",
            owner=owner,
            id=order,
        )
        tables.change(
            "UPDATE operation_outputs SET application_name = :owner WHERE workflow_uuid = :id",
            owner=owner,
            id=order,
        )
    visible = await ids(shop)
    assert "order-1001" not in visible
    assert "order-1002" in visible
    assert await ids(shop, workflowIds=["order-1001"]) == ["order-1001"]
    by_owner = await shop.post("/workflows/aggregates", json={"groupByApplicationName": True})
    assert {row["group"]["application_name"] for row in by_owner.json()} == {"shop", None}
    steps = await shop.post(
        "/steps/aggregates", json={"groupByFunctionName": True, "workflowIdPrefix": ["order-1001"]}
    )
    assert {row["group"]["function_name"] for row in steps.json()}.isdisjoint({"check_stock"})


async def test_values_come_as_a_python_application_shows_them(shop: httpx.AsyncClient) -> None:
    (receipt,) = await search(
        shop,
        workflowName=["email_receipt"],
        parentWorkflowId=["order-1001"],
        loadInput=True,
        loadOutput=True,
    )
    assert receipt["input"] == "{'args': ('order-1001',), 'kwargs': {}}"
    assert (receipt["output"], receipt["error"]) == ("True", None)
    order = (await shop.get("/workflows/order-1005")).json()
    assert (order["output"], order["error"]) == (None, "'BT'")
    assert order["attributes"] == '{"city": "Belfast", "customer": "customer-6"}'
    unloaded = await search(shop, workflowIds=["order-1005"])
    assert [unloaded[0][name] for name in ("input", "output", "error")] == [None, None, None]


async def test_a_value_that_cannot_be_read_comes_as_the_stored_text(
    shop: httpx.AsyncClient, tables: Tables
) -> None:
    tables.change("UPDATE workflow_events SET value = 'rubbish' WHERE workflow_uuid = 'order-1001'")
    events = (await shop.get("/workflows/order-1001/events")).json()
    assert events == [{"key": "payment", "value": "rubbish"}]


async def test_events_streams_and_notifications_of_a_workflow(
    shop: httpx.AsyncClient, tables: Tables
) -> None:
    events = await shop.get("/workflows/order-1001/events")
    assert events.json() == [{"key": "payment", "value": "payment-1001"}]
    (child,) = await ids(shop, parentWorkflowId=["order-1001"], workflowName=["fulfil_order"])
    for key, value, offset in (
        ("progress", '"__DBOS_STREAM_CLOSED__"', 2),
        ("again", '{"a": [1]}', 0),
    ):
        tables.change(
            'INSERT INTO streams (workflow_uuid, key, value, "offset", function_id, serialization)'
            " VALUES (:id, :key, :value, :offset, 9, 'portable_json')",
            id=child,
            key=key,
            value=value,
            offset=offset,
        )
    streams = await shop.get(f"/workflows/{child}/streams")
    assert streams.json() == [
        {"key": "again", "values": ["{'a': [1]}"]},
        {"key": "progress", "values": ["reserving items", "booking a courier"]},
    ]
    for number, topic in enumerate(("picker", "__null__topic__")):
        tables.change(
            "INSERT INTO notifications (destination_uuid, topic, message, message_uuid, consumed,"
            " created_at_epoch_ms, serialization)"
            " VALUES ('pick-shelf-1', :topic, :message, :uuid, :consumed, :at, 'portable_json')",
            topic=topic,
            message='"Alex"',
            uuid=str(number),
            consumed=bool(number),
            at=1000 * number,
        )
    notifications = await shop.get("/workflows/pick-shelf-1/notifications")
    assert notifications.json() == [
        {
            "topic": "picker",
            "message": "Alex",
            "createdAt": "1970-01-01T00:00:00Z",
            "consumed": False,
        },
        {"topic": None, "message": "Alex", "createdAt": "1970-01-01T00:00:01Z", "consumed": True},
    ]


async def test_the_steps_of_a_workflow_say_which_one_failed(shop: httpx.AsyncClient) -> None:
    steps = (await shop.get("/workflows/order-1005-5-4/steps")).json()
    assert [step["stepName"] for step in steps if step["error"]] == ["quote_delivery"]
    assert [step["stepId"] for step in steps] == sorted(step["stepId"] for step in steps)


async def test_workflow_aggregates_are_what_counting_the_rows_gives(
    shop: httpx.AsyncClient, tables: Tables
) -> None:
    response = await shop.post(
        "/workflows/aggregates",
        json={
            "groupByStatus": True,
            "groupByQueueName": True,
            "timeBucketSizeMs": 7,
            "selectCount": True,
            "selectMinCreatedAt": True,
            "selectMaxQueueWaitMs": True,
            "selectMaxTotalLatencyMs": True,
        },
    )
    expected: dict[tuple[Any, ...], dict[str, Any]] = {}
    for status, queue, created, dequeued, completed in tables.rows(
        "SELECT status, queue_name, created_at, started_at_epoch_ms, completed_at"
        " FROM workflow_status"
    ):
        row = expected.setdefault(
            (status, queue, str(created // 7 * 7)),
            {"count": 0, "created": [], "wait": [], "all": []},
        )
        row["count"] += 1
        row["created"].append(created)
        row["wait"] += [dequeued - created] if dequeued is not None else []
        row["all"] += [completed - created] if completed is not None else []
    answered: dict[tuple[Any, ...], dict[str, Any]] = {
        (row["group"]["status"], row["group"]["queue_name"], row["group"]["time_bucket"]): row
        for row in response.json()
    }
    assert answered.keys() == expected.keys()
    for group, row in expected.items():
        answer = answered[group]
        assert answer["count"] == row["count"]
        assert answer["minCreatedAt"] == format_time(min(row["created"]))
        assert answer.get("maxQueueWaitMs") == max(row["wait"], default=None)
        assert answer.get("maxTotalLatencyMs") == max(row["all"], default=None)


async def test_without_a_selection_an_aggregate_has_the_count_alone(
    shop: httpx.AsyncClient,
) -> None:
    (row,) = (await shop.post("/workflows/aggregates", json={"timeBucketSizeMs": 2**62})).json()
    assert row == {"group": {"time_bucket": "0"}, "count": len(await ids(shop))}


async def test_step_aggregates_are_what_counting_the_rows_gives(
    shop: httpx.AsyncClient, tables: Tables
) -> None:
    rows = tables.rows(
        "SELECT function_name, CASE WHEN error IS NULL THEN 'SUCCESS' ELSE 'ERROR' END, count(*),"
        " max(completed_at_epoch_ms - started_at_epoch_ms)"
        " FROM operation_outputs GROUP BY 1, 2"
    )
    body = {"groupByFunctionName": True, "groupByStatus": True}
    selected = {"selectCount": True, "selectMaxDurationMs": True}
    answer = (await shop.post("/steps/aggregates", json=body | selected)).json()
    assert sorted(
        (
            row["group"]["function_name"],
            row["group"]["status"],
            row["count"],
            row["maxDurationMs"],
        )
        for row in answer
    ) == sorted(rows)
    failed = (
        await shop.post(
            "/steps/aggregates",
            json={"groupByFunctionName": True, "status": ["ERROR"], "stepName": ["quote_delivery"]},
        )
    ).json()
    assert failed == [{"group": {"function_name": "quote_delivery"}, "count": 2}]
