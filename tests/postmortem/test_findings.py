"""Each finding is there where it should be, and not where it should not."""

import ast
import inspect
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from textwrap import dedent
from typing import Any

from dbos_mcp.domain import format_time
from dbos_mcp.postmortem.case import Message, ScheduleState, Told
from dbos_mcp.postmortem.differences import Differences
from dbos_mcp.postmortem.findings import FINDINGS
from dbos_mcp.postmortem.queues import QueueLimits
from dbos_mcp.store.events import CommandIssued, CommandSettled
from tests.postmortem.conftest import HOUR, NOW, Patient, diagnosed
from tests.upstream import APP

MINUTE = 60_000


async def test_it_failed_in_a_step(patient: Patient) -> None:
    patient.run("order", "ERROR", error="no money")
    patient.step("order", 1, "reserve")
    patient.step("order", 2, "charge", "no money")
    patient.run("fine")
    found = await patient.found("order")
    assert "failed in step 2 charge: “no money”" in found["failed"]
    assert "reserve" in found["done"]
    assert "charge" not in found["done"]
    assert not {"failed", "done"} & (await patient.found("fine")).keys()


async def test_it_failed_in_its_own_code(patient: Patient) -> None:
    patient.run("order", "ERROR", error="no such key")
    patient.step("order", 1, "reserve")
    found = await patient.found("order")
    assert "in its own code, behind step 1 reserve" in found["failed"]


async def test_it_failed_in_a_child_some_levels_down(patient: Patient) -> None:
    for parent, child in (("order", "order-1"), ("order-1", "order-1-1")):
        patient.run(parent, "ERROR", error="no money", name="order")
        patient.step(parent, 1, "pay", child=child)
        patient.step(parent, 2, "DBOS.getResult", "no money", child=child)
    patient.run("order-1-1", "ERROR", error="no money", name="bank")
    patient.step("order-1-1", 1, "transfer", "no money")
    diagnosis = await patient.diagnosis("order")
    assert "2 levels down: bank order-1-1 in step 1 transfer" in diagnosis.verdict
    assert [line.split(" ")[0] for line in diagnosis.chain] == ["order", "order-1", "order-1-1"]


async def test_retries_are_used_up(patient: Patient) -> None:
    words = "DBOS Error 7: Step fetch has exceeded its maximum of 5 retries"
    patient.run("stock", "ERROR", error=words)
    patient.step("stock", 1, "fetch", words, lasted=1500)
    patient.run("other", "ERROR", error="no retries")
    patient.step("other", 1, "fetch", "no retries")
    found = await patient.found("stock")
    assert "Step fetch used up its 5 retries, in 1.5s" in found["retries"]
    assert "retries" not in await patient.found("other")


async def test_it_is_one_of_many_since_a_time_on_one_version(patient: Patient) -> None:
    patient.well(20, "charge")
    for n in range(12):
        patient.run(f"bad-{n}", "ERROR", error=f"order {n}: no money", application_version="2.0",
                    ago=HOUR - n * MINUTE)  # fmt: skip
    patient.run("single", "ERROR", error="quite another", application_version="2.0")
    found = await patient.found("bad-3")
    assert f"12 runs of restock failed so since {format_time(NOW - HOUR)}" in found["group"]
    assert "before that 20" in found["group"]
    assert (
        "application_version 2.0 sets them apart: 12 of 12 that failed so have it, 0 of 20"
        in (found["only on"])
    )
    assert "of its 13 runs 12 failed so" in found["only on"]
    assert "data" not in found
    assert not {"group", "only on", "data"} & (await patient.found("single")).keys()


async def test_one_ran_where_none_of_the_others_did(patient: Patient) -> None:
    patient.well(8, application_version="1.0", executor_id="a")
    patient.run("order", "ERROR", error="no", application_version="2.0", executor_id="b")
    patient.run("same", "ERROR", error="never", application_version="1.0", executor_id="a")
    found = await patient.found("order")
    assert (
        "application_version is 2.0; the 8 nearest runs that went well have 1.0 8"
        in (found["elsewhere"])
    )
    assert "executor_id is b; the 8 nearest runs that went well have a 8" in found["elsewhere"]
    assert "sets them apart" not in " ".join(found.values())  # it may be chance
    assert "elsewhere" not in await patient.found("same")


async def test_nothing_but_the_data_sets_the_failed_apart(patient: Patient) -> None:
    for n in range(20):
        patient.run(f"well-{n}", ago=HOUR - n * 1000)
    for n in range(5):
        patient.run(f"bad-{n}", "ERROR", error="bad number: 'x'", ago=HOUR - n * 1000)
        patient.run(f"late-{n}", "ERROR", error="connection refused", ago=HOUR - n * 1000)
    found = await patient.found("bad-1")
    assert "sets the 5 that failed so apart from 20 that went well" in found["data"]
    assert "data" not in await patient.found("late-1")


async def test_a_field_of_the_input_separates_the_failed(patient: Patient) -> None:
    patient.run("order", "ERROR", error="no")
    case = await patient.case("order")

    def found(*lines: str) -> dict[str, str]:
        told = diagnosed(replace(case, differences=Differences(lines=lines)))
        return {each.kind: each.says for each in told.findings}

    line = "input.currency = EUR: 86 of 86 failed, 0 of 214 others"
    assert found(f"{line}.")["input"] == line
    assert "input" not in found("No field that was looked at separates them.")
    assert "input" not in found()


async def test_a_recorded_output_is_what_it_failed_on(patient: Patient) -> None:
    patient.run("order", "ERROR", error="not a number: '170,00'")
    for step_id, name in enumerate(("load", "format", "charge"), start=1):
        patient.step("order", step_id, name, "not a number: '170,00'" if step_id == 3 else None)
    outputs = {1: "bill of 170,00 euros", 2: "170,00"}
    assert (
        "Step 2 format made" in (await patient.found("order", Told(outputs=outputs)))["wrong value"]
    )
    assert "wrong value" not in await patient.found("order", Told(outputs={1: "1170,00"}))
    given = Told(outputs=outputs, input="{'args': ('170,00',)}")
    assert "wrong value" not in await patient.found("order", given)


async def test_it_took_another_way_and_longer_than_the_others(patient: Patient) -> None:
    patient.well(5, "load", "check", "charge", started_at_epoch_ms=NOW - 2 * HOUR)
    patient.run("order", "ERROR", error="no", started_at_epoch_ms=NOW - HOUR + 30_000)
    patient.step("order", 1, "load", lasted=4000)
    patient.step("order", 2, "skip")
    patient.run("same", "ERROR", error="never", started_at_epoch_ms=NOW - HOUR)
    patient.step("same", 1, "load")
    patient.step("same", 2, "check", "never")
    found = await patient.found("order")
    assert "Step 2 is skip, where 5 of 5 runs that went well have check 5" in found["other steps"]
    assert "Step 1 load took 4.0s; in 5 steps of runs that went well 10ms" in found["slow steps"]
    assert "It waited 30.0s in its queue; 5 that went well" in found["slow queue"]
    assert not {"other steps", "slow steps", "slow queue"} & (await patient.found("same")).keys()


async def test_it_timed_out_in_what_others_have_as_next_step(patient: Patient) -> None:
    patient.well(4, "load", "ask_bureau", lasted=20)
    # The upstream's clock stamps whole seconds, its deadlines do not.
    patient.run("loan", "CANCELLED", lasted=5000, workflow_timeout_ms=5400,
                workflow_deadline_epoch_ms=NOW - HOUR + 5400)  # fmt: skip
    patient.step("loan", 1, "load")
    patient.run("stopped", "CANCELLED", workflow_deadline_epoch_ms=NOW)
    found = await patient.found("loan")
    assert "its deadline of 5.4s passed" in found["timed out"]
    assert "The last 5.4s went into what 4 of 4 runs" in found["timed out"]
    assert "as step 2: ask_bureau ask_bureau takes 20ms at the median" in found["timed out"]
    assert "cancelled" not in found
    assert "timed out" not in await patient.found("stopped")


async def test_a_parent_timed_out_behind_its_child(patient: Patient) -> None:
    late: dict[str, Any] = {"workflow_deadline_epoch_ms": NOW - HOUR + 5000}
    patient.run("loan", "CANCELLED", lasted=5000, **late)
    patient.step("loan", 1, "bureau", child="loan-1")
    patient.run("loan-1", "CANCELLED", lasted=5000, name="bureau", **late)
    patient.step("loan-1", 1, "login")
    diagnosis = await patient.diagnosis("loan")
    assert "Nothing of loan-1 was completed in the last 5.0s" in diagnosis.verdict
    assert len(diagnosis.chain) == 2


async def test_who_cancelled_it(patient: Patient) -> None:
    patient.run("order", "PENDING")
    patient.run("other", "PENDING")
    await patient.site.sync()
    with patient.site.cache.write() as connection:
        command = CommandIssued(
            application_name=APP, workflow_id="order", command_id="c", command="cancel"
        )
        settled = CommandSettled(
            application_name=APP, workflow_id="order", command_id="c", outcome="done"
        )
        patient.site.mirror.record(connection, [command])
        patient.site.mirror.record(connection, [settled])
    for each in ("order", "other"):
        patient.site.tables.end(each, NOW, "CANCELLED")
    assert "cancelled by our cancel" in (await patient.found("order"))["cancelled"]
    assert "by somebody, not through this mirror" in (await patient.found("other"))["cancelled"]


async def test_it_was_recovered_again_and_again(patient: Patient) -> None:
    patient.run("order", "PENDING", executor_id="a")
    patient.run("once", "PENDING", executor_id="a")
    for executor in ("b", "c", "d"):
        await patient.site.sync()
        patient.site.tables.update("order", executor_id=executor)
        patient.site.tables.update("once", executor_id="b")
    assert "recovered 3 times" in (await patient.found("order"))["recovered"]
    assert "recovered" not in await patient.found("once")


async def test_it_exceeded_its_recoveries(patient: Patient) -> None:
    patient.run("order", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
    diagnosis = await patient.diagnosis("order")
    assert "recovered too often" in diagnosis.verdict
    assert diagnosis.next[0].tool == "resume_workflow"


async def test_a_fork_replays_what_was_wrong(patient: Patient) -> None:
    for each, ago in (("order", HOUR), ("fork", HOUR // 2)):
        forked = {"forked_from": "order"} if each == "fork" else {"was_forked_from": True}
        patient.run(each, "ERROR", error="no: '1,5'", ago=ago, **forked)
        patient.step(each, 1, "load")
        patient.step(each, 2, "format")
        patient.step(each, 3, "charge", "no: '1,5'", ago=ago)
    patient.run("anew", "ERROR", error="no: '1,5'", ago=10, forked_from="order")
    patient.step("anew", 1, "load", ago=10, error="no: '1,5'")
    found = await patient.found("fork")
    assert "fork of order from step 3, and fails as that did" in found["bad fork"]
    outputs = Told(outputs={1: "5", 2: "1,5"})
    assert (
        "replays the recorded output of step 2 format"
        in (await patient.found("fork", outputs))["bad fork"]
    )
    assert "bad fork" not in await patient.found("order", outputs)
    assert "bad fork" not in await patient.found("anew", outputs)


async def test_a_fork_awaits_the_child_that_failed_before(patient: Patient) -> None:
    patient.run("order", "ERROR", error="no", was_forked_from=True)
    patient.run("order-1", "ERROR", error="no")
    patient.step("order-1", 1, "charge", "no")
    patient.run("fork", "ERROR", error="no", forked_from="order", ago=HOUR // 2)
    for each in ("order", "fork"):
        patient.step(each, 1, "pay", child="order-1")
    patient.step("order", 2, "DBOS.getResult", "no", child="order-1")
    # As DBOS writes it: a child of that id never was.
    patient.step("fork", 2, "DBOS.getResult", "no", child="fork-1", ago=HOUR // 2)
    diagnosis = await patient.diagnosis("fork")
    assert "awaits again the child order-1 that had failed before" in diagnosis.verdict
    assert diagnosis.next[0].arguments == {"workflow_id": "fork", "start_step": 1}


async def test_its_schedule_stopped(patient: Patient) -> None:
    for n in range(6):
        patient.run(f"run-{n}", ago=HOUR + n * MINUTE, schedule_name="nightly")
        patient.run(f"on-{n}", ago=MINUTE // 2 + n * MINUTE, schedule_name="fires")
    paused = Told(schedule=ScheduleState("PAUSED", "* * * * *", None), schedules_known=True)
    assert "nightly is PAUSED (* * * * *)" in (await patient.found("run-0", paused))["schedule"]
    gone = Told(schedules_known=True)
    assert "does not exist any more" in (await patient.found("run-0", gone))["schedule"]
    silent = (await patient.found("run-0"))["schedule"]
    assert "5 runs before it came every 1m, so some 60 are missing" in silent
    assert "schedule" not in await patient.found("on-0")


async def test_nobody_runs_it_any_more(patient: Patient) -> None:
    patient.executor("a", "1.0", "DEAD")
    patient.executor("b", "2.0")
    for each, executor in (("stranded", "a"), ("with it", "a"), ("lost", "gone"), ("fine", "b")):
        patient.run(each, "PENDING", executor_id=executor, application_version="1.0")
    diagnosis = await patient.diagnosis("stranded")
    assert "executor a, which is DEAD" in diagnosis.verdict
    assert "no healthy executor is of its version 1.0" in diagnosis.verdict
    assert "Stranded there too: with it." in diagnosis.evidence
    assert diagnosis.next[0].arguments["application_version"] == "2.0"
    assert "on executor b, which is HEALTHY" in (await patient.found("fine"))["at work"]
    assert "Conductor does not list it" in (await patient.found("lost"))["no executor"]
    assert "no executor" not in await patient.found("fine")


async def test_without_a_list_of_executors_none_is_called_dead(patient: Patient) -> None:
    patient.run("order", "PENDING")
    diagnosis = await patient.diagnosis("order")
    assert "no executor" not in {finding.kind for finding in diagnosis.findings}
    assert "whether its executor lives: Conductor lists none" in diagnosis.not_known


async def test_no_executor_runs_its_version(patient: Patient) -> None:
    patient.executor("b", "2.0")
    patient.run("old", "ENQUEUED", queue_name="mail", application_version="1.0")
    patient.run("new", "ENQUEUED", queue_name="mail", application_version="2.0")
    found = await patient.found("old")
    assert "ENQUEUED for version 1.0, which no healthy executor runs" in found["no version"]
    assert "Healthy executors, by version: 2.0." in found["no version"]
    (fork, *_) = (await patient.diagnosis("old")).next
    assert fork.arguments == {
        "workflow_id": "old", "start_step": 1, "application_version": "2.0"
    }  # fmt: skip
    assert "untaken" not in found
    found = await patient.found("new")
    assert "no version" not in found
    assert "waits in queue mail for 1h, though 0 run and 0 to 1 are ahead" in found["untaken"]
    assert "queued" not in found
    patient.run("just now", "ENQUEUED", queue_name="mail", ago=5_000, application_version="2.0")
    found = await patient.found("just now")
    assert "for 5.0s, which is not long: 0 run and 2 are ahead of it" in found["queued"]
    assert "untaken" not in found


async def test_its_queue_is_full(patient: Patient) -> None:
    for n in range(2):
        patient.run(f"rebuild-{n}", "PENDING", ago=2 * HOUR, queue_name="index", name="rebuild",
                    started_at_epoch_ms=NOW - 2 * HOUR)  # fmt: skip
    patient.run("first", "ENQUEUED", queue_name="index", ago=HOUR + 1)
    patient.run("document", "ENQUEUED", queue_name="index")
    found = await patient.found("document", Told(QueueLimits(concurrency=2), queues_known=True))
    assert "2 running (concurrency 2), 1 of 2 waiting are ahead of it" in found["full queue"]
    patient.run("twin", "ENQUEUED", queue_name="index")
    found = await patient.found("document", Told(QueueLimits(concurrency=2), queues_known=True))
    assert "1 to 2 of 3 waiting are ahead of it" in found["full queue"]
    assert "rebuild-0 rebuild for 2h" in found["full queue"]
    assert "untaken" not in found
    found = await patient.found("document", Told(QueueLimits(concurrency=3), queues_known=True))
    assert "full queue" not in found
    assert "no executor takes from it" in found["untaken"]
    diagnosis = await patient.diagnosis("document")
    assert "its limit is not known" in diagnosis.verdict
    assert any("the limits of queue index" in line for line in diagnosis.not_known)


async def test_each_executor_runs_as_many_as_one_may(patient: Patient) -> None:
    patient.executor("a", "1.0")
    for n, executor in enumerate(("a", "gone")):
        patient.run(f"busy-{n}", "PENDING", queue_name="index", executor_id=executor, name="build")
    patient.run("next", "ENQUEUED", queue_name="index", application_version="1.0")
    one = Told(QueueLimits(worker_concurrency=1), queues_known=True)
    full = (await patient.found("next", one))["full queue"]
    assert "2 running (worker concurrency 1)" in full
    assert "held by build 2, 1 of them on executors that are not healthy" in full
    two = Told(QueueLimits(worker_concurrency=2), queues_known=True)
    assert "full queue" not in await patient.found("next", two)


async def test_children_and_parents_block_one_queue(patient: Patient) -> None:
    for n in range(2):
        patient.run(f"report-{n}", "PENDING", queue_name="reports", name="report",
                    started_at_epoch_ms=NOW - HOUR)  # fmt: skip
        patient.step(f"report-{n}", 1, "part", child=f"report-{n}-1")
        patient.run(f"report-{n}-1", "PENDING", parent_workflow_id=f"report-{n}", name="part")
        patient.step(f"report-{n}-1", 1, "chart", child=f"report-{n}-1-1")
        patient.run(f"report-{n}-1-1", "ENQUEUED", parent_workflow_id=f"report-{n}-1",
                    queue_name="reports", name="chart")  # fmt: skip
    told = Told(QueueLimits(concurrency=2), queues_known=True)
    diagnosis = await patient.diagnosis("report-0", told)
    assert "waits for its child chart report-0-1-1, 2 levels down" in diagnosis.verdict
    assert "A deadlock: all 2 places of queue reports (concurrency 2)" in diagnosis.verdict
    assert "report-0 waits for report-0-1-1" in (await patient.found("report-0", told))["deadlock"]
    assert "report-1 waits for report-1-1-1" in " ".join(diagnosis.evidence)
    assert diagnosis.next[0].why == "frees a place, so that a child can start"
    patient.run("report-9", "ENQUEUED", queue_name="reports", ago=2 * HOUR)
    diagnosis = await patient.diagnosis("report-0", told)
    assert "but report-9 is next in line" in diagnosis.next[0].why
    roomy = Told(QueueLimits(concurrency=3), queues_known=True)
    assert "deadlock" not in await patient.found("report-0", roomy)
    patient.run("other", "PENDING", queue_name="reports", ago=2 * HOUR)
    assert not {"deadlock"} & (await patient.found("report-0", told)).keys()


async def test_the_rate_limit_holds_it_back(patient: Patient) -> None:
    for n in range(5):
        patient.run(f"mail-{n}", queue_name="mail", started_at_epoch_ms=NOW - 10_000 - n)
    patient.run("next", "ENQUEUED", queue_name="mail", ago=MINUTE)
    limits = QueueLimits(rate_limit_max=5, rate_limit_period_ms=MINUTE)
    found = await patient.found("next", Told(limits, queues_known=True))
    assert "5 were started in the last 1m, 5 may be" in found["rate limit"]
    roomy = QueueLimits(rate_limit_max=6, rate_limit_period_ms=MINUTE)
    assert "rate limit" not in await patient.found("next", Told(roomy, queues_known=True))


async def test_others_of_a_higher_priority_go_first(patient: Patient) -> None:
    patient.run("low", "ENQUEUED", queue_name="mail", priority=5)
    for n in range(3):
        patient.run(f"high-{n}", "ENQUEUED", queue_name="mail", priority=1, ago=MINUTE)
    assert "3 workflows that came later go first" in (await patient.found("low"))["overtaken"]
    assert "overtaken" not in await patient.found("high-0")
    fair = Told(QueueLimits(by_priority=False), queues_known=True)
    assert "overtaken" not in await patient.found("low", fair)


async def test_it_sleeps_until_a_time(patient: Patient) -> None:
    patient.run("order", "PENDING")
    patient.step("order", 1, "load")
    patient.step("order", 2, "DBOS.sleep", lasted=3 * HOUR)
    patient.run("woken", "PENDING")
    patient.step("woken", 1, "DBOS.sleep", lasted=MINUTE)
    found = await patient.found("order")
    assert (
        f"until {format_time(NOW + 2 * HOUR)}; it is {format_time(NOW)}, so 2h"
        in (found["sleeping"])
    )
    assert not {"at work", "message", "children"} & found.keys()
    found = await patient.found("woken")
    assert "sleeping" not in found
    assert "It has run for 59m without completing a step" in found["at work"]


async def test_it_waits_for_a_message(patient: Patient) -> None:
    patient.well(3, "load", "DBOS.recv")
    patient.run("order", "PENDING")
    patient.step("order", 1, "load")
    patient.step("order", 3, "DBOS.sleep", lasted=0)
    message = Message("paid", NOW - HOUR, consumed=False)
    found = await patient.found("order", Told(messages=[message], wakes_at=NOW - MINUTE))
    assert "waits in step 2 for DBOS.recv (so in 3 of 3 others)" in found["message"]
    assert "overdue by 1m" in found["message"]
    assert "Sent to it and not received: paid" in found["message"]
    diagnosis = await patient.diagnosis("order")
    assert "its timeout is not known" in diagnosis.verdict
    assert "the topic or the key it waits for, and what was sent to it" in diagnosis.not_known


async def test_it_is_delayed(patient: Patient) -> None:
    patient.run("fine")
    patient.run("order", "DELAYED", delay_until_epoch_ms=NOW + HOUR)
    patient.run("late", "DELAYED", delay_until_epoch_ms=NOW - HOUR)
    found = await patient.found("order")
    assert f"delayed until {format_time(NOW + HOUR)}" in found["delayed"]
    assert "overdue" not in found["delayed"]
    assert "delayed" not in await patient.found("fine")
    assert (await patient.diagnosis("order")).next[0].tool == "resume_workflow"
    assert "overdue by 1h" in (await patient.found("late"))["delayed"]


async def test_it_waits_for_a_child_that_waits(patient: Patient) -> None:
    patient.run("order", "PENDING", name="order")
    patient.step("order", 1, "pay", child="order-1")
    patient.step("order", 2, "ship", child="order-2")
    patient.run("order-1", parent_workflow_id="order")
    patient.run("order-2", "PENDING", parent_workflow_id="order", name="ship")
    patient.step("order-2", 1, "DBOS.sleep", lasted=2 * HOUR)
    found = await patient.found("order")
    assert (
        "child ship order-2, which is PENDING (one of 2 children without a result)"
        in (found["children"])
    )
    assert "order-2 sleeps" in found["sleeping"]
    patient.site.tables.end("order-2", NOW)
    found = await patient.found("order")
    assert "all of that ended (SUCCESS 2)" in found["children"]
    assert "sleeping" not in found


async def test_it_is_past_its_deadline(patient: Patient) -> None:
    patient.run("order", "PENDING", workflow_deadline_epoch_ms=NOW - MINUTE)
    patient.run("in time", "PENDING", workflow_deadline_epoch_ms=NOW + MINUTE)
    diagnosis = await patient.diagnosis("order")
    assert "past its deadline by 1m" in diagnosis.verdict
    assert "still PENDING" in (await patient.found("order"))["past deadline"]
    assert diagnosis.next[0].tool == "cancel_workflow"
    assert "past deadline" not in await patient.found("in time")


async def test_it_succeeded_and_was_deleted(patient: Patient) -> None:
    patient.run("order")
    patient.run("kept")
    await patient.site.sync()
    patient.site.tables.change("DELETE FROM workflow_status WHERE workflow_uuid = 'order'")
    patient.site.clock.ahead_ms = timedelta(days=2) // timedelta(milliseconds=1)
    await patient.site.mirror.refresh_workflows(APP, ["order"])
    diagnosis = await patient.diagnosis("order")
    assert diagnosis.next == []
    found = await patient.found("order")
    assert found.keys() == {"succeeded", "deleted"}
    assert "succeeded in 1.0s" in found["succeeded"]
    assert "deleted upstream (noticed at" in found["deleted"]
    assert "deleted" not in await patient.found("kept")
    patient.run("failed", "ERROR", error="no")
    assert "succeeded" not in await patient.found("failed")


async def test_nothing_is_wrong_with_a_run_that_does_what_others_do(patient: Patient) -> None:
    patient.well(5, "load", "charge")
    assert (await patient.found("well-2")).keys() == {"succeeded"}


async def test_an_error_without_end_is_searched_in_part(patient: Patient) -> None:
    """Searched whole at each of its places, it would take hours."""
    patient.run("order", "ERROR", error="Step 'xy' " * 100_000)
    patient.step("order", 1, "load")
    outputs = {1: "xy " * 100_000}
    found = await patient.found("order", Told(outputs=outputs))
    assert "retries" not in found
    assert "Step 1 load made the value" in found["wrong value"]


def kinds_of_findings() -> dict[str, str]:
    """By the function that finds it; of its source."""
    found = {}
    for function in FINDINGS:
        for node in ast.walk(ast.parse(dedent(inspect.getsource(function)))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "Finding":
                kind = ast.literal_eval(node.args[0])
                found[kind] = function.__name__
    return found


def test_every_finding_is_shown_where_it_is_and_where_it_is_not() -> None:
    """In asserts of this file: `found["kind"]`; `"kind" not in found`, or `not {"kind"} & …`."""
    shown, absent = set(), set()
    tree = ast.parse(Path(__file__).read_text())
    for statement in (node for node in ast.walk(tree) if isinstance(node, ast.Assert)):
        for node in ast.walk(statement):
            match node:
                case ast.Subscript(slice=ast.Constant(value=str(kind))):
                    shown.add(kind)
                case ast.Compare(left=ast.Constant(value=str(kind)), ops=[operator]):
                    if not isinstance(operator, ast.In):
                        absent.add(kind)
                case ast.UnaryOp(op=ast.Not(), operand=ast.BinOp(left=ast.Set() as several)):
                    absent.update(ast.literal_eval(several))
    kinds = kinds_of_findings()
    assert set(kinds.values()) == {function.__name__ for function in FINDINGS}
    assert (kinds.keys() - shown, kinds.keys() - absent) == (set(), set())
