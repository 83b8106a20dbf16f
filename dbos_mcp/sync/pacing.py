"""How soon to look again: every few seconds while somebody asks or something changes, ever more
rarely while neither is so, and not at all once nobody has asked anything for long.

Pure: all times are epoch milliseconds by our clock, passed in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dbos_mcp.domain import CONDUCTOR
from dbos_mcp.store.sync_state import SyncStateRow

SHORTEST_MS = 5_000
LONGEST_MS = 60_000
RARE_MS = 300_000
"""Of an application that is forgotten, as long as others are asked about."""
ATTENTIVE_MS = 120_000
FORGOTTEN_MS = 3_600_000
IDLE_AFTER_MS = 3_600_000


@dataclass(frozen=True)
class Attention:
    """When somebody last asked, by application name; `CONDUCTOR` is about all of them."""

    asked_at: Mapping[str, int] = field(default_factory=dict)

    def attentive(self, application_name: str, now: int) -> bool:
        return self._within(ATTENTIVE_MS, now, application_name, CONDUCTOR)

    def forgotten(self, application_name: str, now: int) -> bool:
        return not self._within(FORGOTTEN_MS, now, application_name, CONDUCTOR)

    def idle(self, now: int) -> bool:
        return not self._within(IDLE_AFTER_MS, now, *self.asked_at)

    def _within(self, span_ms: int, now: int, *names: str) -> bool:
        # A clock that was set back makes a question newer than it is: that does no harm.
        return any(now - self.asked_at[name] < span_ms for name in names if name in self.asked_at)


@dataclass(frozen=True)
class Outcome:
    """What a look at an application came to."""

    changed: bool = False
    failed: bool = False
    loading: bool = False
    """The first load is not yet complete."""


@dataclass(frozen=True)
class Pace:
    """Of one application, since its last look."""

    looked_at: int
    """When that look began."""
    interval_ms: int = SHORTEST_MS
    attentive: bool = False
    """Somebody was asking about it then."""
    failed: bool = False
    loading: bool = False


def pace_after(
    application_name: str,
    before: Pace | None,
    outcome: Outcome,
    attention: Attention,
    looked_at: int,
) -> Pace:
    """The pace after a look that began at `looked_at`."""
    attentive = attention.attentive(application_name, looked_at)
    begins = before is None or (attentive and not before.attentive)
    busy = not outcome.failed and (attentive or outcome.changed or outcome.loading)
    interval_ms = SHORTEST_MS
    if before is not None and not begins and not busy:
        interval_ms = min(2 * before.interval_ms, LONGEST_MS)
    return Pace(
        looked_at,
        interval_ms,
        attentive=attentive,
        failed=outcome.failed,
        loading=outcome.loading and not outcome.failed,
    )


def pace_of_another(state: SyncStateRow) -> Pace | None:
    """Where the process that synced before this one had got to, as far as it was kept."""
    if state.attempted_at is None or state.next_at is None:
        return None
    interval_ms = min(max(state.next_at - state.attempted_at, SHORTEST_MS), LONGEST_MS)
    return Pace(state.attempted_at, interval_ms, failed=state.last_error is not None)


def next_look(
    application_name: str, pace: Pace | None, attention: Attention, now: int
) -> int | None:
    """When to look at it again, perhaps a time that has passed; None: not before somebody asks."""
    if attention.idle(now) and not (pace is not None and pace.loading):
        return None
    if pace is None or pace.looked_at > now:  # never, or by a clock that has been set back
        return now
    attentive = attention.attentive(application_name, now)
    if attentive and not pace.attentive:
        return now
    if pace.loading or (attentive and not pace.failed):
        return pace.looked_at + SHORTEST_MS
    if attention.forgotten(application_name, now):
        return pace.looked_at + RARE_MS
    return pace.looked_at + pace.interval_ms
