"""What is in flight, when listing it at every look would cost too much: it is counted."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from dbos_mcp.conductor.models import ForkRequest
from dbos_mcp.domain import now_ms, parse_time
from dbos_mcp.errors import UnavailableError
from dbos_mcp.settings import DAY_MS
from dbos_mcp.sync.aggregates import REFUSED_PAUSE_MS
from dbos_mcp.sync.recent import FEW_IN_FLIGHT, LIST_IN_FLIGHT_EVERY_MS, LISTING_PAUSE_MS_PER_ROW
from dbos_mcp.sync.visit import OVERLAP_MS
from dbos_mcp.sync.worker import EXECUTORS_EVERY_MS
from tests.upstream import APP, Asked, Site, below, open_site, problem, workflow

OLD_MS = 20 * DAY_MS
HOUR_MS = 3_600_000


@pytest.fixture
async def busy(empty_database: Path, cache_path: Path) -> AsyncIterator[Site]:
    """More is in flight than is listed at every look, and all of it is old; it was looked at."""
    async with open_site(empty_database, cache_path) as site:
        old = now_ms() - OLD_MS
        site.tables.add(
            *(workflow(f"run-{n}", old + n * HOUR_MS, "PENDING") for n in range(FEW_IN_FLIGHT)),
            *(
                workflow(f"wait-{n}", old + n * HOUR_MS, "ENQUEUED", queue_name="q")
                for n in range(9)
            ),
            workflow("stopped", old, "CANCELLED"),
            workflow("done", old + DAY_MS, "SUCCESS"),
        )
        await site.sync()
        site.news()
        site.wire.asked.clear()
        site.clock.ahead_ms += 19 * LISTING_PAUSE_MS_PER_ROW
        yield site


def listings(site: Site) -> list[Asked]:
    return [asked for asked in site.wire.asked if "status" in asked.body and "limit" in asked.body]


def counts(site: Site) -> list[Asked]:
    return [asked for asked in site.wire.asked if asked.path.endswith("/aggregates")]


async def found(site: Site) -> list[tuple[str, str | None]]:
    report = await site.sync()
    assert report.error is None
    assert site.differences() == {}
    return [entry for entry in site.news() if not entry[0].startswith("Steps")]


async def test_when_the_counts_agree_nothing_is_listed(busy: Site) -> None:
    assert await found(busy) == []
    assert listings(busy) == []
    assert len(counts(busy)) == 1
    assert sum(asked.answer_bytes for asked in busy.wire.asked) < 2_000


async def test_what_moves_a_time_is_seen_without_a_listing(busy: Site) -> None:
    now = now_ms()
    busy.tables.update("wait-0", status="PENDING", started_at_epoch_ms=now, updated_at=now)
    busy.tables.end("run-0", now)
    busy.tables.add(workflow("fresh", now, "ENQUEUED", queue_name="q"))
    assert sorted(await found(busy)) == [
        ("WorkflowChanged", "run-0"),
        ("WorkflowChanged", "wait-0"),
        ("WorkflowObserved", "fresh"),
    ]
    assert listings(busy) == []


async def test_what_was_dequeued_while_everything_was_listed_is_not_read_again(
    site: Site,
) -> None:
    await site.sync()
    tomorrow = now_ms() + DAY_MS
    site.clock.ahead_ms += 2 * DAY_MS
    site.tables.add(
        workflow("over", tomorrow),
        *(
            workflow(f"q-{n}", tomorrow, "ENQUEUED", queue_name="q")
            for n in range(2 * FEW_IN_FLIGHT)
        ),
    )
    for _ in range(3):  # one that lists executors, one that lists all, one that counts
        site.wire.asked.clear()
        site.clock.ahead_ms += 30 * LISTING_PAUSE_MS_PER_ROW
        await site.sync()
    (dequeued,) = [asked for asked in site.wire.asked if "dequeuedAfter" in asked.body]
    assert parse_time(dequeued.body["dequeuedAfter"]) >= tomorrow - OVERLAP_MS


async def test_a_resume_shows_in_the_counts(busy: Site) -> None:
    await busy.client.resume_workflow(APP, "stopped")
    assert await found(busy) == [("WorkflowChanged", "stopped")]
    assert len(listings(busy)) == 3


async def test_a_recovery_shows_in_the_counts(busy: Site) -> None:
    busy.tables.update("run-3", status="ENQUEUED", started_at_epoch_ms=None)
    assert await found(busy) == [("WorkflowChanged", "run-3")]


async def test_a_deletion_in_flight_shows_in_the_counts(busy: Site) -> None:
    await busy.client.delete_workflow(APP, "wait-3")
    assert await found(busy) == [("WorkflowDeleted", "wait-3")]


async def test_a_due_delay_shows_in_the_counts(busy: Site) -> None:
    now = now_ms()
    busy.tables.add(workflow("later", now, "DELAYED", delay_until_epoch_ms=now + 1000))
    assert await found(busy) == [("WorkflowObserved", "later")]
    busy.tables.update("later", status="ENQUEUED")
    busy.tables.change("UPDATE workflow_status SET created_at = ? WHERE workflow_uuid = 'later'",
                       now - DAY_MS)  # fmt: skip
    busy.clock.ahead_ms += 20 * LISTING_PAUSE_MS_PER_ROW
    await busy.sync()
    assert busy.mirrored()["later"]["status"] == "ENQUEUED"


async def test_a_changed_delay_is_seen_at_once_while_few_are_delayed(busy: Site) -> None:
    later = now_ms() + DAY_MS
    busy.tables.add(workflow("later", now_ms() - DAY_MS, "DELAYED", delay_until_epoch_ms=later))
    await found(busy)
    busy.wire.asked.clear()
    busy.clock.ahead_ms += 20 * LISTING_PAUSE_MS_PER_ROW
    busy.tables.update("later", delay_until_epoch_ms=later + 1)
    assert await found(busy) == [("WorkflowChanged", "later")]
    assert [asked.body["status"] for asked in listings(busy)] == [["DELAYED"]]
    assert len(busy.wire.asked) <= 6


async def test_a_swap_that_no_count_shows_waits_for_the_next_listing(busy: Site) -> None:
    busy.tables.change("DELETE FROM workflow_status WHERE workflow_uuid = 'wait-5'")
    busy.tables.update("stopped", status="ENQUEUED", queue_name="q", completed_at=None)
    await busy.sync()
    assert busy.news() == []
    busy.clock.ahead_ms += LIST_IN_FLIGHT_EVERY_MS
    assert sorted(await found(busy)) == [
        ("WorkflowChanged", "stopped"),
        ("WorkflowDeleted", "wait-5"),
    ]


async def test_a_listing_is_not_repeated_before_it_has_paid_off(busy: Site) -> None:
    many = 4000
    busy.tables.add(
        *(workflow(f"many-{n}", now_ms(), "ENQUEUED", queue_name="q") for n in range(many))
    )
    busy.tables.update("run-3", status="ENQUEUED")
    await found(busy)
    busy.wire.asked.clear()
    busy.tables.update("run-4", status="ENQUEUED")
    await busy.sync()
    assert busy.news() == []
    assert counts(busy) == listings(busy) == []
    busy.clock.ahead_ms += (many + 19) * LISTING_PAUSE_MS_PER_ROW
    assert await found(busy) == [("WorkflowChanged", "run-4")]


async def test_a_clock_that_was_set_back_does_not_put_listings_off(busy: Site) -> None:
    busy.clock.ahead_ms -= DAY_MS
    busy.tables.update("run-3", status="ENQUEUED")
    assert await found(busy) == [("WorkflowChanged", "run-3")]


@pytest.mark.parametrize("status", [404, 405, 422, 500, 501, 502, 503])
async def test_where_nothing_is_counted_everything_is_listed(busy: Site, status: int) -> None:
    busy.wire.fault = below("/aggregates", lambda: problem(status))
    busy.tables.update("run-3", status="ENQUEUED")
    assert await found(busy) == [("WorkflowChanged", "run-3")]
    busy.wire.asked.clear()
    assert await found(busy) == []
    assert len(listings(busy)) == 3
    assert counts(busy) == []  # it is not asked for a while

    busy.wire.fault = lambda _request: None
    busy.clock.ahead_ms += REFUSED_PAUSE_MS + LIST_IN_FLIGHT_EVERY_MS
    await found(busy)
    busy.wire.asked.clear()
    busy.clock.ahead_ms += 19 * LISTING_PAUSE_MS_PER_ROW
    await found(busy)
    assert len(counts(busy)) == 1
    assert listings(busy) == []


async def test_an_application_that_goes_away_while_it_counts_is_away(busy: Site) -> None:
    def cut(request: httpx.Request) -> httpx.Response | None:
        return problem(503) if counts(busy) else None

    busy.wire.fault = cut
    assert isinstance((await busy.sync()).error, UnavailableError)
    busy.wire.fault = lambda _request: None
    assert await found(busy) == []


async def test_few_in_flight_are_listed_at_every_look(site: Site) -> None:
    await site.sync()
    site.wire.asked.clear()
    await site.sync()
    assert len(listings(site)) == 3
    assert counts(site) == []


async def test_the_source_of_a_fork_is_read_again_though_nothing_tells_of_it(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(empty_database, cache_path) as site:
        site.tables.add(workflow("source", now_ms() - OLD_MS))
        await site.sync()
        site.news()
        await site.client.fork_workflow(APP, "source", ForkRequest(new_workflow_id="again"))
        assert await found(site) == [("WorkflowObserved", "again"), ("WorkflowChanged", "source")]
        assert site.mirrored()["source"]["was_forked_from"]


async def test_a_clock_set_back_does_not_put_off_the_listing(busy: Site) -> None:
    busy.clock.ahead_ms -= 5 * HOUR_MS
    busy.tables.update("wait-1", priority=7)  # no count tells
    assert await found(busy) == [("WorkflowChanged", "wait-1")]


async def test_what_is_delayed_is_listed_also_when_every_look_asks_for_executors(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(empty_database, cache_path) as site:
        site.tables.add(workflow("later", now_ms(), "DELAYED", queue_name="q"))
        await site.sync()
        site.tables.update("later", delay_until_epoch_ms=now_ms() + HOUR_MS, updated_at=now_ms())
        for _ in range(2):
            site.clock.ahead_ms += EXECUTORS_EVERY_MS
            await site.sync()
        assert site.differences() == {}


async def test_the_source_of_a_fork_is_read_again_though_the_look_that_saw_the_fork_broke_off(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(empty_database, cache_path) as site:
        site.tables.add(workflow("source", now_ms() - OLD_MS), workflow("newer", now_ms()))
        await site.sync()
        await site.client.fork_workflow(APP, "source", ForkRequest(new_workflow_id="again"))
        site.wire.fault = lambda request: (
            problem(503)
            if b"workflowIds" in request.content and "again" in site.mirrored()
            else None
        )
        assert isinstance((await site.sync()).error, UnavailableError)
        assert not site.mirrored()["source"]["was_forked_from"]
        site.wire.fault = lambda _request: None
        await site.sync()
        assert site.differences() == {}
