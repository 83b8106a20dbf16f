"""`install`: into the configuration of the programs that agents run in, or as a service."""

import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from dbos_mcp.cli.help import Commands
from dbos_mcp.cli.options import Options
from dbos_mcp.cli.terminal import err, out, print_warning, say
from dbos_mcp.errors import DbosMcpError, InstallError, UsageError
from dbos_mcp.installing.clients import (
    CLIENTS,
    NAME,
    Client,
    Place,
    Snippet,
    snippet_of,
)
from dbos_mcp.installing.service import Kind, service_of, usual

if TYPE_CHECKING:
    from rich.console import Console

    from dbos_mcp.installing.configuration import Configuration
    from dbos_mcp.settings import Settings

T = TypeVar("T")

app = Commands(
    help="""Let an agent's program start dbos-mcp, or have it run as a service.

    It goes into the program's own configuration, and all else in that stays as it is.
    """,
    no_args_is_help=True,
)

Profiles = Annotated[
    list[str] | None,
    typer.Option(
        "--profile", metavar="NAME", help="A profile of dbosctl's that it serves; may be repeated."
    ),
]
ReadOnly = Annotated[bool, typer.Option("--read-only", help="Offer the agent no command.")]
Print = Annotated[
    bool, typer.Option("--print", help="Print what is to be added, and write nothing.")
]
Project = Annotated[
    bool, typer.Option("--project", help="For the project in this folder, not for all of yours.")
]
Name = Annotated[str, typer.Option(metavar="NAME", help="What the agent calls the server.")]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Replace another server of that name; write where no program was found."
    ),
]
WithSecrets = Annotated[
    bool,
    typer.Option("--with-secrets", help="Write DBOS_TOKEN and passwords into the file as well."),
]
Remove = Annotated[bool, typer.Option("--remove", help="Take the server out again.")]


def _command_of(client: Client) -> Callable[..., None]:
    def install(
        context: typer.Context,
        profile: Profiles = None,
        read_only: ReadOnly = False,
        print_only: Print = False,
        project: Project = False,
        name: Name = NAME,
        force: Force = False,
        with_secrets: WithSecrets = False,
        remove: Remove = False,
    ) -> None:
        from dbos_mcp.installing.entry import entry_of

        path = _path(client, project=project)
        if remove:
            _remove(client, path, name)
            return
        if project and with_secrets:
            raise UsageError("A project's file is for others too: no secret is written into it.")
        before: Options = context.obj
        flags = {**before.flags, **({"read_only": True} if read_only else {})}
        options = Options(profile or before.profiles, flags)
        targets = options.targets()
        entry = entry_of(
            os.environ,
            profiles=options.profiles,
            flags=flags,
            of_profile=any(each.profile for each in targets),
        )
        snippet = snippet_of(client, entry, name=name, with_secrets=with_secrets)
        if print_only:
            typer.echo(snippet.text, nl=False)
            say(f"This belongs into {path}.", console=err)
            _tell_of_secrets(snippet, console=err)
            return
        if not (project or force or client.is_installed(_place())):
            raise InstallError(
                f"{client.title} was not found on this machine, so nothing was written.",
                hint=f"Install it first. --force writes {path} all the same, --print only shows"
                " what would be in it.",
            )
        _write(snippet, path, force=force)
        if with_secrets and entry.secrets:
            print_warning(f"{', '.join(entry.secrets)} can be read in {path}.")
        if project:
            say("It names places of this machine: for others it may have to be another.")
        _tell_of_secrets(snippet)
        say(_next_step(client, targets))

    return install


def _write(snippet: Snippet, path: Path, *, force: bool) -> None:
    from dbos_mcp.installing.configuration import opened
    from dbos_mcp.redaction import Redactor

    title = snippet.client.title
    try:
        with opened(path, _place().home / ".dbos-mcp") as configuration:
            found = _of(configuration, snippet.found_in)
            others = _of(configuration, snippet.others_in)
            if _of(configuration, snippet.is_in):
                say(f"{title} has it already, as {snippet.name} in {path}: nothing was changed.")
            elif found is not None and not force:
                say(f"It is: {_shown(found)}", console=err)
                say(f"It would be: {_shown(snippet.server)}", console=err)
                raise UsageError(
                    f"There is another server {snippet.name} in {path}; it was left as it is.",
                    hint="Replace it with --force, or give this one another --name.",
                )
            else:
                backup = configuration.replace(_of(configuration, snippet.put_into))
                say(f"{title} has it now, as {snippet.name} in {path}.")
                if backup is not None:
                    say(f"What was in that file before is in {backup}.")
    except InstallError as error:
        typer.echo(snippet.text, nl=False)
        hint = f"{error.hint} What is to be added was printed.".strip()
        raise InstallError(error.message, hint=hint) from error
    for name, words in others.items():
        shown = Redactor().text(shlex.join(words))
        print_warning(
            f"The server {name} in it starts a dbos-mcp as well ({shown}), perhaps an older one. If"
            f" it is not needed: `dbos-mcp install {snippet.client.name} --remove --name"
            f" {shlex.quote(name)}`."
        )


def _remove(client: Client, path: Path, name: str) -> None:
    from dbos_mcp.installing.configuration import opened

    snippet = Snippet(client, name, {})
    with opened(path, _place().home / ".dbos-mcp") as configuration:
        found = _of(configuration, snippet.found_in)
        if found is None:
            say(f"There is no server {name} in {path}: nothing was changed.")
            return
        backup = configuration.replace(_of(configuration, snippet.taken_out_of))
    say(f"{client.title} does not have it any more: {_shown(found)}")
    say(f"What was in {path} before is in {backup}.")


def _of(configuration: "Configuration", work: Callable[[str], T]) -> T:
    """What comes of its text; an error says of which file."""
    try:
        return work(configuration.text)
    except InstallError as error:
        raise InstallError(
            f"{configuration.path} cannot be used: {error.message}.", hint="It was left as it is."
        ) from error


def _path(client: Client, *, project: bool) -> Path:
    if not project:
        return client.path(_place())
    if client.project_file is None:
        raise UsageError(
            f"{client.title} has no configuration of a project.", hint="Leave --project out."
        )
    return Path.cwd() / client.project_file


def _place() -> Place:
    home = os.environ.get("HOME")
    return Place(os.environ, Path(home) if home else Path.home())


def _shown(server: Mapping[str, Any] | None) -> str:
    """Somebody's server, without what may be secret in it."""
    from dbos_mcp.redaction import Redactor

    shown = dict(server or {})
    variables = shown.get("env")
    if isinstance(variables, Mapping):
        shown["env"] = {
            name: value if _is_harmless(name, value) else "…" for name, value in variables.items()
        }
    return json.dumps(Redactor().value(shown), ensure_ascii=False)


def _is_harmless(name: str, value: object) -> bool:
    from dbos_mcp.installing.entry import is_secret
    from dbos_mcp.settings import ENVIRONMENT

    if not isinstance(value, str) or value.startswith("${"):
        return True
    return name in ENVIRONMENT and not is_secret(name, value)


def _tell_of_secrets(snippet: Snippet, *, console: "Console" = out) -> None:
    title = snippet.client.title
    if snippet.inputs:
        names = ", ".join(str(each["description"]) for each in snippet.inputs)
        say(f"{names} is not in it: {title} asks for it, and keeps it.", console=console)
    if snippet.referred:
        names = ", ".join(snippet.referred)
        say(
            f"{names} is not in it: {title} takes it from its own environment, so set it where"
            f" {title} is started.",
            console=console,
        )
    if snippet.left_out:
        names = ", ".join(snippet.left_out)
        say(
            f"{names} is not in it, and {title} knows no other way to it: log in with `dbos-mcp"
            " login` where that is possible, or have it written with --with-secrets.",
            console=console,
        )


def _next_step(client: Client, targets: "Sequence[Settings]") -> str:
    from dbos_mcp.runtime import identity_of

    for target in targets:
        if target.offline:
            continue
        try:
            identity_of(target).current()
        except DbosMcpError:
            option = f" --profile {shlex.quote(target.profile)}" if target.profile else ""
            return (
                f"Log in with `dbos-mcp login{option}`, or let the agent do it. {client.next_step}"
            )
    return client.next_step


for _client in CLIENTS:
    app.command(
        _client.name,
        help=f"Let {_client.title} start the server.\n\nIt is put into the configuration of"
        f" {_client.title}, beside what is there, and as it runs now: with the options before this"
        " command and the settings of the environment. A copy of the file stays beside it. Secrets"
        " are left out.",
        epilog=f"Example: dbos-mcp install {_client.name} --read-only",
    )(_command_of(_client))


@app.command(epilog="Example: dbos-mcp install service --print systemd")
def service(
    context: typer.Context,
    kind: Annotated[
        Kind | None, typer.Argument(help="For what; if nothing is said, for this platform.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option("--profile", metavar="NAME", help="The profile of dbosctl's to mirror."),
    ] = None,
    print_only: Print = False,
) -> None:
    """Print a service that keeps the mirror fresh.

    It runs `dbos-mcp sync` with no agent, under systemd, launchd or cron, with the options before
    this command and the settings of the environment. Secrets are left out. Nothing is written: it
    is for you to look at, and to put where it belongs.
    """
    from dbos_mcp.installing.entry import entry_of

    options: Options = context.obj
    target = options.target(profile)
    if target.offline:
        raise UsageError("A service that syncs and --offline do not go together.")
    profiles = options.profiles if profile is None else [profile]
    flags = {name: value for name, value in options.flags.items() if name in _OF_SYNC}
    entry = entry_of(
        os.environ, profiles=profiles, flags=flags, of_profile=target.profile is not None
    )
    kind = kind or usual(sys.platform)
    made = service_of(kind, entry, home=_place().home, profile=next(iter(profiles), None))
    if not print_only:
        place = "among the lines" if made.path is None else f"into {made.path}"
        raise UsageError(
            "A service is printed, not installed.",
            hint=f"`dbos-mcp install service {kind} --print` prints it. Put that {place}, with"
            f" `{made.then}`.",
        )
    typer.echo(made.text, nl=False)
    if made.path is None:
        say("Add this line with `crontab -e`.", console=err)
    else:
        say(f"This belongs into {made.path}; then: {made.then}", console=err)
    if made.left_out:
        names = ", ".join(made.left_out)
        if made.secrets_file is not None:
            say(f"{names} is not in it: write it into {made.secrets_file}, mode 0600.", console=err)
        else:
            say(
                f"{names} is not in it: log in with `dbos-mcp login` where that is possible, or"
                " add it below EnvironmentVariables, and let only you read the file.",
                console=err,
            )


_OF_SYNC = ("cache", "log_level")
