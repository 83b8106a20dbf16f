"""Takes secrets out of texts.

What was found becomes `[redacted:kind]`. It is better to take away a harmless word than to leave a
password; but no rule takes what only looks unusual: ids, hashes and numbers explain failures.
"""

import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from hashlib import blake2b

from dbos_mcp.redaction import json_text
from dbos_mcp.redaction.names import Names, folded
from dbos_mcp.redaction.rules import NO_RULES, Rules
from dbos_mcp.redaction.shapes import CREDENTIALS, EMAIL, SHAPES, Kind, Shape, possible_in

MARK = re.compile(r"(\[redacted:[a-z-]+(?:-[0-9a-f]{8})?\])")
_MOST_ROUNDS = 8
_MOST_JSON_IN_JSON = 4
_MOST_USERS = 1_000
KINDS = frozenset(
    {"password", "unclear", "user", EMAIL.kind, CREDENTIALS.kind, *(each.kind for each in SHAPES)}
)
_INITIALS = frozenset({"api", "aws", "dbos", "jwt", "url"})
Find = Callable[[str], Iterable[tuple[int, int]]]
"""Where secrets are in a text, one behind the other."""


class Redactor:
    """Takes the secrets out of texts, and counts them by kind.

    The same text always gives the same mark. An id is redacted as any other text is, but so that
    two ids stay two, and one id stays one in all that refers to it: the mark has eight more digits,
    which mean nothing to another redactor.
    """

    def __init__(self, users: Iterable[str] | None = None, *, rules: Rules = NO_RULES) -> None:
        """With `users`, their names and all e-mail addresses become marks as well."""
        self.found: Counter[Kind] = Counter()
        self._salt = secrets.token_bytes(16)
        self._users = None if users is None else _any_of(users)
        self._rules = rules
        self._names = _names_of(rules)
        self._cached = lru_cache(maxsize=20_000)(self._look_through)

    @property
    def kinds(self) -> frozenset[Kind]:
        """Those that it may find."""
        return KINDS | {rule.kind for rule in self._rules.patterns}

    def text(self, text: str) -> str:
        return self._redacted(text, reference=False)

    def reference(self, text: str) -> str:
        return self._redacted(text, reference=True)

    def user(self, text: str) -> str:
        """A user's name, which is no secret unless users were given."""
        if self._users is None or not text or MARK.fullmatch(text):
            return self.text(text)
        self.found["user"] += 1
        return self._mark("user", text, numbered=True)

    def value(self, value: object) -> object:
        """JSON with its texts redacted, and what its names say is secret."""
        match value:
            case str():
                return self.text(value)
            case Mapping():
                return {
                    self.text(str(key)): self._named(str(key), item) for key, item in value.items()
                }
            case list() | tuple():
                return [self.value(item) for item in value]
            case _:
                return value

    def _named(self, name: str, value: object) -> object:
        if (
            isinstance(value, str | int | float)
            and not isinstance(value, bool)
            and not MARK.fullmatch(str(value))
            and self._names.is_secret(name, str(value))
        ):
            self.found["password"] += 1
            return self._mark("password", str(value), numbered=False)
        if isinstance(value, Mapping | list | tuple) and self._names.is_strong(name):
            return self._hidden(value)
        return self.value(value)

    def _hidden(self, value: object) -> object:
        """Of what is secret as a whole, the names and the number of its parts are left."""
        match value:
            case None | bool():
                return value
            case Mapping():
                return {self.text(str(key)): self._hidden(item) for key, item in value.items()}
            case list() | tuple():
                return [self._hidden(item) for item in value]
            case _:
                self.found["password"] += 1
                return self._mark("password", str(value), numbered=False)

    def _redacted(self, text: str, *, reference: bool) -> str:
        look = self._cached if len(text) <= 200 else self._look_through
        redacted, found = look(text, reference)
        self.found.update(found)
        return redacted

    def _look_through(self, text: str, reference: bool) -> tuple[str, tuple[Kind, ...]]:
        found: list[Kind] = []
        return self._looked_through(text, reference, found, 0), tuple(found)

    def _looked_through(self, text: str, reference: bool, found: list[Kind], depth: int) -> str:
        finders = self._finders(text)
        if not finders and "\\u" not in text:
            return text  # nothing in it even begins like a secret, which is so of most
        if depth < _MOST_JSON_IN_JSON and json_text.is_like_json(text):
            in_place = self._json(text, reference, found, depth)
            if in_place is not None:
                return in_place
        return self._plain(text, reference, found, finders)

    def _json(self, text: str, reference: bool, found: list[Kind], depth: int) -> str | None:
        before = len(found)

        def redact(string: str) -> str:
            return self._looked_through(string, reference, found, depth + 1)

        def hide(string: str) -> str:
            if MARK.fullmatch(string):
                return string
            found.append("password")
            return self._mark("password", string, numbered=reference)

        in_place = json_text.changed(text, self._names, redact, hide)
        if in_place is None:
            del found[before:]  # it is looked through anew, as a text
        return in_place

    def _plain(
        self, text: str, reference: bool, found: list[Kind], finders: Iterable[tuple[Kind, Find]]
    ) -> str:
        """Again and again, until there is nothing left to find: what stands beside a mark may be
        seen only once the mark is there."""
        for _ in range(_MOST_ROUNDS):
            again = self._once(text, reference, found, finders)
            if again == text:
                return text
            text, finders = again, self._finders(again)
        found.append("unclear")
        return self._mark("unclear", text, numbered=reference)

    def _once(
        self, text: str, reference: bool, found: list[Kind], finders: Iterable[tuple[Kind, Find]]
    ) -> str:
        for kind, find in finders:

            def replace(secret: str, kind: Kind = kind) -> str:
                found.append(kind)
                return self._mark(kind, secret, numbered=reference or kind == "user")

            text = _apart(text, find, replace)
        return text

    def _finders(self, text: str) -> list[tuple[Kind, Find]]:
        """Those that may find something, in the order in which they are asked."""
        lowered = folded(text)
        finders: list[tuple[Kind, Find]] = [(each.kind, each.find) for each in self._rules.patterns]
        finders += [(shape.kind, shape.find) for shape in possible_in(text, lowered)]
        if self._names.begin_in(lowered):
            finders += [("password", self._names.find), ("password", self._names.options)]
        if any(needle in lowered for needle in CREDENTIALS.needles):
            finders.append((CREDENTIALS.kind, CREDENTIALS.find))
        if self._users is not None:
            finders += [(EMAIL.kind, EMAIL.find), (self._users.kind, self._users.find)]
        return finders

    def _mark(self, kind: Kind, text: str, *, numbered: bool) -> str:
        if not numbered:
            return f"[redacted:{kind}]"
        digest = blake2b(text.encode("utf-8", "replace"), key=self._salt, digest_size=4)
        return f"[redacted:{kind}-{digest.hexdigest()}]"


def told(found: Mapping[Kind, int]) -> str:
    """How many of which kind, the most first."""
    most_first = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {_in_words(kind, count)}" for kind, count in most_first)


def _in_words(kind: Kind, count: int) -> str:
    words = [word.upper() if word in _INITIALS else word for word in kind.split("-")]
    if kind == "unclear":
        words.append("text")
    plural = "" if count == 1 or words[-1].endswith("s") else "s"
    return " ".join(words) + plural


def kinds_in(texts: Iterable[str]) -> Iterator[Kind]:
    """Of the marks in texts."""
    for text in texts:
        if "[redacted:" in text:
            for mark in MARK.findall(text):
                yield mark.removeprefix("[redacted:").removesuffix("]")


@lru_cache(maxsize=4)
def _names_of(rules: Rules) -> Names:
    return Names(rules.names)


def _apart(text: str, find: Find, replace: Callable[[str], str]) -> str:
    """Replace what is found between marks."""
    if "[redacted:" not in text:
        return _replaced(text, find, replace)
    return "".join(
        part if place % 2 else _replaced(part, find, replace)
        for place, part in enumerate(MARK.split(text))
    )


def _replaced(text: str, find: Find, replace: Callable[[str], str]) -> str:
    parts: list[str] = []
    copied = 0
    for start, end in find(text):
        parts += (text[copied:start], replace(text[start:end]))
        copied = end
    return "".join((*parts, text[copied:])) if parts else text


def _any_of(users: Iterable[str]) -> Shape:
    """Very short ones would be found in everything; they are redacted where they stand alone."""
    longest = sorted({user for user in users if len(user) > 2}, key=len, reverse=True)[:_MOST_USERS]
    return Shape(
        "user",
        ("",),
        re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest)) or '(?!)'})(?!\w)"),
    )
