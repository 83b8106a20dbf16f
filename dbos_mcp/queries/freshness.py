"""How old, how complete and how live an answer is: it ends every one of them."""

from dataclasses import dataclass

from sqlalchemy import Connection, select
from sqlmodel import col

from dbos_mcp.store import sync_state
from dbos_mcp.store.projections.applications import ApplicationRow
from dbos_mcp.store.sync_state import CONDUCTOR, SyncStateRow


@dataclass(frozen=True)
class Freshness:
    """Times are epoch milliseconds by our clock, `covered_since` by upstream's."""

    as_of: int | None
    """When the last complete look began; None: there was none."""
    covered_since: int | None
    """Workflows created before it may be missing; 0: none are."""
    history_complete: bool
    """Nothing further back was asked for."""
    offline_since: int | None
    """Upstream has not answered since."""
    reason: str | None
    """What it said, or did, instead."""


def freshness(connection: Connection, application_name: str = CONDUCTOR) -> Freshness:
    """Of one application, or of the list of applications."""
    state = connection.execute(
        select(
            col(SyncStateRow.succeeded_at),
            col(SyncStateRow.covered_since),
            col(SyncStateRow.history_complete),
            col(SyncStateRow.offline_since),
            col(SyncStateRow.last_error),
        ).where(col(SyncStateRow.application_name) == application_name)
    ).first()
    return Freshness(None, None, False, None, None) if state is None else Freshness(*state)


def looked_at_conductor(connection: Connection) -> bool:
    """Whether the applications were ever listed, or could not be."""
    state = sync_state.load(connection, CONDUCTOR)
    return state.attempted_at is not None


def looked_at_applications(connection: Connection) -> bool:
    """Whether every listed application was once read to the end, or could not be."""
    names = connection.execute(select(col(ApplicationRow.application_name))).scalars()
    return all(sync_state.load(connection, name).attempted_at is not None for name in names.all())
