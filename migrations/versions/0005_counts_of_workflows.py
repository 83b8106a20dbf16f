"""Counts of workflows by day and kind; indexes of those with attributes and those forked from"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

KEY = {
    "application_name": "{}.application_name",
    "day": "{0}.created_at / 86400000 - ({0}.created_at % 86400000 < 0)",
    "status": "{}.status",
    "workflow_name": "ifnull({}.workflow_name, x'')",
    "queue_name": "ifnull({}.queue_name, x'')",
    "executor_id": "ifnull({}.executor_id, x'')",
    "application_version": "ifnull({}.application_version, x'')",
    "has_parent": "{}.parent_workflow_id IS NOT NULL",
    "was_forked_from": "{}.was_forked_from",
    "deleted": "{}.deleted_at IS NOT NULL",
}
CHANGES = (
    "application_name, created_at, status, workflow_name, queue_name, executor_id,"
    " application_version, parent_workflow_id, was_forked_from, deleted_at"
)
AND_ONE = "ON CONFLICT DO UPDATE SET count = count + 1"


def key_of(row: str) -> str:
    return ", ".join(part.format(row) for part in KEY.values())


def upgrade() -> None:
    op.create_table(
        "workflow_count",
        sa.Column("application_name", sa.String(), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("workflow_name", sa.String(), nullable=False),
        sa.Column("queue_name", sa.String(), nullable=False),
        sa.Column("executor_id", sa.String(), nullable=False),
        sa.Column("application_version", sa.String(), nullable=False),
        sa.Column("has_parent", sa.Boolean(), nullable=False),
        sa.Column("was_forked_from", sa.Boolean(), nullable=False),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint(*KEY),
        sqlite_with_rowid=False,
    )
    op.execute(
        f"INSERT INTO workflow_count SELECT {key_of('workflow')}, 1 FROM workflow WHERE TRUE"
        f" {AND_ONE}"
    )
    add = f"INSERT INTO workflow_count VALUES ({key_of('NEW')}, 1) {AND_ONE}"
    is_old = f"({', '.join(KEY)}) = ({key_of('OLD')})"
    take = (
        f"UPDATE workflow_count SET count = count - 1 WHERE {is_old};"
        f" DELETE FROM workflow_count WHERE count = 0 AND {is_old}"
    )
    differs = f"({key_of('NEW')}) IS NOT ({key_of('OLD')})"
    for name, what in {
        "insert": f"AFTER INSERT ON workflow BEGIN {add}; END",
        "update": f"AFTER UPDATE OF {CHANGES} ON workflow WHEN {differs} BEGIN {take}; {add}; END",
        "delete": f"AFTER DELETE ON workflow BEGIN {take}; END",
    }.items():
        op.execute(f"CREATE TRIGGER workflow_count_{name} {what}")
    for name, condition in (
        ("attributes", "attributes IS NOT NULL"),
        ("was_forked_from", "was_forked_from IS 1"),
    ):
        op.create_index(
            f"ix_workflow_{name}",
            "workflow",
            ["application_name", "created_at", "deleted_at"],
            sqlite_where=sa.text(condition),
        )


def downgrade() -> None:
    """Caches only move forward: an older program is told so, and a rebuild needs only the log."""
    raise NotImplementedError
