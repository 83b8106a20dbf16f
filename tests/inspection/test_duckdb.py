"""The cache in DuckDB, as docs/sql.md shows it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from importlib.resources import as_file, files
from pathlib import Path

import duckdb
import pytest

from dbos_mcp.inspection.views import VIEWS
from dbos_mcp.store import projector
from dbos_mcp.store.events import ExecutorObserved
from docs.generate.sql import PAGE
from tests.store.conftest import opened
from tests.store.factories import BORN, SHOP, issued, observed, settled

_SETUP, _JOIN = (block.split(";\n```")[0] for block in PAGE.read_text().split("```sql\n")[1:3])
INSTALL, MACRO, ATTACH, QUESTION = (statement.strip() for statement in _SETUP.split(";\n"))
SUMS = {
    "workflows": "duration_ms",
    "steps": "step_id",
    "events": "position",
    "applications": "executor_timeout_secs",
    "executors": "created_at_ms",
    "queues": "workflows",
    "schedules": "in_flight",
    "commands": "issued_at_ms",
    "failures": "created_at_ms",
}


@pytest.fixture
def copy(mirrored: tuple[Path, Path], tmp_path: Path) -> Path:
    """DuckDB brings an SQLite of its own: two in one process must not share a file."""
    path = tmp_path / "cache.sqlite"
    with (
        closing(sqlite3.connect(f"{mirrored[1].as_uri()}?mode=ro", uri=True)) as cache,
        closing(sqlite3.connect(path)) as copy,
    ):
        cache.backup(copy)
    with opened(path) as ours, ours.write() as connection:
        executor = ExecutorObserved(
            **SHOP, executor_id="shop-1", status="HEALTHY", created_at=BORN, updated_at=BORN
        )
        odd = observed("odd", created_at=2**62)
        projector.record(connection, [executor, odd, issued(), settled()], recorded_at=BORN)
    return path


@pytest.fixture
def duck() -> Iterator[duckdb.DuckDBPyConnection]:
    """With the extension from the package index, in place of that of DuckDB's site."""
    assert INSTALL == "INSTALL sqlite"
    folder = files("duckdb_extension_sqlite_scanner") / "extensions" / f"v{duckdb.__version__}"
    with duckdb.connect() as duck, as_file(folder / "sqlite_scanner.duckdb_extension") as extension:
        duck.execute(f"LOAD '{extension}'")
        yield duck


def attach(duck: duckdb.DuckDBPyConnection, cache: Path) -> None:
    assert "'cache.sqlite'" in ATTACH
    duck.execute(ATTACH.replace("cache.sqlite", str(cache)))


@pytest.mark.parametrize("typed", [True, False], ids=["with the macro", "without it"])
def test_duckdb_reads_in_every_view_what_sqlite_does(
    duck: duckdb.DuckDBPyConnection, copy: Path, typed: bool
) -> None:
    with closing(sqlite3.connect(f"{copy.as_uri()}?mode=ro", uri=True)) as lite:
        expected = {
            view.name: lite.execute(
                f"SELECT count(*), sum({SUMS[view.name]}) FROM {view.name}"
            ).fetchone()
            for view in VIEWS
        }
    if typed:
        duck.execute(MACRO)
    attach(duck, copy)
    for view in VIEWS:
        duck.execute(f"SELECT * FROM mirror.{view.name}").fetchall()
        duck.execute(f"SELECT count(*), sum({SUMS[view.name]}::BIGINT) FROM mirror.{view.name}")
        assert duck.fetchone() == expected[view.name]
        assert expected[view.name][0] > 0


def test_the_macro_gives_times_numbers_and_flags_their_types(
    duck: duckdb.DuckDBPyConnection, copy: Path
) -> None:
    duck.execute(MACRO)
    attach(duck, copy)
    for view in VIEWS:
        types = {
            name: kind for name, kind, *_ in duck.execute(f"DESCRIBE mirror.{view.name}").fetchall()
        }
        for time, ms in zip(view.columns, view.columns[1:], strict=False):
            if ms.is_integer_of_time:
                assert (types[time.name], types[ms.name]) == ("TIMESTAMP", "BIGINT")
        for name in ("is_failed", "is_terminal", "is_deleted"):
            assert types.get(name, "BOOLEAN") == "BOOLEAN"
        for name in ("duration_ms", "queue_wait_ms", "workflows", "failed"):
            assert types.get(name, "BIGINT") == "BIGINT"
    wrong = "SELECT count(*) FROM mirror.workflows WHERE epoch_ms(created_at) <> created_at_ms"
    assert duck.execute(wrong).fetchone() == (0,)
    assert duck.execute("SELECT strftime(DATE '2026-01-02', '%Y')").fetchone() == ("2026",)
    odd = "SELECT created_at FROM mirror.workflows WHERE workflow_id = 'odd'"
    assert duck.execute(odd).fetchone() == (None,)
    assert duck.execute(QUESTION).fetchall()


def test_the_mirror_is_joined_with_a_file_of_ones_own(
    duck: duckdb.DuckDBPyConnection, copy: Path, tmp_path: Path
) -> None:
    customers = tmp_path / "customers.csv"
    lines = [f"customer-{n},Customer {n},0113 496 000{n}" for n in range(9)]
    customers.write_text("\n".join(["customer,name,phone", *lines]) + "\n")
    duck.execute(MACRO)
    attach(duck, copy)
    assert "'customers.csv'" in _JOIN
    rows = duck.execute(_JOIN.replace("customers.csv", str(customers))).fetchall()
    assert {row[2] for row in rows} >= {"order-1005", "order-1010"}
    assert all(row[0].startswith("Customer ") for row in rows)
