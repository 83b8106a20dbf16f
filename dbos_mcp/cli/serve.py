"""`serve`: the MCP server for one agent on stdin and stdout, or for a team over HTTP."""

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbos_mcp.cli.terminal import err, print_warning, say, until_interrupted
from dbos_mcp.errors import UsageError

if TYPE_CHECKING:
    from dbos_mcp.serving.place import Place
    from dbos_mcp.settings import Settings

LOOPBACK = "127.0.0.1"
PORT = 8321


def serve(
    context: typer.Context,
    http: Annotated[bool, typer.Option("--http", help="Over HTTP, not on stdin.")] = False,
    host: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help=f"{LOOPBACK} if none; any but loopback wants tokens."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, metavar="N", help=f"{PORT} if none.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A name by which clients come, as through a proxy; may be repeated.",
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="A web page that may ask, as https://app.example.com; may be repeated.",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The certificate, for https.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The certificate's key.")
    ] = None,
) -> None:
    """Serve MCP on stdin and stdout, or with --http for a team.

    On stdin and stdout it waits for an agent that has started it, as `dbos-mcp` alone does. With
    --http it serves many at once, on loopback without tokens and anywhere else with those that
    `dbos-mcp token create` makes. Either way it syncs while it runs.
    """
    if http:
        from dbos_mcp.serving.place import Place

        targets = context.obj.targets()
        host, port = LOOPBACK if host is None else host, PORT if port is None else port
        names, origins = tuple(allow_host or ()), tuple(allow_origin or ())
        _serve_http(targets, Place(host, port, names, origins, tls_cert, tls_key))
    elif any(option is not None for option in (host, port, allow_host, allow_origin, tls_cert)):
        raise UsageError("That is for a server over HTTP.", hint="Add --http.")
    else:
        serve_stdio(context.obj.targets)


def serve_stdio(targets: "Callable[[], Sequence[Settings]]") -> None:
    if sys.stdin is None or sys.stdout is None:
        raise UsageError(
            "There is no stdin or no stdout to speak MCP on: whoever started this has closed it.",
            hint="`dbos-mcp serve --http` needs neither.",
        )
    from dbos_mcp.cli.person import told_apart

    with until_interrupted(), told_apart():
        settings = targets()
        from dbos_mcp.server.app import build_server

        build_server(*settings).run("stdio")


def _serve_http(targets: "Sequence[Settings]", place: "Place") -> None:
    from dbos_mcp.serving.app import build_app, listen, run

    place, listener = listen(place)
    with listener:
        app = build_app(targets, place)
        # Whatever else is logged: who commanded what is to be known afterwards.
        logging.getLogger("dbos_mcp.audit").setLevel(logging.INFO)
        say(f"MCP is served at {place.url}; Ctrl-C ends it.", console=err)
        if not app.authenticated:
            say(
                "No token is asked for: every program of this machine may ask, and command.",
                console=err,
            )
        elif not place.is_loopback and place.tls_certificate is None:
            print_warning(
                "Without TLS tokens can be read on the way. Give --tls-cert and --tls-key, or put a"
                " proxy in front that has them."
            )
        run(app, place, listener)
