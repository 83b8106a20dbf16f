"""A real DBOS application that does what it is told: the upstream whose transitions are mirrored.

A program of its own, because DBOS is one per process and knows a workflow by its name. Each line
of its stdin is a call, `[name, positional, named]` in JSON, and each is answered by a line on
stdout, `{"answer": …}` or `{"error": …}`. It says `null` first, once it is up, and stays until its
stdin is closed.
"""

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from threading import Semaphore
from time import monotonic, sleep
from typing import Any

from dbos import (
    DBOS,
    Debouncer,
    SetEnqueueOptions,
    SetWorkflowAttributes,
    SetWorkflowID,
    SetWorkflowTimeout,
)

from tests.sync.application import CLOSED, EXECUTOR, OPEN, SCHEDULE, SINGLE

PATIENCE_SECONDS = 30

_running: defaultdict[str, Semaphore] = defaultdict(lambda: Semaphore(0))
_released: defaultdict[str, Semaphore] = defaultdict(lambda: Semaphore(0))


@DBOS.step()
def count(shelf: str) -> int:
    return len(shelf)


@DBOS.step()
def compare(counted: int) -> int:
    return counted - 1


@DBOS.step()
def book(difference: int, outcome: str) -> int:
    if outcome == "fail":
        raise ValueError(f"a difference of {difference}")
    return difference


def _stocktake(outcome: str) -> int:
    difference = compare(count("shelf-1"))
    workflow_id = DBOS.workflow_id
    assert workflow_id is not None
    _running[workflow_id].release()
    _released[workflow_id].acquire()
    return book(difference, outcome)


@DBOS.workflow()
def stocktake(outcome: str) -> int:
    """Two steps; a wait, until it is released; a third step, which may fail."""
    return _stocktake(outcome)


@DBOS.workflow(max_recovery_attempts=0)
def fragile_stocktake(outcome: str) -> int:
    """The same, which is not run a second time."""
    return _stocktake(outcome)


@DBOS.workflow()
def restock(shelf: str) -> int:
    return count(shelf)


@DBOS.workflow()
def restock_all(child_id: str) -> int:
    with SetWorkflowID(child_id):
        return DBOS.start_workflow(restock, "shelf-2").get_result()


@DBOS.workflow()
def nightly_report(scheduled_at: datetime, context: Any) -> None:
    DBOS.set_event("report", f"{context} at {scheduled_at:%Y-%m-%d}")


WORKFLOWS = {
    function.__name__: function for function in (stocktake, fragile_stocktake, restock, restock_all)
}


def start(
    workflow_id: str,
    name: str,
    argument: str,
    *,
    queue: str | None = None,
    timeout: float | None = None,
    attributes: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    """Start it directly, or put it into `queue` with those options."""
    with ExitStack() as settings:
        settings.enter_context(SetWorkflowID(workflow_id))
        if timeout is not None:
            settings.enter_context(SetWorkflowTimeout(timeout))
        if attributes is not None:
            settings.enter_context(SetWorkflowAttributes(attributes))
        if queue is None:
            DBOS.start_workflow(WORKFLOWS[name], argument)
        else:
            settings.enter_context(SetEnqueueOptions(**options))
            DBOS.enqueue_workflow(queue, WORKFLOWS[name], argument)


def debounce(workflow_id: str, key: str, seconds: float, argument: str) -> str:
    """The id of the workflow that now waits: `workflow_id`, or the one that did already."""
    with SetWorkflowID(workflow_id):
        debouncer = Debouncer.create(restock, queue=CLOSED)
        return debouncer.debounce(key, seconds, argument).get_workflow_id()


def await_running(workflow_id: str) -> None:
    """Until a run of it has made its two steps and waits."""
    if not _running[workflow_id].acquire(timeout=PATIENCE_SECONDS):
        raise TimeoutError(f"{workflow_id} does not run")


def release(workflow_id: str) -> None:
    _released[workflow_id].release()


def settle(workflow_id: str) -> None:
    """Until its end."""
    await_status(workflow_id, "SUCCESS", "ERROR", "CANCELLED")


def await_status(workflow_id: str, *statuses: str) -> None:
    deadline = monotonic() + PATIENCE_SECONDS
    while (row := DBOS.get_workflow_status(workflow_id)) is None or row.status not in statuses:
        if monotonic() > deadline:
            raise TimeoutError(f"{workflow_id} is {row and row.status}, not {statuses}")
        sleep(0.02)


def fork(workflow_id: str, new_id: str, start_step: int, queue: str) -> None:
    with SetWorkflowID(new_id):
        DBOS.fork_workflow(workflow_id, start_step, queue_name=queue)


def limit(queue: str, concurrency: int | None) -> None:
    """Of which its worker hears only at its next but one poll."""
    registered = DBOS.retrieve_queue(queue)
    assert registered is not None
    registered.set_global_concurrency(concurrency)


def trigger() -> str:
    return DBOS.trigger_schedule(SCHEDULE).get_workflow_id()


def clear() -> None:
    """End everything, and leave nothing behind."""
    limit(OPEN, None)
    ids = [row.workflow_id for row in DBOS.list_workflows(load_input=False, load_output=False)]
    DBOS.cancel_workflows(ids)
    for waiting in _released.values():
        waiting.release()
    _released.clear()
    _running.clear()
    DBOS.delete_workflows(ids)


CALLS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        start,
        debounce,
        await_running,
        release,
        settle,
        await_status,
        fork,
        limit,
        trigger,
        clear,
    )
} | {
    "cancel": DBOS.cancel_workflow,
    "resume": DBOS.resume_workflow,
    "rewind": DBOS.rewind_workflow,
    "delete": DBOS.delete_workflow,
    "delay": DBOS.set_workflow_delay,
    "set_attributes": DBOS.update_workflow_attributes,
}


def launch(name: str, url: str) -> None:
    DBOS(
        config={
            "name": name,
            "system_database_url": url,
            "application_version": "1.4.0",
            "executor_id": EXECUTOR,
            "log_level": "CRITICAL",
        }
    )
    DBOS.launch()
    for queue, concurrency in ((OPEN, None), (SINGLE, 1), (CLOSED, 0)):
        DBOS.register_queue(
            queue,
            global_concurrency=concurrency,
            polling_interval_sec=0.05,
            on_conflict="never_update",
        )
    DBOS.apply_schedules(
        [
            {
                "schedule_name": SCHEDULE,
                "workflow_fn": nightly_report,
                "schedule": "0 3 * * *",
                "context": "sales",
            }
        ]
    )


def answer(line: str) -> dict[str, Any]:
    name, positional, named = json.loads(line)
    try:
        result = CALLS[name](*positional, **named)
    except Exception as error:
        return {"error": f"{name}: {type(error).__name__}: {error}"}
    return {"answer": result if isinstance(result, str) else None}


def say(message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("url")
    launch(**vars(parser.parse_args()))
    say(None)
    for line in sys.stdin:
        say(answer(line))
    os._exit(0)  # workflows that wait would hold up an orderly exit


if __name__ == "__main__":
    main()
