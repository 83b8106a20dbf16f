"""What was asked for through this mirror, in numbers."""

from collections.abc import Sequence

from sqlalchemy import Connection, func, select
from sqlmodel import col

from dbos_mcp.store.projections.commands import CommandRow


def counts(connection: Connection) -> Sequence[tuple[str, str, int]]:
    """How many of each command came to each outcome; `open` is one whose end was never heard of."""
    outcome = func.coalesce(col(CommandRow.outcome), "open")
    found = connection.execute(
        select(col(CommandRow.command), outcome, func.count()).group_by(
            col(CommandRow.command), outcome
        )
    )
    return [(command, ended, count) for command, ended, count in found]
