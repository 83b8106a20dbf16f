"""Commands go straight through, once, and leave in the log what came of them."""

import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import httpx
import pytest

from dbos_mcp.conductor.models import BackfillRequest, BulkForkFromFailureRequest, ForkRequest
from dbos_mcp.domain import now_ms
from dbos_mcp.errors import (
    AuthenticationError,
    NotFoundError,
    PermissionDeniedError,
    RejectedError,
    UnavailableError,
    UsageError,
)
from dbos_mcp.store import projector
from dbos_mcp.store.events import CommandIssued, CommandSettled
from dbos_mcp.store.projections.commands import CommandRow
from dbos_mcp.sync.commands import GONE, CommandResult, Commands
from tests.upstream import APP, Asked, Site, below, open_site, problem, workflow

Command = Callable[[Commands, list[str]], Awaitable[list[CommandResult]]]

COMMANDS: dict[str, Command] = {
    "cancel": lambda commands, ids: commands.cancel(APP, ids),
    "resume": lambda commands, ids: commands.resume(APP, ids),
    "fork": lambda commands, ids: commands.fork(APP, ids, ForkRequest()),
}


def sent(site: Site) -> list[Asked]:
    return [asked for asked in site.wire.asked if asked.path.endswith(tuple(COMMANDS))]


async def test_a_cancel_is_sent_recorded_and_read_again(site: Site) -> None:
    await site.sync()
    site.news()

    (result,) = await site.commands.cancel(APP, ["reconcile-1"], cancel_children=True)

    assert (result.outcome, result.status_before, result.status_after) == (
        "done",
        "PENDING",
        "CANCELLED",
    )
    assert result.error is None
    assert [asked.body for asked in sent(site)] == [{"cancelChildren": True}]
    issued, settled, changed = (entry.event for entry in site.new_events())
    assert isinstance(issued, CommandIssued)
    assert (issued.command, issued.arguments) == ("cancel", {"cancel_children": True})
    assert isinstance(settled, CommandSettled)
    assert (settled.command_id, settled.outcome) == (issued.command_id, "done")
    assert changed.kind == "WorkflowChanged"
    assert site.differences() == {}


async def test_a_resume_is_sent_recorded_and_read_again(site: Site) -> None:
    await site.commands.cancel(APP, ["reconcile-1"])
    (result,) = await site.commands.resume(APP, ["reconcile-1"], queue_name="emails")
    assert (result.outcome, result.status_before, result.status_after) == (
        "done",
        "CANCELLED",
        "ENQUEUED",
    )
    assert sent(site)[-1].body == {"queueName": "emails"}
    (row,) = [row for row in site.table(CommandRow) if row["command"] == "resume"]
    assert (row["outcome"], row["arguments"]) == ("done", '{"queue_name": "emails"}')


async def test_forks_carry_ids_of_ours_and_are_mirrored_at_once(site: Site) -> None:
    await site.sync()
    results = await site.commands.fork(APP, ["order-1001", "order-1005"], ForkRequest(start_step=2))
    for result, asked in zip(results, sent(site), strict=True):
        assert result.outcome == "done"
        assert result.status_before == result.status_after
        assert asked.body == {"startStep": 2, "newWorkflowId": result.new_workflow_id}
        assert site.mirrored()[result.new_workflow_id or ""]["forked_from"] == result.workflow_id
        assert site.mirrored()[result.workflow_id]["was_forked_from"]
    assert site.differences() == {}


async def test_a_fork_may_be_named(site: Site) -> None:
    request = ForkRequest(new_workflow_id="again")
    (result,) = await site.commands.fork(APP, ["order-1001"], request)
    assert result.new_workflow_id == "again"
    (result,) = await site.commands.fork(APP, ["order-1002"], request)
    assert result.outcome == "failed"
    assert isinstance(result.error, RejectedError)
    assert result.new_workflow_id is None


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_command_on_an_unknown_id_is_never_sent(site: Site, command: str) -> None:
    await site.sync()
    site.news()
    (result,) = await COMMANDS[command](site.commands, ["nobody"])
    assert result.outcome == "not sent"
    assert isinstance(result.error, NotFoundError)
    assert sent(site) == []
    assert site.news() == []


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_command_on_a_workflow_that_is_gone_is_never_sent(site: Site, command: str) -> None:
    await site.sync()
    await site.client.delete_workflow(APP, "reconcile-1")
    site.news()
    (result,) = await COMMANDS[command](site.commands, ["reconcile-1"])
    assert isinstance(result.error, NotFoundError)
    assert sent(site) == []
    assert site.news() == [("WorkflowDeleted", "reconcile-1")]


@pytest.mark.parametrize("command", ["cancel", "resume"])
@pytest.mark.parametrize(
    ("workflow_id", "status"), [("order-1001", "SUCCESS"), ("order-1005", "ERROR")]
)
async def test_what_has_ended_for_good_is_neither_cancelled_nor_resumed(
    site: Site, command: str, workflow_id: str, status: str
) -> None:
    (result,) = await COMMANDS[command](site.commands, [workflow_id])
    assert (result.outcome, result.status_before, result.status_after) == (
        "not sent",
        status,
        status,
    )
    assert isinstance(result.error, UsageError)
    assert "fork" in result.error.hint
    assert sent(site) == []


async def test_an_end_that_the_mirror_has_not_seen_yet_counts(site: Site) -> None:
    await site.sync()
    site.tables.end("reconcile-1", now_ms())
    (result,) = await site.commands.cancel(APP, ["reconcile-1"])
    assert result.status_before == "SUCCESS"
    assert sent(site) == []


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_command_that_gets_no_answer_is_unknown_sent_once_and_looked_up(
    site: Site, command: str
) -> None:
    def time_out(asked: Asked) -> None:
        if asked.path.endswith(command):
            raise httpx.ReadTimeout("slow")

    site.wire.heard = time_out  # it ran, only its answer is lost
    (result,) = await COMMANDS[command](site.commands, ["reconcile-1"])

    assert result.outcome == "unknown"
    assert isinstance(result.error, UnavailableError)
    assert result.status_before == "PENDING"
    expected = {"cancel": "CANCELLED", "resume": "ENQUEUED", "fork": "PENDING"}
    assert result.status_after == expected[command]
    assert len(sent(site)) == 1
    (row,) = site.table(CommandRow)
    assert row["outcome"] == "unknown"
    if command == "fork":
        assert result.new_workflow_id in site.mirrored()
        assert row["new_workflow_id"] == result.new_workflow_id


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_command_that_could_not_be_sent_has_failed(site: Site, command: str) -> None:
    site.wire.fault = below(f"/{command}", lambda: httpx.ConnectError("refused"))
    (result,) = await COMMANDS[command](site.commands, ["reconcile-1"])
    assert result.outcome == "failed"
    assert isinstance(result.error, UnavailableError)
    assert result.status_after == result.status_before == "PENDING"
    assert result.new_workflow_id is None
    (row,) = site.table(CommandRow)
    assert (row["outcome"], row["new_workflow_id"]) == ("failed", None)
    assert "refused" in row["detail"]


@pytest.mark.parametrize(
    ("status", "kind"), [(401, AuthenticationError), (403, PermissionDeniedError)]
)
async def test_a_forbidden_command_is_settled_in_the_log_and_raised(
    site: Site, status: int, kind: type[Exception]
) -> None:
    site.wire.fault = below("/cancel", lambda: problem(status))
    with pytest.raises(kind):
        await site.commands.cancel(APP, ["reconcile-1", "restock-1"])
    assert len(sent(site)) == 1
    (row,) = site.table(CommandRow)
    assert (row["workflow_id"], row["outcome"]) == ("reconcile-1", "failed")


async def test_several_ids_have_each_their_own_result(site: Site) -> None:
    site.wire.fault = below("/pick-shelf-2/cancel", lambda: problem(503))
    ids = ["pick-shelf-1", "nobody", "order-1001", "pick-shelf-2", "pick-shelf-1", "pick-shelf-3"]
    results = await site.commands.cancel(APP, ids)
    assert [(r.workflow_id, r.outcome, r.status_after) for r in results] == [
        ("pick-shelf-1", "done", "CANCELLED"),
        ("nobody", "not sent", None),
        ("order-1001", "not sent", "SUCCESS"),
        ("pick-shelf-2", "failed", "ENQUEUED"),
        ("pick-shelf-3", "done", "CANCELLED"),
    ]
    assert len(sent(site)) == 3


async def test_nothing_is_sent_when_the_state_before_cannot_be_read(site: Site) -> None:
    site.wire.fault = below("/search", lambda: problem(502))
    with pytest.raises(UnavailableError):
        await site.commands.cancel(APP, ["reconcile-1"])
    assert sent(site) == []
    assert site.news() == []


async def test_an_application_that_goes_away_after_a_command_leaves_the_state_unseen(
    site: Site,
) -> None:
    def go_away(asked: Asked) -> None:
        if asked.path.endswith("/cancel"):
            site.wire.fault = lambda _request: problem(503)

    site.wire.heard = go_away
    (result,) = await site.commands.cancel(APP, ["reconcile-1"])
    assert (result.outcome, result.status_before, result.status_after) == ("done", "PENDING", None)


async def test_a_command_is_settled_as_unknown_when_nobody_waits_for_it_any_more(
    site: Site,
) -> None:
    with anyio.CancelScope() as question:

        async def never_answer() -> None:
            question.cancel()
            await anyio.sleep_forever()

        site.wire.heard = lambda asked: never_answer() if asked.path.endswith("/cancel") else None
        await site.commands.cancel(APP, ["reconcile-1"])
    assert question.cancelled_caught
    (row,) = site.table(CommandRow)
    assert row["outcome"] == "unknown"


async def test_an_id_that_no_path_can_hold_has_failed(site: Site) -> None:
    site.tables.add(workflow("..", now_ms(), "ENQUEUED", queue_name="emails"))
    (result,) = await site.commands.cancel(APP, [".."])
    assert result.outcome == "failed"
    assert isinstance(result.error, UsageError)
    assert sent(site) == []
    assert result.status_after == "ENQUEUED"


async def test_commands_reach_an_application_that_runs(
    live_shop: tuple[Path, "subprocess.Popen[str]"], cache_path: Path
) -> None:
    database, _ = live_shop
    async with open_site(database, cache_path) as site:
        await site.sync()
        (cancelled,) = await site.commands.cancel(APP, ["restock-1"])
        assert (cancelled.status_before, cancelled.status_after) == ("DELAYED", "CANCELLED")
        (forked,) = await site.commands.fork(APP, ["order-1005"], ForkRequest(start_step=3))
        assert (forked.outcome, forked.status_before) == ("done", "ERROR")
        assert forked.new_workflow_id in site.mirrored()


async def test_a_cancelled_workflow_is_not_cancelled_again_but_for_its_children(
    site: Site,
) -> None:
    await site.commands.cancel(APP, ["reconcile-1"])
    (again,) = await site.commands.cancel(APP, ["reconcile-1"])
    assert (again.outcome, again.status_after) == ("not sent", "CANCELLED")
    assert isinstance(again.error, UsageError)
    (with_children,) = await site.commands.cancel(APP, ["reconcile-1"], cancel_children=True)
    assert with_children.outcome == "done"
    assert len(sent(site)) == 2


async def test_children_that_a_command_takes_along_are_read_again(site: Site) -> None:
    site.tables.add(
        workflow("parent", now_ms(), "PENDING"),
        workflow("child", now_ms(), "PENDING", parent_workflow_id="parent"),
        workflow("grandchild", now_ms(), "ENQUEUED", parent_workflow_id="child"),
    )
    await site.sync()
    await site.commands.cancel(APP, ["parent"], cancel_children=True)
    states = {i: site.mirrored()[i]["status"] for i in ("parent", "child", "grandchild")}
    assert set(states.values()) == {"CANCELLED"}
    assert site.differences() == {}


async def test_a_deletion_is_recorded_and_what_is_gone_is_marked(site: Site) -> None:
    await site.sync()
    site.news()
    (result,) = await site.commands.delete(APP, ["order-1001"])
    assert (result.outcome, result.status_before, result.status_after) == ("done", "SUCCESS", GONE)
    assert site.news() == [
        ("CommandIssued", "order-1001"),
        ("CommandSettled", "order-1001"),
        ("WorkflowDeleted", "order-1001"),
    ]
    (row,) = site.table(CommandRow)
    assert (row["command"], row["outcome"]) == ("delete", "done")


async def test_a_fork_from_the_failure_knows_which_new_workflow_is_of_which(site: Site) -> None:
    await site.sync()
    request = BulkForkFromFailureRequest(workflow_ids=(), from_last_failure=True)
    ids = ["order-1005-5-4", "order-1010-5-4"]
    results = await site.commands.fork_from_failure(APP, ids, request)
    for result in results:
        assert site.mirrored()[result.new_workflow_id or ""]["forked_from"] == result.workflow_id
    rows = site.table(CommandRow)
    assert {row["new_workflow_id"] for row in rows} == {r.new_workflow_id for r in results}
    assert rows[0]["arguments"] == '{"from_last_failure": true}'
    assert site.differences() == {}


async def test_after_three_without_an_answer_the_rest_is_not_sent(site: Site) -> None:
    def time_out(asked: Asked) -> None:
        if asked.path.endswith("/cancel") and len(sent(site)) > 1:
            raise httpx.ReadTimeout("slow")

    site.wire.heard = time_out
    ids = ["reconcile-1", "restock-1", "pick-shelf-1", "pick-shelf-2", "pick-shelf-3"]
    results = await site.commands.cancel(APP, ids)
    assert [result.outcome for result in results] == ["done", *["unknown"] * 3, "not sent"]
    assert isinstance(results[-1].error, UnavailableError)
    assert results[-1].status_after == "ENQUEUED"
    assert len(sent(site)) == 4


async def test_a_read_that_fails_between_batches_tells_what_was_done(site: Site) -> None:
    ids = [f"job-{n}" for n in range(45)]
    site.tables.add(*(workflow(i, now_ms(), "ENQUEUED", queue_name="emails") for i in ids))
    told: list[tuple[int, int]] = []

    async def hear(done: int, total: int) -> None:
        told.append((done, total))
        site.wire.fault = below("/search", lambda: problem(503))

    results = await site.commands.cancel(APP, ids, told=hear)
    assert [result.outcome for result in results] == ["done"] * 20 + ["not sent"] * 25
    assert told == [(20, 45), (40, 45), (45, 45)]
    assert len(sent(site)) == 20


async def test_commands_without_a_workflow_are_kept_with_what_they_name(
    site: Site, cache_path: Path
) -> None:
    await site.commands.pause_schedule(APP, "nightly-report")
    triggered = await site.commands.trigger_schedule(APP, "nightly-report")
    nights = BackfillRequest(start_time=1_767_236_400_000, end_time=1_767_495_600_000)
    backfilled = await site.commands.backfill_schedule(APP, "nightly-report", nights)
    rows = site.table(CommandRow)
    assert [(row["command"], row["workflow_id"], row["outcome"]) for row in rows] == [
        ("pause_schedule", None, "done"),
        ("trigger_schedule", None, "done"),
        ("backfill_schedule", None, "done"),
    ]
    assert rows[0]["arguments"] == '{"schedule_name": "nightly-report"}'
    assert (rows[1]["new_workflow_id"],) == triggered.made
    settled = [e.event for e in site.new_events() if isinstance(e.event, CommandSettled)]
    assert settled[-1].new_workflow_ids == backfilled.made
    assert len(backfilled.made) > 1
    assert {*triggered.made, *backfilled.made} <= site.mirrored().keys()
    with site.cache.write() as connection:
        assert all(table.equal for table in projector.rebuild(connection))


async def test_a_command_on_a_schedule_that_is_refused_is_settled_and_raised(site: Site) -> None:
    with pytest.raises(NotFoundError):
        await site.commands.pause_schedule(APP, "no-such-schedule")
    (row,) = site.table(CommandRow)
    assert (row["command"], row["outcome"]) == ("pause_schedule", "failed")


async def test_a_preview_changes_nothing_and_sees_what_the_mirror_has_not_seen_yet(
    site: Site,
) -> None:
    await site.sync()
    site.tables.end("reconcile-1", now_ms())
    ids = ["reconcile-1", "pick-shelf-2", "pick-shelf-3", "nobody"]
    preview = await site.commands.preview(APP, "cancel", ids)
    assert [
        (group.status, group.workflow_name, group.effect, list(group.workflow_ids))
        for group in preview.groups
    ] == [
        ("ENQUEUED", "pick_items", "leaves its queue", ["pick-shelf-2", "pick-shelf-3"]),
        ("SUCCESS", "reconcile_payments", None, ["reconcile-1"]),
        (None, None, None, ["nobody"]),
    ]
    assert preview.to_send == 2
    assert sent(site) == []
    assert site.table(CommandRow) == []
