"""Somebody paused a schedule, and forgot."""

from datetime import datetime
from threading import Semaphore
from typing import TYPE_CHECKING, Any

from dbos import DBOS

from evals.application import settle
from evals.incident import Call, Fact, Incident, Sign, Verdict

if TYPE_CHECKING:
    from evals.upstream import Upstream

SCHEDULE = "invoice-reminders"
_ran = Semaphore(0)


@DBOS.step()
def send_reminders(context: Any) -> int:
    return len(context)


@DBOS.workflow()
def remind_debtors(scheduled_at: datetime, context: Any) -> None:
    send_reminders(context)
    _ran.release()


def remind_until_somebody_pauses_it() -> None:
    DBOS.apply_schedules(
        [
            {
                "schedule_name": SCHEDULE,
                "workflow_fn": remind_debtors,
                "schedule": "* * * * * *",
                "context": "overdue",
            }
        ]
    )
    for _ in range(2):
        _ran.acquire()
    DBOS.pause_schedule(SCHEDULE)
    for run in DBOS.list_workflows(name="remind_debtors"):
        settle(DBOS.retrieve_workflow(run.workflow_id))


async def seed(upstream: "Upstream") -> None:
    await upstream.run(remind_until_somebody_pauses_it)


INCIDENT = Incident(
    name="schedule_stopped",
    application_name="dunning",
    question="No invoice reminders went out, and nothing failed: why?",
    seed=seed,
    signs=(
        Sign(
            Call("list_schedules"),
            (Fact("that it is paused", "invoice-reminders", "PAUSED", "remind_debtors"),),
        ),
        Sign(
            Call("list_workflows", {"schedule_name": "invoice-reminders", "status": "SUCCESS"}),
            (Fact("its runs", "remind_debtors", "SUCCESS"),),
        ),
    ),
    first_call=Call("list_workflows", {"schedule_name": SCHEDULE, "limit": 5}),
    verdict=Verdict(
        facts=(
            Fact("that the schedule is paused", "verdict", SCHEDULE, "PAUSED"),
            Fact("that its last run went well", "verdict", "succeeded"),
        ),
        forbidden=(
            Fact("that it failed", "verdict", "failed"),
            Fact("that an executor is dead", "verdict", "DEAD|no executor|no healthy executor"),
        ),
    ),
)
