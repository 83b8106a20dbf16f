"""A machine that changes an upstream, looks at it, and records what it saw late, twice, out of
order, or not to the end; after each step the mirror must be what can be known.

Each state of a workflow has a number, kept in its `priority`: what is older is told by it.
"""

import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast
from unittest import mock

import anyio.to_thread
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy import Connection, select

from benchmarks.reliability import checks
from benchmarks.reliability.checks import History
from dbos_mcp.conductor.client import ConductorClient
from dbos_mcp.conductor.models import Step, Workflow
from dbos_mcp.settings import Payloads
from dbos_mcp.store import event_log, projector, sync_state
from dbos_mcp.store.event_log import Recorded
from dbos_mcp.store.events import WorkflowChanged, WorkflowDeleted, WorkflowObserved
from dbos_mcp.store.migrate import open_cache
from dbos_mcp.store.projections.steps import StepRow
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.tables import table_of
from dbos_mcp.sync import diff, known
from dbos_mcp.sync.mirror import Look, Mirror
from tests.store.factories import BORN, issued, settled
from tests.store.mortal import Death, Moment, MortalCache

T = TypeVar("T")

APP = "shop"
IDS = ("w1", "w2", "w3", "w4")
STATUSES = ("ENQUEUED", "PENDING", "SUCCESS", "ERROR")
SHOWN = (
    *("workflow_id", "status", "workflow_name", "queue_name", "executor_id", "priority"),
    *("created_at", "updated_at", "completed_at", "dequeued_at", "attributes", "forked_from"),
)
"""What is compared, column by column."""
MOMENTS: tuple[Moment, ...] = ("before", "within", "after")
MOST_PAGES = 4
"""Answers on their way."""
MEMORY = Path("/dev/shm")


class OutOfTimeError(BaseException):
    """Not an `Exception`: nothing was found."""


def out_of_time() -> None:
    """Replaced by who has a limit: called after each step."""


def done(work: Coroutine[Any, Any, T]) -> T:
    """Run what never waits."""
    try:
        work.send(None)
    except StopIteration as end:
        return cast(T, end.value)
    raise AssertionError("it waits")


async def in_place(work: Callable[..., T], *arguments: Any, **_options: Any) -> T:
    return work(*arguments)


@cache
def _blank() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "cache.sqlite"
        open_cache(path).close()
        return path.read_bytes()


@dataclass(frozen=True)
class Page:
    """What a look showed, which of the ids were not there, and what it says of how far it saw."""

    look: Look
    missing: tuple[str, ...]
    watermark: int


class Newest(NamedTuple):
    """What was last recorded of a workflow."""

    position: int
    priority: int


class Machine(RuleBasedStateMachine):
    steps_taken = 0

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.path = self.folder / "cache.sqlite"
        self.path.write_bytes(_blank())
        self.now = BORN
        self.upstream: dict[str, Workflow] = {}
        self.steps: dict[str, list[Step]] = {}
        self.pages: list[Page] = []
        self.history = History()
        self.position = 0
        self.newest: dict[str, Newest] = {}
        self.watermark: int | None = None
        self.commands = 0
        self.dies_at: Moment | None = None
        self._open()

    def _open(self) -> None:
        self.cache = MortalCache(self.path, self._told)
        self.mirror = Mirror(
            self.cache,
            cast(ConductorClient, None),  # the looks are the machine's own
            payloads=Payloads.NONE,
            clock=lambda: self.now,
        )

    def _told(self, moment: Moment) -> None:
        if moment == self.dies_at:
            raise Death

    def teardown(self) -> None:
        self.dies_at = None
        try:
            self.rebuild()
        finally:
            self.cache.close()
            shutil.rmtree(self.folder)

    def _later(self) -> int:
        self.now += 1
        return self.now

    def _read(self, work: Callable[[Connection], T]) -> T:
        with self.cache.read() as connection:
            return work(connection)

    # Upstream

    @rule(
        workflow_id=st.sampled_from(IDS),
        status=st.sampled_from(STATUSES),
        queue=st.sampled_from([None, "q"]),
        silently=st.booleans(),
    )
    def change(self, workflow_id: str, status: str, queue: str | None, silently: bool) -> None:
        """`silently`: some changes leave `updated_at` as it was."""
        at, before = self._later(), self.upstream.get(workflow_id)
        self.upstream[workflow_id] = Workflow(
            workflow_id=workflow_id,
            status=status,
            workflow_name="pay",
            queue_name=queue,
            executor_id=None if status == "ENQUEUED" else f"e-{at % 3}",
            priority=at - BORN,
            created_at=at if before is None else before.created_at,
            updated_at=before.updated_at if before is not None and silently else at,
            completed_at=at if status in ("SUCCESS", "ERROR") else None,
            dequeued_at=None if status == "ENQUEUED" else at,
            attributes=f'{{"n":{at % 5}}}',
            forked_from="w0" if at % 2 else None,
        )

    @rule(workflow_id=st.sampled_from(IDS))
    def delete(self, workflow_id: str) -> None:
        self.upstream.pop(workflow_id, None)
        self.steps.pop(workflow_id, None)

    @rule(workflow_id=st.sampled_from(IDS), count=st.integers(0, 4))
    def take_or_rewind_steps(self, workflow_id: str, count: int) -> None:
        if workflow_id in self.upstream:
            at, taken = self._later(), self.steps.get(workflow_id, [])
            more = [
                Step(step_id=n, step_name=f"s{n}", started_at=at, completed_at=at)
                for n in range(len(taken), count)
            ]
            self.steps[workflow_id] = [*taken[:count], *more]

    # What is seen of it

    @rule(
        ids=st.sets(st.sampled_from(IDS), min_size=1),
        which=st.integers(-1, MOST_PAGES - 1),
        again=st.booleans(),
        dies_at=st.sampled_from([*MOMENTS, None, None]),
    )
    def look(self, ids: set[str], which: int, again: bool, dies_at: Moment | None) -> None:
        """Ask, and record an answer that has come meanwhile: perhaps late, perhaps to be recorded
        once more, perhaps while the process dies. In one rule, so that neither is left out."""
        self.pages = [*self.pages[1 - MOST_PAGES :], self._look(ids)]
        if which >= 0:
            index = which % len(self.pages)
            page = self.pages[index] if again else self.pages.pop(index)
            with self._dying(dies_at):
                self._record(page)

    def _look(self, ids: set[str]) -> Page:
        rows = tuple(self.upstream[each] for each in sorted(ids) if each in self.upstream)
        look = Look(rows, self._read(event_log.last_position))
        return Page(look, tuple(sorted(ids - self.upstream.keys())), self._later())

    def _record(self, page: Page) -> None:
        def move_on(connection: Connection) -> None:
            sync_state.update(connection, APP, {"watermark": page.watermark})

        self.page = page
        kept = self.dies_at in (None, "after")
        self._later()
        self.watermark = page.watermark if kept else self.watermark
        with mock.patch.object(anyio.to_thread, "run_sync", in_place):
            done(self.mirror.record_workflows(APP, page.look, missing=page.missing, also=move_on))

    @contextmanager
    def _dying(self, dies_at: Moment | None) -> Iterator[None]:
        self.dies_at = dies_at
        with suppress(Death):
            yield
        self.dies_at = None  # and another process goes on

    @rule()
    def see_everything(self) -> None:
        """At once: then the mirror is what upstream is."""
        self._record(self._look({*IDS}))
        assert self._mirrored() == {
            each: tuple(getattr(row, name) for name in SHOWN) for each, row in self.upstream.items()
        }

    @rule(workflow_id=st.sampled_from(IDS))
    def read_steps(self, workflow_id: str) -> None:
        seen, kept = self.steps.get(workflow_id, []), frozenset[str]()
        if workflow_id not in self.upstream:
            return

        def work(connection: Connection) -> int:
            held = known.steps(connection, APP, workflow_id)
            events = diff.diff_steps(APP, workflow_id, held, seen, kept=kept)
            return self.mirror.record(connection, events)

        self._record(self._look({workflow_id}))
        self._later()
        with self.cache.write() as connection:
            work(connection)
        assert self._steps_of(workflow_id) == [(step.step_id, step.started_at) for step in seen]

    @rule(workflow_id=st.sampled_from(IDS), answered=st.booleans())
    def command(self, workflow_id: str, answered: bool) -> None:
        self.commands += 1
        name, at = f"c-{self.commands}", self._later()
        for event in (issued, settled)[: 1 + answered]:
            with self.cache.write() as connection:
                projector.record(connection, [event(name, workflow_id=workflow_id)], recorded_at=at)

    # What befalls the file

    @rule(what=st.sampled_from([*["nothing"] * 16, "start again", "fold back", "rebuild"]))
    def befall(self, what: str) -> None:
        """Seldom: each takes as long as many looks."""
        match what:
            case "start again":
                self.start_again()
            case "fold back":
                self.cache.checkpoint(wal_limit_bytes=0)
            case "rebuild":
                self.rebuild()

    def start_again(self) -> None:
        found = self._read(lambda connection: checks.damage(checks.raw_of(connection), {}))
        assert found == []
        self.cache.close()
        open_cache(self.path).close()
        self._open()

    def rebuild(self) -> None:
        with self.cache.write() as connection:
            rebuilt = projector.rebuild(connection)
        assert [table.table for table in rebuilt if not table.equal] == []

    # What holds at any time

    @invariant()
    def nothing_is_lost_doubled_or_older(self) -> None:
        Machine.steps_taken += 1
        with self.cache.read() as connection:
            new = [each for batch in event_log.read(connection, self.position) for each in batch]
            state = sync_state.load(connection, APP)
            behind = projector.stale(connection)
        assert [each.position for each in new] == list(
            range(self.position + 1, self.position + 1 + len(new))
        )
        for each in new:
            assert self.history.add(each) is None
            self._hold_against_newest(each)
        self.position += len(new)
        assert behind == []
        assert state.watermark == self.watermark
        out_of_time()

    def _hold_against_newest(self, recorded: Recorded) -> None:
        """Of a workflow, what a page says may not be older than what was recorded of it before."""
        event = recorded.event
        match event:
            case WorkflowChanged():
                assert event.priority >= self.newest[event.workflow_id].priority
            case WorkflowDeleted():
                assert self.newest[event.workflow_id].position <= self.page.look.position
        match event:
            case WorkflowObserved() | WorkflowChanged():
                self.newest[event.workflow_id] = Newest(recorded.position, event.priority)

    def _mirrored(self) -> dict[str, tuple[Any, ...]]:
        table = table_of(WorkflowRow)
        columns = [table.c[name] for name in SHOWN]
        rows = self._read(
            lambda connection: connection.execute(
                select(*columns).where(table.c.deleted_at.is_(None))
            ).all()
        )
        return {row[0]: tuple(row) for row in rows}

    def _steps_of(self, workflow_id: str) -> list[tuple[int, int | None]]:
        steps, workflows = table_of(StepRow), table_of(WorkflowRow)
        statement = (
            select(steps.c.step_id, steps.c.started_at)
            .join(workflows, workflows.c.id == steps.c.workflow_key)
            .where(workflows.c.workflow_id == workflow_id)
            .order_by(steps.c.step_id)
        )
        return self._read(lambda connection: [(a, b) for a, b in connection.execute(statement)])
