"""Parents take up a queue of three, and wait for their children in the same queue."""

from threading import Semaphore
from typing import TYPE_CHECKING

from dbos import DBOS, SetWorkflowID

from evals.application import POLLING_SECONDS
from evals.incident import Call, Fact, Incident, Sign, Verdict

if TYPE_CHECKING:
    from evals.upstream import Upstream

QUEUE = "reports"
PLACES = 3
_waiting = Semaphore(0)


@DBOS.step()
def load_sales(month: str) -> int:
    return len(month)


@DBOS.workflow()
def render_chart(sales: int) -> str:
    return f"chart of {sales}"


@DBOS.workflow()
def monthly_report(month: str) -> str:
    chart = DBOS.enqueue_workflow(QUEUE, render_chart, load_sales(month))
    _waiting.release()
    return chart.get_result(polling_interval_sec=POLLING_SECONDS)


def order_reports() -> None:
    DBOS.register_queue(QUEUE, global_concurrency=PLACES, polling_interval_sec=POLLING_SECONDS)
    for month in ("july", "august", "september"):
        with SetWorkflowID(f"report-{month}"):
            DBOS.enqueue_workflow(QUEUE, monthly_report, month)
    for _ in range(PLACES):
        _waiting.acquire()
    for month in ("october", "november"):
        with SetWorkflowID(f"report-{month}"):
            DBOS.enqueue_workflow(QUEUE, monthly_report, month)


async def seed(upstream: "Upstream") -> None:
    await upstream.run(order_reports)


INCIDENT = Incident(
    name="deadlocked_children",
    application_name="reporting",
    question="The reports have been running all night and none is done: what do they wait for?",
    seed=seed,
    signs=(
        Sign(
            Call("list_queues"),
            (Fact("the limit", "reports", "3"),),
        ),
        Sign(
            Call("get_workflow_aggregates", {"group_by": ["workflow_name", "status"]}),
            (
                Fact("who holds it", "monthly_report", "PENDING", "3"),
                Fact("who waits", "render_chart", "ENQUEUED", "3"),
            ),
        ),
        Sign(
            Call("list_steps", {"workflow_id": "report-july"}),
            (
                Fact("that it awaits its child", "2 of 2"),
                Fact("it", "render_chart", "report-july-2"),
            ),
        ),
    ),
    first_call=Call("list_workflows", {"status": "PENDING"}),
    verdict=Verdict(
        facts=(
            Fact("that it is a deadlock", "verdict", "deadlock"),
            Fact("in which queue", "verdict", "reports", "concurrency 3"),
            Fact("for what it waits", "verdict", "waits for", "render_chart"),
        ),
        forbidden=(
            Fact("that an executor is dead", "verdict", "DEAD|no executor|no healthy executor"),
            Fact("that load_sales is slow", "verdict", "load_sales"),
        ),
    ),
)
