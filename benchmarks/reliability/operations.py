"""What a process does until it is killed. Each runs in a process of its own, forked from one that
has imported all of this and opened nothing."""

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from sqlalchemy import Connection

from benchmarks.generate import Population, database_of
from benchmarks.reliability import checks
from benchmarks.reliability.checks import Log
from dbos_mcp.domain import now_ms
from dbos_mcp.errors import ConductorError, DbosMcpError, NotFoundError
from dbos_mcp.incident.export import export
from dbos_mcp.incident.selection import select_since
from dbos_mcp.store import event_log, projector, sync_state
from dbos_mcp.store.backup import backup
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.events import ApplicationObserved, CommandIssued
from dbos_mcp.store.migrate import migrations_folder, open_cache, upgrade
from dbos_mcp.sync.leadership import Leadership
from dbos_mcp.upkeep.prune import give_back, prune
from dbos_mcp.upkeep.restore import restore
from tests.store.factories import SHOP, changed
from tests.sync.plans import SEEN_BY_CYCLES, Insert, Transition, Upstream
from tests.upstream import APP, Site, Tables, open_site

BATCHES = 12
OLD_REVISION = "0003"
CYCLES_UNTIL_PEACE = 40
LOADED_LATE = ("alembic.command", "dbos_mcp.local_conductor.app")
_COLUMNS = "position, application_name, workflow_id, kind, occurred_at, recorded_at, data"

Say = Callable[[Log], None]
"""Acknowledges what was committed."""


@dataclass(frozen=True)
class Place:
    """Where the processes of a round meet."""

    folder: Path

    @property
    def cache(self) -> Path:
        return self.folder / "cache.sqlite"

    @property
    def system(self) -> Path:
        return self.folder / "system.sqlite"

    @property
    def backup(self) -> Path:
        return self.folder / "backup.sqlite"

    @property
    def incident(self) -> Path:
        return self.folder / "incident.sqlite"


# What runs until it is killed.


def write(place: Place, say: Say, seed: int) -> None:
    """Pages of a sync, one after the other."""
    _write_for_ever(place, say, seed, checks.record)


def write_cursor_first(place: Place, say: Say, seed: int) -> None:
    """A planted bug: how far it has come is stored before what was found there."""

    def record(cache: Cache, events: Any, at: int) -> None:
        with cache.write() as connection:
            end = event_log.last_position(connection) + len(events)
            sync_state.update(connection, checks.RECORDED, {"watermark": end})
        with cache.write() as connection:
            projector.record(connection, events, recorded_at=at)

    _write_for_ever(place, say, seed, record)


def write_read_models_later(place: Place, say: Say, seed: int) -> None:
    """A planted bug: the events are stored, and folded in another transaction."""

    def record(cache: Cache, events: Any, at: int) -> None:
        with cache.write() as connection:
            event_log.append(connection, events, recorded_at=at)
        with cache.write() as connection:
            projector.catch_up(connection)

    _write_for_ever(place, say, seed, record)


def _write_for_ever(
    place: Place, say: Say, seed: int, record: Callable[[Cache, Any, int], object]
) -> None:
    with _acknowledging(say), closing(open_cache(place.cache)) as cache:
        for number in count(1000 * seed):
            record(cache, checks.batch(number), number)
            if number % 7 == 0:
                cache.checkpoint(wal_limit_bytes=0)


def sync(place: Place, say: Say, seed: int) -> None:
    """Of those that share a cache one syncs, while upstream changes; the others read on demand and
    send commands."""
    with _acknowledging(say):
        anyio.run(_sync, place, random.Random(seed), seed)


async def _sync(place: Place, chance: random.Random, seed: int) -> None:
    leadership = Leadership(place.cache)
    page_limit = chance.choice((3, 10, 1000))
    async with open_site(place.system, place.cache, page_limit=page_limit) as site:
        upstream = Upstream(site.tables, made=1000 * seed)
        while True:
            if leadership.take():
                _change(upstream, chance)
                await site.worker.run_once()
            else:
                await _ask(site, chance)


def _change(upstream: Upstream, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 4)):
        upstream.now = now_ms() - 1  # what happens takes one; nobody is ahead of the others
        if chance.random() < 0.5:
            status = chance.choice(("PENDING", "PENDING", "ENQUEUED", "SUCCESS", "ERROR"))
            Insert(status, count=chance.randint(1, 3)).apply(upstream)
        else:
            name = chance.choice(list(SEEN_BY_CYCLES))
            Transition(name, chance.randrange(50), chance.randrange(4)).apply(upstream)


async def _ask(site: Site, chance: random.Random) -> None:
    workflow_id = chance.choice(sorted(site.tables.ids() or {"nobody"}))
    with suppress(ConductorError, NotFoundError):
        match chance.randrange(4):
            case 0:
                await site.mirror.refresh_workflows(APP, [workflow_id])
            case 1:
                await site.mirror.refresh_steps(APP, workflow_id)
            case 2:
                await site.commands.cancel(APP, [workflow_id])
            case 3:
                await site.mirror.want_steps(APP, workflow_id)


@contextmanager
def _acknowledging(say: Say) -> Iterator[None]:
    """Every transaction of this process is acknowledged once it is committed."""
    unchanged = Cache.write

    @contextmanager
    def write(self: Cache) -> Iterator[Connection]:
        with unchanged(self) as connection:
            before = event_log.last_position(connection)
            yield connection
            log = checks.log_of(checks.raw_of(connection), before)
        say(log)

    Cache.write = write  # type: ignore[method-assign]
    try:
        yield
    finally:
        Cache.write = unchanged  # type: ignore[method-assign]


# What ends by itself, unless it is killed.


def migrate(place: Place, _say: Say, _seed: int) -> None:
    open_cache(place.cache).close()


def rebuild(place: Place, _say: Say, _seed: int) -> None:
    with closing(open_cache(place.cache)) as cache, cache.write() as connection:
        projector.rebuild(connection)


def export_incident(place: Place, _say: Say, _seed: int) -> None:
    with closing(open_cache(place.cache)) as cache, cache.read() as connection:
        export(connection, select_since(connection, None, 0), place.incident, now=now_ms())


def prune_all(place: Place, _say: Say, _seed: int) -> None:
    with closing(open_cache(place.cache)) as cache:
        prune(cache, before=now_ms(), now=now_ms())
    give_back(place.cache, at_least=0)


def make_backup(place: Place, _say: Say, _seed: int) -> None:
    with closing(open_cache(place.cache)) as cache:
        backup(cache, place.backup)


def restore_backup(place: Place, _say: Say, _seed: int) -> None:
    restore(place.cache, place.backup, now=now_ms(), force=True)


# The places, as they are before a round, and what must hold after it.


def make_nothing(_place: Place) -> Log:
    return {}


def make_cache(place: Place) -> Log:
    shop = ApplicationObserved(**SHOP, application_id="1", status="AVAILABLE")
    with closing(open_cache(place.cache)) as cache:
        checks.record(cache, [shop], at=0)
        for number in range(BATCHES):
            checks.record(cache, checks.batch(number), at=number)
        return checks.log_in(cache)


def make_old_cache(place: Place) -> Log:
    """As an older version left it."""
    with TemporaryDirectory() as name:
        newer, folder = Place(Path(name)), Path(name) / "migrations"
        shutil.copytree(migrations_folder(), folder)
        for migration in folder.glob("versions/0*.py"):
            if migration.name[: len(OLD_REVISION)] > OLD_REVISION:
                migration.unlink()
        with closing(Cache(place.cache)) as old:
            upgrade(old, folder)
        log = make_cache(newer)
        with closing(sqlite3.connect(place.cache)) as raw:
            raw.execute("ATTACH ? AS newer", (str(newer.cache),))
            raw.execute(f"INSERT INTO event ({_COLUMNS}) SELECT {_COLUMNS} FROM newer.event")
            raw.commit()
    return log


def make_ended(place: Place) -> Log:
    """Workflows with a past. What goes of it was acknowledged, and is not held against the rest."""
    make_cache(place)
    with closing(open_cache(place.cache)) as cache:
        for number in range(BATCHES):
            ended = (changed(f"order-{number}-{n}", status="SUCCESS") for n in range(18))
            checks.record(cache, list(ended), at=BATCHES + number)
    return {}


def make_cache_and_backup(place: Place) -> Log:
    log = make_cache(place)
    make_backup(place, print, 0)
    return log


def make_upstream(place: Place) -> Log:
    open_cache(place.cache).close()
    shutil.copy(database_of(Population(rows=50)), place.system)
    Tables(place.system).clear()
    return {}


def check_mirror(place: Place) -> list[str]:
    """What the state claims to have seen is there."""
    with closing(sqlite3.connect(place.cache)) as raw:
        state = raw.execute(
            "SELECT covered_since, watermark FROM sync_state WHERE application_name = ?", (APP,)
        ).fetchone()
        mirrored = {row[0] for row in raw.execute("SELECT workflow_id FROM workflow")}
    if state is None or None in state:
        return []
    owed = [
        workflow_id
        for workflow_id, created_at in Upstream(Tables(place.system)).owned().items()
        if state[0] <= created_at <= state[1] and workflow_id not in mirrored
    ]
    return [f"{len(owed)} workflows were passed over"] if owed else []


def check_incident(place: Place) -> list[str]:
    """All of it is there, or nothing is."""
    if not place.incident.exists():
        return []
    with closing(open_cache(place.incident, writable=False)) as incident:
        with incident.read() as connection:
            held = event_log.count(connection)
        with closing(open_cache(place.cache)) as cache, cache.read() as connection:
            expected = event_log.count(connection)
    place.incident.unlink()
    return [] if held == expected else [f"{held} of {expected} events are in the incident file"]


def check_backup(place: Place) -> list[str]:
    """It is a whole cache, or it is not there."""
    if not place.backup.exists():
        return []
    with closing(sqlite3.connect(place.cache)) as raw:
        log = checks.log_of(raw)
    with closing(sqlite3.connect(place.backup)) as raw:
        return [f"the backup: {line}" for line in checks.damage(raw, log)]


def check_ended(place: Place) -> list[str]:
    """Each workflow is as it was last seen."""
    with closing(sqlite3.connect(place.cache)) as raw:
        statuses = raw.execute("SELECT status, count(*) FROM workflow GROUP BY status").fetchall()
    expected = [("ERROR", BATCHES), ("PENDING", BATCHES), ("SUCCESS", 18 * BATCHES)]
    return [] if sorted(statuses) == expected else [f"the workflows are {statuses}"]


def check_nothing(_place: Place) -> list[str]:
    return []


def settled(place: Place) -> list[str]:
    """A next start goes on until the mirror is what upstream is."""
    return anyio.run(_settled, place)


async def _settled(place: Place) -> list[str]:
    async with open_site(place.system, place.cache) as site:
        for _ in range(CYCLES_UNTIL_PEACE):
            try:
                await site.sync()
            except DbosMcpError as error:
                return [f"the next start fails: {error}"]
            if not site.differences():
                site.last_position = 0
                log = site.new_events()
                # A SQLite system database counts whole seconds where a command changes it.
                ordered = {
                    event.workflow_id or ""
                    for _, _, event in log
                    if isinstance(event, CommandIssued)
                }
                return checks.repeated(log, ordered)
        return [f"{key}: {ours_theirs}" for key, ours_theirs in site.differences().items()]
