"""Our clock is set forward or back, by a day: sync goes on, and nothing is lost or absurd."""

import re

import pytest

from dbos_mcp.domain import now_ms
from dbos_mcp.queries.freshness import freshness
from dbos_mcp.server.freshness import freshness_line
from dbos_mcp.settings import DAY_MS
from dbos_mcp.store import event_log
from dbos_mcp.sync.now import Readings, Wanted
from tests.upstream import APP, Site, workflow


def line(site: Site) -> str:
    with site.cache.read() as connection:
        return freshness_line(freshness(connection, APP), now=site.clock())


@pytest.mark.parametrize("jump_ms", [DAY_MS, -DAY_MS], ids=["forward", "back"])
async def test_what_happens_behind_a_jump_of_the_clock_is_mirrored(
    site: Site, jump_ms: int
) -> None:
    await site.sync_until_steps_are_read()
    for number, ahead_ms in enumerate((jump_ms, 0)):  # and set right again
        site.clock.ahead_ms = ahead_ms
        site.tables.add(
            workflow(f"waits-{number}", now_ms(), "ENQUEUED"),
            workflow(f"runs-{number}", now_ms(), "PENDING"),
        )
        await site.sync()
        assert site.differences() == {}
        site.tables.end(f"runs-{number}", now_ms())
        await site.sync_until_steps_are_read()
        assert site.differences() == {}
        assert re.search(r"\(\d+(\.\d+)?m?s ago\)", line(site))
        assert line(site).endswith("; live.")


async def test_as_of_a_moment_to_come_is_told_as_of_now(site: Site) -> None:
    await site.sync()
    site.clock.ahead_ms = -DAY_MS
    assert "(0ms ago)" in line(site)


async def test_a_look_of_a_day_to_come_is_not_as_fresh_as_was_asked_for(site: Site) -> None:
    site.clock.ahead_ms = DAY_MS
    await site.sync()
    now = now_ms()
    with site.cache.read() as connection:
        assert Wanted(APP, now - 60_000, now, asked_at=now).unseen(connection)
    site.clock.ahead_ms = 0
    await site.sync()
    with site.cache.read() as connection:
        assert not Wanted(APP, now - 60_000, now, asked_at=now).unseen(connection)


async def test_a_reading_of_a_day_to_come_is_not_shared() -> None:
    now, read = 10 * DAY_MS, 0

    async def count() -> None:
        nonlocal read
        read += 1

    readings = Readings(lambda: now)
    await readings.read("order-1", 0, count)
    await readings.read("order-1", 0, count)
    assert read == 1
    now -= DAY_MS
    await readings.read("order-1", now - 60_000, count)
    assert read == 2


async def test_changes_since_a_time_hold_all_that_was_recorded_since_the_clock_was_set(
    site: Site,
) -> None:
    """Positions are found by halving times that are in order only behind the last jump."""
    await site.sync()
    for jump_ms in (2 * DAY_MS, -DAY_MS, 0):
        site.clock.ahead_ms = jump_ms
        with site.cache.read() as connection:
            end = event_log.last_position(connection)
        since = site.clock()
        for number in range(3):
            site.tables.add(workflow(f"new-{jump_ms}-{number}", now_ms(), "ENQUEUED"))
            await site.sync()
        with site.cache.read() as connection:
            assert event_log.last_position(connection) > end
            assert event_log.position_before(connection, since) <= end
