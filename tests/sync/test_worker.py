"""A cycle of the worker: what it finds, what it asks for, and that nothing is lost on the way."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from sqlalchemy.exc import IntegrityError

from dbos_mcp.conductor.models import ForkRequest, WorkflowSearch
from dbos_mcp.domain import CONDUCTOR, now_ms
from dbos_mcp.errors import (
    AuthenticationError,
    ConductorError,
    NotFoundError,
    ResponseError,
    UnavailableError,
)
from dbos_mcp.settings import DAY_MS
from dbos_mcp.store import projector
from dbos_mcp.store.projections.applications import ApplicationRow
from dbos_mcp.store.projections.executors import ExecutorRow
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.sync.diff import REMOVED
from dbos_mcp.sync.visit import OVERLAP_MS
from dbos_mcp.sync.worker import EXECUTORS_EVERY_MS
from tests.upstream import APP, Asked, Site, below, open_site, pickled, problem, workflow

HOUR_MS = 3_600_000


def page_asked(asked: Asked) -> bool:
    return asked.path.endswith("/workflows/search")


# The first look, and a look at nothing new


async def test_the_first_cycle_mirrors_every_workflow_of_the_shop(site: Site) -> None:
    report = await site.sync()

    assert report.error is None
    assert len(site.mirrored()) == len(site.tables.ids()) > 40
    assert site.differences() == {}
    assert {kind for kind, _ in site.news()} == {
        "ApplicationObserved",
        "WorkflowObserved",
        "StepsObserved",
    }
    state = site.state()
    assert state.history_complete
    assert state.offline_since is None
    assert state.last_error is None


async def test_the_mirror_is_what_the_log_says(site: Site) -> None:
    await site.sync()
    site.tables.end("restock-1", now_ms(), "CANCELLED", queue_name=None)
    await site.sync()

    with site.cache.write() as connection:
        assert all(table.equal for table in projector.rebuild(connection))


async def test_an_unchanged_cycle_records_nothing_and_asks_little(site: Site) -> None:
    await site.sync_until_steps_are_read()
    site.news()
    site.wire.asked.clear()

    report = await site.sync()

    assert report.events == 0
    assert site.news() == []
    assert len(site.wire.asked) <= 6


async def test_when_nothing_happens_nothing_is_read_again(site: Site) -> None:
    site.tables.change("DELETE FROM workflow_status WHERE status = 'PENDING'")
    await site.sync_until_steps_are_read()
    site.clock.ahead_ms += OVERLAP_MS
    await site.sync_until_steps_are_read()
    site.wire.asked.clear()

    report = await site.sync()

    assert report.events == 0
    assert len(site.wire.asked) <= 6
    assert sum(asked.answer_bytes for asked in site.wire.asked) < 4_000
    assert report.workflows_seen == 3  # what is in flight
    state = site.state()
    site.clock.ahead_ms += OVERLAP_MS
    await site.sync()
    assert (site.state().watermark, site.state().ended_watermark) == (
        state.watermark,
        state.ended_watermark,
    )

    site.clock.ahead_ms = 0
    site.tables.add(workflow("awake", now_ms()))
    site.tables.end("restock-1", now_ms())
    await site.sync()
    assert site.differences() == {}


async def test_no_request_is_without_a_limit_or_with_an_offset(site: Site) -> None:
    await site.sync()
    searches = [asked.body for asked in site.wire.asked if page_asked(asked)]
    assert searches
    assert all(search["limit"] >= 1 and "offset" not in search for search in searches)


async def test_an_empty_application_is_complete_and_its_first_workflow_is_found(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(empty_database, cache_path) as site:
        await site.sync()
        assert site.state().history_complete
        assert site.state().watermark is None

        site.tables.add(workflow("first", now_ms()))
        await site.sync()
        assert set(site.mirrored()) == {"first"}
        site.tables.add(workflow("second", now_ms()))
        await site.sync()
        assert site.differences() == {}


# Changes


async def changed(site: Site) -> list[tuple[str, str | None]]:
    """What one more cycle records of workflows, and that the mirror is right afterwards."""
    report = await site.sync()
    assert report.error is None
    assert site.differences() == {}
    return [entry for entry in site.news() if not entry[0].startswith("Steps")]


async def test_an_end_reaches_the_mirror_in_one_cycle(site: Site) -> None:
    await changed(site)
    site.tables.end("reconcile-1", now_ms(), output=pickled(1))
    assert await changed(site) == [("WorkflowChanged", "reconcile-1")]


async def test_a_cancel_reaches_the_mirror_in_one_cycle(site: Site) -> None:
    await changed(site)
    await site.client.cancel_workflow(APP, "pick-shelf-2")
    assert await changed(site) == [("WorkflowChanged", "pick-shelf-2")]


async def test_a_resume_reaches_the_mirror_in_one_cycle(site: Site) -> None:
    await site.client.cancel_workflow(APP, "reconcile-1")
    await changed(site)
    await site.client.resume_workflow(APP, "reconcile-1")
    assert await changed(site) == [("WorkflowChanged", "reconcile-1")]
    assert site.mirrored()["reconcile-1"]["status"] == "ENQUEUED"


async def test_a_dequeue_and_a_due_delay_reach_the_mirror_in_one_cycle(site: Site) -> None:
    await changed(site)
    site.tables.update("restock-1", status="ENQUEUED")
    site.tables.update("pick-shelf-2", status="PENDING", started_at_epoch_ms=now_ms())
    assert sorted(await changed(site)) == [
        ("WorkflowChanged", "pick-shelf-2"),
        ("WorkflowChanged", "restock-1"),
    ]


async def test_a_deletion_marks_the_row_and_keeps_it(site: Site) -> None:
    await changed(site)
    await site.client.delete_workflow(APP, "pick-shelf-3")

    assert await changed(site) == [("WorkflowDeleted", "pick-shelf-3")]
    (row,) = [row for row in site.table(WorkflowRow) if row["workflow_id"] == "pick-shelf-3"]
    assert row["status"] == "ENQUEUED"
    assert row["deleted_at"] is not None
    assert await changed(site) == []


async def test_new_workflows_reach_the_mirror_in_one_cycle(site: Site) -> None:
    await changed(site)
    site.tables.add(
        workflow("direct", now_ms(), "PENDING"),
        workflow("queued", now_ms(), "ENQUEUED", queue_name="emails"),
        workflow("delayed", now_ms(), "DELAYED", delay_until_epoch_ms=now_ms() + HOUR_MS),
        workflow("over", now_ms(), "SUCCESS"),
    )
    assert sorted(await changed(site)) == [
        ("WorkflowObserved", name) for name in ("delayed", "direct", "over", "queued")
    ]


async def test_a_fork_reaches_the_mirror_in_one_cycle(site: Site) -> None:
    await changed(site)
    await site.client.fork_workflow(APP, "order-1001", ForkRequest(new_workflow_id="again"))
    assert sorted(await changed(site)) == [
        ("WorkflowChanged", "order-1001"),
        ("WorkflowObserved", "again"),
    ]


async def test_a_workflow_that_was_deleted_and_is_back_is_observed_again(site: Site) -> None:
    row = workflow("phoenix", now_ms(), "ENQUEUED", queue_name="emails")
    site.tables.add(row)
    await changed(site)
    site.tables.change("DELETE FROM workflow_status WHERE workflow_uuid = 'phoenix'")
    assert await changed(site) == [("WorkflowDeleted", "phoenix")]
    site.tables.add(row)
    assert await changed(site) == [("WorkflowObserved", "phoenix")]


async def test_a_workflow_that_moves_on_between_two_listings_does_not_slip_by(
    empty_database: Path, cache_path: Path
) -> None:
    """It is old, so that no watermark finds it, and unknown, so that no id does."""
    old = now_ms() - 90 * DAY_MS
    async with open_site(empty_database, cache_path) as site:
        site.tables.add(workflow("recent", now_ms()))
        await site.sync()
        site.tables.add(workflow("mover", old, "DELAYED", delay_until_epoch_ms=old))
        path = {"DELAYED": "ENQUEUED", "ENQUEUED": "PENDING"}

        def move(asked: Asked) -> None:
            match asked.body.get("status"):
                case [status] if status in path:
                    site.tables.update("mover", status=path[status])

        site.wire.heard = move
        await site.sync()
        assert site.mirrored()["mover"]["status"] == "PENDING"


async def test_an_end_between_the_listing_of_the_ended_and_that_in_flight_is_seen(
    site: Site,
) -> None:
    await site.sync()

    def end(asked: Asked) -> None:
        if "completedAfter" in asked.body and site.mirrored()["reconcile-1"]["status"] == "PENDING":
            site.tables.end("reconcile-1", now_ms())

    site.wire.heard = end  # after the answer was made: only its absence in flight tells
    await site.sync()
    assert site.mirrored()["reconcile-1"]["status"] == "SUCCESS"
    assert site.differences() == {}


async def test_a_look_that_was_overtaken_by_a_newer_one_does_not_bring_the_old_state_back(
    site: Site,
) -> None:
    await site.sync()
    site.news()
    look = await site.mirror.search(APP, _by_id("reconcile-1"))
    await site.commands.cancel(APP, ["reconcile-1"])
    site.news()

    assert await site.mirror.record_workflows(APP, look) == []
    assert site.differences() == {}


async def test_a_newer_look_counts_though_somebody_else_recorded_since_it_began(
    site: Site,
) -> None:
    await site.sync()
    first = await site.mirror.search(APP, _by_id("reconcile-1"))
    site.tables.update("reconcile-1", priority=3, updated_at=now_ms())
    second = await site.mirror.search(APP, _by_id("reconcile-1"))
    site.tables.end("reconcile-1", now_ms() + 1)
    third = await site.mirror.search(APP, _by_id("reconcile-1"))
    for look in (second, third, first):
        await site.mirror.record_workflows(APP, look)
    assert site.differences() == {}


def _by_id(workflow_id: str) -> WorkflowSearch:
    return WorkflowSearch(workflow_ids=[workflow_id], limit=1)


# Pages


async def test_three_thousand_workflows_of_one_millisecond_are_all_found(
    empty_database: Path, cache_path: Path
) -> None:
    moment = now_ms() - HOUR_MS
    async with open_site(empty_database, cache_path, page_limit=100) as site:
        site.tables.add(
            workflow("before", moment - 1),
            *(workflow(f"tie-{n}", moment) for n in range(3000)),
            workflow("after", moment + 1),
        )
        await site.sync()
        assert site.differences() == {}
        assert len(site.wire.asked) < 30


@pytest.mark.parametrize("page_limit", [1, 2, 3, 7])
async def test_ties_of_whole_seconds_around_the_ends_of_pages_are_all_found(
    empty_database: Path, cache_path: Path, page_limit: int
) -> None:
    second = now_ms() // 1000 * 1000
    async with open_site(empty_database, cache_path, page_limit=page_limit) as site:
        site.tables.add(
            *(
                workflow(f"{age}-{n}", second - age * 1000, "ENQUEUED", queue_name="emails")
                for age in range(5)
                for n in range(1 + age % 3 * 3)
            ),
            *(workflow(f"over-{n}", second - n // 4 * 1000) for n in range(20)),
        )
        await site.sync()  # descending: the first load
        assert site.differences() == {}
        site.tables.add(*(workflow(f"new-{n}", second + n // 4 * 1000) for n in range(20)))
        await site.sync()  # ascending: created since
        assert site.differences() == {}
        site.tables.change(
            "UPDATE workflow_status SET status = 'SUCCESS', completed_at = ?, updated_at = ?"
            " WHERE status = 'ENQUEUED'",
            *(second + 9000, second + 9000),
        )
        await site.sync()
        assert site.differences() == {}


async def test_rows_that_become_visible_late_are_found(
    empty_database: Path, cache_path: Path
) -> None:
    now = now_ms()
    async with open_site(empty_database, cache_path, page_limit=5) as site:
        site.tables.add(*(workflow(f"early-{n}", now - n) for n in range(12)))
        await site.sync()
        for late in (1, 2500, OVERLAP_MS - 5_000):
            site.tables.add(workflow(f"late-{late}", now - late))
            await site.sync()
            assert f"late-{late}" in site.mirrored()


async def test_a_row_stamped_in_the_future_does_not_hide_those_of_now(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(empty_database, cache_path) as site:
        site.tables.add(workflow("tomorrow", now_ms() + DAY_MS))
        await site.sync()
        site.tables.add(workflow("today", now_ms()))
        await site.sync()
        assert site.differences() == {}


async def test_the_history_goes_back_as_far_as_was_asked_and_work_in_flight_further(
    empty_database: Path, cache_path: Path
) -> None:
    now = now_ms()
    async with open_site(empty_database, cache_path, history_ms=7 * DAY_MS) as site:
        site.tables.add(
            *(workflow(f"day-{day}", now - day * DAY_MS) for day in range(20)),
            workflow("waiting", now - 60 * DAY_MS, "ENQUEUED", queue_name="emails"),
        )
        await site.sync()
        assert set(site.mirrored()) == {*(f"day-{day}" for day in range(7)), "waiting"}
        assert (site.state().covered_since or 0) > now - 8 * DAY_MS
        site.tables.end("waiting", now_ms())
        await site.sync()
        assert site.mirrored()["waiting"]["status"] == "SUCCESS"

    async with open_site(empty_database, cache_path, history_ms=None) as site:
        await site.sync()  # somebody wants to see more of the past
        assert site.differences() == {}
        assert site.state().covered_since == 0

    async with open_site(empty_database, cache_path, history_ms=7 * DAY_MS) as site:
        await site.sync()  # or less, which takes nothing away
        assert site.differences() == {}
        assert site.state().covered_since == 0


# Cut short


def assert_coverage_is_honest(site: Site) -> None:
    """Everything that the state claims to have seen is in the mirror."""
    state, mirrored = site.state(), site.mirrored()
    if state.covered_since is None:
        return
    until = state.watermark if state.watermark is not None else now_ms()
    claimed = site.tables.rows(
        "SELECT workflow_uuid FROM workflow_status WHERE created_at BETWEEN ? AND ?",
        *(state.covered_since, until),
    )
    assert {row[0] for row in claimed} <= mirrored.keys()
    if state.history_complete and state.watermark is not None:
        all_before = site.tables.rows(
            "SELECT workflow_uuid FROM workflow_status WHERE created_at <= ?", state.watermark
        )
        assert {row[0] for row in all_before} <= mirrored.keys()


def fail_from(site: Site, first: int, refuse: Callable[[], httpx.Response | Exception]) -> None:
    """Let `first` requests through, then none."""
    let_through = len(site.wire.asked) + first
    site.wire.fault = lambda _request: refuse() if len(site.wire.asked) > let_through else None


FAILURES: tuple[Callable[[], httpx.Response | Exception], ...] = (
    lambda: httpx.ReadError("connection reset"),
    lambda: problem(502),
)


async def test_a_first_load_that_is_cut_at_any_request_goes_on_and_loses_nothing(
    empty_database: Path, new_cache: Callable[[object], Path]
) -> None:
    now = now_ms()
    error = pickled(RuntimeError("no rate"))
    rows = [
        *(workflow(f"old-{n}", now - DAY_MS - n // 3 * 60_000, "ERROR", error=error)
          for n in range(6)),
        *(workflow(f"recent-{n}", now - n * 1000) for n in range(2)),
        workflow("waiting", now - DAY_MS, "ENQUEUED", queue_name="emails"),
    ]  # fmt: skip
    async with open_site(empty_database, new_cache("whole"), page_limit=3) as site:
        site.tables.add(*rows)
        await site.sync()
        requests = len(site.wire.asked)
        expected = {key: row["error"] for key, row in site.mirrored().items()}
    assert requests > 15

    for cut in range(requests):
        async with open_site(empty_database, new_cache(cut), page_limit=3) as site:
            fail_from(site, cut, FAILURES[cut % 2])
            try:
                assert (await site.sync()).error is not None
            except UnavailableError:
                assert cut == 0
            assert site.state().succeeded_at is None
            assert_coverage_is_honest(site)
            site.wire.fault = lambda _request: None
            await site.sync()
            assert site.differences() == {}
            assert {key: row["error"] for key, row in site.mirrored().items()} == expected
            assert site.state().history_complete


async def test_catching_up_that_is_cut_at_any_request_goes_on_and_loses_nothing(
    empty_database: Path, new_cache: Callable[[object], Path]
) -> None:
    """A mirror that slept for an hour: the pages of what was created meanwhile, failures among
    them, whose texts are asked for between a page and its recording. Of an old SDK, whose rows
    have no time of their end by which they could be found too."""
    now = now_ms()
    error = pickled(RuntimeError("no rate"))
    missed = [
        workflow(
            f"missed-{n}",
            now - n * 300_000,
            "ERROR" if n % 2 else "SUCCESS",
            error=error,
            completed_at=None,
        )
        for n in range(6)
    ]
    cut, finished = 0, False
    while not finished:
        async with open_site(empty_database, new_cache(cut), page_limit=3) as site:
            site.tables.clear()
            site.tables.add(workflow("before", now - 2 * HOUR_MS))
            await site.sync()
            site.tables.add(*missed)
            fail_from(site, cut, FAILURES[cut % 2])
            try:
                finished = (await site.sync()).error is None
            except UnavailableError:
                assert cut == 0
            assert_coverage_is_honest(site)
            site.wire.fault = lambda _request: None
            await site.sync()
            assert site.differences() == {}
        cut += 1
    assert cut > 10


# Away


AWAY: dict[str, Callable[[], httpx.Response | Exception]] = {
    "502": lambda: problem(502),
    "503": lambda: problem(503, "no healthy executor"),
    "504 of a proxy": lambda: httpx.Response(504, html="<html>"),
    "refused": lambda: httpx.ConnectError("refused"),
    "timed out": lambda: httpx.ReadTimeout("slow"),
    "404": lambda: problem(404, "no such application"),
}


@pytest.mark.parametrize(
    ("failure", "place"),
    [
        *((failure, "/workflows/search") for failure in AWAY),
        ("503", "/apps"),
        ("404", "/apps"),
        ("502", "/executors"),
    ],
)
async def test_away_is_not_empty(site: Site, failure: str, place: str) -> None:
    await site.sync()
    site.news()
    held = site.mirrored()
    as_of = site.state().succeeded_at
    site.wire.fault = lambda request: AWAY[failure]() if request.url.path.endswith(place) else None
    site.clock.ahead_ms += EXECUTORS_EVERY_MS

    offline_since = []
    for _ in range(2):
        try:
            assert isinstance((await site.sync()).error, UnavailableError | NotFoundError)
        except (UnavailableError, NotFoundError):
            assert place == "/apps"
        offline_since.append(site.state().offline_since)
        site.clock.ahead_ms += EXECUTORS_EVERY_MS

    assert offline_since[0] is not None
    assert offline_since[0] == offline_since[1]
    assert site.mirrored() == held
    assert site.news() == []
    assert site.state().succeeded_at == as_of
    assert site.state().last_error

    site.wire.fault = lambda _request: None
    await site.sync()
    assert site.state().offline_since is None
    assert site.state().last_error is None
    assert site.differences() == {}


async def test_an_application_without_executors_is_away_and_its_executors_are_still_read(
    site: Site,
) -> None:
    await site.sync()
    site.news()
    hidden = site.tables.path.with_name("elsewhere.sqlite")
    site.tables.path.rename(hidden)
    dead = {
        "executorId": "shop-1", "appVersion": "1.4.0", "status": "DEAD",
        "createdAt": "2026-11-21T06:30:05Z", "updatedAt": "2026-11-21T06:31:05Z",
    }  # fmt: skip
    site.wire.fault = below("/executors", lambda: httpx.Response(200, json=[dead]))

    report = await site.sync()

    assert isinstance(report.error, UnavailableError)
    assert site.news() == [("ApplicationObserved", None), ("ExecutorObserved", None)]
    assert [row["status"] for row in site.table(ApplicationRow)] == ["UNAVAILABLE"]
    assert [row["status"] for row in site.table(ExecutorRow)] == ["DEAD"]
    hidden.rename(site.tables.path)
    assert (await site.sync()).error is None
    assert site.differences() == {}


async def test_an_application_that_is_no_longer_listed_is_kept_and_said_to_be_gone(
    site: Site,
) -> None:
    await site.sync()
    held = site.mirrored()
    site.wire.fault = lambda request: (
        httpx.Response(200, json=[]) if request.url.path.endswith("/apps") else None
    )
    assert await site.worker.run_once() == []
    assert [row["status"] for row in site.table(ApplicationRow)] == [REMOVED]
    assert site.mirrored() == held
    assert site.state().offline_since is not None
    assert "no longer lists" in (site.state().last_error or "")
    site.news()
    await site.worker.run_once()
    assert site.news() == []

    site.wire.fault = lambda _request: None
    await site.sync()
    assert [row["status"] for row in site.table(ApplicationRow)] == ["AVAILABLE"]
    assert site.state().offline_since is None


async def test_one_failing_application_does_not_stop_the_others(
    shop_database: Path, cache_path: Path
) -> None:
    async with open_site(shop_database, cache_path, names=["attic", APP, "cellar"]) as site:
        site.tables.add(*(workflow(n, now_ms(), application_name=n) for n in ("attic", "cellar")))
        site.wire.fault = below("/apps/attic/", lambda: problem(503))
        reports = {r.application_name: r for r in await site.worker.run_once()}
        assert isinstance(reports["attic"].error, UnavailableError)
        assert reports[APP].error is None
        assert reports["cellar"].error is None
        assert {row["application_name"] for row in site.table(WorkflowRow)} == {APP, "cellar"}
        assert site.state("attic").offline_since is not None
        assert site.state("cellar").offline_since is None
        assert site.state(CONDUCTOR).offline_since is None


@pytest.mark.parametrize("place", ["/apps", "/workflows/search"])
async def test_refused_credentials_are_raised_and_noted(site: Site, place: str) -> None:
    await site.sync()
    held = site.mirrored()
    site.wire.fault = lambda r: problem(401) if r.url.path.endswith(place) else None
    with pytest.raises(AuthenticationError):
        await site.sync()
    assert site.mirrored() == held
    assert "credentials" in (site.state().last_error or "")
    assert site.state().offline_since is None


NOT_OURS: dict[str, Callable[[], httpx.Response]] = {
    "half": lambda: httpx.Response(200, content=b'[{"workflowId": "w", "sta'),
    "html": lambda: httpx.Response(200, html="<html>It works!</html>"),
    "another shape": lambda: httpx.Response(200, json={"workflows": []}),
    "500": lambda: problem(500, "it broke"),
}


@pytest.mark.parametrize(
    ("answer", "place"),
    [*((answer, "/workflows/search") for answer in NOT_OURS), ("html", "/apps")],
)
async def test_an_answer_that_is_not_the_api_changes_nothing(
    site: Site, answer: str, place: str
) -> None:
    await site.sync()
    site.news()
    held = site.mirrored()
    site.wire.fault = lambda r: NOT_OURS[answer]() if r.url.path.endswith(place) else None
    try:
        assert isinstance((await site.sync()).error, ConductorError)
    except ResponseError:
        assert place == "/apps"
    assert site.news() == []
    assert site.mirrored() == held
    assert site.state().last_error
    assert site.state().offline_since is None


# Clocks


@pytest.mark.parametrize("hours", [-30, -5, 5, 30])
async def test_a_clock_that_is_hours_off_loses_nothing_and_ends(
    empty_database: Path, cache_path: Path, hours: int
) -> None:
    now = now_ms()
    async with open_site(empty_database, cache_path, page_limit=3) as site:
        site.clock.ahead_ms = hours * HOUR_MS
        site.tables.add(*(workflow(f"past-{n}", now - n * 600_000) for n in range(10)))
        await site.sync()
        assert site.differences() == {}
        for n in range(3):
            site.tables.add(workflow(f"new-{n}", now_ms()))
            site.tables.add(workflow(f"late-{n}", now_ms() - OVERLAP_MS // 2))
            await site.sync()
            assert site.differences() == {}


@pytest.mark.parametrize("table", ["workflow", "step_reading"])
async def test_a_fault_of_the_cache_is_raised_as_it_is(site: Site, table: str) -> None:
    """In the middle of what goes on at the same time."""
    with site.cache.write() as connection:
        connection.exec_driver_sql(
            f"CREATE TRIGGER broken BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    with pytest.raises(IntegrityError):
        await site.sync()
    with site.cache.write() as connection:
        connection.exec_driver_sql("DROP TRIGGER broken")
    await site.sync()
    assert site.differences() == {}
