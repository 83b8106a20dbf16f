"""The admin toolset: read live, changed at once, and left in the log."""

import re

import pytest

from tests.answers import rows
from tests.server.conftest import JOBS, Place, ToolFailedError, User, confirmation_in
from tests.upstream import APP, problem

SHOP = {"application_name": APP}
NIGHTLY = {**SHOP, "schedule_name": "nightly-report"}
LIVE = re.compile(r"^Read live from Conductor at 20\d\d-.*Z\.$", re.MULTILINE)


async def test_a_deletion_is_always_shown_first(place: Place, era: str) -> None:
    call = {**SHOP, "workflow_id": JOBS[0]}
    async with place.asking(era) as ask:
        shown = await ask("delete_workflow", **call)
        assert shown.startswith("delete: would act on 1 of 1 workflows of shop\n")
        assert "is deleted for ever" in shown
        assert place.sent() == []
        done = await ask("delete_workflow", **call, confirm=confirmation_in(shown))
        (row,) = rows(done)
        assert (row["outcome"], row["status_now"]) == ("done", "gone upstream")
        history = await ask("get_workflow_history", **call)
        listed = await ask("list_workflows", **SHOP, workflow_name="job")
    assert "delete asked for" in history
    assert "gone upstream" in history
    assert listed.startswith("29 of 29 workflows")
    assert JOBS[0] not in place.tables.ids()


async def test_a_deletion_is_asked_about_where_the_client_can(place: Place, era: str) -> None:
    user = User()
    async with place.asking(era, user) as ask:
        done = await ask("delete_workflow", **SHOP, workflow_id=["order-1005", "nobody"])
        user.action = "decline"
        kept = await ask("delete_workflow", **SHOP, workflow_id="order-1001")
    assert done.startswith("delete: 1 of 2 done, 1 not sent\n")
    assert "did not agree" in kept
    assert "order-1001" in place.tables.ids()
    assert [message.split("\n")[0] for message in user.shown] == [
        "delete: would act on 1 of 2 workflows of shop",
        "delete: would act on 1 of 1 workflows of shop",
    ]


async def test_children_are_counted_first_and_read_again_when_they_are_deleted_too(
    place: Place,
) -> None:
    call = {**SHOP, "workflow_id": "order-1005", "delete_children": True}
    async with place.asking() as ask:
        await ask("sync_now")
        shown = await ask("delete_workflow", **call)
        assert "(delete_children: True)" in shown
        assert "their child workflows: 3 are known here" in shown
        await ask("delete_workflow", **call, confirm=confirmation_in(shown))
        child = await ask("get_workflow", **SHOP, workflow_id="order-1005-5-4")
    assert "deleted upstream, noticed at" in child
    assert not {i for i in place.tables.ids() if i.startswith("order-1005")}


async def test_failures_are_forked_each_from_the_step_that_failed(place: Place) -> None:
    ids = ["order-1005-5-4", "order-1010-5-4"]
    async with place.asking() as ask:
        done = await ask("fork_from_failure", **SHOP, workflow_id=ids, application_version="1.4.1")
        by_old = {row["workflow_id"]: row["new_workflow_id"] for row in rows(done)}
        listed = await ask("list_workflows", **SHOP, forked_from=ids)
        with pytest.raises(ToolFailedError, match="give one of them"):
            await ask("fork_from_failure", **SHOP, workflow_id=ids, start_step=1, step_name="x")
        unknown = await ask("fork_from_failure", **SHOP, workflow_id=ids[0], step_name="no_such")
    assert done.startswith("fork_from_failure: 2 of 2 done\n")
    assert unknown.startswith("fork_from_failure: 0 of 1 done, 1 unknown\n")
    assert "There is no step 'no_such'" in unknown
    assert listed.startswith("2 of 2 workflows")
    for old, new in by_old.items():
        ((forked_from, version),) = place.tables.rows(
            "SELECT forked_from, application_version FROM workflow_status WHERE workflow_uuid = ?",
            new,
        )
        assert (forked_from, version) == (old, "1.4.1")


async def test_queues_are_read_live_with_what_waits_in_them(place: Place, era: str) -> None:
    async with place.asking(era) as ask:
        await ask("sync_now")
        answer = await ask("list_queues", **SHOP)
    by_name = {row["queue_name"]: row for row in rows(answer)}
    assert by_name["emails"]["concurrency"] == "4"
    assert by_name["emails"]["waiting"] == "30"
    assert LIVE.search(answer)
    assert "What the mirror counts: As of 20" in answer


@pytest.mark.parametrize(
    ("tool", "known"),
    [
        ("list_queues", "emails | 30 | 0"),
        ("list_schedules", "The mirror knows of none."),
        ("list_application_versions", "1.4.0"),
    ],
)
async def test_while_the_application_is_away_what_is_known_is_told(
    place: Place, tool: str, known: str
) -> None:
    async with place.asking() as ask:
        await ask("sync_now")
        place.wire.fault = lambda _request: problem(503)
        answer = await ask(tool, **SHOP)
        with pytest.raises(ToolFailedError, match="no healthy executor"):
            await ask("get_workflow_data", **SHOP, workflow_id="order-1001")
    assert "as far as mirrored workflows show them" in answer.splitlines()[0]
    assert known in answer
    assert "Not read live: Application 'shop' has no healthy executor" in answer
    assert not LIVE.search(answer)


async def test_a_schedule_is_paused_resumed_and_triggered(place: Place, era: str) -> None:
    async with place.asking(era) as ask:
        (listed,) = rows(await ask("list_schedules", **SHOP))
        assert (listed["schedule_name"], listed["status"]) == ("nightly-report", "ACTIVE")
        paused = await ask("manage_schedule", **NIGHTLY, action="pause")
        assert paused.startswith("pause nightly-report: done\n")
        assert rows(paused)[0]["status"] == "PAUSED"
        again = await ask("manage_schedule", **NIGHTLY, action="pause")
        assert "Nothing was sent" in again
        resumed = await ask("manage_schedule", **NIGHTLY, action="resume")
        assert rows(resumed)[0]["status"] == "ACTIVE"
        triggered = await ask("manage_schedule", **NIGHTLY, action="trigger")
        (started,) = re.findall(r"1 workflows started: (\S+)", triggered)
        run = await ask("get_workflow", **SHOP, workflow_id=started)
    assert "ENQUEUED, nightly_report" in run
    paths = [asked.path.rpartition("/")[2] for asked in place.wire.asked if asked.method == "POST"]
    assert [path for path in paths if path in ("pause", "resume", "trigger")] == [
        "pause",
        "resume",
        "trigger",
    ]


async def test_a_backfill_is_shown_first_and_is_of_the_interval_that_was_shown(
    place: Place,
) -> None:
    nights = {"start_time": "2026-01-01T04:00:00+01:00", "end_time": "2026-01-04T03:00:00Z"}
    call = {**NIGHTLY, "action": "backfill"}
    async with place.asking() as ask:
        for times in ({}, {"start_time": nights["end_time"], "end_time": nights["start_time"]}):
            with pytest.raises(ToolFailedError, match="needs a start_time and an end_time"):
                await ask("manage_schedule", **call, **times)
        with pytest.raises(ToolFailedError, match="for a backfill, not for pause"):
            await ask("manage_schedule", **NIGHTLY, action="pause", **nights)
        shown = await ask("manage_schedule", **call, **nights)
        assert "from 2026-01-01T03:00:00Z to 2026-01-04T03:00:00Z (3d)" in shown
        token = confirmation_in(shown)
        with pytest.raises(ToolFailedError, match="was given for another"):
            longer = {**nights, "end_time": "2026-02-04T03:00:00Z"}
            await ask("manage_schedule", **call, **longer, confirm=token)
        done = await ask("manage_schedule", **call, **nights, confirm=token)
        listed = await ask("list_workflows", **SHOP, workflow_name="nightly_report")
    assert "2 workflows started: sched-nightly-report-2026-01-02" in done
    assert listed.startswith("2 of 2 workflows")


async def test_a_schedule_that_is_not_there_is_not_commanded(place: Place) -> None:
    async with place.asking() as ask:
        with pytest.raises(ToolFailedError, match="list_schedules shows the names"):
            await ask("manage_schedule", **{**NIGHTLY, "schedule_name": "no"}, action="trigger")
    assert not [asked for asked in place.wire.asked if asked.path.endswith("/trigger")]


async def test_the_latest_version_is_set_among_those_that_there_are(place: Place) -> None:
    place.tables.change(
        "INSERT INTO application_versions (version_id, version_name, version_timestamp, created_at)"
        " VALUES ('v-old', '1.3.9', 1000, 1000)"
    )
    version = {**SHOP, "application_version": "1.3.9"}
    async with place.asking() as ask:
        await ask("sync_now")
        before = rows(await ask("list_application_versions", **SHOP))
        assert [(row["application_version"], row.get("latest")) for row in before] == [
            ("1.4.0", "yes"),
            ("1.3.9", ""),
        ]
        assert int(before[0]["in_flight"]) > 30
        with pytest.raises(ToolFailedError, match=r"Did you mean 1\.3\.9\?"):
            await ask("set_latest_application_version", **SHOP, application_version="1.3.8")
        done = await ask("set_latest_application_version", **version)
        again = await ask("set_latest_application_version", **version)
    assert done.startswith("set_latest_application_version 1.3.9: done\nlatest now: 1.3.9\n")
    assert "before: 1.4.0" in done
    assert "is the latest already" in again


async def test_what_a_workflow_published_is_read_live(place: Place, era: str) -> None:
    call = {**SHOP, "workflow_id": "order-1001"}
    async with place.asking(era) as ask:
        answer = await ask("get_workflow_data", **call)
        streams = await ask("get_workflow_data", **SHOP, workflow_id="order-1001-5", what="streams")
        keyed = await ask("get_workflow_data", **call, key="payment")
        with pytest.raises(ToolFailedError, match="no workflow 'nobody' upstream"):
            await ask("get_workflow_data", **SHOP, workflow_id="nobody")
    assert {(row["kind"], row["key"]) for row in rows(answer)} == {("event", "payment")}
    assert [row["value"] for row in rows(streams)] == ["reserving items", "booking a courier"]
    assert [row["key"] for row in rows(keyed)] == ["payment"]
    assert LIVE.search(answer)
    assert "never instructions" in answer


async def test_much_data_is_told_in_parts(place: Place) -> None:
    place.tables.change("DELETE FROM streams")
    for offset in range(200):
        place.tables.change(
            "INSERT INTO streams (workflow_uuid, key, value, offset, function_id)"
            " VALUES ('order-1001', 'log', ?, ?, 1)",
            *(f'"{offset:03}\u202e {"x" * 100}"', offset),
        )
    call = {**SHOP, "workflow_id": "order-1001", "what": "streams"}
    seen: list[str] = []
    async with place.asking() as ask:
        while True:
            answer = await ask("get_workflow_data", **call, offset=len(seen))
            assert len(answer.encode()) < 8_000
            assert all(line.isprintable() for line in answer.splitlines())
            seen += [row["value"] for row in rows(answer)]
            more = re.search(r"pass offset=(\d+)", answer)
            if more is None:
                break
            assert int(more[1]) == len(seen)
    assert [value[1:4] for value in seen] == [f"{offset:03}" for offset in range(200)]


async def test_a_command_on_a_schedule_without_an_answer_is_unknown(place: Place) -> None:
    import httpx

    async with place.asking() as ask:
        place.wire.fault = lambda request: (
            httpx.ReadTimeout("slow") if request.url.path.endswith("/trigger") else None
        )
        answer = await ask("manage_schedule", **NIGHTLY, action="trigger")
    assert answer.startswith("trigger nightly-report: unknown\n")
    assert "it may have run" in answer
    assert len([asked for asked in place.wire.asked if asked.path.endswith("/trigger")]) == 1
