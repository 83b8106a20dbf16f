"""How old, how complete and how live an answer is said to be."""

from pathlib import Path

import httpx
import pytest

from dbos_mcp.domain import CONDUCTOR, format_time
from dbos_mcp.errors import AuthenticationError, NotFoundError, UnavailableError
from dbos_mcp.queries.applications import list_applications, list_executors, require_application
from dbos_mcp.queries.freshness import (
    Freshness,
    freshness,
    freshness_of_all,
    looked_at_applications,
    looked_at_conductor,
)
from dbos_mcp.settings import DAY_MS
from dbos_mcp.store import projector, sync_state
from dbos_mcp.store.events import ApplicationObserved
from dbos_mcp.sync.worker import EXECUTORS_EVERY_MS
from tests.store.conftest import opened
from tests.store.factories import BORN
from tests.upstream import APP, Site, below, open_site, problem


def fresh(site: Site, application_name: str = APP) -> Freshness:
    with site.cache.read() as connection:
        return freshness(connection, application_name)


def looked(site: Site) -> tuple[bool, bool]:
    with site.cache.read() as connection:
        return looked_at_conductor(connection), looked_at_applications(connection)


async def test_nobody_has_looked_yet(site: Site) -> None:
    assert fresh(site) == Freshness(None, None, False, None, None)
    assert looked(site) == (False, True)
    with site.cache.read() as connection, pytest.raises(NotFoundError) as caught:
        require_application(connection, APP)
    assert "Known: none" in str(caught.value)


async def test_it_is_loading(shop_database: Path, cache_path: Path) -> None:
    async with open_site(shop_database, cache_path, page_limit=5) as site:
        site.wire.fault = lambda request: (
            problem(502) if len([a for a in site.wire.asked if "endTime" in a.body]) > 1 else None
        )
        await site.sync()
        state = fresh(site)
        assert state.as_of is None
        assert not state.history_complete
        assert state.covered_since is not None
        assert state.covered_since > min(row["created_at"] for row in site.mirrored().values())
        assert looked(site) == (True, True)


async def test_it_is_complete(site: Site) -> None:
    site.clock.ahead_ms = 5_000
    before = site.clock()
    await site.sync()
    state = fresh(site)
    assert state.as_of is not None
    assert before <= state.as_of <= site.clock()
    assert state.covered_since is not None
    assert abs(state.covered_since - (before - 30 * DAY_MS)) < 60_000
    assert (state.history_complete, state.offline_since, state.reason) == (True, None, None)
    assert fresh(site, CONDUCTOR).as_of is not None
    assert looked(site) == (True, True)


async def test_everything_is_covered_when_all_was_asked_for(
    shop_database: Path, cache_path: Path
) -> None:
    async with open_site(shop_database, cache_path, history_ms=None) as site:
        await site.sync()
        assert fresh(site).covered_since == 0


async def test_an_application_is_offline(site: Site) -> None:
    await site.sync()
    complete = fresh(site)
    site.wire.fault = below("/apps/shop/", lambda: problem(503, "no executor"))
    await site.sync()
    state = fresh(site)
    assert state.offline_since is not None
    assert "no executor" in (state.reason or "")
    assert (state.as_of, state.covered_since) == (complete.as_of, complete.covered_since)
    assert fresh(site, CONDUCTOR).offline_since is None
    with site.cache.read() as connection:
        (item,) = list_applications(connection)
    assert (item.as_of, item.offline_since) == (complete.as_of, state.offline_since)


async def test_conductor_was_never_reached(site: Site) -> None:
    site.wire.fault = lambda _request: httpx.ConnectError("refused")
    with pytest.raises(UnavailableError):
        await site.sync()
    assert fresh(site, CONDUCTOR).offline_since is not None
    assert looked(site) == (True, True)
    with site.cache.read() as connection:
        for ask in (lambda: require_application(connection, APP),
                    lambda: list_applications(connection)):  # fmt: skip
            with pytest.raises(NotFoundError) as caught:
                ask()
            assert "refused" in str(caught.value)


async def test_somebody_has_to_log_in(site: Site) -> None:
    await site.sync()
    site.wire.fault = lambda _request: problem(401)
    with pytest.raises(AuthenticationError):
        await site.sync()
    for name in (APP, CONDUCTOR):
        assert fresh(site, name).offline_since is None
        assert "login" in (fresh(site, name).reason or "")


async def test_applications_are_counted(site: Site) -> None:
    await site.sync()
    with site.cache.read() as connection:
        (item,) = list_applications(connection)
        assert list_executors(connection, APP) == []
    statuses = [row["status"] for row in site.mirrored().values()]
    assert item.workflows == len(statuses)
    assert item.failed == statuses.count("ERROR") == 6
    assert item.in_flight == 5


async def test_executors_that_are_gone_come_last(site: Site) -> None:
    def executor(name: str, second: int) -> dict[str, object]:
        moment = f"2026-11-21T06:30:{second:02}Z"
        return {
            "executorId": name, "appVersion": "", "status": "HEALTHY",
            "createdAt": moment, "updatedAt": moment,
        }  # fmt: skip

    listed = [executor("a", 1), executor("b", 3), executor("c", 2)]
    site.wire.fault = below("/executors", lambda: httpx.Response(200, json=listed))
    await site.sync()
    del listed[1]
    site.clock.ahead_ms += EXECUTORS_EVERY_MS
    await site.sync()
    with site.cache.read() as connection:
        items = list_executors(connection, APP)
    assert [(item.executor_id, item.status) for item in items] == [
        ("c", "HEALTHY"),
        ("a", "HEALTHY"),
        ("b", "REMOVED"),
    ]


def test_what_conductor_is_itself_is_not_told_of_each_application(cache_path: Path) -> None:
    with opened(cache_path) as cache, cache.write() as connection:
        seen = [
            ApplicationObserved(application_name=name, application_id=name, status="AVAILABLE")
            for name in ("bank", "shop")
        ]
        projector.record(connection, seen, recorded_at=BORN)
        for name in (CONDUCTOR, "bank", "shop"):
            sync_state.update(
                connection,
                name,
                {"succeeded_at": BORN, "offline_since": BORN + 10, "last_error": "away"},
            )
        sync_state.update(connection, "bank", {"offline_since": BORN + 5})
        told = freshness_of_all(connection)
        assert told.behind == (f"bank is offline since {format_time(BORN + 5)}",)
        assert (told.as_of, told.offline_since) == (BORN, BORN + 10)
        sync_state.update(connection, CONDUCTOR, {"offline_since": None, "last_error": None})
        assert len(freshness_of_all(connection).behind) == 2
