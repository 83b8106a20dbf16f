"""What the processes of this folder's applications have in common. It is for them alone: who starts
them does not need the SDK."""

import os
import sys
from collections.abc import Callable
from typing import Any

from dbos import DBOS, WorkflowHandle

MENDED = sys.argv[2:] == ["mended"]
"""Started again without its bug, for the workflows that are there."""


def status_of(handle: WorkflowHandle[Any]) -> str:
    """The one that it comes to."""
    try:
        handle.get_result(polling_interval_sec=0.02)
    except Exception as error:
        DBOS.logger.debug("%r", error)
    return handle.get_status().status


def serve(run: Callable[[], None]) -> None:
    """Launch, `run` unless mended, say `ready`, and then the status that each workflow comes to
    whose id is asked for on stdin."""
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
        run()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(status_of(DBOS.retrieve_workflow(line.strip())) + "\n")
        sys.stdout.flush()
    os._exit(0)
