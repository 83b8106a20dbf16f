"""What changed in a part of the log, workflow by workflow."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, select

from dbos_mcp.conductor.models import ForkRequest
from dbos_mcp.domain import now_ms
from dbos_mcp.errors import InvalidCursorError, NotFoundError, UsageError
from dbos_mcp.queries.changes import (
    MOST_SHOWN,
    OUTCOMES,
    Changes,
    ChangesCursor,
    WorkflowChange,
    cursor_behind,
    list_changes,
)
from dbos_mcp.store import event_log
from dbos_mcp.store.event_log import EventRow
from dbos_mcp.store.events import CommandIssued, CommandSettled
from tests.plans import plan_of, statements_asked
from tests.upstream import APP, Site, open_site, pickled, workflow


def changes(site: Site, **about: Any) -> Changes:
    with site.cache.read() as connection:
        return list_changes(connection, **{"application_name": APP, **about})


def end_of(site: Site) -> int:
    with site.cache.read() as connection:
        return event_log.last_position(connection)


def by_id(found: Changes) -> dict[str, WorkflowChange]:
    return {change.workflow_id: change for change in found.workflows}


async def a_night(site: Site) -> None:
    """One of everything that may come of a workflow."""
    lost = pickled(RuntimeError("lost"))
    site.tables.end("reconcile-1", now_ms(), "ERROR", error=lost)
    site.tables.end("restock-1", now_ms())
    site.tables.end("pick-shelf-3", now_ms(), "CANCELLED", queue_name=None)
    site.tables.add(workflow("new-1", now_ms()), workflow("new-2", now_ms(), "ENQUEUED"))
    await site.commands.cancel(APP, ["pick-shelf-1"])
    await site.client.delete_workflow(APP, "order-1003")
    await site.commands.fork(APP, ["order-1001"], ForkRequest(new_workflow_id="again"))
    await site.mirror.refresh_workflows(APP, ["order-1003"])
    await site.mirror.refresh_steps(APP, "order-1002")
    await site.sync()


async def test_each_workflow_is_told_once_with_its_first_and_last_state(site: Site) -> None:
    await site.sync()
    before = end_of(site)
    await a_night(site)
    found = changes(site, after=before)
    told = {key: (c.before, c.status, c.outcome) for key, c in by_id(found).items()}
    assert told.pop("pick-shelf-1")[1:] == ("CANCELLED", "cancelled by our command")
    assert (
        told.items()
        >= {
            "reconcile-1": ("PENDING", "ERROR", "failed"),
            "restock-1": ("DELAYED", "SUCCESS", "succeeded"),
            "pick-shelf-3": ("ENQUEUED", "CANCELLED", "cancelled"),
            "new-1": (None, "SUCCESS", "succeeded"),
            "new-2": (None, "ENQUEUED", "in flight"),
            "again": (None, "ENQUEUED", "in flight"),
            "order-1003": ("SUCCESS", None, "deleted"),
            "order-1001": ("SUCCESS", "SUCCESS", "changed otherwise"),
        }.items()
    )
    assert by_id(found)["order-1001"].commands != {}
    assert by_id(found)["reconcile-1"].error == "lost"
    assert {key for key, c in by_id(found).items() if c.first_seen} == {"new-1", "new-2", "again"}
    assert found.first_seen == 3
    assert (found.until, found.remaining) == (end_of(site), 0)


async def test_failures_come_first(site: Site) -> None:
    await site.sync()
    before = end_of(site)
    await a_night(site)
    outcomes = [change.outcome for change in changes(site, after=before).workflows]
    assert outcomes == sorted(outcomes, key=OUTCOMES.index)
    assert outcomes[0] == "failed"


async def test_steps_are_news_of_a_workflow_that_runs(site: Site) -> None:
    await site.sync()
    before = end_of(site)
    site.tables.add_step("reconcile-1", 7, "export_again")
    site.tables.add_step("order-1002", 99, "late")
    for workflow_id in ("reconcile-1", "order-1002"):
        await site.mirror.refresh_steps(APP, workflow_id)
    found = changes(site, after=before)
    (ran,) = found.workflows
    assert (ran.workflow_id, ran.outcome, ran.events) == ("reconcile-1", "ran on", 1)
    assert (found.steps_read, found.events, found.outcomes) == (1, 2, {"ran on": 1})


async def test_what_was_gone_and_is_back_is_not_new(site: Site) -> None:
    await site.sync()
    (row,) = site.tables.named("SELECT * FROM workflow_status WHERE workflow_uuid = 'restock-1'")
    await site.client.delete_workflow(APP, "restock-1")
    await site.mirror.refresh_workflows(APP, ["restock-1"])
    between = end_of(site)
    site.tables.add(row)
    await site.mirror.refresh_workflows(APP, ["restock-1"])
    (back,) = changes(site, after=between).workflows
    assert (back.before, back.status, back.first_seen) == (None, "DELAYED", False)
    (whole,) = (c for c in changes(site, after=0).workflows if c.workflow_id == "restock-1")
    assert (whole.deleted, whole.first_seen) == (False, True)


async def test_a_workflow_that_runs_again_is_told(site: Site) -> None:
    await site.sync()
    await site.commands.cancel(APP, ["pick-shelf-1"])
    between = end_of(site)
    await site.commands.resume(APP, ["pick-shelf-1"])
    (again,) = changes(site, after=between).workflows
    assert (again.before, again.status, again.outcome) == ("CANCELLED", "ENQUEUED", "started again")
    assert list(again.commands.values()) == ["resume done"]


async def test_since_begins_with_the_first_event_that_is_no_older(site: Site) -> None:
    await site.sync()
    site.clock.ahead_ms = 3_600_000
    await site.commands.cancel(APP, ["pick-shelf-1"])
    with site.cache.read() as connection:
        times = [
            (row.position, row.recorded_at)
            for row in connection.execute(
                select(col(EventRow.position), col(EventRow.recorded_at)).order_by(
                    col(EventRow.position)
                )
            )
        ]
        for _, moment in times:
            for since in (moment - 1, moment, moment + 1):
                older = [position for position, at in times if at < since]
                assert event_log.position_before(connection, since) == max(older, default=0)
    (change,) = changes(site, since=now_ms() + 1_800_000).workflows
    assert change.workflow_id == "pick-shelf-1"
    assert changes(site, since=now_ms() + 7_200_000).events == 0


@pytest.mark.parametrize("most", [1, 7, 40, 100_000])
async def test_one_answer_after_the_other_tells_the_whole_log_once(site: Site, most: int) -> None:
    await site.sync()
    await a_night(site)
    end, after, events = end_of(site), 0, 0
    counted: Counter[str] = Counter()
    last: dict[str, str | None] = {}
    first_seen: list[str] = []
    while True:
        found = changes(site, application_name=None, after=after, most=most)
        assert (found.after, found.until) == (after, min(end, after + most))
        assert found.remaining == end - found.until
        assert sum(found.outcomes.values()) == len(found.workflows) <= MOST_SHOWN
        events += found.events
        told = len(found.workflows) + found.steps_read
        with site.cache.read() as connection:
            part = [*event_log.read_briefly(connection, after, found.until)]
        assert told == len({brief.workflow_id for brief in part if brief.workflow_id})
        for change in found.workflows:
            counted[change.workflow_id] += change.events
            assert change.before == last.get(change.workflow_id)
            if change.states or change.deleted:
                last[change.workflow_id] = None if change.deleted else change.status
            first_seen += [change.workflow_id] if change.first_seen else []
        if not found.remaining:
            break
        after = found.until
    with site.cache.read() as connection:
        recorded = [entry for batch in event_log.read(connection) for entry in batch]
    assert events == end == len(recorded)
    everything = Counter(e.event.workflow_id for e in recorded if e.event.workflow_id)
    steps = Counter(e.event.workflow_id for e in recorded if e.event.kind == "StepsObserved")
    assert counted <= everything
    assert everything - counted <= steps  # alone in a part, they are counted and not listed
    assert len(first_seen) == len(set(first_seen))
    live = {key: row["status"] for key, row in site.mirrored().items()}
    assert {key: status for key, status in last.items() if status is not None} == live


async def test_counts_are_exact_also_of_what_is_not_shown(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(empty_database, cache_path) as site:
        dice = random.Random(20261121)
        statuses = [dice.choice(["SUCCESS", "CANCELLED", "ENQUEUED"]) for _ in range(1300)]
        site.tables.add(
            *(workflow(f"w-{n}", now_ms(), status) for n, status in enumerate(statuses))
        )
        await site.sync()
        found = changes(site, after=0)
        seen, page = [*found.workflows], found
        while page.left != Counter(change.outcome for change in page.workflows):
            cursor = cursor_behind(page, page.workflows[-1], APP, None)
            again = ChangesCursor.decode(cursor.encode())
            assert again == cursor
            page = changes(site, cursor=again)
            assert page.outcomes == found.outcomes
            seen += page.workflows
        with pytest.raises(InvalidCursorError, match="another application"):
            changes(site, application_name=None, cursor=cursor)
    assert len({change.workflow_id for change in seen}) == len(seen) == sum(found.outcomes.values())
    places = [OUTCOMES.index(change.outcome) for change in seen]
    assert places == sorted(places)
    assert len(found.workflows) == MOST_SHOWN
    assert found.outcomes == {
        "succeeded": statuses.count("SUCCESS"),
        "cancelled": statuses.count("CANCELLED"),
        "in flight": statuses.count("ENQUEUED"),
    }
    assert found.first_seen == 1300
    assert [(other.kind, other.name) for other in found.others] == [("application", APP)]


async def test_a_command_about_no_workflow_is_told_beside_them(site: Site) -> None:
    await site.sync()
    before = end_of(site)
    about: dict[str, Any] = {"application_name": APP, "workflow_id": None, "command_id": "c-1"}
    named: dict[str, Any] = {"command": "pause_schedule", "arguments": {}}
    asked = CommandIssued.model_construct(**about, **named)
    done = CommandSettled.model_construct(**about, outcome="done")
    with site.cache.write() as connection:
        event_log.append(connection, [asked, done], now_ms())
    found = changes(site, after=before)
    assert [(other.kind, other.name) for other in found.others] == [
        ("our command", "pause_schedule done")
    ]
    assert (found.events, found.outcomes) == (2, {})


async def test_what_is_not_there_is_refused(site: Site) -> None:
    await site.sync()
    with pytest.raises(UsageError, match=r"has no position 999999: it ends at \d+"):
        changes(site, after=999_999)
    with pytest.raises(NotFoundError, match="Known: shop"):
        changes(site, application_name="shed")


async def test_a_part_of_the_log_is_read_by_its_positions_and_the_rest_by_index(
    site: Site,
) -> None:
    await site.sync()
    before = end_of(site)
    await a_night(site)
    with site.cache.read() as connection:
        with statements_asked() as asked:
            list_changes(connection, application_name=APP, after=before)
            list_changes(connection, since=now_ms())
        assert len(asked) > 20
        for each in asked:
            statement, details = each[0], plan_of(connection, each)
            is_end = "max(event.position)" in statement and "FROM event" in statement
            if not (is_end and details == ["SEARCH event"]):
                assert all("USING" in line for line in details if "event" in line), statement
            assert not [d for d in details if d.startswith(("SCAN workflow", "USE TEMP"))], (
                statement
            )
