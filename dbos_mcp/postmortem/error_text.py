"""What an error text says, whichever SDK wrote it, and what it has in common with others like it.

Conductor's `error` is `str(exception)` of a Python application, JSON of `serialize-error` of a
TypeScript one, `Error()` of a Go one, and `Class: message` of a Java one. Two texts mean the same
failure when they differ only in ids, numbers, times, addresses and quoted values: `masked` has
these blanked, and keeps what names a place in code, such as an attribute or a constraint.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

LONGEST = 4_000
"""So much of a text is read: what is further behind is a trace. Of the message, half of that."""
LONGEST_MESSAGE = 2_000
LONGEST_TYPE = 120
LONGEST_MASKED = 300
REMEMBERED, LONGEST_REMEMBERED = 16_384, 500

_TYPE_WORDS = "Error|Exception|Failure|Fault|Timeout|Interrupt|Warning|Panic|Violation"
_TYPED = (
    # java.lang.IllegalStateException: …, psycopg.errors.UniqueViolation: …
    re.compile(r"((?:[A-Za-z_$][\w$]*\.)+[A-Z][\w$]*)(?:: (.*)|$)", re.DOTALL),
    # ValueError: …, TimeoutError
    re.compile(rf"([A-Z]\w*(?:{_TYPE_WORDS}))(?:: (.*)|$)", re.DOTALL),
    re.compile(r"(DBOS Error(?: \d+)?): (.*)", re.DOTALL),
    re.compile(r"(ORA-\d{5}|SQLSTATE\[?\w{5}\]?|\[Errno -?\d+\]|errno -?\d+):? (.*)", re.DOTALL),
)
_TRACE = re.compile(
    r"""
    ^[ \t]*at\s\S.*$                             # JavaScript, Java
    | ^[ \t]*File\s".*",\sline\s\d+.*\n?.*$      # Python: the place, and its line of code
    | ^[ \t]*\.\.\.\s\d+\smore[ \t]*$
    | ^Traceback\s\(most\srecent\scall\slast\):[ \t]*$
    | ^goroutine\s\d+\s\[.*$
    | ^\(Background\son\sthis\serror\sat:.*$  # SQLAlchemy
    | ^[ \t]*For\sfurther\sinformation\svisit\s.*$  # pydantic
    """,
    re.MULTILINE | re.VERBOSE,
)

_CODE_BEFORE = (
    r"(?:attribute|arguments?:?|reading|property|column|relation|constraint|table|index|module"
    r"|method|function|callable|variable|parameter)\s\(?"
)
_WORD, _END = r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])"
_IDENTIFIER = r"[A-Za-z_$][\w$.]*"


def _code_kept(blank: str) -> Callable[[re.Match[str]], str]:
    return lambda match: match[0] if match["code"] is not None else blank


_Mask = tuple[Callable[[str], object], re.Pattern[str], str | Callable[[re.Match[str]], str]]
"""What has to be true of a text first: it is told in a part of the time, and rarely so."""


def _times(text: str, count: int) -> Callable[[str], bool]:
    return lambda message: message.count(text) >= count


# A quoted name of code stays, and so does a quoted HTTP status; any other quoted text goes.
_QUOTED: _Mask = (
    re.compile("['\"`\u2018\u201c«]").search,
    re.compile(
        rf"(?P<code>{_CODE_BEFORE}(?P<q>['\"`]){_IDENTIFIER}(?P=q)"
        rf"|(?P<r>['\"`]){_IDENTIFIER}(?P=r)(?=\sobject|\sis\snot\sdefined|\(\)|:\s)"
        r"|(?P<s>['\"])[1-5]\d\d\s[A-Z][A-Za-z -]*(?P=s))"
        r"|(?<!\w)'(?:[^'\\\n]|\\.)*'(?!\w)"
        r"|\"(?:[^\"\\\n]|\\.)*\""
        r"|`[^`\n]*`|\u2018[^\u2019\n]*\u2019|\u201c[^\u201d\n]*\u201d|«[^»\n]*»"
    ),
    _code_kept("<value>"),
)
_PATH: _Mask = (
    re.compile(r"[/\\]").search,
    re.compile(r"(?<![\w<])(?:/[\w.@-]+){2,}/?|\b[A-Z]:\\[^\s:]+"),
    "<path>",
)
# No pattern may look through the same text once more at each of its places: whoever writes an error
# may write a long one.
_MASKS: tuple[_Mask, ...] = (
    (
        _times("://", 1),
        re.compile(r"\b[a-z][a-z0-9+.-]{0,30}://[^\s'\"<>)\]]+", re.IGNORECASE),
        "<url>",
    ),
    (
        _times("@", 1),
        re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+"),
        "<email>",
    ),
    (
        _times("-", 4),
        re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE),
        "<id>",
    ),
    (
        re.compile(r"\d[-:/]\d").search,
        re.compile(
            r"\b\d{4}[-/]\d\d[-/]\d\d"
            r"(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?"
            r"|\b\d\d:\d\d:\d\d(?:[.,]\d+)?\b"
        ),
        "<time>",
    ),
    (re.compile("0[xX]").search, re.compile(r"\b0x[0-9a-f]+\b", re.IGNORECASE), "<address>"),
    (_times(".", 3), re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"), "<address>"),
    (
        _times("[", 1),
        re.compile(r"\[(?=[^\]]{0,9}:)[0-9a-f:]{2,45}\](?::\d+)?", re.IGNORECASE),
        "<address>",
    ),
    (
        _times(":", 2),
        re.compile(
            r"(?<![\w:])(?=[a-f:]{0,30}\d)(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{1,4}(?![\w:])",
            re.IGNORECASE,
        ),
        "<address>",
    ),
    _QUOTED,
    _PATH,
    (lambda message: len(message) >= 40, re.compile(r"\b[A-Za-z0-9+/_-]{40,}={0,2}"), "<data>"),
    # Hexadecimal, or letters and digits in turns: nobody's word.
    (
        re.compile(r"[A-Za-z]\d|\d[A-Za-z]").search,
        re.compile(
            rf"{_WORD}(?:(?=[A-Fa-f]*\d)(?=\d*[A-Fa-f])[0-9A-Fa-f]{{8,}}"
            rf"|(?:[A-Za-z]+\d+){{2,}}[A-Za-z]*|(?:\d+[A-Za-z]+){{2,}}\d*){_END}"
        ),
        "<id>",
    ),
)
_NUMBER = r"(?:(?<!\w)[-+])?\d+(?:[.,_]\d+)*(?:e[-+]?\d+\b)?"
_NUMBERS = re.compile(rf"(?=[-+\d]){_NUMBER}", re.IGNORECASE)
# What follows such a word is the failure's own number. At most places no word begins.
_NUMBERS_AND_CODES = re.compile(
    r"(?P<code>(?<![a-z])(?=[HSCERTO])(?:"
    r"(?:(?:http|exit|status|error)[_ ]?(?:status|code)"
    r"|http(?:/[\d.]{1,9})?|status|code|errno|SQLSTATE|exit)['\"]?[ :=(]{1,3}-?\d{1,5}\b"
    r"|\berror[ =(]-?\d{1,5}\b"
    r"|\b(?:returned|responded(?: with)?|response)[ :=(]{1,3}[1-5]\d\d"
    r"(?=[.,;:)]|$|\s(?:for|from|at|on|to)\b)"
    r"|\b(?:ORA|TS|E)-?\d{4,5}\b)"
    r"|(?=\d)(?:(?<=['\"])[1-5]\d\d(?=\s[A-Z])"
    r"|(?<=\()\d{4}(?=,\s(?:['\"]|<value>))))"  # of MySQL
    rf"|(?=[-+\d]){_NUMBER}",
    re.IGNORECASE,
)
_WORDS_OF_CODES = ("http", "status", "code", "errno", "state", "exit", "error", "return", "respon")
_LIKE_A_CODE = re.compile(r"[AaSsEe]-?\d{4}|['\"(]\d{3}")
_FIELDS = re.compile(r'"(name|message|code)":\s{0,9}"((?:[^"\\]|\\.)*)"', re.DOTALL)
_SPACE = re.compile(r"\s+")
_SAYS_NOTHING = re.compile(r"(?:<\w+>|[\W_])*")


@dataclass(frozen=True)
class ErrorText:
    """`type` as the SDK named it, None where it named none: Python leaves it out."""

    type: str | None
    message: str

    @classmethod
    def read(cls, text: str) -> "ErrorText":
        text = text[:LONGEST].strip()
        serialized = _of_typescript(text)
        if serialized is not None:
            return serialized
        for typed in _TYPED:
            match = typed.match(text)
            if match is not None:
                return cls(match[1][:LONGEST_TYPE], _said(match[2] or ""))
        return cls(None, _said(text))

    @property
    def masked(self) -> str:
        """The message, without what differs from one failure of its kind to the next."""
        masked = _mask(self.message, _MASKS)
        if _SAYS_NOTHING.fullmatch(masked) and self.type is None:
            # Python's KeyError is the quoted key, and no more.
            kept = (_QUOTED, _PATH)
            masked = _mask(self.message, [mask for mask in _MASKS if mask not in kept])
        return masked[:LONGEST_MASKED]

    @property
    def kind(self) -> str:
        """Type and masked message, for people."""
        masked = self.masked
        return f"{self.type}: {masked}" if self.type and masked else self.type or masked


def kind_of(text: str) -> str:
    """What kind of error a text tells of: the same for texts that differ in data alone."""
    # What is remembered is short: a server lives long.
    return kind_of_short(text) if len(text) <= LONGEST_REMEMBERED else ErrorText.read(text).kind


@lru_cache(maxsize=REMEMBERED)
def kind_of_short(text: str) -> str:
    return ErrorText.read(text).kind


@lru_cache(maxsize=1_024)
def fingerprint(*parts: str | None) -> str:
    """A short name for a place and a kind of error: the same in every process and version."""
    named = json.dumps(parts, ensure_ascii=True)
    return blake2b(named.encode(), digest_size=5).hexdigest()


def _mask(message: str, masks: Sequence[_Mask]) -> str:
    masked = message[:LONGEST_MESSAGE]
    for applies, pattern, blank in masks:
        if applies(masked):
            masked = pattern.sub(blank, masked)
    if _may_have_a_code(masked):
        return _NUMBERS_AND_CODES.sub(_code_kept("<n>"), masked)
    return _NUMBERS.sub("<n>", masked)


def _may_have_a_code(text: str) -> bool:
    """It takes longer to keep codes than to find out that there is none."""
    lower = text.lower()
    return any(word in lower for word in _WORDS_OF_CODES) or bool(_LIKE_A_CODE.search(text))


def _of_typescript(text: str) -> ErrorText | None:
    if not text.startswith("{"):
        return None
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        # Cut off: the stack, the longest part, comes last.
        told = {name: _unescaped(value) for name, value in _FIELDS.findall(text)}
    if isinstance(told, dict) and isinstance(told.get("json"), dict):  # of superjson
        told = told["json"]
    if not isinstance(told, dict) or not isinstance(told.get("message"), str):
        return None
    name, code = told.get("name"), told.get("code")
    parts = [part for part in (name, code) if isinstance(part, str | int) and part != ""]
    type_ = _said(" ".join(map(str, parts)))[:LONGEST_TYPE]
    return ErrorText(type_ or None, _said(told["message"]))


def _unescaped(value: str) -> str:
    try:
        return str(json.loads(f'"{value}"', strict=False))
    except ValueError:  # no JSON, for all its looks
        return value


def _said(message: str) -> str:
    """In one line, without traces."""
    return _SPACE.sub(" ", _TRACE.sub("", message)).strip()
