"""Failures are grouped by where they began, counted there once, and set beside the others."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from dbos_mcp.domain import now_ms
from dbos_mcp.errors import NotFoundError
from dbos_mcp.postmortem.causes import find_causes
from dbos_mcp.postmortem.failures import (
    Failures,
    Window,
    failed_alike,
    list_failures,
    outline,
)
from tests.plans import plans_of
from tests.upstream import APP, Site, open_site, pickled, workflow

HOUR = 3_600_000
NOW = now_ms() // HOUR * HOUR
TODAY = Window(NOW - 24 * HOUR, NOW)
FEW = {"application", "sqlite_master", "given", "CONSTANT"}
"""What may be read from its beginning to its end."""


@pytest.fixture
async def site(empty_database: Path, cache_path: Path) -> AsyncIterator[Site]:
    async with open_site(empty_database, cache_path) as site:
        yield site


def failed(workflow_id: str, error: str, *, hours_ago: int = 1, **columns: Any) -> dict[str, Any]:
    at = NOW - hours_ago * HOUR
    return workflow(workflow_id, at, "ERROR", error=pickled(RuntimeError(error)), **columns)


async def found(site: Site, window: Window = TODAY, **options: Any) -> Failures:
    await site.sync_until_steps_are_read()
    with site.cache.read() as connection:
        return list_failures(connection, APP, window, **options)


async def test_errors_that_differ_in_data_alone_are_one_group(site: Site) -> None:
    site.tables.add(
        *(failed(f"job-{n}", f"supplier {n} closed the connection") for n in range(5)),
        failed("other", "no money", name="charge"),
        workflow("well", NOW),
    )
    told = await found(site)
    assert [(group.kind, group.workflow_name, group.count) for group in told.groups] == [
        ("supplier <n> closed the connection", "restock", 5),
        ("no money", "charge", 1),
    ]
    assert told.workflows == 6


async def test_a_cause_is_counted_once_however_many_waited_for_it(site: Site) -> None:
    site.tables.add(
        failed("bank", "no money", name="transfer"),
        *(failed(f"order-{n}", f"order {n}: no money", name="order") for n in range(3)),
    )
    site.tables.add_step("bank", 1, "send", "no money")
    for n in range(3):
        site.tables.add_step(f"order-{n}", 1, "DBOS.getResult", "no money", child="bank")
    (group,) = (await found(site)).groups
    assert (group.workflow_name, group.step_name, group.kind) == ("transfer", "send", "no money")
    assert (group.count, group.workflows, group.origins, group.known) == (1, 4, ["bank"], True)
    (same,) = (await found(site, workflow_names=["order"])).groups
    assert (same.group, same.count, same.workflows) == (group.group, 1, 3)


@pytest.fixture
async def half_read(site: Site) -> Site:
    """Two failed in a step; of two more, as yet, no steps are read."""
    for n, hours_ago in enumerate((2, 30, 1, 1)):
        site.tables.add(failed(f"pay-{n}", f"no money for {n}", hours_ago=hours_ago, name="pay"))
        site.tables.add_step(f"pay-{n}", 1, "charge", f"no money for {n}")
    await site.sync_until_steps_are_read()
    unread = "(SELECT id FROM workflow WHERE workflow_id IN ('pay-2', 'pay-3'))"
    with site.cache.write() as connection:
        for table in ("step", "step_reading"):
            connection.exec_driver_sql(f"DELETE FROM {table} WHERE workflow_key IN {unread}")
    return site


async def test_one_whose_steps_are_not_read_counts_where_others_of_its_error_began(
    half_read: Site,
) -> None:
    with half_read.cache.read() as connection:
        (group,) = list_failures(connection, APP, TODAY).groups
        assert (group.step_name, group.count, group.by_error) == ("charge", 3, 2)
        assert (group.before, group.known) == (1, True)
        (later,) = list_failures(connection, APP, Window(NOW - HOUR, NOW)).groups
        assert (later.group, later.count, later.by_error, later.step_name) == (
            *(group.group, 2, 2, "charge"),
        )
        own = find_causes(connection, APP, group.sample).links[group.sample[0]].fingerprint
        assert own != group.group
        assert list_failures(connection, APP, TODAY, group=own).groups == [group]
        assert len(failed_alike(connection, APP, group.sample[0], TODAY)) == 3


async def test_it_counts_by_itself_where_others_of_its_error_began_at_several_places(
    half_read: Site,
) -> None:
    half_read.tables.add(failed("pay-9", "no money for 9", name="pay"))
    half_read.tables.add_step("pay-9", 1, "refund", "no money for 9")
    await half_read.sync()
    with half_read.cache.read() as connection:
        groups = list_failures(connection, APP, TODAY).groups
    assert {(group.step_name, group.count, group.known) for group in groups} == {
        ("charge", 1, True), ("refund", 1, True), (None, 2, False),
    }  # fmt: skip


async def test_a_group_is_beside_the_window_before(site: Site) -> None:
    site.tables.add(
        failed("new", "no money", hours_ago=0),
        failed("at the edge", "no money", hours_ago=24),
        failed("before", "no money", hours_ago=25),
        failed("long ago", "no money", hours_ago=49),
        failed("gone by", "no such order", hours_ago=30),
    )
    told = await found(site)
    (group,) = told.groups
    assert (group.count, group.before) == (2, 1)
    assert (group.first_at, group.last_at) == (NOW - 25 * HOUR, NOW)
    assert (told.workflows, told.before) == (2, 2)


async def test_what_is_over_represented_is_told_with_the_numbers(site: Site) -> None:
    site.tables.add(
        *(failed(f"bad-{n}", "no money", application_version="2.0") for n in range(12)),
        *(workflow(f"good-{n}", NOW - HOUR, application_version="1.0") for n in range(40)),
        *(workflow(f"lucky-{n}", NOW - HOUR, application_version="2.0") for n in range(2)),
        *(workflow(f"x-{n}", NOW - HOUR, name="other", executor_id="x") for n in range(50)),
    )
    told = await found(site)
    (group,) = told.groups
    (feature,) = group.features
    assert (feature.field, feature.value) == ("application_version", "2.0")
    assert (feature.failed, feature.of_failed, feature.others, feature.of_others) == (12, 12, 2, 42)
    assert (told.compared_with, told.others_complete) == (54, True)


async def test_the_largest_groups_alone_are_compared(site: Site) -> None:
    site.tables.add(
        *(failed(f"bad-{n}", "no money", application_version="2.0") for n in range(12)),
        *(failed(f"lost-{n}", "no such order", application_version="2.0") for n in range(11)),
        *(workflow(f"good-{n}", NOW - HOUR, application_version="1.0") for n in range(40)),
    )
    both = (await found(site)).groups
    assert [len(group.features) for group in both] == [1, 1]
    first, second = (await found(site, most_compared=1)).groups
    assert (first, second.features, second.count) == (both[0], (), 11)


async def test_what_may_be_chance_is_not_told(site: Site) -> None:
    site.tables.add(
        *(failed(f"bad-{n}", "no", executor_id=f"shop-{n % 2}") for n in range(4)),
        *(workflow(f"good-{n}", NOW - HOUR, executor_id=f"shop-{n % 3}") for n in range(9)),
    )
    (group,) = (await found(site)).groups
    assert group.features == []


async def test_of_too_many_others_the_newest_are_compared_with_failures_of_their_time(
    site: Site,
) -> None:
    site.tables.add(
        *(failed(f"old-{n}", "no", hours_ago=9, application_version="1.0") for n in range(20)),
        *(failed(f"new-{n}", "no", hours_ago=1, application_version="2.0") for n in range(5)),
        *(workflow(f"good-{n}", NOW - HOUR, application_version="2.0") for n in range(20)),
    )
    told = await found(site, most_others=25)
    (group,) = told.groups
    assert group.features == []  # of all, 1.0 would be: only because its successes are not read
    assert (told.compared_with, told.others_complete) == (25, False)
    assert group.count == 25


async def test_what_timed_out_failed_and_what_somebody_cancelled_did_not(site: Site) -> None:
    at = NOW - HOUR
    site.tables.add(
        workflow("late", at, "CANCELLED", workflow_deadline_epoch_ms=at - 1),
        workflow("stopped", at, "CANCELLED", workflow_deadline_epoch_ms=at + HOUR),
        workflow("halted", at, "CANCELLED"),
        workflow("stuck", at, "MAX_RECOVERY_ATTEMPTS_EXCEEDED"),
        workflow("running", at, "PENDING"),
    )
    groups = (await found(site)).groups
    assert {(group.kind, *group.origins) for group in groups} == {
        ("timed out", "late"),
        ("recovered too often", "stuck"),
    }


async def test_an_end_in_whole_seconds_may_seem_to_be_before_its_deadline(site: Site) -> None:
    at = (NOW - HOUR) // 1000 * 1000
    site.tables.add(
        workflow("late", at, "CANCELLED", workflow_deadline_epoch_ms=at + 999),
        workflow("stopped", at, "CANCELLED", workflow_deadline_epoch_ms=at + 1000),
        workflow("exactly", at + 1, "CANCELLED", workflow_deadline_epoch_ms=at + 2),
    )
    (group,) = (await found(site)).groups
    assert (group.kind, *group.origins) == ("timed out", "late")


async def test_old_failures_without_the_time_of_their_end_have_that_of_their_last_change(
    site: Site,
) -> None:
    site.tables.add(failed("old", "no", completed_at=None))
    (group,) = (await found(site)).groups
    assert group.last_at == NOW - HOUR


async def test_a_day_is_read_by_indexes(site: Site) -> None:
    site.tables.add(
        failed("bank", "no money", name="transfer"),
        *(failed(f"order-{n}", f"order {n}: no money", name="order") for n in range(3)),
        failed("forked", "no money", name="order"),
        failed("alone", "no such order", name="order"),
        workflow("well", NOW),
    )
    site.tables.add_step("bank", 1, "send", "no money")
    site.tables.add_step("order-0", 1, "DBOS.getResult", "no money", child="bank")
    site.tables.add_step("order-1", 1, "pay", "something else")
    site.tables.add_step("order-2", 1, "DBOS.getResult", "no money", child="gone")
    site.tables.add_step("forked", 1, "transfer", child="bank")
    site.tables.add_step("forked", 2, "DBOS.getResult", "no money", child="never-was")
    await found(site)

    def ask(connection: Connection) -> None:
        list_failures(connection, APP, TODAY)
        outline(connection, APP, TODAY)
        list_failures(connection, APP, TODAY, workflow_names=["order"])

    with site.cache.read() as connection:
        plans = plans_of(connection, ask)
    assert {line.split(" ")[1] for line in plans if line.startswith("SCAN")} <= FEW
    searches = [line for line in plans if line.startswith(("SEARCH workflow ", "SEARCH step "))]
    ranges = [line for line in searches if ">?" in line]
    assert {line.partition(" (")[0].split(" ")[-1] for line in ranges} == {
        *("ix_workflow_ended_badly", "ix_workflow_completed_at"),
    }
    rest = [line for line in searches if line not in ranges and "<?" not in line]
    assert all("PRIMARY KEY" in line or "workflow_id=?" in line for line in rest)


async def test_one_group_can_be_asked_for(site: Site) -> None:
    site.tables.add(failed("a", "no money"), failed("b", "no such order"))
    groups = (await found(site)).groups
    assert len(groups) == 2
    told = await found(site, group=groups[1].group)
    assert told.groups == [groups[1]]
    with pytest.raises(NotFoundError, match="No failure of group 'nothing'"):
        await found(site, group="nothing")
    with pytest.raises(NotFoundError), site.cache.read() as connection:
        list_failures(connection, "nobody", TODAY)
