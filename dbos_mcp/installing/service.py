"""What keeps `dbos-mcp sync` running with no agent: a unit of systemd, an agent of launchd, a line
for cron. None holds a secret: those are read from a file, where that can be done."""

import plistlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from dbos_mcp.errors import UsageError

if TYPE_CHECKING:
    from dbos_mcp.installing.entry import Entry

SECRETS_FILE = ".dbos-mcp/service.env"
"""In the home."""
MINUTES = 5
_NOT_OF_SYNC = frozenset({"DBOS_MCP_TOOLSETS", "DBOS_MCP_READ_ONLY", "DBOS_MCP_PROFILES"})

_UNIT = """\
# Keeps the mirror of dbos-mcp fresh, also while no agent runs.
# Until you say `loginctl enable-linger`, it runs only while you are logged in.
[Unit]
Description=dbos-mcp: a fresh mirror of DBOS Conductor
StartLimitIntervalSec=0

[Service]
ExecStart={command}
{environment}# Secrets, as DBOS_TOKEN=…, in a file that only you can read. It may be missing.
EnvironmentFile=-%h/{secrets}
Restart=on-failure
# Wrong settings do not mend themselves.
RestartPreventExitStatus=2
# Ever later, up to ten minutes; systemd before 254 passes over the last two.
RestartSec=30
RestartSteps=5
RestartMaxDelaySec=600
TimeoutStopSec=30
Nice=10
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes

[Install]
WantedBy=default.target
"""


class Kind(StrEnum):
    SYSTEMD = "systemd"
    LAUNCHD = "launchd"
    CRON = "cron"


def usual(platform: str) -> Kind:
    """Of this platform."""
    if platform == "darwin":
        return Kind.LAUNCHD
    return Kind.SYSTEMD if platform.startswith("linux") else Kind.CRON


@dataclass(frozen=True)
class Service:
    """What to print, and what to do with it."""

    text: str
    path: PurePath | None
    """Where it belongs; None: into what `crontab -e` edits."""
    then: str
    """The command that starts it."""
    left_out: Sequence[str]
    secrets_file: PurePath | None
    """Where secrets are read from; None: from nowhere."""


def service_of(kind: Kind, entry: "Entry", *, home: Path, profile: str | None) -> Service:
    """
    Raises:
        UsageError: a value that no such file can hold.
    """
    variables = {k: v for k, v in entry.variables.items() if k not in _NOT_OF_SYNC}
    command = [*entry.program, *entry.options, "sync"]
    for text in (*command, *variables.values()):
        if re.search(r"[\x00-\x1f\x7f]", text):
            raise UsageError(
                "A setting has a line break or a control character, which a service cannot have.",
                hint="Correct it: " + ", ".join(variables) + ".",
            )
    slug = re.sub(r"[^A-Za-z0-9]+", "-", profile or "").strip("-")
    name = f"dbos-mcp-{slug}" if slug else "dbos-mcp"
    left_out = tuple(entry.secrets)
    secrets = home / SECRETS_FILE
    match kind:
        case Kind.SYSTEMD:
            file = PurePath(home, ".config", "systemd", "user", f"{name}.service")
            then = f"systemctl --user daemon-reload && systemctl --user enable --now {name}"
            return Service(_unit([*command, "--watch"], variables), file, then, left_out, secrets)
        case Kind.LAUNCHD:
            file = PurePath(home, "Library", "LaunchAgents", f"{name}.plist")
            then = f"launchctl bootstrap gui/$(id -u) {shlex.quote(str(file))}"
            log = PurePath(home, "Library", "Logs", f"{name}.log")
            text = _agent(name, [*command, "--watch"], variables, str(log))
            return Service(text, file, then, left_out, None)
        case Kind.CRON:
            text = _line(command, variables, str(secrets) if left_out else None)
            return Service(text, None, "crontab -e", left_out, secrets)


def _unit(command: Sequence[str], variables: Mapping[str, str]) -> str:
    # The program itself is not unquoted as its arguments are.
    quoting = re.search(r"[\"'\\$]", command[0]) is not None
    program, *arguments = ("/usr/bin/env", *command) if quoting else command
    words = [_word(program), *(_word(each.replace("$", "$$")) for each in arguments)]
    lines = [f"Environment={_word(f'{name}={value}')}\n" for name, value in variables.items()]
    return _UNIT.format(command=" ".join(words), environment="".join(lines), secrets=SECRETS_FILE)


def _word(text: str) -> str:
    """systemd.syntax(7): quotes, escapes, and specifiers such as %h."""
    text = text.replace("%", "%%")
    if re.fullmatch(r"[A-Za-z0-9_./:=@%$+,-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _agent(name: str, command: Sequence[str], variables: Mapping[str, str], log: str) -> str:
    content = {
        "Label": name,
        "ProgramArguments": list(command),
        "EnvironmentVariables": dict(variables),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 60,
        "ProcessType": "Background",
        "Umask": 0o077,
        "StandardOutPath": log,
        "StandardErrorPath": log,
    }
    return plistlib.dumps(content, sort_keys=False).decode()


def _line(command: Sequence[str], variables: Mapping[str, str], secrets: str | None) -> str:
    words = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    text = " ".join([*words, shlex.join(command), ">/dev/null"])
    if secrets is not None:
        file = shlex.quote(secrets)
        text = f"set -a; [ ! -r {file} ] || . {file}; set +a; {text}"
    # To cron an unescaped % is the end of the line.
    return f"*/{MINUTES} * * * * " + text.replace("%", r"\%") + "\n"
