"""Completion, asked for as the shells do; and in a real bash."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import environment, run

PROFILES = """
current: staging
profiles:
  staging: {org: acme}
  prod-eu: {org: acme}
  "$(touch harm)": {org: acme}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / ".config" / "dbos"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(PROFILES)
    return tmp_path


def completed(home: Path, line: str, shell: str = "bash") -> list[str]:
    words = line.split(" ")
    asked = {
        "_DBOS_MCP_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = run(home, **asked)
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("dbos-mcp s", ["serve", "sync", "status", "sql", "schema"]),
        ("dbos-mcp cache ", ["path", "check", "backup", "restore", "prune"]),
        ("dbos-mcp sql --f", ["--format"]),
        ("dbos-mcp sql --format ", ["table", "csv", "json", "markdown"]),
        ("dbos-mcp schema e", ["events", "executors"]),
        ("dbos-mcp report --format m", ["md"]),
        ("dbos-mcp --log-level w", ["warning"]),
        ("dbos-mcp --toolsets core,s", ["core,sql", "core,sync"]),
        ("dbos-mcp --show-completion ", ["bash", "zsh", "fish"]),
        ("dbos-mcp --profile ", ["staging", "prod-eu", "all"]),
        ("dbos-mcp whoami --profile p", ["prod-eu"]),
        ("dbos-mcp sql SELECT", []),
    ],
)
def test_what_can_follow_is_told(home: Path, line: str, found: list[str]) -> None:
    assert [each for each in completed(home, line) if each] == found


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_shells_that_show_descriptions_get_them(home: Path, shell: str) -> None:
    shown = "\n".join(completed(home, "dbos-mcp whoa", shell))
    assert "whoami" in shown
    assert "Show who you are" in shown


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_a_shell_is_to_load_is_shown_and_installed(home: Path, shell: str) -> None:
    script = run(home, "--show-completion", shell).stdout
    assert "dbos-mcp" in script
    assert f"complete_{shell}" in script
    assert not list(home.glob(".bash*"))
    done = run(home, "--install-completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    path = Path(done.stdout.split("It is in ")[1].split(", and works")[0])
    assert path.is_relative_to(home)
    assert path.read_text().strip() == script.strip()


@pytest.mark.parametrize(
    "line",
    ["dbos-mcp ", "dbos-mcp --profile ", "dbos-mcp sch", "dbos-mcp --log-level ", "dbos-mcp stat"],
)
def test_completion_imports_nothing_that_takes_long(home: Path, line: str) -> None:
    words = line.split(" ")
    code = (
        "import atexit, sys; from dbos_mcp.cli import main;"
        "atexit.register(lambda: print(sorted({m.split('.')[0] for m in sys.modules}"
        " & {'sqlalchemy', 'mcp', 'httpx', 'anyio', 'starlette', 'alembic'}), file=sys.stderr));"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(
            home,
            _DBOS_MCP_COMPLETE="complete_bash",
            COMP_WORDS="\n".join(words),
            COMP_CWORD=str(len(words) - 1),
        ),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout
    assert done.stderr == "[]\n"


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_a_real_bash_completes(home: Path) -> None:
    scripts = Path(sys.executable).parent
    typed = """
        eval "$(dbos-mcp --show-completion bash)"
        COMP_WORDS=(dbos-mcp whoami --profile st) COMP_CWORD=3
        $(complete -p dbos-mcp | sed 's/.*-F \\([^ ]*\\).*/\\1/') dbos-mcp
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", typed],
        env=environment(home, PATH=f"{scripts}:/usr/bin:/bin"),
        capture_output=True, text=True, timeout=120, cwd=home,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("staging\n", "")
    assert not (home / "harm").exists()
