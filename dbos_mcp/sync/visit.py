"""One cycle's way through one application: what its parts share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from dbos_mcp.conductor.models import Application
from dbos_mcp.errors import DbosMcpError
from dbos_mcp.store import sync_state
from dbos_mcp.store.events import Event, WorkflowObserved
from dbos_mcp.store.sync_state import SyncStateRow
from dbos_mcp.sync.mirror import Look, Mirror

OVERLAP_MS = 120_000
PAGE_LIMIT = 1000

Progress = Callable[[str, str, int], None]
"""Told the application, what is being read of it, and how many rows this cycle saw so far."""


def no_progress(_application_name: str, _subject: str, _count: int) -> None:
    """Nobody watches."""


@dataclass
class ApplicationReport:
    """What one cycle did for one application."""

    application_name: str
    workflows_seen: int = 0
    events: int = 0
    background_events: int = 0
    """Of these, the readings of steps that had waited for their turn: nothing has changed."""
    error: DbosMcpError | None = None

    def add(self, other: "ApplicationReport") -> None:
        """What another cycle did as well."""
        self.workflows_seen += other.workflows_seen
        self.events += other.events


@dataclass
class Memory:
    """What the process remembers of an application from cycle to cycle; a new one asks once more.

    Times are epoch milliseconds by our clock.
    """

    newest_seen: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of each kind of moment the newest (upstream's clock), and since when it is known to be."""
    executors_listed_at: int | None = None
    in_flight_listed_at: int | None = None
    in_flight_listed: int = 0
    """How many rows the last full listing of what is in flight had."""
    delayed_left_out: bool = False
    """The last look listed what is in flight, but not what is delayed."""
    came_to_its_end: bool = False
    """The last look; else the sources of forks that it saw may not have been read again."""
    aggregates_refused_at: int | None = None
    """When upstream last said that it has no aggregates."""


@dataclass
class Visit:
    mirror: Mirror
    application: Application
    state: SyncStateRow
    memory: Memory
    started_at: int
    page_limit: int = PAGE_LIMIT
    history_ms: int | None = None
    progress: Progress = no_progress
    applications: int = 1
    """How many share what a cycle may ask for."""
    forked_from: set[str] = field(default_factory=set)
    """The sources of forks that were new: nothing else tells that they were forked."""

    def __post_init__(self) -> None:
        self.name = self.application.name
        self.report = ApplicationReport(self.name)

    async def record(
        self, page: Look, subject: str, *, new_without_texts: bool = False, **changes: int | bool
    ) -> None:
        """A page, and in the same transaction what its having been read changes of the state."""
        save = partial(sync_state.update, application_name=self.name, changes=changes)
        also = save if changes else None
        self.note(
            await self.mirror.record_workflows(
                self.name, page, also=also, new_without_texts=new_without_texts
            )
        )
        self._change(changes)
        await self.mirror.fold_back()
        self.report.workflows_seen += len(page.rows)
        self.progress(self.name, subject, self.report.workflows_seen)

    async def reread(self, workflow_ids: Sequence[str]) -> None:
        """By id: what is missing there is deleted."""
        reread = await self.mirror.refresh_workflows(self.name, workflow_ids)
        self.report.events += reread.events

    async def move_on(self, **changes: int | bool | str | None) -> None:
        if any(getattr(self.state, name) != value for name, value in changes.items()):
            await self.mirror.write(
                partial(sync_state.update, application_name=self.name, changes=changes)
            )
            self._change(changes)

    def note(self, events: list[Event]) -> None:
        self.report.events += len(events)
        for event in events:
            if isinstance(event, WorkflowObserved) and event.forked_from is not None:
                self.forked_from.add(event.forked_from)

    def behind(self, newest: int) -> int:
        """A watermark that does not pass what may still become visible."""
        return max(0, min(newest, self.started_at) - OVERLAP_MS)

    def watermark_after(self, subject: str, newest: int) -> int:
        """How far to move a watermark, when everything up to `newest` was seen."""
        if not self._is_quiet(subject, newest):
            return self.behind(newest)
        # Right behind the newest, so that nothing is read again while nothing happens.
        return max(0, min(newest + 1, self.started_at - OVERLAP_MS))

    def _is_quiet(self, subject: str, newest: int) -> bool:
        """Whether nothing newer has come for so long that nothing older can come any more.

        By how long we have known it, not by comparing upstream's clock with ours.
        """
        known = self.memory.newest_seen.get(subject)
        if known is None or known[0] != newest:
            known = self.memory.newest_seen[subject] = (newest, self.started_at)
        return self.started_at - known[1] >= OVERLAP_MS

    def _change(self, changes: Mapping[str, int | bool | str | None]) -> None:
        for name, value in changes.items():
            setattr(self.state, name, value)
