"""Which runs are compared with each other, and by which facts."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from dbos_mcp.domain import now_ms
from dbos_mcp.postmortem.runs import Run, ancestors_of, facts_of, failed_alike, runs_of, went_well
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.tables import table_of
from tests.plans import plans_of
from tests.upstream import APP, Site, open_site, pickled, workflow

NOW = now_ms() // 3_600_000 * 3_600_000


@pytest.fixture
async def site(empty_database: Path, cache_path: Path) -> AsyncIterator[Site]:
    async with open_site(empty_database, cache_path) as site:
        yield site


def failed(workflow_id: str, at: int, error: str, **columns: Any) -> dict[str, Any]:
    return workflow(workflow_id, at, "ERROR", error=pickled(RuntimeError(error)), **columns)


def run_of(connection: Connection, workflow_id: str) -> Run:
    table = table_of(WorkflowRow)
    (row,) = connection.exec_driver_sql(
        f"SELECT id FROM {table.name} WHERE workflow_id = ?", (workflow_id,)
    )
    (run,) = runs_of(connection, [row[0]])
    return run


async def test_the_others_are_runs_of_the_same_workflow_that_went_well_about_that_time(
    site: Site,
) -> None:
    site.tables.add(
        failed("bad", NOW, "no money"),
        workflow("well before", NOW - 1000),
        workflow("well after", NOW + 1000),
        *(workflow(f"long ago {n}", NOW - 10_000_000 - n) for n in range(40)),
        workflow("of another name", NOW, name="other"),
        failed("otherwise", NOW, "no time"),
        workflow("running", NOW, "PENDING"),
    )
    await site.sync()
    with site.cache.read() as connection:
        bad = run_of(connection, "bad")
        others = went_well(connection, APP, [bad], 2)
        plans = plans_of(connection, lambda c: went_well(c, APP, [bad], 200))
    assert {run.workflow_id for run in others} <= {
        "well before", "well after", "long ago 0", "long ago 1", "long ago 2", "long ago 3",
    }  # fmt: skip
    assert len(others) == 2
    assert went_well(connection, APP, [], 5) == []
    assert not any(plan.startswith("SCAN") or "TEMP B-TREE" in plan for plan in plans), plans
    assert any("ix_workflow_workflow_name" in plan for plan in plans)


async def test_those_that_failed_alike_differ_in_data_alone(site: Site) -> None:
    site.tables.add(
        *(failed(f"bad-{n}", NOW + n, f"could not convert to float: '{n},00'") for n in range(9)),
        failed("otherwise", NOW, "no time"),
        workflow("well", NOW),
    )
    await site.sync()
    with site.cache.read() as connection:
        keys = failed_alike(connection, APP, run_of(connection, "bad-4"), 5)
        ids = [run.workflow_id for run in runs_of(connection, keys)]
    assert ids[0] == "bad-4"
    assert len(ids) == 5
    assert all(workflow_id.startswith("bad-") for workflow_id in ids)


async def test_facts_are_of_the_row_its_attributes_and_its_input(site: Site) -> None:
    site.tables.add(
        workflow("a", NOW, authenticated_user="ann", queue_name="q", attributes='{"city": "Ulm"}'),
        workflow("b", NOW),
    )
    await site.sync()
    with site.cache.read() as connection:
        runs = [run_of(connection, "a"), run_of(connection, "b")]
    inputs = ("{'args': (7,), 'kwargs': {}}", "{'args': (), 'kwargs': {'n': 1}}")
    first, second = facts_of(runs, {run.key: text for run, text in zip(runs, inputs, strict=True)})
    assert first["authenticated_user"] == ("ann",)
    assert first["attributes.city"] == ("Ulm",)
    assert first["queue_name"] == ("q",)
    assert first["input"] == (7,)
    assert second["queue_name"] == (None,)
    assert second["input.n"] == (1,)
    assert "schedule_name" not in first  # neither has one
    odd = replace(runs[0], status="CANCELLED", attributes="[no JSON")
    (facts,) = facts_of([odd], {})
    assert "queue_name" not in facts  # whatever is cancelled loses it
    assert not any(field.startswith("attributes") for field in facts)


async def test_the_facts_of_ancestors_are_told_with_their_names(site: Site) -> None:
    def tree(name: str, **root: Any) -> list[dict[str, Any]]:
        return [
            workflow(name, NOW, name="place", **root),
            workflow(f"{name}-1", NOW, name="settle", parent_workflow_id=name),
            workflow(f"{name}-2", NOW, name="post", parent_workflow_id=f"{name}-1"),
        ]

    site.tables.add(
        *tree("a", schedule_name="nightly"),
        *tree("b"),
        workflow("round-1", NOW, parent_workflow_id="round-2"),
        workflow("round-2", NOW, parent_workflow_id="round-1"),
        *(workflow(f"deep-{n}", NOW, parent_workflow_id=f"deep-{n - 1}") for n in range(9)),
    )
    await site.sync()
    with site.cache.read() as connection:
        runs = [run_of(connection, "a-2"), run_of(connection, "b-2")]
        above = ancestors_of(connection, APP, runs)
        odd = [run_of(connection, "round-1"), run_of(connection, "deep-8")]
        circle, roots = (ancestors_of(connection, APP, [run]) for run in odd)
    assert [[r.workflow_id for r in level.values()] for level in above] == [
        ["a-1", "b-1"],
        ["a", "b"],
    ]
    assert [level[odd[0].key].workflow_id for level in circle] == ["round-2"]
    assert [level[odd[1].key].workflow_id for level in roots] == ["deep-7", "deep-6", "deep-0"]
    inputs = {run.key: f"[{{'n': '{run.workflow_id}'}}]" for run in above[1].values()}
    first, second = facts_of(runs, inputs, above)
    assert first["input.n of the grandparent place"] == ("a",)
    assert first["schedule_name of the grandparent place"] == ("nightly",)
    assert second["input.n of the grandparent place"] == ("b",)
    assert not any(field.endswith("parent settle") for field in first)  # they say nothing new
