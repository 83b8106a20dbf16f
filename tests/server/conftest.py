"""An MCP server over a shop's database, asked by a real client in either protocol era."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import httpx
import pytest
from mcp import Client
from mcp.client.context import ClientRequestContext
from mcp_types import ElicitRequestFormParams, ElicitRequestParams, ElicitResult, TextContent

from dbos_mcp.domain import now_ms
from dbos_mcp.local_conductor.app import create_app
from dbos_mcp.local_conductor.system_database import SystemDatabase
from dbos_mcp.server.app import build_server
from dbos_mcp.settings import Settings
from tests.upstream import APP, Tables, Wire, workflow

JOBS = [f"job-{n:03}" for n in range(30)]

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
        while re.search("loading|not finished", await ask("list_applications")):
            await anyio.lowlevel.checkpoint()


@dataclass
class User:
    """Answers the client's dialogs."""

    action: str = "accept"
    content: Mapping[str, object] | None = field(default_factory=lambda: {"agree": True})
    shown: list[str] = field(default_factory=list)

    async def __call__(
        self, context: ClientRequestContext, params: ElicitRequestParams
    ) -> ElicitResult:
        assert isinstance(params, ElicitRequestFormParams)
        self.shown.append(params.message)
        return ElicitResult.model_validate({"action": self.action, "content": self.content})


@dataclass
class Place:
    """A shop with thirty jobs in a queue, and the way to its Conductor."""

    settings: Settings
    wire: Wire
    tables: Tables

    @asynccontextmanager
    async def asking(self, era: str = "auto", user: User | None = None) -> AsyncIterator[Ask]:
        server = build_server(self.settings, transport=self.wire)
        async with Client(server, mode=era, elicitation_callback=user) as client:
            yield asking(client)

    def sent(self) -> list[str]:
        """The ids of the workflows that a command was sent to, in order."""
        commands = ("cancel", "resume", "fork")
        return [
            asked.path.split("/")[-1 if asked.method == "DELETE" else -2]
            for asked in self.wire.asked
            if asked.method == "DELETE" or asked.path.endswith(commands)
        ]

    def statuses(self, ids: Sequence[str]) -> dict[str, int]:
        marks = ", ".join("?" * len(ids))
        return dict(
            self.tables.rows(
                "SELECT status, count(*) FROM workflow_status"
                f" WHERE workflow_uuid IN ({marks}) GROUP BY status",
                *ids,
            )
        )


@pytest.fixture
async def place(shop_database: Path, tmp_path: Path) -> AsyncIterator[Place]:
    tables = Tables(shop_database)
    tables.add(*(workflow(i, now_ms(), "ENQUEUED", queue_name="emails", name="job") for i in JOBS))
    database = SystemDatabase(tables.url, [APP])
    wire = Wire(httpx.ASGITransport(create_app(database)))
    settings = Settings.from_env(
        {"HOME": str(tmp_path), "DBOS_SYSTEM_DATABASE_URL": tables.url}, toolsets="all"
    )
    yield Place(settings, wire, tables)
    database.close()


def confirmation_in(answer: str) -> str:
    found = re.search(r"confirm=([\w-]+),", answer)
    assert found is not None, answer
    return found[1]
