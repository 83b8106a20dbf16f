"""The tools as an agent uses them: over a real shop, in both protocol eras."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dbos_mcp.settings import Settings
from tests.answers import rows
from tests.server.conftest import Ask, Serve, ToolFailedError, mirrored

FRESHNESS = re.compile(
    r"As of 20\d\d-.*Z \(.* ago\); complete for workflows created since .*; live\.$"
)


async def test_the_applications_are_listed_with_what_is_mirrored_of_them(ask: Ask) -> None:
    answer = await ask("list_applications")
    (shop,) = rows(answer)
    assert shop["application_name"] == "shop"
    assert shop["status"] == "AVAILABLE"
    assert (shop["workflows"], shop["in_flight"], shop["failed"]) == ("53", "5", "6")
    assert answer.splitlines()[-1].endswith("live.")


async def test_no_executor_is_an_answer_too(ask: Ask) -> None:
    assert "Conductor lists none" in await ask("list_executors", application_name="shop")


async def test_failures_are_found_by_status(ask: Ask) -> None:
    answer = await ask("list_workflows", application_name="shop", status="ERROR")
    assert answer.splitlines()[0] == "6 of 6 workflows of shop, newest first"
    assert {row["workflow_id"] for row in rows(answer)} == {
        "order-1005", "order-1005-5", "order-1005-5-4",
        "order-1010", "order-1010-5", "order-1010-5-4",
    }  # fmt: skip
    assert {row["error"] for row in rows(answer)} == {"'BT'"}
    assert FRESHNESS.fullmatch(answer.splitlines()[-1])


async def test_a_status_may_be_written_in_small_letters_and_given_as_a_list(ask: Ask) -> None:
    answer = await ask("list_workflows", application_name="shop", status=["pending", "DELAYED"])
    assert {row["workflow_id"] for row in rows(answer)} == {
        "pick-shelf-1",
        "reconcile-1",
        "restock-1",
    }


async def test_pages_follow_a_cursor_and_show_every_workflow_once(ask: Ask) -> None:
    seen: list[str] = []
    arguments: dict[str, object] = {"application_name": "shop", "limit": 7}
    while True:
        answer = await ask("list_workflows", **arguments)
        seen += [row["workflow_id"] for row in rows(answer)]
        more = re.search(r"cursor=(\S+),", answer)
        if more is None:
            break
        arguments["cursor"] = more[1]
    assert len(seen) == len(set(seen)) == 53


async def test_fifty_rows_fit_into_eight_kilobytes(ask: Ask) -> None:
    answer = await ask("list_workflows", application_name="shop", limit=50)
    assert answer.startswith("50 of 53 ")
    assert len(answer.encode()) <= 8192


async def test_a_workflow_is_shown_with_its_relatives_and_its_failed_steps(ask: Ask) -> None:
    answer = await ask("get_workflow", application_name="shop", workflow_id="order-1005")
    assert answer.startswith("order-1005: ERROR, place_order of shop\nerror: 'BT'\n")
    assert 'attributes: {"city": "Belfast"' in answer
    assert "children (2 of 2):" in answer
    assert "order-1005-5 | ERROR | fulfil_order" in answer
    assert "steps: 6 mirrored, 1 failed, slowest " in answer
    assert "failed steps (1 of 1):" in answer
    assert "| DBOS.getResult | " in answer
    assert "get_workflow_history shows them" in answer
    assert "input" not in answer


async def test_the_payload_is_read_live_when_it_is_asked_for(ask: Ask) -> None:
    answer = await ask(
        "get_workflow", application_name="shop", workflow_id="order-1001", include="payload"
    )
    assert "input: {'args': ({'order_id': 'order-1001'" in answer
    assert "output: courier for order-1001 at 395p" in answer


async def test_failed_steps_lead_down_to_the_cause(ask: Ask) -> None:
    workflow_id = "order-1005"
    path = []
    while workflow_id:
        answer = await ask("list_steps", application_name="shop", workflow_id=workflow_id)
        (failed,) = (row for row in rows(answer) if row.get("error"))
        path.append(failed["step_name"])
        workflow_id = failed.get("child_workflow_id", "")
    assert path == ["DBOS.getResult", "DBOS.getResult", "quote_delivery"]


async def test_steps_of_a_successful_workflow_are_read_when_somebody_asks(ask: Ask) -> None:
    answer = await ask("list_steps", application_name="shop", workflow_id="order-1001")
    assert answer.startswith("6 of 6 steps of order-1001 (SUCCESS), 0 failed")


async def test_steps_are_paged_by_their_ids(ask: Ask) -> None:
    arguments = {"application_name": "shop", "workflow_id": "order-1001"}
    first = await ask("list_steps", **arguments, limit=4)
    assert "2 more: pass after_step_id=4." in first
    second = await ask("list_steps", **arguments, after_step_id=4)
    assert [row["step_id"] for row in rows(first) + rows(second)] == ["1", "2", "3", "4", "5", "6"]


async def test_cancel_and_resume_go_through_and_show_at_once(ask: Ask) -> None:
    arguments = {"application_name": "shop", "workflow_id": "reconcile-1"}
    (cancelled,) = rows(await ask("cancel_workflow", **arguments))
    assert (cancelled["status_before"], cancelled["status_now"]) == ("PENDING", "CANCELLED")
    (resumed,) = rows(await ask("resume_workflow", **arguments))
    assert (resumed["status_before"], resumed["status_now"]) == ("CANCELLED", "ENQUEUED")
    told = [
        (entry["event"], entry.get("cause") or None)
        for entry in rows(await ask("get_workflow_history", **arguments))
        if "steps" not in entry["event"]
    ]
    assert told[1:] == [
        ("cancel asked for", None),
        ("done", None),
        ("PENDING → CANCELLED", "our cancel"),
        ("resume asked for", None),
        ("done", None),
        ("CANCELLED → ENQUEUED", "our resume"),
    ]


async def test_a_fork_is_mirrored_under_the_id_that_the_answer_names(ask: Ask) -> None:
    (forked,) = rows(
        await ask("fork_workflow", application_name="shop", workflow_id="order-1005", start_step=5)
    )
    answer = await ask(
        "get_workflow", application_name="shop", workflow_id=forked["new_workflow_id"]
    )
    assert "forked_from: order-1005" in answer
    assert "ENQUEUED, place_order" in answer


async def test_several_commands_report_what_came_of_each(ask: Ask) -> None:
    answer = await ask(
        "cancel_workflow",
        application_name="shop",
        workflow_id=["pick-shelf-2", "order-1001", "no-such"],
    )
    assert answer.startswith("cancel: 1 of 3 done")
    by_id = {row["workflow_id"]: row for row in rows(answer)}
    assert by_id["pick-shelf-2"]["status_now"] == "CANCELLED"
    assert "has ended as SUCCESS; nothing was sent" in by_id["order-1001"]["detail"]
    assert "no workflow 'no-such'; nothing was sent" in by_id["no-such"]["detail"]


async def test_a_workflow_deleted_upstream_can_still_be_explained(
    shop_settings: Settings, shop_database: Path, serve: Serve
) -> None:
    async with serve(shop_settings) as ask:
        await mirrored(ask)
        arguments = {"application_name": "shop", "workflow_id": "pick-shelf-3"}
        await ask("get_workflow", **arguments)
    with closing(sqlite3.connect(shop_database)) as database, database:
        database.execute("DELETE FROM workflow_status WHERE workflow_uuid = 'pick-shelf-3'")
    async with serve(shop_settings) as ask:
        with pytest.raises(ToolFailedError, match="no workflow 'pick-shelf-3'; nothing was sent"):
            await ask("cancel_workflow", **arguments)
        answer = await ask("get_workflow", **arguments, include="history")
        listed = await ask("list_workflows", application_name="shop", status="ENQUEUED")
    assert "deleted upstream, noticed at: 20" in answer
    assert "gone upstream | deleted by somebody" in answer
    assert "pick-shelf-3" not in listed


async def test_an_id_that_no_url_can_hold_is_answered_from_the_mirror(
    shop_settings: Settings, shop_database: Path, serve: Serve
) -> None:
    with closing(sqlite3.connect(shop_database)) as database, database:
        database.execute(
            "UPDATE workflow_status SET workflow_uuid = '..' WHERE workflow_uuid = 'pick-shelf-3'"
        )
    async with serve(shop_settings) as ask:
        await mirrored(ask)
        arguments = {"application_name": "shop", "workflow_id": ".."}
        steps = await ask("list_steps", **arguments)
        shown = await ask("get_workflow", **arguments, include=["payload"])
    assert steps.startswith("0 of 0 steps of .. (ENQUEUED)")
    assert "Not read afresh: " in steps
    assert "payload: none was kept, and not to be had live: " in shown


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("list_workflows", {"staus": "ERROR"}, "Unknown argument 'staus': did you mean 'status'?"),
        ("list_workflows", {"status": "FAILED"}, "not a status; did you mean ERROR?"),
        ("list_workflows", {"status": "SUCESS"}, "did you mean SUCCESS?"),
        ("list_workflows", {"start_time": "last week"}, "start_time: 'last week' is not a time"),
        ("list_workflows", {"end_time": "2026-11-21T06:30:00"}, "with a zone is 2026-11-21T06"),
        ("list_workflows", {"cursor": "garbage"}, "is not a cursor of this server"),
        ("list_workflows", {"limit": 0}, "greater than or equal to 1"),
        ("list_workflows", {"application_name": "shopp"}, "Known: shop."),
        ("list_executors", {"application_name": "shopp"}, "Known: shop."),
        ("get_workflow", {"workflow_id": "nope"}, "no workflow 'nope', here or at Conductor"),
        ("list_steps", {"workflow_id": "nope"}, "Look ids up with list_workflows"),
        ("cancel_workflow", {"workflow_id": "nope"}, "nothing was sent"),
        ("cancel_workflow", {"workflow_id": []}, "No workflow id was given"),
        ("cancel_workflow", {"workflow_id": ".."}, "nothing was sent"),
        ("resume_workflow", {"workflow_id": "order-1005"}, "fork_workflow runs it again"),
        ("fork_workflow", {"workflow_id": ["a"] * 3 + ["b"], "new_workflow_id": "c"}, "names one"),
        ("fork_workflow", {"workflow_id": [f"w{n}" for n in range(501)]}, "at most 500 ids"),
        ("login", {"application_name": None}, "Unknown argument"),
    ],
)
async def test_a_mistake_is_answered_with_the_next_step(
    ask: Ask, tool: str, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ToolFailedError) as failure:
        await ask(tool, **{"application_name": "shop", **arguments})
    assert message in str(failure.value)
    assert "Traceback" not in str(failure.value)


async def test_there_is_nothing_to_log_in_to_without_a_managed_conductor(ask: Ask) -> None:
    with pytest.raises(ToolFailedError, match="used without a login"):
        await ask("login")
    with pytest.raises(ToolFailedError, match="No login is under way"):
        await ask("login_complete")


async def test_a_cache_that_somebody_sent_is_answered_from_alone(
    shop_settings: Settings, serve: Serve, tmp_path: Path
) -> None:
    async with serve(shop_settings) as ask:
        await mirrored(ask)
    settings = Settings(home=tmp_path, cache=shop_settings.cache_path("local"), offline=True)
    async with serve(settings) as ask:
        listed = await ask("list_workflows", application_name="shop", status="ERROR")
        with pytest.raises(ToolFailedError, match="Start it without --offline"):
            await ask("cancel_workflow", application_name="shop", workflow_id="reconcile-1")
        with pytest.raises(ToolFailedError, match=r"from (its|the) cache only"):
            await ask("login")
    assert listed.startswith("6 of 6 workflows")
    assert "offline: answered from the cache alone" in listed


async def test_the_steps_of_a_workflow_that_was_looked_at_are_due(
    shop_settings: Settings, serve: Serve, tmp_path: Path
) -> None:
    """Of one that waits in a queue: nothing else makes them so."""
    path = tmp_path / "cache.sqlite"
    async with serve(shop_settings.model_copy(update={"cache": path})) as ask:
        await mirrored(ask)
        await ask("get_workflow", application_name="shop", workflow_id="pick-shelf-2")
        with closing(sqlite3.connect(path)) as cache:
            (noted,) = cache.execute(
                "SELECT count(*) FROM workflow JOIN"
                " (SELECT workflow_key FROM step_due UNION SELECT workflow_key FROM step_reading)"
                " ON workflow_key = workflow.id WHERE workflow_id = 'pick-shelf-2'"
            ).fetchone()
        assert noted == 1
