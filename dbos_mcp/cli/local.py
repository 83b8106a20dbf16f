"""`local-conductor` and `demo`: without a Conductor."""

from pathlib import Path
from typing import Annotated

import anyio
import typer

from dbos_mcp.cli.terminal import err, out, until_interrupted


def local_conductor(
    context: typer.Context,
    system_database_url: Annotated[
        str, typer.Option(help="sqlite:///… or postgresql://…", envvar="DBOS_SYSTEM_DATABASE_URL")
    ],
    application: Annotated[
        list[str] | None, typer.Option("--app", help="The application to show; may be repeated.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8090,
) -> None:
    """Serve the Conductor API on loopback, in front of a DBOS system database."""
    from dbos_mcp.local_conductor.app import serve
    from dbos_mcp.local_conductor.system_database import SystemDatabase

    context.obj.targets()
    err.print(f"The Conductor API is at http://127.0.0.1:{port} (DBOS_URL); Ctrl-C ends it.")
    with until_interrupted():
        serve(SystemDatabase(system_database_url, application or []), port=port)


def demo(
    context: typer.Context,
    keep: Annotated[
        Path | None, typer.Option(help="Keep the demo's cache in this folder.", file_okay=False)
    ] = None,
) -> None:
    """Run a shop of real workflows, mirror it, break it, and ask what happened. Takes a minute."""
    from dbos_mcp.demo.tour import run_tour

    context.obj.targets()
    with until_interrupted():
        anyio.run(run_tour, out, keep)
