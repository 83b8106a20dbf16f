"""Audits: what they find that no filter finds, what they ask for, and that they end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from dbos_mcp.domain import now_ms, parse_time
from dbos_mcp.errors import NotFoundError, UnavailableError
from dbos_mcp.settings import DAY_MS
from dbos_mcp.store import projector
from dbos_mcp.store.events import WorkflowChanged
from dbos_mcp.sync.aggregates import REFUSED_PAUSE_MS
from dbos_mcp.sync.audit import (
    AUDIT_EVERY_MS,
    AUDIT_REQUESTS_PER_CYCLE,
    REREAD_EVERY_MS,
    WALK_EVERY_MS,
    Bucket,
    differing,
    merged,
    reread_share_of,
)
from dbos_mcp.sync.known import Span
from dbos_mcp.sync.mirror import IDS_PER_REQUEST
from dbos_mcp.sync.visit import OVERLAP_MS
from tests.upstream import APP, Asked, Fault, Site, below, open_site, problem, workflow

HOUR_MS = 3_600_000
MINUTE_MS = 60_000
DAY = now_ms() // DAY_MS * DAY_MS - 10 * DAY_MS
"""The beginning of a day well within what is mirrored."""

DELETE = "DELETE FROM workflow_status WHERE workflow_uuid "


@pytest.fixture
async def quiet_site(empty_database: Path, cache_path: Path) -> Any:
    """Five workflows that ended on one day, one of now, and a mirror that has seen them."""
    async with open_site(empty_database, cache_path) as site:
        site.tables.add(
            workflow("now", now_ms()),
            *(workflow(f"old-{n}", DAY + n * HOUR_MS) for n in range(5)),
        )
        await site.sync()
        assert site.differences() == {}
        site.news()
        yield site


async def audited(site: Site, after_ms: int = AUDIT_EVERY_MS) -> list[tuple[str, str | None]]:
    """What the cycle with the next audit records, sorted."""
    site.clock.ahead_ms += after_ms
    site.wire.asked.clear()
    report = await site.sync()
    assert report.error is None
    return sorted(site.news(), key=str)


def counts_asked(site: Site) -> list[dict[str, Any]]:
    return [asked.body for asked in site.wire.asked if asked.path.endswith("/aggregates")]


def ranges_asked(site: Site) -> list[dict[str, Any]]:
    """The listings that audits sent."""
    return [asked.body for asked in site.wire.asked if "endTime" in asked.body and is_search(asked)]


def ids_asked(site: Site) -> list[list[str]]:
    return [asked.body["workflowIds"] for asked in site.wire.asked if "workflowIds" in asked.body]


def is_search(asked: Asked) -> bool:
    return asked.path.endswith("/workflows/search")


def assert_rebuilds(site: Site) -> None:
    with site.cache.write() as connection:
        assert all(table.equal for table in projector.rebuild(connection))


# What differs


def test_buckets_of_which_the_ended_differ_are_found_the_newest_first() -> None:
    theirs = {(0, "SUCCESS"): 2, (100, "SUCCESS"): 1, (200, "ERROR"): 1, (300, "PENDING"): 4}
    ours = {(0, "SUCCESS"): 2, (100, "SUCCESS"): 3, (200, "SUCCESS"): 1, (300, "ERROR"): 1}
    assert differing(theirs, ours, Span(0, 350), 100) == [
        Bucket(Span(300, 350), gone=True, rows=4),
        Bucket(Span(200, 300), gone=False, rows=1),
        Bucket(Span(100, 200), gone=False, rows=3),
    ]


def test_what_is_in_flight_makes_no_difference() -> None:
    theirs = {(0, "SUCCESS"): 2, (0, "PENDING"): 1, (100, "ENQUEUED"): 9}
    ours = {(0, "SUCCESS"): 2, (0, "DELAYED"): 3}
    assert differing(theirs, ours, Span(0, 200), 100) == []


def test_buckets_are_cut_to_the_span_and_those_beside_it_are_nobodys() -> None:
    theirs = {(0, "SUCCESS"): 1, (100, "SUCCESS"): 1, (900, "SUCCESS"): 1}
    assert differing(theirs, {}, Span(50, 150), 100) == [
        Bucket(Span(100, 150), gone=False, rows=1),
        Bucket(Span(50, 100), gone=False, rows=1),
    ]


def bucket(start: int, rows: int, *, gone: bool = False) -> Bucket:
    return Bucket(Span(start, start + 100), gone, rows)


def test_neighbours_that_are_mended_alike_become_one_range() -> None:
    assert merged([bucket(300, 4), bucket(200, 5), bucket(100, 5)], small=5) == [
        Bucket(Span(100, 400), gone=False, rows=5)
    ]
    gone = [bucket(200, 900, gone=True), bucket(100, 1, gone=True)]
    assert merged(gone, small=5) == [Bucket(Span(100, 300), gone=True, rows=900)]


@pytest.mark.parametrize(
    "buckets",
    [
        [bucket(300, 1), bucket(100, 1)],
        [bucket(200, 6), bucket(100, 6)],
        [bucket(200, 6), bucket(100, 1)],
        [bucket(200, 1), bucket(100, 1, gone=True)],
    ],
    ids=["not neighbours", "to be divided", "one to be divided", "one to be listed"],
)
def test_others_stay_apart(buckets: list[Bucket]) -> None:
    assert merged(buckets, small=5) == buckets


@pytest.mark.parametrize(
    ("held", "share"), [(0, 500), (72_000, 500), (72_001, 1000), (1_000_000, 7000)]
)
def test_a_share_is_a_day_s_part_of_all_rounded_up_to_whole_requests(held: int, share: int) -> None:
    assert reread_share_of(held) == share


# What is found


async def test_an_audit_that_finds_nothing_asks_once_and_records_nothing(
    quiet_site: Site,
) -> None:
    site = quiet_site
    await audited(site)  # with it begins the first re-read
    found_at = site.state().audited_at

    assert await audited(site) == []

    (query,) = counts_asked(site)
    assert query["groupByStatus"]
    assert query["timeBucketSizeMs"] == DAY_MS
    assert ranges_asked(site) == []
    assert ids_asked(site) == []
    assert (site.state().audited_at or 0) - (found_at or 0) >= AUDIT_EVERY_MS
    assert site.state().audit_found == 0

    assert await audited(site, AUDIT_EVERY_MS // 2) == []
    assert counts_asked(site) == []


async def test_no_audit_begins_before_the_first_load_has_ended(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(empty_database, cache_path, page_limit=2) as site:
        site.tables.add(*(workflow(f"old-{n}", DAY + n) for n in range(9)))
        site.wire.fault = lambda request: problem(503) if b"endTime" in request.content else None
        assert (await site.sync()).error is not None
        assert counts_asked(site) == []
        assert site.state().audited_at is None

        site.wire.fault = lambda _request: None
        await site.sync()
        assert len(counts_asked(site)) == 1
        assert site.state().audited_at is not None


async def test_deletions_of_ended_workflows_are_found(quiet_site: Site) -> None:
    site = quiet_site
    site.tables.change(DELETE + "IN ('old-1', 'old-3')")
    assert await audited(site) == [("WorkflowDeleted", "old-1"), ("WorkflowDeleted", "old-3")]
    assert site.differences() == {}
    assert site.state().audit_found == 2
    assert await audited(site) == []
    assert_rebuilds(site)


async def test_retention_of_whole_days_is_found_without_a_listing(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(empty_database, cache_path, page_limit=10) as site:
        site.tables.add(
            workflow("now", now_ms()),
            *(workflow(f"old-{n}", DAY + n * HOUR_MS) for n in range(3 * 24)),
        )
        await site.sync()
        site.news()
        site.tables.change("DELETE FROM workflow_status WHERE created_at < ?", DAY + 2 * DAY_MS)

        assert [kind for kind, _ in await audited(site)] == ["WorkflowDeleted"] * 48

        assert ranges_asked(site) == []
        assert [len(ids) for ids in ids_asked(site)[:1]] == [48]
        assert len(counts_asked(site)) == 2
        assert site.differences() == {}
        assert_rebuilds(site)


async def test_the_deletion_of_everything_is_found(quiet_site: Site) -> None:
    site = quiet_site
    site.clock.ahead_ms += OVERLAP_MS  # so that "now" is not within the overlap any more
    await site.sync()
    site.tables.clear()
    assert [kind for kind, _ in await audited(site)] == ["WorkflowDeleted"] * 6
    assert site.mirrored() == {}
    assert await audited(site) == []


async def test_rows_imported_with_old_times_are_found(quiet_site: Site) -> None:
    site = quiet_site
    site.tables.add(
        workflow("imported", DAY - 3 * DAY_MS),
        workflow("beside", DAY + 1),
        workflow("in-flight", DAY - 3 * DAY_MS, "ENQUEUED", queue_name="emails"),
    )
    await site.sync()
    assert site.news() == [("WorkflowObserved", "in-flight")]
    assert await audited(site) == [
        ("WorkflowObserved", "beside"),
        ("WorkflowObserved", "imported"),
    ]
    assert site.differences() == {}


def behind_the_listing(site: Site, change: Callable[[], None]) -> None:
    """Make a change between the last answer about what is in flight and the audit."""

    def hear(asked: Asked) -> None:
        if asked.body.get("status") == ["PENDING"] and is_search(asked):
            site.wire.heard = lambda _asked: None
            change()

    site.wire.heard = hear


async def test_a_resume_that_no_listing_showed_is_found(quiet_site: Site) -> None:
    site = quiet_site

    def resume() -> None:
        site.tables.update("old-2", status="ENQUEUED", completed_at=None, queue_name="_internal")

    behind_the_listing(site, resume)
    assert await audited(site) == [("WorkflowChanged", "old-2")]
    assert site.mirrored()["old-2"]["status"] == "ENQUEUED"
    assert site.differences() == {}


async def test_a_rewind_that_has_ended_otherwise_long_ago_is_found(quiet_site: Site) -> None:
    site = quiet_site
    site.tables.end("old-2", DAY + 3 * HOUR_MS, "ERROR")
    await site.sync()
    assert site.news() == []
    assert ("WorkflowChanged", "old-2") in await audited(site)
    assert site.differences() == {}


async def test_what_has_ended_without_a_time_and_is_held_as_in_flight_is_found(
    quiet_site: Site,
) -> None:
    site = quiet_site
    site.tables.add(workflow("run", DAY, "PENDING"))
    await site.sync()
    site.news()
    behind_the_listing(site, lambda: site.tables.update("run", status="SUCCESS"))
    assert ("WorkflowChanged", "run") in await audited(site)
    assert site.mirrored()["run"]["status"] == "SUCCESS"
    assert site.differences() == {}


async def test_a_renamed_workflow_is_said_to_be_anothers_and_asked_for_no_more(
    quiet_site: Site,
) -> None:
    site = quiet_site
    site.tables.update("old-2", application_name="store")

    site.clock.ahead_ms += AUDIT_EVERY_MS
    await site.sync()

    (event,) = [entry.event for entry in site.new_events()]
    assert isinstance(event, WorkflowChanged)
    assert (event.workflow_id, event.owning_application) == ("old-2", "store")
    assert site.differences() == {}
    await audited(site)
    assert await audited(site) == []
    assert len(counts_asked(site)) == 1

    site.tables.update("old-2", application_name=APP)
    assert await audited(site) == [("WorkflowChanged", "old-2")]
    assert site.differences() == {}


async def test_a_renamed_workflow_in_flight_is_followed_and_no_longer_counted(
    quiet_site: Site,
) -> None:
    site = quiet_site
    site.tables.add(*(workflow(f"run-{n}", DAY + n, "PENDING") for n in range(20)))
    await site.sync()
    site.tables.update("run-3", application_name="store")
    await audited(site)
    assert site.mirrored()["run-3"]["owning_application"] == "store"
    site.wire.asked.clear()
    await site.sync()
    await site.sync()
    assert not [asked for asked in site.wire.asked if is_search(asked) and "status" in asked.body]

    site.tables.update("run-3", status="SUCCESS")
    await audited(site)
    assert site.mirrored()["run-3"]["status"] == "SUCCESS"


async def test_the_source_of_a_fork_that_only_an_audit_found_is_read_again(
    quiet_site: Site,
) -> None:
    site = quiet_site
    site.tables.add(workflow("again", DAY + 5, forked_from="old-1"))
    site.tables.update("old-1", was_forked_from=1)
    assert await audited(site) == [("WorkflowChanged", "old-1"), ("WorkflowObserved", "again")]
    assert site.differences() == {}


async def test_what_may_still_become_visible_is_left_alone(quiet_site: Site) -> None:
    site = quiet_site
    site.tables.add(workflow("newest", now_ms()))

    def come_late(asked: Asked) -> None:
        if "completedAfter" in asked.body:
            site.wire.heard = lambda _asked: None
            site.tables.add(workflow("late", now_ms() - OVERLAP_MS // 2))

    site.wire.heard = come_late
    assert await audited(site) == [("WorkflowObserved", "newest")]
    (query,) = counts_asked(site)
    assert parse_time(query["endTime"]) < (site.state().watermark or 0)
    assert ranges_asked(site) == []

    await site.sync()
    assert site.news() == [("WorkflowObserved", "late")]


async def test_what_ended_since_the_cycle_began_is_no_finding(quiet_site: Site) -> None:
    site = quiet_site
    site.tables.add(workflow("long", DAY + 7, "PENDING"))
    await site.sync()
    site.news()

    def end(asked: Asked) -> None:
        if asked.path.endswith("/long/steps"):
            site.tables.end("long", now_ms())

    site.wire.heard = end
    assert ("WorkflowChanged", "long") in await audited(site)
    assert ranges_asked(site) == []
    assert site.state().audit_found == 0


# How much is asked for


async def test_only_ranges_that_differ_are_listed_again(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(empty_database, cache_path, page_limit=20) as site:
        site.tables.add(
            workflow("now", now_ms()),
            *(workflow(f"w-{n}", DAY + n * 30_000) for n in range(2 * 24 * 120)),
        )
        await site.sync()
        site.news()
        site.tables.change(DELETE + "= 'w-4000'")
        site.tables.add(workflow("imported", DAY + HOUR_MS))

        assert await audited(site) == [
            ("WorkflowDeleted", "w-4000"),
            ("WorkflowObserved", "imported"),
        ]

        sizes = [query["timeBucketSizeMs"] for query in counts_asked(site)]
        assert sizes == [DAY_MS, DAY_MS, HOUR_MS, MINUTE_MS, HOUR_MS, MINUTE_MS]
        widths = [
            parse_time(query["endTime"]) - parse_time(query["startTime"]) + 1
            for query in ranges_asked(site)
        ]
        assert widths == [MINUTE_MS, MINUTE_MS]
        assert [[*ids] for ids in ids_asked(site)][:1] == [["w-4000"]]
        assert site.differences() == {}


async def test_neighbours_that_differ_are_listed_as_one_range(quiet_site: Site) -> None:
    site = quiet_site
    for day in (1, 2, 3):
        site.tables.add(workflow(f"imported-{day}", DAY - day * DAY_MS))
    await audited(site)
    assert len(ranges_asked(site)) == 1
    assert site.differences() == {}


async def test_a_huge_difference_is_mended_over_several_cycles_without_asking_twice(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(empty_database, cache_path, page_limit=5) as site:
        site.tables.add(
            workflow("now", now_ms()),
            *(workflow(f"w-{n}", DAY + n * HOUR_MS) for n in range(72)),
        )
        await site.sync()
        site.tables.change("DELETE FROM workflow_status WHERE workflow_uuid LIKE '%7'")
        site.tables.add(
            *(workflow(f"i-{n}", DAY + n // 2 * MINUTE_MS) for n in range(700)),
        )
        audited_before = site.state().audited_at
        site.clock.ahead_ms += AUDIT_EVERY_MS
        cycles = 0
        while site.state().audited_at == audited_before:
            site.wire.asked.clear()
            assert (await site.sync()).error is None
            assert len(site.wire.asked) < AUDIT_REQUESTS_PER_CYCLE + 20
            cycles += 1
            assert cycles < 20
        assert cycles > 3
        assert site.differences() == {}
        assert site.state().audit_cursor is None
        assert_rebuilds(site)


async def test_more_deletions_than_a_cycle_may_ask_about_are_found_over_several(
    empty_database: Path, cache_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbos_mcp.sync.audit.AUDIT_REQUESTS_PER_CYCLE", 6)
    count = 7 * IDS_PER_REQUEST
    async with open_site(empty_database, cache_path) as site:
        site.tables.add(
            workflow("now", now_ms()), *(workflow(f"old-{n}", DAY + n) for n in range(count))
        )
        await site.sync()
        site.news()
        site.tables.change(DELETE + "LIKE 'old-%'")

        first = await audited(site)
        assert 0 < len(first) < count
        assert len(ids_asked(site)) <= 6 + 1  # one of them the share
        audited_at = site.state().audited_at
        for _ in range(2):
            await audited(site, 5_000)
            assert len(ids_asked(site)) <= 6
        assert set(site.mirrored()) == {"now"}
        assert site.state().audited_at != audited_at


async def test_a_range_that_goes_on_to_differ_is_listed_once_an_audit(quiet_site: Site) -> None:
    site = quiet_site
    inner = site.wire.inner

    class Miscounting(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            answer = await inner.handle_async_request(request)
            if not request.url.path.endswith("/aggregates"):
                return answer
            await answer.aread()
            counted = [{**group, "count": group["count"] + 1} for group in answer.json()]
            return httpx.Response(200, json=counted)

    site.wire.inner = Miscounting()
    assert await audited(site) == []
    assert len(ranges_asked(site)) >= 1
    assert await audited(site, 5_000) == []
    assert (counts_asked(site), ranges_asked(site)) == ([], [])
    await audited(site)
    assert len(ranges_asked(site)) >= 1


# Where upstream does not count


NO_COUNTS: dict[str, Callable[[], httpx.Response]] = {
    "404": lambda: problem(404),
    "404 of a router": lambda: httpx.Response(404, text="page not found"),
    "405": lambda: problem(405),
    "422": lambda: problem(422),
    "500": lambda: problem(500),
    "501": lambda: problem(501),
    "504": lambda: problem(504),
    "another bucket": lambda: httpx.Response(
        200, json=[{"group": {"status": "SUCCESS", "time_bucket": "monday"}, "count": 1}]
    ),
}


@pytest.mark.parametrize("refusal", NO_COUNTS)
async def test_without_counts_everything_is_listed_a_few_pages_at_a_time(
    empty_database: Path, cache_path: Path, refusal: str
) -> None:
    async with open_site(empty_database, cache_path, page_limit=5) as site:
        site.wire.fault = below("/aggregates", NO_COUNTS[refusal])
        site.tables.add(
            workflow("now", now_ms()),
            *(workflow(f"old-{n}", DAY - n // 7 * HOUR_MS) for n in range(40)),
        )
        await site.sync()
        await walked(site)
        site.tables.change(DELETE + "IN ('old-6', 'old-20', 'old-39')")
        site.tables.add(workflow("imported", DAY - HOUR_MS), workflow("first", DAY - DAY_MS))
        site.news()
        site.clock.ahead_ms += WALK_EVERY_MS

        assert await walked(site) > 2

        assert sorted(news := site.news()) == [
            *(("WorkflowDeleted", f"old-{n}") for n in (20, 39, 6)),
            ("WorkflowObserved", "first"),
            ("WorkflowObserved", "imported"),
        ], news
        assert site.differences() == {}
        site.wire.asked.clear()
        site.clock.ahead_ms += AUDIT_EVERY_MS
        await site.sync()
        assert ranges_asked(site) == []  # not again on this day
        assert_rebuilds(site)


async def walked(site: Site) -> int:
    """Sync until the walk is at its end; how many cycles that took."""
    before, cycles = site.state().audited_at, 0
    while site.state().audited_at == before:
        site.wire.asked.clear()
        assert (await site.sync()).error is None
        assert len(counts_asked(site)) <= 1
        assert len(ranges_asked(site)) <= 8
        cycles += 1
        assert cycles < 30
    return cycles


async def test_counts_that_are_offered_again_are_used_again(quiet_site: Site) -> None:
    site = quiet_site
    site.wire.fault = below("/aggregates", lambda: problem(501))
    await audited(site)
    assert len(counts_asked(site)) == 1
    await audited(site)
    assert counts_asked(site) == []
    site.wire.fault = lambda _request: None
    site.tables.change(DELETE + "= 'old-4'")
    assert ("WorkflowDeleted", "old-4") in await audited(site, REFUSED_PAUSE_MS)


async def test_counts_that_are_refused_half_way_hold_up_nothing(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(empty_database, cache_path, page_limit=3) as site:
        site.tables.add(
            workflow("now", now_ms()),
            *(workflow(f"old-{n}", DAY + n * HOUR_MS) for n in range(9)),
        )
        await site.sync()
        site.news()
        site.tables.change(DELETE + "= 'old-4'")
        site.wire.fault = lambda request: (
            problem(500) if b'"timeBucketSizeMs":3600000' in request.content else None
        )
        assert await audited(site) == [("WorkflowDeleted", "old-4")]


# By id


async def test_what_no_count_shows_is_found_within_a_day(quiet_site: Site) -> None:
    site = quiet_site
    await audited(site)
    site.tables.update("old-1", attributes='{"customer": "ada"}', updated_at=now_ms())
    site.tables.change(DELETE + "= 'old-2'")
    site.tables.add(workflow("swapped", DAY + 2 * HOUR_MS + 5))
    site.tables.update("old-3", was_forked_from=1)
    site.tables.add(workflow("older", DAY - 99 * DAY_MS))
    assert await audited(site) == []
    assert await audited(site, REREAD_EVERY_MS) == [
        ("WorkflowChanged", "old-1"),
        ("WorkflowChanged", "old-3"),
        ("WorkflowDeleted", "old-2"),
    ]
    assert site.mirrored()["old-1"]["attributes"] == '{"customer": "ada"}'
    assert site.state().audit_found == 3
    # Then the counts show the other half of the swap.
    assert await audited(site) == [("WorkflowObserved", "swapped")]


async def test_everything_is_read_again_once_a_day_in_equal_shares(
    empty_database: Path, cache_path: Path
) -> None:
    count = 2 * IDS_PER_REQUEST + 300
    async with open_site(empty_database, cache_path) as site:
        site.tables.add(
            *(workflow(f"old-{n}", DAY + n) for n in range(count)),
            workflow("waiting", DAY, "ENQUEUED", queue_name="emails"),
        )
        await site.sync()
        assert ids_asked(site) == []  # it has all just been read
        asked: list[str] = []
        for share in (IDS_PER_REQUEST, IDS_PER_REQUEST, 300, 0, 0):
            await audited(site)
            assert [len(ids) for ids in ids_asked(site)] == ([share] if share else [])
            asked += [each for ids in ids_asked(site) for each in ids]
            assert await audited(site, 5_000) == []
            assert ids_asked(site) == []
        assert sorted(asked) == sorted(site.tables.ids() - {"waiting"})
        await audited(site, REREAD_EVERY_MS - 4 * AUDIT_EVERY_MS)
        assert len(ids_asked(site)) == 1


async def test_a_re_read_that_was_interrupted_goes_on_where_it_was(
    empty_database: Path, new_cache: Callable[[object], Path]
) -> None:
    cache = new_cache("interrupted")
    async with open_site(empty_database, cache) as site:
        site.tables.add(*(workflow(f"old-{n}", DAY + n) for n in range(2 * IDS_PER_REQUEST)))
        await site.sync()
        await audited(site)
        (first,) = ids_asked(site)
        ahead_ms = site.clock.ahead_ms
    async with open_site(empty_database, cache) as site:
        site.clock.ahead_ms = ahead_ms + AUDIT_EVERY_MS
        refuse = b'"workflowIds"'
        site.wire.fault = lambda r: problem(503) if refuse in r.content else None
        assert isinstance((await site.sync()).error, UnavailableError)
        site.wire.fault = lambda _request: None
        await audited(site, 5_000)
        (second,) = ids_asked(site)
        assert not {*first} & {*second}
        assert {*first, *second} == site.tables.ids()


# Away


FAILURES: tuple[Callable[[], httpx.Response | Exception], ...] = (
    lambda: problem(502),
    lambda: problem(503),
    lambda: problem(404, "no such application"),
    lambda: httpx.ReadError("connection reset"),
)


def faultless(_request: httpx.Request) -> None:
    return None


def fail_from(
    site: Site, first: int, refuse: Callable[[], httpx.Response | Exception], otherwise: Fault
) -> Fault:
    """Let `first` requests through to `otherwise`, then none."""
    let_through = len(site.wire.asked) + first
    return lambda request: refuse() if len(site.wire.asked) > let_through else otherwise(request)


@pytest.mark.parametrize("counts", [True, False])
async def test_an_audit_that_is_cut_at_any_request_deletes_nothing_that_is_there(
    empty_database: Path, new_cache: Callable[[object], Path], counts: bool
) -> None:
    cut, finished = 0, False
    while not finished:
        async with open_site(empty_database, new_cache((counts, cut)), page_limit=3) as site:
            refuse = FAILURES[cut % len(FAILURES)]
            otherwise = faultless if counts else below("/aggregates", lambda: problem(501))
            site.tables.clear()
            site.tables.add(
                workflow("now", now_ms()),
                *(workflow(f"old-{n}", DAY + n // 2 * HOUR_MS) for n in range(12)),
            )
            await site.sync()
            site.tables.change(DELETE + "IN ('old-2', 'old-7')")
            site.tables.add(workflow("imported", DAY + HOUR_MS + 1, "ERROR"))
            site.clock.ahead_ms += WALK_EVERY_MS
            asked_before = len(site.wire.asked)
            site.wire.fault = fail_from(site, cut, refuse, otherwise)
            try:
                report = await site.sync()
                finished = report.error is None and len(site.wire.asked) <= asked_before + cut
            except (UnavailableError, NotFoundError):
                assert cut == 0
            there = site.tables.ids()
            deleted = {i for kind, i in site.news() if kind == "WorkflowDeleted"}
            assert deleted <= {"old-2", "old-7"}
            assert site.mirrored().keys() - there <= {"old-2", "old-7"}

            site.wire.fault = otherwise
            site.clock.ahead_ms += REFUSED_PAUSE_MS
            for _ in range(4):
                assert (await site.sync()).error is None
            assert site.differences() == {}
            assert_rebuilds(site)
        cut += 1
    assert cut > 8
