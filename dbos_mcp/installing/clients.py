"""The programs that agents run in: where each keeps its servers, and how it wants them written."""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

from dbos_mcp.errors import InstallError, UsageError
from dbos_mcp.installing import jsonc, toml

if TYPE_CHECKING:
    from dbos_mcp.installing.entry import Entry

NAME = "dbos"
STARTS_WITHIN_SECONDS = 60
"""uv may have to fetch something first."""


@dataclass(frozen=True)
class Place:
    """Whose computer it is."""

    environ: Mapping[str, str]
    home: Path
    platform: str = sys.platform

    def set_folder(self, variable: str) -> Path | None:
        chosen = Path(self.environ.get(variable, ""))
        return chosen if chosen.is_absolute() else None

    @property
    def applications(self) -> Path:
        """Where desktop applications keep their files, as Electron has it."""
        if self.platform == "darwin":
            return self.home / "Library" / "Application Support"
        if self.platform == "win32":
            return self.set_folder("APPDATA") or self.home / "AppData" / "Roaming"
        return self.set_folder("XDG_CONFIG_HOME") or self.home / ".config"


@dataclass(frozen=True)
class Client:
    name: str
    title: str
    folders: Callable[[Place], Sequence[Path]]
    """Where it keeps its configuration: the first that is there, else the first."""
    file: str
    next_step: str
    program: str | None = None
    """What is on the PATH where it is installed."""
    signs: Sequence[str] = (".",)
    """What is in that folder where it is installed."""
    project_file: str | None = None
    """In the folder of a project, where it has one."""
    key: str = "mcpServers"
    is_typed: bool = False
    is_strict: bool = False
    """It reads JSON alone: where there is a comment, it takes the file for damaged."""
    reference: Callable[[str], str] | None = None
    """How a value says that a variable of the client's own environment is meant."""
    asks: bool = False
    """It asks for secrets, and keeps them itself."""

    @property
    def is_toml(self) -> bool:
        return self.file.endswith(".toml")

    def path(self, place: Place) -> Path:
        folders = self.folders(place)
        return next((each for each in folders if each.exists()), folders[0]) / self.file

    def is_installed(self, place: Place) -> bool:
        if self.program and which(self.program, path=place.environ.get("PATH", "")):
            return True
        folders = self.folders(place)
        return any((folder / sign).exists() for folder in folders for sign in self.signs)


@dataclass(frozen=True)
class Snippet:
    """What is to be in a client's file."""

    client: Client
    name: str
    server: Mapping[str, Any]
    program: Sequence[str] = ()
    """What its command begins with."""
    inputs: Sequence[Mapping[str, Any]] = ()
    """What VS Code asks for."""
    referred: Sequence[str] = ()
    """Secret variables that the client is to have in its own environment."""
    left_out: Sequence[str] = ()
    """Those that it cannot be given so."""

    @property
    def path(self) -> tuple[str, str]:
        return (self.client.key, self.name)

    @property
    def text(self) -> str:
        if self.client.is_toml:
            return "\n".join(toml.lines_of(self.path, self.server)) + "\n"
        whole: dict[str, Any] = {self.client.key: {self.name: self.server}}
        if self.inputs:
            whole["inputs"] = list(self.inputs)
        return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"

    def found_in(self, text: str) -> dict[str, Any] | None:
        """The server of that name that is there now.

        Raises:
            InstallError: the text cannot be read, or holds something else there.
        """
        if self.client.is_strict and text.strip():
            try:
                json.loads(text)
            except ValueError as error:
                jsonc.parse(text)
                place = (
                    f"line {error.lineno}, column {error.colno}: "
                    if isinstance(error, json.JSONDecodeError)
                    else ""
                )
                raise InstallError(
                    f"{place}{self.client.title} reads no comments, and no comma at the end"
                ) from None
        found = self._format.get(text, self.path)
        return found if isinstance(found, dict) or found is None else {"": found}

    def others_in(self, text: str) -> dict[str, list[str]]:
        """Servers of other names that start another dbos-mcp, with their commands."""
        servers = self._format.get(text, (self.client.key,))
        if not isinstance(servers, dict):
            return {}
        commands = {name: command_of(each) for name, each in servers.items() if name != self.name}
        program = list(self.program)
        return {
            name: words
            for name, words in commands.items()
            if any(map(_is_ours, words)) and words[: len(program)] != program
        }

    def is_in(self, text: str) -> bool:
        found = self.found_in(text)
        if found is None or not self.server.items() <= found.items():
            return False
        if found.keys() & _OURS != self.server.keys() & _OURS:
            return False
        return not self._missing_inputs(text)

    def put_into(self, text: str) -> str:
        """The text with it. What somebody added to a server of that name stays.

        Raises:
            InstallError: see `found_in`; or it cannot be done without changing more.
        """
        before = {
            name: value
            for name, value in (self.found_in(text) or {}).items()
            if name and name not in _OURS
        }
        text = str(self._format.with_value(text, self.path, {**self.server, **before}))
        for each in self._missing_inputs(text):
            text = jsonc.with_item(text, ("inputs",), dict(each))
        return text

    def taken_out_of(self, text: str) -> str:
        return str(self._format.without(text, self.path))

    def _missing_inputs(self, text: str) -> list[Mapping[str, Any]]:
        there = (jsonc.get(text, ("inputs",)) or []) if self.inputs else []
        known = [each.get("id") for each in there if isinstance(each, dict)]
        return [each for each in self.inputs if each["id"] not in known]

    @property
    def _format(self) -> Any:
        return toml if self.client.is_toml else jsonc


_OURS = {"type", "command", "args", "env", "env_vars"}


def snippet_of(
    client: Client, entry: "Entry", *, name: str = NAME, with_secrets: bool = False
) -> Snippet:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise UsageError(
            "A server's name has letters of English, digits, - and _ only.",
            hint="Give another --name, as dbos-staging.",
        )
    server: dict[str, Any] = {"type": "stdio"} if client.is_typed else {}
    server["command"], *server["args"] = (*entry.program, *entry.options)
    variables = dict(entry.variables)
    inputs: list[Mapping[str, Any]] = []
    referred: list[str] = []
    left_out: list[str] = []
    for variable, value in entry.secrets.items():
        if with_secrets:
            variables[variable] = value
        elif client.asks:
            id_ = f"{name}-{variable.removeprefix('DBOS_').lower().replace('_', '-')}"
            variables[variable] = f"${{input:{id_}}}"
            inputs.append(
                {"type": "promptString", "id": id_, "description": variable, "password": True}
            )
        elif client.reference is not None:
            variables[variable] = client.reference(variable)
            referred.append(variable)
        elif client.is_toml:
            referred.append(variable)
        else:
            left_out.append(variable)
    if client.is_toml:
        if referred:
            server["env_vars"] = referred
        if entry.through_uv:
            server["startup_timeout_sec"] = STARTS_WITHIN_SECONDS
    if variables:
        server["env"] = variables
    return Snippet(client, name, server, entry.program, inputs, referred, left_out)


def command_of(server: object) -> list[str]:
    """As it is written, as far as it is a command."""
    if not isinstance(server, dict):
        return []
    args = server.get("args")
    words = [server.get("command"), *(args if isinstance(args, list) else [])]
    return [word for word in words if isinstance(word, str)]


def _is_ours(word: str) -> bool:
    """`dbos-mcp`, with a path, extras or a version perhaps."""
    last = re.split(r"[\\/]", word)[-1]
    return re.fullmatch(r"dbos[-_]mcp(\.exe)?([\[@=<>~! ].*)?", last) is not None


def _braced(variable: str) -> str:
    return f"${{{variable}:-}}"  # nothing where it is not set, which is no fault then


def _env(variable: str) -> str:
    return f"${{env:{variable}}}"


def _of_claude_desktop(place: Place) -> Sequence[Path]:
    if place.platform != "win32":
        return [place.applications / "Claude"]
    # The installer from the web is a package, whose files Windows keeps apart.
    local = place.set_folder("LOCALAPPDATA") or place.home / "AppData" / "Local"
    packages = sorted((local / "Packages").glob("Claude_*/LocalCache/Roaming/Claude"))
    return [*packages, place.applications / "Claude"]


def _of_vscode(place: Place) -> Sequence[Path]:
    names = ("Code", "Code - Insiders", "VSCodium")
    return [place.applications / name / "User" for name in names]


CLIENTS = (
    Client(
        "claude-code",
        "Claude Code",
        lambda place: [place.set_folder("CLAUDE_CONFIG_DIR") or place.home],
        ".claude.json",
        "Start Claude Code anew; `/mcp` in it shows the server.",
        is_strict=True,
        program="claude",
        signs=(".claude.json", ".claude"),
        project_file=".mcp.json",
        is_typed=True,
        reference=_braced,
    ),
    Client(
        "claude-desktop",
        "Claude Desktop",
        _of_claude_desktop,
        "claude_desktop_config.json",
        "Quit Claude Desktop and start it anew.",
        is_strict=True,
    ),
    Client(
        "cursor",
        "Cursor",
        lambda place: [place.home / ".cursor"],
        "mcp.json",
        "Cursor shows the server in its settings, below MCP; switch it on there.",
        program="cursor",
        project_file=".cursor/mcp.json",
        reference=_env,
    ),
    Client(
        "vscode",
        "VS Code",
        _of_vscode,
        "mcp.json",
        "In VS Code run `MCP: List Servers`, and start it. A profile of VS Code's own other than"
        " the default has its own file: `MCP: Open User Configuration` shows it.",
        program="code",
        project_file=".vscode/mcp.json",
        key="servers",
        is_typed=True,
        asks=True,
    ),
    Client(
        "windsurf",
        "Windsurf",
        lambda place: [place.home / ".codeium" / "windsurf"],
        "mcp_config.json",
        "In Windsurf's panel of MCPs press refresh.",
        program="windsurf",
        reference=_env,
    ),
    Client(
        "codex",
        "Codex",
        lambda place: [place.set_folder("CODEX_HOME") or place.home / ".codex"],
        "config.toml",
        "Start Codex anew; `/mcp` in it shows the server.",
        program="codex",
        project_file=".codex/config.toml",
        key="mcp_servers",
    ),
)
