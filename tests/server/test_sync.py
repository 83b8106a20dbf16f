"""How syncing goes, and a look now, as an agent asks for them."""

import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import anyio
import httpx
import pytest
from httpx import Response
from mcp import Client
from mcp_types import TextResourceContents

from dbos_mcp.domain import now_ms
from dbos_mcp.server.addresses import SYNC_STATUS
from dbos_mcp.server.app import build_server
from dbos_mcp.settings import Settings
from tests.answers import rows
from tests.server.conftest import Ask, Serve, ToolFailedError, asking, mirrored
from tests.upstream import Tables, workflow


@asynccontextmanager
async def client_of(settings: Settings, era: str) -> AsyncIterator[Client]:
    async with Client(build_server(settings), mode=era) as client:
        await mirrored(asking(client))
        yield client


def cache_of(settings: Settings) -> Path:
    (cache,) = settings.folder.glob("*.sqlite")
    return cache


def attention(cache: Path) -> dict[str, int]:
    with closing(sqlite3.connect(f"file:{cache}?mode=ro", uri=True)) as database:
        return dict(database.execute("SELECT application_name, asked_at FROM attention"))


async def until(ask: Ask, text: str, tool: str = "sync_status") -> str:
    """The tool's answer, once it holds the text."""
    with anyio.fail_after(30):
        while text not in (answer := await ask(tool)):
            await anyio.lowlevel.checkpoint()
    return answer


async def test_the_status_tells_how_each_application_is_mirrored(ask: Ask) -> None:
    answer = await until(ask, " | in ")
    assert answer.splitlines()[0] == "1 application, synced by this process"
    (shop,) = rows(answer)
    assert (shop["application_name"], shop["state"]) == ("shop", "live")
    assert re.fullmatch(r"20\d\d-\S+Z", shop["complete_since"])
    assert int(shop["requests"]) > 0
    assert float(shop["kb"]) > 0
    assert 0 <= int(shop["steps_pending"]) <= 53
    assert "last_error" not in shop
    assert re.search(r"\nCache: /.*\.sqlite, \d+ events, \d+\.\d MB\.\n", answer)
    assert answer.endswith("live.")


async def test_the_status_of_one_application_and_of_one_that_nobody_knows(ask: Ask) -> None:
    answer = await ask("sync_status", application_name="shop")
    assert rows(answer)[0]["application_name"] == "shop"
    assert "complete for workflows created since" in answer.splitlines()[-1]
    with pytest.raises(ToolFailedError, match="Known: shop"):
        await ask("sync_status", application_name="shopp")


async def test_the_status_is_a_resource_too(shop_settings: Settings, era: str) -> None:
    async with client_of(shop_settings, era) as client:
        resource, *_ = (await client.list_resources()).resources
        assert (str(resource.uri), resource.mime_type) == (SYNC_STATUS, "text/plain")
        (content,) = (await client.read_resource(SYNC_STATUS)).contents
    assert isinstance(content, TextResourceContents)
    assert content.text.startswith("1 application, synced by this process\napplication_name | ")


async def test_another_server_on_the_cache_says_that_it_does_not_sync(
    shop_settings: Settings, serve: Serve
) -> None:
    async with serve(shop_settings) as first:
        await until(first, "synced by this process")
        async with serve(shop_settings) as second:
            assert "synced by another process" in await second("sync_status")
            offline = shop_settings.model_copy(update={"offline": True})
            async with serve(offline) as third:
                assert "synced by another process" in await third("sync_status")
    async with serve(offline) as third:
        assert "synced by no process" in await third("sync_status")


async def test_a_look_now_sees_what_has_just_changed_and_tells_how_far_it_is(
    shop_settings: Settings, shop_database: Path, era: str
) -> None:
    told: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        assert message
        assert total is None
        told.append(progress)

    async with client_of(shop_settings, era) as client:
        Tables(shop_database).add(workflow("brand-new", now_ms(), "ERROR"))
        result = await client.call_tool("sync_now", {}, progress_callback=note)
        answer = getattr(result.content[0], "text", "")
        listed = await asking(client)(
            "list_workflows", application_name="shop", workflow_id="brand-new"
        )
    assert answer.startswith("Looked at 1 application now\napplication_name | workflows_seen")
    assert rows(answer)[0]["application_name"] == "shop"
    assert answer.endswith("live.")
    assert listed.startswith("1 of 1 ")
    assert told[0] == 0
    assert len(told) > 1
    assert told == sorted(set(told))


async def test_a_look_at_an_application_that_nobody_knows_is_an_error(ask: Ask) -> None:
    with pytest.raises(ToolFailedError, match="Known: shop"):
        await ask("sync_now", application_name="shopp")


async def test_offline_there_is_a_status_but_no_look(
    shop_settings: Settings, serve: Serve, era: str
) -> None:
    async with serve(shop_settings, era=era) as ask:
        await mirrored(ask)
    cache = cache_of(shop_settings)
    before = attention(cache)
    offline = Settings(home=shop_settings.home, offline=True, cache=cache)
    async with serve(offline, era=era) as ask:
        assert "1 application, synced by no process" in await ask("sync_status")
        with pytest.raises(ToolFailedError, match="offline"):
            await ask("sync_now")
        await ask("list_applications")
    assert attention(cache) == before


async def test_what_is_asked_about_is_noted_for_the_process_that_syncs(
    shop_settings: Settings, serve: Serve, era: str
) -> None:
    async with serve(shop_settings, era=era) as ask:
        await mirrored(ask)
        await ask("list_executors", application_name="shop")
        with anyio.fail_after(30):
            while "shop" not in attention(cache_of(shop_settings)):
                await anyio.lowlevel.checkpoint()


class Gate:
    """A Conductor of one application that refuses, hangs or answers, as it is told to."""

    def __init__(self) -> None:
        self.status = 200
        self.hangs = False

    async def __call__(self, request: httpx.Request) -> Response:
        if self.status != 200:
            return Response(
                self.status, json={}, headers={"content-type": "application/problem+json"}
            )
        if request.url.path.endswith("/apps"):
            return Response(200, json=[{"id": "1", "name": "shop", "status": "AVAILABLE"}])
        if self.hangs:
            await anyio.sleep_forever()
        return Response(200, json=[])


@pytest.fixture
async def gate() -> Gate:
    return Gate()


@pytest.fixture
async def gated(gate: Gate, serve: Serve, tmp_path: Path, era: str) -> AsyncIterator[Ask]:
    settings = Settings(home=tmp_path, url="http://conductor.test")
    async with serve(settings, transport=httpx.MockTransport(gate), era=era) as ask:
        yield ask


async def test_refused_credentials_are_said_and_a_look_now_tries_them_again(
    gate: Gate, gated: Ask
) -> None:
    gate.status = 401
    answer = await until(gated, "Call login")
    assert "synced by no process" in await until(gated, "no process")
    with pytest.raises(ToolFailedError, match="does not accept the credentials"):
        await gated("sync_now")
    gate.status = 200
    assert "Call login" in await gated("sync_status")  # nothing is sent by itself
    assert rows(await gated("sync_now"))[0]["application_name"] == "shop"
    answer = await until(gated, "synced by this process")
    assert rows(answer)[0]["state"] == "live"
    assert "login" not in answer


async def test_a_look_that_takes_too_long_says_so_and_what_goes_on(gate: Gate, gated: Ask) -> None:
    await until(gated, "live", "sync_status")
    gate.hangs = True
    answer = await gated("sync_now", application_name="shop", timeout_seconds=1)
    assert answer.startswith("Not finished within 1 s; what was read is kept. It goes on")
    assert rows(answer)[0]["workflows_seen"] == "0"
    gate.hangs = False


async def test_a_look_at_one_application_that_fails_is_an_error(gate: Gate, gated: Ask) -> None:
    await until(gated, "live", "sync_status")
    gate.status = 503
    with pytest.raises(ToolFailedError, match="503"):
        await gated("sync_now", application_name="shop")


@pytest.mark.parametrize("seconds", [0, 121])
async def test_a_look_waits_from_a_second_to_two_minutes(ask: Ask, seconds: int) -> None:
    with pytest.raises(ToolFailedError, match="timeout_seconds"):
        await ask("sync_now", timeout_seconds=seconds)
