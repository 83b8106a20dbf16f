"""The mirror's own description: what is in its views, and all kinds of events, as they are."""

import re
import shutil
from pathlib import Path

import pytest
from sqlalchemy import Connection

from dbos_mcp.inspection import schema
from dbos_mcp.inspection.views import VIEWS
from dbos_mcp.store.events import KINDS, WorkflowState
from dbos_mcp.store.migrate import open_cache
from dbos_mcp.store.projections import workflow_counts
from tests.plans import plans_of

SMALL = (
    r"SCAN (workflow_count|sqlite_master|applications|executors|commands"
    r"|\(subquery-1\)|SUBQUERY 1)$"  # as SQLite says it since 3.39, and before
)


@pytest.mark.parametrize("counts_are_kept", [True, False])
def test_what_a_mirror_holds_is_counted(
    mirrored: tuple[Path, Path], tmp_path: Path, counts_are_kept: bool
) -> None:
    cache = open_cache(Path(shutil.copy(mirrored[1], tmp_path)))
    with cache.write() as connection:
        if not counts_are_kept:
            workflow_counts.drop(connection)
        assert workflow_counts.are_kept(connection) is counts_are_kept
        told = {each.view.name: each for each in schema.views(connection)}
        assert told.keys() == {view.name for view in VIEWS}
        for name, each in told.items():
            counted = connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar_one()
            assert each.rows == counted, name
    cache.close()


def test_a_large_part_of_a_mirror_is_not_read_to_be_described(connection: Connection) -> None:
    """Of the log and of steps an index is counted."""
    for line in plans_of(connection, schema.views):
        if line.startswith("SCAN"):
            assert re.search(SMALL, line) or " USING COVERING INDEX " in line, line


def test_the_values_of_a_column_are_those_that_it_holds(connection: Connection) -> None:
    told = {each.view.name: each.values for each in schema.views(connection)}
    for name, values in told.items():
        for column, listed in values.items():
            if column == "kind":
                continue
            held = connection.exec_driver_sql(
                f"SELECT DISTINCT {column} FROM {name} WHERE {column} IS NOT NULL ORDER BY 1"
            )
            assert [*listed] == [*held.scalars()][: schema.MOST_VALUES], (name, column)
    assert told["events"]["kind"] == [*KINDS]
    assert {"SUCCESS", "ERROR", "CANCELLED"} <= set(told["workflows"]["status"])


def test_every_kind_of_event_is_told_with_its_data() -> None:
    told = {event.kind: event for event in schema.events()}
    assert told.keys() == KINDS.keys()
    assert "Seen again, different." in told["WorkflowChanged"].meaning
    assert set(told["WorkflowChanged"].fields) >= {*WorkflowState.PAYLOAD, "status"}
    assert told["WorkflowDeleted"].fields == []
    assert "application_name" not in told["CommandIssued"].fields
