"""Secrets that are known by their looks, wherever they stand.

A pattern is tried only where one of its needles is in the text, which is found out a hundred times
faster. Each begins at the border of a word and takes all that can belong to the match at once
(`++`), so that no text makes it read the same characters again and again.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

Kind = str

_ALONE = r"(?<![\w-])"
_EDGE = r"(?<![A-Za-z0-9])"
_BASE64 = r"(?:[A-Za-z0-9+/=]|\\{1,4}[rn]|\s){40,}+"
_BREAK = r"(?:\r?\n|\\{1,4}n)[ \t]{0,12}"
_LAST_LINE = rf"(?:{_BREAK}[\w.-]{{1,500}}+(?=[ \t]*+(?:[\r\n\"',;)\]}}\\]|\Z)))"


def _always(match: re.Match[str]) -> bool:
    return True


class Shape(NamedTuple):
    kind: Kind
    needles: tuple[str, ...]
    """One of them is in every match; in small letters where the pattern ignores their case."""
    pattern: re.Pattern[str]
    """The secret is its group of that name; without one it is the whole match."""
    is_secret: Callable[[re.Match[str]], bool] = _always
    """The last word on what was found."""
    is_long: bool = False
    """Whatever matches has `_LONG` in it."""

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """Where the secrets are, one behind the other."""
        secret = "secret" if "secret" in self.pattern.groupindex else 0
        for match in self.pattern.finditer(text):
            if self.is_secret(match):
                yield match.span(secret)

    def is_possible_in(self, text: str, lowered: str) -> bool:
        looked_through = lowered if self.pattern.flags & re.IGNORECASE else text
        return any(needle in looked_through for needle in self.needles)


def _shape(kind: Kind, needles: str, pattern: str, flags: int = 0) -> Shape:
    return Shape(kind, tuple(needles.split()), re.compile(pattern, re.ASCII | flags))


def _starting(kind: Kind, needles: str, rest: str, edge: str = _EDGE) -> Shape:
    """One of the needles at the beginning of a word, and what follows it: long ones."""
    found = _shape(kind, needles, f"{edge}(?:{'|'.join(map(re.escape, needles.split()))}){rest}")
    return found._replace(is_long=True)


def _is_jwt(match: re.Match[str]) -> bool:
    return match[0].count(".") >= 2


def _has_a_digit(match: re.Match[str]) -> bool:
    """`Basic authentication failed` has no credentials in it."""
    found = match["secret"]
    return bool(re.search(r"[\d=]", found)) or (match["bearer"] is not None and len(found) >= 20)


def _has_pairs(match: re.Match[str]) -> bool:
    return "=" in match["secret"]


def _has_letters_and_digits(match: re.Match[str]) -> bool:
    found = match["secret"]
    return any(c.isdigit() for c in found) and any(c.isalpha() for c in found)


_DATABASES = (
    "postgres(?:ql)?|mysql|mariadb|redis|rediss|valkey|amqps?|mongodb|mssql|sqlserver|oracle"
    "|cockroach(?:db)?|clickhouse|snowflake|neo4j|bolt|nats|ldaps?|smtps?|imaps?|s?ftp|memcached"
)

SHAPES: tuple[Shape, ...] = (
    _shape(
        "private-key",
        "-----BEGIN",
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
        r"(?s:.*?)(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)",
    ),
    # Without their first line, in base64 altogether, and PuTTY's.
    _shape("private-key", "IBAA IBAD", rf"{_EDGE}MII[A-Za-z0-9+/]{{2,4}}IBA[AD]{_BASE64}"),
    _starting("private-key", "b3BlbnNzaC1rZXktdjE", _BASE64),
    _starting("private-key", "LS0tLS1CRUdJTi", rf"(?!BDRVJU|BQVUJM){_BASE64}"),
    _shape(
        "private-key",
        "Private-Lines:",
        r"Private-Lines: \d{1,4}(?P<secret>(?:\s++[A-Za-z0-9+/=]{8,200}+)++)",
    ),
    _starting("private-key", "AGE-SECRET-KEY-1", "[A-Z0-9]{20,}+"),
    # Its lines broken, then whole.
    Shape(
        "jwt",
        ("eyJ",),
        re.compile(
            rf"{_EDGE}eyJ[\w.-]{{17,500}}+(?:(?:{_BREAK}[\w.-]{{20,500}}+){{1,60}}+{_LAST_LINE}?"
            rf"|{_LAST_LINE})",
            re.ASCII,
        ),
        _is_jwt,
    ),
    _shape(
        "jwt",
        "eyJ",
        rf"{_EDGE}(?:{_ALONE}eyJ[\w-]{{8,}}+|eyJ[\w-]{{8,300}}+)"
        r"\.(?:[\w-]{4,}+|\.[\w-]{4,}+)(?:\.[\w-]*+){0,3}",
    ),
    _starting("dbos-key", "dbos_", "(?=[a-z_]{0,40}+[A-Z0-9])[A-Za-z0-9_=-]{16,}+", _ALONE),
    _starting("aws-key", "AKIA ASIA ABIA ACCA", "[A-Z0-9]{16}(?![A-Za-z0-9])"),
    _starting("github-token", "ghp_ gho_ ghu_ ghs_ ghr_", "[A-Za-z0-9]{20,}+"),
    _starting("github-token", "github_pat_", r"\w{20,}+"),
    _starting("gitlab-token", "glpat- gldt- glrt- glptt- glcbt- glsoat-", r"[\w-]{16,}+"),
    _starting(
        "slack-token",
        "xoxa- xoxb- xoxc- xoxd- xoxe- xoxo- xoxp- xoxr- xoxs- xapp-",
        r"[\w%-]{10,}+",
    ),
    _shape(
        "slack-webhook",
        "hooks.slack.com",
        r"hooks\.slack\.com/(?:services|workflows|triggers)/[\w/-]{10,}+",
    ),
    _shape(
        "webhook",
        "discord webhook.office.com",
        r"(?:discord(?:app)?\.com/api/webhooks/\d{5,30}/|webhook\.office\.com/webhookb2/)(?P<secret>[\w@/-]{20,}+)",
    ),
    _starting("stripe-key", "sk_live_ sk_test_ rk_live_ rk_test_", r"\w{10,}+"),
    _starting("stripe-key", "whsec_", r"[\w+/=]{16,}+"),
    _starting("api-key", "sk-", r"[\w-]{20,}+"),
    _starting("google-key", "AIza", r"[\w-]{35}"),
    _starting("google-key", "ya29. GOCSPX-", r"[\w-]{20,}+"),
    _starting("google-key", "1//0", r"[\w-]{30,}+"),
    _starting("package-token", "npm_", "[A-Za-z0-9]{36}"),
    _starting("package-token", "pypi-", r"[\w-]{40,}+"),
    _starting("package-token", "rubygems_", "[0-9a-f]{40,}+"),
    _starting("sendgrid-key", "SG.", r"[\w-]{16,}+\.[\w-]{16,}+", _ALONE),
    _starting("twilio-key", "SK", "[0-9a-f]{32}(?![A-Za-z0-9])", _ALONE),
    _starting("mail-key", "key-", "[0-9a-f]{32}(?![A-Za-z0-9])", _ALONE),
    _shape("mail-key", "-us", rf"{_ALONE}[0-9a-f]{{32}}-us\d{{1,2}}(?![\w-])"),
    _shape("bot-token", ":AA", rf"{_EDGE}\d{{8,10}}:AA[\w-]{{33}}(?![\w-])"),
    _shape(
        "bot-token", "M N O", rf"{_ALONE}[MNO][\w-]{{23,27}}\.[\w-]{{6}}\.[\w-]{{27,50}}(?![\w-])"
    ),
    _shape("client-secret", "8Q~", r"(?<![\w~.-])[\w~.-]{3}8Q~[\w~.-]{31,37}(?![\w~-])"),
    _shape("token", ".atlasv1.", rf"{_ALONE}[A-Za-z0-9]{{14}}\.atlasv1\.[\w-]{{60,}}+"),
    _shape("token", "pat", rf"{_ALONE}pat[A-Za-z0-9]{{14}}\.[0-9a-f]{{64}}"),
    _starting(
        "token",
        "hf_ shpat_ shpss_ shpca_ shppa_ dop_v1_ doo_v1_ dor_v1_ secret_ ntn_ lin_api_ sbp_"
        " sb_secret_ glsa_ glc_ sntrys_ sntryu_ r8_ gsk_ pscale_tkn_ pscale_pw_ figd_ bkua_"
        " dckr_pat_ nfp_ tskey- sq0atp- sq0csp- EAAA",
        r"[A-Za-z0-9][\w-]{20,}+",
        _ALONE,
    ),
    _starting("token", "dapi", "[0-9a-f]{32}(?![A-Za-z0-9])", _ALONE),
    _starting("token", "hvs. hvb. hvr.", r"[\w-]{24,}+", _ALONE),
    _starting("token", "dp.pt. dp.st. dp.ct.", r"[\w.-]{30,}+", _ALONE),
    _starting("token", "xai- pplx- PMAK- NRAK- HRKU- ATATT3 ATBB", r"[\w=-]{20,}+", _ALONE),
    _shape(
        "url-password",
        "// \\/",
        r":(?:\\{0,4}/){2}[^\s/?#:@'\"<>\\]{0,200}+:(?P<secret>[^\s/?#'\"<>\\]{1,500})@",
    ),
    _shape(  # whose passwords may have anything in them
        "url-password",
        "postgres mysql mariadb redis valkey amqp mongodb mssql sqlserver oracle cockroach"
        " clickhouse snowflake neo4j bolt nats ldap smtp imap ftp memcached",
        rf"(?:{_DATABASES})[+\w]{{0,20}}://[^\s:@'\"<>\\]{{0,100}}:(?P<secret>[^\s'\"<>\\]{{1,200}})@",
        re.IGNORECASE,
    ),
    _shape(
        "url-password",
        "%3a%2f%2f",
        r"%3A%2F%2F[^\s%]{0,200}+%3A(?P<secret>(?:[^\s%]|%(?!40|3a)[0-9a-f]{2}){1,500}+)%40",
        re.IGNORECASE,
    ),
    _shape(
        "url-password",
        "oracle:thin: sqlplus",
        r"(?:oracle:thin:|sqlplus(?:[ \t]+-\w{1,4}){0,4}[ \t]+)"
        r"\w{1,60}/(?P<secret>[^\s@'\"]{1,200})@",
        re.IGNORECASE,
    ),
    _shape(
        "password",
        "curl wget",
        rf"{_ALONE}(?:curl|wget)\b[^\n]{{0,300}}?[ \t\"'](?:-u|-U|--(?:proxy-)?user)"
        r"(?:[ \t=]|[\"'],){1,2}[ \t]?[\"']?[^\s:'\"]{1,100}:(?P<secret>[^\s'\"]{1,200})",
    ),
    _shape(
        "password",
        "mysql mariadb sshpass mongo redis-cli docker",
        rf"{_ALONE}(?:mysql\w{{0,10}}|mariadb[\w-]{{0,10}}|sshpass|mongo\w{{0,10}}|redis-cli"
        r"|docker[ \t]+login)\b[^\n]{0,300}?[ \t]-[pa][ \t]?(?P<secret>[^\s'\"-][^\s'\"]{0,200})",
    ),
    Shape(
        "password",
        ("cookie",),
        re.compile(
            r"(?<![A-Za-z])cookies?[\"']?[ \t]{0,4}:[ \t]{0,4}(?:[bru]{0,2}[\"'])?"
            r"(?P<secret>[^\s\"'{}][^\r\n\"']*+)",
            re.ASCII | re.IGNORECASE,
        ),
        _has_pairs,
    ),
    _shape(  # <add key="password" value="…"/>
        "password",
        "value=",
        r"(?:key|name)=[\"'][^\"'<>]{0,60}(?:password|pwd|secret|token|api_?key)[^\"'<>]{0,20}[\"']"
        r"[ \t]{1,4}value=[\"'](?P<secret>[^\"'<>]{1,500})[\"']",
        re.IGNORECASE,
    ),
    _shape(  # auth=("user", "…"), HTTPBasicAuth("user", "…")
        "password",
        "auth credentials login",
        r"(?:auth|credentials|login)[\"']?[ \t]{0,2}[=:]?[ \t]{0,2}[\[(][ \t]{0,4}"
        r"[bru]?[\"'][^\"'\n]{0,100}[\"'][ \t]{0,4},[ \t]{0,4}[bru]?"
        r"[\"'](?P<secret>[^\"'\n]{1,200})[\"']",
        re.IGNORECASE,
    ),
    _shape(  # .netrc
        "password",
        "login",
        r"(?<!\w)login[ \t]{1,4}\S{1,100}\s{1,20}password[ \t]{1,4}(?P<secret>\S{1,200})",
    ),
    _shape(
        "password",
        "identified",
        r"identified[ \t]{1,4}by[ \t]{1,4}(?:password[ \t]{1,4})?"
        r"[\"'](?P<secret>[^\"']{1,200})[\"']",
        re.IGNORECASE,
    ),
    _shape(
        "token",
        "token= sig= signature= apikey= auth= jwt= secret=",
        r"[?&;](?:token|sig|signature|apikey|auth|jwt|secret)=(?P<secret>[^&\s#\"'<>;]{6,2000}+)",
        re.IGNORECASE,
    ),
    Shape(
        "token",
        ("key=", "code="),
        re.compile(
            r"[?&;](?:key|code)=(?P<secret>[^&\s#\"'<>;]{12,2000}+)", re.ASCII | re.IGNORECASE
        ),
        _has_letters_and_digits,
    ),
)

EMAIL = _shape(
    "email", "@ %40", r"(?<![\w.+-])[\w.+-]{1,64}+(?:@|%40)[\w-]{1,63}+(?:\.[\w-]{1,63}+){1,8}"
)

CREDENTIALS = Shape(
    "authorization",
    ("bearer", "basic", "digest", "negotiate"),
    re.compile(
        rf"{_ALONE}(?:(?P<bearer>bearer)|basic|digest|negotiate)[ \t]{{1,4}}+"
        r"(?P<secret>[A-Za-z0-9._~+/=-]{8,}+)",
        re.ASCII | re.IGNORECASE,
    ),
    _has_a_digit,
)
"""Looked for behind names, of which `Authorization` is one."""


def _needles(wanted: Callable[[Shape], bool]) -> tuple[tuple[str, int], ...]:
    """With the places of their shapes."""
    return tuple(
        (needle, place)
        for place, shape in enumerate(SHAPES)
        for needle in shape.needles
        if wanted(shape)
    )


def _is_folded(shape: Shape) -> bool:
    return bool(shape.pattern.flags & re.IGNORECASE)


_LONG = re.compile(r"[\w.~%+/=@-]{14}", re.ASCII)
_OF_LONG = _needles(lambda shape: shape.is_long)
_FOLDED = _needles(_is_folded)
_OTHERS = _needles(lambda shape: not shape.is_long and not _is_folded(shape))


def possible_in(text: str, lowered: str) -> list[Shape]:
    """Those of which there is a needle in the text, in their order."""
    found = {place for needle, place in _OTHERS if needle in text}
    found.update([place for needle, place in _FOLDED if needle in lowered])
    if _LONG.search(text):
        found.update([place for needle, place in _OF_LONG if needle in text])
    return [SHAPES[place] for place in sorted(found)] if found else []
