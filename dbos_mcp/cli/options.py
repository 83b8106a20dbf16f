"""What is given before a command, and which cache file that means."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbos_mcp.cli.completion import one_profile_name
from dbos_mcp.cli.logs import log_to_stderr
from dbos_mcp.cli.terminal import print_warning
from dbos_mcp.cli.words import of_the_command_line
from dbos_mcp.errors import DbosMcpError, NotFoundError, UsageError

if TYPE_CHECKING:
    from dbos_mcp.settings import Settings


@dataclass(frozen=True)
class Options:
    """Those before the command."""

    profiles: Sequence[str]
    flags: Mapping[str, Any]

    def targets(self, profile: str | None = None) -> "tuple[Settings, ...]":
        """The settings of each target; a profile that the command itself was given wins."""
        from dbos_mcp.settings import targets_from_env

        profiles = self.profiles if profile is None else [profile]
        targets = targets_from_env(os.environ, profiles=profiles, **self.flags)
        log_to_stderr(targets[0].log_level)
        return targets

    def target(self, profile: str | None = None) -> "Settings":
        targets = self.targets(profile)
        if len(targets) > 1:
            names = ", ".join(str(target.profile) for target in targets)
            raise UsageError(
                "This is done for one profile at a time.",
                hint=f"Name it before the command, as `dbos-mcp --profile {targets[0].profile} …`:"
                f" one of {names}.",
            )
        return targets[0]


OneProfile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME",
        help="The profile of dbosctl's that says which Conductor.",
        autocompletion=one_profile_name,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]


def existing_cache(settings: "Settings") -> Path:
    """The file; it is read with a login or without, but without one it only grows older."""
    path = cache_file(settings)
    if not settings.offline:
        try:
            from dbos_mcp.runtime import identity_of

            identity_of(settings).current()
        except DbosMcpError as error:
            print_warning(of_the_command_line(f"The mirror is not kept up to date. {error}"))
    return path


def cache_file(settings: "Settings") -> Path:
    from dbos_mcp.runtime import locate_cache

    path = locate_cache(settings)
    if not path.exists():
        raise NotFoundError(f"There is no cache at {path}.", hint="`dbos-mcp sync` makes one.")
    return path
