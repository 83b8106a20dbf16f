"""How many secrets were redacted before they were stored"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "redaction",
        sa.Column("application_name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("application_name", "kind"),
    )


def downgrade() -> None:
    """Caches only move forward: an older program is told so, and a rebuild needs only the log."""
    raise NotImplementedError
