"""What differs between two looks, and what does not."""

from typing import Any

import pytest

from dbos_mcp.conductor.models import Application, Executor, Step, Workflow
from dbos_mcp.settings import Payloads
from dbos_mcp.store.events import (
    ApplicationObserved,
    ExecutorObserved,
    StepsDiscarded,
    StepsObserved,
    StepState,
    WorkflowChanged,
    WorkflowDeleted,
    WorkflowObserved,
    WorkflowState,
)
from dbos_mcp.sync import diff
from dbos_mcp.sync.diff import MAX_PAYLOAD_CHARACTERS, REMOVED, KnownWorkflow

MOMENT = 1_790_000_000_120


def seen(**fields: Any) -> Workflow:
    return Workflow.model_validate(
        {
            "workflow_id": "w",
            "status": "PENDING",
            "created_at": MOMENT,
            "updated_at": MOMENT,
            **fields,
        }
    )


def held(workflow: Workflow, *, loaded: bool = False, deleted: bool = False) -> KnownWorkflow:
    """What the cache knows once it has recorded `workflow`."""
    event = diff.diff_workflow("shop", None, workflow, payloads_loaded=loaded)
    assert isinstance(event, WorkflowState)
    return KnownWorkflow(
        content_hash=event.content_hash(),
        updated_at=event.updated_at,
        deleted=deleted,
        payloads_loaded=loaded,
        error=event.error,
    )


# Applications and executors


def application(**fields: Any) -> Application:
    return Application.model_validate({"id": "1", "name": "shop", "status": "AVAILABLE", **fields})


def known_applications(*applications: Application) -> dict[str, ApplicationObserved]:
    events = diff.diff_applications({}, applications)
    return {e.application_name: e for e in events if isinstance(e, ApplicationObserved)}


def test_an_application_is_observed_when_it_is_new_or_changed_and_not_otherwise() -> None:
    known = known_applications(application())
    assert known["shop"].status == "AVAILABLE"
    assert diff.diff_applications(known, [application()]) == []
    (event,) = diff.diff_applications(known, [application(status="UNAVAILABLE")])
    assert isinstance(event, ApplicationObserved)
    assert event.status == "UNAVAILABLE"


def test_an_application_that_is_no_longer_listed_is_removed_once_and_may_come_back() -> None:
    known = known_applications(application())
    (removed,) = diff.diff_applications(known, [])
    assert isinstance(removed, ApplicationObserved)
    assert removed == known["shop"].model_copy(update={"status": REMOVED})
    assert diff.diff_applications({"shop": removed}, []) == []
    assert diff.diff_applications({"shop": removed}, [application()]) == [known["shop"]]


def executor(**fields: Any) -> Executor:
    return Executor.model_validate(
        {
            "executor_id": "shop-1",
            "status": "HEALTHY",
            "created_at": MOMENT,
            "updated_at": MOMENT,
            **fields,
        }
    )


def known_executors(*executors: Executor) -> dict[str, ExecutorObserved]:
    events = diff.diff_executors("shop", {}, executors)
    return {e.executor_id: e for e in events if isinstance(e, ExecutorObserved)}


def test_an_executor_is_observed_when_it_is_new_or_changed_and_not_otherwise() -> None:
    metadata = {"zone": "b", "cpu": 2}
    known = known_executors(executor(executor_metadata=metadata))
    assert known["shop-1"].executor_metadata == '{"cpu": 2, "zone": "b"}'
    assert known["shop-1"].application_version is None
    again = executor(executor_metadata=dict(reversed(metadata.items())))
    assert diff.diff_executors("shop", known, [again]) == []
    (event,) = diff.diff_executors("shop", known, [executor(status="DEAD", updated_at=MOMENT + 1)])
    assert isinstance(event, ExecutorObserved)
    assert (event.status, event.occurred_at) == ("DEAD", MOMENT + 1)


def test_an_executor_that_is_no_longer_listed_is_removed_once_and_may_come_back() -> None:
    known = known_executors(executor(), executor(executor_id="shop-2"))
    (removed,) = diff.diff_executors("shop", known, [executor()])
    assert isinstance(removed, ExecutorObserved)
    assert (removed.executor_id, removed.status) == ("shop-2", REMOVED)
    known["shop-2"] = removed
    assert diff.diff_executors("shop", known, [executor()]) == []
    (back,) = diff.diff_executors("shop", known, [executor(), executor(executor_id="shop-2")])
    assert isinstance(back, ExecutorObserved)
    assert (back.executor_id, back.status) == ("shop-2", "HEALTHY")


# Workflows


def test_a_new_workflow_is_observed_with_all_that_was_said_of_it() -> None:
    event = diff.diff_workflow("shop", None, seen(queue_name="emails", priority=3))
    assert isinstance(event, WorkflowObserved)
    assert (event.application_name, event.occurred_at) == ("shop", MOMENT)
    assert (event.queue_name, event.priority) == ("emails", 3)


CHANGES: dict[str, Any] = {
    "status": "SUCCESS",
    "workflow_name": "other",
    "class_name": "Shop",
    "config_name": "default",
    "authenticated_user": "alice",
    "assumed_role": "admin",
    "authenticated_roles": "['admin']",
    "created_at": MOMENT - 1,
    "updated_at": MOMENT + 1,
    "queue_name": "emails",
    "application_version": "2",
    "executor_id": "shop-2",
    "timeout_ms": 5,
    "deadline": MOMENT,
    "deduplication_id": "once",
    "priority": 1,
    "queue_partition_key": "k",
    "forked_from": "v",
    "was_forked_from": True,
    "parent_workflow_id": "p",
    "dequeued_at": MOMENT,
    "delay_until": MOMENT,
    "completed_at": MOMENT,
    "attributes": "{}",
    "schedule_name": "nightly",
    "application_name": "another",
}


def test_every_field_that_conductor_shows_is_compared() -> None:
    payloads = {"input", "output", "error"}
    assert CHANGES.keys() == Workflow.model_fields.keys() - {"workflow_id"} - payloads


@pytest.mark.parametrize("field", CHANGES)
def test_a_workflow_of_which_anything_differs_has_changed(field: str) -> None:
    known, now = held(seen()), seen(**{field: CHANGES[field]})
    assert isinstance(diff.diff_workflow("shop", known, now), WorkflowChanged)
    assert diff.diff_workflow("shop", held(now), now) is None


def test_a_workflow_of_our_application_and_one_of_nobody_have_no_other_owner() -> None:
    assert diff.diff_workflow("shop", held(seen()), seen(application_name="shop")) is None


def test_payloads_are_ignored_unless_they_were_asked_for() -> None:
    known = held(seen())
    assert diff.diff_workflow("shop", known, seen(output="1", error="no", input="2")) is None
    event = diff.diff_workflow("shop", None, seen(output="1", error="no", input="2"))
    assert isinstance(event, WorkflowObserved)
    assert (event.input, event.output, event.error) == (None, None, None)


def test_an_error_text_that_is_loaded_for_the_first_time_is_a_change() -> None:
    failed = seen(status="ERROR", error="no rate")
    event = diff.diff_workflow("shop", held(failed), failed, payloads_loaded=True)
    assert isinstance(event, WorkflowChanged)
    assert (event.payloads_loaded, event.error) == (True, "no rate")
    known = held(failed, loaded=True)
    assert diff.diff_workflow("shop", known, failed, payloads_loaded=True) is None
    assert diff.diff_workflow("shop", known, seen(status="ERROR")) is None
    other = seen(status="ERROR", error="no van")
    assert isinstance(
        diff.diff_workflow("shop", known, other, payloads_loaded=True), WorkflowChanged
    )


def test_memory_addresses_are_noise() -> None:
    def failed(address: str) -> Workflow:
        return seen(status="ERROR", error=f"<shop.Order object at {address}> is late")

    known = held(failed("0x7f3ab5c0d1e0"), loaded=True)
    again = failed("0x7f0000000010")
    assert diff.diff_workflow("shop", known, again, payloads_loaded=True) is None
    assert diff.without_noise("at 0x7f3ab5c0d1e0, code 0x1f") == "at 0x…, code 0x1f"


@pytest.mark.parametrize("overhang", range(20))
def test_a_memory_address_at_the_cut_is_noise_too(overhang: int) -> None:
    def clipped(address: str) -> str | None:
        text = "x" * (MAX_PAYLOAD_CHARACTERS - overhang) + f" {address} and more" + "y" * 100
        return diff.without_noise(diff.clip(text))

    assert clipped("0x7f3ab5c0d1e0") == clipped("0x7f0000000010")


def test_a_text_within_the_bound_is_kept_as_it_is() -> None:
    text = "0x7f3ab5c0d1e0".rjust(MAX_PAYLOAD_CHARACTERS)
    assert diff.clip(text) == text
    assert diff.clip(None) is None
    assert diff.clip("") == ""


def test_a_deleted_workflow_that_is_back_is_observed_even_unchanged() -> None:
    gone = held(seen(), deleted=True)
    assert isinstance(diff.diff_workflow("shop", gone, seen()), WorkflowObserved)


def test_missing_workflows_are_deleted() -> None:
    events = diff.diff_missing("shop", ["a", "b"])
    assert events == [
        WorkflowDeleted(application_name="shop", workflow_id=workflow_id)
        for workflow_id in ("a", "b")
    ]


# Which error texts to ask for


def test_error_texts_of_failures_are_wanted_until_they_are_there() -> None:
    failed = seen(status="ERROR")

    def wanted(known: KnownWorkflow | None, now: Workflow = failed) -> bool:
        return diff.wants_payloads("shop", known, now, Payloads.ERRORS)

    assert wanted(None)
    assert wanted(held(failed))
    assert wanted(held(failed, loaded=True, deleted=True))
    assert not wanted(held(failed, loaded=True))
    assert wanted(held(failed, loaded=True), seen(status="ERROR", completed_at=MOMENT + 1))


@pytest.mark.parametrize("status", ["PENDING", "SUCCESS", "CANCELLED", "SOMETHING_NEW"])
def test_no_text_of_what_did_not_fail_is_wanted(status: str) -> None:
    assert not diff.wants_payloads("shop", None, seen(status=status), Payloads.ERRORS)


def test_no_text_is_wanted_without_payloads() -> None:
    assert not diff.wants_payloads("shop", None, seen(status="ERROR"), Payloads.NONE)


# Steps


def step(step_id: int, **fields: Any) -> Step:
    return Step.model_validate(
        {"step_id": step_id, "step_name": "charge", "started_at": MOMENT + step_id, **fields}
    )


def states(*steps: Step) -> tuple[StepState, ...]:
    """What the cache holds once it has recorded these."""
    events = diff.diff_steps("shop", "w", [], steps, policy=Payloads.ERRORS)
    observed = events[-1]
    assert isinstance(observed, StepsObserved)
    return observed.steps


def test_steps_are_observed_in_order_and_without_outputs() -> None:
    (event,) = diff.diff_steps(
        "shop", "w", [], [step(2, error="no"), step(1, output="1")], policy=Payloads.ERRORS
    )
    assert isinstance(event, StepsObserved)
    assert [(s.step_id, s.output, s.error) for s in event.steps] == [
        (1, None, None),
        (2, None, "no"),
    ]
    assert event.occurred_at == MOMENT + 2


def test_unchanged_steps_are_no_news() -> None:
    steps = [step(1, error="<Order at 0x7f3ab5c0d1e0>"), step(2)]
    known = states(*steps)
    assert diff.diff_steps("shop", "w", known, steps, policy=Payloads.ERRORS) == []
    moved = [step(1, error="<Order at 0x7f0000000010>", output="other"), step(2)]
    assert diff.diff_steps("shop", "w", known, moved, policy=Payloads.ERRORS) == []
    assert diff.diff_steps("shop", "w", [], [], policy=Payloads.ERRORS) == []


def test_one_more_step_makes_a_whole_new_list() -> None:
    (event,) = diff.diff_steps(
        "shop", "w", states(step(1), step(3)), [step(1), step(2), step(3)], policy=Payloads.ERRORS
    )
    assert isinstance(event, StepsObserved)
    assert [s.step_id for s in event.steps] == [1, 2, 3]


def test_steps_that_are_gone_are_discarded_before_the_new_list() -> None:
    known = states(step(1), step(2), step(3))
    discarded, observed = diff.diff_steps(
        "shop", "w", known, [step(1), step(2, started_at=MOMENT + 99)], policy=Payloads.ERRORS
    )
    assert isinstance(discarded, StepsDiscarded)
    assert discarded.step_ids == (3,)
    assert isinstance(observed, StepsObserved)
    assert [s.started_at for s in observed.steps] == [MOMENT + 1, MOMENT + 99]


def test_without_payloads_a_step_has_no_error_text() -> None:
    (event,) = diff.diff_steps("shop", "w", [], [step(1, error="no")], policy=Payloads.NONE)
    assert isinstance(event, StepsObserved)
    assert [s.error for s in event.steps] == [None]


def test_a_sleep_that_ends_in_the_future_does_not_date_the_event() -> None:
    (event,) = diff.diff_steps(
        "shop", "w", [], [step(1, completed_at=MOMENT + 10**9)], policy=Payloads.ERRORS
    )
    assert event.occurred_at == MOMENT + 1
