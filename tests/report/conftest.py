"""Pages, and a browser to look at them."""

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from dbos_mcp.domain import now_ms
from dbos_mcp.report.subjects import FailuresReport, WorkflowReport
from dbos_mcp.runtime import Runtime, open_runtime
from dbos_mcp.server.reports import report_on_failures, report_on_workflow
from dbos_mcp.settings import Settings
from tests.browser import opened_page, running_browser

Show = Callable[..., AbstractAsyncContextManager[Page]]
Report = WorkflowReport | FailuresReport


@asynccontextmanager
async def mirrored(database: Path, folder: Path) -> AsyncIterator[Runtime]:
    """A mirror of this system database, with a local Conductor to ask."""
    url = f"sqlite:///{database}"
    settings = Settings.from_env({"HOME": str(folder), "DBOS_SYSTEM_DATABASE_URL": url})
    async with open_runtime(settings) as runtime:
        await runtime.require_live().worker.run_until_read()
        yield runtime


async def reports_on(runtime: Runtime, workflow_id: str) -> dict[str, Report]:
    """On a workflow, and on what failed within a month."""
    return {
        "workflow": await report_on_workflow(runtime, None, workflow_id),
        "failures": await report_on_failures(runtime, None, "30d", now=now_ms()),
    }


@pytest.fixture(scope="module")
async def shop_reports(
    shop_leftover: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Report]:
    """Of a real application, on an order that failed because of a child of its child."""
    folder = tmp_path_factory.mktemp("reports")
    for leftover in shop_leftover.parent.glob("shop.sqlite*"):
        shutil.copy(leftover, folder / leftover.name)
    async with mirrored(folder / "shop.sqlite", folder) as runtime:
        return await reports_on(runtime, "order-1005")


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with running_browser() as browser:
        yield browser


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Show:
    """Opens a page of this text in the browser, from a file."""

    def show(html: str, **options: Any) -> AbstractAsyncContextManager[Page]:
        path = tmp_path / "page.html"
        path.write_text(html, encoding="utf-8")
        return opened_page(browser, path.as_uri(), **options)

    return show
