"""`serve`: the MCP server for one agent on stdin and stdout, or for a team over HTTP."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from dbos_mcp.cli.terminal import err, print_warning, until_interrupted
from dbos_mcp.errors import UsageError
from dbos_mcp.settings import Settings

if TYPE_CHECKING:
    from dbos_mcp.serving.place import Place

LOOPBACK = "127.0.0.1"
PORT = 8321


def serve(
    context: typer.Context,
    http: Annotated[bool, typer.Option("--http", help="Over HTTP, not on stdin.")] = False,
    host: Annotated[
        str | None,
        typer.Option(help=f"The address, {LOOPBACK} if none; any but loopback wants tokens."),
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help=f"{PORT} if none.")] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name by which clients come, as through a proxy; may be repeated."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="A web page that may ask, as https://app.example.com; may be repeated."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="The certificate, for https.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key.")] = None,
) -> None:
    """Serve MCP on stdin and stdout; with --http over HTTP, for a team."""
    targets = context.obj.targets()
    if http:
        from dbos_mcp.serving.place import Place

        host, port = LOOPBACK if host is None else host, PORT if port is None else port
        names, origins = tuple(allow_host or ()), tuple(allow_origin or ())
        _serve_http(targets, Place(host, port, names, origins, tls_cert, tls_key))
    elif any(option is not None for option in (host, port, allow_host, allow_origin, tls_cert)):
        raise UsageError("That is for a server over HTTP.", hint="Add --http.")
    else:
        serve_stdio(targets)


def serve_stdio(targets: Sequence[Settings]) -> None:
    if sys.stdin is None or sys.stdout is None:
        raise UsageError(
            "There is no stdin or no stdout to speak MCP on: whoever started this has closed it.",
            hint="`dbos-mcp serve --http` needs neither.",
        )
    from dbos_mcp.server.app import build_server

    with until_interrupted():
        build_server(*targets).run("stdio")


def _serve_http(targets: Sequence[Settings], place: "Place") -> None:
    from dbos_mcp.serving.app import build_app, listen, run

    place, listener = listen(place)
    with listener:
        app = build_app(targets, place)
        # Whatever else is logged: who commanded what is to be known afterwards.
        logging.getLogger("dbos_mcp.audit").setLevel(logging.INFO)
        err.print(escape(f"MCP is served at {place.url}; Ctrl-C ends it."))
        if not app.authenticated:
            err.print("No token is asked for: every program of this machine may ask, and command.")
        elif not place.is_loopback and place.tls_certificate is None:
            print_warning(
                "Without TLS tokens can be read on the way. Give --tls-cert and --tls-key, or put a"
                " proxy in front that has them."
            )
        run(app, place, listener)
