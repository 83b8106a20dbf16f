"""A look that a person asks for."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from httpx import Response

from dbos_mcp.conductor.traffic import FAILURES_TO_OPEN
from dbos_mcp.domain import CONDUCTOR, now_ms
from dbos_mcp.errors import AuthenticationError, NotFoundError, UnavailableError
from dbos_mcp.sync.leadership import Leadership
from dbos_mcp.sync.now import LookedAt, Readings, Wanted, look_unless_met, sync_now
from dbos_mcp.sync.visit import no_progress
from tests.upstream import APP, Asked, Site, below, open_site, problem, workflow


@pytest.fixture
async def two(shop_database: Path, cache_path: Path) -> AsyncIterator[Site]:
    """The shop and an application without workflows."""
    async with open_site(shop_database, cache_path, names=(APP, "bank")) as site:
        yield site


async def look(site: Site, name: str | None = APP) -> dict[str, LookedAt]:
    now = await sync_now(site.worker, name, timeout_seconds=60, progress=no_progress)
    assert now.finished
    return {item.application_name: item for item in now.applications}


async def test_it_reports_what_is_new_of_each_application(two: Site) -> None:
    before = now_ms()
    first = await look(two, None)
    assert set(first) == {APP, "bank"}
    assert first[APP].workflows_seen >= 53
    assert first[APP].events >= 53
    assert (first[APP].as_of or 0) >= before
    while (await look(two, None))[APP].events:  # the steps of older ones come by and by
        pass
    two.tables.add(workflow("new", now_ms(), "ENQUEUED"))
    second = await look(two, None)
    assert (second[APP].events, second["bank"].events) == (1, 0)
    assert two.differences() == {}


async def test_of_one_application_it_asks_about_no_other(two: Site) -> None:
    assert set(await look(two, "bank")) == {"bank"}
    assert not any(f"/{APP}/" in asked.path for asked in two.wire.asked)


async def test_an_application_that_nobody_knows_is_named_with_those_that_are_known(
    two: Site,
) -> None:
    with pytest.raises(NotFoundError, match=r"'shopp' is known here\. Known: bank, shop"):
        await look(two, "shopp")


async def test_it_gets_through_a_pause_after_failures(site: Site) -> None:
    site.wire.fault = below(f"/{APP}/", lambda: problem(503))
    for _ in range(FAILURES_TO_OPEN):
        await site.sync()
    site.wire.fault = lambda _request: None
    assert isinstance((await site.sync()).error, UnavailableError)  # it pauses
    assert (await look(site))[APP].error is None
    assert site.differences() == {}


async def test_it_gets_through_a_pause_of_the_list_of_applications(site: Site) -> None:
    site.wire.fault = lambda _request: problem(503)
    for _ in range(FAILURES_TO_OPEN):
        with pytest.raises(UnavailableError):
            await site.worker.run_once()
    site.wire.fault = lambda _request: None
    with pytest.raises(UnavailableError, match="failing since"):
        await site.worker.run_once()
    await look(site)
    assert site.differences() == {}


async def test_one_that_fails_is_told_with_what_was_mirrored_before(two: Site) -> None:
    as_of = (await look(two, None))[APP].as_of
    two.wire.fault = below(f"/{APP}/", lambda: problem(503))
    two.clock.ahead_ms += 60_000
    found = await look(two, None)
    assert isinstance(found[APP].error, UnavailableError)
    assert found[APP].as_of == as_of
    assert found["bank"].error is None


async def test_refused_credentials_are_an_error(site: Site) -> None:
    site.wire.fault = lambda _request: problem(401)
    with pytest.raises(AuthenticationError):
        await look(site)


async def test_an_application_that_is_no_longer_listed_is_told_as_gone(two: Site) -> None:
    await look(two, None)
    two.wire.fault = below("/apps", lambda: Response(200, json=[]))
    error = (await look(two))[APP].error
    assert isinstance(error, NotFoundError)
    assert "no longer lists shop" in str(error)


async def test_when_the_time_is_over_what_was_read_is_kept_and_told(site: Site) -> None:
    pages = 0

    async def hang(asked: Asked) -> None:
        nonlocal pages
        pages += asked.path.endswith("/search")
        if pages > 2:
            await anyio.sleep_forever()

    site.wire.heard = lambda asked: hang(asked)
    site.worker.page_limit = 10
    now = await sync_now(site.worker, APP, timeout_seconds=1, progress=no_progress)
    assert not now.finished
    (shop,) = now.applications
    assert 0 < shop.workflows_seen < 53
    assert shop.events > shop.workflows_seen / 2
    assert (shop.as_of, shop.error) == (None, None)
    site.wire.heard = lambda _asked: None
    await look(site)
    assert site.differences() == {}


async def test_it_begins_behind_the_cycle_that_runs(site: Site) -> None:
    hangs, go_on = anyio.Event(), anyio.Event()

    async def wait(_asked: Asked) -> None:
        hangs.set()
        await go_on.wait()

    site.wire.heard = wait
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(site.worker.run_once)
        await hangs.wait()
        before = now_ms()
        tasks.start_soon(look, site)
        await anyio.wait_all_tasks_blocked()
        go_on.set()
    assert (site.state().succeeded_at or 0) >= before


# A look, unless the last one is recent enough


def wanted(site: Site, name: str | None = APP, *, age_ms: int = 0) -> Wanted:
    since = site.clock() - age_ms
    return Wanted(name, since, failed_since=since)


async def look_unless(site: Site, wanted: Wanted) -> None:
    await look_unless_met(site.worker, wanted, no_progress)


async def test_nothing_is_asked_while_the_last_look_is_recent_enough(site: Site) -> None:
    await site.sync()
    site.clock.ahead_ms += 60_000
    site.wire.asked.clear()
    for name in (APP, CONDUCTOR, None):
        await look_unless(site, wanted(site, name, age_ms=61_000))
    assert site.wire.asked == []


async def test_of_one_application_what_changed_is_read_and_no_more(two: Site) -> None:
    await look(two, None)
    two.clock.ahead_ms += 3_600_000
    two.tables.add(workflow("new", now_ms(), "ERROR"))
    two.wire.asked.clear()
    await look_unless(two, wanted(two))
    assert "new" in two.mirrored()
    assert (two.state().succeeded_at or 0) >= now_ms() + 3_599_000
    assert len(two.wire.asked) <= 7
    assert two.wire.steps_asked() == []  # of the new failure they are due: in the next cycle
    assert not any("/bank/" in asked.path for asked in two.wire.asked)


async def test_of_the_list_of_applications_only_the_list_is_read(site: Site) -> None:
    await look_unless(site, wanted(site, CONDUCTOR))
    (asked,) = site.wire.asked
    assert asked.path.endswith("/apps")


async def test_the_first_workflow_of_an_application_is_seen(two: Site) -> None:
    two.tables.change("DELETE FROM workflow_status")
    await look(two, None)
    two.clock.ahead_ms += 60_000
    two.tables.add(workflow("first", now_ms()))
    await look_unless(two, wanted(two))
    assert set(two.mirrored()) == {"first"}


async def test_those_who_ask_at_the_same_time_share_a_look(site: Site) -> None:
    await site.sync()
    site.clock.ahead_ms += 60_000
    site.wire.asked.clear()
    asked = wanted(site)
    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(look_unless, site, asked)
    assert [a.path.rsplit("/", 1)[1] for a in site.wire.asked].count("apps") == 1


async def test_a_look_of_another_process_is_waited_for(site: Site, shop_database: Path) -> None:
    async with open_site(shop_database, site.cache.path) as other:
        turn = Leadership(other.cache.path, "asked")
        assert turn.take()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look_unless, site, wanted(site))
            await anyio.wait_all_tasks_blocked()
            await other.sync()  # and still holds its turn
        turn.release()
    assert site.wire.asked == []


async def test_a_look_that_has_just_failed_is_not_repeated(site: Site) -> None:
    await site.sync()
    site.clock.ahead_ms += 60_000
    site.wire.fault = below(f"/{APP}/", lambda: problem(503, "no executor"))
    asked = wanted(site)
    await look_unless(site, asked)
    site.wire.asked.clear()
    await look_unless(site, asked)
    assert site.wire.asked == []
    with site.cache.read() as connection:
        assert "no executor" in (asked.reason(connection) or "")


async def test_one_thing_is_read_once_for_all_who_ask_for_it_meanwhile() -> None:
    now, reads = [1000], 0
    go_on = anyio.Event()
    readings = Readings(lambda: now[0])

    async def read() -> None:
        nonlocal reads
        reads += 1
        await go_on.wait()

    began: list[int] = []

    async def ask(since: int) -> None:
        began.append(await readings.read("order", since, read))

    async with anyio.create_task_group() as tasks:
        for since in (900, 1000, 1001):  # the last one asks after it began
            tasks.start_soon(ask, since)
        await anyio.wait_all_tasks_blocked()
        assert reads == 1
        now[0] = 1002
        go_on.set()
    assert (reads, began) == (2, [1000, 1000, 1002])
    assert await readings.read("order", 1002, read) == 1002
    assert reads == 2


async def test_a_reading_that_failed_is_tried_again_by_the_next_who_asks() -> None:
    readings = Readings(now_ms)

    async def fail() -> None:
        raise UnavailableError("away")

    async def succeed() -> None:
        pass

    with pytest.raises(UnavailableError):
        await readings.read("order", 0, fail)
    assert await readings.read("order", 0, succeed)
