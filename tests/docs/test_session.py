"""The session that the README shows, as text and as a picture."""

from html import unescape
from xml.etree import ElementTree

from docs.generate.session import PICTURE, README, shown_in

SMALL_BYTES = 100_000


def test_the_picture_shows_what_the_text_says() -> None:
    drawn = ElementTree.fromstring(PICTURE.read_text()).iter("{http://www.w3.org/2000/svg}text")
    said = shown_in(README.read_text()).splitlines()
    assert [each.text for each in drawn] == [line for line in said if line]


def test_the_picture_is_small_and_needs_nothing_but_itself() -> None:
    drawn = PICTURE.read_text()
    assert len(drawn.encode()) < SMALL_BYTES
    assert {each.tag.partition("}")[2] for each in ElementTree.fromstring(drawn).iter()} == {
        "svg", "style", "rect", "text",
    }  # fmt: skip
    assert "url(" not in drawn
    assert "@import" not in drawn
    assert unescape(drawn).count("http") == 1  # the name of SVG itself
