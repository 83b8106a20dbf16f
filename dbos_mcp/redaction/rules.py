r"""What else is secret, as somebody says in a file of their own.

    # One rule a line: a kind, and a regular expression of what is redacted as that kind.
    employee = \bE-\d{6}\b
    # Names of fields, options and headers whose value is secret, whatever it looks like.
    names = customer_pin, iban

The expressions are RE2's: whatever the text, they take time in proportion to its length, which
Python's do not, and they find the same on every machine, which a time limit would not.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbos_mcp.errors import UsageError

_NAMES = "names"
_KIND = re.compile(r"[a-z](?:[a-z-]{0,28}[a-z])?")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[ _-][A-Za-z0-9]+)*", re.ASCII)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_LONGEST_NAME = 60
_MOST_MEMORY = 8 << 20


@dataclass(frozen=True)
class Pattern:
    """What somebody looks for; its only group is the secret, or else the whole match."""

    kind: str
    expression: str
    compiled: Any  # re2 has no types

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        group = 1 if self.compiled.groups == 1 else 0
        for match in self.compiled.finditer(_LONE_SURROGATE.sub("\ufffd", text)):
            start, end = match.span(group)
            if start < end:
                yield start, end


@dataclass(frozen=True)
class Rules:
    """Somebody's own, beside those that everybody has."""

    patterns: tuple[Pattern, ...] = ()
    names: tuple[str, ...] = ()


NO_RULES = Rules()


def load_rules(path: Path) -> Rules:
    """
    Raises:
        UsageError: the file cannot be read, or what it says cannot be used; it names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"DBOS_MCP_REDACT_PATTERNS cannot be used: {path} cannot be read"
            f" ({getattr(error, 'strerror', None) or 'it is no UTF-8 text'})."
        ) from error
    patterns: list[Pattern] = []
    names: list[str] = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        key, equals, value = (part.strip() for part in text.partition("="))
        try:
            if not equals or not value:
                raise ValueError("give `kind = expression`, or `names = name, name`")
            if key == _NAMES:
                names += _names(value.split(","))
            else:
                patterns.append(_pattern(key, value))
        except ValueError as error:
            raise UsageError(
                f"DBOS_MCP_REDACT_PATTERNS cannot be used: {path}, line {number}: {error}."
            ) from error
    return Rules(tuple(patterns), tuple(dict.fromkeys(names)))


def _names(names: Iterable[str]) -> list[str]:
    found = [name.strip() for name in names]
    for name in found:
        if _NAME.fullmatch(name) is None or len(name) > _LONGEST_NAME:
            raise ValueError(
                f"{name[:80]!r} is no name: give letters and digits, with _, - or spaces between"
            )
    return found


def _pattern(kind: str, expression: str) -> Pattern:
    if _KIND.fullmatch(kind) is None:
        raise ValueError(f"{kind[:80]!r} is no kind: give up to 30 small letters, with - between")
    try:
        import re2  # an extra: it has no wheels for every system
    except ImportError as error:
        raise ValueError(
            "expressions need google-re2: install dbos-mcp[patterns]; names go without"
        ) from error
    options = re2.Options()
    options.max_mem = _MOST_MEMORY
    options.log_errors = False
    try:
        compiled = re2.compile(expression, options=options)
    except re2.error as error:
        said = error.args[0] if error.args else b""
        said = said.decode(errors="replace") if isinstance(said, bytes) else said
        raise ValueError(f"{said} (RE2 knows no look-around and no back-reference)") from error
    if compiled.search("") is not None:
        raise ValueError("this expression finds nothing everywhere")
    return Pattern(kind, expression, compiled)
