"""When the worker runs, and on which applications; in one process at a time, never twice."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import anyio
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger
from sqlalchemy import Connection

from dbos_mcp.conductor.credentials import Credentials
from dbos_mcp.domain import CONDUCTOR
from dbos_mcp.errors import AuthenticationError, DbosMcpError, SchemaTooNewError, StoreError
from dbos_mcp.store import damage, sync_state
from dbos_mcp.store.sync_state import SyncStateRow
from dbos_mcp.sync import known
from dbos_mcp.sync.leadership import Leadership
from dbos_mcp.sync.pacing import (
    ATTENTIVE_MS,
    Attention,
    Outcome,
    Pace,
    next_look,
    pace_after,
    pace_of_another,
)
from dbos_mcp.sync.spending import Spending
from dbos_mcp.sync.visit import ApplicationReport
from dbos_mcp.sync.worker import SyncWorker

logger = logging.getLogger(__name__)

TICK_SECONDS = 5.0
TAKEOVER_SECONDS = 0.5
"""How often a process that does not lead tries to: a fraction of a millisecond each time."""
NOTE_EVERY_MS = 15_000
STAY_AWAKE_EVERY_MS = 600_000
RETRY_SECONDS = 2.0
"""When a cache that could not be written, of a full disk perhaps, is tried again."""

# A cycle that is longer than the interval is no reason for a warning at each interval.
_quiet = logger.getChild("apscheduler")
_quiet.setLevel(logging.ERROR)

OnCycle = Callable[[list[ApplicationReport] | DbosMcpError], None]
"""Told what each cycle did, or why it did nothing."""


@dataclass(frozen=True)
class _Plan:
    """What the cache says of who is to be looked at, and when."""

    attention: Attention
    states: Mapping[str, SyncStateRow]
    applications: Sequence[str]
    """Those that are known. While none is, it is the list of them that has its turn."""


class SyncScheduler:
    """Runs the worker on the applications whose turn it is, while this process leads.

    Every few seconds it looks into the cache, which costs upstream nothing: who asked about what,
    in whichever process, and whose turn it is (`pacing`). The processes that do not lead try to,
    so that one of them takes over within a second.

    Refused credentials are not sent again until they are others, or a person asks
    (`ask_again`); meanwhile another process may lead.
    """

    def __init__(
        self,
        worker: SyncWorker,
        *,
        interval_seconds: float = TICK_SECONDS,
        takeover_seconds: float = TAKEOVER_SECONDS,
        watched: bool = False,
        awake: bool = False,
        on_cycle: OnCycle = lambda _outcome: None,
        on_look: Callable[[], None] = lambda: None,
    ) -> None:
        """`watched`: somebody wants to see everything for as long as it runs. `awake`: nobody does,
        but the mirror stays fresh all the same, at the pace of what nobody asks about just now.
        `on_look` is called after each look whose turn it is, also where another process leads."""
        self.worker = worker
        self.leadership = Leadership(worker.mirror.cache.path)
        self._on_cycle = on_cycle
        self._on_look = on_look
        self._watched = watched
        self._awake = awake
        self._stayed_awake_at: int | None = None
        self._slack_ms = round(interval_seconds * 100)  # a tick is never exactly on time
        self._spending = Spending(worker.mirror)
        self._paces: dict[str, Pace] = {}
        self._noted: dict[str, int] = {}
        self._unsaved: dict[str, int] = {}
        self._refused = False
        self._refused_credentials: Credentials | None = None
        self._woken = False
        self._unusable = False
        self._is_outdated = False
        self._has_looked_for_damage = False
        self._stopped = False
        self._cycle: anyio.CancelScope | None = None
        self._cycle_ended = anyio.Event()
        self._check_ended: anyio.Event | None = None
        """Of the one that has begun."""
        self._scheduler = AsyncIOScheduler(timezone=UTC, logger=_quiet)
        self._job = self._scheduler.add_job(
            self.tick,
            IntervalTrigger(seconds=interval_seconds, timezone=UTC),
            max_instances=1,
            coalesce=True,
            misfire_grace_time=None,
            next_run_time=datetime.now(UTC),
        )
        self._attempt = self._scheduler.add_job(
            self._take_over,
            IntervalTrigger(seconds=takeover_seconds, timezone=UTC),
            max_instances=1,
            coalesce=True,
            misfire_grace_time=None,
        )

    @property
    def leads(self) -> bool:
        return self.leadership.held

    @property
    def refused(self) -> bool:
        """The credentials that there are were refused."""
        return self._refused and self._credentials() == self._refused_credentials

    def note_refusal(self) -> None:
        """Of the credentials that there are: to somebody who asked for a look."""
        self._refused, self._refused_credentials = True, self._credentials()

    def start(self) -> None:
        """Needs a running event loop. Who starts a process asks about everything."""
        self.note_question(CONDUCTOR)
        self._scheduler.start()

    async def stop(self) -> None:
        """End the cycle that runs, where it can be left, and let go of the lead."""
        self._stopped = True
        self._job.remove()
        self._attempt.remove()
        if self._cycle is not None:
            # A transaction that has begun is ended first: its thread is never left behind.
            self._cycle.cancel()
            await self._cycle_ended.wait()
        if self._check_ended is not None:  # soon, now that it is told to stop
            await self._check_ended.wait()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        self.leadership.release()

    def note_question(self, application_name: str) -> None:
        """Somebody asked about an application: the mirror should be fresh soon. Never waits."""
        if self._note(application_name):
            self.wake()

    def ask_again(self) -> None:
        """Somebody logged in, or asks in person."""
        self._refused = False
        self.wake()

    def wake(self) -> None:
        """Look now whose turn it is, not at the next interval."""
        self._woken = True
        self._look_at(datetime.now(UTC))

    async def tick(self) -> None:
        """Look once whose turn it is, and run the worker on them."""
        if self._stopped:  # it was due in that very moment
            return
        with anyio.CancelScope() as self._cycle:
            self._cycle_ended = anyio.Event()
            try:
                self._woken = True
                while self._woken:  # once more for who woke it meanwhile
                    self._woken = False
                    await self._lead_and_run()
                    self._on_look()
            finally:
                self._cycle = None
                self._cycle_ended.set()

    async def _take_over(self) -> None:
        """Lead in place of a process that has ended, and look at once."""
        waits = not (self._stopped or self.leads or self.refused or self._only_reads)
        if waits and self._lead():
            self.wake()

    def _lead(self) -> bool:
        """Whether this process leads, from now on if it can."""
        if not self.leads:
            self._paces.clear()
        return self.leadership.take()

    async def _lead_and_run(self) -> None:
        try:
            if self._only_reads:
                self.leadership.release()
                return
            await self._save_questions()
            if self.refused:
                return
            self._refused = False
            if self._lead():
                self._look_for_damage()
                await self._run_what_is_due()
        except SchemaTooNewError as error:
            logger.warning("Syncing ends here: %s", error)
            self._is_outdated = True
            self.leadership.release()
        except StoreError as error:
            self._retry(error)
        except Exception:
            logger.exception("This look failed unexpectedly; the next one will be tried.")
        else:
            self._unusable = False

    def _retry(self, error: StoreError) -> None:
        """Soon, and told once. What fails first asks nothing of upstream."""
        if not self._unusable:
            logger.warning("The cache cannot be used just now: %s", error)
        self._unusable = True
        self._look_at(datetime.now(UTC) + timedelta(seconds=RETRY_SECONDS))

    def _look_at(self, time: datetime) -> None:
        if self._scheduler.running and not self._stopped:
            self._job.modify(next_run_time=time)

    @property
    def _only_reads(self) -> bool:
        """The cache says so, or a newer version has taken it over, which syncs from now on."""
        return self._is_outdated or self.worker.mirror.cache.notice is not None

    def _look_for_damage(self) -> None:
        """Once, beside everything else."""
        if not self._has_looked_for_damage:
            self._has_looked_for_damage = True
            self._scheduler.add_job(self._check, misfire_grace_time=None)

    async def _check(self) -> None:
        mirror = self.worker.mirror
        self._check_ended = anyio.Event()
        try:
            await anyio.to_thread.run_sync(
                lambda: damage.look(mirror.cache, now=mirror.clock(), stop=lambda: self._stopped)
            )
        except StoreError as error:
            logger.warning("The cache could not be looked through for damage: %s", error)
        finally:
            self._check_ended.set()

    async def _save_questions(self) -> None:
        """For whichever process leads; with what this one's own requests have cost."""
        if self._watched:
            self._note(CONDUCTOR)
        asked = dict(self._unsaved)
        now = self.worker.mirror.clock()
        stays = self._awake and (
            self._stayed_awake_at is None
            or not 0 <= now - self._stayed_awake_at < STAY_AWAKE_EVERY_MS
        )

        def work(connection: Connection) -> None:
            names = known.applications(connection)
            for name, asked_at in asked.items():
                # What nobody knows may be new: only the list of all can tell.
                subject = name if name in names else CONDUCTOR
                sync_state.note_question(connection, subject, asked_at)
            if stays:
                sync_state.stay_awake(connection, now - ATTENTIVE_MS)

        await self._spending.save(work if asked or stays else None)
        if stays:
            self._stayed_awake_at = now
        for name, asked_at in asked.items():
            if self._unsaved[name] == asked_at:
                del self._unsaved[name]

    async def _run_what_is_due(self) -> None:
        plan = await self.worker.mirror.read(_plan)
        if self._only_reads:
            return
        now = self.worker.mirror.clock()
        due = {
            name
            for name, turn in self._turns(plan, now).items()
            if turn is not None and turn - self._slack_ms <= now
        }
        if due:
            await self._run(due, plan, now)
            plan = await self.worker.mirror.read(_plan)
        await self._save_turns(plan)
        if self._refused:
            self.leadership.release()

    async def _run(self, due: set[str], plan: _Plan, began_at: int) -> None:
        """One cycle, and the pace that follows from it."""
        credentials = self._credentials()
        outcomes = {name: Outcome(failed=True) for name in due}
        try:
            reports = await self.worker.run_once(only=due if plan.applications else None)
        except AuthenticationError as error:
            logger.warning("Syncing pauses until somebody logs in: %s", error)
            self._refused, self._refused_credentials = True, credentials
            self._on_cycle(error)
        except StoreError as error:  # no reason to ask upstream more rarely
            self._on_cycle(error)
            raise
        except DbosMcpError as error:
            logger.info("This cycle failed: %s", error)
            self._on_cycle(error)
        except Exception:
            logger.exception("This cycle failed unexpectedly; the next one will be tried.")
        else:
            self._on_cycle(reports)
            states = await self.worker.mirror.read(sync_state.load_all)
            if not plan.applications:
                outcomes[CONDUCTOR] = Outcome()
            for report in reports:
                outcomes[report.application_name] = Outcome(
                    changed=report.events > report.background_events,
                    failed=report.error is not None,
                    loading=not states[report.application_name].history_complete,
                )
        for name, outcome in outcomes.items():
            before = self._pace(name, plan)
            self._paces[name] = pace_after(name, before, outcome, plan.attention, began_at)

    def _pace(self, application_name: str, plan: _Plan) -> Pace | None:
        if application_name in self._paces:
            return self._paces[application_name]
        state = plan.states.get(application_name)
        return None if state is None else pace_of_another(state)

    def _turns(self, plan: _Plan, now: int) -> dict[str, int | None]:
        return {
            name: next_look(name, self._pace(name, plan), plan.attention, now)
            for name in plan.applications or [CONDUCTOR]
        }

    async def _save_turns(self, plan: _Plan) -> None:
        """For those who ask what comes next, and for the process that leads after this one."""
        turns = self._turns(plan, self.worker.mirror.clock())
        if self._refused:
            turns = dict.fromkeys(turns)
        turns[CONDUCTOR] = min((turn for turn in turns.values() if turn is not None), default=None)
        news = {
            name: turn
            for name, turn in turns.items()
            if name in plan.states and plan.states[name].next_at != turn
        }

        def work(connection: Connection) -> None:
            for name, turn in news.items():
                sync_state.update(connection, name, {"next_at": turn})

        await self._spending.save(work if news else None)

    def _note(self, application_name: str) -> bool:
        now = self.worker.mirror.clock()
        self._noted = {
            name: at for name, at in self._noted.items() if 0 <= now - at < NOTE_EVERY_MS
        }
        if application_name in self._noted:
            return False
        self._noted[application_name] = self._unsaved[application_name] = now
        return True

    def _credentials(self) -> Credentials | None:
        try:
            return self.worker.mirror.client.identity.current()
        except AuthenticationError:
            return None


def _plan(connection: Connection) -> _Plan:
    return _Plan(
        Attention(sync_state.questions(connection)),
        sync_state.load_all(connection),
        sorted(known.applications(connection)),
    )
