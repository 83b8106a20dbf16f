"""Random JSON with comments, commas at the end and any space; and what it says, read another way
than the program does."""

import json
import re
from typing import Any

from hypothesis import strategies as st

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\r\n]*|/\*.*?\*/|.', re.DOTALL)
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-999, 999),
    st.floats(allow_nan=False, allow_infinity=False, width=16),
    _TEXTS,
).map(lambda value: json.dumps(value, ensure_ascii=False))
_WORDS = st.text("ab ,:{}[]\"'\\é", max_size=5)


def parts(text: str) -> tuple[Any, list[str]]:
    """The value, objects as lists of pairs; and its comments."""
    tokens = _TOKEN.findall(text)
    comments = [each for each in tokens if each.startswith(("//", "/*"))]
    kept = [each for each in tokens if each not in comments and each.strip(" \t\r\n")]
    bare = [
        each
        for each, after in zip(kept, [*kept[1:], ""], strict=True)
        if not (each == "," and after in ("}", "]"))
    ]
    value = json.loads("".join(bare), object_pairs_hook=Pairs) if bare else None
    return value, comments


class Pairs(list[Any]):
    """An object; a plain list is a list."""

    def without(self, name: str) -> "Pairs":
        return Pairs(pair for pair in self if pair[0] != name)

    def get(self, name: str) -> Any:
        return next((value for key, value in self if key == name), Pairs())


@st.composite
def documents(draw: st.DrawFn) -> str:
    """One that has an object outside, with `mcpServers` or without."""
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    indent = draw(st.sampled_from(["", "  ", "\t", "    "]))

    def gap(depth: int) -> str:
        kind = draw(st.integers(0, 6))
        if kind == 0:
            return f" // {draw(_WORDS)}{newline}{indent * depth}"
        if kind == 1:
            return f"/* {draw(_WORDS)} */"
        return ["", " ", newline + indent * depth, newline + indent * depth, ""][kind - 2]

    def container(open_: str, close: str, pieces: list[str], depth: int) -> str:
        text = open_
        for index, piece in enumerate(pieces):
            last = index == len(pieces) - 1
            comma = "" if last and draw(st.booleans()) else ","
            text += gap(depth + 1) + piece + gap(depth + 1) + comma
        return text + gap(depth) + close

    def value(depth: int) -> str:
        kind = draw(st.integers(0, 4)) if depth < 3 else 2
        if kind == 0:
            return an_object(depth, draw(st.lists(_TEXTS, max_size=3, unique=True)))
        if kind == 1:
            count = draw(st.integers(0, 3))
            return container("[", "]", [value(depth + 1) for _ in range(count)], depth)
        return draw(_SCALARS)

    def an_object(depth: int, names: list[str]) -> str:
        return container("{", "}", [member(depth, name) for name in names], depth)

    def member(depth: int, name: str) -> str:
        inner = value(depth + 1)
        if (depth, name) == (0, "mcpServers"):
            named = st.lists(st.sampled_from(["a", "b", "dbos", "dbos2"]), max_size=3, unique=True)
            inner = an_object(depth + 1, draw(named))
        return f"{json.dumps(name)}{gap(depth)}:{gap(depth)}{inner}"

    names = draw(st.lists(_TEXTS, max_size=3, unique=True).map(set))
    if draw(st.booleans()):
        names |= {"mcpServers"}
    return gap(0) + an_object(0, sorted(names)) + gap(0)
