"""Questions that come up, and the statements that answer them: each is run by a test."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    name: str
    question: str
    sql: str
    parameters: Mapping[str, str]
    """Such as they may be, beside `application_name`."""


_SINCE = {"since": "2026-11-20T00:00:00Z"}


def _ms(parameter: str) -> str:
    """Of a time that is given as text."""
    return f"strftime('%s', :{parameter}) * 1000"


EXAMPLES: tuple[Example, ...] = (
    Example(
        "in_flight_at",
        "What was in flight at 14:05?",
        "SELECT workflow_id, workflow_name, status, created_at, completed_at FROM workflows"
        " WHERE application_name = :application_name"
        f" AND created_at_ms <= {_ms('at')} AND ifnull(deleted_at_ms > {_ms('at')}, 1)"
        f" AND (completed_at_ms > {_ms('at')} OR completed_at_ms IS NULL"
        f" AND (NOT is_terminal OR updated_at_ms > {_ms('at')})) ORDER BY created_at_ms",
        {"at": "2026-11-21T14:05:00Z"},
    ),
    Example(
        "slowest_steps",
        "Which steps are slowest, by version?",
        "SELECT step_name, application_version, count(*) AS runs, avg(duration_ms) AS mean_ms,"
        " max(duration_ms) AS max_ms FROM steps WHERE application_name = :application_name"
        " GROUP BY step_name, application_version ORDER BY mean_ms DESC",
        {},
    ),
    Example(
        "queue_waits",
        "How long did workflows wait in their queues, hour by hour?",
        "SELECT strftime('%Y-%m-%dT%H', min(created_at_ms) / 1000, 'unixepoch') AS hour,"
        " queue_name, count(*) AS workflows, avg(queue_wait_ms) AS mean_ms,"
        " max(queue_wait_ms) AS max_ms, sum(status = 'ENQUEUED') AS still_wait FROM workflows"
        f" WHERE application_name = :application_name AND created_at_ms >= {_ms('since')}"
        " AND queue_name IS NOT NULL GROUP BY created_at_ms / 3600000, queue_name"
        " ORDER BY hour DESC",
        _SINCE,
    ),
    Example(
        "failures_by_version",
        "Does a version fail more often?",
        "SELECT application_version, workflow_name, count(*) AS ended, sum(is_failed) AS failed,"
        " round(100.0 * sum(is_failed) / count(*), 1) AS percent FROM workflows"
        f" WHERE application_name = :application_name AND created_at_ms >= {_ms('since')}"
        " AND is_terminal GROUP BY application_version, workflow_name ORDER BY percent DESC",
        _SINCE,
    ),
    Example(
        "retries",
        "What was started again (recovered, resumed, rewound), and on how many executors?",
        "WITH states AS (SELECT position, workflow_id, recorded_at,"
        " json_extract(data, '$.status') AS status,"
        " json_extract(data, '$.executor_id') AS executor_id FROM events"
        " WHERE application_name = :application_name"
        " AND kind IN ('WorkflowObserved', 'WorkflowChanged')"
        " AND workflow_id IN (SELECT workflow_id FROM events WHERE kind = 'WorkflowChanged'"
        " AND json_extract(data, '$.status') IN ('ENQUEUED', 'PENDING'))),"
        " moves AS (SELECT *, lag(status) OVER w AS before, lag(executor_id) OVER w AS executor"
        " FROM states WINDOW w AS (PARTITION BY workflow_id ORDER BY position))"
        " SELECT workflow_id, sum(status IN ('ENQUEUED', 'PENDING')"
        " AND before NOT IN ('DELAYED', 'ENQUEUED')"
        " AND (status <> before OR executor_id <> executor)) AS again,"
        " count(DISTINCT executor_id) AS executors, max(recorded_at) AS last_seen FROM moves"
        " GROUP BY workflow_id HAVING again > 0 ORDER BY again DESC",
        {},
    ),
    Example(
        "children",
        "How many children has each parent, and how did they end?",
        "SELECT parent_workflow_id, count(*) AS children, sum(is_failed) AS failed,"
        " sum(NOT is_terminal) AS in_flight FROM workflows"
        f" WHERE application_name = :application_name AND created_at_ms >= {_ms('since')}"
        " AND parent_workflow_id IS NOT NULL GROUP BY parent_workflow_id ORDER BY children DESC",
        _SINCE,
    ),
    Example(
        "deleted",
        "What was deleted upstream?",
        "SELECT workflow_id, workflow_name, status, created_at, deleted_at FROM workflows"
        " WHERE application_name = :application_name AND is_deleted ORDER BY deleted_at_ms DESC",
        {},
    ),
    Example(
        "changed_today",
        "What changed today (UTC)?",
        "SELECT kind, count(*) AS events,"
        " strftime('%Y-%m-%dT%H:%M:%SZ', max(recorded_at_ms) / 1000, 'unixepoch') AS last"
        " FROM events"
        " WHERE application_name = :application_name"
        " AND recorded_at_ms >= strftime('%s', 'now', 'start of day') * 1000"
        " GROUP BY kind ORDER BY events DESC",
        {},
    ),
)
