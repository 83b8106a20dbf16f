"""An SQLite that is too old is refused with the reason, before it does half a job."""

import sqlite3
from pathlib import Path

import pytest

from dbos_mcp import sqlite
from dbos_mcp.errors import StoreError, UsageError
from dbos_mcp.sqlite import makes_no_rows, require_sqlite, require_sqlite_for_dbos
from dbos_mcp.store.engine import Cache


@pytest.mark.parametrize("version", [(3, 31, 1), (3, 34, 1), (3, 37, 2)])
def test_an_sqlite_that_the_cache_cannot_use_is_refused_with_the_next_step(
    version: tuple[int, ...],
) -> None:
    with pytest.raises(StoreError, match=r"SQLite is 3\.3.*needs 3\.38\.0 or later") as refusal:
        require_sqlite(version)
    assert "uvx --managed-python dbos-mcp" in refusal.value.hint


@pytest.mark.parametrize("version", [(3, 38, 0), (3, 40, 1), (3, 54, 1), (4, 0, 0)])
def test_every_later_one_is_taken(version: tuple[int, ...]) -> None:
    require_sqlite(version)


def test_a_cache_is_not_even_made_with_one_that_is_too_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "OLDEST", (99, 0, 0))
    with pytest.raises(StoreError, match=r"needs 99\.0\.0 or later"):
        Cache(tmp_path / "folder" / "cache.sqlite")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("python", "version", "starts"),
    [
        ((3, 11), (3, 38, 0), True),
        ((3, 12), (3, 41, 2), False),
        ((3, 12), (3, 42, 0), True),
        ((3, 13), (3, 40, 1), False),
        ((3, 14), (3, 53, 4), True),
    ],
)
def test_it_is_known_where_an_application_on_sqlite_cannot_start(
    python: tuple[int, ...], version: tuple[int, ...], starts: bool
) -> None:
    if starts:
        require_sqlite_for_dbos(version, python)
    else:
        with pytest.raises(UsageError, match=r"Python 3\.1.*needs 3\.42\.0 or later") as refusal:
            require_sqlite_for_dbos(version, python)
        assert refusal.value.hint


def test_a_row_that_an_old_sqlite_leaves_without_its_time_is_told_from_other_conflicts() -> None:
    without = sqlite3.IntegrityError("NOT NULL constraint failed: workflow_status.created_at")
    twice = sqlite3.IntegrityError("UNIQUE constraint failed: workflow_status.workflow_uuid")
    assert makes_no_rows(without, (3, 41, 2))
    assert not makes_no_rows(without, (3, 42, 0))
    assert not makes_no_rows(twice, (3, 40, 1))
