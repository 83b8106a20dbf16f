"""`token`: who may come to a server over HTTP."""

import json
import re
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from dbos_mcp.cli.terminal import err, out
from dbos_mcp.domain import Rights, format_time
from dbos_mcp.errors import UsageError
from dbos_mcp.server.render import table
from dbos_mcp.settings import DAY_MS

if TYPE_CHECKING:
    from dbos_mcp.serving.tokens import TokenFile

app = typer.Typer(help="Make, list and revoke the tokens of `dbos-mcp serve --http`.")

_UNITS_MS = {"h": DAY_MS // 24, "d": DAY_MS, "w": 7 * DAY_MS}


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Of whom: the log has it beside their commands.")],
    full: Annotated[bool, typer.Option("--full", help="For commands, too.")] = False,
    expires: Annotated[
        str | None, typer.Option(help="How long it is good, as 12h, 30d or 8w; else until revoked.")
    ] = None,
) -> None:
    """Make a token, and show it this once."""
    secret, token = _tokens(context).create(
        name,
        Rights.FULL if full else Rights.READ,
        lasts_ms=None if expires is None else _milliseconds(expires),
    )
    typer.echo(secret)
    may = "ask and command" if full else "ask"
    until = "it is revoked" if token.expires_at is None else format_time(token.expires_at)
    err.print(f"Whoever has it may {may} until {until}. It is kept nowhere: copy it now.")


@app.command("list")
def list_tokens(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show the tokens: whose they are, what they may, and when they were used; never themselves."""
    tokens = _tokens(context).tokens()
    if as_json:
        typer.echo(json.dumps([token.model_dump(exclude={"sha256"}) for token in tokens], indent=2))
    elif not tokens:
        out.print("There are none: `dbos-mcp token create NAME` makes one.")
    else:
        columns = [
            ("id", lambda token: token.id),
            ("name", lambda token: token.name),
            ("rights", lambda token: token.rights),
            ("created_at", lambda token: format_time(token.created_at)),
            ("expires_at", lambda token: _time(token.expires_at)),
            ("last_used_at", lambda token: _time(token.last_used_at)),
        ]
        out.print(escape(table(columns, tokens)))


@app.command()
def revoke(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Its name, or its id.")],
) -> None:
    """End a token: servers that run refuse it from now on."""
    token = _tokens(context).revoke(name)
    out.print(escape(f"Revoked {token.name} ({token.id})."))


def _tokens(context: typer.Context) -> "TokenFile":
    from dbos_mcp.serving.tokens import TokenFile

    return TokenFile(context.obj.targets()[0].tokens_path)


def _milliseconds(text: str) -> int:
    found = re.fullmatch(r"([1-9]\d{0,4})([hdw])", text.strip())
    if found is None:
        raise UsageError(f"{text!r} is no length of time.", hint="Give one as 12h, 30d or 8w.")
    return int(found[1]) * _UNITS_MS[found[2]]


def _time(ms: int | None) -> str:
    return "never" if ms is None else format_time(ms)
