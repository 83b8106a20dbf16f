"""Secrets that are known by the name beside them: `password=…`, `"apiKey": "…"`, `--token …`.

A name may be anywhere in a longer one, so first it is looked for where names begin, and only there
the rest is read. What such a name stands before may still be no secret: a word about it
("expired"), a place to be filled (`${TOKEN}`), or code (`password=settings.password`).
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

_STRONG = (
    r"passwords?|passwd|pwd|passphrase|passcode|(?<![A-Za-z])(?:pass|pw)(?![a-z])|secrets?"
    r"|(?:api|private|access|account|encryption|signing|shared|storage)[ _-]?keys?"
    r"|credentials?|authorization|(?:set-)?cookies?|connection[ _-]?string"
    r"|(?:access|refresh|auth|bearer|api|session|personal)[ _-]?tokens?"
    r"|(?<=id[_-])tokens?|(?<=id)(?-i:Tokens?)"
)
"""Whatever they name is secret."""
_WEAK = (
    r"tokens?|jwt|signature|sig|session(?:[_-]?id)?|auth|csrf|xsrf|otp|nonce|j?sessionid|phpsessid"
    r"|(?<=connect\.)sid"
)
"""What they name is secret if it looks so."""
_BEGINNINGS = (
    *("pass", "pwd", "pw", "secret", "api", "private", "access", "account", "encryption"),
    *("signing", "shared", "storage", "credential", "auth", "cookie", "set-cookie", "connection"),
    *("refresh", "bearer", "session", "personal", "token", "jwt", "sig", "csrf", "xsrf", "otp"),
    *("nonce", "jsession", "phpsess", "sid"),
)
_HARMLESS = (
    r"(?:name|type|count|len(?:gth)?|size|limit|max|min|policy|required|file|path|ttl|age|arn|version"
    r"|status|valid|invalid|expir\w*|url|uri|used|usage|at|error|reset|changed|missing)"
)
_HARMLESS_END = re.compile(rf"[_-]{_HARMLESS}$", re.ASCII | re.IGNORECASE)
_QUOTE = r"(?:[\"']|u002[27])"
_VALUES = ("inside", "escaped", "double", "single", "bare")
_LONGEST_NAME = 100

_WORDS = frozenset(
    {
        *("none", "null", "nil", "true", "false", "undefined", "nan", "***", "...", "yes", "no"),
        *(
            "required",
            "missing",
            "invalid",
            "incorrect",
            "wrong",
            "expired",
            "denied",
            "failed",
            "rejected",
        ),
        *(
            "revoked",
            "refused",
            "needed",
            "disabled",
            "enabled",
            "changed",
            "redacted",
            "hidden",
            "masked",
        ),
        *(
            "empty",
            "unset",
            "unknown",
            "default",
            "field",
            "authentication",
            "str",
            "string",
            "bytes",
        ),
        *(
            "text",
            "secretstr",
            "optional",
            "any",
            "int",
            "bool",
            "must",
            "should",
            "may",
            "cannot",
            "can't",
        ),
        *("is", "are", "was", "not", "too", "and", "or", "for", "in", "of", "to", "the", "a", "an"),
    }
)
"""What is told of a secret."""
_PLACE = re.compile(
    r"%|\$?\{\{?[^{}]*\}?\}?|\$\(?[A-Z_]*\)?|\$\d+|%s|%\(\w+\)s|%[A-Z_]+%|\?|:[a-z_]+|<[^<>]*>|[*.•xX]+"
    r"|arn:aws[\w-]*:\S+",
    re.ASCII,
)
"""What stands where a secret would, or says where it is."""
_CODE = re.compile(r"[A-Za-z_][A-Za-z_]*(?:\.[A-Za-z_]+)*", re.ASCII)
_DIGIT, _LETTER = re.compile(r"\d"), re.compile(r"[^\W\d_]")
_LONGER_THAN_WORDS = 20

_ASSIGNED = (
    rf"(?P<separator>\\{{0,4}}{_QUOTE}?\]?[ \t]{{0,4}}"
    r"(?:=>|:=|==|[:=]|%3[ad]|\\{1,4}u003[ad])[ \t]{0,4}(?:[|>][+-]?[ \t]{0,4}\r?\n[ \t]{1,40})?"
    rf"|\\{{0,4}}[\"'][ \t]{{0,4}},[ \t]{{0,4}}(?=\\{{0,4}}[\"'])|>(?=[^\s<]))"
    r"(?:[\[({][ \t\r\n]{0,40}+(?P<inside>(?:[^\[\](){}]++|[\[({][^\[\](){}]*+[\])}])++)"
    rf"|[bru]{{0,2}}(?:(?P<escape>\\{{1,4}}){_QUOTE}(?P<escaped>[^\"'\\]{{1,10000}}+)"
    r"|\"(?P<double>(?:[^\"\\]|\\.){1,10000}+)|'(?P<single>(?:[^'\\]|\\.){1,10000}+))"
    r"|(?P<bare>(?:(?:bearer|basic|digest|negotiate|token)[ \t]{1,4}+)?"
    r"[^\s\"'&,;(){}\[\]<>|\\]{1,200}+))"
)
_REST = re.compile(r"[^\s\"'&,;(){}\[\]<>|\\]*+")
_TOLD = (
    r"[ \t]{1,4}+(?:(?:is|was|to|as|by|of)[ \t]{1,4}+)?:?[ \t]{0,4}"
    r"(?:\"(?P<double>[^\"\s]{1,200}+)\"|'(?P<single>[^'\s]{1,200}+)'|`(?P<tick>[^`\s]{1,200}+)`"
    r"|(?P<bare>[^\s\"'`,;(){}\[\]<>|\\]{4,200}+))"
)
"""In a sentence, or in a language like SQL's."""


class Names:
    """The names of secrets: those that everybody has, and `own` ones."""

    def __init__(self, own: Iterable[str] = ()) -> None:
        parts = [re.split(r"[ _-]+", name.lower()) for name in own]
        theirs = [rf"(?<![A-Za-z]){'[ _-]?'.join(map(re.escape, each))}" for each in parts]
        strong = "|".join([_STRONG, *theirs])
        self._name = (
            rf"(?:(?P<strong>{strong})|(?<![A-Za-z])(?P<weak>{_WEAK})"
            rf"|(?<=[_-])(?P<part>{_WEAK})|(?-i:(?<=[a-z])(?P<camel>Tokens?|Jwt|Signature)))"
            # The rest of the name, if it is one.
            rf"(?![ _-]?{_HARMLESS}(?![a-z]))"
            r"(?:[_-][\w-]{0,40}+|(?-i:[A-Z])\w{0,40}+|\d{0,4}+)"
        )
        self._beginnings = sorted({*_BEGINNINGS, *(each[0] for each in parts)})
        self._begins = re.compile("|".join(map(re.escape, self._beginnings[::-1])))
        flags = re.ASCII | re.IGNORECASE
        self._alone = re.compile(self._name + r"[\s\"':)]*\Z", flags)
        self._assigned = re.compile(self._name + _ASSIGNED, flags)
        self._told = re.compile(self._name + _TOLD, flags)
        self._option = re.compile(
            rf"(?<![\w-])--?(?:[a-z]{{1,20}}-){{0,4}}?(?:{strong}|token)"
            r"(?:[ \t]++|[\"'],[ \t]{0,4}[\"'])(?P<bare>[^\s\"'-][^\s\"']*+)",
            flags,
        )
        self.is_strong = lru_cache(maxsize=4_000)(self._is_strong)

    def begin_in(self, lowered: str) -> bool:
        """Whether a name may be in the text at all."""
        return any(beginning in lowered for beginning in self._beginnings)

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """What is named so, one behind the other."""
        lowered = folded(text)
        at = 0
        while (begin := self._begins.search(lowered, at)) is not None:
            found = self._at(text, begin.start())
            if found is None:
                at = begin.start() + 1
            else:
                yield found
                at = max(found[1], begin.end())

    def _at(self, text: str, position: int) -> tuple[int, int] | None:
        match = self._assigned.match(text, position)
        if match is not None:
            return _of(match)
        match = self._told.match(text, position)
        return None if match is None else _of_prose(match)

    def options(self, text: str) -> Iterator[tuple[int, int]]:
        for match in self._option.finditer(text):
            if not _is_harmless(match["bare"]):
                yield match.span("bare")

    def _is_strong(self, name: str) -> bool | None:
        """Whether what has this name is always secret; False: if it looks so; None: it is none."""
        short = name[-_LONGEST_NAME:]
        for begin in self._begins.finditer(folded(short)):
            match = self._alone.match(short, begin.start())
            if match is not None and not _HARMLESS_END.search(match[0].rstrip()):
                return match["strong"] is not None
        return None

    def is_secret(self, name: str, value: str) -> bool:
        strong = self.is_strong(name)
        return strong is not None and not _is_harmless(value) and (strong or looks_secret(value))


def folded(text: str) -> str:
    """In small letters, and as long as it was."""
    lowered = text.lower()
    return lowered if len(lowered) == len(text) else text.replace("İ", "i").lower()


def looks_secret(value: str) -> bool:
    """Long, and of letters and digits without a word's or a number's order; or longer than words
    are."""
    if len(value) < 12 or " " in value:
        return False
    if len(value) >= _LONGER_THAN_WORDS and value.isalpha():
        return True
    return _DIGIT.search(value) is not None and _LETTER.search(value) is not None


def _of(match: re.Match[str]) -> tuple[int, int] | None:
    group = next(name for name in _VALUES if match[name] is not None)
    value = match[group].strip()
    if _HARMLESS_END.search(match.string[match.start() : match.start("separator")]):
        return None
    if _is_harmless(value) or (match["strong"] is None and not looks_secret(value)):
        return None
    if group == "bare" and (_is_code(match, value) or _is_a_path(match, value)):
        return None
    start, end = match.span(group)
    rest = _REST.match(match.string, end) if group == "bare" else None
    return start, end if rest is None else rest.end()


def _of_prose(match: re.Match[str]) -> tuple[int, int] | None:
    group = next(name for name in ("double", "single", "tick", "bare") if match[name] is not None)
    value = match[group]
    if group == "bare":
        value = value.rstrip(".,;:!?")
        if match["strong"] is None or not _is_like_a_password(value):
            return None
    if _is_harmless(value) or (match["strong"] is None and not looks_secret(value)):
        return None
    start = match.start(group)
    return start, start + len(value)


def _is_harmless(value: str) -> bool:
    value = value.strip()
    return not value or value.lower() in _WORDS or _PLACE.fullmatch(value) is not None


def _is_code(match: re.Match[str], value: str) -> bool:
    """`password=settings.password`, `password=read(`: an expression is no secret."""
    if "=" not in match["separator"] and ":" not in match["separator"]:
        return False
    if _CODE.fullmatch(value) is None:
        return False
    if match.string[match.end() : match.end() + 1] in ("(", "["):
        return True
    last = value.rpartition(".")[2].lower()
    return last == match["strong"] or (match["strong"] or "-").lower() in last


def _is_a_path(match: re.Match[str], value: str) -> bool:
    """`PWD=/srv`, and what an ARN has behind `:secret:`."""
    name, before = (
        (match["strong"] or "").lower(),
        match.string[max(match.start() - 1, 0) : match.start()],
    )
    return (name == "pwd" and value[0] in "/~") or (name == "secret" and before == ":")


def _is_like_a_password(value: str) -> bool:
    """A word of a sentence is not."""
    letters = any(c.isalpha() for c in value)
    return letters and any(c.isdigit() or c in "!@#$%^&*+~" for c in value)
