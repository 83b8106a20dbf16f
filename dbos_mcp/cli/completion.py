"""What can follow on a command line, for the shells that ask: quick, and silent whatever happens.

Nothing is opened but dbosctl's file of profiles.
"""

import os
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import typer

PROGRAM = "dbos-mcp"
COMPLETE = "_DBOS_MCP_COMPLETE"
"""The variable by which a shell asks."""


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def show(shell: Shell | None) -> None:
    if shell is not None:
        from typer._completion_shared import get_completion_script

        script = get_completion_script(prog_name=PROGRAM, complete_var=COMPLETE, shell=shell)
        typer.echo(script)
        raise typer.Exit


def install(shell: Shell | None) -> None:
    if shell is not None:
        from typer import _completion_shared

        from dbos_mcp.cli.terminal import say

        _, path = _completion_shared.install(shell, PROGRAM, COMPLETE)
        say(f"It is in {path}, and works in the next {shell} that is started.")
        raise typer.Exit


def profile_names(incomplete: str) -> list[str]:
    from dbos_mcp.errors import DbosMcpError
    from dbos_mcp.profiles import config_folder, load_profiles

    home = Path(os.environ.get("HOME") or Path.home())
    try:
        names = list(load_profiles(config_folder(os.environ, home)).profiles)
    except DbosMcpError:
        return []
    # Shells evaluate what is completed.
    return [name for name in [*names, "all"] if re.fullmatch(r"[A-Za-z0-9][\w.@-]*", name)]


def one_profile_name(incomplete: str) -> list[str]:
    return [name for name in profile_names(incomplete) if name != "all"]


def toolset_names(incomplete: str) -> Iterator[str]:
    """After a comma, too."""
    from dbos_mcp.settings import Toolset

    *before, _ = incomplete.split(",")
    given = "".join(f"{name}," for name in before)
    for name in ("default", "all", *Toolset):
        if name not in before:
            yield f"{given}{name}"


def view_names(incomplete: str) -> list[str]:
    from dbos_mcp.inspection.views import VIEWS

    return [view.name for view in VIEWS]
