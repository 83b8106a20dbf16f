"""An index of what failed or may have timed out, by its end"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_index(
        "ix_workflow_ended_badly",
        "workflow",
        ["application_name", "completed_at", "updated_at"],
        sqlite_where=sa.text(
            "status IN ('ERROR', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')"
            " OR status = 'CANCELLED' AND deadline IS NOT NULL"
        ),
    )


def downgrade() -> None:
    """Caches only move forward: an older program is told so, and a rebuild needs only the log."""
    raise NotImplementedError
