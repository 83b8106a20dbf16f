"""JSON as text, changed in place: what is not a secret stays as it was written, to the last space.

It is read token by token, so that no depth and no number is too much for it.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from dbos_mcp.redaction.names import Names

DEEPEST = 1_000
LONGEST = 1_000_000
_TOKEN = re.compile(
    r"[ \t\r\n]*+(?:(?P<mark>[{}\[\],:])|(?P<string>\"(?:[^\"\\\x00-\x1f]++|\\[^\x00-\x1f])*+\")"
    r"|(?P<scalar>-?(?:\d++(?:\.\d++)?(?:[eE][+-]?\d++)?|Infinity)|true|false|null|NaN))"
)
_SPACE = re.compile(r"[ \t\r\n]*+")
_CONSTANTS = frozenset({"true", "false", "null", "NaN", "Infinity", "-Infinity"})
_OPTION = re.compile(r"--?[A-Za-z][\w-]{1,60}", re.ASCII)
_LABELS = frozenset({"name", "key", "header", "variable"})
"""Whose value is the name of what is called `value` beside it."""

_PAIRS = frozenset({"auth", "basicauth", "basic_auth", "http_auth"})


@dataclass
class _Container:
    is_object: bool
    hidden: bool
    """It has a secret's name, so all in it is secret."""
    name: str = ""
    """Of the value that comes next; in an array, the string before, which may be its name."""
    label: str = ""
    """The name that an object has told of the value in it; in an array, that it is a user and a
    password."""
    first: bool = True
    """Nothing in it was read yet."""


def is_like_json(text: str) -> bool:
    return text.lstrip(" \t\r\n")[:1] in ("{", "[", '"') and len(text) <= LONGEST


def changed(
    text: str, names: Names, redact: Callable[[str], str], hide: Callable[[str], str]
) -> str | None:
    """JSON whose strings are what `redact` makes of them, and what `hide` does where their name
    says that they are secret; None if it is no JSON, or too deep."""
    return _Reader(text, names, redact, hide).read()


class _MalformedError(Exception):
    pass


class _Reader:
    def __init__(
        self, text: str, names: Names, redact: Callable[[str], str], hide: Callable[[str], str]
    ) -> None:
        self._text = text
        self._names = names
        self._redact = redact
        self._hide = hide
        self._inside: list[_Container] = []
        self._parts: list[str] = []
        self._copied = 0

    def read(self) -> str | None:
        try:
            self._document()
        except _MalformedError:
            return None
        if not self._parts:
            return self._text
        return "".join((*self._parts, self._text[self._copied :]))

    def _document(self) -> None:
        at = self._value(self._next(0))
        while self._inside:
            at = self._element(self._next(at))
        space = _SPACE.match(self._text, at)
        if space is None or space.end() != len(self._text):
            raise _MalformedError

    def _next(self, at: int) -> re.Match[str]:
        token = _TOKEN.match(self._text, at)
        if token is None:
            raise _MalformedError
        return token

    def _element(self, token: re.Match[str]) -> int:
        """What follows in the container: its end, or an element with the comma before it."""
        container = self._inside[-1]
        if token["mark"] == ("}" if container.is_object else "]"):
            self._inside.pop()
            return token.end()
        if container.first:
            container.first = False
        elif token["mark"] == ",":
            token = self._next(token.end())
        else:
            raise _MalformedError
        if container.is_object:
            token = self._key(container, token)
        return self._value(token)

    def _key(self, container: _Container, token: re.Match[str]) -> re.Match[str]:
        if token["string"] is None:
            raise _MalformedError
        container.name = self._decoded(token)
        self._put(token, container.name, self._redact(container.name))
        colon = self._next(token.end())
        if colon["mark"] != ":":
            raise _MalformedError
        return self._next(colon.end())

    def _value(self, token: re.Match[str]) -> int:
        mark = token["mark"]
        if mark in ("{", "["):
            self._open(mark == "{")
        elif mark is not None:
            raise _MalformedError
        elif token["string"] is not None:
            self._string(token)
        elif token["scalar"] not in _CONSTANTS and self._is_secret(token["scalar"], token):
            self._put(token, token["scalar"], self._hide(token["scalar"]))
        return token.end()

    def _open(self, is_object: bool) -> None:
        if len(self._inside) == DEEPEST:
            raise _MalformedError
        hidden, label = False, ""
        if self._inside:
            parent = self._inside[-1]
            hidden = parent.hidden or (
                parent.is_object and self._names.is_strong(parent.name) is True
            )
            if not is_object and parent.is_object and parent.name.lower() in _PAIRS:
                label = parent.name
        self._inside.append(_Container(is_object, hidden, label=label))

    def _string(self, token: re.Match[str]) -> None:
        value = self._decoded(token)
        secret = self._is_secret(value, token)
        self._put(token, value, self._hide(value) if secret else self._redact(value))
        if self._inside:
            container = self._inside[-1]
            if not container.is_object:
                container.name = value
            elif container.name.lower() in _LABELS:
                container.label = value

    def _is_secret(self, value: str, token: re.Match[str]) -> bool:
        if not self._inside:
            return False
        container = self._inside[-1]
        if container.hidden:
            return bool(value)
        name = container.name
        if container.is_object and name.lower() == "value" and container.label:
            name = container.label
        elif not container.is_object:
            is_last = self._is_last(token)
            if container.label and name and is_last:
                return True
            if not is_last and not _OPTION.fullmatch(name):
                return False
        return bool(name) and self._names.is_secret(name, value)

    def _is_last(self, token: re.Match[str]) -> bool:
        closing = _TOKEN.match(self._text, token.end())
        return closing is not None and closing["mark"] == "]"

    def _decoded(self, token: re.Match[str]) -> str:
        string = token["string"]
        if "\\" not in string:
            return str(string[1:-1])
        try:
            return str(json.loads(string))
        except ValueError as error:
            raise _MalformedError from error

    def _put(self, token: re.Match[str], before: str, after: str) -> None:
        if after != before:
            start = token.start("string") if token["string"] is not None else token.start("scalar")
            self._parts += (
                self._text[self._copied : start],
                json.dumps(after, ensure_ascii=token[0].isascii()),
            )
            self._copied = token.end()
