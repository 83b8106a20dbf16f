"""The watch over pages sees what it is for."""

import pytest

from tests.report.conftest import Show

PAGE = '<!doctype html><html lang="en"><title>A page</title><body>%s</body></html>'


async def test_a_quiet_page_is_shown(show: Show) -> None:
    async with show(PAGE % "<h1>Hello</h1>", width=400, color_scheme="dark") as page:
        assert await page.inner_text("h1") == "Hello"
        assert await page.evaluate("innerWidth") == 400
        assert await page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<script>console.error('oh')</script>", "console error: oh"),
        ("<script>throw new Error('ah')</script>", "error: ah"),
        ("<script>alert('hey')</script>", "dialog: hey"),
        ("<img src='other.png' alt=''>", "request: .*other.png"),
    ],
)
async def test_a_page_that_says_or_asks_for_anything_fails_its_test(
    show: Show, body: str, said: str
) -> None:
    with pytest.raises(AssertionError, match=said):
        async with show(PAGE % body):
            pass
