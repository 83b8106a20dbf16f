"""What no exit may let through, told apart without the code that is to keep it in."""

import re
import unicodedata
from collections.abc import Collection
from html.parser import HTMLParser

from markdown_it import MarkdownIt
from markdown_it.token import Token

_INVISIBLE_LETTERS = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0"
"""Default_Ignorable_Code_Point of Unicode 16, as far as the category does not say so."""
_EMOJI = "\ufe0f"
"""How a heart is drawn red: alone it hides nothing."""
_VISIBLE_FORMAT = re.compile("[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2]")
"""Signs of Arabic and Syriac numbers."""

_ACTIVE = {
    *("applet", "audio", "base", "button", "embed", "form", "frame", "iframe", "img", "input"),
    *("link", "math", "object", "script", "select", "source", "template", "textarea", "video"),
}
_ADDRESSES = {"href", "src", "action", "formaction", "xlink:href", "data", "poster", "srcset"}


def is_unsafe(character: str) -> bool:
    """Moves a cursor, ends a line, turns text around, or is there and not seen."""
    code = ord(character)
    if character in _EMOJI or _VISIBLE_FORMAT.match(character):
        return False
    return (
        unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        or character in _INVISIBLE_LETTERS
        or 0xFE00 <= code <= 0xFE0F
        or 0xFFF0 <= code <= 0xFFF8
        or 0xE0000 <= code <= 0xE0FFF
    )


def unsafe_in(text: str, *, but: str = "\n") -> set[str]:
    return {c for c in set(text) - set(but) if is_unsafe(c)}


def active_in(html: str, *, own: Collection[str] = ()) -> list[str]:
    """What in a page runs, loads or leads elsewhere; `own` are the addresses that are its own."""
    page = _Page(own)
    page.feed(html)
    page.close()
    return page.active


class _Page(HTMLParser):
    def __init__(self, own: Collection[str]) -> None:
        super().__init__()
        self.active: list[str] = []
        self._own = own

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in _ACTIVE:
            self.active.append(tag)
        for name, value in attributes:
            if name.startswith("on") or name == "srcdoc":
                self.active.append(f"{tag} {name}")
            if name in _ADDRESSES and not (value or "").startswith("#") and value not in self._own:
                self.active.append(f"{tag} {name}={value}")
            if name == "http-equiv" and (value or "").lower() == "refresh":
                self.active.append(tag)

    def handle_comment(self, data: str) -> None:
        self.active.append(f"comment {data[:40]}")


_MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
_AUTOLINK = re.compile(r"://|www\.|mailto:|\S@\S", re.IGNORECASE)
"""What GitHub makes a link of, or calls somebody by, without any mark around it."""


def tokens_of(markdown: str) -> list[Token]:
    """Flat: what is inside of a line behind its line."""
    return [
        token for block in _MARKDOWN.parse(markdown) for token in (block, *(block.children or ()))
    ]


def active_in_markdown(markdown: str) -> list[str]:
    kinds = ("link_open", "image", "html_inline", "html_block")
    return [
        f"{token.type} {token.content[:60]}"
        for token in tokens_of(markdown)
        if token.type in kinds or (token.type == "text" and _AUTOLINK.search(token.content))
    ]
