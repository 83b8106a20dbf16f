"""`export`: incident files."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbos_mcp.cli.options import existing_cache
from dbos_mcp.cli.terminal import redacted_text, say, until_interrupted, working
from dbos_mcp.domain import counted, now_ms, size_text
from dbos_mcp.errors import UsageError
from dbos_mcp.incident import LIMIT
from dbos_mcp.server.render import fields

if TYPE_CHECKING:
    from dbos_mcp.incident.export import Exported


def export(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to make.", dir_okay=False)],
    workflow: Annotated[
        str | None, typer.Option(metavar="ID", help="This workflow, and what belongs to it.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="What happened since: -24h, or ISO 8601 with a zone."),
    ] = None,
    application: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of this application only.")
    ] = None,
    with_payloads: Annotated[
        bool,
        typer.Option("--with-payloads", help="Also inputs and outputs, where they are mirrored."),
    ] = False,
    redact_users: Annotated[
        bool, typer.Option("--redact-users", help="Without names of users and e-mail addresses.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Workflows at the most.")] = LIMIT,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write an incident file: part of the mirror, without secrets.

    It is for a colleague, or their agent, who reads it with `--offline --cache FILE` and needs no
    login. It has the workflow with its history, steps and relatives, failures of the same cause,
    and runs that went well to compare with. Inputs and outputs stay behind unless you ask for them.
    """
    if (workflow is None) == (since is None):
        raise UsageError(
            "Say what to export.", hint="Either --workflow ID, or --since TIME, as --since -24h."
        )
    from dbos_mcp.incident import selection
    from dbos_mcp.incident.export import export as write_export
    from dbos_mcp.queries.freshness import now_offline
    from dbos_mcp.server.tools import arguments
    from dbos_mcp.store.migrate import open_cache

    now = now_ms()
    settings = context.obj.target()
    cache = open_cache(existing_cache(settings), writable=False)
    try:
        with (
            until_interrupted("Nothing was written."),
            working("Exporting…"),
            cache.read() as connection,
        ):
            seen = now_offline(connection, application, now=now) if settings.offline else now
            began = arguments.time("--since", since, now=seen)
            if workflow is not None:
                chosen = selection.select_workflow(connection, application, workflow, limit=limit)
            else:
                chosen = selection.select_since(connection, application, began or now, limit=limit)
            done = write_export(
                connection,
                chosen,
                file,
                now=now,
                with_payloads=with_payloads,
                redact_users=redact_users,
                force=force,
            )
    finally:
        cache.close()
    _print_exported(done)


def _print_exported(done: "Exported") -> None:
    excerpt = done.excerpt
    parts = ", ".join(f"{count} {reason}" for reason, count in done.parts.items() if count)
    redacted = redacted_text(done.redacted)
    lines = [
        ("file", f"{done.path}, {size_text(done.bytes)}"),
        ("holds", excerpt.subject),
        (
            "workflows",
            f"{excerpt.workflows} of {excerpt.of_workflows}: {parts};"
            f" {counted(done.events, 'event')}, {counted(done.steps, 'step')}",
        ),
        ("left out", "; ".join(excerpt.left_out)),
        ("payloads", "inputs and outputs, as far as mirrored" if excerpt.payloads else "none"),
        ("redacted", redacted or "nothing was found; errors, ids and names are in it as they are"),
        ("open it", f"dbos-mcp --offline --cache {shlex.quote(str(done.path))}"),
    ]
    say(fields(lines, limit=2000))
