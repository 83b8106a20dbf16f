"""Every failure is traced to where it began."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlmodel import col

from dbos_mcp.domain import now_ms
from dbos_mcp.postmortem.causes import Causes, find_causes
from dbos_mcp.store.projections.workflows import WorkflowRow
from tests.upstream import APP, Site, open_site, pickled, workflow

NOW = now_ms() - 60_000


@pytest.fixture
async def causes(empty_database: Path, cache_path: Path) -> AsyncIterator["Told"]:
    async with open_site(empty_database, cache_path) as site:
        yield Told(site)


class Told:
    """A mirror in the making: workflows and steps upstream, and what is found of them."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def add(
        self, workflow_id: str, status: str = "ERROR", error: str | None = "no", **columns: object
    ) -> None:
        failed = status == "ERROR"
        row = workflow(
            workflow_id,
            NOW,
            status,
            error=pickled(RuntimeError(error)) if failed else None,
            **columns,
        )
        self.site.tables.add(row)

    async def __call__(self) -> dict[str, list[tuple[object, ...]]]:
        """Of each failed workflow its chain: workflow, step, evidence, and how it ends."""
        await self.site.sync_until_steps_are_read()
        found = self.find()
        return {
            found.links[key].workflow.workflow_id: [
                (
                    link.workflow.workflow_id,
                    link.step and link.step.step_name,
                    link.step and link.step.evidence,
                    link.end,
                )
                for link in found.chain(key)
            ]
            for key in found.links
        }

    def find(self) -> Causes:
        with self.site.cache.read() as connection:
            keys = connection.execute(select(col(WorkflowRow.id))).scalars().all()
            return find_causes(connection, APP, keys)


async def test_a_failure_began_in_the_step_that_raised_it(causes: Told) -> None:
    causes.add("order", error="no money")
    causes.site.tables.add_step("order", 1, "reserve")
    causes.site.tables.add_step("order", 2, "charge", "no money")
    assert await causes() == {"order": [("order", "charge", "same error", "step")]}


async def test_a_failure_of_a_child_began_in_the_child(causes: Told) -> None:
    causes.add("order", error="no money")
    causes.add("payment", error="no money", parent_workflow_id="order")
    causes.add("bank", error="no money", parent_workflow_id="payment")
    for parent, child in (("order", "payment"), ("payment", "bank")):
        causes.site.tables.add_step(parent, 1, child, child=child)
        causes.site.tables.add_step(parent, 2, "DBOS.getResult", "no money", child=child)
    causes.site.tables.add_step("bank", 1, "transfer", "no money")
    found = await causes()
    assert found["order"] == [
        ("order", "DBOS.getResult", "same error", None),
        ("payment", "DBOS.getResult", "same error", None),
        ("bank", "transfer", "same error", "step"),
    ]
    causes_of = causes.find()
    assert len({causes_of.origin(key).fingerprint for key in causes_of.links}) == 1


@pytest.mark.parametrize(
    ("error", "steps", "found"),
    [
        ("order 7: no money", ["no money", None], ("step-1", "its error is part of it")),
        ("gave up", [None, "no money"], ("step-2", "the last step")),
        ("gave up", ["no money", None], ("step-1", "an earlier step")),
        ("no", ["no", "never mind", None], ("step-1", "same error")),
        ("no", ["no", "no", "or so"], ("step-2", "same error")),
    ],
)
async def test_the_step_that_explains_it_best_is_told_with_the_evidence(
    causes: Told, error: str, steps: list[str | None], found: tuple[str, str]
) -> None:
    causes.add("order", error=error)
    for step_id, of_step in enumerate(steps, start=1):
        causes.site.tables.add_step("order", step_id, f"step-{step_id}", of_step)
    assert await causes() == {"order": [("order", *found, "step")]}


async def test_a_chain_ends_where_no_more_is_known(causes: Told) -> None:
    causes.add("own code")
    causes.site.tables.add_step("own code", 1, "reserve")
    causes.add("recovered", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
    causes.add("stopped", "CANCELLED")
    causes.add("late", "CANCELLED", workflow_deadline_epoch_ms=NOW)
    causes.add("well", "SUCCESS")
    for child in ("stopped", "late", "recovered", "well", "nobody"):
        causes.add(f"waits for {child}")
        causes.site.tables.add_step(f"waits for {child}", 1, "DBOS.getResult", "no", child=child)
    causes.add("round 1")
    causes.add("round 2")
    causes.site.tables.add_step("round 1", 1, "DBOS.getResult", "no", child="round 2")
    causes.site.tables.add_step("round 2", 1, "DBOS.getResult", "no", child="round 1")
    found = {name: chain[-1][-1] for name, chain in (await causes()).items()}
    assert found == {
        "own code": "code",
        "recovered": "recovered too often",
        "stopped": "cancelled",
        "late": "timed out",
        "waits for stopped": "cancelled",
        "waits for late": "timed out",
        "waits for recovered": "recovered too often",
        "waits for well": "child did not fail",
        "waits for nobody": "child not mirrored",
        "round 1": "circle",
        "round 2": "circle",
    }


async def test_without_steps_a_child_that_failed_alike_is_followed(causes: Told) -> None:
    causes.add("order", error="order 7: no")
    causes.add("other", error="quite another", parent_workflow_id="order")
    causes.add("alike", error="order 8: no", parent_workflow_id="order")
    causes.add("alone", error="no")
    await causes.site.sync()
    with causes.site.cache.write() as connection:
        connection.exec_driver_sql("DELETE FROM step_reading")
    found = causes.find()
    chains = {
        found.links[key].workflow.workflow_id: [
            (link.workflow.workflow_id, link.end, link.by_error) for link in found.chain(key)
        ]
        for key in found.links
    }
    assert chains["order"] == [("order", None, True), ("alike", "steps not read", False)]
    assert chains["alone"] == [("alone", "steps not read", False)]


async def test_very_many_are_traced_at_once(causes: Told) -> None:
    causes.site.tables.add(
        *(
            workflow(f"job-{n}", NOW, "ERROR", error=pickled(RuntimeError(f"job {n} failed")))
            for n in range(600)
        )
    )
    await causes.site.sync()
    found = causes.find()
    assert len(found.links) == 600
    assert len({found.origin(key).fingerprint for key in found.links}) == 1
