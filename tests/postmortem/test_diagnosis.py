"""What is read of a case, by which indexes, and what of it is not known."""

from dataclasses import replace

import pytest
from sqlalchemy import Connection

from dbos_mcp.errors import NotFoundError
from dbos_mcp.postmortem.case import MOST_LEVELS, read_case, unread
from dbos_mcp.postmortem.differences import Differences
from dbos_mcp.postmortem.failures import Window, list_failures
from dbos_mcp.postmortem.waits import Wait, wait_of
from dbos_mcp.postmortem.words import at
from dbos_mcp.queries.applications import ExecutorItem
from dbos_mcp.queries.steps import StepItem
from dbos_mcp.queries.workflows import WorkflowItem
from dbos_mcp.store import sync_state
from tests.plans import plans_of
from tests.postmortem.conftest import HOUR, NOW, Patient, diagnosed
from tests.upstream import APP, problem

MAY_BE_SCANNED = ("application", "executor", "sync_state", "given")
"""Tables of few rows, and parameters."""


async def test_everything_is_read_by_indexes(patient: Patient) -> None:
    patient.well(3, "load")
    patient.run("order", "ERROR", error="no", schedule_name="nightly")
    patient.step("order", 1, "pay", child="order-1")
    patient.step("order", 2, "DBOS.getResult", "no", child="never-was")
    patient.run("order-1", "ERROR", error="no", forked_from="order", parent_workflow_id="order")
    patient.run("fork", "ERROR", error="no", forked_from="order")
    for n in range(2):
        patient.run(f"report-{n}", "PENDING", queue_name="reports")
        patient.step(f"report-{n}", 1, "part", child=f"part-{n}")
        patient.run(f"part-{n}", "ENQUEUED", queue_name="reports", parent_workflow_id=f"report-{n}")
    await patient.case("order")

    def ask(connection: Connection) -> None:
        for workflow_id in ("order", "fork", "report-0", "part-1", "well-0"):
            read_case(connection, APP, workflow_id, NOW)
            unread(connection, APP, workflow_id, NOW)

    with patient.site.cache.read() as connection:
        plans = plans_of(connection, ask)
    scanned = {line.split(" ")[1] for line in plans if line.startswith("SCAN")}
    assert scanned <= {*MAY_BE_SCANNED, "CONSTANT", "(subquery-1)"}
    searches = [line for line in plans if line.startswith("SEARCH workflow ")]
    assert searches
    assert all("INDEX" in line or "PRIMARY KEY" in line for line in searches)
    assert not [line for line in searches if "(application_name=?)" in line]


async def test_what_cannot_be_known_is_said(patient: Patient) -> None:
    patient.run("order", "ERROR", error="no")
    patient.run("order-1", "ERROR", error="no", parent_workflow_id="order")
    patient.run("waits", "ERROR", error="no such row")
    patient.step("waits", 1, "DBOS.getResult", "no such row", child="nobody")
    patient.site.wire.fault = lambda request: (
        problem(500) if "/order" in request.url.path and "/steps" in request.url.path else None
    )
    await patient.site.sync()
    with patient.site.cache.read() as connection:
        diagnosis = diagnosed(read_case(connection, APP, "order", NOW))
        assert unread(connection, APP, "order", NOW) == ["order", "order-1"]
    assert diagnosis.not_known[:3] == [
        "the steps of order: not read yet",
        "the steps of order-1: not read yet",
        "which step led to the child: it was found by its error, which is the same",
    ]
    assert "what is usual: 0 runs of that workflow went well" in diagnosis.not_known
    assert "where that began is not known: steps not read" in diagnosis.verdict
    assert not [call for call in diagnosis.next if call.tool == "fork_workflow"]
    with patient.site.cache.read() as connection:
        diagnosis = diagnosed(read_case(connection, APP, "waits", NOW))
    assert "child nobody: not mirrored" in diagnosis.not_known
    assert "is not known: child not mirrored" in diagnosis.verdict


async def test_an_old_mirror_speaks_of_its_own_time(patient: Patient) -> None:
    patient.run("order", "PENDING")
    patient.step("order", 1, "DBOS.sleep", lasted=2 * HOUR)
    await patient.site.sync_until_steps_are_read()
    with patient.site.cache.read() as connection:
        later = diagnosed(read_case(connection, APP, "order", NOW + 9 * HOUR))
    assert "so " in later.verdict.split("it is", 1)[1]
    assert any(line.startswith("anything since") for line in later.not_known)


async def test_of_a_long_chain_the_middle_is_left_out(patient: Patient) -> None:
    for n in range(20):
        patient.run(f"level-{n}", "ERROR", error="no")
        if n < 19:
            patient.step(f"level-{n}", 1, "DBOS.getResult", "no", child=f"level-{n + 1}")
    patient.step("level-19", 1, "charge", "no")
    diagnosis = await patient.diagnosis("level-0")
    assert "19 levels down: restock level-19 in step 1 charge" in diagnosis.verdict
    assert len(diagnosis.chain) == MOST_LEVELS + 1
    assert "… 8 more …" in diagnosis.chain


async def test_workflows_that_wait_for_each_other_come_to_an_end(patient: Patient) -> None:
    for one, other in (("one", "other"), ("other", "one")):
        patient.run(one, "PENDING")
        patient.step(one, 1, "call", child=other)
    assert len((await patient.case("one")).chain) == 2


async def test_what_was_never_seen_is_not_diagnosed(patient: Patient) -> None:
    await patient.site.sync()
    with patient.site.cache.read() as connection, pytest.raises(NotFoundError):
        read_case(connection, APP, "nobody", NOW)


def workflow_of(status: str = "PENDING") -> WorkflowItem:
    times = dict.fromkeys(("created_at", "updated_at", "observed_at"), 0)
    return WorkflowItem.model_validate({"id": 1, "workflow_id": "w", "status": status, **times})


def row(step_id: int, name: str, began: int, ended: int, child: str | None = None) -> StepItem:
    return StepItem(
        step_id=step_id,
        step_name=name,
        started_at=began,
        completed_at=ended,
        child_workflow_id=child,
    )


@pytest.mark.parametrize(
    ("steps", "wait"),
    [
        ([], Wait("work", 0)),
        ([row(1, "load", 5, 9)], Wait("work", 9, step_id=2)),
        ([row(1, "DBOS.sleep", 5, 5_000)], Wait("sleep", 5, 5_000, 1)),
        ([row(1, "DBOS.sleep", 5, 90)], Wait("work", 90, step_id=2)),
        ([row(1, "load", 1, 2), row(3, "DBOS.sleep", 5, 5)], Wait("message", 5, None, 2)),
        ([row(2, "DBOS.sleep", 5, 5_000)], Wait("message", 5, 5_000, 1)),
        ([row(1, "ship", 5, 6, "a")], Wait("children", 5, children=("a",))),
        (
            [row(1, "ship", 5, 6, "a"), row(2, "ship", 6, 7, "b"),
             row(3, "DBOS.getResult", 8, 9, "a")],
            Wait("children", 6, children=("b",)),
        ),
        (
            [row(1, "ship", 5, 6, "a"), row(2, "DBOS.getResult", 6, 7, "never-was")],
            Wait("work", 7, step_id=3),
        ),
    ],
)  # fmt: skip
def test_what_a_running_workflow_waits_for(steps: list[StepItem], wait: Wait) -> None:
    assert wait_of(workflow_of(), steps, now=1_000) == wait


def test_what_a_workflow_waits_for_before_it_runs() -> None:
    assert wait_of(workflow_of("ENQUEUED"), [], now=1_000).kind == "queue"
    assert wait_of(workflow_of("DELAYED"), [], now=1_000).kind == "delay"


async def test_without_error_texts_nothing_is_claimed_of_steps_and_others(
    patient: Patient,
) -> None:
    for n in range(4):
        patient.run(f"order-{n}", "ERROR", parent_workflow_id="order-0" if n == 1 else None)
        patient.step(f"order-{n}", 1, "charge")
    diagnosis = await patient.diagnosis("order-0")
    assert "its last step is 1 charge; why, and in which step, is not known" in diagnosis.verdict
    assert "group" not in {finding.kind for finding in diagnosis.findings}
    assert "the error of order-0: the mirror keeps none" in diagnosis.not_known
    assert "Children that failed: order-1." in diagnosis.evidence
    assert diagnosis.next[0].arguments == {"workflow_id": "order-1"}


async def test_differences_that_were_found_elsewhere_lead_to_the_step_to_fork_from(
    patient: Patient,
) -> None:
    patient.run("order", "ERROR", error="no")
    for step_id, error in ((1, None), (2, None), (3, "no")):
        patient.step("order", step_id, f"step-{step_id}", error)
    case = await patient.case("order")
    line = "input.currency = EUR: 86 of 86 failed, 0 of 214 others."
    differences = Differences(first_step=2, first_workflow_id="order", lines=[line])
    diagnosis = diagnosed(replace(case, differences=differences))
    assert line in diagnosis.verdict
    assert diagnosis.next[0].arguments == {"workflow_id": "order", "start_step": 2}


async def test_a_fork_of_what_a_bad_version_broke_names_one_that_went_well(
    patient: Patient,
) -> None:
    patient.well(12, application_version="1.0")
    for n in range(12):
        patient.run(f"bad-{n}", "ERROR", error="no", application_version="2.0", ago=HOUR - n)
        patient.step(f"bad-{n}", 1, "charge", "no")
    case = await patient.case("bad-1")

    def fork(*versions: str) -> tuple[object, str]:
        executors = [
            ExecutorItem(
                executor_id=version,
                status="HEALTHY",
                application_version=version,
                created_at=n,
                updated_at=n,
                observed_at=n,
            )
            for n, version in enumerate(versions)
        ]
        calls = diagnosed(replace(case, executors=executors)).next
        call = next(call for call in calls if call.tool == "fork_workflow")
        return call.arguments.get("application_version"), call.why.split(" mended")[1]

    assert fork() == (None, "; name a version that has it: else the latest runs it")
    assert fork("2.0") == (None, "; only 2.0 runs now, and fails so")
    assert fork("2.1", "2.2", "2.0") == ("2.2", " (2.2 runs, and has not failed so)")
    assert fork("2.2", "1.0", "2.0") == ("1.0", " (1.0 runs, and 12 went well in it)")


async def test_what_to_look_at_next_says_more_than_what_led_there(patient: Patient) -> None:
    patient.well(5, "charge")
    for n in range(3):
        patient.run(f"bad-{n}", "ERROR", error="no", ago=HOUR - n)
        patient.step(f"bad-{n}", 1, "charge", "no")
    calls = {call.tool: call.arguments for call in (await patient.diagnosis("bad-1")).next}
    assert calls["compare_workflows"] == {"workflow_id": "bad-1", "other_workflow_id": "well-0"}
    with patient.site.cache.read() as connection:
        (group,) = list_failures(connection, APP, Window(NOW - HOUR, NOW)).groups
        assert calls["list_failures"] == {"group": group.group}
        later = diagnosed(read_case(connection, APP, "bad-1", NOW + 48 * HOUR))
    assert "since" not in later.next[2].arguments  # of the mirror, it is the same hour
    with patient.site.cache.write() as connection:
        sync_state.update(connection, APP, {"succeeded_at": NOW + 48 * HOUR})
    with patient.site.cache.read() as connection:
        later = diagnosed(read_case(connection, APP, "bad-1", NOW + 48 * HOUR))
    assert later.next[2].arguments == {"group": group.group, "since": at(NOW - HOUR + 1000)}


async def test_a_status_that_is_not_known_is_told_as_it_is(patient: Patient) -> None:
    patient.run("odd", "PAUSED")
    await patient.site.sync()
    diagnosis = await patient.diagnosis("odd")
    assert diagnosis.verdict == "Nothing is known to be wrong with it; it is PAUSED."


async def test_what_an_excerpt_lacks_is_not_said_to_be_missing(patient: Patient) -> None:
    for n in range(6):
        patient.run(f"run-{n}", ago=HOUR + n * 60_000, schedule_name="nightly")
    patient.run("waits", "ENQUEUED", queue_name="mail")
    for workflow_id, claimed in (("run-0", "fires no more"), ("waits", "no executor takes")):
        case = await patient.case(workflow_id)
        assert claimed in diagnosed(case).verdict
        of_a_file = diagnosed(replace(case, excerpt=True))
        assert claimed not in of_a_file.verdict
        assert any("of an excerpt" in line for line in of_a_file.not_known)


@pytest.mark.parametrize("status", ["ERROR", "PENDING", "ENQUEUED", "CANCELLED"])
async def test_relatives_may_go_round_in_circles(patient: Patient, status: str) -> None:
    error = "no" if status == "ERROR" else None
    for one, other in (("a", "b"), ("b", "a"), ("alone", "alone")):
        patient.run(one, status, error=error, parent_workflow_id=other, forked_from=other,
                    was_forked_from=True, queue_name="mail")  # fmt: skip
        patient.step(one, 1, "call", child=other)
        patient.step(one, 2, "DBOS.getResult", error, child=other)
    for each in ("a", "alone"):
        diagnosis = await patient.diagnosis(each)
        assert len(diagnosis.chain) <= 2
        assert diagnosis.verdict


async def test_relatives_may_be_missing(patient: Patient) -> None:
    patient.run("child", "ERROR", error="no", parent_workflow_id="nobody", forked_from="no one")
    patient.step("child", 1, "charge", "no")
    diagnosis = await patient.diagnosis("child")
    assert "failed in step 1 charge" in diagnosis.verdict
    assert all(call.arguments.get("workflow_id") == "child" for call in diagnosis.next)


async def test_in_private_mode_it_is_said_what_is_withheld(patient: Patient) -> None:
    patient.run("order", "ERROR")
    patient.step("order", 1, "charge")
    await patient.site.sync_until_steps_are_read()
    with patient.site.cache.write() as connection:
        connection.exec_driver_sql("UPDATE application SET private_mode = 1")
        diagnosis = diagnosed(read_case(connection, APP, "order", NOW))
    assert "the error of order: private mode withholds it" in diagnosis.not_known
    assert "why, and in which step, is not known" in diagnosis.verdict
    assert not [call for call in diagnosis.next if call.command]
