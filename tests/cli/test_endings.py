"""Where stdout goes away, is full, or knows few characters; and a terminal that is narrow."""

import re
import subprocess
from pathlib import Path

import pytest

from dbos_mcp.store import projector
from dbos_mcp.store.events import ApplicationObserved
from dbos_mcp.store.migrate import open_cache
from tests.command_line import Done, command, environment, run
from tests.store.factories import BORN, observed

TERMINAL = {"TTY_COMPATIBLE": "1", "NO_COLOR": "1", "TERM": "xterm"}
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
MANY = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 5000) SELECT i FROM n"


@pytest.fixture
def cache(cache_path: Path) -> Path:
    cache = open_cache(cache_path)
    with cache.write() as connection:
        facts = [observed(f"order-{n}", error="…", created_at=BORN + n) for n in range(3)]
        shop = ApplicationObserved(application_name="shop", application_id="1", status="AVAILABLE")
        projector.record(connection, [shop, *facts], recorded_at=BORN)
    cache.close()
    return cache_path


def alone(home: Path, *arguments: str, **variables: str) -> Done:
    """In a process of its own: how wide a terminal is is looked up at the start."""
    return subprocess.run(
        command(*arguments), env=environment(home, **variables),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_a_pipe_that_is_closed_ends_it_quietly(cache: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("--offline", "--cache", str(cache), "sql", MANY, "--limit", "5000"),
        env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # before there is anything to write
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(120), said) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["status"]])
def test_a_stdout_that_is_full_is_one_sentence(
    cache: Path, tmp_path: Path, arguments: list[str]
) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command("--offline", "--cache", str(cache), *arguments),
            env=environment(tmp_path), stdout=full, stderr=subprocess.PIPE, text=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "Error: The answer could not be written: No space left on device.\n"


@pytest.mark.parametrize("arguments", [["status"], ["schema"], ["local-conductor", "--help"]])
def test_an_encoding_of_few_characters_gets_the_nearest_ones(
    cache: Path, tmp_path: Path, arguments: list[str]
) -> None:
    done = subprocess.run(
        command("--offline", "--cache", str(cache), *arguments),
        env=environment(tmp_path, PYTHONIOENCODING="ascii", LC_ALL="C"),
        capture_output=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    if "--help" in arguments:
        assert b"sqlite:///..." in done.stdout


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_the_status_of_a_narrow_terminal_has_whole_words(
    cache: Path, tmp_path: Path, columns: int
) -> None:
    terminal = {**TERMINAL, "COLUMNS": str(columns)}
    done = alone(tmp_path, "--offline", "--cache", str(cache), "status", **terminal)
    assert done.returncode == 0
    lines = _STYLE.sub("", done.stdout).splitlines()
    shown = " ".join(" ".join(lines).split())
    assert "1 application, synced by no process" in shown
    for word in ("shop", "state", "requests"):
        assert word in shown, done.stdout
    for line in lines:
        assert len(line) <= columns or " " not in line.strip(), line


@pytest.mark.parametrize(
    "variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"FORCE_COLOR": ""}, {"CI": "true"}]
)
def test_no_colour_and_no_escape_where_none_is_wanted(
    cache: Path, tmp_path: Path, variables: dict[str, str]
) -> None:
    for arguments in (["status"], ["--help"], ["sqll"]):
        done = run(tmp_path, "--offline", "--cache", str(cache), *arguments, **variables)
        assert "\x1b" not in done.stdout + done.stderr


def test_a_pager_that_is_not_there_is_told_and_not_missed(cache: Path, tmp_path: Path) -> None:
    terminal = {**TERMINAL, "LINES": "5", "COLUMNS": "80"}
    statement = MANY.replace("5000", "20")
    arguments = ["--offline", "--cache", str(cache), "sql", statement]
    done = alone(tmp_path, *arguments, **terminal, PAGER="LESS=R no-such-pager -x")
    assert done.returncode == 0
    assert "Warning: $PAGER is no-such-pager, which is not there: this goes without it." in (
        done.stderr
    )
    assert done.stdout.splitlines()[2:] == [str(n) for n in range(1, 21)]
