"""Commands that are loaded when they are needed: to start one takes no time of the others."""

import os
from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer._click.shell_completion import CompletionItem
from typer.core import TyperGroup

from dbos_mcp.cli.completion import COMPLETE
from dbos_mcp.cli.help import EXAMPLE, Commands, Group


class Registered(NamedTuple):
    name: str
    place: str
    """`module:name` below this package: a function, or the commands of a group."""
    part: str
    """The heading that it has in the program's help."""
    example: str

    def load(self) -> Any:
        module, _, name = self.place.partition(":")
        found = getattr(import_module(f"dbos_mcp.cli.{module}"), name)
        only = Commands(add_completion=False)
        only.callback()(_nothing)  # so that it is a group, also of one
        shown: dict[str, Any] = {
            "epilog": f"{EXAMPLE}{self.example}",
            "rich_help_panel": self.part,
        }
        if isinstance(found, typer.Typer):
            only.add_typer(found, name=self.name, **shown)
        else:
            only.command(self.name, **shown)(found)
        group = typer.main.get_command(only)
        assert isinstance(group, TyperGroup)
        return group.commands[self.name]


def _nothing() -> None:
    pass


class _Loaded(MutableMapping[str, Any]):
    """Those of the table, and those that were loaded anyway, in this order."""

    def __init__(self, table: tuple[Registered, ...], others: MutableMapping[str, Any]) -> None:
        self._found: dict[str, Any] = {each.name: each for each in table} | dict(others)

    def __getitem__(self, name: str) -> Any:
        found = self._found[name]
        if isinstance(found, Registered):
            found = self._found[name] = found.load()
        return found

    def __setitem__(self, name: str, command: Any) -> None:
        self._found[name] = command

    def __delitem__(self, name: str) -> None:
        del self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, name: object) -> bool:
        return name in self._found


def group_of(table: tuple[Registered, ...]) -> type[Group]:
    """What to give typer as the class of a group that has these commands."""

    class Program(Group):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.commands = _Loaded(table, self.commands)

        def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
            if os.environ.get(COMPLETE) != "complete_bash":
                return super().shell_complete(ctx, incomplete)
            names = [name for name in self.commands if name.startswith(incomplete)]
            # It shows no descriptions, for which each command would be loaded.
            options = super(TyperGroup, self).shell_complete(ctx, incomplete)
            return [*map(CompletionItem, names), *options]

    return Program
