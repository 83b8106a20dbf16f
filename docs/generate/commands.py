"""docs/commands.md: every command, as its own help has it. `just docs` writes it."""

import textwrap
from collections.abc import Iterator
from pathlib import Path

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from dbos_mcp.cli import app
from dbos_mcp.cli.help import (
    Parameter,
    default,
    example,
    paragraphs,
    parameters,
    parts,
    term,
    usage,
)

PAGE = Path(__file__).parents[1] / "commands.md"
PROGRAM = "dbos-mcp"
ABOUT = """\
# Commands

<!-- Made from the program by `just docs`: change the help of the command, not this page. -->

`dbos-mcp COMMAND --help` says the same. Options of the program go before the command, as in
`dbos-mcp --profile staging status`; those of a command behind it.

Answers go to stdout, all else to stderr: errors, warnings, and what a person is told meanwhile. An
error is a sentence and the next step. Exit codes: 0 done, 1 it failed, 2 wrong usage, 3 a login is
needed, 4 not found, 130 interrupted.

`NO_COLOR` and `TERM=dumb` are heeded; where stdout is no terminal there is no colour, no spinner,
and no line is broken. `dbos-mcp --install-completion bash` (or `zsh`, `fish`) lets the shell
complete commands, options and values.
"""


def page() -> str:
    program = typer.main.get_command(app)
    assert isinstance(program, TyperGroup)
    lines = [ABOUT, *_contents(program), "", *_command(program, PROGRAM, 2)]
    for listed in parts(program).values():
        for command in listed:
            lines += _command(command, f"{PROGRAM} {command.name}", 2)
            if isinstance(command, TyperGroup):
                for name, each in command.commands.items():
                    assert isinstance(each, TyperCommand)
                    lines += _command(each, f"{PROGRAM} {command.name} {name}", 3)
    return "\n".join(lines).rstrip() + "\n"


def _contents(program: TyperGroup) -> Iterator[str]:
    for heading, listed in parts(program).items():
        yield f"- {heading}: " + ", ".join(
            f"[{each.name}](#{PROGRAM}-{each.name})" for each in listed
        )


def _command(command: TyperCommand | TyperGroup, path: str, level: int) -> Iterator[str]:
    yield f"{'#' * level} {path}"
    yield ""
    for paragraph in paragraphs(command):
        yield from textwrap.wrap(paragraph, 100, break_long_words=False, break_on_hyphens=False)
        yield ""
    yield "```sh"
    yield usage(command, path)
    yield f"{example(command)}  # for example"
    yield "```"
    yield ""
    arguments = [each for each in parameters(command) if isinstance(each, TyperArgument)]
    options = [each for each in parameters(command) if isinstance(each, TyperOption)]
    for heading, rows in (("Argument", arguments), ("Option", options)):
        if rows:
            yield f"| {heading} | Meaning | Default |"
            yield "|---|---|---|"
            yield from map(_row, rows)
            yield ""


def _row(parameter: Parameter) -> str:
    name = term(parameter).replace("|", "\\|")
    left_out = "required" if parameter.required else default(parameter)
    if isinstance(parameter.envvar, str):
        left_out = f"`{parameter.envvar}`"
    return f"| `{name}` | {(parameter.help or '').replace('|', chr(92) + '|')} | {left_out} |"


if __name__ == "__main__":
    PAGE.write_text(page())
