"""Errors have one style: a sentence, then the next step, on stderr, and a code of the table."""

import re
from pathlib import Path

import pytest

from tests.command_line import run

MISTAKES = [
    (["sqll"], 2, "There is no command sqll; did you mean sql?"),
    (["check"], 2, "There is no command check; did you mean cache check?"),
    (["cache", "backupp"], 2, "There is no command backupp; did you mean backup?"),
    (["nothing-like-it"], 2, "There is no command nothing-like-it."),
    (["sql", "--fromat", "csv"], 2, "`dbos-mcp sql` has no option --fromat; did you mean --format"),
    (["sql", "x", "--format", "cvs"], 2, "none of table, csv, json, markdown; did you mean csv?"),
    (["sql"], 2, "STATEMENT is missing."),
    (["sql", "x", "y"], 2, "y is one argument too many."),
    (["sql", "x", "--limit"], 2, "--limit wants a value."),
    (["sql", "x", "--limit", "all"], 2, "--limit wants a whole number."),
    (["sql", "x", "--limit", "0"], 2, "--limit wants 1 or more."),
    (["sql", "x", "--timeout", "601"], 2, "--timeout wants 600 or less."),
    (["sync", "--watch=yes"], 2, "--watch takes no value."),
    (["status", "--cache", "x"], 2, "--cache goes before the command."),
    (["--profil", "x", "status"], 2, "`dbos-mcp` has no option --profil; did you mean --profile?"),
    (["--log-level", "inof", "status"], 2, "did you mean info?"),
    (["--toolsets", "amdin"], 2, "did you mean admin?"),
    (["--show-completion", "csh"], 2, "csh is none of bash, zsh, fish"),
    (["token"], 2, "Say what to do with `dbos-mcp token`: create, list, revoke."),
    (["cache", "prune"], 2, "--before is missing."),
    (["export", "x.sqlite"], 2, "Say what to export."),
    (["schema", "workflow"], 2, "did you mean workflows?"),
    (["report", "x", "--since", "1h"], 2, "do not fit."),
    (["sync", "--offline"], 2, "--offline goes before the command."),
    (["--profile", "prod", "status"], 2, "There is no profile prod"),
    (["token", "revoke", "nobody"], 4, "There is no token of that name or id."),
    (["--cache", "none.sqlite", "status"], 4, "There is no cache at "),
    (["\x1b[31m"], 2, "There is no command"),
    (["whoami", "\x1b]0;x\x07"], 2, "one argument too many"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "said"), MISTAKES, ids=[" ".join(each[0]) for each in MISTAKES]
)
def test_a_mistake_is_told_in_a_sentence_with_the_next_step(
    tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    lines = done.stderr.splitlines()
    assert said in lines[0]
    assert re.fullmatch(r"Error: .*[.?]", lines[0])
    assert all(re.fullmatch(r"[A-Z`].*[.?]", line) for line in lines[1:]), lines
    assert done.stderr.replace("\n", "").isprintable()


@pytest.mark.parametrize("level", ["warning", "debug"])
def test_what_nobody_expected_is_a_sentence_and_its_place_is_told_on_demand(
    tmp_path: Path, level: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from dbos_mcp.cli import ending

    def fail() -> None:
        raise KeyError("password=hunter2\x1b[31m")

    monkeypatch.setattr("sys.argv", ["dbos-mcp", "--log-level", level, "status"])
    assert ending.code_of(fail) == 1
    told = capfd.readouterr().err
    assert told.startswith(
        "Error: dbos-mcp came upon something that it does not expect (KeyError)."
    )
    assert ("Traceback" in told) == (level == "debug")
    assert ("hunter2" in told) == (level == "debug")
    assert "\x1b" not in told


def test_a_group_of_errors_that_holds_one_is_told_as_that_one(
    capfd: pytest.CaptureFixture[str],
) -> None:
    from dbos_mcp.cli import ending
    from dbos_mcp.errors import NotFoundError

    def fail() -> None:
        raise ExceptionGroup("tasks", [NotFoundError("It is gone.", hint="Look elsewhere.")])

    assert ending.code_of(fail) == 4
    assert capfd.readouterr().err == "Error: It is gone.\nLook elsewhere.\n"
