"""A service: what is printed is what systemd, launchd and cron can read, and it runs."""

import os
import plistlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dbos_mcp.errors import UsageError
from dbos_mcp.installing.entry import Entry
from dbos_mcp.installing.service import Kind, service_of, usual

HARD = '50% of $HOME\'s "a\\b" <&> é'
HOME = Path("/home/ann")


def entry(*program: str, **variables: str) -> Entry:
    return Entry(program, (), variables, {})


def test_each_platform_has_its_own() -> None:
    usuals = [usual(name) for name in ("linux", "darwin", "win32", "freebsd14")]
    assert usuals == [Kind.SYSTEMD, Kind.LAUNCHD, Kind.CRON, Kind.CRON]


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    script = tmp_path / "50% of my 'scripts' é" / "dbos-mcp"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    made = service_of(Kind.SYSTEMD, entry(str(script), DBOS_APP=HARD), home=HOME, profile="a b/c")
    assert str(made.path) == "/home/ann/.config/systemd/user/dbos-mcp-a-b-c.service"
    unit = tmp_path / "dbos-mcp.service"
    unit.write_text(made.text)
    done = subprocess.run(
        [analyze, "verify", "--user", str(unit)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if str(unit) in line]
    known = [line for line in lines if not re.search("'Restart(Steps|MaxDelaySec)'", line)]
    assert (done.returncode, known) == (0, []), done.stderr


def test_a_unit_says_each_word_as_systemd_reads_it() -> None:
    made = service_of(
        Kind.SYSTEMD,
        Entry(("/a b/dbos-mcp",), ("--cache", HARD), {"DBOS_APP": HARD}, {"DBOS_TOKEN": "canary"}),
        home=HOME,
        profile=None,
    )
    word = '"50%% of {}HOME\'s \\"a\\\\b\\" <&> é"'
    assert f'\nExecStart="/a b/dbos-mcp" --cache {word.format("$$")} sync --watch\n' in made.text
    assert f'\nEnvironment="DBOS_APP={word.format("$")[1:]}\n' in made.text
    assert "\nEnvironmentFile=-%h/.dbos-mcp/service.env\n" in made.text
    assert "canary" not in made.text
    assert made.left_out == ("DBOS_TOKEN",)


def test_launchd_reads_the_agent() -> None:
    made = service_of(Kind.LAUNCHD, entry("/a&b/dbos-mcp", DBOS_APP=HARD), home=HOME, profile=None)
    agent = plistlib.loads(made.text.encode())
    assert agent["ProgramArguments"] == ["/a&b/dbos-mcp", "sync", "--watch"]
    assert agent["EnvironmentVariables"] == {"DBOS_APP": HARD}
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert agent["Umask"] == 0o077
    assert str(made.path) == "/home/ann/Library/LaunchAgents/dbos-mcp.plist"
    assert agent["StandardErrorPath"] == "/home/ann/Library/Logs/dbos-mcp.log"


def test_cron_runs_the_line_with_its_settings_and_its_secrets(tmp_path: Path) -> None:
    program = tmp_path / "a 100% 'b'.py"
    told = tmp_path / "told"
    program.write_text(
        "import os, sys; print(sys.argv[1:], os.environ['DBOS_APP'], os.environ['DBOS_TOKEN'],"
        f" sep='|', file=open({str(told)!r}, 'w')); print('not for mail')"
    )
    folder = tmp_path / ".dbos-mcp"
    folder.mkdir()
    (folder / "service.env").write_text("DBOS_TOKEN=canary\n")
    made = service_of(
        Kind.CRON,
        Entry((sys.executable, str(program)), (), {"DBOS_APP": HARD}, {"DBOS_TOKEN": "other"}),
        home=tmp_path,
        profile=None,
    )
    assert made.text.startswith("*/5 * * * * ")
    assert "other" not in made.text
    # As cron does: an escaped % is one, any other would be the end.
    line = made.text.removeprefix("*/5 * * * * ").removesuffix("\n")
    assert re.search(r"(?<!\\)%", line) is None
    shell = line.replace(r"\%", "%")
    environ = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}
    done = subprocess.run(
        ["/bin/sh", "-c", shell], env=environ, cwd="/", capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert told.read_text() == f"['sync']|{HARD}|canary\n"


@pytest.mark.parametrize("kind", Kind)
def test_a_line_break_is_in_none(kind: Kind) -> None:
    with pytest.raises(UsageError, match="line break"):
        service_of(kind, entry("/dbos-mcp", DBOS_APP="a\n* * * * * evil"), home=HOME, profile=None)
