"""How old, how complete and how live an answer is: it ends every one of them."""

import math
from dataclasses import dataclass, replace

from sqlalchemy import Connection, bindparam, select
from sqlmodel import col

from dbos_mcp.domain import CONDUCTOR, format_time
from dbos_mcp.store import sync_state
from dbos_mcp.store.projections.applications import ApplicationRow
from dbos_mcp.store.sync_state import Excerpt, SyncStateRow

_LONGEST_LOOK_MS = 600_000


@dataclass(frozen=True)
class Looked:
    """What was looked at for the sake of one question."""

    read_at: int | None = None
    """When the one workflow that it is about was read by its id."""
    why_not: str | None = None
    """Why the answer is not as fresh as it was to be."""


NOTHING_LOOKED_AT = Looked()


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
    behind: tuple[str, ...] = ()
    """Of all applications those for which any of this is worse, each with how."""
    looked: Looked = NOTHING_LOOKED_AT
    excerpt: Excerpt | None = None
    """What there is of it, where that is not a mirror but an incident file."""


# Made once: they are asked for with nearly every answer.
_OF_ONE = select(
    col(SyncStateRow.succeeded_at),
    col(SyncStateRow.covered_since),
    col(SyncStateRow.history_complete),
    col(SyncStateRow.offline_since),
    col(SyncStateRow.last_error),
    col(SyncStateRow.excerpt),
).where(col(SyncStateRow.application_name) == bindparam("name"))
_OF_EACH = (
    select(
        col(ApplicationRow.application_name),
        col(SyncStateRow.succeeded_at),
        col(SyncStateRow.offline_since),
        col(SyncStateRow.last_error),
        col(SyncStateRow.covered_since),
        col(SyncStateRow.history_complete),
    )
    .outerjoin(
        SyncStateRow,
        col(SyncStateRow.application_name) == col(ApplicationRow.application_name),
    )
    .order_by(col(ApplicationRow.application_name))
)


def freshness(connection: Connection, application_name: str = CONDUCTOR) -> Freshness:
    """Of one application, or of the list of applications."""
    state = connection.execute(_OF_ONE, {"name": application_name}).first()
    if state is None:
        return Freshness(None, None, False, None, None)
    return Freshness(
        state.succeeded_at,
        state.covered_since,
        state.history_complete,
        state.offline_since,
        state.last_error,
        excerpt=Excerpt.of(state.excerpt),
    )


def freshness_of_all(connection: Connection) -> Freshness:
    """Of an answer about every application: as old as the oldest of those that are live, and as
    complete as the least complete of them."""
    whole = freshness(connection)
    away = math.inf if whole.offline_since is None else whole.offline_since
    behind, live = [], [whole.as_of]
    states = connection.execute(_OF_EACH).all()
    since = [state.covered_since for state in states if state.covered_since is not None]
    all_begun = len(since) == len(states) > 0
    for name, succeeded_at, offline_since, last_error, *_ in states:
        if succeeded_at is None:
            behind.append(f"{name} is not looked at yet")
        elif offline_since is not None and offline_since < away:
            behind.append(f"{name} is offline since {format_time(offline_since)}")
        elif last_error is not None and offline_since is None:
            behind.append(f"{name} is not read since {format_time(succeeded_at)}")
        else:
            live.append(succeeded_at)
    seen = [as_of for as_of in live if as_of is not None]
    as_of = min(seen) if len(seen) == len(live) else None
    return replace(
        whole,
        as_of=as_of,
        covered_since=max(since) if all_begun else None,
        history_complete=all_begun and all(state.history_complete for state in states),
        behind=tuple(behind),
    )


def last_seen(connection: Connection, application_name: str | None = None) -> int | None:
    """When the last complete look ended, at an application or at any: what is mirrored is of
    before. Attempts that came to nothing go on, a look does not."""
    states = sync_state.load_all(connection)
    ends = [
        max(state.succeeded_at, min(state.attempted_at or 0, state.succeeded_at + _LONGEST_LOOK_MS))
        for name, state in states.items()
        if state.succeeded_at is not None and application_name in (None, CONDUCTOR, name)
    ]
    return max(ends, default=None)


def now_offline(connection: Connection, application_name: str | None, *, now: int) -> int:
    """What `now` means where nobody looks any more: all that there is is of before."""
    seen = last_seen(connection, application_name)
    return now if seen is None else min(now, seen)


def looked_at_conductor(connection: Connection) -> bool:
    """Whether the applications were ever listed, or could not be."""
    state = sync_state.load(connection, CONDUCTOR)
    return state.attempted_at is not None


def looked_at_applications(connection: Connection) -> bool:
    """Whether every listed application was once read to the end, or could not be."""
    names = connection.execute(select(col(ApplicationRow.application_name))).scalars()
    return all(sync_state.load(connection, name).attempted_at is not None for name in names.all())
