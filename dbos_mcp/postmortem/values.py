"""Values as SDKs show them, taken apart as far as their texts go.

A Python application shows `str(value)` or a repr, a TypeScript one `util.inspect`, Go and Java ones
JSON. These texts may be cut, and are whatever an application makes of them: one reader goes over
all of them, once and without recursion. (`ast.literal_eval` knows no objects and no cut texts, and
a hostile text may exhaust the stack of its parser.)
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Union

LONGEST = 20_000
"""So many characters of a text are read."""
MOST_TOKENS = 5_000
DEEPEST = 60
MOST_PATHS = 200
MOST_ARGUMENTS = 10
"""More by their places are a list."""
MOST_ITEMS = 50
"""Of one list."""
PATH_DEPTH = 10
SHAPE_DEPTH = 3
MOST_KEYS = 20
VALUE_CHARACTERS = 200
KEY_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class Opaque:
    """A text that shows no value, or a part of one that cannot be taken apart."""

    text: str


@dataclass(frozen=True, slots=True)
class Tagged:
    """Of a class: `Decimal('1.2')`, `Order(id=1)`, `Set(1) { 1 }`, `<Currency.EUR: 'EUR'>`."""

    tag: str
    value: "Value"


Scalar = None | bool | int | float | str | Opaque
Value = Union[Scalar, Tagged, "list[Value]", "dict[str, Value]"]

ELIDED = Opaque("…")
"""In place of what a text leaves out."""


def read(text: str | None) -> Value:
    """The value that a text shows; the text itself, opaque, where it shows none."""
    if text is None:
        return None
    cut = len(text) > LONGEST
    text = text[:LONGEST].strip()
    if text[:1] in _JSON_BEGINS and not cut:
        try:
            told: Value = json.loads(text)
            return told
        except (ValueError, RecursionError):
            pass
    return _Reader(text).read()


def paths(value: Value, root: str = "") -> dict[str, tuple[Scalar, ...]]:
    """The scalars of a value by where they are, as `items[].currency`: `[]` is any item of a list,
    so one path may have several values; `items.length` is how many items there are."""
    found: dict[str, dict[object, Scalar]] = {}
    for path, leaf in _leaves(value, root, PATH_DEPTH):
        if path not in found and len(found) == MOST_PATHS:
            break
        found.setdefault(path, {})[type(leaf), leaf] = leaf
    return {path: tuple(leaves.values()) for path, leaves in found.items()}


def arguments(value: Value, *, alone: bool) -> Value:
    """What a workflow was given, out of how its SDK shows its input: by the names of arguments
    where there are names, else by their places; `alone`: the only one by itself."""
    given, named = _given(value)
    if not isinstance(given, list):
        return given
    if len(given) > MOST_ARGUMENTS:
        return {"args": given, **named} if named else given
    whole = [item for item in given if item is not ELIDED]
    if alone and len(whole) == 1 and not named:
        return whole[0]
    return {str(place): item for place, item in enumerate(whole)} | named


def positions(value: Value) -> int:
    """How many arguments are told by their places."""
    given, _ = _given(value)
    return sum(item is not ELIDED for item in given) if isinstance(given, list) else 1


_WRAPPERS = (("args", "kwargs"), ("positionalArgs", "namedArgs"), ("json", "meta"))
"""What is given by place, and what by name, or about the rest: in Python, in DBOS's portable format
and in superjson."""


def _given(value: Value) -> tuple[Value, dict[str, Value]]:
    if isinstance(value, dict):
        for places, names in _WRAPPERS:
            # A text that is cut may lack the second.
            if places in value and value.keys() <= {places, names, "…"} and len(value) > 1:
                named = value.get(names)
                by_name = names != "meta" and isinstance(named, dict)
                return value[places], named if by_name and isinstance(named, dict) else {}
    return value, {}


def shape(value: Value) -> str:
    """What kind of value it is, without its data: `170,00` and `12,5` are `<n>,<n>`, and neither
    is `<n>.<n>`; a dict is the set of its keys."""
    return _shape(value, SHAPE_DEPTH)


def shape_of(text: str | None) -> str:
    return shape(read(text))


def told(value: Scalar, limit: int = VALUE_CHARACTERS) -> str:
    """A scalar for people; a text that could be taken for something else is in quotes."""
    if isinstance(value, Opaque):
        said = value.text
    elif isinstance(value, str):
        said = f"'{value}'" if value.strip() != value or _MISTAKABLE.fullmatch(value) else value
    else:
        said = str(value).lower()
    return said if len(said) <= limit else f"{said[: limit - 1]}…"


# Reading

_JSON_BEGINS = tuple('{["')
_SPACE = re.compile(r"[\s,;]*")
_NAME = r"[A-Za-z_$][\w$.]*"
_OPEN = re.compile(rf"(?P<tag>{_NAME}(?:\(\d+\))?)?\s*(?:\[Object: null prototype\]\s*)?[\[({{]")
_CLOSE = ")]}"
_LEFT_OUT = re.compile(  # [Object], [Circular *1], [Function: pay]
    r"\[(?:(?!(?:None|True|False|NaN|Infinity)\])[A-Z]\w*|(?:Circular|(?:Async|Generator)?Function|class|Symbol|Getter|Setter)"
    r"[^\[\]{},'\"]{0,80})\]"
)
_MORE = re.compile(r"\.\.\.(?:\s*\d+ more [a-z]+)?")
_STRING = re.compile(
    r"""[bBrRuU]{0,2}(?:"([^"\\]*(?:\\.[^"\\]*)*)"|'([^'\\]*(?:\\.[^'\\]*)*)'"""
    r"|`([^`\\]*(?:\\.[^`\\]*)*)`)",
    re.DOTALL,
)
_STRING_BEGINS = re.compile(r"[bBrRuU]{0,2}[\"'`]")
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "\n": ""}
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d[\d:.]*(?:Z|[+-]\d\d:?\d\d)?")
_NUMBER = re.compile(
    r"[+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,4})?n?(?![\w.:])"
)
_OBJECT = re.compile(r"<(?:ref )?[^<>]*(?:<[^<>]*>[^<>]*)*>")
_REFERENCE = re.compile(r"<ref \*\d+>\s*")
_ENUM = re.compile(r"<([\w.]+)\.([\w|]+): .*>", re.DOTALL)
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{4,}")
_WORD = re.compile(r"[^\[\](){},;:=\"'`<>]+")
_KEY_ENDS = re.compile(r"\s*(?::|=>|=(?!=))")
_LITERALS: Mapping[str, Scalar] = {
    **{"None": None, "null": None, "undefined": None},
    **{"True": True, "true": True, "False": False, "false": False},
    **{"nan": math.nan, "NaN": math.nan},
    **{sign + name: float(sign + "inf") for sign in ("", "-") for name in ("inf", "Infinity")},
}
_MOMENT = re.compile(r"(?:\w+\.)*(?:datetime|date|time)")
_MISTAKABLE = re.compile(rf"|{'|'.join(_LITERALS)}|none|[+-]?\d+(?:\.\d+)?")


def _key(value: Value) -> str:
    if isinstance(value, list | dict | Tagged):
        return "…"
    return value[:VALUE_CHARACTERS] if isinstance(value, str) else told(value)


@dataclass
class _Frame:
    """A container that is being read."""

    tag: str | None = None
    braces: bool = False
    items: list[Value] = field(default_factory=list)
    pairs: dict[str, Value] = field(default_factory=dict)
    key: str | None = None
    cut: bool = False

    def add(self, value: Value, *, is_key: bool) -> None:
        if is_key and self.key is None:
            self.key = _key(value)
        elif self.key is not None:
            self.pairs[self.key] = value
            self.key = None
        else:
            self.items.append(value)

    def left_out(self) -> None:
        """Something that would follow; a text that comes before it is not whole."""
        self.cut = True
        if self.items and isinstance(self.items[-1], str):
            self.items[-1] = Opaque(self.items[-1])
        last = next(reversed(self.pairs), None)
        if last is not None and isinstance(text := self.pairs[last], str):
            self.pairs[last] = Opaque(text)

    @property
    def value(self) -> Value:
        if self.key is not None:
            self.pairs[self.key] = ELIDED
            self.cut = True
        plain = self._plain()
        return plain if self.tag is None else _tagged(self.tag, plain, call=not self.braces)

    def _plain(self) -> list[Value] | dict[str, Value]:
        if self.pairs or (self.braces and not self.items):
            parts = {str(place): item for place, item in enumerate(self.items)} | self.pairs
            return parts | {"…": ELIDED} if self.cut else parts
        return [*self.items, ELIDED] if self.cut else self.items


class _Reader:
    """Goes through a text from its beginning to its end, token by token."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._stack = [_Frame()]

    def read(self) -> Value:
        whole = Opaque(_ADDRESS.sub("0x…", self._text))
        for _ in range(MOST_TOKENS):
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at >= len(self._text):
                break
            if not self._token() or (len(self._stack) == 1 and len(self._stack[0].items) > 1):
                return whole
        while len(self._stack) > 1:
            self._stack[-1].cut = True
            self._close()
        (root,) = self._stack
        if root.pairs or root.key is not None or root.cut or len(root.items) != 1:
            return whole
        return root.items[0]

    def _token(self) -> bool:
        """Read one; False: the text as a whole is no value."""
        text, at = self._text, self._at
        outside = len(self._stack) == 1
        if text[at] in _CLOSE:
            if outside:
                return False
            self._at += 1
            self._close()
        elif match := _MORE.match(text, at):
            self._at = match.end()
            self._stack[-1].left_out()
        elif match := _REFERENCE.match(text, at):
            self._at = match.end()
        elif match := _LEFT_OUT.match(text, at):
            self._at = match.end()
            self._add(Opaque(match[0]))
        elif match := _OPEN.match(text, at):
            self._at = match.end()
            self._stack.append(_Frame(match["tag"], braces=text[self._at - 1] == "{"))
        elif _STRING_BEGINS.match(text, at):
            self._add(self._string())
        elif match := _TIME.match(text, at):
            self._at = match.end()
            self._add(match[0])
        elif match := _NUMBER.match(text, at):
            self._at = match.end()
            self._add(_number(match[0]))
        elif match := _OBJECT.match(text, at):
            self._at = match.end()
            self._add(_object(match[0]))
        elif match := _WORD.match(text, at):
            self._at = match.end()
            word = match[0].strip()
            if outside and word not in _LITERALS:
                return False
            self._add(_LITERALS.get(word, Opaque(word)))
        elif outside:
            return False
        else:
            self._at += 1
        return True

    def _add(self, value: Value) -> None:
        ends = _KEY_ENDS.match(self._text, self._at)
        frame = self._stack[-1]
        if ends is not None and frame.key is None:
            self._at = ends.end()
        frame.add(value, is_key=ends is not None)

    def _close(self) -> None:
        frame = self._stack.pop()
        self._add(frame.value if len(self._stack) <= DEEPEST else ELIDED)

    def _string(self) -> Value:
        """Of several parts, where `util.inspect` breaks it at its lines."""
        parts = []
        while match := _STRING.match(self._text, self._at):
            parts.append(_unescaped(next(part for part in match.groups() if part is not None)))
            self._at = match.end()
            goes_on = _CONCATENATED.match(self._text, self._at)
            if goes_on is None:
                return "".join(parts)
            self._at = goes_on.end()
        rest, self._at = self._text[self._at :], len(self._text)
        return Opaque("".join(parts) + rest)


_CONCATENATED = re.compile(r"\s*\+\s*(?=[\"'`])")


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text

    def character(match: re.Match[str]) -> str:
        escape = match[1]
        if len(escape) == 1:
            return _ESCAPED.get(escape, escape)
        code = int(escape[1:], 16)
        return chr(code) if code < 0x110000 else "\ufffd"

    plain = _ESCAPE.sub(character, text)
    # JSON and JavaScript write what is beyond 16 bits as two halves.
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _number(text: str) -> Value:
    text = text.removesuffix("n")
    try:
        return int(text)
    except ValueError:
        return float(text)


def _object(text: str) -> Value:
    enum = _ENUM.fullmatch(text)
    return Tagged(enum[1], enum[2]) if enum else Opaque(_ADDRESS.sub("0x…", text))


def _tagged(tag: str, value: list[Value] | dict[str, Value], *, call: bool) -> Value:
    if call and _MOMENT.fullmatch(tag):
        # Python's datetime(2026, 11, 21, 6, 30, tzinfo=…)
        parts = value.values() if isinstance(value, dict) else value
        told = [f"{part:02}" for part in parts if isinstance(part, int)]
        days = "" if tag.endswith(".time") else "-".join(told[:3])
        hours = ":".join(told[3:] if days else told)
        return Tagged(tag, " ".join(filter(None, (days, hours))))
    if call and isinstance(value, list) and len(value) == 1:
        return Tagged(tag, value[0])
    return Tagged(tag, value)


# Taking apart


def _leaves(value: Value, path: str, depth: int) -> Iterator[tuple[str, Scalar]]:
    if isinstance(value, Tagged):
        yield from _leaves(value.value, path, depth)
    elif isinstance(value, dict):
        if depth:
            for key, part in value.items():
                if part is not ELIDED:
                    yield from _leaves(part, _below(path, key), depth - 1)
    elif isinstance(value, list):
        if ELIDED not in value:
            yield f"{path}.length", len(value)
        if depth:
            for part in value[:MOST_ITEMS]:
                if part is not ELIDED:
                    yield from _leaves(part, f"{path}[]", depth - 1)
    elif isinstance(value, str):
        yield path, value[:VALUE_CHARACTERS]
    elif isinstance(value, Opaque):
        yield path, Opaque(value.text[:VALUE_CHARACTERS])
    else:
        yield path, value


def _below(path: str, key: str) -> str:
    key = key if len(key) <= KEY_CHARACTERS else f"{key[: KEY_CHARACTERS - 1]}…"
    if key.isdecimal():
        return f"{path}[{key}]"
    if not re.fullmatch(r"[\w-]+", key):
        return f"{path}[{key!r}]"
    return f"{path}.{key}" if path else key


# Shapes

_PIECE = re.compile(
    r"""
    (?P<url>[a-z][a-z0-9+.-]{0,20}://[^\s'"<>)\]]+)
    | (?P<email>[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+)
    | (?P<id>[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})
    | (?P<time>\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?)
    | (?P<word>[^\W_]+)
    | (?P<space>\s+)
    | (?P<mark>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_WORDS = re.compile(r"<w>(?: <w>)+")
_SIZE = re.compile(r"\(\d+\)$")
_ZERO = re.compile(r"[+-]?0+(?:\.0+)?")
_MOST_PIECES = 12
_SHAPED_CHARACTERS = 200


def _shape(value: Value, depth: int) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return _shape_of_number(value)
        case str():
            return f"'{_shape_of_text(value)}'"
        case Opaque():
            as_it_is = value.text[:1] in ("<", "[", "…")  # the class of an object, not its data
            return value.text[:VALUE_CHARACTERS] if as_it_is else _shape_of_text(value.text)
        case Tagged():
            return f"{_SIZE.sub('', value.tag)}({_shape(value.value, depth)})"
        case dict():
            return _shape_of_dict(value, depth)
        case list():
            return _shape_of_list(value, depth)


def _shape_of_number(value: int | float) -> str:
    if not value:
        return "0"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return ("-" if value < 0 else "") + ("<n>.<n>" if isinstance(value, float) else "<n>")


def _shape_of_text(text: str) -> str:
    if not text:
        return "empty"
    if _ZERO.fullmatch(text):
        return "0"
    shaped, pieces = "", 0
    for match in _PIECE.finditer(text[:_SHAPED_CHARACTERS]):
        pieces += 1
        piece, kind = match[0], str(match.lastgroup)
        if kind == "word":
            shaped += _shape_of_word(piece)
        elif kind == "mark":
            shaped += piece
        else:
            shaped += " " if kind == "space" else f"<{kind}>"
    shaped = _WORDS.sub("<text>", shaped)
    return "<text>" if pieces > _MOST_PIECES or len(text) > _SHAPED_CHARACTERS else shaped


def _shape_of_word(word: str) -> str:
    if word.isdigit():
        return "<n>"
    return "<w>" if word.isalpha() else "<id>"


def _shape_of_dict(value: Mapping[str, Value], depth: int) -> str:
    if not value:
        return "{}"
    keys = sorted({re.sub(r"\d+", "<n>", key): key for key in value}.items())
    if len(keys) > MOST_KEYS:
        return "{" + f"{MOST_KEYS} keys or more" + "}"
    if depth <= 1:
        return "{" + ", ".join(name for name, _ in keys) + "}"
    return "{" + ", ".join(f"{name}: {_shape(value[k], depth - 1)}" for name, k in keys) + "}"


def _shape_of_list(value: Sequence[Value], depth: int) -> str:
    if not value:
        return "[]"
    if depth <= 1:
        return "[…]"
    shapes = sorted({_shape(item, depth - 1) for item in value[:MOST_ITEMS]})
    return "[" + " | ".join(shapes[:4]) + (" | …" if len(shapes) > 4 else "") + "]"
