"""The incidents, each a small real application: add a new one here."""

from evals.incidents import (
    bad_deploy,
    bad_fork,
    dead_executor,
    deadlocked_children,
    deleted_history,
    poisoned_input,
    retry_storm,
    schedule_stopped,
    slow_dependency,
    starved_queue,
)

INCIDENTS = (
    bad_deploy.INCIDENT,
    poisoned_input.INCIDENT,
    dead_executor.INCIDENT,
    starved_queue.INCIDENT,
    retry_storm.INCIDENT,
    deadlocked_children.INCIDENT,
    schedule_stopped.INCIDENT,
    slow_dependency.INCIDENT,
    bad_fork.INCIDENT,
    deleted_history.INCIDENT,
)
