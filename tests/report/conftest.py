"""Pages, and a browser to look at them."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from tests.browser import opened_page, running_browser

Show = Callable[..., AbstractAsyncContextManager[Page]]


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
