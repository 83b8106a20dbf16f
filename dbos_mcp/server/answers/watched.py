"""What is compared to tell whether a watched resource has changed."""

from collections.abc import Callable

from sqlalchemy import Connection

from dbos_mcp.domain import now_ms
from dbos_mcp.postmortem.failures import outline
from dbos_mcp.queries.sync_status import sync_status
from dbos_mcp.server.addresses import FAILURE_GROUP, FAILURES, SCHEMA, SYNC_STATUS, WORKFLOW
from dbos_mcp.server.windows import failures_of_a_day, failures_of_a_week
from dbos_mcp.store import event_log


def _of_sync_status(connection: Connection) -> object:
    status = sync_status(connection, now=now_ms())
    return (
        status.conductor.condition,
        status.events,
        [
            (
                item.application_name,
                item.condition,
                item.covered_since,
                item.history_complete,
                item.offline_since,
                item.last_error,
            )
            for item in status.applications
        ],
    )


def _of_failures(connection: Connection, application_name: str) -> object:
    return outline(connection, application_name, failures_of_a_day(now_ms()))


def _of_failure_group(connection: Connection, application_name: str, group: str) -> object:
    groups = outline(connection, application_name, failures_of_a_week(now_ms()))
    return next((each for each in groups if each.group == group), None)


def _of_schema(_connection: Connection) -> object:
    return None


STATE: dict[str, Callable[..., object]] = {
    SYNC_STATUS: _of_sync_status,
    SCHEMA: _of_schema,
    WORKFLOW: event_log.last_position_of_workflow,
    FAILURES: _of_failures,
    FAILURE_GROUP: _of_failure_group,
}
