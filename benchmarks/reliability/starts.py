"""Eight processes open one cache at the same moment: a new one, and one of every older schema.

    python -m benchmarks.reliability.starts --rounds 100

Each round must end with no process failed, the schema current, and at most one backup: it was
migrated once. Then a migration is killed before each of its statements, and the next start must
bring the file to the same end. The control, alembic as it comes, must fail.
"""

import argparse
import multiprocessing
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Engine, create_engine, event

from benchmarks.report import Report, machine, out
from dbos_mcp.store import projector
from dbos_mcp.store.backup import backups
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.events import ApplicationObserved
from dbos_mcp.store.migrate import HEAD, migrations_folder, open_cache, upgrade

PROCESSES = 8
EVENTS = 20
FRESH = "new file"

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    ["benchmarks.report", "dbos_mcp.store.migrate", "alembic.command"]
)

Start = Callable[[Path], None]


class Result(NamedTuple):
    rounds: Counter[str]
    failures: list[str]


def older_schemas() -> list[str]:
    revisions = sorted(path.name[:4] for path in migrations_folder().glob("versions/[0-9]*.py"))
    return [revision for revision in revisions if revision < HEAD]


def made_by(path: Path, newest: str) -> None:
    """A cache with events, as of an older version, whose newest migration was that one."""
    current = path.with_name("current.sqlite")
    with closing(open_cache(current)) as cache, cache.write() as connection:
        applications = [
            ApplicationObserved(application_name=f"shop-{n}", application_id=str(n), status="OK")
            for n in range(EVENTS)
        ]
        projector.record(connection, applications, recorded_at=1)
    folder = path.with_name("migrations")
    shutil.copytree(migrations_folder(), folder)
    for migration in folder.glob("versions/[0-9]*.py"):
        if migration.name[:4] > newest:
            migration.unlink()
    with closing(Cache(path)) as cache:
        upgrade(cache, folder, keep_backup=False)
    with closing(sqlite3.connect(path)) as database:
        database.execute("ATTACH ? AS current", (str(current),))
        columns = ", ".join(row[1] for row in database.execute("PRAGMA main.table_info(event)"))
        database.execute(f"INSERT INTO event ({columns}) SELECT {columns} FROM current.event")
        database.commit()


def start(path: Path) -> None:
    open_cache(path).close()


def start_naively(path: Path) -> None:
    """The control: what alembic's tutorial does."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    with create_engine(f"sqlite:///{path}").begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def at_once(path: Path, how: Start = start, processes: int = PROCESSES) -> list[str]:
    """What went wrong in any of them."""
    told: Any = _processes.SimpleQueue()
    ready = _processes.Barrier(processes)
    children = [
        _processes.Process(target=_run, args=(path, how, ready, told)) for _ in range(processes)
    ]
    for child in children:
        child.start()
    answers = [told.get() for _ in children]
    for child in children:
        child.join()
    return [answer for answer in answers if answer]


def _run(path: Path, how: Start, ready: Barrier, told: Any) -> None:
    ready.wait()
    try:
        how(path)
    except BaseException:
        told.put(traceback.format_exc().strip().splitlines()[-1])
    else:
        told.put("")


def wrong_with(path: Path, *, fresh: bool) -> list[str]:
    """Of a file that was opened."""
    wrong = []
    with closing(Cache(path)) as cache, cache.read() as connection:
        (revision,) = connection.exec_driver_sql("SELECT version_num FROM alembic_version").one()
        (events,) = connection.exec_driver_sql("SELECT count(*) FROM event").one()
        (sound,) = connection.exec_driver_sql("PRAGMA integrity_check").one()
        stale = projector.stale(connection)
    for what, found, expected in (
        ("schema", revision, HEAD),
        ("events", events, 0 if fresh else EVENTS),
        ("integrity_check", sound, "ok"),
        ("stale read models", stale, []),
        ("backups", len(backups(path)), 0 if fresh else 1),
    ):
        if found != expected:
            wrong.append(f"{what}: {found}, not {expected}")
    return wrong


def race(rounds: int, schemas: Sequence[str], how: Start = start) -> Result:
    """The schemas take turns; each is made once, and copied."""
    result = Result(Counter(), [])
    with tempfile.TemporaryDirectory() as name:
        templates = {}
        for schema in schemas:
            if schema != FRESH:
                templates[schema] = Path(name) / schema / "cache.sqlite"
                templates[schema].parent.mkdir()
                made_by(templates[schema], schema)
        for number in range(rounds):
            schema = schemas[number % len(schemas)]
            path = Path(name) / f"round-{number}" / "cache.sqlite"
            path.parent.mkdir()
            if schema in templates:
                shutil.copy(templates[schema], path)
            failures = at_once(path, how)
            if how is start:
                failures += wrong_with(path, fresh=schema == FRESH)
            result.rounds[schema] += 1
            result.failures.extend(f"{schema}: {failure}" for failure in failures)
            shutil.rmtree(path.parent)
    return result


def start_until_killed(path: Path, *, before_statement: int) -> None:
    seen = 0

    def count(*_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == before_statement:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", count)
    start(path)


def kills(schema: str, *, step: int = 1) -> Result:
    """Kill a start before its 1st, 2nd … statement, until one is not killed any more."""
    result = Result(Counter(), [])
    with tempfile.TemporaryDirectory() as name:
        template = Path(name) / "cache.sqlite"
        if schema != FRESH:
            made_by(template, schema)
        statement, survived = 1, False
        while not survived:
            path = Path(name) / str(statement) / "cache.sqlite"
            path.parent.mkdir()
            if schema != FRESH:
                shutil.copy(template, path)
            one = partial(start_until_killed, before_statement=statement)
            child = _processes.Process(target=one, args=(path,))
            child.start()
            child.join()
            survived = child.exitcode == 0
            start(path)
            wrong = wrong_with(path, fresh=schema == FRESH)
            # Killed between the copy and its migration, it is copied again.
            wrong = [each for each in wrong if survived or not each.startswith("backups: 2")]
            result.failures.extend(f"{schema}, statement {statement}: {each}" for each in wrong)
            result.rounds[schema] += 1
            statement += step
            shutil.rmtree(path.parent)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description="Many processes open one cache at once.")
    parser.add_argument("--rounds", type=int, default=100)
    arguments = parser.parse_args()
    schemas = [FRESH, *older_schemas()]
    out.print(machine())
    report = Report(f"{PROCESSES} processes start at once, {arguments.rounds} rounds")
    began = time.monotonic()
    raced = race(arguments.rounds, schemas)
    starts = raced.rounds.total() * PROCESSES
    report.add("Starts that failed", f"{len(raced.failures)} of {starts}", "0", not raced.failures)
    report.add("A round", f"{(time.monotonic() - began) / raced.rounds.total():.2f} s")
    killed = [kills(schema) for schema in schemas]
    tries, broken = sum(k.rounds.total() for k in killed), [f for k in killed for f in k.failures]
    report.add("Reruns after a kill that went wrong", f"{len(broken)} of {tries}", "0", not broken)
    control = race(max(arguments.rounds // 10, 5), [FRESH], start_naively)
    naive = control.rounds.total() * PROCESSES
    found = len(control.failures)
    report.add("Control: alembic as it comes, failed", f"{found} of {naive}", "> 0", found > 0)
    report.print()
    for failure in (*raced.failures, *broken)[:20]:
        out.print(failure)
    return 0 if found and not raced.failures and not broken else 1


if __name__ == "__main__":
    sys.exit(main())
