"""Event log, read models and sync state"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "application",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("application_name", sa.String(), nullable=False),
        sa.Column("application_id", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("language", sa.String(), nullable=True),
        sa.Column("private_mode", sa.Boolean(), nullable=False),
        sa.Column("dbos_cloud", sa.Boolean(), nullable=False),
        sa.Column("executor_timeout_secs", sa.Integer(), nullable=True),
        sa.Column("gc_rows_threshold", sa.Integer(), nullable=True),
        sa.Column("gc_time_threshold_ms", sa.Integer(), nullable=True),
        sa.Column("global_timeout_ms", sa.Integer(), nullable=True),
        sa.Column("observed_at", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("application_name"),
    )
    op.create_table(
        "command",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("command_id", sa.String(), nullable=False),
        sa.Column("application_name", sa.String(), nullable=False),
        sa.Column("workflow_id", sa.String(), nullable=False),
        sa.Column("command", sa.String(), nullable=False),
        sa.Column("arguments", sa.String(), nullable=False),
        sa.Column("issued_at", sa.Integer(), nullable=False),
        sa.Column("settled_at", sa.Integer(), nullable=True),
        sa.Column("outcome", sa.String(), nullable=True),
        sa.Column("detail", sa.String(), nullable=True),
        sa.Column("new_workflow_id", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("command_id"),
    )
    op.create_index("ix_command_workflow", "command", ["application_name", "workflow_id"])

    op.create_table(
        "event",
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("application_name", sa.String(), nullable=False),
        sa.Column("workflow_id", sa.String(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("occurred_at", sa.Integer(), nullable=True),
        sa.Column("recorded_at", sa.Integer(), nullable=False),
        sa.Column("data", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("position"),
    )
    op.create_index("ix_event_workflow_id", "event", ["workflow_id"])

    op.create_table(
        "executor",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("application_name", sa.String(), nullable=False),
        sa.Column("executor_id", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("application_version", sa.String(), nullable=True),
        sa.Column("hostname", sa.String(), nullable=True),
        sa.Column("host_id", sa.String(), nullable=True),
        sa.Column("language", sa.String(), nullable=True),
        sa.Column("dbos_version", sa.String(), nullable=True),
        sa.Column("executor_metadata", sa.String(), nullable=True),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.Integer(), nullable=False),
        sa.Column("observed_at", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("application_name", "executor_id"),
    )
    op.create_table(
        "projection_checkpoint",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "step_reading",
        sa.Column("application_name", sa.String(), nullable=False),
        sa.Column("workflow_id", sa.String(), nullable=False),
        sa.Column("read_at", sa.Integer(), nullable=False),
        sa.Column("workflow_updated_at", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("application_name", "workflow_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "sync_state",
        sa.Column("application_name", sa.String(), nullable=False),
        sa.Column("watermark", sa.Integer(), nullable=True),
        sa.Column("ended_watermark", sa.Integer(), nullable=True),
        sa.Column("covered_since", sa.Integer(), nullable=True),
        sa.Column("history_complete", sa.Boolean(), nullable=False),
        sa.Column("attempted_at", sa.Integer(), nullable=True),
        sa.Column("succeeded_at", sa.Integer(), nullable=True),
        sa.Column("offline_since", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("application_name"),
    )
    op.create_table(
        "workflow",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("application_name", sa.String(), nullable=False),
        sa.Column("workflow_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.Integer(), nullable=False),
        sa.Column("completed_at", sa.Integer(), nullable=True),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("workflow_name", sa.String(), nullable=True),
        sa.Column("class_name", sa.String(), nullable=True),
        sa.Column("config_name", sa.String(), nullable=True),
        sa.Column("owning_application", sa.String(), nullable=True),
        sa.Column("authenticated_user", sa.String(), nullable=True),
        sa.Column("assumed_role", sa.String(), nullable=True),
        sa.Column("authenticated_roles", sa.String(), nullable=True),
        sa.Column("application_version", sa.String(), nullable=True),
        sa.Column("executor_id", sa.String(), nullable=True),
        sa.Column("queue_name", sa.String(), nullable=True),
        sa.Column("queue_partition_key", sa.String(), nullable=True),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("deduplication_id", sa.String(), nullable=True),
        sa.Column("parent_workflow_id", sa.String(), nullable=True),
        sa.Column("forked_from", sa.String(), nullable=True),
        sa.Column("was_forked_from", sa.Boolean(), nullable=False),
        sa.Column("schedule_name", sa.String(), nullable=True),
        sa.Column("attributes", sa.String(), nullable=True),
        sa.Column("dequeued_at", sa.Integer(), nullable=True),
        sa.Column("delay_until", sa.Integer(), nullable=True),
        sa.Column("deadline", sa.Integer(), nullable=True),
        sa.Column("timeout_ms", sa.Integer(), nullable=True),
        sa.Column("payloads_loaded", sa.Boolean(), nullable=False),
        sa.Column("input", sa.String(), nullable=True),
        sa.Column("output", sa.String(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("content_hash", sa.LargeBinary(), nullable=False),
        sa.Column("observed_at", sa.Integer(), nullable=False),
        sa.Column("deleted_at", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_workflow_created_at", "workflow", ["application_name", "created_at"])
    op.create_index(
        "ix_workflow_forked_from",
        "workflow",
        ["application_name", "forked_from", "created_at"],
        sqlite_where=sa.text("forked_from IS NOT NULL"),
    )
    op.create_index(
        "ix_workflow_parent_workflow_id",
        "workflow",
        ["application_name", "parent_workflow_id", "created_at"],
        sqlite_where=sa.text("parent_workflow_id IS NOT NULL"),
    )
    op.create_index(
        "ix_workflow_queue_name",
        "workflow",
        ["application_name", "queue_name", "created_at"],
        sqlite_where=sa.text("queue_name IS NOT NULL"),
    )
    op.create_index("ix_workflow_status", "workflow", ["application_name", "status", "created_at"])
    op.create_index(
        "ix_workflow_workflow_name", "workflow", ["application_name", "workflow_name", "created_at"]
    )
    op.create_index("ux_workflow", "workflow", ["application_name", "workflow_id"], unique=True)

    op.create_table(
        "step",
        sa.Column("workflow_key", sa.Integer(), nullable=False),
        sa.Column("step_id", sa.Integer(), nullable=False),
        sa.Column("step_name", sa.String(), nullable=False),
        sa.Column("child_workflow_id", sa.String(), nullable=True),
        sa.Column("started_at", sa.Integer(), nullable=True),
        sa.Column("completed_at", sa.Integer(), nullable=True),
        sa.Column("output", sa.String(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("observed_at", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workflow_key"],
            ["workflow.id"],
        ),
        sa.PrimaryKeyConstraint("workflow_key", "step_id"),
        sqlite_with_rowid=False,
    )
    # The first is for INSERT OR REPLACE, which deletes without asking the third.
    op.execute(
        "CREATE TRIGGER event_refuses_replace BEFORE INSERT ON event"
        " WHEN NEW.position <= (SELECT max(position) FROM event)"
        " BEGIN SELECT RAISE(ABORT, 'the event log is append-only'); END"
    )
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER event_refuses_{change.lower()} BEFORE {change} ON event"
            " BEGIN SELECT RAISE(ABORT, 'the event log is append-only'); END"
        )


def downgrade() -> None:
    """Caches only move forward: an older program is told so, and a rebuild needs only the log."""
    raise NotImplementedError
