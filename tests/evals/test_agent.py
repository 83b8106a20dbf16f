"""What the rule reads out of an answer."""

import pytest

from evals.agent import named_workflow, ready_made_calls
from evals.incident import Call

FAILURES = """\
8 workflows of contracts failed, of 2 causes
group | began | workflow_name | newest
31292cdc68 | 7 | render_contract | contract-17
ab13467fff | 1 | render_contract | contract-3
As of now."""


def test_the_workflow_to_diagnose_is_that_of_the_first_row() -> None:
    assert named_workflow(FAILURES) == "contract-17"
    assert named_workflow("3 of 3\nworkflow_id | status\na-1 | PENDING\na-2 | PENDING") == "a-1"


def test_a_ready_made_call_goes_before_it() -> None:
    call = 'diagnose_workflow(application_name="contracts", workflow_id="contract-9")'
    assert named_workflow(f"{FAILURES}\nNext: {call}") == "contract-9"


@pytest.mark.parametrize("text", ["0 workflows failed.\nNone.", "group | began\n31292cdc68 | 7"])
def test_an_answer_may_name_none(text: str) -> None:
    assert named_workflow(text) is None


def test_ready_made_calls_are_read_with_their_arguments() -> None:
    text = (
        "Next:\n"
        '- fork_workflow(application_name="a", workflow_id="w-1", start_step=2)\n'
        '- list_steps(workflow_id="w-1", failed_only=True).\n'
    )
    assert list(ready_made_calls(text)) == [
        Call("fork_workflow", {"application_name": "a", "workflow_id": "w-1", "start_step": 2}),
        Call("list_steps", {"workflow_id": "w-1", "failed_only": True}),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "3 workflows (of 5)",
        "not (yet)",
        "Decimal('1.5')",
        "call list_steps()",
        "float(x=y)",
        "f(a=)",
    ],
)
def test_what_is_no_call_with_named_values_is_left_alone(text: str) -> None:
    assert list(ready_made_calls(text)) == []
