"""The benchmarks' database is one that DBOS can read, and the mirror holds all of it."""

import sqlite3
from contextlib import closing
from pathlib import Path

from pydantic import SecretStr

from benchmarks.changes import DELETED_AFTER_ITS_END, apply_changes
from benchmarks.generate import Population, database_of, generate
from dbos_mcp.demo.tour import APPLICATION_NAME
from dbos_mcp.domain import FAILED, IN_FLIGHT
from dbos_mcp.runtime import open_runtime
from dbos_mcp.settings import Settings

POPULATION = Population(rows=2000, in_flight=60)


async def test_a_generated_database_is_mirrored_completely(tmp_path: Path) -> None:
    database = database_of(POPULATION, tmp_path)
    settings = Settings(
        home=tmp_path,
        system_database_url=SecretStr(f"sqlite:///{database}"),
        application_name=APPLICATION_NAME,
        cache=tmp_path / "cache.sqlite",
        history=None,
    )
    async with open_runtime(settings) as runtime:
        (report,) = await runtime.require_live().worker.run_once()
        assert report.error is None
        with runtime.cache.read() as connection:
            mirrored = connection.exec_driver_sql(
                "SELECT workflow_id, status, error FROM workflow"
            ).all()
    statuses = {workflow_id: status for workflow_id, status, _ in mirrored}
    assert statuses == upstream(database)
    assert sum(status in IN_FLIGHT for status in statuses.values()) == POPULATION.in_flight
    assert set(FAILED) <= set(statuses.values())
    errors = [error for _, status, error in mirrored if status == "ERROR"]
    assert errors
    assert all(errors)


def test_a_database_is_made_once(tmp_path: Path) -> None:
    first = database_of(POPULATION, tmp_path)
    written = first.stat().st_mtime_ns
    assert database_of(POPULATION, tmp_path) == first
    assert first.stat().st_mtime_ns == written
    assert list(tmp_path.glob("*.sqlite*")) == [first]


def test_the_same_parameters_give_the_same_rows(tmp_path: Path) -> None:
    first, second = tmp_path / "first.sqlite", tmp_path / "second.sqlite"
    generate(first, POPULATION)
    generate(second, POPULATION)
    assert dump(first) == dump(second)


def test_changes_come_to_the_statuses_that_they_announce(tmp_path: Path) -> None:
    database = database_of(Population(rows=4000), tmp_path)
    changes = apply_changes(database)
    statuses = upstream(database)
    assert changes[DELETED_AFTER_ITS_END]
    for kind, wanted in changes.items():
        assert {i: statuses.get(i) for i in wanted} == wanted, kind


def upstream(database: Path) -> dict[str, str]:
    with closing(sqlite3.connect(database)) as connection:
        return dict(connection.execute("SELECT workflow_uuid, status FROM workflow_status"))


def dump(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return [line for line in connection.iterdump() if "sqlite_stat" not in line]
