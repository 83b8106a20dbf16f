"""The command that starts this program as it runs now, from any folder and with any PATH; and what
of its options and of the environment has to come along."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from shutil import which
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from dbos_mcp import __version__
from dbos_mcp.errors import InstallError
from dbos_mcp.redaction import Redactor
from dbos_mcp.settings import ENVIRONMENT, SEVERAL

PACKAGE = "dbos-mcp"

_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
_OF_UV = (
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_CACHE_DIR",
)
"""From where, and into which folder: without them it might find another version, or none."""
_FILES = frozenset({"DBOS_MCP_CACHE", "DBOS_MCP_REDACT_PATTERNS", "UV_CACHE_DIR", *_CERTIFICATES})
_SHORT_LIVED = re.compile(r"(archive|builds|environments)-v\d+")
"""Folders of uv's cache: what runs from there is gone after `uv cache prune`."""


@dataclass(frozen=True)
class Entry:
    """How to start it."""

    program: tuple[str, ...]
    options: tuple[str, ...]
    variables: Mapping[str, str]
    secrets: Mapping[str, str]
    """Variables that are not for files."""

    @property
    def through_uv(self) -> bool:
        return len(self.program) > 1 and Path(self.program[0]).stem in ("uv", "uvx")


def entry_of(
    environ: Mapping[str, str],
    *,
    profiles: Sequence[str] = (),
    flags: Mapping[str, object],
    of_profile: bool = False,
) -> Entry:
    """`flags` are those before the command, by the field of `Settings` that they set."""
    is_local = bool(environ.get("DBOS_SYSTEM_DATABASE_URL"))
    program = _program(environ, is_local=is_local)
    names = [
        variable
        for variable, field in ENVIRONMENT.items()
        if not field.startswith("http_") and flags.get(field) is None
    ]
    names += [SEVERAL, *_CERTIFICATES, *_PROXIES, *map(str.lower, _PROXIES)]
    if profiles:
        names = [name for name in names if name not in ("DBOS_PROFILE", SEVERAL)]
    if of_profile:
        names.append("XDG_CONFIG_HOME")
    program = tuple(_in_utf8(word, "The path of this program") for word in program)
    options = tuple(_in_utf8(word, "An option") for word in _options(profiles, flags))
    found = Entry(program, options, {}, {})
    if found.through_uv:
        names += _OF_UV
    variables: dict[str, str] = {}
    secrets: dict[str, str] = {}
    for name in names:
        if environ.get(name):
            value = _in_utf8(_absolute(name, environ[name]), name)
            (secrets if is_secret(name, value) else variables)[name] = value
    return Entry(found.program, found.options, variables, secrets)


def _in_utf8(text: str, what: str) -> str:
    """What it is in the files that it goes into, also where Python reads in another encoding and
    keeps what it cannot read as surrogates, as a path with LANG=C.

    Raises:
        InstallError: it is in no UTF-8; its text may be a secret.
    """
    try:
        return text.encode(errors="surrogateescape").decode()
    except UnicodeError as error:
        raise InstallError(
            f"{what} is not in UTF-8, as what agents' programs read has to be.",
            hint="Give what it names another name.",
        ) from error


def is_secret(name: str, value: str) -> bool:
    """A token, or an address with a password in it."""
    if name == "DBOS_TOKEN":
        return True
    try:
        if urlsplit(value).password:
            return True
    except ValueError:
        return True  # an address that cannot be read
    return Redactor().text(value) != value


def _options(profiles: Sequence[str], flags: Mapping[str, object]) -> tuple[str, ...]:
    options = [word for name in profiles for word in ("--profile", name)]
    for field, value in flags.items():
        option = f"--{field.replace('_', '-')}"
        match value:
            case None | False:
                pass
            case True:
                options.append(option)
            case Path():
                options += [option, str(value.expanduser().absolute())]
            case _:
                options += [option, str(value)]
    return tuple(options)


def _absolute(name: str, value: str) -> str:
    if name in _FILES:
        return str(Path(value).absolute())
    if name == "UV_FIND_LINKS" and Path(value).exists():
        return str(Path(value).absolute())
    relative = re.fullmatch(r"(sqlite(?:\+\w+)?:///)(?!/|:|file:|[A-Za-z]:)([^?]+)(.*)", value)
    if name == "DBOS_SYSTEM_DATABASE_URL" and relative is not None:
        return f"{relative[1]}{Path(relative[2]).absolute().as_posix()}{relative[3]}"
    return value


def _program(environ: Mapping[str, str], *, is_local: bool) -> tuple[str, ...]:
    uv = environ.get("UV") or which("uv", path=environ.get("PATH"))
    source = _source()
    if uv and any(map(_SHORT_LIVED.fullmatch, Path(sys.prefix).parts)):
        uvx = Path(uv).with_name("uvx" + Path(uv).suffix)
        return (str(uvx.absolute()), "--from", _requirement(source, is_local), PACKAGE)
    checkout = _folder(source) if source.get("dir_info", {}).get("editable") else None
    if uv and checkout is not None and environ.get("UV_RUN_RECURSION_DEPTH"):
        extra = ("--extra", "local") if is_local else ()
        return (str(Path(uv).absolute()), "run", "--directory", str(checkout), *extra, PACKAGE)
    script = Path(sys.executable).absolute().with_name(PACKAGE + Path(sys.executable).suffix)
    if script.exists():
        return (str(script),)
    return (str(Path(sys.executable).absolute()), "-m", "dbos_mcp")


def _requirement(source: Mapping[str, object], is_local: bool) -> str:
    """What uvx has to find: what runs now, or a newer one. An older one is another program."""
    name = f"{PACKAGE}[local]" if is_local else PACKAGE
    url = str(source.get("url", ""))
    if not url:
        return f"{name}>={__version__}"
    match source.get("vcs_info"):
        case {"vcs": str() as system, "commit_id": str() as commit}:
            url = f"{system}+{url}@{commit}"
        case _ if (folder := _folder(source)) is not None:
            url = folder.as_uri()
    return f"{name} @ {url}"


def _source() -> Mapping[str, Any]:
    """From where it was installed, as PEP 610 has it; empty: from a package index."""
    try:
        text = distribution(PACKAGE).read_text("direct_url.json")
        found = json.loads(text or "{}")
    except (PackageNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _folder(source: Mapping[str, Any]) -> Path | None:
    parts = urlsplit(str(source.get("url", "")))
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None
