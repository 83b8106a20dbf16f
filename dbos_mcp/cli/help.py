"""What `--help` says: a summary, prose, options by the width of the terminal, and an example.

A terminal of 40 columns gets whole words, and a file or a pipe the same text as one of 80.
"""

import inspect
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any, TypeVar

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from dbos_mcp.cli.terminal import writable

Parameter = TyperArgument | TyperOption
F = TypeVar("F", bound=Callable[..., Any])

WIDEST = 80
NARROW = 56
"""Below that what is said of an option has lines of its own."""
EXAMPLE = "Example: "
PARTS = ("Getting started", "Questions", "The mirror", "The server", OTHERS := "Commands")
"""The headings of commands, in the order of the program's help."""
BEFORE = "Options such as --cache and --profile go before the command; see `dbos-mcp --help`."


class Command(TyperCommand):
    def get_help(self, ctx: Any) -> str:
        return writable("\n".join(_page(self, ctx, width())))


class Group(TyperGroup):
    def get_help(self, ctx: Any) -> str:
        return writable("\n".join(_page(self, ctx, width())))


class Commands(typer.Typer):
    """Commands that belong together, and whose help is as above."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            cls=options.pop("cls", Group),
            pretty_exceptions_enable=False,
            rich_markup_mode=None,
            **options,
        )

    def command(self, name: str | None = None, **options: Any) -> Callable[[F], F]:
        return super().command(name, cls=options.pop("cls", Command), **options)


def width() -> int:
    return max(20, min(shutil.get_terminal_size().columns, WIDEST))


def usage(command: TyperCommand | TyperGroup, path: str) -> str:
    """`dbos-mcp sql [OPTIONS] STATEMENT`"""
    arguments = [
        term(each) if each.required else f"[{term(each)}]"
        for each in parameters(command)
        if isinstance(each, TyperArgument)
    ]
    needed = [
        term(each)
        for each in parameters(command)
        if isinstance(each, TyperOption) and each.required and each.envvar is None
    ]
    if isinstance(command, TyperGroup):
        arguments.append("[COMMAND]" if command.invoke_without_command else "COMMAND")
    return " ".join([path, *needed, "[OPTIONS]", *arguments])


def summary(command: TyperCommand | TyperGroup) -> str:
    """The line that stands beside its name in a list."""
    return paragraphs(command)[0]


def paragraphs(command: TyperCommand | TyperGroup) -> list[str]:
    text = inspect.cleandoc(command.help or "")
    return [" ".join(each.split()) for each in re.split(r"\n\s*\n", text)]


def example(command: TyperCommand | TyperGroup) -> str:
    return (command.epilog or "").removeprefix(EXAMPLE)


def parameters(command: TyperCommand | TyperGroup) -> list[Parameter]:
    return [
        each
        for each in command.params
        if isinstance(each, TyperArgument | TyperOption) and not each.hidden
    ]


def term(parameter: Parameter) -> str:
    """`--limit N`, or the name of an argument."""
    if isinstance(parameter, TyperArgument):
        return _value(parameter)
    names = ", ".join(sorted(parameter.opts, key=len))
    return names if parameter.is_flag else f"{names} {_value(parameter)}"


def meaning(parameter: Parameter) -> str:
    return " ".join(filter(None, [parameter.help, _more(parameter)]))


def default(parameter: Parameter) -> str:
    value = parameter.default
    if value is None or value is False or callable(value) or parameter.show_default is False:
        return ""
    return f"{value.value if isinstance(value, Enum) else value}"


def parts(group: TyperGroup) -> dict[str, list[TyperCommand | TyperGroup]]:
    """Its commands, below the headings that they have in its help."""
    found: dict[str, list[TyperCommand | TyperGroup]] = {}
    for command in group.commands.values():
        assert isinstance(command, TyperCommand | TyperGroup)
        if not command.hidden:
            heading = command.rich_help_panel
            found.setdefault(heading if isinstance(heading, str) else OTHERS, []).append(command)
    return {heading: found[heading] for heading in sorted(found, key=PARTS.index)}


def choices_of(parameter: Parameter) -> list[str]:
    choices = parameter.type_descriptor.choices or ()
    return [str(each.value if isinstance(each, Enum) else each) for each in choices]


def _value(parameter: Parameter) -> str:
    if parameter.metavar is not None:
        return parameter.metavar
    if choices := choices_of(parameter):
        return "|".join(choices)
    return parameter.name.upper().replace("_", "-")


def _more(parameter: Parameter) -> str:
    variable = parameter.envvar
    if isinstance(variable, str):
        return f"Left out, {variable} says it."
    if parameter.required and isinstance(parameter, TyperOption):
        return "Required."
    return f"Default: {default(parameter)}." if default(parameter) else ""


def _page(command: TyperCommand | TyperGroup, context: Any, columns: int) -> Iterator[str]:
    yield from _wrapped(f"Usage: {usage(command, context.command_path)}", columns, "", " " * 7)
    for paragraph in paragraphs(command):
        yield ""
        yield from _wrapped(paragraph, columns, "  ")
    arguments = [each for each in parameters(command) if isinstance(each, TyperArgument)]
    options = [each for each in parameters(command) if isinstance(each, TyperOption)]
    if arguments:
        yield from _section("Arguments", [(term(a), meaning(a)) for a in arguments], columns)
    if isinstance(command, TyperGroup):
        found = parts(command)
        longest = max(len(each.name or "") for listed in found.values() for each in listed)
        for heading, listed in found.items():
            rows = [(each.name or "", summary(each)) for each in listed]
            yield from _section(heading, rows, columns, longest=longest)
    own = [(term(option), meaning(option)) for option in options]
    own.append(("--help", "Show this, and end."))
    yield from _section("Options", own, columns)
    if context.parent is not None:
        yield ""
        yield from _wrapped(BEFORE, columns, "")
    if example(command):
        yield from ("", "Example:", *_shell_lines(example(command), columns))


def _section(
    heading: str, rows: Sequence[tuple[str, str]], columns: int, *, longest: int | None = None
) -> Iterator[str]:
    yield ""
    yield f"{heading}:"
    if columns < NARROW:
        for name, text in rows:
            yield from _wrapped(name, columns, "  ", " " * 4)
            yield from _wrapped(text, columns, " " * 6)
        return
    left = min(longest or max(len(name) for name, _ in rows), columns // 3) + 4
    for name, text in rows:
        lines = list(_wrapped(text, columns, " " * left))
        if len(name) <= left - 4:
            first, *lines = lines or [""]
            yield f"  {name}{first[len(name) + 2 :]}"
        else:
            yield f"  {name}"
        yield from lines


def _wrapped(text: str, columns: int, indent: str, next_indent: str | None = None) -> list[str]:
    """Whole words: what is longer than a line is better wrapped by the terminal than cut."""
    return textwrap.wrap(
        text,
        columns,
        initial_indent=indent,
        subsequent_indent=indent if next_indent is None else next_indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


_QUOTED = r"""\"[^\"]*\"|'[^']*'|[^\s\"']"""


def _shell_lines(line: str, columns: int) -> Iterator[str]:
    """As a shell takes it: broken between arguments only, and with a mark."""
    indent, shown = "  ", ""
    for argument in re.findall(rf"(?:--?[a-z-]+ (?=[^-]))?(?:{_QUOTED})+", line):
        if shown and len(indent) + len(shown) + len(argument) + 3 > columns:
            yield f"{indent}{shown} \\"
            indent, shown = " " * 4, argument
        else:
            shown = f"{shown} {argument}".lstrip()
    yield f"{indent}{shown}"
