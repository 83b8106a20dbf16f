"""A person who starts the server at a terminal is told, and gets out; a client is not told."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.command_line import command, environment, run

INITIALIZE = (
    '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18",'
    '"capabilities":{},"clientInfo":{"name":"a person","version":"1"}}}\n'
)


@pytest.mark.parametrize(
    ("last_words", "code"), [("\x04", 0), ("\x03", 130)], ids=["Ctrl-D", "Ctrl-C"]
)
@pytest.mark.parametrize("arguments", [[], ["serve"]], ids=["alone", "serve"])
def test_they_are_told_what_to_run_and_can_end_it(
    tmp_path: Path, arguments: list[str], last_words: str, code: int
) -> None:
    ours, theirs = os.openpty()
    own_terminal = ["setsid", "--ctty", "--wait"]
    process = subprocess.Popen(
        [*own_terminal, *command("--offline", "--cache", "none.sqlite", *arguments)],
        env=environment(tmp_path), stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path,
    )  # fmt: skip
    os.close(theirs)
    shown = ""

    def read_until(text: str) -> None:
        nonlocal shown
        while text not in " ".join(shown.split()):
            shown += os.read(ours, 4096).decode()

    read_until("Ctrl-C or Ctrl-D ends it.")
    for name in ("demo", "install", "doctor", "--help"):
        assert f"dbos-mcp {name} " in shown
    os.write(ours, b"hello?\n")
    read_until("That is no message of MCP")
    os.write(ours, b"is there anybody?\n" + INITIALIZE.encode())
    read_until('"serverInfo"')
    assert shown.count("That is no message of MCP") == 1
    assert "Traceback" not in shown
    os.write(ours, last_words.encode())
    assert process.wait(60) == code
    os.close(ours)


def test_a_client_is_told_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, "--offline", "--cache", "none.sqlite")  # its stdin is /dev/null
    assert done.returncode == 0
    assert "waits for a client" not in done.stdout + done.stderr
