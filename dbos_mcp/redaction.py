"""Secrets in text from elsewhere, found by their shape or by the name beside them.

What was found becomes `[redacted:kind]`. It is better to take away a harmless word than to leave a
password; but no rule takes what only looks unusual: ids, hashes and numbers explain failures.
"""

import json
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b

Kind = str

_MARK = re.compile(r"(\[redacted:[a-z-]+(?:-[0-9a-f]{8})?\])")
_MOST_ROUNDS = 8
_MOST_USERS = 1_000

# Every pattern begins at the border of a word and takes all that can belong to the match at once
# (`++`), so that no text makes it read the same characters again and again.
_ALONE = r"(?<![\w-])"
_SHAPES: tuple[tuple[Kind, str], ...] = (
    (
        "jwt",
        rf"(?:{_ALONE}eyJ[\w-]{{8,}}+|eyJ[\w-]{{8,300}}+)\.(?:[\w-]{{4,}}+|\.[\w-]{{4,}}+)"
        r"(?:\.[\w-]*+){0,3}",
    ),
    ("dbos-key", _ALONE + r"dbos_(?=[a-z_]{0,40}+[A-Z0-9])[A-Za-z0-9_=-]{16,}+"),
    ("aws-key", r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9])"),
    ("github-token", r"(?:gh[pousr]_[A-Za-z0-9]{20,}+|github_pat_\w{20,}+)"),
    ("gitlab-token", r"gl(?:pat|dt|rt|ptt)-[\w-]{16,}+"),
    ("slack-token", r"(?:xox[a-z]-|xapp-)[A-Za-z0-9-]{10,}+"),
    ("slack-webhook", r"hooks\.slack\.com/(?:services|workflows|triggers)/[\w/-]{10,}+"),
    ("stripe-key", r"(?:(?:sk|rk)_(?:live|test)_\w{10,}+|whsec_[\w+/=]{16,}+)"),
    ("api-key", r"sk-[\w-]{20,}+"),
    ("google-key", r"(?:AIza[\w-]{35}|ya29\.[\w-]{20,}+|GOCSPX-[\w-]{20,}+)"),
    ("package-token", r"(?:npm_[A-Za-z0-9]{36}|pypi-[\w-]{40,}+)"),
    ("sendgrid-key", _ALONE + r"SG\.[\w-]{16,}+\.[\w-]{16,}+"),
    ("token", _ALONE + r"(?:hf|shpat|dop_v1|secret)_[A-Za-z0-9]{24,}+"),
)
_SHAPE = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    + "|".join(f"(?P<k{place}>{shape})" for place, (_, shape) in enumerate(_SHAPES))
    + ")",
    re.ASCII,
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    r"(?s:.*?)(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)"
)
_URL = re.compile(r":(?:\\{0,4}/){2}[^\s/?#:@'\"<>\\]{0,200}+:([^\s/?#'\"<>\\]{1,500})@")
_QUOTED_URL = re.compile(
    r"%3A%2F%2F[^\s%]{0,200}+%3A((?:[^\s%]|%(?!40|3a)[0-9a-f]{2}){1,500}+)%40",
    re.ASCII | re.IGNORECASE,
)
_DATABASE_URL = re.compile(  # whose passwords may have anything in them
    r"(?:postgres(?:ql)?|mysql|mariadb|redis|rediss|amqps?|mongodb)[+\w]{0,20}://"
    r"[^\s:@'\"<>\\]{0,100}:([^\s'\"<>\\]{1,200})@",
    re.IGNORECASE,
)
_SCHEME = re.compile(
    r"(?<![\w-])(?:(bearer)|basic|digest|negotiate)[ \t]{1,4}+([A-Za-z0-9._~+/=-]{8,}+)",
    re.ASCII | re.IGNORECASE,
)

_STRONG = (
    r"passwords?|passwd|pwd|passphrase|passcode|(?<![A-Za-z])(?:pass|pw)(?![a-z])|secrets?|api[_-]?keys?|private[_-]?keys?|access[_-]?keys?"
    r"|account[_-]?keys?|encryption[_-]?keys?|signing[_-]?keys?|credentials?|authorization"
    r"|(?:set-)?cookies?|connection[_-]?string"
    r"|(?:access|refresh|id|auth|bearer|api|session|personal)[_-]?tokens?"
)
"""Whatever they name is secret."""
_WEAK = r"tokens?|jwt|signature|sig|session(?:[_-]?id)?|auth|csrf|xsrf|otp|nonce"
"""What they name is secret if it looks so."""
_HARMLESS = (
    r"(?:name|type|count|len(?:gth)?|size|limit|max|min|policy|required|file|path|ttl|age|arn|version"
    r"|status|valid|invalid|expir\w*|url|uri|used|usage|at|error|reset|changed|missing)"
)
_QUOTE = r"(?:[\"']|u002[27])"
_NAMED = re.compile(
    rf"(?:(?P<strong>{_STRONG})|(?<![A-Za-z])(?P<weak>{_WEAK})"
    rf"|(?<=[_-])(?P<part>{_WEAK})|(?-i:(?<=[a-z])(?P<camel>Tokens?|Jwt|Signature)))"
    # The rest of the name, if it is one.
    rf"(?![_-]?{_HARMLESS}(?![a-z]))(?:[_-][\w-]{{0,40}}+|(?-i:[A-Z])\w{{0,40}}+|\d{{0,4}}+)"
    rf"(?P<separator>\\{{0,4}}{_QUOTE}?[ \t]{{0,4}}"
    r"(?:=>|:=|==|[:=]|%3[ad]|\\{1,4}u003[ad])[ \t]{0,4}"
    rf"|\\{{0,4}}[\"'][ \t]{{0,4}},[ \t]{{0,4}}(?=\\{{0,4}}[\"'])|>(?=[^\s<]))"
    r"(?:[\[({][ \t\r\n]{0,40}+(?P<inside>(?:[^\[\](){}]++|[\[({][^\[\](){}]*+[\])}])++)"
    rf"|[bru]{{0,2}}(?:(?P<escape>\\{{1,4}}){_QUOTE}(?P<escaped>[^\"'\\]{{1,10000}}+)"
    r"|\"(?P<double>(?:[^\"\\]|\\.){1,10000}+)|'(?P<single>(?:[^'\\]|\\.){1,10000}+))"
    r"|(?P<bare>(?:(?:bearer|basic|digest|negotiate|token)[ \t]{1,4}+)?"
    r"[^\s\"'&,;(){}\[\]<>|\\]++))",
    re.ASCII | re.IGNORECASE,
)
LONGER_THAN_WORDS = 20
_VALUES = ("inside", "escaped", "double", "single", "bare")
_OPTION = re.compile(
    rf"(?<![\w-])--?(?:[a-z]{{1,20}}-){{0,4}}+(?:{_STRONG}|token)[ \t]++([^\s\"'-][^\s\"']*+)",
    re.ASCII | re.IGNORECASE,
)
_NO_SECRET = frozenset({"none", "null", "nil", "true", "false", "undefined", "nan", "***", "..."})
_COOKIES = re.compile(
    r"(?<![A-Za-z])cookies?[\"']?[ \t]{0,4}:[ \t]{0,4}(?:[bru]{0,2}[\"'])?([^\s\"'{}][^\r\n\"']*+)",
    re.ASCII | re.IGNORECASE,
)
_EMAIL = re.compile(
    r"(?<![\w.+-])[\w.+-]{1,64}+(?:@|%40)[\w-]{1,63}+(?:\.[\w-]{1,63}+){1,8}", re.ASCII
)


class Redactor:
    """Takes the secrets out of the texts of one export, and counts them by kind.

    An id is redacted as any other text is, but so that two ids stay two, and one id stays one in
    all that refers to it: the mark has eight more digits, which mean nothing outside this export.
    """

    def __init__(self, users: Iterable[str] | None = None) -> None:
        """With `users`, their names and all e-mail addresses become marks as well."""
        self.found: Counter[Kind] = Counter()
        self._salt = secrets.token_bytes(16)
        self._users = None if users is None else _names(users)
        self._cached = lru_cache(maxsize=20_000)(self._look_through)

    def text(self, text: str) -> str:
        return self._redacted(text, reference=False)

    def reference(self, text: str) -> str:
        return self._redacted(text, reference=True)

    def user(self, text: str) -> str:
        """A user's name, which is no secret unless users were given."""
        if self._users is None or not text or _MARK.fullmatch(text):
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
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            pair = json.dumps({name: str(value)}, ensure_ascii=False)
            found = _NAMED.search(pair)
            if found is not None and _secret_value(found) is not None:
                self.found["password"] += 1
                return self._mark("password", str(value), numbered=False)
        if isinstance(value, Mapping | list | tuple) and _is_strong(name):
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
        """Again and again, until there is nothing left to find: what stands beside a mark may be
        seen only once the mark is there."""
        found: list[Kind] = []
        for _ in range(_MOST_ROUNDS):
            parts = _MARK.split(text)
            parts[::2] = [self._once(part, reference, found) for part in parts[::2]]
            again = "".join(parts)
            if again == text:
                return text, tuple(found)
            text = again
        found.append("unclear")
        return self._mark("unclear", text, numbered=reference), tuple(found)

    def _once(self, text: str, reference: bool, found: list[Kind]) -> str:
        def replacing(kind: Kind, part: int | str) -> Callable[[re.Match[str]], str]:
            def replace(match: re.Match[str]) -> str:
                found.append(kind)
                start, end = (at - match.start() for at in match.span(part))
                mark = self._mark(kind, match[part], numbered=reference)
                return match[0][:start] + mark + match[0][end:]

            return replace

        def named(match: re.Match[str]) -> str:
            group = _secret_value(match)
            return match[0] if group is None else replacing("password", group)(match)

        def scheme(match: re.Match[str]) -> str:
            # "Basic authentication failed" has no credentials in it.
            if not re.search(r"[\d=]", match[2]) and not (match[1] and len(match[2]) >= 20):
                return match[0]
            return replacing("authorization", 2)(match)

        def shape(match: re.Match[str]) -> str:
            kind = _SHAPES[(match.lastindex or 1) - 1][0]
            return replacing(kind, 0)(match)

        if "-----BEGIN" in text:
            text = _PRIVATE_KEY.sub(replacing("private-key", 0), text)
        if "/" in text:
            text = _URL.sub(replacing("url-password", 1), text)
            text = _DATABASE_URL.sub(replacing("url-password", 1), text)
        if "%" in text:
            text = _QUOTED_URL.sub(replacing("url-password", 1), text)
        text = _SHAPE.sub(shape, text)
        text = _apart(text, _COOKIES, replacing("password", 1))
        text = _apart(text, _NAMED, named)
        text = _apart(text, _SCHEME, scheme)
        if "-" in text:
            text = _apart(text, _OPTION, replacing("password", 1))
        if self._users is not None:
            if "@" in text or "%40" in text:
                text = _apart(text, _EMAIL, replacing("email", 0))
            text = _apart(text, self._users, self._user_in(found))
        return text

    def _user_in(self, found: list[Kind]) -> Callable[[re.Match[str]], str]:
        def replace(match: re.Match[str]) -> str:
            found.append("user")
            return self._mark("user", match[0], numbered=True)

        return replace

    def _mark(self, kind: Kind, text: str, *, numbered: bool) -> str:
        if not numbered:
            return f"[redacted:{kind}]"
        digest = blake2b(text.encode("utf-8", "replace"), key=self._salt, digest_size=4)
        return f"[redacted:{kind}-{digest.hexdigest()}]"


def _apart(text: str, pattern: re.Pattern[str], replace: Callable[[re.Match[str]], str]) -> str:
    """Replace in what stands between marks, but see the names before them."""
    return "".join(
        part if place % 2 else pattern.sub(replace, part)
        for place, part in enumerate(_MARK.split(text))
    )


def _secret_value(match: re.Match[str]) -> str | None:
    """The group that holds a named secret, if what it holds is one."""
    group = next(name for name in _VALUES if match[name] is not None)
    value = match[group].strip()
    if not value or value.lower() in _NO_SECRET or not value.strip("*.•x"):
        return None
    if match["strong"] is None and not _looks_secret(value):
        return None
    return group


def _is_strong(name: str) -> bool:
    found = _NAMED.search(json.dumps({name: "x"}, ensure_ascii=False))
    return found is not None and found["strong"] is not None


def _looks_secret(value: str) -> bool:
    """Long, and of letters and digits without a word's or a number's order; or longer than words
    are."""
    if len(value) < 12 or " " in value:
        return False
    if len(value) >= LONGER_THAN_WORDS and value.isalpha():
        return True
    return any(c.isdigit() for c in value) and any(c.isalpha() for c in value)


def _names(users: Iterable[str]) -> re.Pattern[str]:
    """Very short ones would be found in everything; they are redacted where they stand alone."""
    longest = sorted({user for user in users if len(user) > 2}, key=len, reverse=True)[:_MOST_USERS]
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest)) or '(?!)'})(?!\w)")
