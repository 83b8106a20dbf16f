"""Audits, traffic, due steps and attention in what sync knows of itself; which payloads are held"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

COUNTERS = ("requests", "failed_requests", "bytes_sent", "bytes_received", "audit_found")
PLACES = (
    "dequeued_watermark",
    "steps_since",
    "next_at",
    "audited_at",
    "audit_cursor",
    "reread_position",
    "reread_began_at",
    "reread_at",
)


def upgrade() -> None:
    for name in PLACES:
        op.add_column("sync_state", sa.Column(name, sa.Integer(), nullable=True))
    for name in COUNTERS:
        op.add_column(
            "sync_state", sa.Column(name, sa.Integer(), nullable=False, server_default="0")
        )
    for name in ("input_loaded", "output_loaded"):
        op.add_column("workflow", sa.Column(name, sa.Boolean(), nullable=False, server_default="0"))
    op.rename_table("step_reading", "old_step_reading")
    op.create_table(
        "step_reading",
        sa.Column("workflow_key", sa.Integer(), nullable=False),
        sa.Column("read_at", sa.Integer(), nullable=False),
        sa.Column("workflow_status", sa.String(), nullable=False),
        sa.Column("workflow_updated_at", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("workflow_key"),
    )
    op.execute(
        "INSERT INTO step_reading"
        " SELECT workflow.id, read_at, status, workflow_updated_at, NULL FROM old_step_reading"
        " JOIN workflow USING (application_name, workflow_id)"
    )
    op.drop_table("old_step_reading")
    op.create_table(
        "step_due",
        sa.Column("workflow_key", sa.Integer(), nullable=False),
        sa.Column("application_name", sa.String(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("workflow_key"),
    )
    op.create_index("ix_step_due", "step_due", ["application_name", "priority", "due_at"])
    # Those that have ended are found by going through the mirror.
    op.execute(
        "INSERT INTO step_due SELECT id, application_name, 3, 0 FROM workflow"
        " WHERE status = 'PENDING' AND deleted_at IS NULL"
    )
    op.create_table(
        "attention",
        sa.Column("application_name", sa.String(), nullable=False),
        sa.Column("asked_at", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("application_name"),
    )


def downgrade() -> None:
    """Caches only move forward: an older program is told so, and a rebuild needs only the log."""
    raise NotImplementedError
