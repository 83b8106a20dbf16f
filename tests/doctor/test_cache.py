"""The cache, the disk, who syncs: looked at, and left as it is."""

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from dbos_mcp.doctor import cache as cache_checks
from dbos_mcp.doctor import held, subject
from dbos_mcp.doctor.finding import Status
from dbos_mcp.doctor.later import LateError, Later
from dbos_mcp.domain import now_ms
from dbos_mcp.errors import DbosMcpError, UsageError
from dbos_mcp.runtime import open_runtime
from dbos_mcp.settings import Settings, targets_from_env
from dbos_mcp.store import damage
from dbos_mcp.store.filesystems import Mount
from dbos_mcp.store.migrate import HEAD, open_cache
from dbos_mcp.sync.leadership import Leadership
from tests.doctor.looking import Found, found_at, look
from tests.store.test_engine import without_rights
from tests.store.test_file_in_use import unwritable

NewCache = Callable[[object], Path]


def at(cache: Path, **changes: object) -> Settings:
    """Nothing is sent."""
    return Settings.model_validate(
        {"home": cache.parent, "url": "http://127.0.0.1:1", "cache": cache, "offline": True}
        | changes
    )


def here(cache: Path, *, deep: bool = False) -> Found:
    """Of a target that is not there; as if it were, of what is here."""
    return found_at(at(cache, offline=False), deep=deep)


def state_of(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Everything below, with what it holds, when it was changed, and who may read it."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            path.stat().st_mtime_ns,
            path.stat().st_mode,
        )
        for path in [folder, *folder.rglob("*")]
    }


def test_no_cache_yet_and_none_is_made(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    before = state_of(tmp_path)
    found = found_at(Settings(home=home, url="http://127.0.0.1:1"), deep=True)
    assert "is not there yet" in found.one("cache.file").message
    assert found.failing == ["network.connection"]
    assert state_of(tmp_path) == before


def test_a_sound_cache_is_left_as_it_is(cache_path: Path) -> None:
    for suffix in (".lock", ".leader.lock", ".checked"):
        cache_path.with_name(f"{cache_path.name}{suffix}").touch(mode=0o600)
    before = state_of(cache_path.parent)
    for deep in (False, True):
        found = here(cache_path, deep=deep)
        assert found.failing == ["network.connection"]
        assert found.one("cache.schema").facts["schema"] == HEAD
        assert state_of(cache_path.parent) == before


def test_when_it_was_found_sound(cache_path: Path) -> None:
    with closing(open_cache(cache_path)) as cache:
        damage.look(cache, now=now_ms() - 5 * 3_600_000)
    found = here(cache_path).one("cache.integrity")
    assert found.status is Status.OK
    assert found.message.startswith("found sound 5h")
    leader = Leadership(cache_path)
    with closing(open_cache(cache_path)) as cache:
        damage.look(cache, now=now_ms() - 72 * 3_600_000)
        checked = cache_path.with_name(f"{cache_path.name}.checked")
        os.utime(checked, (1, 1))
    assert leader.take()
    assert here(cache_path).one("cache.integrity").status is Status.WARN
    leader.release()


@pytest.mark.parametrize("offset", [0, 100])
def test_a_damaged_cache_is_told_with_the_way_out(cache_path: Path, offset: int) -> None:
    with cache_path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 8000)
    before = state_of(cache_path.parent)
    found = here(cache_path)
    assert "cache.file" in found.failing
    assert found.one("cache.integrity").status is Status.SKIP
    if offset:
        assert "dbos-mcp cache restore" in found.one("cache.file").next_step
    assert state_of(cache_path.parent) == before


def test_damage_in_the_middle_is_found_by_a_deep_look(cache_path: Path) -> None:
    size = cache_path.stat().st_size
    with cache_path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * (size // 4))
    assert "cache.integrity" in here(cache_path, deep=True).failing


def test_a_cache_that_another_program_has_locked_is_not_waited_for(
    cache_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "BOUND_SECONDS", 1)
    monkeypatch.setattr(subject, "DEEP_BOUND_SECONDS", 1)
    with closing(sqlite3.connect(cache_path)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        found = here(cache_path, deep=True)
    assert "did not come to an end in time" in found.one("cache.file").message
    deep = found.one("cache.integrity")
    assert deep.status is Status.FAIL
    assert found.one("program.sqlite").status is Status.OK


@pytest.mark.parametrize(
    ("revision", "readable_from", "status"),
    [("0008", 8, Status.OK), ("0999", 8, Status.WARN), ("0999", 999, Status.FAIL)],
    ids=["older", "newer", "newer and unreadable"],
)
def test_a_schema_that_is_another(
    cache_path: Path, revision: str, readable_from: int, status: Status
) -> None:
    with closing(sqlite3.connect(cache_path)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = ?", [revision])
        database.execute(f"PRAGMA user_version = {readable_from}")
    before = state_of(cache_path.parent)
    found = here(cache_path)
    assert found.one("cache.schema").status is status
    assert found.one("cache.schema").facts["schema"] == revision
    after = state_of(cache_path.parent)
    assert before[cache_path.name] == after[cache_path.name]


def test_a_file_that_is_no_cache(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("canary_77 and nothing else, but more of it than a few bytes")
    found = here(path)
    assert "cache.file" in found.failing
    assert "is not a dbos-mcp cache" in found.one("cache.file").message
    assert "canary" not in found.texts()


def test_a_file_that_others_can_read(cache_path: Path) -> None:
    cache_path.chmod(0o644)
    found = here(cache_path).one("cache.file")
    assert found.status is Status.WARN
    assert f"chmod 600 ~/{cache_path.name}" in found.next_step


def test_a_cache_that_can_only_be_read(cache_path: Path) -> None:
    with unwritable(cache_path.parent):
        found = here(cache_path)
    assert "only read" in found.one("cache.file").message
    assert found.one("cache.schema").status is Status.OK


def test_a_folder_in_which_none_can_be_made(cache_path: Path) -> None:
    with unwritable(cache_path.parent):
        found = here(cache_path.with_name("none.sqlite"))
    assert "cache.file" in found.failing
    assert "cannot be made" in found.one("cache.file").message


def test_a_cache_that_cannot_be_read(cache_path: Path) -> None:
    for parent in cache_path.parents:
        if len(parent.parts) > 2:
            parent.chmod(parent.stat().st_mode | 0o111)
    cache_path.chmod(0o000)
    with without_rights():
        found = here(cache_path)
    assert "cache.file" in found.failing
    assert "ls -l" in found.one("cache.file").next_step


def test_a_cache_behind_a_folder_that_is_closed(cache_path: Path) -> None:
    folder = cache_path.parent / "closed"
    folder.mkdir()
    inside = folder / "cache.sqlite"
    shutil.copy(cache_path, inside)
    for parent in folder.parents:
        if len(parent.parts) > 2:
            parent.chmod(parent.stat().st_mode | 0o111)
    folder.chmod(0o000)
    try:
        with without_rights():
            found = here(inside)
    finally:
        folder.chmod(0o700)
    assert "cache.file" in found.failing


def test_a_disk_that_is_full_and_one_over_a_network(
    cache_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_checks, "TOO_LITTLE_BYTES", 2**62)
    assert here(cache_path).one("cache.disk").status is Status.FAIL
    monkeypatch.setattr(cache_checks, "TOO_LITTLE_BYTES", 0)
    monkeypatch.setattr(cache_checks, "LITTLE_BYTES", 2**62)
    assert here(cache_path).one("cache.disk").status is Status.WARN
    monkeypatch.setattr(held, "mount_under", lambda _: Mount("nfs4", "rw"))
    assert "network file system (nfs4)" in here(cache_path).one("cache.file").message


async def test_a_mirror_that_is_synced_while_it_is_looked_at(
    shop_database: Path, tmp_path: Path
) -> None:
    settings = Settings.model_validate(
        {"home": tmp_path, "system_database_url": f"sqlite:///{shop_database}"}
    )
    async with open_runtime(settings) as runtime:
        await runtime.require_live().worker.run_until_read()
        leader = Leadership(runtime.cache.path)
        assert leader.take()
        found = await look(settings)
        leader.release()
        again = await look(settings)
    assert found.failing == []
    assert found.one("network.conductor").facts["schema"]
    assert found.one("sync.process").facts["process"] == os.getpid()
    assert found.one("sync.process").facts["since"]
    assert "none" in again.one("sync.process").message
    (mirror,) = found.all("sync.mirror")
    assert mirror.facts["condition"] == "live"
    assert mirror.message.endswith(" old")
    (coverage,) = found.all("sync.coverage")
    assert coverage.facts["history_complete"] is True


def take_away(path: Path) -> None:
    path.unlink()


async def test_a_mirror_whose_upstream_is_away(shop_database: Path, tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {"home": tmp_path, "system_database_url": f"sqlite:///{shop_database}"}
    )
    async with open_runtime(settings) as runtime:
        worker = runtime.require_live().worker
        await worker.run_until_read()
        take_away(shop_database)
        with suppress(DbosMcpError):
            await worker.run_once()
    found = await look(settings)
    assert found.failing == ["network.conductor"]
    assert found.one("network.conductor").message.startswith("the system database does not answer")
    (mirror,) = found.all("sync.mirror")
    assert mirror.status is Status.WARN
    assert mirror.facts["last_error"]


def test_work_that_does_not_end_is_not_waited_for() -> None:
    release = Later(lambda: None)
    release.result(float("inf"))
    stuck = Later(lambda: __import__("threading").Event().wait())
    with pytest.raises(LateError):
        stuck.result(0)


def test_a_user_without_a_home() -> None:
    with pytest.raises(UsageError, match="no home folder"), pytest.MonkeyPatch.context() as place:
        place.setattr(Path, "home", _no_home)
        targets_from_env({})


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")
