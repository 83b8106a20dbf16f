"""A process of an incident's application: it launches DBOS, runs one stage, and stays until killed.

`python -m evals.application MODULE STAGE …`, so that what it pickles names modules that can be
imported elsewhere. It says `ready` on stdout when the stage has returned.
"""

import argparse
import os
import sqlite3
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, TypeVar

from dbos import DBOS, WorkflowHandle

READY = "ready"
POLLING_SECONDS = 0.02

T = TypeVar("T")


class _Careless(sqlite3.Connection):
    """Leaves the time of writing to the system, which no process takes along when it is killed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA journal_mode = WAL")
        self.execute("PRAGMA synchronous = OFF")


def settle(handle: WorkflowHandle[Any]) -> None:
    """Wait for the end of a workflow, however it ends: its error is in the database."""
    try:
        handle.get_result(polling_interval_sec=POLLING_SECONDS)
    except Exception as error:
        DBOS.logger.debug("%s ended with %r", handle.get_workflow_id(), error)


def run_all(start: Callable[[T], WorkflowHandle[Any]], items: Iterable[T]) -> None:
    """Start a workflow for each, a few at once, and wait for all their ends."""

    def run(item: T) -> None:
        settle(start(item))

    with ThreadPoolExecutor(max_workers=4) as several:
        for _ in several.map(run, items):
            pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module")
    parser.add_argument("stage")
    parser.add_argument("--system-database-url", required=True)
    parser.add_argument("--application-name", required=True)
    parser.add_argument("--application-version", required=True)
    parser.add_argument("--executor-id", required=True)
    options = parser.parse_args()

    stage = getattr(import_module(options.module), options.stage)
    DBOS(
        config={
            "name": options.application_name,
            "system_database_url": options.system_database_url,
            "application_version": options.application_version,
            "executor_id": options.executor_id,
            "notification_listener_polling_interval_sec": POLLING_SECONDS,
            "scheduler_polling_interval_sec": 0.1,
            "db_engine_kwargs": {"connect_args": {"factory": _Careless}},
            "log_level": "CRITICAL",
        }
    )
    DBOS.launch()
    stage()
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    sys.stdin.read()  # the parent's end closes it, so no process is left behind
    os._exit(0)


if __name__ == "__main__":
    main()
