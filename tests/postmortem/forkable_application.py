"""A real DBOS application whose workflows fail; started again with `mended`, they would not.

It says `ready` once they have ended. Then, for each id that it reads, it waits for the end of that
workflow and says its status.
"""

import os
import sys
from typing import Any

from dbos import DBOS, SetWorkflowID, WorkflowHandle

MENDED = sys.argv[2:] == ["mended"]
WORKFLOWS = ("order", "called", "enqueued", "named")


@DBOS.step()
def load() -> str:
    return "an order"


@DBOS.step()
def format_total() -> str:
    return "170.00" if MENDED else "170,00"


@DBOS.step()
def charge(total: str) -> float:
    return float(total)


@DBOS.workflow()
def order() -> float:
    load()
    return charge(format_total())


@DBOS.workflow()
def called() -> float:
    load()
    return order()


@DBOS.workflow()
def enqueued() -> float:
    handle = DBOS.start_workflow(order)
    load()
    return handle.get_result()


@DBOS.workflow()
def named() -> float:
    load()
    with SetWorkflowID("a-child-of-its-own-name"):
        handle = DBOS.start_workflow(order)
    return handle.get_result()


def status_of(handle: WorkflowHandle[Any]) -> str:
    try:
        handle.get_result(polling_interval_sec=0.05)
    except Exception as error:
        DBOS.logger.debug("%r", error)
    return handle.get_status().status


def main() -> None:
    DBOS(
        config={
            "name": "shop",
            "system_database_url": sys.argv[1],
            "application_version": "1.0",
            "executor_id": "shop-1",
            "log_level": "CRITICAL",
        }
    )
    DBOS.launch()
    if not MENDED:
        for function in (order, called, enqueued, named):
            with SetWorkflowID(function.__name__):
                status_of(DBOS.start_workflow(function))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(status_of(DBOS.retrieve_workflow(line.strip())) + "\n")
        sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
