"""Changes one table of a TOML file, and not a character of the rest.

A table may be defined anywhere, so a new one goes to the end. What is replaced are the lines from
its header to the next one. The result is parsed again: should any other value have changed, as
where the table is written in another way, nothing has.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dbos_mcp.errors import InstallError

Path = Sequence[str]
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def get(text: str, path: Path) -> Any:
    """What is there; None if nothing is.

    Raises:
        InstallError: it is no TOML; it says where.
    """
    found: Any = _parsed(text)
    for name in path:
        if not isinstance(found, dict):
            raise InstallError(f"a table {'.'.join(path[:-1])} was expected")
        found = found.get(name)
        if found is None:
            return None
    return found


def with_value(text: str, path: Path, value: Mapping[str, Any]) -> str:
    """The text with this table there: in its place if there is one, else at the end.

    Raises:
        InstallError: see `get`; or it cannot be done so.
    """
    kept, place = _cut(text, path) if get(text, path) is not None else (text, len(text))
    table = newline_of(text).join(lines_of(path, value)) + newline_of(text)
    before, after = kept[:place], kept[place:]
    if before and not before.endswith("\n"):
        before += newline_of(text)
    if before.strip() and not before.endswith(newline_of(text) * 2):
        before += newline_of(text)
    changed = before + table + after
    if get(changed, path) != value:
        raise _not_so(path)
    return _checked(text, changed, path)


def without(text: str, path: Path) -> str:
    """The text without that table.

    Raises:
        InstallError: see `with_value`.
    """
    kept, place = _cut(text, path)
    changed = kept[:place].rstrip("\r\n") + newline_of(text) if not kept[place:].strip() else kept
    if get(changed, path) is not None:
        raise _not_so(path)
    return _checked(text, changed, path)


def lines_of(path: Path, value: Mapping[str, Any]) -> Iterator[str]:
    tables = {name: item for name, item in value.items() if isinstance(item, Mapping)}
    yield f"[{'.'.join(map(_key, path))}]"
    for name, item in value.items():
        if name not in tables:
            yield f"{_key(name)} = {_literal(item)}"
    for name, item in tables.items():
        yield ""
        yield from lines_of((*path, name), item)


def newline_of(text: str) -> str:
    first = text.find("\n")
    return "\r\n" if first > 0 and text[first - 1] == "\r" else "\n"


def _parsed(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said = str(error)
        place = re.search(r"\(at (line \d+, column \d+|end of document)\)", said)
        where = "the end" if place is None or place[1].startswith("end") else place[1]
        raise InstallError(f"{where}: this is no TOML") from None
    except RecursionError:
        raise InstallError("it is nested too deep") from None


def _cut(text: str, path: Path) -> tuple[str, int]:
    """Without the lines of the table, and where the first of them was.

    Comments in front of the next header stay: they are about what comes then.
    """
    lines = text.splitlines(keepends=True)
    cut: list[tuple[int, int]] = []
    begins: int | None = None
    offset = ends = 0
    for line in lines:
        table = _header(text[:offset], line)
        is_ours = table is not None and table[: len(path)] == list(path)
        if is_ours and begins is None:
            begins = offset
        elif table is not None and not is_ours and begins is not None:
            cut.append((begins, ends))
            begins = None
        offset += len(line)
        if line.strip() and not line.lstrip().startswith("#"):
            ends = offset
    if begins is not None:
        cut.append((begins, ends))
    if not cut:
        raise _not_so(path)
    kept = text
    for start, end in reversed(cut):
        kept = kept[:start] + kept[end:]
    return kept, cut[0][0]


def _header(before: str, line: str) -> list[str] | None:
    """The table that begins here; None where it is in the middle of a text or a list."""
    if not line.lstrip().startswith("["):
        return None
    try:
        found: Any = tomllib.loads(line)
        tomllib.loads(before)
    except tomllib.TOMLDecodeError:
        return None
    names: list[str] = []
    while isinstance(found, (dict, list)) and found:
        if isinstance(found, list):  # [[of several]]
            return ["[[", *names]
        ((name, found),) = found.items()
        names.append(name)
    return names


def _checked(before: str, after: str, path: Path) -> str:
    # As text: there 1 is not 1.0, and order counts.
    if repr(_rest(_parsed(before), path)) != repr(_rest(_parsed(after), path)):
        raise _not_so(path)
    return after


def _rest(table: dict[str, Any], path: Path) -> dict[str, Any]:
    """All but what is at the path, and what holds nothing else."""
    name, *more = path
    rest = {key: item for key, item in table.items() if key != name}
    if more and isinstance(table.get(name), dict) and (inner := _rest(table[name], more)):
        rest[f"{name}."] = inner
    return rest


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _literal(name)


def _literal(value: object) -> str:
    match value:
        case bool() | int() | float():
            return json.dumps(value)
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            return f"[{', '.join(map(_literal, value))}]"
        case Mapping():
            return f"{{ {', '.join(f'{_key(k)} = {_literal(v)}' for k, v in value.items())} }}"
        case _:
            raise InstallError("it holds a time, which is not written anew")


def _not_so(path: Path) -> InstallError:
    return InstallError(f"{'.'.join(path)} is written in a way that is not changed here")
