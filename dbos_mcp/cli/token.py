"""`token`: who may come to a server over HTTP."""

import json
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from dbos_mcp.cli.help import Commands
from dbos_mcp.cli.options import AsJson
from dbos_mcp.cli.terminal import err, out, say
from dbos_mcp.domain import Rights, counted, format_time, plain
from dbos_mcp.errors import UsageError
from dbos_mcp.server.render import Column, table

if TYPE_CHECKING:
    from dbos_mcp.serving.tokens import Token, TokenFile

app = Commands(
    help="""Make, list and revoke the tokens of `dbos-mcp serve --http`.

    A token is what a client sends to say who it is. It is shown once, and kept as a hash.
    """
)

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


@app.command(epilog="Example: dbos-mcp token create alice --expires 30d")
def create(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Whose it is: the log has it beside their commands."),
    ],
    full: Annotated[
        bool, typer.Option("--full", help="For commands, too, not for questions alone.")
    ] = False,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="How long it is good, as 12h, 30d or 8w; else until revoked."
        ),
    ] = None,
) -> None:
    """Make a token, and show it this once.

    Whoever has it may ask the server, and with --full also command. The token alone goes to stdout.
    """
    secret, token = _tokens(context).create(
        name,
        Rights.FULL if full else Rights.READ,
        lasts_ms=None if expires is None else _milliseconds(expires),
    )
    typer.echo(secret)
    may = "ask and command" if full else "ask"
    until = "it is revoked" if token.expires_at is None else format_time(token.expires_at)
    say(f"Whoever has it may {may} until {until}. It is kept nowhere: copy it now.", console=err)


@app.command("list", epilog="Example: dbos-mcp token list --json")
def list_tokens(
    context: typer.Context,
    as_json: AsJson = False,
) -> None:
    """Show whose tokens there are, what they may, and when they were used.

    The tokens themselves are kept nowhere, and cannot be shown.
    """
    tokens = _tokens(context).tokens()
    if as_json:
        typer.echo(json.dumps([token.model_dump(exclude={"sha256"}) for token in tokens], indent=2))
    elif not tokens:
        say("There are none: `dbos-mcp token create NAME` makes one.")
    else:
        columns: list[Column[Token]] = [
            ("id", lambda token: token.id),
            ("name", lambda token: token.name),
            ("rights", lambda token: token.rights),
            ("created_at", lambda token: format_time(token.created_at)),
            ("expires_at", lambda token: _time(token.expires_at)),
            ("last_used_at", lambda token: _time(token.last_used_at)),
        ]
        if not out.is_terminal:
            say(table(columns, tokens))
            return
        from dbos_mcp.cli.tables import shown

        cells = {
            heading.replace("_", " "): [plain(read(token)) for token in tokens]
            for heading, read in columns
        }
        out.print(shown(counted(len(tokens), "token"), cells), soft_wrap=False)


@app.command(epilog="Example: dbos-mcp token revoke alice")
def revoke(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name, or its id.")],
) -> None:
    """End a token, by its name or its id.

    Servers that run refuse it from now on, also where something of it still runs.
    """
    token = _tokens(context).revoke(name)
    say(f"Revoked {token.name} ({token.id}).")


def _tokens(context: typer.Context) -> "TokenFile":
    from dbos_mcp.serving.tokens import TokenFile

    return TokenFile(context.obj.targets()[0].tokens_path)


def _milliseconds(text: str) -> int:
    found = re.fullmatch(r"([1-9]\d{0,4})([hdw])", text.strip())
    if found is None:
        raise UsageError(f"{text!r} is no length of time.", hint="Give one as 12h, 30d or 8w.")
    return int(found[1]) * _UNITS[found[2]] // timedelta(milliseconds=1)


def _time(ms: int | None) -> str:
    return "never" if ms is None else format_time(ms)
