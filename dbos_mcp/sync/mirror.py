"""The cache and Conductor side by side: read something upstream, record what differs.

Every method may run in any process that holds the cache: its lock keeps writers apart, and a second
look that finds nothing new writes nothing. The network is async, SQLite is not; they meet here.
"""

import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import Connection

from dbos_mcp.conductor.client import ConductorClient
from dbos_mcp.conductor.decoding import Rows, Unreadable
from dbos_mcp.conductor.models import Step, Workflow, WorkflowSearch
from dbos_mcp.domain import now_ms, one_line
from dbos_mcp.errors import ResponseError, StoreError
from dbos_mcp.redaction import Redactor
from dbos_mcp.redaction.rules import NO_RULES, Rules
from dbos_mcp.settings import Payloads
from dbos_mcp.store import event_log, indexes, projector, sync_state, unreadable
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.events import (
    Event,
    StepsObserved,
    WorkflowChanged,
    WorkflowDeleted,
    WorkflowObserved,
)
from dbos_mcp.store.projections import workflow_counts
from dbos_mcp.store.unreadable import STEP, UnreadableRow
from dbos_mcp.sync import aside, diff, due, known
from dbos_mcp.sync.diff import NO_TEXTS, Texts
from dbos_mcp.sync.due import State
from dbos_mcp.sync.redacting import Upstream

logger = logging.getLogger(__name__)

IDS_PER_REQUEST = 500
ROWS_AT_ONCE = 1000
PAYLOADS_PER_REQUEST = 50
"""Inputs and outputs may be large; they are held in memory until they are written."""
WANT_STEPS_SECONDS = 0.2
GIVE_WAY_SECONDS = 0.06
"""A little longer than between two attempts at the write lock."""

T = TypeVar("T")


@dataclass(frozen=True)
class Look:
    """What a search showed, and the log's end when it was sent.

    The answer may be older than what others have recorded behind that position.
    """

    rows: Sequence[Workflow]
    position: int
    loaded: Mapping[str, Texts] = field(default_factory=dict)
    """The texts that were asked for as well, by id."""
    unreadable: Sequence[UnreadableRow] = ()
    """What else there was."""
    is_cut: bool = False
    """There is more: the answer was too large."""

    @property
    def statuses(self) -> dict[str, str]:
        """By id; of what cannot be read, where that much can be."""
        aside = {row.workflow_id: row.status for row in self.unreadable}
        known = {key: status for key, status in aside.items() if key and status}
        return known | {row.workflow_id: row.status for row in self.rows}

    @property
    def ids(self) -> set[str]:
        """Of everything that was there, and that has one."""
        aside = {row.workflow_id for row in self.unreadable if row.workflow_id is not None}
        return aside | {row.workflow_id for row in self.rows}

    def __len__(self) -> int:
        return len(self.rows) + len(self.unreadable)

    def of(self, asked: Collection[str]) -> "Look":
        """Without what was not asked for."""
        ids = {*asked, None}
        rows = [row for row in self.rows if row.workflow_id in ids]
        return replace(
            self, rows=rows, unreadable=[row for row in self.unreadable if row.workflow_id in ids]
        )


@dataclass(frozen=True)
class Reread:
    """The statuses of those workflows that exist upstream, by id, and how many events that made."""

    statuses: Mapping[str, str]
    events: int
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Why, of those that exist and cannot be read; the status of some is known."""


class Mirror:
    def __init__(
        self,
        cache: Cache,
        client: ConductorClient,
        *,
        payloads: Payloads = Payloads.ERRORS,
        rules: Rules | None = NO_RULES,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        """With `rules` secrets are taken out of all that is recorded; None: they are not."""
        self.cache = cache
        self.client = client
        self.upstream = Upstream(client, None if rules is None else Redactor(rules=rules))
        self.payloads = payloads
        self.clock = clock

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a snapshot of the cache, on a thread."""

        def run() -> T:
            with self.cache.read() as connection:
                return work(connection)

        return await anyio.to_thread.run_sync(run)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction that may write, on a thread."""

        def run() -> T:
            with self.cache.write() as connection:
                return work(connection)

        return await anyio.to_thread.run_sync(run)

    async def fold_back(self) -> None:
        """Keep the WAL from growing beyond its limit; for the process that syncs."""
        await anyio.to_thread.run_sync(self.cache.checkpoint)

    async def build_indexes(self) -> None:
        """Those that a large load, perhaps one that broke off, went without, and its counts; one
        after the other, so that nobody waits long for the cache."""
        missing = await self.read(indexes.missing)
        if missing:
            await self.write(indexes.pack)
        for index in missing:
            began_at = anyio.current_time()
            await self.write(partial(indexes.build, index=index))
            await self.fold_back()
            # Who waits for the lock asks for it now and then: back to back, it would wait for all.
            took = anyio.current_time() - began_at
            await anyio.sleep(min(took, GIVE_WAY_SECONDS))
        if not await self.read(workflow_counts.are_kept):
            await self.write(workflow_counts.build)

    def record(self, connection: Connection, events: Sequence[Event]) -> int:
        """Append events in the caller's transaction, stamped with our clock; how many."""
        sync_state.add_redactions(connection, self.upstream.counted(events))
        return len(projector.record(connection, events, recorded_at=self.clock()))

    async def search(self, application_name: str, search: WorkflowSearch) -> Look:
        position = await self.read(event_log.last_position)
        seen = await self.upstream.search_workflows(application_name, search)
        unreadable = aside.workflows(application_name, seen, now=self.clock())
        return Look(seen, position, unreadable=unreadable, is_cut=seen.is_cut)

    async def _by_id(
        self, application_name: str, workflow_ids: Sequence[str], texts: Texts = NO_TEXTS
    ) -> AsyncGenerator[Look]:
        """Each of them, if it is there: in as many looks as it takes, were it for their size."""
        waiting = [list(workflow_ids)]
        while waiting:
            asked = waiting.pop()
            search = WorkflowSearch(
                workflow_ids=asked,
                limit=len(asked),
                load_input="input" in texts or None,
                # Upstream has no error text without the output.
                load_output=bool(texts & {"output", "error"}) or None,
            )
            look = await self.search(application_name, search)
            left = [each for each in asked if each not in look.ids] if look.is_cut else []
            if left != asked:
                if left:
                    waiting.append(left)
                yield look.of(asked)
            elif len(asked) > 1:  # the first is too large, and does not even begin with its id
                half = len(asked) // 2
                waiting += [asked[half:], asked[:half]]
            elif look.unreadable:
                known_now = aside.called(asked[0], look.unreadable[0])
                yield replace(look, rows=(), unreadable=[known_now])
            else:
                raise shown_again(f"the workflow {one_line(asked[0])}")

    async def record_workflows(
        self,
        application_name: str,
        look: Look,
        *,
        missing: Sequence[str] = (),
        also: Callable[[Connection], None] | None = None,
        new_without_texts: bool = False,
    ) -> list[Event]:
        """Record what differs in a look, and that the `missing` ids are gone; the events.

        A row that was recorded by somebody else since the look began is left as it is, unless the
        look shows a newer one. `also` runs in the same transaction: what says that it was read.
        The texts that are kept are asked for first; of workflows that the cache does not hold only
        unless `new_without_texts`.
        """
        wanted = await self._wanted_texts(application_name, look.rows, but_of_new=new_without_texts)
        events: list[Event] = []
        # One part at a time is held in memory with its payloads; each is a transaction.
        *parts, last = _split(look.rows, wanted, self._payloads_per_request)
        for rows in parts:
            part = replace(look, rows=rows, unreadable=())
            part = await self._load(application_name, part, wanted)
            events += await self._record(application_name, part)
        part = await self._load(application_name, replace(look, rows=last), wanted)
        return events + await self._record(application_name, part, missing=missing, also=also)

    async def _record(
        self,
        application_name: str,
        look: Look,
        *,
        missing: Sequence[str] = (),
        also: Callable[[Connection], None] | None = None,
    ) -> list[Event]:
        loaded = look.loaded

        def record(
            connection: Connection, rows: Sequence[Workflow], missing: Sequence[str] = ()
        ) -> list[Event]:
            ids = [*(row.workflow_id for row in rows), *missing]
            with_texts = [workflow_id for workflow_id in ids if workflow_id in loaded]
            held = known.workflows(connection, application_name, ids, with_texts=with_texts)
            events: list[Event] = []
            doubtful: list[Event] = []
            for row in rows:
                before = held.get(row.workflow_id)
                event = diff.diff_workflow(
                    application_name, before, row, loaded=loaded.get(row.workflow_id, NO_TEXTS)
                )
                if event is not None:
                    newer = before is None or row.updated_at > before.updated_at
                    (events if newer else doubtful).append(event)
            gone = [i for i in missing if i in held and not held[i].deleted]
            doubtful += diff.diff_missing(application_name, gone)
            if doubtful:
                overtaken = known.recorded_since(
                    connection,
                    application_name,
                    look.position,
                    WorkflowObserved,
                    WorkflowChanged,
                    WorkflowDeleted,
                )
                events += [event for event in doubtful if event.workflow_id not in overtaken]
            self.record(connection, events)
            unreadable.clear(connection, application_name, ids)
            unreadable.clear(connection, application_name, missing, STEP)
            due.follow(connection, application_name, held, events, now=self.clock())
            return events

        def work(connection: Connection) -> list[Event]:
            events: list[Event] = []
            for start in range(0, len(look.rows), ROWS_AT_ONCE):  # for the sake of memory
                events += record(connection, look.rows[start : start + ROWS_AT_ONCE])
            if missing:
                events += record(connection, (), missing)
            unreadable.note(connection, look.unreadable)
            if also is not None:
                also(connection)
            return events

        return await self.write(work)

    async def refresh_workflows(self, application_name: str, workflow_ids: Sequence[str]) -> Reread:
        """Read workflows by id, whatever their state, and record what differs.

        Those that the mirror held and upstream does not have are recorded as deleted.

        Raises:
            ConductorError, NotFoundError: nothing more was learnt, nothing more was recorded.
        """
        found: dict[str, str] = {}
        reasons: dict[str, str] = {}
        events = 0
        wanted = list(dict.fromkeys(workflow_ids))
        for start in range(0, len(wanted), IDS_PER_REQUEST):
            chunk = wanted[start : start + IDS_PER_REQUEST]
            position = await self.read(event_log.last_position)
            async with aclosing(self._by_id(application_name, chunk)) as answers:
                async for look in answers:
                    events += len(await self.record_workflows(application_name, look))
                    found |= look.statuses
                    reasons |= {row.workflow_id or "": row.reason for row in look.unreadable}
            # A row without an id may be any of those that did not show.
            missing = [each for each in chunk if each not in found | reasons]
            if missing and "" not in reasons:
                gone = Look((), position)
                events += len(await self.record_workflows(application_name, gone, missing=missing))
        return Reread(found, events, reasons)

    async def refresh_steps(self, application_name: str, workflow_id: str) -> int:
        """Read the steps of a workflow that the mirror holds; how many events that made.

        The steps of a workflow that is gone upstream are kept: there they are an empty list.

        Raises:
            ConductorError, NotFoundError: nothing was learnt, nothing was recorded.
            UsageError: an id that cannot be put into a path.
        """

        def look(connection: Connection) -> tuple[int, State | None, bool]:
            return (
                event_log.last_position(connection),
                known.held(connection, application_name, workflow_id),
                bool(known.steps(connection, application_name, workflow_id)),
            )

        # The state that the steps will belong to is the one before they were asked for.
        position, workflow, had_steps = await self.read(look)
        if workflow is None:
            return 0
        kept = diff.kept_step_texts(self.payloads, workflow.status)
        seen = await self._steps(application_name, workflow_id, kept)
        if had_steps and not seen:
            reread = await self.refresh_workflows(application_name, [workflow_id])
            if workflow_id not in reread.statuses:
                return 0
        not_read = aside.steps(application_name, workflow_id, seen.unreadable, now=self.clock())

        def work(connection: Connection) -> int:
            if workflow_id in known.recorded_since(
                connection, application_name, position, StepsObserved
            ):
                return 0  # somebody who asked at the same time was faster
            held = known.steps(connection, application_name, workflow_id)
            spared = aside.spared(seen.unreadable, [str(step.step_id) for step in held])
            events = diff.diff_steps(
                application_name, workflow_id, held, seen, kept=kept, spared=spared
            )
            count = self.record(connection, events)
            unreadable.clear(connection, application_name, [workflow_id], STEP)
            unreadable.note(connection, not_read)
            due.note_reading(
                connection,
                application_name,
                workflow,
                changed=bool(count),
                now=self.clock(),
                # Of a workflow that moved on meanwhile, the queue has the newer state.
                queue=known.held(connection, application_name, workflow_id) == workflow,
            )
            return count

        return await self.write(work)

    async def _steps(self, application_name: str, workflow_id: str, kept: Texts) -> Rows[Step]:
        """However large they are: in as many requests as it takes."""
        steps: dict[int, Step] = {}
        not_read: dict[str, Unreadable] = {}
        while True:
            found = len(steps) + len(not_read)
            answer = await self.upstream.list_steps(
                application_name, workflow_id, offset=found or None
            )
            steps |= {step.step_id: diff.clipped(step, kept) for step in answer}
            not_read |= {row.digest: row for row in answer.unreadable}
            if not answer.is_cut:
                return Rows(steps.values(), list(not_read.values()))
            if len(steps) + len(not_read) == found:
                raise shown_again(f"the steps of {one_line(workflow_id)}")

    async def want_steps(self, application_name: str, workflow_id: str) -> None:
        """Somebody looks at a workflow: have its steps read soon, unless they just were.

        For an answer that waits for it: it takes no longer than a moment, and never fails.
        """
        work: dict[str, Any] = {
            "application_name": application_name,
            "workflow_id": workflow_id,
            "now": self.clock(),
        }

        def note() -> None:
            with self.cache.read() as connection:
                needed = known.needs_steps(connection, **work)
            if needed:
                with self.cache.write() as connection:
                    due.ask(connection, **work)

        with anyio.move_on_after(WANT_STEPS_SECONDS):
            try:
                await anyio.to_thread.run_sync(note, abandon_on_cancel=True)
            except StoreError as error:
                logger.info("Not noted that %s was looked at: %s", workflow_id, error)

    @property
    def _keeps_whole_payloads(self) -> bool:
        return self.payloads in (Payloads.FAILED, Payloads.ALL)

    @property
    def _payloads_per_request(self) -> int:
        return PAYLOADS_PER_REQUEST if self._keeps_whole_payloads else IDS_PER_REQUEST

    async def _wanted_texts(
        self, application_name: str, rows: Sequence[Workflow], *, but_of_new: bool
    ) -> dict[str, Texts]:
        """By id, what is to be asked for: a plain listing holds no payload."""
        kept = [row for row in rows if diff.kept_texts(self.payloads, row.status)]
        if not kept:
            return {}
        held = await self.read(
            partial(
                known.workflows,
                application_name=application_name,
                workflow_ids=[row.workflow_id for row in kept],
            )
        )
        wanted = {
            row.workflow_id: diff.wanted_texts(
                application_name, held.get(row.workflow_id), row, self.payloads
            )
            for row in kept
            if row.workflow_id in held or not but_of_new
        }
        return {workflow_id: texts for workflow_id, texts in wanted.items() if texts}

    async def _load(self, application_name: str, look: Look, wanted: Mapping[str, Texts]) -> Look:
        """The look with what is wanted of it."""
        groups: defaultdict[Texts, list[str]] = defaultdict(list)
        for row in look.rows:
            if row.workflow_id in wanted:
                groups[wanted[row.workflow_id]].append(row.workflow_id)
        bare = {row.workflow_id: row for row in look.rows}
        loaded: dict[str, Workflow] = {}
        for texts, ids in groups.items():
            for start in range(0, len(ids), self._payloads_per_request):
                chunk = ids[start : start + self._payloads_per_request]
                async with aclosing(self._by_id(application_name, chunk, texts)) as answers:
                    async for answer in answers:
                        for row in answer.rows:
                            loaded[row.workflow_id] = diff.clipped(row, texts)
                        for unread in answer.unreadable:
                            if (known_as := unread.workflow_id or "") in bare:
                                row = diff.without(bare[known_as], texts, unread.reason)
                                loaded[known_as] = row
        rows = [loaded.get(row.workflow_id, row) for row in look.rows]
        asked = {workflow_id: wanted[workflow_id] for workflow_id in loaded}
        return replace(look, rows=rows, loaded=asked)


def shown_again(what: str) -> ResponseError:
    """Where an answer holds a part only, and the next one ought to hold another."""
    return ResponseError(
        f"Conductor was asked for more of {what}, and gives the same again.",
        hint="A proxy may be answering; what the mirror holds stays as it is.",
    )


def _split(
    rows: Sequence[Workflow], wanted: Mapping[str, Texts], most: int
) -> Iterator[list[Workflow]]:
    """The rows in order, in parts with at most so many of which something is wanted; one part of
    nothing, if there are none."""
    part: list[Workflow] = []
    load = 0
    for row in rows:
        if row.workflow_id in wanted:
            if load == most:
                yield part
                part, load = [], 0
            load += 1
        part.append(row)
    yield part
