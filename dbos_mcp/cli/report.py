"""`report`: pages on a workflow, or on failures."""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbos_mcp import files
from dbos_mcp.cli.options import cache_file, existing_cache
from dbos_mcp.cli.terminal import (
    print_warning,
    redacted_text,
    say,
    until_interrupted,
    working,
)
from dbos_mcp.domain import now_ms, size_text
from dbos_mcp.errors import UsageError
from dbos_mcp.server.render import fields

if TYPE_CHECKING:
    from dbos_mcp.report.subjects import FailuresReport, WorkflowReport
    from dbos_mcp.settings import Settings


class ReportFormat(StrEnum):
    HTML = "html"
    MD = "md"


def report(
    context: typer.Context,
    workflow_id: Annotated[
        str | None, typer.Argument(metavar="WORKFLOW_ID", help="The workflow that it is on.")
    ] = None,
    failures: Annotated[
        bool, typer.Option("--failures", help="On what failed, grouped by its cause.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="With --failures: 24h, or ISO 8601 with a zone."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="With --failures; left out, it is now.")
    ] = None,
    application: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of this application.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The file to make; - is stdout. Left out, a name is made.",
            dir_okay=False,
        ),
    ] = None,
    form: Annotated[
        ReportFormat | None, typer.Option("--format", help="Left out, the file's name says it.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a report on a workflow, or on failures, to read, print or pass on.

    It is one HTML page that needs nothing but itself, or Markdown: the verdict with its evidence, a
    timeline, what sets failed runs apart, and next steps. With a login Conductor is asked first for
    what is new; without one the mirror alone answers. Secrets are taken out.
    """
    if (workflow_id is None) != failures:
        raise UsageError(
            "Say what to report on.",
            hint="Either WORKFLOW_ID, or --failures and a time, as --failures --since 24h.",
        )
    if workflow_id is not None and (since or until):
        raise UsageError(
            "A report on one workflow tells all of it: --since and --until do not fit."
        )
    import anyio

    from dbos_mcp.server import reports

    now = now_ms()
    settings = context.obj.target()
    if failures:
        existing_cache(settings)
    else:
        cache_file(settings)  # that nobody is logged in is told where Conductor is asked
    if form is None:
        form = ReportFormat.MD if output and output.suffix == ".md" else ReportFormat.HTML
    path = output or Path(reports.file_name(workflow_id, now=now, suffix=form))
    to_stdout = str(path) == "-"
    if not (force or to_stdout):
        files.require_free(path)
    with until_interrupted("Nothing was written."), working("Looking…"):
        made = anyio.run(
            partial(
                _read_report, settings, workflow_id, application, since=since, until=until, now=now
            )
        )
        text = reports.rendered(made, form)
        if to_stdout:
            typer.echo(text.encode(), nl=False)
        else:
            size = files.write(path, text, force=force)
    for warning in made.source.warnings:
        print_warning(warning)
    if not to_stdout:
        lines = [
            ("file", f"{path}, {size_text(size)}"),
            ("tells", made.title),
            ("redacted", redacted_text(made.source.redacted) or "nothing was found"),
        ]
        say(fields(lines, limit=2000))


async def _read_report(
    settings: "Settings",
    workflow_id: str | None,
    application: str | None,
    *,
    since: str | None,
    until: str | None,
    now: int,
) -> "WorkflowReport | FailuresReport":
    from dbos_mcp.runtime import open_runtime
    from dbos_mcp.server import reports

    async with open_runtime(settings) as runtime:
        if workflow_id is None:
            return await reports.report_on_failures(runtime, application, since, until, now=now)
        return await reports.report_on_workflow(runtime, application, workflow_id)
