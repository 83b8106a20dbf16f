"""A credit bureau answers so slowly that the workflows are past their deadlines."""

from threading import Event, Semaphore
from typing import TYPE_CHECKING

from dbos import DBOS, SetWorkflowID, SetWorkflowTimeout, WorkflowHandle

from evals.application import POLLING_SECONDS, run_all
from evals.incident import Call, Fact, Incident, Sign, Verdict

if TYPE_CHECKING:
    from evals.upstream import Upstream

TIMEOUT_SECONDS = 1.5
SLOW = range(21, 30)
_answers = Event()
_over = Semaphore(0)


@DBOS.step()
def load_application(number: int) -> int:
    return number


@DBOS.step()
def ask_credit_bureau(number: int) -> int:
    if number in SLOW:
        _answers.wait()
    return 700 + number % 100


@DBOS.step()
def decide_loan(score: int) -> bool:
    return score > 720


@DBOS.workflow()
def assess_loan(number: int) -> bool:
    try:
        return decide_loan(ask_credit_bureau(load_application(number)))
    finally:
        _over.release()


def _assess(number: int) -> WorkflowHandle[bool]:
    with SetWorkflowID(f"loan-{number}"), SetWorkflowTimeout(TIMEOUT_SECONDS):
        return DBOS.start_workflow(assess_loan, number)


def assess_loans() -> None:
    run_all(_assess, range(1, SLOW.start))
    slow = [_assess(number) for number in SLOW]
    withdrawn = slow.pop(0)
    DBOS.cancel_workflow(withdrawn.get_workflow_id())  # by the applicant
    for handle in slow:  # which ends by its deadline
        while handle.get_status().status != "CANCELLED":
            Event().wait(POLLING_SECONDS)
    _answers.set()
    for _ in range(1, SLOW.stop):
        _over.acquire()


async def seed(upstream: "Upstream") -> None:
    await upstream.run(assess_loans)


INCIDENT = Incident(
    name="slow_dependency",
    application_name="lending",
    question="Loan applications are being cancelled and nobody cancels them: what happens?",
    seed=seed,
    signs=(
        Sign(
            Call("get_workflow_aggregates", {"group_by": ["workflow_name", "status"]}),
            (
                Fact("the cancelled ones", "assess_loan", "CANCELLED", "9"),
                Fact("the others", "assess_loan", "SUCCESS", "20"),
            ),
        ),
        Sign(
            Call("get_workflow", {"workflow_id": "loan-29"}),
            (Fact("the deadline", "deadline"), Fact("the timeout", "timeout_ms", "1500")),
        ),
        Sign(
            Call("list_steps", {"workflow_id": "loan-29"}),
            (Fact("how far it came", "1 of 1"), Fact("the step", "1", "load_application")),
        ),
    ),
    first_call=Call("list_failures", {"since": "-1h"}),
    verdict=Verdict(
        facts=(
            Fact("that its deadline passed", "verdict", "timed out", "deadline"),
            Fact("what took so long", "verdict", "ask_credit_bureau"),
            Fact("how many timed out", "verdict", "8 runs"),
        ),
        forbidden=(
            Fact("that somebody cancelled it", "verdict", "cancelled by|somebody cancelled"),
            Fact("that decide_loan is slow", "verdict", "decide_loan"),
        ),
    ),
)
