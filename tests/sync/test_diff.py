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
from dbos_mcp.sync.diff import (
    MAX_PAYLOAD_CHARACTERS,
    NO_TEXTS,
    REMOVED,
    KnownWorkflow,
    Texts,
)

MOMENT = 1_790_000_000_120
ERRORS = frozenset({"error"})
OUTCOME = frozenset({"output", "error"})
ALL_TEXTS = frozenset({"input", "output", "error"})


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


def held(workflow: Workflow, *, loaded: Texts = NO_TEXTS, deleted: bool = False) -> KnownWorkflow:
    """What the cache knows once it has recorded `workflow`."""
    event = diff.diff_workflow("shop", None, workflow, loaded=loaded)
    assert event is not None
    return KnownWorkflow(
        content_hash=event.content_hash(),
        status=event.status,
        updated_at=event.updated_at,
        deleted=deleted,
        loaded=loaded,
        texts={name: getattr(event, name) for name in WorkflowState.LOADED},
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
    event = diff.diff_workflow("shop", held(failed), failed, loaded=ERRORS)
    assert isinstance(event, WorkflowChanged)
    assert (event.payloads_loaded, event.error) == (True, "no rate")
    known = held(failed, loaded=ERRORS)
    assert diff.diff_workflow("shop", known, failed, loaded=ERRORS) is None
    assert diff.diff_workflow("shop", known, seen(status="ERROR")) is None
    other = seen(status="ERROR", error="no van")
    assert isinstance(diff.diff_workflow("shop", known, other, loaded=ERRORS), WorkflowChanged)


@pytest.mark.parametrize("text", ["input", "output", "error"])
def test_memory_addresses_are_noise(text: str) -> None:
    def shown(address: str) -> Workflow:
        return seen(status="ERROR", **{text: f"<shop.Order object at {address}>"})

    known = held(shown("0x7f3ab5c0d1e0"), loaded=ALL_TEXTS)
    again = shown("0x7f0000000010")
    assert diff.diff_workflow("shop", known, again, loaded=ALL_TEXTS) is None
    other = seen(status="ERROR", **{text: "<shop.Van object at 0x7f3ab5c0d1e0>"})
    assert diff.diff_workflow("shop", known, other, loaded=ALL_TEXTS) is not None


def test_small_numbers_are_no_addresses() -> None:
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


# Which payloads are kept, and which of them to ask for


@pytest.mark.parametrize(
    ("policy", "status", "kept", "of_steps"),
    [
        (Payloads.NONE, "ERROR", NO_TEXTS, NO_TEXTS),
        (Payloads.NONE, "SUCCESS", NO_TEXTS, NO_TEXTS),
        (Payloads.ERRORS, "ERROR", ERRORS, ERRORS),
        (Payloads.ERRORS, "MAX_RECOVERY_ATTEMPTS_EXCEEDED", ERRORS, ERRORS),
        (Payloads.ERRORS, "SUCCESS", NO_TEXTS, ERRORS),
        (Payloads.ERRORS, "PENDING", NO_TEXTS, ERRORS),
        (Payloads.FAILED, "ERROR", ALL_TEXTS, OUTCOME),
        (Payloads.FAILED, "CANCELLED", NO_TEXTS, ERRORS),
        (Payloads.FAILED, "PENDING", NO_TEXTS, ERRORS),
        (Payloads.ALL, "ERROR", ALL_TEXTS, OUTCOME),
        (Payloads.ALL, "SUCCESS", ALL_TEXTS, OUTCOME),
        (Payloads.ALL, "SOMETHING_NEW", ALL_TEXTS, OUTCOME),
        (Payloads.ALL, "PENDING", frozenset({"input"}), OUTCOME),
        (Payloads.ALL, "ENQUEUED", frozenset({"input"}), OUTCOME),
    ],
)
def test_what_a_policy_keeps(policy: Payloads, status: str, kept: Texts, of_steps: Texts) -> None:
    assert diff.kept_texts(policy, status) == kept
    assert diff.wanted_texts("shop", None, seen(status=status), policy) == kept
    assert diff.kept_step_texts(policy, status) == of_steps


def test_payloads_are_wanted_until_they_were_asked_for_in_this_state() -> None:
    failed = seen(status="ERROR")

    def wanted(
        known: KnownWorkflow, now: Workflow = failed, policy: Payloads = Payloads.ERRORS
    ) -> Texts:
        return diff.wanted_texts("shop", known, now, policy)

    assert wanted(held(failed)) == ERRORS
    assert wanted(held(failed, loaded=ERRORS, deleted=True)) == ERRORS
    assert wanted(held(failed, loaded=ERRORS)) == NO_TEXTS
    again = seen(status="ERROR", completed_at=MOMENT + 1)
    assert wanted(held(failed, loaded=ERRORS), again) == ERRORS
    # A wider policy wants what is missing, a narrower one nothing.
    assert wanted(held(failed, loaded=ERRORS), policy=Payloads.FAILED) == {"input", "output"}
    assert wanted(held(failed, loaded=ALL_TEXTS), policy=Payloads.FAILED) == NO_TEXTS
    assert wanted(held(failed, loaded=ALL_TEXTS)) == NO_TEXTS


def test_an_input_is_asked_for_once_unless_the_call_was_debounced() -> None:
    def wanted(known: Workflow, now: Workflow) -> Texts:
        loaded = held(known, loaded=frozenset({"input"}))
        return diff.wanted_texts("shop", loaded, now, Payloads.ALL)

    waiting, running = seen(status="ENQUEUED"), seen(status="PENDING", dequeued_at=MOMENT)
    assert wanted(waiting, running) == NO_TEXTS
    assert wanted(running, seen(status="SUCCESS", completed_at=MOMENT)) == OUTCOME
    delayed = seen(status="DELAYED", delay_until=MOMENT)
    assert wanted(delayed, delayed) == NO_TEXTS
    assert wanted(delayed, seen(status="DELAYED", delay_until=MOMENT + 1)) == {"input"}
    assert wanted(delayed, waiting) == {"input"}


def test_a_payload_is_recorded_only_if_it_was_asked_for_and_says_so() -> None:
    shown = seen(status="ERROR", input="1", output="2", error="3")
    event = diff.diff_workflow("shop", None, shown, loaded=ERRORS)
    assert event is not None
    assert (event.input, event.output, event.error) == (None, None, "3")
    assert (event.input_loaded, event.output_loaded, event.payloads_loaded) == (False, False, True)
    wider = diff.diff_workflow("shop", held(shown, loaded=ERRORS), shown, loaded=ALL_TEXTS)
    assert isinstance(wider, WorkflowChanged)
    assert (wider.input, wider.output, wider.error) == ("1", "2", "3")
    assert (wider.input_loaded, wider.output_loaded, wider.payloads_loaded) == (True, True, True)
    nothing = seen(status="ERROR")
    known = held(nothing, loaded=ALL_TEXTS)
    assert diff.diff_workflow("shop", known, nothing, loaded=ALL_TEXTS) is None


@pytest.mark.parametrize("text", ["input", "output", "error"])
def test_every_payload_is_bounded(text: str) -> None:
    long = "é" * MAX_PAYLOAD_CHARACTERS + "z"
    event = diff.diff_workflow("shop", None, seen(status="ERROR", **{text: long}), loaded=ALL_TEXTS)
    kept = getattr(event, text)
    assert kept == long[:-1] + f"… [cut: {len(long)} characters in all]"


# Steps


def step(step_id: int, **fields: Any) -> Step:
    return Step.model_validate(
        {"step_id": step_id, "step_name": "charge", "started_at": MOMENT + step_id, **fields}
    )


def states(*steps: Step, kept: Texts = ERRORS) -> tuple[StepState, ...]:
    """What the cache holds once it has recorded these."""
    events = diff.diff_steps("shop", "w", [], steps, kept=kept)
    observed = events[-1]
    assert isinstance(observed, StepsObserved)
    return observed.steps


def test_steps_are_observed_in_order_and_without_outputs() -> None:
    (event,) = diff.diff_steps(
        "shop", "w", [], [step(2, error="no"), step(1, output="1")], kept=ERRORS
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
    assert diff.diff_steps("shop", "w", known, steps, kept=ERRORS) == []
    moved = [step(1, error="<Order at 0x7f0000000010>", output="other"), step(2)]
    assert diff.diff_steps("shop", "w", known, moved, kept=ERRORS) == []
    assert diff.diff_steps("shop", "w", [], [], kept=ERRORS) == []


def test_one_more_step_makes_a_whole_new_list() -> None:
    (event,) = diff.diff_steps(
        "shop", "w", states(step(1), step(3)), [step(1), step(2), step(3)], kept=ERRORS
    )
    assert isinstance(event, StepsObserved)
    assert [s.step_id for s in event.steps] == [1, 2, 3]


def test_steps_that_are_gone_are_discarded_before_the_new_list() -> None:
    known = states(step(1), step(2), step(3))
    discarded, observed = diff.diff_steps(
        "shop", "w", known, [step(1), step(2, started_at=MOMENT + 99)], kept=ERRORS
    )
    assert isinstance(discarded, StepsDiscarded)
    assert discarded.step_ids == (3,)
    assert isinstance(observed, StepsObserved)
    assert [s.started_at for s in observed.steps] == [MOMENT + 1, MOMENT + 99]


def test_without_payloads_a_step_has_no_error_text() -> None:
    (event,) = diff.diff_steps("shop", "w", [], [step(1, error="no")], kept=NO_TEXTS)
    assert isinstance(event, StepsObserved)
    assert [s.error for s in event.steps] == [None]


def test_a_sleep_that_ends_in_the_future_does_not_date_the_event() -> None:
    (event,) = diff.diff_steps("shop", "w", [], [step(1, completed_at=MOMENT + 10**9)], kept=ERRORS)
    assert event.occurred_at == MOMENT + 1


def test_outputs_are_kept_where_the_policy_says_so_and_bounded() -> None:
    long = "x" * MAX_PAYLOAD_CHARACTERS + "y"
    (event,) = diff.diff_steps("shop", "w", [], [step(1, output=long, error="no")], kept=OUTCOME)
    assert isinstance(event, StepsObserved)
    (kept,) = event.steps
    assert kept.output == long[:-1] + f"… [cut: {len(long)} characters in all]"
    assert kept.error == "no"


def test_memory_addresses_in_outputs_are_noise() -> None:
    known = states(step(1, output="<Order at 0x7f3ab5c0d1e0>"), kept=OUTCOME)
    again = [step(1, output="<Order at 0x7f0000000010>")]
    assert diff.diff_steps("shop", "w", known, again, kept=OUTCOME) == []
    other = [step(1, output="<Van at 0x7f0000000010>")]
    assert len(diff.diff_steps("shop", "w", known, other, kept=OUTCOME)) == 1


def test_a_narrower_policy_forgets_no_text_of_a_step_that_stayed() -> None:
    known = states(step(1, output="1", error="no"), step(2, output="2"), kept=OUTCOME)
    same = [step(1, output="1", error="no"), step(2, output="2")]
    assert diff.diff_steps("shop", "w", known, same, kept=NO_TEXTS) == []
    rewound = [step(1, output="1", error="no"), step(2, output="3", started_at=MOMENT + 99)]
    (event,) = diff.diff_steps("shop", "w", known, rewound, kept=ERRORS)
    assert isinstance(event, StepsObserved)
    assert [(s.output, s.error) for s in event.steps] == [("1", "no"), (None, None)]


def test_a_wider_policy_adds_what_is_missing_of_the_steps() -> None:
    steps = [step(1, output="1")]
    (event,) = diff.diff_steps("shop", "w", states(*steps), steps, kept=OUTCOME)
    assert isinstance(event, StepsObserved)
    assert [s.output for s in event.steps] == ["1"]
