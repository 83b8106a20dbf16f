"""A process that is killed at any moment loses nothing that it said was stored."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dbos_mcp.store import projector
from tests.store.conftest import opened

ROUNDS = 20
SEEDS = range(int(os.environ.get("CRASH_SEEDS", "1")))  # 50 of them: a thousand kills
BATCH = 23

# The first process only imports, which takes most of a second; its children open the file.
RECORD_FOR_EVER = """
import itertools, os, sys
from pathlib import Path
from dbos_mcp.store import projector, sync_state
from dbos_mcp.store.migrate import open_cache
from tests.store.factories import changed, deleted, observed, steps

def say(what):
    # One write: in an unbuffered process print() makes two, and a kill may come between them.
    os.write(1, f"{what}\\n".encode())

def run(first):
    say(os.getpid())  # before anything else that it does
    cache = open_cache(Path(sys.argv[1]))
    for n in itertools.count(first):
        batch = [
            *(observed(f"order-{n}-{k}") for k in range(20)),
            steps(f"order-{n}-0", "pay", "pack", "ship"),
            changed(f"order-{n}-1", status="ERROR", error="boom", payloads_loaded=True),
            deleted(f"order-{n}-2"),
        ]
        with cache.write() as connection:
            recorded = projector.record(connection, batch, recorded_at=n)
            sync_state.update(connection, "shop", {"watermark": recorded[-1].position})
        say(recorded[-1].position)
        if n % 7 == 0:
            cache.checkpoint(wal_limit_bytes=0)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        run(int(line))
    os.waitpid(child, 0)
    say("dead")
"""


@contextmanager
def recording_processes(path: Path) -> Iterator[Callable[[int, int, int], int]]:
    """Starts one, kills it after some acknowledgements and a moment, says which was the last."""
    with subprocess.Popen(
        [sys.executable, "-c", RECORD_FOR_EVER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        commands, answers = nursery.stdin, nursery.stdout

        def run_and_kill(first: int, acknowledgements: int, moment: int) -> int:
            commands.write(f"{first}\n")
            commands.flush()
            said = [answers.readline() for _ in range(1 + acknowledgements)]
            assert "dead\n" not in said, f"it ended by itself: {said}"
            child, *acknowledged = map(int, said)
            for _ in range(moment):
                pass
            os.kill(child, signal.SIGKILL)
            acknowledged += [int(line) for line in iter(answers.readline, "dead\n")]
            return acknowledged[-1]

        try:
            yield run_and_kill
        finally:
            nursery.stdin.close()


@pytest.mark.e2e
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_process_loses_doubles_and_breaks_nothing(cache_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with recording_processes(cache_path) as run_and_kill:
        for number in range(ROUNDS):
            acknowledged = run_and_kill(
                number * 100_000, chance.randint(1, 15), chance.randint(0, 300_000)
            )
            check(cache_path, acknowledged)


def check(path: Path, acknowledged: int) -> None:
    with opened(path) as cache:
        with cache.read() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").first() is None
            newest, count, batches, distinct = connection.exec_driver_sql(
                "SELECT max(position), count(*), count(DISTINCT recorded_at),"
                " count(DISTINCT workflow_id || kind) FROM event"
            ).one()
            watermark = connection.exec_driver_sql("SELECT watermark FROM sync_state").scalar()
            checkpoints = connection.exec_driver_sql(
                "SELECT DISTINCT position FROM projection_checkpoint"
            ).scalars()
            assert checkpoints.all() == [newest]
        # The last batch may be stored before that could be told.
        assert newest in (acknowledged, acknowledged + BATCH)
        assert count == newest == distinct  # no gap, nothing twice
        assert newest == BATCH * batches  # no half of a batch
        assert watermark == newest
        with cache.write() as connection:
            assert all(table.equal for table in projector.rebuild(connection))
