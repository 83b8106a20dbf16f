"""Whatever the commands write, to a terminal or to a file, over a mirror that means harm.

The commands are found in the program: a new one has no row below, and fails its test until it has.
"""

import json
import logging
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from dbos_mcp import cli
from dbos_mcp.cli import app
from dbos_mcp.installing.clients import CLIENTS
from tests.command_line import Done
from tests.exits import rules
from tests.exits.site import APP, HOSTILE, Site, failed_ids
from tests.loopback import served

Run = Callable[..., Done]

ROOT = Path(__file__).parents[2]
EVIL_ID, *_ = (each for each in failed_ids() if "<" in each and each.isprintable())
ALL = "SELECT workflow_id, workflow_name, error, executor_id FROM workflows"
TERMINAL = {"TTY_COMPATIBLE": "1", "NO_COLOR": "1", "TERM": "xterm", "COLUMNS": "120"}
_STYLE = re.compile(r"\x1b\[(0|1|2|3|4)(;[1-4])*m")
"""What rich writes where there are no colours; no hostile text has a style without one."""

COMMANDS: dict[str, Sequence[Sequence[str]]] = {
    "status": [[], ["--json"]],
    "rebuild": [[]],
    "export": [
        ["incident.sqlite", "--workflow", EVIL_ID, "--application", APP],
        ["since.sqlite", "--since", "-1h", "--with-payloads", "--redact-users", "--limit", "40"],
    ],
    "report": [
        [EVIL_ID, "--application", APP],
        [EVIL_ID, "--application", APP, "-o", "report.md"],
        ["--failures", "--application", APP, "-o", "failures.md"],
        ["--failures"],
    ],
    "sql": [[ALL, "--format", form] for form in ("table", "json", "markdown")]
    + [["SELECT \x1b[31m\u202e"]],
    "schema": [[], ["workflows"], ["--datasette"], ["\x1b[31m\u202e"]],
    "cache path": [[], ["--json"]],
    "cache check": [[], ["--json"]],
    "whoami": [[], ["--json"]],
    "sync": [[]],
    "doctor": [[], ["--json"], ["--deep"]],
}
ELSEWHERE = {
    "login": "tests/test_cli_login.py",
    "logout": "tests/test_cli_login.py",
    "local-conductor": "tests/local_conductor/test_app.py",
    "demo": "tests/e2e/test_demo.py",
    "serve": "tests/serving/test_command.py",
    "token create": "tests/serving/test_tokens.py",
    "token list": "tests/serving/test_tokens.py",
    "token revoke": "tests/serving/test_tokens.py",
    "cache backup": "tests/store/test_backup.py",
    "cache restore": "tests/upkeep/test_restore.py",
    "cache prune": "tests/upkeep/test_prune.py",
    **{f"install {client.name}": "tests/test_cli_install.py" for client in CLIENTS},
    "install service": "tests/installing/test_service.py",
}
"""They show nothing of the mirror: tests that run them."""
LIVE = ("whoami", "sync")


def names_of(group: TyperGroup, before: str = "") -> Iterator[str]:
    for name, each in group.commands.items():
        if isinstance(each, TyperGroup):
            yield from names_of(each, f"{before}{name} ")
        else:
            yield f"{before}{name}"


def test_each_command_is_run() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    assert set(names_of(group)) <= COMMANDS.keys() | ELSEWHERE.keys()
    assert [path for path in ELSEWHERE.values() if not (ROOT / path).exists()] == []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands are run, and may make files."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Iterator[Run]:
    """`dbos-mcp …` in this process: to start another one takes seconds."""
    levels = {
        name: logging.getLogger(name).level for name in (None, *logging.root.manager.loggerDict)
    }
    handlers = logging.root.handlers[:]

    def run(home: Path, *arguments: str, **variables: str) -> Done:
        with monkeypatch.context() as place:
            for name, value in {"HOME": str(home), **variables}.items():
                place.setenv(name, value)
            place.setattr(sys, "argv", ["dbos-mcp", *arguments])
            with pytest.raises(SystemExit) as ended:
                cli.main()
        shown = capfdbinary.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(arguments, ended.value.code, shown.out.decode(), shown.err.decode())

    yield run
    logging.root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def files_in(home: Path) -> set[Path]:
    """But those that SQLite has beside a file while it is open."""
    return {path for path in home.rglob("*") if not path.name.endswith(("-wal", "-shm"))}


def look_at(done: Done, *, is_terminal: bool = False) -> None:
    out = _STYLE.sub("", done.stdout) if is_terminal else done.stdout
    assert rules.unsafe_in(out) == set(), done.args
    if not is_terminal:  # where it has a spinner
        assert rules.unsafe_in(done.stderr) == set(), done.args
    assert "Traceback" not in done.stderr
    for line in done.stderr.splitlines():
        if line.startswith("{"):
            assert json.loads(line)["message"]


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in LIVE])
def test_what_a_command_writes_is_seen_as_it_is(
    site: Site, folder: Path, run: Run, command: str
) -> None:
    before = files_in(site.home)
    for arguments in COMMANDS[command]:
        cache = ["--offline", "--cache", str(site.cache)]
        done = run(site.home, *cache, *command.split(), *arguments)
        assert done.returncode in (0, 1, 2, 4), done.stderr
        look_at(done)
    assert files_in(site.home) == before
    for path in folder.rglob("*"):
        assert path.parent == folder
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", path.name)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        if path.suffix == ".html":
            html = path.read_text()
            assert rules.active_in(html) == []
            assert rules.unsafe_in(html) == set()
            assert len(html) < 400_000
        if path.suffix == ".md":
            written = path.read_text()
            assert rules.active_in_markdown(written) == []
            assert rules.unsafe_in(written) == set()


@pytest.mark.parametrize(
    ("command", "arguments"),
    [("status", []), ("sql", [ALL, "--format", "csv"])],
)
def test_a_terminal_gets_no_escape_of_theirs(
    site: Site, run: Run, command: str, arguments: list[str]
) -> None:
    cache = ["--offline", "--cache", str(site.cache)]
    done = run(site.home, *cache, command, *arguments, **TERMINAL)
    assert done.returncode == 0, done.stderr
    look_at(done, is_terminal=True)


def test_an_incident_file_that_means_harm_is_read_as_any_other(
    site: Site, folder: Path, run: Run
) -> None:
    file = folder / "incident.sqlite"
    cache = ["--offline", "--cache", str(site.cache)]
    arguments = ["export", str(file), "--workflow", EVIL_ID, "--application", APP]
    assert run(site.home, *cache, *arguments).returncode == 0
    for command in ("status", "schema"):
        done = run(site.home, "--offline", "--cache", str(file), command)
        assert done.returncode == 0, done.stderr
        look_at(done)


@pytest.mark.parametrize("command", [*LIVE, "doctor"])
def test_what_conductor_says_of_the_user_or_refuses_with_is_seen_as_it_is(
    site: Site, folder: Path, run: Run, command: str
) -> None:
    with served(site.conductor) as url:
        target = {"DBOS_URL": url, "DBOS_TOKEN": "no-key", "DBOS_ORG": "local"}
        for statuses in ((), (422,)):
            if command == "sync" and not statuses:
                continue  # it would read all of it
            site.conductor.refusing = statuses
            try:
                for arguments in COMMANDS[command]:
                    variables = {**target, "DBOS_MCP_LOG_LEVEL": "debug"}
                    done = run(folder, command, *arguments, **variables)
                    look_at(done)
                    assert len(done.stderr.splitlines()) > 0 or not statuses
            finally:
                site.conductor.refusing = ()


def test_there_is_something_to_keep_out() -> None:
    assert sum(bool(rules.unsafe_in(text)) for text in HOSTILE) > 300
