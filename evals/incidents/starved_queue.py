"""Two long runners take up a queue of two, and everything else waits behind them."""

from threading import Event, Semaphore
from typing import TYPE_CHECKING, Any

from dbos import DBOS, SetWorkflowID

from evals.application import POLLING_SECONDS, run_all
from evals.incident import Call, Fact, Incident, Sign, Verdict

if TYPE_CHECKING:
    from evals.upstream import Upstream

QUEUE = "indexing"
REGIONS = ("eu", "us")
_crawling = Semaphore(0)


@DBOS.step()
def crawl_all(region: str) -> str:
    _crawling.release()
    Event().wait()  # for hours
    return region


@DBOS.step()
def write_index(number: int) -> str:
    return f"document {number}"


@DBOS.workflow()
def rebuild_index(region: str) -> str:
    return crawl_all(region)


@DBOS.workflow()
def index_document(number: int) -> str:
    return write_index(number)


def _index(number: int) -> Any:
    with SetWorkflowID(f"document-{number}"):
        return DBOS.enqueue_workflow(QUEUE, index_document, number)


def index_documents() -> None:
    DBOS.register_queue(QUEUE, global_concurrency=2, polling_interval_sec=POLLING_SECONDS)
    run_all(_index, range(1, 11))
    for region in REGIONS:
        with SetWorkflowID(f"rebuild-{region}"):
            DBOS.enqueue_workflow(QUEUE, rebuild_index, region)
    for _ in REGIONS:
        _crawling.acquire()
    for number in range(11, 31):
        _index(number)


async def seed(upstream: "Upstream") -> None:
    await upstream.run(index_documents)


INCIDENT = Incident(
    name="starved_queue",
    application_name="search",
    question="New documents have not been searchable for an hour: what is stuck?",
    seed=seed,
    signs=(
        Sign(
            Call("list_queues"),
            (Fact("the limit", "indexing", "2"),),
        ),
        Sign(
            Call("list_workflows", {"status": "PENDING", "queue_name": "indexing"}),
            (Fact("what holds it", "rebuild-eu", "PENDING"), Fact("the other", "rebuild-us")),
        ),
        Sign(
            Call("list_workflows", {"status": "ENQUEUED", "queue_name": "indexing"}),
            (Fact("what waits", "20 of 20"),),
        ),
    ),
    first_call=Call("list_workflows", {"status": ["ENQUEUED", "DELAYED"]}),
    verdict=Verdict(
        facts=(
            Fact("which queue is full", "verdict", "indexing", "2 running", "concurrency 2"),
            Fact("what holds its places", "verdict", "held by", "rebuild_index"),
        ),
        forbidden=(
            Fact("that an executor is dead", "verdict", "DEAD|no executor|no healthy executor"),
            Fact("a deadlock", "verdict", "deadlock"),
        ),
    ),
)
