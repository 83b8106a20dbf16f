"""The long runs, a moment of each: they find what is planted, and nothing else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest

from benchmarks.reliability import commands_once, contention, leaders, wal_reset
from benchmarks.reliability.faulty_proxy import HOST, Fault, FaultyProxy
from benchmarks.reliability.settled import come_to_rest, differences, faults_of
from dbos_mcp.domain import now_ms
from tests.upstream import APP, Site, workflow

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_checkpoints_by_our_rule_leave_a_sound_file(tmp_path: Path) -> None:
    done = wal_reset.run_round(tmp_path, 0.5)
    assert done.faults == []
    assert done.times("write") > 0
    assert done.times("checkpoint") > 0
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_with_a_file_is_found(cache_path: Path) -> None:
    wal_reset.write(wal_reset.Task(cache_path, seconds=0.05, pause_seconds=0))
    (wrong,) = wal_reset.look_through(cache_path, 10**6)
    assert wrong.endswith("events of 1,000,000 that were acknowledged")


def test_a_leader_that_is_killed_is_followed_by_one_other() -> None:
    with leaders.new_cache() as cache:
        seen = leaders.kill_leaders(cache, 2)
    assert len(seen.takeovers) == 2
    assert seen.overlaps == 0


def test_two_that_lead_at_once_are_noticed() -> None:
    with leaders.new_cache() as cache:
        assert leaders.kill_leaders(cache, 1, without_lock=True).overlaps > 0


def test_sessions_read_and_write_while_another_process_syncs(tmp_path: Path) -> None:
    seen = contention.run(tmp_path, 1.0, sessions=2, workflows=500)
    assert seen.faults == []
    assert len(seen.sessions) == 2
    assert all(did.reads for did in seen.sessions)
    assert seen.syncing.writes
    assert 0 < seen.syncing.wal_peak_bytes < contention.WAL_BYTES


async def test_a_mirror_at_rest_is_what_upstream_is_and_what_differs_is_found(site: Site) -> None:
    await come_to_rest(site.cache, site.client)
    assert [each async for each in differences(site.cache, site.client, APP)] == []
    assert faults_of(site.cache) == {}

    site.tables.add(workflow("new", now_ms()))
    site.tables.update("order-1001", priority=7)
    site.tables.change("DELETE FROM operation_outputs WHERE workflow_uuid = 'order-1002'")
    found = {
        (each.workflow_id, each.what) async for each in differences(site.cache, site.client, APP)
    }
    assert found == {("new", "presence"), ("order-1001", "priority"), ("order-1002", "steps")}


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[FaultyProxy, httpx.AsyncClient]]:
    """A server that answers every line with a body of a hundred bytes, behind the proxy."""

    async def answer(client: anyio.abc.SocketStream) -> None:
        async with client:
            await client.receive()
            await client.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 100)

    async with (
        await anyio.create_tcp_listener(local_host=HOST) as server,
        anyio.create_task_group() as tasks,
        httpx.AsyncClient() as client,
    ):
        proxy = FaultyProxy(server.extra(anyio.abc.SocketAttribute.local_port))
        tasks.start_soon(server.serve, answer)
        await tasks.start(proxy.serve)
        yield proxy, client
        tasks.cancel_scope.cancel()


async def test_the_proxy_fails_as_it_is_told_and_recovers() -> None:
    async with proxied() as (proxy, client):
        assert len((await client.get(proxy.url)).content) == 100
        for fault, error in (
            (Fault.REFUSED, httpx.ConnectError),
            (Fault.RESET, httpx.ReadError),
            (Fault.HALF, httpx.RemoteProtocolError),
        ):
            await proxy.set(fault)
            with pytest.raises(error):
                await client.get(proxy.url)
        for fault in (Fault.BUSY, Fault.UNAVAILABLE):
            await proxy.set(fault)
            assert (await client.post(proxy.url, content=b"order")).status_code == fault.status
        await proxy.set(Fault.NONE)
        assert (await client.get(proxy.url)).status_code == 200


async def test_commands_through_a_way_that_fails_are_done_once_and_told_as_they_are() -> None:
    seen = await commands_once.run(30)
    assert seen.outcomes.keys() == {"unknown", "failed"}
    assert (seen.more_than_once, seen.told_wrongly, seen.not_resolved) == (0, [], [])


async def test_commands_that_are_done_more_than_once_are_noticed() -> None:
    assert (await commands_once.run(10, tries=4)).more_than_once > 0
