"""The benchmark of SQL asks all that it says, and notices what should not be answered."""

import shutil
from pathlib import Path

import pytest

from benchmarks import sql
from tests.queries.conftest import mirrored

__all__ = ["mirrored"]


@pytest.fixture
def cache(mirrored: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copy(mirrored[1], tmp_path))


async def test_everything_is_asked_and_nothing_is_wrong(cache: Path) -> None:
    findings = await sql.run(0, 0, [sql.ENDLESS], cache, calls=6, seconds=0.1)
    assert findings.wrong == []
    assert {"point", "schema", "retries, all", "children, 7 days"} <= findings.figures.keys()
    assert sum(name.startswith("refused") for name in findings.figures) == len(sql.REFUSED)
    assert sum(name.startswith("beside") for name in findings.figures) == 2


async def test_what_should_be_refused_and_is_answered_is_wrong(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "REFUSED", {"a question": "SELECT 1"})
    findings = await sql.run(0, 0, [], cache, ["answers"], calls=3)
    assert findings.wrong == ["a question is answered: SELECT 1"]
