"""Indexes that count what is left upstream without the rows, and of times, errors and steps"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

EVERY_ROW = ("status", "workflow_name")
SPARSE = ("queue_name", "parent_workflow_id", "forked_from")
NEW_SPARSE = ("authenticated_user", "schedule_name")


def upgrade() -> None:
    for name in ("created_at", *EVERY_ROW, *SPARSE):
        # A large load may be under way, which goes without them.
        op.execute(f"DROP INDEX IF EXISTS ix_workflow_{name}")
    _create("created_at", "created_at", "deleted_at")
    _create("completed_at", "completed_at", "created_at", "dequeued_at", "deleted_at")
    for name in EVERY_ROW:
        _create(name, name, "created_at", "deleted_at")
    for name in (*SPARSE, *NEW_SPARSE):
        _create(name, name, "created_at", "deleted_at", where=name)
    _create("error", "created_at", "deleted_at", where="error")
    _create("deleted_at", "created_at", where="deleted_at")
    op.create_index("ix_step_step_name", "step", ["step_name", "workflow_key"])
    op.create_index(
        "ix_step_error", "step", ["workflow_key"], sqlite_where=sa.text("error IS NOT NULL")
    )


def _create(name: str, *columns: str, where: str | None = None) -> None:
    op.create_index(
        f"ix_workflow_{name}",
        "workflow",
        ["application_name", *columns],
        sqlite_where=sa.text(f"{where} IS NOT NULL") if where else None,
    )


def downgrade() -> None:
    """Caches only move forward: an older program is told so, and a rebuild needs only the log."""
    raise NotImplementedError
