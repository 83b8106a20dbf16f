"""The fork that is advised does mend it; the others that it warns of do not. With a real DBOS."""

from pathlib import Path

import pytest

from dbos_mcp.conductor.models import ForkRequest
from dbos_mcp.domain import now_ms
from dbos_mcp.postmortem.case import Told, read_case
from dbos_mcp.postmortem.diagnosis import Diagnosis
from dbos_mcp.postmortem.forks import is_transient
from tests.postmortem.applications import application
from tests.postmortem.conftest import HOUR, Patient, diagnosed
from tests.upstream import APP, Site, open_site

FORKABLE = "forkable_application"


@pytest.fixture(scope="module")
def failed_orders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    database = tmp_path_factory.mktemp("forks") / "shop.sqlite"
    with application(FORKABLE, database):
        pass
    return database


async def told_of(site: Site, workflow_id: str) -> Diagnosis:
    with site.cache.read() as connection:
        case = read_case(connection, APP, workflow_id, now_ms())
    origin = case.origin.workflow.workflow_id
    steps = await site.client.list_steps(APP, origin)
    outputs = {step.step_id: step.output for step in steps if step.output is not None}
    return diagnosed(case, Told(outputs=outputs))


@pytest.mark.e2e
async def test_the_fork_that_is_advised_mends_it_and_the_others_do_not(
    failed_orders: Path, cache_path: Path
) -> None:
    async with open_site(failed_orders, cache_path) as site:
        await site.sync_until_steps_are_read()
        advised = {}
        for workflow_id in ("order", "called", "enqueued", "named"):
            call = (await told_of(site, workflow_id)).next[0]
            assert call.tool == "fork_workflow"
            advised[workflow_id] = (call.arguments["workflow_id"], call.arguments["start_step"])
        assert advised == {
            "order": ("order", 2),
            "called": ("called", 2),
            "enqueued": ("enqueued", 1),
            "named": ("a-child-of-its-own-name", 2),
        }
        warned_of = [("order", 3), ("called", 3), ("enqueued", 3), ("enqueued", 2), ("named", 1)]
        outcomes = {}
        with application(FORKABLE, failed_orders, "mended") as running:
            for source, step in [*advised.values(), *warned_of]:
                fork = f"{source} from {step}"
                request = ForkRequest(start_step=int(step), new_workflow_id=fork)
                await site.client.fork_workflow(APP, str(source), request)
                outcomes[source, step] = running.end_of(fork)
        assert {outcomes[each] for each in advised.values()} == {"SUCCESS"}
        assert {outcomes[each] for each in warned_of} == {"ERROR"}
        # A fork that failed is told as what it is, with the step that it should have begun at.
        await site.sync_until_steps_are_read()
        for source, step in (("order", 3), ("called", 3)):
            diagnosis = await told_of(site, f"{source} from {step}")
            assert f"It is a fork of {source} from step {step}" in diagnosis.verdict
            assert diagnosis.next[0].arguments["start_step"] == 2


async def test_it_says_what_a_fork_does_again_and_what_it_does_not(patient: Patient) -> None:
    patient.run("order", "ERROR", error="gateway: timed out")
    for step_id, name in enumerate(("load", "reserve", "charge"), start=1):
        patient.step("order", step_id, name, "gateway: timed out" if step_id == 3 else None)
    diagnosis = await patient.diagnosis("order")
    assert diagnosis.next[0].arguments == {"workflow_id": "order", "start_step": 3}
    assert "It uses the recorded outputs of 2 steps again: if one of them is wrong, fork from" in (
        " ".join(diagnosis.evidence)
    )
    assert "does again" not in " ".join(diagnosis.evidence)
    diagnosis = await patient.diagnosis("order", Told(outputs={1: "timed"}))
    assert diagnosis.next[0].arguments["start_step"] == 3


async def test_after_a_fork_that_failed_alike_an_earlier_step_is_advised(patient: Patient) -> None:
    for each, ago in (("order", HOUR), ("fork", HOUR // 2)):
        source = "order" if each == "fork" else None
        patient.run(each, "ERROR", error="no", ago=ago, forked_from=source)
        patient.step(each, 1, "load")
        patient.step(each, 2, "format")
        patient.step(each, 3, "charge", "no", ago=ago)
    diagnosis = await patient.diagnosis("order")
    assert diagnosis.next[0].arguments == {"workflow_id": "order", "start_step": 2}
    assert "Forked already, 1 time: fork ERROR." in diagnosis.evidence


async def test_a_message_that_was_received_does_not_come_again(patient: Patient) -> None:
    patient.run("order", "ERROR", error="no: '1,5'")
    patient.step("order", 1, "load")
    patient.step("order", 2, "DBOS.recv")
    patient.step("order", 4, "charge", "no: '1,5'")
    again = await patient.diagnosis("order", Told(outputs={1: "1,5"}))
    assert any("waits for its message again" in line for line in again.evidence)
    assert again.next[0].arguments["start_step"] == 1
    later = await patient.diagnosis("order")
    assert not any("message" in line for line in later.evidence)


async def test_nothing_that_is_gone_upstream_is_forked(patient: Patient) -> None:
    patient.run("order", "ERROR", error="no")
    patient.step("order", 1, "charge", "no")
    await patient.site.sync_until_steps_are_read()
    patient.site.tables.change("DELETE FROM workflow_status")
    patient.site.clock.ahead_ms = 48 * HOUR
    await patient.site.mirror.refresh_workflows(APP, ["order"])
    with patient.site.cache.read() as connection:
        diagnosis = diagnosed(read_case(connection, APP, "order", now_ms()))
    assert not [call for call in diagnosis.next if call.command]
    assert "Nothing can be forked: it is gone upstream." in diagnosis.evidence


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        ("HTTPSConnectionPool: Read timed out", True),
        ("503 Service Unavailable", True),
        ("DBOS Error 7: Step fetch has exceeded its maximum of 5 retries", True),
        ("could not convert string to float: '503,15'", False),
        ("'weight_kg'", False),
        (None, False),
    ],
)
def test_which_errors_may_pass(error: str | None, transient: bool) -> None:
    assert is_transient(error) is transient
