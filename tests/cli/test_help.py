"""What `--help` says of every command: the program is walked, so a new one is in it."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from dbos_mcp.cli import COMMANDS, app
from dbos_mcp.cli.help import PARTS, example, paragraphs, parameters, parts
from dbos_mcp.settings import Toolset
from docs.generate import commands as page

PROGRAM = typer.main.get_command(app)
assert isinstance(PROGRAM, TyperGroup)
MOST_OF_A_SUMMARY = 80


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    if isinstance(command, TyperGroup):
        for name, each in command.commands.items():
            yield from walk(each, (*path, name))


EVERY = list(walk(PROGRAM))
each_command = pytest.mark.parametrize(
    ("path", "command"), EVERY, ids=[" ".join(path) or "dbos-mcp" for path, _ in EVERY]
)


def shown(command: Any, path: tuple[str, ...]) -> list[str]:
    context = typer.Context(PROGRAM, info_name="dbos-mcp")
    for name in path:
        context = typer.Context(command, info_name=name, parent=context)
    text: str = command.get_help(context)
    return text.split("\n")


@each_command
def test_a_command_has_a_summary_and_prose(path: tuple[str, ...], command: Any) -> None:
    first, *prose = paragraphs(command)
    assert first.endswith(".")
    assert len(first) <= MOST_OF_A_SUMMARY
    assert prose
    for paragraph in prose:
        assert re.fullmatch(r"[`A-Z].*[.:]", paragraph), paragraph


@each_command
def test_options_are_phrases_with_a_word_for_their_value(
    path: tuple[str, ...], command: Any
) -> None:
    for parameter in parameters(command):
        help = parameter.help or ""
        assert re.fullmatch(r"[A-Z0-9].*[.…]", help), (parameter.name, help)
        if isinstance(parameter, TyperOption) and not parameter.is_flag:
            assert parameter.metavar or parameter.type_descriptor.choices, parameter.name


@each_command
def test_the_example_of_a_command_is_of_it_and_can_be_parsed(
    path: tuple[str, ...], command: Any
) -> None:
    program, *arguments = shlex.split(example(command))
    assert program == "dbos-mcp"
    assert isinstance(PROGRAM, TyperGroup)
    here: Any = PROGRAM
    context = PROGRAM.make_context("dbos-mcp", arguments)
    given = [*context._protected_args, *context.args]
    found = []
    while isinstance(here, TyperGroup):
        found.append(given[0])
        here = here.commands[given[0]]
        context = here.make_context(given[0], given[1:], parent=context)
        given = [*context._protected_args, *context.args]
    assert isinstance(here, TyperCommand)
    assert given == []
    assert tuple(found[: len(path)]) == path


@each_command
@pytest.mark.parametrize("columns", [40, 60, 80])
def test_help_fits_a_terminal_and_breaks_no_word(
    path: tuple[str, ...], command: Any, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    narrow = shown(command, path)
    monkeypatch.setenv("COLUMNS", "80")
    wide = shown(command, path)
    for line in narrow[: narrow.index("Example:")]:
        assert len(line) <= columns or " " not in line.strip(), line
        assert not line.endswith(" ")
    assert words(narrow) == words(wide)


def words(lines: list[str]) -> list[str]:
    return [word for word in " ".join(lines).split() if word != "\\"]


def test_every_command_is_below_a_heading_of_its_own() -> None:
    assert isinstance(PROGRAM, TyperGroup)
    found = parts(PROGRAM)
    assert list(found) == list(PARTS[:-1])
    assert sum(map(len, found.values())) == len(PROGRAM.commands) >= len(COMMANDS)


def test_the_toolsets_are_those_that_there_are() -> None:
    assert isinstance(PROGRAM, TyperGroup)
    (option,) = (each for each in parameters(PROGRAM) if each.name == "toolsets")
    assert f"default, all, {', '.join(Toolset)}." in (option.help or "")


def test_the_page_of_commands_is_what_the_program_says() -> None:
    assert page.PAGE.read_text() == page.page(), "it is out of date: `just docs` writes it"
