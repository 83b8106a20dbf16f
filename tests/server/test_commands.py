"""Commands on many workflows: shown first, agreed to, and told one by one."""

from collections.abc import Mapping

import pytest

from dbos_mcp.domain import now_ms
from tests.answers import rows
from tests.server.conftest import JOBS as IDS
from tests.server.conftest import Place, ToolFailedError, User, confirmation_in, mirrored
from tests.upstream import APP, problem, workflow


async def test_many_are_shown_first_and_commanded_once_the_agent_confirms(
    place: Place, era: str
) -> None:
    ids = [*IDS, "order-1001", "order-1005", "reconcile-1", "nobody"]
    call = {"application_name": APP, "workflow_id": ids}
    async with place.asking(era) as ask:
        shown = await ask("cancel_workflow", **call)
        assert place.sent() == []
        assert shown.startswith("cancel: would act on 31 of 34 workflows of shop\n")
        groups = rows(shown)
        assert {(group["workflows"], group["status"], group["effect"]) for group in groups} == {
            ("30", "ENQUEUED", "leaves its queue"),
            ("1", "PENDING", "stops at its next step"),
            ("1", "SUCCESS", "none: nothing is sent"),
            ("1", "ERROR", "none: nothing is sent"),
            ("1", "not found", "none: nothing is sent"),
        }
        assert groups[0]["first_ids"] == "job-000, job-001, job-002, …"
        assert "not the user's consent" in shown
        done = await ask("cancel_workflow", **call, confirm=confirmation_in(shown))
        listed = await ask(
            "list_workflows", application_name=APP, status="CANCELLED", workflow_name="job"
        )
    assert done.startswith("cancel: 31 of 34 done, 3 not sent\n")
    assert [row["outcome"] for row in rows(done)] == ["not sent"] * 3 + ["done"] * 31
    assert sorted(place.sent()) == sorted([*IDS, "reconcile-1"])
    assert place.statuses(IDS) == {"CANCELLED": 30}
    assert listed.startswith("30 of 30 workflows")


async def test_a_confirmation_is_good_once_and_for_the_same_workflows_alone(place: Place) -> None:
    call = {"application_name": APP, "workflow_id": IDS}
    async with place.asking() as ask:
        token = confirmation_in(await ask("cancel_workflow", **call))
        for tool, others in (
            ("cancel_workflow", {"workflow_id": IDS[:25]}),
            ("cancel_workflow", {"workflow_id": [*IDS, "reconcile-1"]}),
            ("cancel_workflow", {"cancel_children": True}),
            ("resume_workflow", {}),
        ):
            with pytest.raises(ToolFailedError, match=r"was given for another.*Nothing was sent"):
                await ask(tool, **{**call, **others}, confirm=token)
        with pytest.raises(ToolFailedError, match="was not given by this server"):
            await ask("cancel_workflow", **call, confirm="yes")
        assert place.sent() == []
        await ask("cancel_workflow", **call, confirm=token)
        with pytest.raises(ToolFailedError, match="was used already"):
            await ask("cancel_workflow", **call, confirm=token)
    assert len(place.sent()) == 30


async def test_a_client_that_can_ask_its_user_does(place: Place, era: str) -> None:
    user = User()
    async with place.asking(era, user) as ask:
        done = await ask("cancel_workflow", application_name=APP, workflow_id=IDS)
    (shown,) = user.shown
    assert shown.startswith("cancel: would act on 30 of 30 workflows of shop\n")
    assert done.startswith("cancel: 30 of 30 done\n")
    assert place.statuses(IDS) == {"CANCELLED": 30}


@pytest.mark.parametrize(
    ("action", "content"),
    [("decline", None), ("cancel", None), ("accept", {"agree": False}), ("accept", {})],
)
async def test_a_user_who_does_not_agree_is_obeyed(
    place: Place, era: str, action: str, content: Mapping[str, object] | None
) -> None:
    user = User(action, content)
    async with place.asking(era, user) as ask:
        answer = await ask("cancel_workflow", application_name=APP, workflow_id=IDS)
        with pytest.raises(ToolFailedError, match="was not given by this server"):
            await ask("cancel_workflow", application_name=APP, workflow_id=IDS, confirm="yes")
    assert answer.startswith("The user was asked, and did not agree. Nothing was sent.")
    assert len(user.shown) == 1
    assert place.sent() == []


async def test_nobody_is_asked_about_what_would_do_nothing(place: Place) -> None:
    user = User()
    ended = [f"order-10{n:02}" for n in range(1, 5)] + [f"no-{n}" for n in range(20)]
    async with place.asking(user=user) as ask:
        answer = await ask("resume_workflow", application_name=APP, workflow_id=ended)
    assert answer.startswith("resume: would act on 0 of 24 workflows")
    assert answer.endswith("Nothing was sent.")
    assert user.shown == []


async def test_twenty_need_no_preview_and_more_than_five_hundred_are_refused(place: Place) -> None:
    async with place.asking() as ask:
        done = await ask("cancel_workflow", application_name=APP, workflow_id=IDS[:20])
        with pytest.raises(ToolFailedError, match="at most 500 ids"):
            await ask(
                "cancel_workflow", application_name=APP, workflow_id=[f"w{n}" for n in range(501)]
            )
    assert done.startswith("cancel: 20 of 20 done\n")
    assert "As of 20" in done.splitlines()[-1]


async def test_children_that_are_meant_count_as_well(place: Place) -> None:
    parent = workflow("parent", now_ms(), "PENDING")
    place.tables.add(
        parent,
        *(
            workflow(f"child-{n}", now_ms(), "PENDING", parent_workflow_id="parent")
            for n in range(20)
        ),
    )
    call = {"application_name": APP, "workflow_id": "parent", "cancel_children": True}
    async with place.asking() as ask:
        await mirrored(ask)
        shown = await ask("cancel_workflow", **call)
        assert place.sent() == []
        done = await ask("cancel_workflow", **call, confirm=confirmation_in(shown))
    assert shown.startswith("cancel: would act on 1 of 1 workflows of shop (cancel_children: True)")
    assert "their child workflows: 20 are known here" in shown
    assert done.startswith("cancel: 1 of 1 done\n")
    assert place.tables.rows("SELECT count(*) FROM workflow_status WHERE status = 'CANCELLED'") == [
        (21,)
    ]


async def test_a_large_set_is_read_in_batches_and_told_within_a_budget(place: Place) -> None:
    many = [f"order-{'x' * 40}-{n:03}" for n in range(200)]
    place.tables.add(*(workflow(i, now_ms(), "ENQUEUED", queue_name="emails") for i in many))
    async with place.asking() as ask:
        call = {"application_name": APP, "workflow_id": many}
        shown = await ask("cancel_workflow", **call)
        place.wire.asked.clear()
        done = await ask("cancel_workflow", **call, confirm=confirmation_in(shown))
    assert done.startswith("cancel: 200 of 200 done\n")
    assert len(done.encode()) < 8_000
    listed = len(rows(done))
    assert f"Not shown: {200 - listed} done." in done
    by_id = [asked for asked in place.wire.asked if asked.body.get("workflowIds")]
    assert max(len(asked.body["workflowIds"]) for asked in by_id) == 20


async def test_an_end_in_the_middle_tells_which_were_done(place: Place) -> None:
    """The login ends: what follows would fail alike, and is not sent."""
    place.wire.fault = lambda request: (
        problem(403) if request.url.path.endswith("job-024/cancel") else None
    )
    async with place.asking() as ask:
        call = {"application_name": APP, "workflow_id": IDS}
        token = confirmation_in(await ask("cancel_workflow", **call))
        done = await ask("cancel_workflow", **call, confirm=token)
    assert done.startswith("cancel: 24 of 30 done, 1 failed, 5 not sent\n")
    by_id = {row["workflow_id"]: row for row in rows(done)}
    assert {i for i, row in by_id.items() if row["outcome"] == "done"} == set(IDS[:24])
    assert "application.write" in by_id["job-024"]["detail"]
    assert by_id["job-025"]["detail"] == "as above"
    assert place.sent() == IDS[:25]
    assert place.statuses(IDS) == {"CANCELLED": 24, "ENQUEUED": 6}


async def test_a_preview_that_cannot_be_made_sends_nothing(place: Place) -> None:
    async with place.asking() as ask:
        await ask("list_applications")
        place.wire.fault = lambda request: (
            problem(503) if request.url.path.endswith("/search") else None
        )
        with pytest.raises(ToolFailedError, match="no healthy executor"):
            await ask("cancel_workflow", application_name=APP, workflow_id=IDS)
    assert place.sent() == []
