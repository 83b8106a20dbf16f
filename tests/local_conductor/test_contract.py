"""Each served operation, on a populated and on an empty database, answers as the published
OpenAPI document has it: the client of `conftest` holds every answer against it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import dbos
import httpx
import pytest

from dbos_mcp.local_conductor.app import APP, OPERATIONS, ORG
from dbos_mcp.local_conductor.system_database import SystemDatabase
from tests.local_conductor.conftest import open_client
from tests.local_conductor.openapi import document

GROUPS = ["Status", "WorkflowName", "QueueName", "ExecutorId", "AppVersion", "ApplicationName"]
SELECTED = ["Count", "MinCreatedAt", "MaxQueueWaitMs", "MaxTotalLatencyMs"]
ALL_OF_WORKFLOWS = {
    "timeBucketSizeMs": 60_000,
    **dict.fromkeys((f"groupBy{name}" for name in GROUPS), True),
    **dict.fromkeys((f"select{name}" for name in SELECTED), True),
}
ALL_OF_STEPS = {
    "timeBucketSizeMs": 1000,
    "groupByFunctionName": True,
    "groupByStatus": True,
    "selectCount": True,
    "selectMaxDurationMs": True,
}
FORKS = {"workflowIds": ["order-1005"], "fromLastFailure": True}
DAY = {"startTime": "2026-01-01T00:00:00Z", "endTime": "2026-01-02T00:00:00+01:00"}
IDS = {"workflowId": "order-1005", "queueName": "emails", "scheduleName": "nightly-report"}

# Method, path below the application, body; the status on a shop's database, and on an empty one.
CALLS: list[tuple[str, str, Mapping[str, object] | None, int, int]] = [
    ("GET", "/executors", None, 200, 200),
    ("GET", "/versions", None, 200, 200),
    ("PATCH", "/versions/latest", {"versionName": "1.4.0"}, 204, 404),
    ("GET", "/workflows", None, 200, 200),
    ("POST", "/workflows/search", None, 200, 200),
    ("POST", "/workflows/search", {"loadInput": True, "loadOutput": True}, 200, 200),
    ("POST", "/workflows/aggregates", ALL_OF_WORKFLOWS, 200, 200),
    ("POST", "/workflows/aggregates", None, 500, 500),
    ("POST", "/steps/aggregates", ALL_OF_STEPS, 200, 200),
    ("POST", "/steps/aggregates", None, 500, 500),
    ("GET", "/workflows/{workflowId}", None, 200, 404),
    ("GET", "/workflows/{workflowId}/steps", None, 200, 200),
    ("GET", "/workflows/{workflowId}/events", None, 200, 200),
    ("GET", "/workflows/{workflowId}/streams", None, 200, 200),
    ("GET", "/workflows/{workflowId}/notifications", None, 200, 200),
    ("GET", "/workflows/{workflowId}/export", None, 404, 404),
    ("POST", "/workflows/import", {"serializedWorkflow": ""}, 404, 404),
    ("POST", "/workflows/{workflowId}/cancel", None, 204, 204),
    ("POST", "/workflows/{workflowId}/resume", None, 204, 404),
    ("POST", "/workflows/{workflowId}/fork", None, 201, 404),
    ("DELETE", "/workflows/{workflowId}", None, 204, 204),
    ("POST", "/workflows/bulk-cancel", {"workflowIds": ["reconcile-1"]}, 204, 204),
    ("POST", "/workflows/bulk-resume", {"workflowIds": ["reconcile-1"]}, 204, 404),
    ("POST", "/workflows/bulk-fork-from-failure", FORKS, 200, 404),
    ("POST", "/workflows/bulk-delete", {"workflowIds": ["order-1001"]}, 204, 204),
    ("GET", "/queues", None, 200, 200),
    ("GET", "/queues/{queueName}", None, 200, 404),
    ("GET", "/schedules", None, 200, 200),
    ("GET", "/schedules/{scheduleName}", None, 200, 404),
    ("POST", "/schedules/{scheduleName}/pause", None, 204, 404),
    ("POST", "/schedules/{scheduleName}/resume", None, 204, 404),
    ("POST", "/schedules/{scheduleName}/trigger", None, 201, 404),
    ("POST", "/schedules/{scheduleName}/backfill", DAY, 200, 404),
    ("GET", "/nothing", None, 404, 404),
    ("PUT", "/workflows/search", None, 405, 405),
]


@pytest.fixture
def empty_database(tmp_path: Path) -> Iterator[SystemDatabase]:
    url = f"sqlite:///{tmp_path / 'empty.sqlite'}"
    dbos.run_dbos_database_migrations(system_database_url=url)
    database = SystemDatabase(url, ["shop"])
    yield database
    database.close()


def test_the_document_is_here() -> None:
    assert document()["openapi"].startswith("3.1")


def test_every_served_operation_is_in_the_document() -> None:
    served = {(operation.method.lower(), operation.path) for operation in OPERATIONS}
    published = {
        (method, path) for path, methods in document()["paths"].items() for method in methods
    }
    assert served <= published


def test_every_served_operation_is_called_here() -> None:
    served = {(operation.method, operation.path) for operation in OPERATIONS}
    called = {(method, APP + path) for method, path, *_ in CALLS}
    assert served - called == {("GET", ORG + "/apps"), ("GET", APP)}  # the last test's


@pytest.mark.parametrize(("method", "path", "body", "status", "_"), CALLS)
async def test_an_answer_from_a_shop_is_as_published(
    shop: httpx.AsyncClient,
    method: str,
    path: str,
    body: Mapping[str, object] | None,
    status: int,
    _: int,
) -> None:
    response = await shop.request(method, path.format_map(IDS), json=body)
    assert response.status_code == status, response.text


@pytest.mark.parametrize(("method", "path", "body", "_", "status"), CALLS)
async def test_an_answer_from_an_empty_database_is_as_published(
    empty_database: SystemDatabase,
    method: str,
    path: str,
    body: Mapping[str, object] | None,
    _: int,
    status: int,
) -> None:
    async with open_client(empty_database) as client:
        response = await client.request(method, f"/apps/shop{path.format_map(IDS)}", json=body)
    assert response.status_code == status, response.text
    if method == "GET" and status == 200:
        assert response.json() == []


async def test_the_applications_are_as_published(
    system_database: SystemDatabase, empty_database: SystemDatabase
) -> None:
    for database in (system_database, empty_database):
        async with open_client(database) as client:
            listed = (await client.get("/apps")).json()
            found = (await client.get("/apps/shop")).json()
        assert listed == [found]
        assert (found["name"], found["status"]) == ("shop", "AVAILABLE")
