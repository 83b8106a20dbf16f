"""A command changes the system database, and says so."""

import subprocess
from pathlib import Path

import httpx
import pytest

from dbos_mcp.local_conductor.system_database import SystemDatabase
from tests.local_conductor.conftest import ORG, Tables, open_client, wait_until

BOOKING = "order-1005-5-4"  # the workflow whose step `quote_delivery` fails


def status(tables: Tables, workflow_id: str) -> list[str]:
    return tables.column(
        "SELECT status FROM workflow_status WHERE workflow_uuid = :id", id=workflow_id
    )


def step_count(tables: Tables, workflow_id: str) -> int:
    (count,) = tables.column(
        "SELECT count(*) FROM operation_outputs WHERE workflow_uuid = :id", id=workflow_id
    )
    assert isinstance(count, int)
    return count


async def test_cancel_and_resume_change_the_row(shop: httpx.AsyncClient, tables: Tables) -> None:
    assert (await shop.post("/workflows/reconcile-1/cancel")).status_code == 204
    assert status(tables, "reconcile-1") == ["CANCELLED"]
    resumed = await shop.post("/workflows/reconcile-1/resume", json={"queueName": "warehouse"})
    assert resumed.status_code == 204
    assert status(tables, "reconcile-1") == ["ENQUEUED"]
    queue = "SELECT queue_name FROM workflow_status WHERE workflow_uuid = 'reconcile-1'"
    assert tables.column(queue) == ["warehouse"]


async def test_children_are_cancelled_only_when_asked_for(
    shop: httpx.AsyncClient, tables: Tables
) -> None:
    tables.change("UPDATE workflow_status SET status = 'PENDING' WHERE workflow_uuid LIKE 'order%'")
    await shop.post("/workflows/order-1005/cancel", json={})
    assert status(tables, "order-1005") + status(tables, BOOKING) == ["CANCELLED", "PENDING"]
    await shop.post("/workflows/order-1005/cancel", json={"cancelChildren": True})
    assert status(tables, BOOKING) == ["CANCELLED"]


async def test_a_deleted_workflow_leaves_nothing_behind(
    shop: httpx.AsyncClient, tables: Tables
) -> None:
    assert (await shop.delete("/workflows/order-1005")).status_code == 204
    assert status(tables, "order-1005") == []
    assert step_count(tables, "order-1005") == 0
    events = "SELECT count(*) FROM workflow_events WHERE workflow_uuid = 'order-1005'"
    assert tables.column(events) == [0]
    assert status(tables, BOOKING) == ["ERROR"]
    await shop.delete("/workflows/order-1010?deleteChildren=true")
    assert (
        tables.column("SELECT 1 FROM workflow_status WHERE workflow_uuid LIKE 'order-1010%'") == []
    )


async def test_a_fork_copies_the_steps_before_its_first(
    shop: httpx.AsyncClient, tables: Tables
) -> None:
    forked = await shop.post(
        "/workflows/order-1005/fork",
        json={"startStep": 3, "newWorkflowId": "second try", "appVersion": "1.5.0"},
    )
    assert forked.status_code == 201
    assert forked.json() == {"workflowId": "second try"}
    assert step_count(tables, "second try") == 2
    location = forked.headers["location"]
    fork = (await shop.get(ORG.removesuffix("/v2/orgs/local") + location)).json()
    assert (fork["workflowId"], fork["forkedFrom"]) == ("second try", "order-1005")
    assert (fork["status"], fork["appVersion"]) == ("ENQUEUED", "1.5.0")


async def test_a_fork_from_no_step_begins_at_the_first(
    shop: httpx.AsyncClient, tables: Tables
) -> None:
    fork = (await shop.post("/workflows/order-1005/fork")).json()["workflowId"]
    assert step_count(tables, fork) == 0


async def test_a_fork_does_not_take_an_id_that_is_in_use(shop: httpx.AsyncClient) -> None:
    taken = await shop.post("/workflows/order-1005/fork", json={"newWorkflowId": "order-1001"})
    assert taken.status_code == 409


async def test_bulk_commands_change_every_row(shop: httpx.AsyncClient, tables: Tables) -> None:
    both = {"workflowIds": ["reconcile-1", "restock-1"]}
    assert (await shop.post("/workflows/bulk-cancel", json=both)).status_code == 204
    assert status(tables, "reconcile-1") + status(tables, "restock-1") == ["CANCELLED"] * 2
    assert (await shop.post("/workflows/bulk-resume", json=both)).status_code == 204
    assert status(tables, "reconcile-1") + status(tables, "restock-1") == ["ENQUEUED"] * 2
    assert (await shop.post("/workflows/bulk-delete", json=both)).status_code == 204
    assert status(tables, "reconcile-1") + status(tables, "restock-1") == []


@pytest.mark.parametrize(
    ("way", "copied"),
    [
        ({"fromLastFailure": True}, 1),  # step 2, quote_delivery, is the one that failed
        ({"fromLastStep": True, "fromLastFailure": False}, 1),
        ({"fromStep": 1}, 0),
        ({"fromStepName": "find_depot"}, 0),
    ],
)
async def test_a_fork_from_failure_begins_at_the_step_that_is_named(
    shop: httpx.AsyncClient, tables: Tables, way: dict[str, object], copied: int
) -> None:
    answer = await shop.post(
        "/workflows/bulk-fork-from-failure", json={"workflowIds": [BOOKING], **way}
    )
    (fork,) = answer.json()["workflowIds"]
    assert step_count(tables, fork) == copied


async def test_each_workflow_is_forked_at_its_own_failure_and_in_order(
    shop: httpx.AsyncClient, tables: Tables
) -> None:
    sources = [BOOKING, "order-1001", "restock-1"]  # failed, without a failure, without a step
    answer = await shop.post(
        "/workflows/bulk-fork-from-failure",
        json={"workflowIds": sources, "fromLastFailure": True, "queueName": "warehouse"},
    )
    forks = answer.json()["workflowIds"]
    origins = [(await shop.get(f"/workflows/{fork}")).json()["forkedFrom"] for fork in forks]
    assert origins == sources
    last = step_count(tables, "order-1001")
    assert [step_count(tables, fork) for fork in forks] == [1, last - 1, 0]


async def test_a_fork_from_failure_needs_exactly_one_way_to_find_the_step(
    shop: httpx.AsyncClient,
) -> None:
    for ways in ({}, {"fromStep": 1, "fromLastStep": True}, {"fromLastFailure": False}):
        body = {"workflowIds": [BOOKING], **ways}
        answer = await shop.post("/workflows/bulk-fork-from-failure", json=body)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["location"] == "body"


async def test_nothing_is_forked_when_one_of_many_cannot_be(
    shop: httpx.AsyncClient, tables: Tables
) -> None:
    unknown = {"workflowIds": [BOOKING, "nobody"], "fromLastStep": True}
    without = {"workflowIds": [BOOKING, "order-1001"], "fromStepName": "quote_delivery"}
    assert (await shop.post("/workflows/bulk-fork-from-failure", json=unknown)).status_code == 404
    assert (await shop.post("/workflows/bulk-fork-from-failure", json=without)).status_code == 500
    assert tables.column("SELECT 1 FROM workflow_status WHERE forked_from IS NOT NULL") == []


async def test_an_unknown_workflow_is_silently_cancelled_and_deleted_but_not_resumed(
    shop: httpx.AsyncClient,
) -> None:
    assert (await shop.post("/workflows/nobody/cancel")).status_code == 204
    assert (await shop.delete("/workflows/nobody")).status_code == 204
    assert (await shop.post("/workflows/nobody/resume")).status_code == 404
    assert (await shop.post("/workflows/nobody/fork")).status_code == 404
    assert (await shop.get("/workflows/nobody")).status_code == 404
    assert (await shop.get("/workflows/nobody/steps")).json() == []


async def test_a_schedule_is_paused_resumed_triggered_and_backfilled(
    shop: httpx.AsyncClient, tables: Tables
) -> None:
    schedule = "/schedules/nightly-report"
    assert (await shop.post(f"{schedule}/pause")).status_code == 204
    assert [s["scheduleName"] for s in (await shop.get("/schedules?status=PAUSED")).json()] == [
        "nightly-report"
    ]
    assert (await shop.post(f"{schedule}/resume")).status_code == 204
    assert (await shop.get(schedule)).json()["status"] == "ACTIVE"
    triggered = await shop.post(f"{schedule}/trigger")
    assert triggered.status_code == 201
    assert status(tables, triggered.json()["workflowId"]) == ["ENQUEUED"]
    two_nights = {"startTime": "2026-01-01T04:00:00+01:00", "endTime": "2026-01-04T03:00:00Z"}
    backfilled = await shop.post(f"{schedule}/backfill", json=two_nights)
    assert backfilled.json()["workflowIds"] == [
        "sched-nightly-report-2026-01-02T03:00:00+00:00",
        "sched-nightly-report-2026-01-03T03:00:00+00:00",
    ]


async def test_schedules_are_filtered_and_their_context_is_left_out_on_request(
    shop: httpx.AsyncClient,
) -> None:
    async def listed(query: str) -> list[str | None]:
        return [schedule["context"] for schedule in (await shop.get(f"/schedules?{query}")).json()]

    assert await listed("") == ["sales"]
    assert await listed("loadContext=false") == [None]
    assert await listed("scheduleNamePrefix=night&workflowName=nightly_report") == ["sales"]
    assert await listed("scheduleNamePrefix=day") == []
    assert await listed("workflowName=restock") == []


async def test_a_version_is_made_the_latest(shop: httpx.AsyncClient, tables: Tables) -> None:
    (first,) = (await shop.get("/versions")).json()
    tables.change("UPDATE application_versions SET version_timestamp = 0")
    chosen = await shop.patch("/versions/latest", json={"versionName": "1.4.0"})
    assert chosen.status_code == 204
    (again,) = (await shop.get("/versions")).json()
    assert (again["versionId"], again["versionName"]) == (first["versionId"], "1.4.0")
    assert again["versionTimestamp"] >= first["versionTimestamp"]
    unknown = await shop.patch("/versions/latest", json={"versionName": "9"})
    assert unknown.status_code == 404


@pytest.mark.e2e
async def test_a_running_application_does_what_it_was_told(
    live_shop: tuple[Path, "subprocess.Popen[str]"],
) -> None:
    url = f"sqlite:///{live_shop[0]}"
    database, tables = SystemDatabase(url), Tables(url)
    async with open_client(database, f"{ORG}/apps/shop") as shop:
        fork = (await shop.post("/workflows/order-1001/fork", json={"startStep": 3})).json()
        night = (await shop.post("/schedules/nightly-report/trigger")).json()
        wait_until(lambda: status(tables, fork["workflowId"]) == ["SUCCESS"])
        wait_until(lambda: status(tables, night["workflowId"]) == ["SUCCESS"])
        (event,) = (await shop.get(f"/workflows/{night['workflowId']}/events")).json()
    database.close()
    assert event["value"].startswith("sales at ")
