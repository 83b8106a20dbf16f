"""The application is killed, with its Conductor; what was mirrored is still answered."""

from pathlib import Path

import anyio
import pytest

from dbos_mcp.demo.tour import running_conductor, running_shop
from dbos_mcp.settings import Settings
from tests.answers import rows
from tests.server.conftest import Serve, mirrored, serve

pytestmark = pytest.mark.e2e

__all__ = ["serve"]  # the fixture


async def test_listing_get_steps_and_history_outlive_the_application(
    serve: Serve, tmp_path: Path
) -> None:
    database = tmp_path / "shop.sqlite"
    async with (
        running_shop(database) as shop,
        running_conductor(database) as url,
        serve(Settings(home=tmp_path, url=url)) as ask,
    ):
        await mirrored(ask)
        questions = {
            "list_applications": {},
            "list_workflows": {"application_name": "shop", "status": "ERROR"},
            "get_workflow": {"application_name": "shop", "workflow_id": "order-1005"},
            "list_steps": {"application_name": "shop", "workflow_id": "order-1005"},
            "get_workflow_aggregates": {"application_name": "shop"},
        }
        live = {tool: await ask(tool, **arguments) for tool, arguments in questions.items()}
        assert all("offline since" not in answer for answer in live.values())

        shop.kill()
        await shop.wait()
        database.unlink()
        with anyio.fail_after(30):
            while "offline since" not in await ask("list_executors", application_name="shop"):
                await anyio.lowlevel.checkpoint()

        for tool, arguments in questions.items():
            answer = await ask(tool, **arguments)
            if tool != "list_applications":
                assert rows(answer) == rows(live[tool])
                assert "offline since" in answer
        assert "| ERROR (executor shop-1) | first seen |" in await ask(
            "get_workflow_history", **questions["get_workflow"]
        )
