"""A real headless Chromium, where the machine has one, and a watch over what pages do in it."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest
from playwright.async_api import Browser, ConsoleMessage, Dialog, Page, Request, async_playwright

VARIABLE = "CHROMIUM"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# The tests have another home.
DOWNLOADS = Path.home() / ".cache" / "ms-playwright"


@asynccontextmanager
async def running_browser() -> AsyncIterator[Browser]:
    """Skips the test where there is none."""
    program = _program()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=program,
            chromium_sandbox=os.geteuid() != 0,  # which does not work as root
        )
        try:
            yield browser
        finally:
            await browser.close()


def _program() -> str:
    if given := os.environ.get(VARIABLE):
        return given
    for name in PROGRAMS:
        if found := shutil.which(name):
            return found
    for downloaded in sorted(DOWNLOADS.glob("chromium-*/chrome-linux*/chrome"), reverse=True):
        return str(downloaded)
    pytest.skip(f"Chromium is not installed here ({VARIABLE} may name one): no page was looked at")


@asynccontextmanager
async def opened_page(
    browser: Browser,
    url: str,
    *,
    width: int = 1400,
    color_scheme: Literal["light", "dark"] = "light",
) -> AsyncIterator[Page]:
    """A page by itself. Fails if it says anything on the console, opens a dialog, or asks for
    anything but itself."""
    seen: list[str] = []

    def note_console(message: ConsoleMessage) -> None:
        seen.append(f"console {message.type}: {message.text}")

    def note_error(error: Exception) -> None:
        seen.append(f"error: {error}")

    def note_request(request: Request) -> None:
        if request.url.partition("#")[0] != url:
            seen.append(f"request: {request.url}")

    async def note_dialog(dialog: Dialog) -> None:
        seen.append(f"dialog: {dialog.message}")
        await dialog.dismiss()

    context = await browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=color_scheme
    )
    try:
        page = await context.new_page()
        page.on("console", note_console)
        page.on("pageerror", note_error)
        page.on("request", note_request)
        page.on("dialog", note_dialog)
        await page.goto(url)
        yield page
    finally:
        await context.close()
    if seen:
        raise AssertionError("; ".join(seen))
