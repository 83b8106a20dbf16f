"""`dbos-mcp cache …`, as it is typed."""

import json
from pathlib import Path

import pytest

from dbos_mcp.errors import StoreError, UsageError
from dbos_mcp.queries.coverage import Gap, Missing, gap_of_changes, gap_of_history
from dbos_mcp.queries.history import get_history
from dbos_mcp.server.freshness import gap_line
from dbos_mcp.store import sync_state
from dbos_mcp.store.backup import backups
from dbos_mcp.store.engine import Cache
from dbos_mcp.sync.leadership import Leadership
from dbos_mcp.upkeep.check import check
from dbos_mcp.upkeep.prune import prune
from tests import command_line
from tests.store.factories import BORN
from tests.upkeep.conftest import NOW, ORDERS
from tests.upkeep.test_restore import leaves_of, log_of, overwrite


def run(path: Path, *arguments: str) -> command_line.Done:
    local = {"DBOS_URL": "http://127.0.0.1:9", "DBOS_MCP_CACHE": str(path)}
    return command_line.run(path.parent, "cache", *arguments, **local)


def test_a_cache_is_checked_backed_up_damaged_restored_and_pruned(
    cache: Cache, cache_path: Path
) -> None:
    cache.close()
    told = run(cache_path, "path")
    assert (told.returncode, told.stdout) == (0, f"{cache_path}\n")
    for _ in range(2):
        assert run(cache_path, "backup", "--keep", "1").returncode == 0
    assert len(backups(cache_path)) == 1
    before = log_of(cache_path)

    overwrite(cache_path, leaves_of(cache_path)[5:7])
    found = run(cache_path, "check", "--json")
    assert found.returncode == 1
    assert json.loads(found.stdout)["sound"] is False
    restored = run(cache_path, "restore")
    assert restored.returncode == 0, restored.stderr
    assert "nothing that is known of" in restored.stdout
    assert log_of(cache_path) == before

    assert run(cache_path, "prune", "--before", "2099-01-01T00:00:00Z").returncode == 0
    assert len(log_of(cache_path)) == len(before) - 2 * (ORDERS - 11) - 2
    sound = run(cache_path, "check", "--deep")
    assert sound.returncode == 0, sound.stdout
    assert "were pruned" in sound.stdout


@pytest.mark.parametrize("command", ["backup", "restore", "prune --before -1d"])
def test_offline_nothing_is_done_to_a_cache(cache_path: Path, command: str) -> None:
    from typer.testing import CliRunner

    from dbos_mcp.cli import app

    offline = ["--offline", "--cache", str(cache_path), "cache", *command.split()]
    done = CliRunner().invoke(app, offline)
    assert isinstance(done.exception, UsageError)
    checked = CliRunner().invoke(app, [*offline[:4], "check"])
    assert checked.exit_code == 0


def test_nothing_is_restored_while_somebody_syncs(cache: Cache, cache_path: Path) -> None:
    from dbos_mcp.cli.cache import _nobody_syncs

    cache.close()
    leader = Leadership(cache_path)
    assert leader.take()
    try:
        with pytest.raises(StoreError, match="Another process syncs"), _nobody_syncs(cache_path):
            pass
    finally:
        leader.release()
    with _nobody_syncs(cache_path):
        pass


def test_history_says_what_was_pruned(cache: Cache) -> None:
    with cache.write() as connection:
        sync_state.update(connection, "shop", {"covered_since": 0, "succeeded_at": NOW})
    before = BORN + 500_000
    with cache.read() as connection:
        assert gap_of_changes(connection, "shop", BORN) is None
    prune(cache, before, now=NOW)
    pruned = Gap(Missing.PRUNED, before)
    with cache.read() as connection:
        assert gap_of_changes(connection, "shop", BORN + 1) == pruned
        assert gap_of_changes(connection, None, None, 3) == pruned
        assert gap_of_changes(connection, "shop", before, 10_000) is None
        entries = get_history(connection, "shop", "order-5")
        assert gap_of_history(connection, "shop", "order-5", entries) == pruned
    assert "pruned before" in (gap_line(pruned) or "")


def test_each_check_finds_what_the_others_cannot(cache: Cache, cache_path: Path) -> None:
    with cache.write() as connection:
        connection.exec_driver_sql("DROP TRIGGER event_refuses_delete")
        connection.exec_driver_sql("DELETE FROM event WHERE position = 7")
        connection.exec_driver_sql("UPDATE workflow SET updated_at = 1 WHERE id = 9")
        sync_state.update(connection, "shop", {"watermark": 2**60})
    cache.close()
    found = {each.check for each in check(cache_path, now=NOW, deep=True).findings
             if each.level == "fail"}  # fmt: skip
    assert found == {"log", "objects", "sync state", "rebuild"}
    assert {each.check for each in check(cache_path, now=NOW).findings if each.level == "fail"} == {
        "log"
    }
