"""Looks a cache through: can SQLite read it, is the log whole, does the rest follow from it.

Each check stands for itself, so that one finds what the ones before could not. Nothing is changed:
a deep look works on a copy, and holds up nobody.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import Connection

from dbos_mcp.domain import counted, format_time, one_line
from dbos_mcp.errors import DbosMcpError
from dbos_mcp.store import engine, event_log, indexes, log_removals, projector, sync_state
from dbos_mcp.store.backup import newest_backup
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.migrate import HEAD, open_cache
from dbos_mcp.store.projections import workflow_counts
from dbos_mcp.upkeep import replace

LARGEST_WAL_BYTES = 64 * 1024 * 1024
DAY_MS = 86_400_000
RESTORE = "`dbos-mcp cache restore` saves what is sound, and sets this file aside."
REBUILD = "`dbos-mcp rebuild` makes them again from the log."
_MOST_SHOWN = 3

Progress = Callable[[int, int], None]
"""Told positions of the log: how far it has come, and the last."""


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    level: Level
    check: str
    told: str
    next_step: str = ""


@dataclass
class Checked:
    path: Path
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return all(finding.level is not Level.FAIL for finding in self.findings)


_Findings = Iterable[Finding]


def check(
    path: Path,
    *,
    now: int,
    deep: bool = False,
    leave_no_trace: bool = False,
    progress: Progress | None = None,
) -> Checked:
    """Look through a cache or an incident file; `deep` reads each event and folds all of them, on a
    copy beside it."""
    checked = Checked(path)
    found = partial(_tried, checked)
    found("file", partial(_file, path))
    with ExitStack() as stack:
        copy = None
        try:
            cache = Cache(path, writable=False, leave_no_trace=leave_no_trace)
            stack.callback(cache.close)
            if deep:
                copy = _copy_of(cache, stack)
                cache = Cache(copy, writable=False, shown_as=path)
                stack.callback(cache.close)
        except DbosMcpError as error:
            checked.findings.append(Finding(Level.FAIL, "opens", error.message, RESTORE))
            return checked
        found("pages", _reading(cache, partial(_pages, thorough=deep)))
        found("schema", _reading(cache, _schema))
        if any(each.check == "schema" and each.level is not Level.OK for each in checked.findings):
            return checked
        found("read models", _reading(cache, _read_models))
        found("log", _reading(cache, partial(_log, is_excerpt=cache.is_excerpt, deep=deep)))
        if copy is not None:
            found("objects", partial(_objects, cache))
            found("sync state", _reading(cache, partial(_sync_state, now=now)))
            if cache.is_excerpt:
                engine.adopt(copy)
            found("rebuild", partial(_rebuild, copy, progress))
        if not cache.is_excerpt:
            found("backups", partial(_backups, path))
    return checked


def _tried(checked: Checked, name: str, look: Callable[[], _Findings]) -> None:
    try:
        checked.findings += look()
    except Exception as error:  # noqa: BLE001 # what damage makes of values, nobody can list
        told = error.message if isinstance(error, DbosMcpError) else str(error)
        checked.findings.append(Finding(Level.FAIL, name, one_line(told, 300), RESTORE))


def _reading(cache: Cache, look: Callable[[Connection], _Findings]) -> Callable[[], list[Finding]]:
    def run() -> list[Finding]:
        with cache.read() as connection:
            return list(look(connection))

    return run


def _copy_of(cache: Cache, stack: ExitStack) -> Path:
    """As of one moment, page by page, so that damage is copied as it is."""
    path = stack.enter_context(replace.workplace(cache.path)) / "copy.sqlite"
    engine.copy(cache, path)
    return path


def _file(path: Path) -> _Findings:
    others = path.stat().st_mode & 0o077
    if others:
        yield Finding(Level.WARN, "file", "others on this machine can read it", f"chmod 600 {path}")
    wal = path.with_name(f"{path.name}-wal")
    if wal.exists() and (size := wal.stat().st_size) > LARGEST_WAL_BYTES:
        yield Finding(
            Level.WARN,
            "file",
            f"{size // 1_000_000} MB of changes wait in its WAL",
            "The next sync folds them back, once no program has it open for long.",
        )
    elif not others:
        yield Finding(Level.OK, "file", "private")


def _pages(connection: Connection, *, thorough: bool) -> _Findings:
    name = "integrity_check" if thorough else "quick_check"
    rows = connection.exec_driver_sql(f"PRAGMA {name}({_MOST_SHOWN})").scalars().all()
    if rows == ["ok"]:
        yield Finding(Level.OK, "pages", f"SQLite finds nothing ({name})")
    for row in rows:
        if row != "ok":
            yield Finding(Level.FAIL, "pages", one_line(str(row), 200), RESTORE)
    if thorough and connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
        yield Finding(Level.FAIL, "pages", "steps without their workflow", REBUILD)


def _schema(connection: Connection) -> _Findings:
    revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    if revision == HEAD:
        yield Finding(Level.OK, "schema", str(revision))
    elif str(revision) < HEAD:
        yield Finding(
            Level.WARN,
            "schema",
            f"{revision}, of an older version (this one has {HEAD})",
            "The next start brings it up to date.",
        )
    else:
        yield Finding(
            Level.FAIL,
            "schema",
            f"{revision}, of a newer version (this one has {HEAD})",
            "Use the newest version: `uvx dbos-mcp@latest`.",
        )


def _objects(cache: Cache) -> _Findings:
    """Tables, views and triggers, beside those of a new cache."""
    with cache.read() as connection:
        found = _objects_of(connection)
        later = bool(indexes.missing(connection)) or not workflow_counts.are_kept(connection)
    may_be_away = {index.name for index in indexes.DEFERRED} | workflow_counts.TRIGGERS.keys()
    wrong = [
        name
        for name, definition in _objects_of_a_new_cache().items()
        if found.get(name) != definition and not (name in may_be_away and name not in found)
    ]
    if wrong:
        yield Finding(Level.FAIL, "objects", f"changed or missing: {', '.join(wrong)}", RESTORE)
    elif later:
        yield Finding(
            Level.WARN, "objects", "indexes of a load under way are not there", "Run a sync."
        )
    else:
        yield Finding(Level.OK, "objects", "tables, views and triggers are as they were made")


@lru_cache(maxsize=1)
def _objects_of_a_new_cache() -> dict[str, str | None]:
    with (
        TemporaryDirectory(prefix="dbos-mcp-") as folder,
        closing(open_cache(Path(folder) / "blank.sqlite")) as blank,
        blank.read() as connection,
    ):
        return _objects_of(connection)


def _objects_of(connection: Connection) -> dict[str, str | None]:
    """By name; of an index, whose text depends on who made it, only that it is there."""
    rows = connection.exec_driver_sql(
        "SELECT name, CASE type WHEN 'index' THEN '' ELSE sql END FROM sqlite_master"
    )
    return {row[0]: row[1] for row in rows}


def _log(connection: Connection, *, is_excerpt: bool, deep: bool) -> _Findings:
    count, broken, without = _look_at_each(connection) if deep else _look_at_ends(connection)
    missing = event_log.last_position(connection) - count - log_removals.count(connection)
    if missing and not is_excerpt:
        told = (
            f"{missing} events are missing"
            if missing > 0
            else f"{-missing} events are there that were removed"
        )
        yield Finding(Level.FAIL, "log", told, RESTORE)
    if broken:
        places = ", ".join(map(str, broken[:_MOST_SHOWN]))
        yield Finding(
            Level.FAIL,
            "log",
            f"{len(broken)} of {count} events are not as they were written (at {places})",
            RESTORE,
        )
    if without:
        yield Finding(
            Level.WARN,
            "log",
            f"{without} of {count} events, of an older version, have no checksum",
            "`dbos-mcp cache restore --force` writes them again, with one.",
        )
    elif not (broken or (missing and not is_excerpt)):
        sound = ", each as it was written" if deep else ""
        yield Finding(Level.OK, "log", f"{counted(count, 'event')}{sound}")
    for removal in log_removals.load_all(connection):
        yield Finding(
            Level.OK,
            "log",
            f"{removal.events} events from before {format_time(removal.before)}"
            f" {'were pruned' if removal.reason == log_removals.Reason.PRUNED else 'are lost'}",
        )


def _look_at_ends(connection: Connection) -> tuple[int, list[int], int]:
    return event_log.count(connection), [], 0


def _look_at_each(connection: Connection) -> tuple[int, list[int], int]:
    """How many there are, which are not as they were written, and how many cannot say."""
    count, broken, without = 0, [], 0
    for batch in event_log.read_raw(connection):
        count += len(batch)
        for event in batch:
            if event.is_sound is None:
                without += 1
            elif not event.is_sound:
                broken.append(event.position)
    return count, broken, without


def _read_models(connection: Connection) -> _Findings:
    behind = projector.stale(connection)
    if behind:
        yield Finding(Level.WARN, "read models", f"not up to the log: {', '.join(behind)}", REBUILD)
    else:
        yield Finding(Level.OK, "read models", "up to the end of the log")


def _sync_state(connection: Connection, *, now: int) -> _Findings:
    """What sync goes by; what is wrong in it would leave a hole unseen."""
    latest = now + DAY_MS
    wrong = sorted(
        name
        for name, state in sync_state.load_all(connection).items()
        if any(
            moment is not None and not 0 <= int(moment) <= latest
            for moment in (
                *(state.watermark, state.ended_watermark, state.dequeued_watermark),
                *(state.covered_since, state.steps_since, state.succeeded_at),
            )
        )
    )
    if wrong:
        places = one_line(", ".join(wrong), 100)
        yield Finding(Level.FAIL, "sync state", f"impossible times of {places}", RESTORE)
    for table in ("step_reading", "step_due"):
        stray = connection.exec_driver_sql(
            f"SELECT count(*) FROM {table} WHERE workflow_key NOT IN (SELECT id FROM workflow)"
        ).scalar_one()
        if stray:
            told = f"{stray} rows of {table} are of no workflow"
            yield Finding(Level.FAIL, "sync state", told, RESTORE)
            return
    if not wrong:
        yield Finding(Level.OK, "sync state", "possible")


def _rebuild(copy: Path, progress: Progress | None) -> _Findings:
    """What the log folds into, beside what is there."""
    with closing(Cache(copy)) as cache, cache.write() as connection:
        tables = projector.rebuild(connection, progress)
    different = [table.table for table in tables if not table.equal]
    if different:
        told = f"not what the log makes of them: {', '.join(different)}"
        yield Finding(Level.FAIL, "rebuild", told, REBUILD)
    else:
        rows = sum(table.rows for table in tables)
        yield Finding(Level.OK, "rebuild", f"the log makes the same {counted(rows, 'row')}")


def _backups(path: Path) -> _Findings:
    backup = newest_backup(path)
    if backup is None:
        yield Finding(Level.OK, "backups", "none; `dbos-mcp cache backup` makes one")
    else:
        yield Finding(Level.OK, "backups", f"the newest is of {format_time(backup.made_at)}")
