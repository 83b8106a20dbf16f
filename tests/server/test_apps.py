"""The waterfall beside a diagnosis, in clients that show MCP Apps, and nowhere else."""

import html
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client.extension import ClientExtension, advertise
from mcp.server.apps import APP_MIME_TYPE, EXTENSION_ID
from mcp_types import CallToolResult, TextContent, TextResourceContents
from playwright.async_api import Browser, FrameLocator, Page, expect

from dbos_mcp.domain import now_ms
from dbos_mcp.server.app import build_server
from dbos_mcp.server.apps import PICTURE, WATERFALL
from dbos_mcp.settings import Settings
from tests.browser import opened_page, running_browser
from tests.server.conftest import asking, mirrored
from tests.upstream import Tables, pickled, workflow

SHOWS_APPS = advertise(EXTENSION_ID, {"mimeTypes": [APP_MIME_TYPE]})
ORDER = {"application_name": "shop", "workflow_id": "order-1005"}
HOSTILE = (
    """</span><img src=x onerror="parent.postMessage('ran','*')"><script>parent.ran=1</script>"""
)
CSP = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; media-src 'self' data:; connect-src 'none'"
)
"""What a host gives a page that asks for nothing, by the specification of MCP Apps."""


@asynccontextmanager
async def client_of(
    settings: Settings, era: str, *extensions: ClientExtension
) -> AsyncIterator[Client]:
    async with Client(build_server(settings), mode=era, extensions=extensions) as client:
        await mirrored(asking(client))
        yield client


async def page_of(client: Client) -> str:
    (content,) = (await client.read_resource(WATERFALL)).contents
    assert isinstance(content, TextResourceContents)
    assert content.mime_type == APP_MIME_TYPE
    return content.text


def without_freshness(result: CallToolResult) -> list[str]:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text.splitlines()[:-1]


async def test_the_picture_comes_with_the_same_text(shop_settings: Settings, era: str) -> None:
    async with client_of(shop_settings, era, SHOWS_APPS) as client:
        with_picture = await client.call_tool("diagnose_workflow", ORDER)
        assert with_picture.meta is not None
        picture = with_picture.meta[PICTURE]
        assert picture.startswith('<figure class="waterfall"')
        assert "quote_delivery" in picture
        assert "The failure began here." in picture
        assert len(picture) < 64_000
        assert with_picture.structured_content is None
    async with client_of(shop_settings, era) as client:
        text_alone = await client.call_tool("diagnose_workflow", ORDER)
        assert PICTURE not in (text_alone.meta or {})
    assert without_freshness(with_picture) == without_freshness(text_alone)


async def test_one_that_shows_other_apps_gets_the_text_alone(
    shop_settings: Settings, era: str
) -> None:
    other = advertise(EXTENSION_ID, {"mimeTypes": ["text/html"]})
    async with client_of(shop_settings, era, other) as client:
        result = await client.call_tool("diagnose_workflow", ORDER)
        assert PICTURE not in (result.meta or {})


async def test_errors_are_as_without_it(shop_settings: Settings, era: str) -> None:
    async with client_of(shop_settings, era, SHOWS_APPS) as client:
        result = await client.call_tool("diagnose_workflow", {**ORDER, "workflow_id": "nobody"})
        assert result.is_error
        assert "has no workflow 'nobody'" in str(result.content)
        result = await client.call_tool("diagnose_workflow", {**ORDER, "shows_apps": True})
        assert result.is_error
        assert "Unknown argument 'shows_apps'" in str(result.content)


async def test_all_clients_are_told_of_the_same_tools(shop_settings: Settings, era: str) -> None:
    listed = []
    for extensions in ((), (SHOWS_APPS,)):
        async with client_of(shop_settings, era, *extensions) as client:
            tools = (await client.list_tools()).tools
            listed.append([tool.model_dump(by_alias=True) for tool in tools])
            bound = {tool.name: tool.meta for tool in tools if tool.meta}
            assert bound == {"diagnose_workflow": {"ui": {"resourceUri": WATERFALL}}}
            assert "<main" in await page_of(client)
    assert listed[0] == listed[1]


async def test_without_the_tool_there_is_no_page(shop_settings: Settings) -> None:
    core = shop_settings.model_copy(update={"toolsets": frozenset({"core"})})
    async with client_of(core, "auto", SHOWS_APPS) as client:
        assert WATERFALL not in {each.uri for each in (await client.list_resources()).resources}


HOST = """<!doctype html><html lang="en"><meta charset="utf-8"><title>A host</title>
<body style="margin:0"><iframe title="app" sandbox="allow-scripts" srcdoc="{app}"
 style="border:0;width:100%;height:300px"></iframe><script>
const frame = document.querySelector("iframe");
const log = [], result = {result}, context = {context};
const send = (message) => frame.contentWindow.postMessage({{jsonrpc: "2.0", ...message}}, "*");
window.addEventListener("message", ({{source, data}}) => {{
  if (source !== frame.contentWindow) return;
  log.push(data);
  if (data.method === "ui/initialize") send({{id: data.id, result: {{
    protocolVersion: data.params.protocolVersion, hostInfo: {{name: "test", version: "1"}},
    hostCapabilities: {{}}, hostContext: context}}}});
  if (data.method === "ui/notifications/initialized") {{
    send({{method: "ui/notifications/tool-input", params: {{arguments: {arguments}}}}});
    send({{method: "ui/notifications/tool-result", params: result}});
  }}
  if (data.method === "ui/notifications/size-changed")
    frame.style.height = data.params.height + "px";
}});
</script>"""


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with running_browser() as browser:
        yield browser


def host_page(app: str, result: CallToolResult, theme: str) -> str:
    """A page that frames the app as a host does, and passes it the result of the tool."""
    context = {
        "theme": theme,
        "styles": {"variables": {"--color-text-primary": "rgb(1, 2, 3)"}},
    }

    def literal(value: object) -> str:
        return json.dumps(value).replace("<", "\\u003c")

    framed = app.replace(
        "<head>", f'<head><meta http-equiv="Content-Security-Policy" content="{CSP}">'
    )
    return HOST.format(
        app=html.escape(framed),
        result=literal(result.model_dump(mode="json", by_alias=True, exclude_none=True)),
        context=literal(context),
        arguments=literal(ORDER),
    )


def hosted(
    browser: Browser, tmp_path: Path, page: str, **options: Any
) -> AbstractAsyncContextManager[Page]:
    path = tmp_path / "host.html"
    path.write_text(page, encoding="utf-8")
    return opened_page(browser, path.as_uri(), **options)


async def shown(page: Page) -> FrameLocator:
    app = page.frame_locator("iframe")
    await expect(app.locator("figure.waterfall")).to_be_visible()
    return app


@pytest.mark.parametrize("width", [400, 1400])
async def test_the_app_shows_the_verdict_and_the_waterfall(
    shop_settings: Settings, browser: Browser, tmp_path: Path, width: int
) -> None:
    async with client_of(shop_settings, "auto", SHOWS_APPS) as client:
        app = await page_of(client)
        result = await client.call_tool("diagnose_workflow", ORDER)
    page_text = host_page(app, result, "dark")
    async with hosted(browser, tmp_path, page_text, width=width) as page:
        frame = await shown(page)
        assert "ERROR, place_order of shop" in await frame.locator("h1").inner_text()
        assert "quote_delivery" in await frame.locator("#verdict").inner_text()
        assert await frame.locator("li.origin").count() == 1
        root = frame.locator("html")
        assert await root.evaluate("root => getComputedStyle(root).colorScheme") == "dark"
        colour = "root => getComputedStyle(root.querySelector('figure')).color"
        assert await root.evaluate(colour) == "rgb(1, 2, 3)"
        assert await root.evaluate("root => root.scrollWidth") <= width
        # All of it is to be seen once the host has followed what the app says of its size.
        await page.wait_for_function(
            "log.some(({method}) => method === 'ui/notifications/size-changed')"
            " && frame.clientHeight > 300"
        )
        said = await page.evaluate("log.map(({method}) => method)")
        assert said[:2] == ["ui/initialize", "ui/notifications/initialized"]
        await page.evaluate(
            "send({method: 'ui/notifications/host-context-changed', params: {theme: 'light'}})"
        )
        await expect(root).to_have_css("color-scheme", "light")
        await page.evaluate("send({id: 7, method: 'ui/resource-teardown', params: {}})")
        await page.wait_for_function("log.some(({id, result}) => id === 7 && result)")


async def test_the_keyboard_reaches_rows_and_tells_their_times(
    shop_settings: Settings, browser: Browser, tmp_path: Path
) -> None:
    async with client_of(shop_settings, "auto", SHOWS_APPS) as client:
        app = await page_of(client)
        result = await client.call_tool("diagnose_workflow", ORDER)
    async with hosted(browser, tmp_path, host_page(app, result, "light")) as page:
        frame = await shown(page)
        origin = frame.locator("li.origin")
        hidden = await origin.locator(".exact").bounding_box()
        assert hidden is not None
        assert hidden["width"] <= 1
        for _ in range(40):
            await page.keyboard.press("Tab")
            if await origin.evaluate("row => row.matches(':focus')"):
                break
        box = await origin.locator(".exact").bounding_box()
        assert box is not None
        assert box["width"] > 100
        assert "failed; the failure began here; step 20" in await origin.inner_text()


async def test_hostile_names_are_shown_and_do_nothing(
    shop_settings: Settings, shop_database: Path, browser: Browser, tmp_path: Path
) -> None:
    now = now_ms()
    tables = Tables(shop_database)
    tables.add(
        workflow("evil", now - 5_000, "ERROR", name=HOSTILE, error=pickled(RuntimeError(HOSTILE)))
    )
    tables.add_step("evil", 1, HOSTILE, HOSTILE, started_at=now - 4_000, completed_at=now - 3_000)
    async with client_of(shop_settings, "auto", SHOWS_APPS) as client:
        app = await page_of(client)
        result = await client.call_tool("diagnose_workflow", {**ORDER, "workflow_id": "evil"})
    async with hosted(browser, tmp_path, host_page(app, result, "light"), width=400) as page:
        frame = await shown(page)
        names = await frame.locator(".name").all_inner_texts()
        assert any("onerror=" in name for name in names)
        assert await frame.locator("img, figure script").count() == 0
        assert await page.evaluate("log.every((message) => message !== 'ran')")
        assert await page.evaluate("window.ran") is None


async def test_the_app_lets_no_foreign_markup_in(
    shop_settings: Settings, browser: Browser, tmp_path: Path
) -> None:
    async with client_of(shop_settings, "auto", SHOWS_APPS) as client:
        app = await page_of(client)
    result = CallToolResult(
        content=[TextContent(text="head\nverdict: it failed")],
        _meta={PICTURE: f'<figure class="waterfall" onclick="x()">{HOSTILE}<b>kept</b></figure>'},
    )
    async with hosted(browser, tmp_path, host_page(app, result, "light")) as page:
        frame = await shown(page)
        figure = frame.locator("figure")
        assert await figure.inner_html() == "<b>kept</b>"
        assert await figure.get_attribute("onclick") is None


def test_a_server_starts_without_templates() -> None:
    program = "import sys, dbos_mcp.server.app; assert 'jinja2' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
