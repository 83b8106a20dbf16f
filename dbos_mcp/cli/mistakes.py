"""What is wrong with a command line, and what was probably meant."""

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import typer
from typer.core import TyperArgument, TyperGroup, TyperOption

from dbos_mcp.cli.completion import PROGRAM
from dbos_mcp.cli.help import choices_of, parameters, term, usage
from dbos_mcp.domain import one_line

_WANTED = (
    ("valid integer", "a whole number"),
    ("valid number", "a number"),
    (r"greater than or equal to (\S+)", "{} or more"),
    (r"less than or equal to (\S+)", "{} or less"),
)
"""What pydantic says of a value, and what that means here."""


def explained(error: typer.TyperException) -> tuple[str, str]:
    """A sentence, and the next step."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "BadOptionUsage":
        name = one_line(str(getattr(error, "option_name", "")), 80)
        says = "takes no value" if "does not take" in error.message else "wants a value"
        return f"{name} {says}.", f"`{PROGRAM} COMMAND --help` tells the options of a command."
    if context is None:
        return error.format_message(), f"`{PROGRAM} --help` tells the commands and options."
    path = context.command_path
    more = f"`{path} --help` tells more."
    parameter = getattr(error, "param", None)
    match type(error).__name__:
        case "NoSuchOption":
            return _no_such_option(str(getattr(error, "option_name", "")), context)
        case "MissingParameter" if parameter is not None:
            return f"{_named(parameter)} is missing.", f"It is `{usage(context.command, path)}`."
        case "BadParameter" if parameter is not None:
            return _bad_value(error.message, parameter), more
    if error.message.startswith("No such command"):
        return _no_such_command(error.message.split("'")[1], context)
    if error.message.startswith("Missing command"):
        names = ", ".join(context.command.commands)
        return f"Say what to do with `{path}`: {names}.", more
    if found := re.fullmatch(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", error.message):
        hint = f"It is `{usage(context.command, path)}`; quote what has spaces in it."
        return f"{one_line(found[1], 80)} is one argument too many.", hint
    return _sentence(error.format_message()), more


def _no_such_option(name: str, context: Any) -> tuple[str, str]:
    path = context.command_path
    root = context.find_root().command
    known = [each for p in parameters(context.command) for each in p.opts] + ["--help"]
    more = f"`{path} --help` tells its options."
    if name in (each for p in parameters(root) for each in p.opts):
        rest = path.removeprefix(f"{PROGRAM} ")
        return f"{name} goes before the command.", f"As `{PROGRAM} {name} … {rest}`."
    near = _nearest(name, [each for each in known if each.startswith("--") and each != "--help"])
    return f"`{path}` has no option {one_line(name, 80)}{near}", more


def _no_such_command(name: str, context: Any) -> tuple[str, str]:
    path = context.command_path
    more = f"`{path} --help` tells the commands."
    deeper = [full for full, last in _below(context.command) if last == name]
    if deeper:
        return f"There is no command {one_line(name, 80)}; did you mean {deeper[0]}?", more
    near = _nearest(name, context.command.commands)
    return f"There is no command {one_line(name, 80)}{near}", more


def _below(group: TyperGroup) -> Iterator[tuple[str, str]]:
    for name, each in group.commands.items():
        if isinstance(each, TyperGroup):
            yield from ((f"{name} {below}", below) for below in each.commands)


def _bad_value(message: str, parameter: TyperArgument | TyperOption) -> str:
    choices = choices_of(parameter)
    message = message.removeprefix("Value error, ")
    for pattern, wanted in _WANTED:
        if found := re.search(pattern, message):
            return f"{_named(parameter)} wants {wanted.format(*found.groups())}."
    if choices and (found := re.search(r"'([^']*)' is not one of", message)):
        near = _nearest(found[1], choices)
        value = one_line(found[1], 80)
        return f"{_named(parameter)}: {value} is none of {', '.join(choices)}{near}"
    return f"{_named(parameter)}: {_sentence(message)}"


def _named(parameter: TyperArgument | TyperOption) -> str:
    return term(parameter) if isinstance(parameter, TyperArgument) else max(parameter.opts, key=len)


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]}?" if near else "."


def _sentence(text: str) -> str:
    text = one_line(text, 400)
    return text if text.endswith((".", "?", "!")) else f"{text}."
