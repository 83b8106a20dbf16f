"""`local-conductor` and `demo`: without a Conductor."""

from pathlib import Path
from typing import Annotated

import typer

from dbos_mcp.cli.terminal import err, out, say, until_interrupted


def local_conductor(
    context: typer.Context,
    system_database_url: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="The system database: sqlite:///… or postgresql://…",
            envvar="DBOS_SYSTEM_DATABASE_URL",
        ),
    ],
    application: Annotated[
        list[str] | None,
        typer.Option("--app", metavar="NAME", help="The application to show; may be repeated."),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="The port on this machine.")
    ] = 8090,
) -> None:
    """Serve the Conductor API on loopback, in front of a DBOS system database.

    For those who run DBOS without a Conductor: `DBOS_URL=http://127.0.0.1:8090` makes any program
    that speaks the API ask this one. Name only a database of your own, since its values are
    unpickled. To mirror one, nothing needs to be served: DBOS_SYSTEM_DATABASE_URL is enough.
    """
    from dbos_mcp.local_conductor.app import serve
    from dbos_mcp.local_conductor.system_database import SystemDatabase

    context.obj.targets()
    url = f"http://127.0.0.1:{port}"
    say(f"The Conductor API is at {url} (DBOS_URL); Ctrl-C ends it.", console=err)
    with until_interrupted():
        serve(SystemDatabase(system_database_url, application or []), port=port)


def demo(
    context: typer.Context,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Keep the demo's files in this folder.", file_okay=False
        ),
    ] = None,
) -> None:
    """Run a shop of real workflows, let it fail, and ask why.

    It starts a DBOS application with a bug three workflows deep, mirrors it, asks why an order
    failed, cancels, resumes and forks a workflow, ends the application, and asks again. It takes
    less than a minute, and needs no account.
    """
    import anyio

    from dbos_mcp.demo.tour import run_tour

    context.obj.targets()
    with until_interrupted():
        anyio.run(run_tour, out, keep)
