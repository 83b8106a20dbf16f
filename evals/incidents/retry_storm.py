"""A dependency goes down, and every run tries a step until its retries are used up."""

import socket
from contextlib import closing
from threading import Thread
from typing import TYPE_CHECKING, Any

from dbos import DBOS, SetWorkflowID

from evals.application import run_all
from evals.incident import Call, Fact, Incident, Sign, Verdict

if TYPE_CHECKING:
    from evals.upstream import Upstream

ATTEMPTS = 5
_warehouse = socket.socket()


@DBOS.step()
def load_article(sku: str) -> str:
    if sku == "sku-7":
        raise LookupError(f"{sku} was delisted")
    return sku


@DBOS.step(retries_allowed=True, max_attempts=ATTEMPTS, interval_seconds=0.01)
def fetch_stock(sku: str, port: int) -> int:
    with closing(socket.create_connection(("127.0.0.1", port))) as connection:
        return len(connection.recv(100))


@DBOS.step()
def save_stock(sku: str, stock: int) -> str:
    return f"{sku}: {stock}"


@DBOS.workflow()
def sync_stock(sku: str, port: int) -> str:
    return save_stock(sku, fetch_stock(load_article(sku), port))


def _serve() -> None:
    while True:
        try:
            connection, _ = _warehouse.accept()
        except OSError:  # it was shut
            return
        with connection:
            connection.sendall(b"12 left")


def sync_while_the_warehouse_goes_down() -> None:
    _warehouse.bind(("127.0.0.1", 0))
    _warehouse.listen()
    port = _warehouse.getsockname()[1]
    serving = Thread(target=_serve)
    serving.start()

    def start(number: int) -> Any:
        with SetWorkflowID(f"stock-{number}"):
            return DBOS.start_workflow(sync_stock, f"sku-{number}", port)

    run_all(start, range(1, 31))
    _warehouse.shutdown(socket.SHUT_RDWR)
    serving.join()
    _warehouse.close()
    run_all(start, range(31, 56))


async def seed(upstream: "Upstream") -> None:
    await upstream.run(sync_while_the_warehouse_goes_down)


INCIDENT = Incident(
    name="retry_storm",
    application_name="stock",
    question="The stock figures are stale and the logs are full of retries: why?",
    seed=seed,
    signs=(
        Sign(
            Call("get_workflow_aggregates", {"group_by": ["workflow_name", "status"]}),
            (
                Fact("failed runs", "sync_stock", "ERROR", "26"),
                Fact("other runs", "sync_stock", "SUCCESS", "29"),
            ),
        ),
        Sign(
            Call("list_steps", {"workflow_id": "stock-55"}),
            (Fact("the failed step", "2", "fetch_stock", "maximum of 5 retries"),),
        ),
    ),
    first_call=Call("list_failures", {"since": "-1h"}),
    verdict=Verdict(
        facts=(
            Fact("where it began", "verdict", "sync_stock", "fetch_stock"),
            Fact("that its retries are used up", "verdict", "used up", "5 retries"),
            Fact("how many failed so", "verdict", "25 runs"),
        ),
        forbidden=(
            Fact("that it began in load_article", "verdict", "load_article"),
            Fact("that save_stock failed", "verdict", "save_stock"),
        ),
    ),
)
