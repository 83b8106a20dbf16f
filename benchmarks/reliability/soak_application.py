"""A DBOS application that is busy all the time, as a program of its own.

Workflows with steps, retries, children, queues and sleeps; some fail, and now and then old ones are
forked, cancelled, resumed, rewound and deleted, and what is beyond a number is deleted as retention
does it. It is made to be killed at any moment: the next one on the same database recovers.
"""

import argparse
import os
import random
import sys
import threading
from time import sleep
from uuid import uuid4

from dbos import DBOS, SetEnqueueOptions, SetWorkflowAttributes, SetWorkflowID

APPLICATION_NAME = "soak"
QUEUE = "parcels"
KEPT = 1500
"""So many workflows retention leaves."""
_FAILURES = ("no rate for the postcode area", "the gateway closed the connection", "card declined")


class FlakyError(Exception):
    """Goes away by itself."""


@DBOS.step()
def look_up(number: int) -> int:
    return number % 7


@DBOS.step(retries_allowed=True, max_attempts=5, interval_seconds=0.05)
def charge(number: int) -> str:
    if random.random() < 0.3:
        raise FlakyError(f"attempt on {number}")
    return f"payment-{number}"


@DBOS.step()
def quote(number: int) -> int:
    if number % 9 == 0:
        raise ValueError(_FAILURES[number % len(_FAILURES)])
    return 300 + number % 50


@DBOS.workflow()
def send_parcel(number: int) -> int:
    DBOS.sleep(random.random())
    return quote(number)


@DBOS.workflow()
def place_order(number: int) -> int:
    look_up(number)
    charge(number)
    if number % 4 == 0:
        return DBOS.enqueue_workflow(QUEUE, send_parcel, number).get_result()
    return send_parcel(number)


@DBOS.workflow()
def wait_for_stock(number: int) -> int:
    """In flight for longer than a mirror takes between two looks."""
    DBOS.sleep(20 + number % 60)
    return look_up(number)


def start_order() -> None:
    number = random.randrange(1_000_000)
    with SetWorkflowID(f"order-{uuid4().hex[:12]}"), SetWorkflowAttributes({"tier": number % 3}):
        DBOS.start_workflow(place_order, number)


def start_waiting() -> None:
    with SetWorkflowID(f"wait-{uuid4().hex[:12]}"):
        DBOS.start_workflow(wait_for_stock, random.randrange(1_000_000))


def delay_parcel() -> None:
    with (
        SetWorkflowID(f"parcel-{uuid4().hex[:12]}"),
        SetEnqueueOptions(delay_seconds=random.randint(1, 90)),
    ):
        DBOS.enqueue_workflow(QUEUE, send_parcel, random.randrange(1_000_000))


def fork_one() -> None:
    for workflow_id in _some("ERROR"):
        DBOS.fork_workflow(workflow_id, random.randint(1, 3))


def cancel_one() -> None:
    for workflow_id in _some("PENDING", "ENQUEUED", "DELAYED"):
        DBOS.cancel_workflow(workflow_id)


def resume_one() -> None:
    for workflow_id in _some("CANCELLED"):
        DBOS.resume_workflow(workflow_id)


def rewind_one() -> None:
    for workflow_id in _some("CANCELLED", "ERROR"):
        DBOS.rewind_workflow(workflow_id)


def delete_one() -> None:
    for workflow_id in _some("SUCCESS", "ERROR", "CANCELLED"):
        DBOS.delete_workflow(workflow_id)


def retain() -> None:
    ended = DBOS.list_workflows(
        status=["SUCCESS", "ERROR", "CANCELLED"],
        sort_desc=True,
        offset=KEPT,
        load_input=False,
        load_output=False,
    )
    DBOS.delete_workflows([row.workflow_id for row in ended])


ACTIONS = {
    start_order: 100,
    start_waiting: 6,
    delay_parcel: 10,
    fork_one: 4,
    cancel_one: 4,
    resume_one: 2,
    rewind_one: 1,
    delete_one: 4,
    retain: 0.3,
}
"""And how often each is done, beside the others."""


def _some(*statuses: str) -> list[str]:
    """One of the newest hundred, if there is one."""
    found = DBOS.list_workflows(
        status=list(statuses), sort_desc=True, limit=100, load_input=False, load_output=False
    )
    return [random.choice(found).workflow_id] if found else []


def work(per_second: float) -> None:
    while True:
        (action,) = random.choices([*ACTIONS], [*ACTIONS.values()])
        try:
            action()
        except Exception as error:  # others act on the same workflows
            DBOS.logger.warning("%s: %r", action.__name__, error)
        sleep(random.expovariate(per_second))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--per-second", type=float, default=1.5)
    options = parser.parse_args()
    DBOS(
        config={
            "name": APPLICATION_NAME,
            "system_database_url": options.url,
            "application_version": "1.0.0",
            "executor_id": "soak-1",
            "notification_listener_polling_interval_sec": 0.2,
            "log_level": "ERROR",
        }
    )
    DBOS.launch()
    DBOS.register_queue(QUEUE, global_concurrency=3, polling_interval_sec=0.2)
    threading.Thread(target=work, args=(options.per_second,), daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()  # the parent's end closes it, so no process is left behind
    os._exit(0)


if __name__ == "__main__":
    main()
