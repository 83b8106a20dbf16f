"""An MCP server over a shop's database, asked by a real client in either protocol era."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest
from mcp import Client
from mcp_types import TextContent

from dbos_mcp.server.app import build_server
from dbos_mcp.settings import Settings

Ask = Callable[..., Awaitable[str]]
Serve = Callable[..., AbstractAsyncContextManager[Ask]]


class ToolFailedError(Exception):
    """The tool's answer was an error; this is its text."""


def asking(client: Client) -> Ask:
    async def ask(tool: str, /, **arguments: object) -> str:
        result = await client.call_tool(tool, arguments)
        assert result.structured_content is None
        (content,) = result.content
        assert isinstance(content, TextContent)
        if result.is_error:
            raise ToolFailedError(content.text)
        return content.text

    return ask


@pytest.fixture(params=["auto", "legacy"])
def era(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def serve() -> Serve:
    """`async with serve(settings, transport=…, era=…) as ask: await ask("tool", argument=…)`."""

    @asynccontextmanager
    async def serving(
        settings: Settings,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        era: str = "auto",
    ) -> AsyncIterator[Ask]:
        async with Client(build_server(settings, transport=transport), mode=era) as client:
            yield asking(client)

    return serving


@pytest.fixture
def shop_settings(shop_database: Path, tmp_path: Path) -> Settings:
    """The database of a shop that was killed, in front of it a local Conductor."""
    return Settings.from_env(
        {"HOME": str(tmp_path), "DBOS_SYSTEM_DATABASE_URL": f"sqlite:///{shop_database}"}
    )


@pytest.fixture
async def ask(shop_settings: Settings, serve: Serve, era: str) -> AsyncIterator[Ask]:
    """Asks a server over that shop, once in each era."""
    async with serve(shop_settings, era=era) as ask:
        await mirrored(ask)
        yield ask


async def mirrored(ask: Ask) -> None:
    """Until the first load has come to its end; answers before that show what is there."""
    with anyio.fail_after(30):
        while "loading" in await ask("list_applications"):
            await anyio.lowlevel.checkpoint()
