"""Changes one place of a JSON file, and not a character of the rest.

Editors keep their settings as JSON with comments and commas at the end (JSONC), people write it by
hand, and no library that is kept up keeps all that. So the text is parsed into nodes that know
where they are, a change is made in the text, and what came out is parsed again: should anything
else have changed, nothing has.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dbos_mcp.errors import InstallError

DEEPEST = 200
_SPACE = re.compile(r"[ \t\r\n]*")
_COMMENT = re.compile(r"//[^\r\n]*|/\*.*?\*/", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"')
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORDS = {"true": True, "false": False, "null": None}

Path = Sequence[str]


@dataclass
class Node:
    start: int
    end: int = -1
    value: Any = None
    """Of a text, a word, or a number (a `_Number`); not of an object or a list."""


@dataclass
class _Item:
    node: Node
    name: str | None
    """Its name in an object; None in a list."""
    start: int
    """Where its name begins, or it does."""
    comma: int | None = None


@dataclass
class _Container(Node):
    items: list[_Item] = field(default_factory=list)
    tail: int = -1
    """Behind the last that is in it, be it a comment."""


class Object(_Container):
    pass


class Array(_Container):
    pass


class _Number(str):
    """As it is written: 1 and 1.0 are not the same to a person."""


@dataclass
class Document:
    text: str
    root: Node | None
    """None: there is nothing but comments."""
    comments: list[tuple[int, str]]


class _FaultError(Exception):
    def __init__(self, position: int, what: str) -> None:
        super().__init__(what)
        self.position = position


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._comments: list[tuple[int, str]] = []
        self._behind = 0
        """Behind the last token or comment."""

    def document(self) -> Document:
        self._skip()
        root = None
        if self._at < len(self._text):
            root = self._value(0)
            self._skip()
            if self._at < len(self._text):
                raise _FaultError(self._at, "there is more behind the end")
        return Document(self._text, root, self._comments)

    def _skip(self) -> None:
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space is not None
            self._at = space.end()
            comment = _COMMENT.match(self._text, self._at)
            if comment is None:
                return
            self._comments.append((self._at, comment[0]))
            self._at = self._behind = comment.end()

    def _token(self, character: str) -> bool:
        if not self._text.startswith(character, self._at):
            return False
        self._at += 1
        self._behind = self._at
        return True

    def _value(self, depth: int) -> Node:
        if depth > DEEPEST:
            raise _FaultError(self._at, "it is nested too deep")
        start = self._at
        if self._token("{"):
            return self._items(Object(start), "}", depth)
        if self._token("["):
            return self._items(Array(start), "]", depth)
        if self._text.startswith('"', start):
            return Node(start, value=self._string(), end=self._at)
        for word, value in _WORDS.items():
            if self._text.startswith(word, start):
                return self._scalar(start, start + len(word), value)
        number = _NUMBER.match(self._text, start)
        if number is None:
            raise _FaultError(start, "a value was expected")
        return self._scalar(start, number.end(), _Number(number[0]))

    def _scalar(self, start: int, end: int, value: object) -> Node:
        self._at = self._behind = end
        return Node(start, end, value)

    def _string(self) -> str:
        found = _STRING.match(self._text, self._at)
        if found is None:
            raise _FaultError(self._at, "a text in double quotes was expected")
        self._at = self._behind = found.end()
        return str(json.loads(found[0]))

    def _items(self, container: _Container, close: str, depth: int) -> Node:
        self._skip()
        while not self._text.startswith(close, self._at):
            items = container.items
            if items and items[-1].comma is None:
                raise _FaultError(self._at, f"a comma or {close} was expected")
            start = self._at
            name = self._name() if isinstance(container, Object) else None
            item = _Item(self._value(depth + 1), name, start)
            items.append(item)
            self._skip()
            if self._text.startswith(",", self._at):
                item.comma = self._at
                self._token(",")
                self._skip()
        container.tail = self._behind
        self._token(close)
        container.end = self._at
        return container

    def _name(self) -> str:
        name = self._string()
        self._skip()
        if not self._token(":"):
            raise _FaultError(self._at, "a colon was expected")
        self._skip()
        return name


def parse(text: str) -> Document:
    """
    Raises:
        InstallError: it is no JSON, not even with comments; it says where.
    """
    try:
        return _Parser(text).document()
    except _FaultError as fault:
        raise _error(text, fault.position, str(fault)) from None


def get(text: str, path: Path) -> Any:
    """What is there, as Python has it; None if nothing is.

    Raises:
        InstallError: see `parse`; or what the path leads through is no object.
    """
    document = parse(text)
    node = document.root
    for name in path:
        if node is None:
            return None
        item = _member(document, node, name)
        node = None if item is None else item.node
    return None if node is None else _plain(node)


def with_value(text: str, path: Path, value: object) -> str:
    """The text with this value there, in the style of the text; no other value and no comment
    outside of it is another.

    Raises:
        InstallError: see `get`; or it cannot be done so.
    """
    document = parse(text)
    if document.root is None:
        newline = _newline(text)
        whole: object = value
        for name in reversed(path):
            whole = {name: whole}
        before = text if not text or text.endswith("\n") else text + newline
        return before + _written(whole, "  ", "", newline) + newline
    node: Node = document.root
    for depth, name in enumerate(path):
        item = _member(document, node, name)
        if item is None:
            assert isinstance(node, Object)
            for inner in reversed(path[depth + 1 :]):
                value = {inner: value}
            piece = _Piece(document, value, name)
            return _checked(document, _inserted(document, node, piece), path)
        node = item.node
    written = _Piece(document, value, None)(_indent_at(text, node.start))
    changed = text[: node.start] + written + text[node.end :]
    return _checked(document, changed, path, (node.start, node.end))


def with_item(text: str, path: Path, item: object) -> str:
    """The text with one item more in the list that is there, or in one that is made.

    Raises:
        InstallError: see `with_value`; or it is no list.
    """
    document = parse(text)
    node = document.root
    for name in path:
        found = None if node is None else _member(document, node, name)
        node = None if found is None else found.node
    if node is None:
        return with_value(text, path, [item])
    if not isinstance(node, Array):
        raise _error(text, node.start, "a list was expected")
    return _checked(document, _inserted(document, node, _Piece(document, item, None)), path)


def without(text: str, path: Path) -> str:
    """The text without the value that is there.

    Raises:
        InstallError: see `with_value`.
    """
    document = parse(text)
    *outer, name = path
    parent = document.root
    for each in outer:
        found = None if parent is None else _member(document, parent, each)
        parent = None if found is None else found.node
    item = None if parent is None else _member(document, parent, name)
    if item is None:
        return text
    assert isinstance(parent, Object)
    index = parent.items.index(item)
    end, commas = item.node.end, []
    if item.comma is not None:
        end = item.comma + 1
    elif index > 0:
        before = parent.items[index - 1].comma
        assert before is not None
        commas = [before]
    start = item.start
    line = re.search(r"\r?\n[ \t]*\Z", text[:start])
    if line is not None and re.match(r"[ \t]*(\r?\n|\Z)", text[end:]):
        start = line.start()
    changed = text[:start] + text[end:]
    for comma in commas:
        changed = changed[:comma] + changed[comma + 1 :]
    return _checked(document, changed, path, (item.start, end))


class _Piece:
    """A value as it is written in this text, with its name if it has one."""

    def __init__(self, document: Document, value: object, name: str | None) -> None:
        self._unit = _unit(document)
        self._newline = _newline(document.text)
        self._value, self._name = value, name
        root = document.root
        holds = isinstance(root, _Container) and bool(root.items)
        self.flat = holds and "\n" not in document.text.strip()
        """All of it is in one line, and so is the piece."""

    def __call__(self, indent: str) -> str:
        unit = None if self.flat else self._unit
        written = _written(self._value, unit, indent, self._newline)
        return written if self._name is None else f"{json.dumps(self._name)}: {written}"

    def line(self, indent: str) -> str:
        return self._newline + indent


def _written(value: object, unit: str | None, indent: str, newline: str) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=unit)
    return text.replace("\n", newline + indent)


def _inserted(document: Document, container: _Container, piece: _Piece) -> str:
    """Behind all that is in it, comments as well."""
    text, tail = document.text, container.tail
    last = container.items[-1] if container.items else None
    ends_with_comma = last is not None and last.comma is not None
    after = "," if ends_with_comma else ""
    spread = "\n" in text[container.start : container.end]
    if piece.flat or (last is not None and not spread):
        new = (" " if last is not None else "") + piece(_indent_at(text, container.start)) + after
    else:
        base = _indent_at(text, container.start)
        inner = base + _unit(document)
        if last is not None and (first := _own_line(text, container.items[0].start)) is not None:
            inner = first
        new = piece.line(inner) + piece(inner) + after
        if "\n" not in text[tail : container.end]:
            new += piece.line(base)
    changed = text[:tail] + new + text[tail:]
    if last is not None and not ends_with_comma:
        changed = changed[: last.node.end] + "," + changed[last.node.end :]
    return changed


def _checked(before: Document, text: str, path: Path, replaced: tuple[int, int] = (0, 0)) -> str:
    """The text, if nothing but what is at the path, and was in this place, is another."""
    after = parse(text)
    start, end = replaced
    kept = [comment for position, comment in before.comments if not start <= position < end]
    assert before.root is not None
    same = after.root is not None and _differ_only_at(path, before.root, after.root)
    if not same or [comment for _, comment in after.comments] != kept:
        raise InstallError("it cannot be changed here without changing more of it")
    return text


def _differ_only_at(path: Path, before: Node | None, after: Node | None) -> bool:
    if not path:
        return True
    pairs = [list(_pairs(node)) for node in (before, after)]
    others = [[(name, _shape(node)) for name, node in each if name != path[0]] for each in pairs]
    own = [next((node for name, node in each if name == path[0]), None) for each in pairs]
    return others[0] == others[1] and _differ_only_at(path[1:], own[0], own[1])


def _pairs(node: Node | None) -> Iterator[tuple[str | None, Node]]:
    if isinstance(node, Object):
        yield from ((item.name, item.node) for item in node.items)


def _shape(node: Node) -> object:
    """With order, with names that are there twice, and with numbers as they are written."""
    if isinstance(node, _Container):
        return type(node), [(item.name, _shape(item.node)) for item in node.items]
    return type(node.value), node.value


def _plain(node: Node) -> Any:
    if isinstance(node, Object):
        return {item.name: _plain(item.node) for item in node.items}
    if isinstance(node, Array):
        return [_plain(item.node) for item in node.items]
    return json.loads(node.value) if isinstance(node.value, _Number) else node.value


def _member(document: Document, node: Node, name: str) -> _Item | None:
    if not isinstance(node, Object):
        raise _error(document.text, node.start, "an object was expected")
    found = [item for item in node.items if item.name == name]
    if len(found) > 1:
        raise _error(document.text, found[1].start, f'"{name}" is there already')
    return found[0] if found else None


def _unit(document: Document) -> str:
    """By how much it is indented: as far as what is first in it."""
    root = document.root
    if isinstance(root, _Container) and root.items:
        return _own_line(document.text, root.items[0].start) or "  "
    return "  "


def _newline(text: str) -> str:
    first = text.find("\n")
    return "\r\n" if first > 0 and text[first - 1] == "\r" else "\n"


def _indent_at(text: str, position: int) -> str:
    """Of the line that this is in."""
    line = re.match(r"[ \t]*", text[text.rfind("\n", 0, position) + 1 :])
    assert line is not None
    return line[0]


def _own_line(text: str, position: int) -> str | None:
    """What is before it in its line, if that is nothing but space."""
    before = text[text.rfind("\n", 0, position) + 1 : position]
    return before if "\n" in text[:position] and not before.strip(" \t") else None


def _error(text: str, position: int, what: str) -> InstallError:
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    return InstallError(f"line {line}, column {column}: {what}")
