"""The public views, an index of when events were recorded, and one made anew to be the newest"""

from collections.abc import Sequence

from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

VIEWS = (
    """CREATE VIEW workflows AS SELECT
  workflows.application_name AS application_name,
  workflows.workflow_id AS workflow_id,
  workflows.workflow_name AS workflow_name,
  workflows.class_name AS class_name,
  workflows.config_name AS config_name,
  workflows.status AS status,
  workflows.status IN ('SUCCESS', 'CANCELLED', 'ERROR', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED') AS is_terminal,
  workflows.status IN ('ERROR', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED') AS is_failed,
  workflows.deleted_at IS NOT NULL AS is_deleted,
  strftime('%Y-%m-%dT%H:%M:%fZ', workflows.created_at / 1000.0, 'unixepoch') AS created_at,
  workflows.created_at AS created_at_ms,
  strftime('%Y-%m-%dT%H:%M:%fZ', workflows.updated_at / 1000.0, 'unixepoch') AS updated_at,
  workflows.updated_at AS updated_at_ms,
  strftime('%Y-%m-%dT%H:%M:%fZ', workflows.dequeued_at / 1000.0, 'unixepoch') AS dequeued_at,
  workflows.dequeued_at AS dequeued_at_ms,
  strftime('%Y-%m-%dT%H:%M:%fZ', workflows.completed_at / 1000.0, 'unixepoch') AS completed_at,
  workflows.completed_at AS completed_at_ms,
  strftime('%Y-%m-%dT%H:%M:%fZ', workflows.delay_until / 1000.0, 'unixepoch') AS delay_until,
  workflows.delay_until AS delay_until_ms,
  strftime('%Y-%m-%dT%H:%M:%fZ', workflows.deadline / 1000.0, 'unixepoch') AS deadline,
  workflows.deadline AS deadline_ms,
  workflows.timeout_ms AS timeout_ms,
  workflows.completed_at - coalesce(workflows.dequeued_at, workflows.created_at) AS duration_ms,
  workflows.dequeued_at - workflows.created_at AS queue_wait_ms,
  workflows.queue_name AS queue_name,
  workflows.queue_partition_key AS queue_partition_key,
  workflows.priority AS priority,
  workflows.deduplication_id AS deduplication_id,
  workflows.parent_workflow_id AS parent_workflow_id,
  workflows.forked_from AS forked_from,
  workflows.was_forked_from AS was_forked_from,
  workflows.schedule_name AS schedule_name,
  workflows.application_version AS application_version,
  workflows.executor_id AS executor_id,
  workflows.authenticated_user AS authenticated_user,
  workflows.assumed_role AS assumed_role,
  workflows.authenticated_roles AS authenticated_roles,
  workflows.owning_application AS owning_application,
  workflows.attributes AS attributes,
  workflows.input AS input,
  workflows.output AS output,
  workflows.error AS error,
  strftime('%Y-%m-%dT%H:%M:%fZ', workflows.observed_at / 1000.0, 'unixepoch') AS observed_at,
  workflows.observed_at AS observed_at_ms,
  strftime('%Y-%m-%dT%H:%M:%fZ', workflows.deleted_at / 1000.0, 'unixepoch') AS deleted_at,
  workflows.deleted_at AS deleted_at_ms
FROM workflow AS workflows""",
    """CREATE VIEW steps AS SELECT
  workflows.application_name AS application_name,
  workflows.workflow_id AS workflow_id,
  workflows.workflow_name AS workflow_name,
  workflows.application_version AS application_version,
  steps.step_id AS step_id,
  steps.step_name AS step_name,
  steps.child_workflow_id AS child_workflow_id,
  strftime('%Y-%m-%dT%H:%M:%fZ', steps.started_at / 1000.0, 'unixepoch') AS started_at,
  steps.started_at AS started_at_ms,
  strftime('%Y-%m-%dT%H:%M:%fZ', steps.completed_at / 1000.0, 'unixepoch') AS completed_at,
  steps.completed_at AS completed_at_ms,
  steps.completed_at - steps.started_at AS duration_ms,
  steps.error IS NOT NULL AS is_failed,
  steps.output AS output,
  steps.error AS error,
  strftime('%Y-%m-%dT%H:%M:%fZ', steps.observed_at / 1000.0, 'unixepoch') AS observed_at,
  steps.observed_at AS observed_at_ms
FROM step AS steps JOIN workflow AS workflows ON workflows.id = steps.workflow_key""",
    """CREATE VIEW events AS SELECT
  events.position AS position,
  events.application_name AS application_name,
  events.workflow_id AS workflow_id,
  events.kind AS kind,
  strftime('%Y-%m-%dT%H:%M:%fZ', events.occurred_at / 1000.0, 'unixepoch') AS occurred_at,
  events.occurred_at AS occurred_at_ms,
  strftime('%Y-%m-%dT%H:%M:%fZ', events.recorded_at / 1000.0, 'unixepoch') AS recorded_at,
  events.recorded_at AS recorded_at_ms,
  events.data AS data
FROM event AS events""",
    """CREATE VIEW applications AS SELECT
  applications.application_name AS application_name,
  applications.application_id AS application_id,
  applications.status AS status,
  applications.language AS language,
  applications.private_mode AS private_mode,
  applications.dbos_cloud AS dbos_cloud,
  applications.executor_timeout_secs AS executor_timeout_secs,
  applications.gc_rows_threshold AS gc_rows_threshold,
  applications.gc_time_threshold_ms AS gc_time_threshold_ms,
  applications.global_timeout_ms AS global_timeout_ms,
  strftime('%Y-%m-%dT%H:%M:%fZ', applications.observed_at / 1000.0, 'unixepoch') AS observed_at,
  applications.observed_at AS observed_at_ms
FROM application AS applications""",
    """CREATE VIEW executors AS SELECT
  executors.application_name AS application_name,
  executors.executor_id AS executor_id,
  executors.status AS status,
  executors.application_version AS application_version,
  executors.hostname AS hostname,
  executors.host_id AS host_id,
  executors.language AS language,
  executors.dbos_version AS dbos_version,
  executors.executor_metadata AS executor_metadata,
  strftime('%Y-%m-%dT%H:%M:%fZ', executors.created_at / 1000.0, 'unixepoch') AS created_at,
  executors.created_at AS created_at_ms,
  strftime('%Y-%m-%dT%H:%M:%fZ', executors.updated_at / 1000.0, 'unixepoch') AS updated_at,
  executors.updated_at AS updated_at_ms,
  strftime('%Y-%m-%dT%H:%M:%fZ', executors.observed_at / 1000.0, 'unixepoch') AS observed_at,
  executors.observed_at AS observed_at_ms
FROM executor AS executors""",
    """CREATE VIEW queues AS SELECT
  workflows.application_name AS application_name,
  workflows.queue_name AS queue_name,
  count(workflows.id) AS workflows,
  count(workflows.id) FILTER (WHERE workflows.status IN ('ENQUEUED')) AS enqueued,
  count(workflows.id) FILTER (WHERE workflows.status IN ('DELAYED')) AS delayed,
  count(workflows.id) FILTER (WHERE workflows.status IN ('PENDING')) AS running,
  count(workflows.id) FILTER (WHERE workflows.status IN ('ERROR', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')) AS failed,
  strftime('%Y-%m-%dT%H:%M:%fZ', min(workflows.created_at) FILTER (WHERE workflows.status IN ('ENQUEUED')) / 1000.0, 'unixepoch') AS oldest_enqueued_at,
  min(workflows.created_at) FILTER (WHERE workflows.status IN ('ENQUEUED')) AS oldest_enqueued_at_ms,
  strftime('%Y-%m-%dT%H:%M:%fZ', max(workflows.created_at) / 1000.0, 'unixepoch') AS last_created_at,
  max(workflows.created_at) AS last_created_at_ms
FROM workflow AS workflows WHERE workflows.queue_name IS NOT NULL AND workflows.deleted_at IS NULL GROUP BY workflows.application_name, workflows.queue_name""",
    """CREATE VIEW schedules AS SELECT
  workflows.application_name AS application_name,
  workflows.schedule_name AS schedule_name,
  max(workflows.workflow_name) AS workflow_name,
  count(workflows.id) AS workflows,
  count(workflows.id) FILTER (WHERE workflows.status IN ('PENDING', 'ENQUEUED', 'DELAYED')) AS in_flight,
  count(workflows.id) FILTER (WHERE workflows.status IN ('ERROR', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')) AS failed,
  strftime('%Y-%m-%dT%H:%M:%fZ', max(workflows.created_at) / 1000.0, 'unixepoch') AS last_created_at,
  max(workflows.created_at) AS last_created_at_ms
FROM workflow AS workflows WHERE workflows.schedule_name IS NOT NULL GROUP BY workflows.application_name, workflows.schedule_name""",
    """CREATE VIEW commands AS SELECT
  commands.application_name AS application_name,
  commands.command_id AS command_id,
  commands.workflow_id AS workflow_id,
  commands.command AS command,
  commands.arguments AS arguments,
  strftime('%Y-%m-%dT%H:%M:%fZ', commands.issued_at / 1000.0, 'unixepoch') AS issued_at,
  commands.issued_at AS issued_at_ms,
  strftime('%Y-%m-%dT%H:%M:%fZ', commands.settled_at / 1000.0, 'unixepoch') AS settled_at,
  commands.settled_at AS settled_at_ms,
  commands.settled_at - commands.issued_at AS duration_ms,
  commands.outcome AS outcome,
  commands.detail AS detail,
  commands.new_workflow_id AS new_workflow_id
FROM command AS commands""",
    """CREATE VIEW failures AS SELECT
  failures.application_name AS application_name,
  failures.workflow_id AS workflow_id,
  failures.workflow_name AS workflow_name,
  failures.status AS status,
  strftime('%Y-%m-%dT%H:%M:%fZ', failures.created_at / 1000.0, 'unixepoch') AS created_at,
  failures.created_at AS created_at_ms,
  strftime('%Y-%m-%dT%H:%M:%fZ', failures.completed_at / 1000.0, 'unixepoch') AS completed_at,
  failures.completed_at AS completed_at_ms,
  strftime('%Y-%m-%dT%H:%M:%fZ', failures.updated_at / 1000.0, 'unixepoch') AS updated_at,
  failures.updated_at AS updated_at_ms,
  failures.completed_at - coalesce(failures.dequeued_at, failures.created_at) AS duration_ms,
  failures.application_version AS application_version,
  failures.executor_id AS executor_id,
  failures.queue_name AS queue_name,
  failures.parent_workflow_id AS parent_workflow_id,
  failures.forked_from AS forked_from,
  failures.authenticated_user AS authenticated_user,
  failures.attributes AS attributes,
  failures.input AS input,
  failures.error AS error,
  (SELECT steps.step_id FROM step AS steps WHERE steps.workflow_key = failures.id AND steps.error IS NOT NULL ORDER BY steps.step_id DESC LIMIT 1) AS failed_step_id,
  (SELECT steps.step_name FROM step AS steps WHERE steps.workflow_key = failures.id AND steps.error IS NOT NULL ORDER BY steps.step_id DESC LIMIT 1) AS failed_step_name,
  (SELECT steps.error FROM step AS steps WHERE steps.workflow_key = failures.id AND steps.error IS NOT NULL ORDER BY steps.step_id DESC LIMIT 1) AS failed_step_error,
  failures.deleted_at IS NOT NULL AS is_deleted
FROM workflow AS failures WHERE failures.status IN ('ERROR', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')""",
)


def upgrade() -> None:
    op.create_index("ix_event_recorded_at", "event", ["recorded_at"])
    # A large load may be under way, which goes without it.
    op.execute("DROP INDEX IF EXISTS ix_workflow_completed_at")
    op.create_index(
        "ix_workflow_completed_at",
        "workflow",
        ["application_name", "completed_at", "created_at", "dequeued_at", "deleted_at"],
    )
    for view in VIEWS:
        op.get_bind().exec_driver_sql(view)  # as it is: a colon in it is no parameter


def downgrade() -> None:
    """Caches only move forward: an older program is told so, and a rebuild needs only the log."""
    raise NotImplementedError
