"""The first load: page by page from the newest back, indexes afterwards."""

from collections.abc import Iterable
from pathlib import Path

from dbos_mcp.domain import now_ms
from dbos_mcp.store import indexes, projector
from dbos_mcp.store.projections import workflow_counts
from dbos_mcp.sync.history import LARGER_PAGES
from tests.upstream import APP, Asked, Site, open_site, problem, workflow


def names(listed: Iterable[object]) -> set[str]:
    return {str(getattr(index, "name", index)) for index in listed}


DEFERRED = {*names(indexes.DEFERRED), "workflow_count"}


def missing(site: Site) -> set[str]:
    with site.cache.read() as connection:
        counts = set() if workflow_counts.are_kept(connection) else {"workflow_count"}
        return names(indexes.missing(connection)) | counts


def are_right(site: Site) -> bool:
    """Whether a rebuild makes the same of the log, the counts of workflows included."""
    with site.cache.write() as connection:
        return all(table.equal for table in projector.rebuild(connection))


def pages(site: Site) -> list[Asked]:
    return [asked for asked in site.wire.asked if asked.body.get("sortDesc")]


async def test_pages_grow_after_the_first(empty_database: Path, cache_path: Path) -> None:
    async with open_site(empty_database, cache_path, page_limit=5) as site:
        site.tables.add(*(workflow(f"w-{n}", now_ms() - n) for n in range(70)))
        await site.sync()
        limits = [asked.body["limit"] for asked in pages(site)]
        assert limits[:4] == [5, 10, 20, 20]
        assert max(limits) == LARGER_PAGES * 5
        assert site.differences() == {}


async def test_a_large_load_goes_without_indexes_and_ends_with_all(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(empty_database, cache_path, page_limit=10) as site:
        site.tables.add(*(workflow(f"w-{n}", now_ms() - n) for n in range(100)))
        without: list[set[str]] = []
        site.wire.heard = lambda asked: without.append(missing(site))
        await site.sync()
        assert without[0] == set()
        assert DEFERRED in without
        assert missing(site) == set()
        assert site.differences() == {}
        assert are_right(site)


async def test_indexes_of_a_load_that_broke_off_are_built_by_the_next_cycle(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(empty_database, cache_path, page_limit=10) as site:
        site.tables.add(*(workflow(f"w-{n}", now_ms() - n) for n in range(100)))
        site.wire.fault = lambda _request: problem(502) if len(pages(site)) > 3 else None
        assert (await site.sync()).error is not None
        assert missing(site) == DEFERRED
        site.wire.fault = lambda _request: None
        await site.sync()
        assert missing(site) == set()
        assert site.differences() == {}
        assert are_right(site)


async def test_a_rebuild_in_the_midst_of_a_load_finds_nothing_different(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(empty_database, cache_path, page_limit=10) as site:
        site.tables.add(*(workflow(f"w-{n}", now_ms() - n) for n in range(100)))
        site.wire.fault = lambda _request: problem(502) if len(pages(site)) > 3 else None
        await site.sync()
        assert "workflow_count" in missing(site)
        assert are_right(site)
        assert "workflow_count" not in missing(site)


async def test_a_cache_that_holds_much_keeps_its_indexes(
    empty_database: Path, cache_path: Path
) -> None:
    now = now_ms()
    async with open_site(empty_database, cache_path, names=[APP], page_limit=10) as site:
        site.tables.add(*(workflow(f"w-{n}", now - n) for n in range(100)))
        await site.sync()
    async with open_site(empty_database, cache_path, names=[APP, "new"], page_limit=10) as site:
        site.tables.add(*(workflow(f"n-{n}", now - n, application_name="new") for n in range(50)))
        without: list[set[str]] = []
        site.wire.heard = lambda asked: without.append(missing(site))
        await site.sync()
        assert set().union(*without) == set()
        assert len(site.mirrored()) == 150


async def test_a_rebuild_leaves_all_indexes_behind(site: Site) -> None:
    await site.sync()
    assert are_right(site)
    assert missing(site) == set()
