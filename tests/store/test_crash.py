"""A process that is killed at any moment loses nothing that it said was stored."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from dbos_mcp.store import projector
from tests.store.conftest import opened

ROUNDS = 20

RECORD_FOR_EVER = """
import itertools, sys
from pathlib import Path
from dbos_mcp.store import projector, sync_state
from dbos_mcp.store.migrate import open_cache
from tests.store.factories import changed, deleted, observed, steps

cache = open_cache(Path(sys.argv[1]))
start = int(sys.argv[2])
for n in itertools.count(start):
    batch = [
        *(observed(f"order-{n}-{k}") for k in range(20)),
        steps(f"order-{n}-0", "pay", "pack", "ship"),
        changed(f"order-{n}-1", status="ERROR", error="boom", payloads_loaded=True),
        deleted(f"order-{n}-2"),
    ]
    with cache.write() as connection:
        recorded = projector.record(connection, batch, recorded_at=n)
        state = sync_state.load(connection, "shop")
        state.watermark = recorded[-1].position
        sync_state.save(connection, state)
    print(recorded[-1].position, flush=True)
    if n % 7 == 0:
        cache.checkpoint(wal_limit_bytes=0)
"""


@pytest.mark.e2e
def test_a_killed_process_loses_doubles_and_breaks_nothing(cache_path: Path) -> None:
    chance = random.Random(20261121)
    root = Path(__file__).parents[2]
    acknowledged = 0
    for number in range(ROUNDS):
        with subprocess.Popen(
            [sys.executable, "-c", RECORD_FOR_EVER, str(cache_path), str(number * 100_000)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
        ) as process:
            assert process.stdout is not None
            for _ in range(chance.randint(1, 15)):
                acknowledged = int(process.stdout.readline())
            for _ in range(chance.randint(0, 40_000)):
                pass  # somewhere inside the next batches
            process.kill()
            for line in process.stdout.read().split("\n")[:-1]:
                acknowledged = int(line)

        with opened(cache_path) as cache:
            with cache.read() as connection:
                assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
                assert connection.exec_driver_sql("PRAGMA foreign_key_check").first() is None
                newest, count, batches, distinct = connection.exec_driver_sql(
                    "SELECT max(position), count(*), count(DISTINCT recorded_at),"
                    " count(DISTINCT workflow_id || kind) FROM event"
                ).one()
                watermark = connection.exec_driver_sql("SELECT watermark FROM sync_state").scalar()
                positions = connection.exec_driver_sql(
                    "SELECT DISTINCT position FROM projection_checkpoint"
                ).scalars()
                assert positions.all() == [newest]
            assert newest >= acknowledged  # a batch may be stored before it could be told
            assert newest - acknowledged <= 23
            assert count == newest == distinct  # no gap, nothing twice
            assert newest == 23 * batches  # no half of a batch
            assert watermark == newest
            with cache.write() as connection:
                assert all(table.equal for table in projector.rebuild(connection))
