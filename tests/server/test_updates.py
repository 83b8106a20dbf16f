"""Clients that watch a resource hear of each change of it, and of nothing else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from mcp import Client, MCPError
from mcp.client.subscriptions import ResourceUpdated
from mcp.server.mcpserver import MCPServer
from mcp_types import ResourceUpdatedNotification

from dbos_mcp.domain import now_ms
from dbos_mcp.server import addresses
from dbos_mcp.server.addresses import FAILURES, SCHEMA, SYNC_STATUS, WORKFLOW
from dbos_mcp.server.app import build_server
from dbos_mcp.server.updates import Updates
from dbos_mcp.settings import Settings
from dbos_mcp.store import projector
from tests.server.conftest import Place, asking, mirrored
from tests.store.conftest import opened
from tests.store.factories import BORN, changed
from tests.upstream import APP


def job(number: int) -> str:
    return addresses.uri_of(WORKFLOW, application_name=APP, workflow_id=f"job-{number:03}")


OTHER, ONE = job(1), job(2)
OF_FAILURES = addresses.uri_of(FAILURES, application_name=APP)


def updates_of(server: MCPServer) -> Updates:
    (updates,) = (
        owner
        for middleware in server.middleware
        if isinstance(owner := getattr(middleware, "__self__", None), Updates)
    )
    return updates


@dataclass
class Watcher:
    """A client, and the URIs that it was told of, in order."""

    client: Client
    heard: list[str] = field(default_factory=list)
    _news: anyio.Event = field(default_factory=anyio.Event)

    async def __call__(self, message: object) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            self.hear(str(message.params.uri))

    def hear(self, uri: str) -> None:
        self.heard.append(uri)
        self._news.set()

    async def until(self, uri: str, times: int = 1) -> None:
        with anyio.fail_after(30):
            while self.heard.count(uri) < times:
                self._news = anyio.Event()
                await self._news.wait()

    async def look(self) -> None:
        await asking(self.client)("sync_now")


@asynccontextmanager
async def watching(server: MCPServer, era: str, *uris: str) -> AsyncIterator[Watcher]:
    watcher = Watcher(None)  # type: ignore[arg-type] # the client wants its listener first
    # In the newer era the client hands it what the stream brings, too.
    handler = watcher if era == "legacy" else None
    async with Client(server, mode=era, message_handler=handler) as client:
        watcher.client = client
        await mirrored(asking(client))
        if era == "legacy":
            for uri in uris:
                await client.subscribe_resource(uri)
            yield watcher
            return
        async with (
            client.listen(resource_subscriptions=uris) as stream,
            anyio.create_task_group() as tasks,
        ):

            async def listen() -> None:
                async for event in stream:
                    assert isinstance(event, ResourceUpdated)
                    watcher.hear(event.uri)

            tasks.start_soon(listen)
            yield watcher
            tasks.cancel_scope.cancel()


pytestmark = pytest.mark.filterwarnings("ignore:resources/.*subscribe is removed")


async def test_a_client_hears_of_the_workflow_that_changed_and_of_no_other(
    place: Place, era: str
) -> None:
    server = build_server(place.settings, transport=place.wire)
    async with watching(server, era, OTHER, ONE, SCHEMA) as watcher:
        place.tables.end("job-002", now_ms())
        await watcher.look()
        await watcher.until(ONE)
        shown = await asking(watcher.client)(
            "get_workflow", application_name=APP, workflow_id="job-002"
        )
        await updates_of(server).tell()
    assert "SUCCESS" in shown.splitlines()[0]
    assert set(watcher.heard) == {ONE}


async def test_many_changes_between_two_comparisons_are_told_once(
    place: Place, tmp_path: Path, era: str
) -> None:
    """No scheduler looks here: another process writes into the cache."""
    began = now_ms() - 60_000
    async with place.asking() as ask:
        await mirrored(ask)
    path = place.settings.cache_path("local")
    server = build_server(Settings(home=tmp_path, cache=path, offline=True))
    updates = updates_of(server)
    async with watching(server, era, SYNC_STATUS, OTHER, OF_FAILURES, ONE) as watcher:
        with opened(path) as cache:
            for told in (1, 2):
                with cache.write() as connection:
                    ends = [
                        changed(f"job-{number:03}", status="ERROR", updated_at=began + told)
                        for number in range(2, 9)
                    ]
                    projector.record(connection, ends, recorded_at=BORN)
                await updates.tell()
                await updates.tell()
                await watcher.until(ONE, told)
                assert sorted(watcher.heard) == sorted([SYNC_STATUS, OF_FAILURES, ONE] * told)


async def test_a_command_of_ours_is_a_change_too(place: Place, era: str) -> None:
    server = build_server(place.settings, transport=place.wire)
    async with watching(server, era, ONE) as watcher:
        await asking(watcher.client)("cancel_workflow", application_name=APP, workflow_id="job-002")
        await updates_of(server).tell()
        await watcher.until(ONE)
    assert set(watcher.heard) == {ONE}


async def test_who_has_gone_is_forgotten(place: Place, era: str) -> None:
    server = build_server(place.settings, transport=place.wire)
    updates = updates_of(server)
    async with watching(server, era, ONE, OTHER):
        assert updates.watched == {ONE, OTHER}
    assert updates.watched == set()
    assert not updates._clients


async def test_a_stream_that_ends_is_forgotten_while_its_client_stays(place: Place) -> None:
    server = build_server(place.settings, transport=place.wire)
    updates = updates_of(server)
    async with Client(server) as client:
        async with (
            client.listen(resource_subscriptions=[ONE]),
            client.listen(resource_subscriptions=[ONE, OTHER, "dbos://no/such"]),
        ):
            assert updates.watched == {ONE, OTHER}
        with anyio.fail_after(30):
            while updates.watched:
                await anyio.lowlevel.checkpoint()
        await client.list_tools()


async def test_in_the_older_era_a_client_may_stop_watching(place: Place) -> None:
    server = build_server(place.settings, transport=place.wire)
    updates = updates_of(server)
    async with Client(server, mode="legacy") as client:
        for _ in range(3):
            await client.subscribe_resource(ONE)
            await client.subscribe_resource(ONE)
            await client.unsubscribe_resource(ONE)
            assert updates.watched == set()
        await client.unsubscribe_resource(OTHER)
        with pytest.raises(MCPError, match="no resource dbos://no/such to watch"):
            await client.subscribe_resource("dbos://no/such")


async def test_the_capability_is_announced(place: Place, era: str) -> None:
    async with Client(build_server(place.settings, transport=place.wire), mode=era) as client:
        assert client.server_capabilities is not None
        resources = client.server_capabilities.resources
    assert resources is not None
    assert resources.subscribe
