"""Reports as pages, looked at in a real browser."""

from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from dbos_mcp.domain import now_ms
from dbos_mcp.report.page import page as page_of
from dbos_mcp.report.subjects import MOST_EXAMPLES
from dbos_mcp.server.reports import report_on_failures
from tests.report import hostile
from tests.report.conftest import Report, Show, mirrored, reports_on
from tests.upstream import Tables, pickled, workflow

HOUR_MS = 3_600_000
KINDS = ("workflow", "failures")
VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "wbr"}


@pytest.fixture(params=KINDS)
def html(request: pytest.FixtureRequest, shop_reports: dict[str, Report]) -> str:
    return page_of(shop_reports[request.param])


@pytest.fixture
async def hostile_pages(empty_database: Path, tmp_path: Path) -> dict[str, str]:
    hostile.add_hostile(Tables(empty_database))
    async with mirrored(empty_database, tmp_path) as runtime:
        reports = await reports_on(runtime, hostile.TOP)
    return {kind: page_of(report) for kind, report in reports.items()}


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("color_scheme", ["light", "dark"])
async def test_a_page_fits_its_screen_and_asks_for_nothing(
    html: str, show: Show, width: int, color_scheme: str
) -> None:
    async with show(html, width=width, color_scheme=color_scheme) as page:
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        dark = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (dark == "rgb(15, 18, 22)") == (color_scheme == "dark")
        assert await page.evaluate(LOW_CONTRAST) == []


async def test_a_page_is_told_apart_by_headings_landmarks_and_captions(
    html: str, show: Show
) -> None:
    async with show(html) as page:
        levels = await page.eval_on_selector_all(
            "h1, h2, h3, h4", "all => all.map(each => Number(each.tagName[1]))"
        )
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(below <= above + 1 for above, below in pairwise(levels))
        for landmark in ("header", "main", "footer"):
            assert await page.locator(f"body > {landmark}").count() == 1
        assert await page.title() == await page.evaluate("document.title")
        assert await page.get_attribute("html", "lang") == "en"
        assert await page.locator("table:not(:has(caption))").count() == 0
        assert await page.locator("th:not([scope])").count() == 0
        assert await page.locator("section:not([aria-labelledby])").count() == 0


@pytest.mark.parametrize("width", [400, 1400])
async def test_whatever_scrolls_or_acts_is_reached_by_the_keyboard(
    html: str, show: Show, width: int
) -> None:
    async with show(html, width=width) as page:
        assert await page.evaluate(UNREACHABLE_SCROLLERS) == []
        wanted = await page.evaluate(NUMBER_FOCUSABLE)
        reached = set()
        for _ in range(wanted):
            await page.keyboard.press("Tab")
            reached.add(await page.evaluate("document.activeElement.dataset.number"))
        assert reached == {str(number) for number in range(wanted)}
        await page.locator(".skip").focus()
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "main"


async def test_on_paper_a_page_is_light_and_nothing_is_folded_or_cut(html: str, show: Show) -> None:
    async with show(html, color_scheme="dark") as page:
        await page.emulate_media(media="print", color_scheme="dark")
        assert await page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 39)"
        folded = page.locator("details table")
        assert [await each.is_visible() for each in await folded.all()] == [True] * (
            await folded.count()
        )
        assert await page.evaluate(CUT_OFF) == []
        assert (await page.pdf(format="A4")).startswith(b"%PDF")


async def test_what_an_order_failed_of_is_told_and_drawn(
    shop_reports: dict[str, Report], show: Show
) -> None:
    async with show(page_of(shop_reports["workflow"])) as page:
        assert "2 levels down" in await page.inner_text(".verdict")
        assert "quote_delivery" in await page.inner_text(".waterfall .origin")
        assert "order-1005-5" in await page.inner_text("section:has(> #evidence)")
        assert "fork_workflow(" in await page.inner_text("section:has(> #next)")
        assert "first seen" in await page.inner_text("section:has(> #history)")
        assert "quote_delivery" in await page.inner_text("table.steps tr.failed >> nth=-1")
        assert "live" in await page.inner_text(".freshness")


async def test_failures_are_counted_in_groups_and_over_time(
    empty_database: Path, tmp_path: Path, show: Show
) -> None:
    now = now_ms()
    for name, times in (("charge", 6), ("ship", 3), ("notify", 2), ("audit", 1)):
        error = pickled(ValueError(f"{name} broke"))
        Tables(empty_database).add(
            *(
                workflow(f"{name}-{n}", now - (n + 1) * HOUR_MS, "ERROR", name=name, error=error)
                for n in range(times)
            )
        )
    async with mirrored(empty_database, tmp_path) as runtime:
        report = await report_on_failures(runtime, None, "12h", now=now)
    async with show(page_of(report)) as page:
        rows = await page.locator("table.groups tbody tr").all_inner_texts()
        assert [row.split()[1] for row in rows] == ["charge", "ship", "notify", "audit"]
        assert "12 workflows failed of 4 causes" in await page.inner_text(".verdict")
        assert await page.locator(".over-time svg rect").count() == 6
        assert await page.locator("table.groups tr:nth-child(2) .sparkline rect").count() == 3
        await page.locator("summary").click()
        cells = await page.locator("details tbody td:nth-child(2)").all_inner_texts()
        assert cells == ["1", "1", "1", "2", "3", "4"]
        assert await page.locator(".waterfall").count() == MOST_EXAMPLES


@pytest.mark.parametrize("kind", KINDS)
async def test_hostile_names_neither_run_nor_hide_nor_break_the_page(
    hostile_pages: dict[str, str], show: Show, kind: str
) -> None:
    html = hostile_pages[kind]
    assert not set(html) & set("\u202e\u2066\u200b\x1b\x07")
    assert hostile.TOKEN not in html
    assert "[redacted:" in html
    assert len(html) < 200_000
    for width in (400, 1400):
        async with show(html, width=width) as page:
            injected = (
                "script, img, iframe, object, embed, link, form, [onload], [onerror], [onfocus]"
            )
            assert await page.locator(injected).count() == 0
            assert "<script>alert('ran')</script>" in await page.inner_text("body")
            assert "{{ 7*7 }}" in await page.inner_text("body")
            assert await page.locator("a").count() == 1
            assert await page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("kind", KINDS)
async def test_a_page_is_well_formed_also_with_hostile_names_in_it(
    hostile_pages: dict[str, str], shop_reports: dict[str, Report], kind: str
) -> None:
    for html in (hostile_pages[kind], page_of(shop_reports[kind])):
        form = _Form()
        form.feed(html)
        form.close()
        assert form.open == []
        assert len(form.ids) == len(set(form.ids))
        assert set(form.named) <= set(form.ids)


async def test_nothing_that_failed_is_a_page_too(
    empty_database: Path, tmp_path: Path, show: Show
) -> None:
    Tables(empty_database).add(workflow("well", now_ms() - 60_000))
    async with mirrored(empty_database, tmp_path) as runtime:
        reports = await reports_on(runtime, "well")
    async with show(page_of(reports["failures"])) as page:
        assert "Nothing failed in this time." in await page.inner_text(".verdict")
    async with show(page_of(reports["workflow"])) as page:
        assert await page.inner_text(".status") == "SUCCESS"
        assert "It succeeded in" in await page.inner_text(".verdict")


class _Form(HTMLParser):
    """Which elements are open, and in which order they were closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.named: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names))
        for name, value in attributes:
            if name == "id":
                self.ids.append(value or "")
            if name == "aria-labelledby":
                self.named += (value or "").split()

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


INJECTED = "script, img, iframe, object, embed, link, form, [onload], [onerror], [onfocus]"
UNREACHABLE_SCROLLERS = """
Array.from(document.querySelectorAll("body *")).filter(each => {
    const { overflowX, overflowY } = getComputedStyle(each);
    const scrolls = ["auto", "scroll"].includes(overflowX) && each.scrollWidth > each.clientWidth
        || ["auto", "scroll"].includes(overflowY) && each.scrollHeight > each.clientHeight;
    return scrolls && each.tabIndex < 0 && !each.closest("[tabindex='0']");
}).map(each => each.outerHTML.slice(0, 100))
"""
NUMBER_FOCUSABLE = """
(() => {
    const all = Array.from(document.querySelectorAll("a[href], summary, [tabindex='0']"))
        .filter(each => each.checkVisibility());
    all.forEach((each, number) => { each.dataset.number = number; });
    return all.length;
})()
"""
CUT_OFF = """
Array.from(document.querySelectorAll(".scroll, pre, table")).filter(each =>
    getComputedStyle(each).overflowY !== "visible" && each.scrollHeight > each.clientHeight
).map(each => each.outerHTML.slice(0, 100))
"""
LOW_CONTRAST = """
(() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const over = (color, ground) => {
        canvas.fillStyle = `rgb(${ground.join(" ")})`;
        canvas.fillRect(0, 0, 1, 1);
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        return Array.from(canvas.getImageData(0, 0, 1, 1).data.slice(0, 3));
    };
    const ground = each => each === null ? [255, 255, 255]
        : over(getComputedStyle(each).backgroundColor, ground(each.parentElement));
    const light = color => color.map(part => part / 255)
        .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
    const low = [];
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const each = texts.currentNode.parentElement, text = texts.currentNode.data.trim();
        if (!text || !each.checkVisibility() || each.closest("svg")) continue;
        const below = ground(each), color = over(getComputedStyle(each).color, below);
        const [dark, bright] = [light(below), light(color)].sort((a, b) => a - b);
        const ratio = (bright + 0.05) / (dark + 0.05);
        if (ratio < 4.5) low.push(`${ratio.toFixed(2)}: ${text.slice(0, 60)}`);
    }
    return low;
})()
"""
