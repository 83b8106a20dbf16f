"""`sql` and `schema`: statements over the mirror."""

import importlib.util
import json
import re
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from dbos_mcp.cli.completion import view_names
from dbos_mcp.cli.options import existing_cache
from dbos_mcp.cli.pager import page
from dbos_mcp.cli.terminal import (
    err,
    out,
    print_warning,
    say,
    until_interrupted,
    working,
    wrapped,
)
from dbos_mcp.cli.words import of_the_command_line
from dbos_mcp.domain import format_duration, size_text
from dbos_mcp.errors import SqlTimeoutError, UsageError
from dbos_mcp.inspection import sandbox
from dbos_mcp.server.found import SqlFormat, written

SQL_CELL_CHARACTERS = 2_000_000
"""As long as a value can be: what programs get is whole."""
SQL_BYTES = 8_000_000


def sql(
    context: typer.Context,
    statement: Annotated[str, typer.Argument(metavar="STATEMENT", help="One SELECT; - is stdin.")],
    form: Annotated[SqlFormat, typer.Option("--format", help="How rows are told.")] = (
        SqlFormat.TABLE
    ),
    param: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="For :NAME; repeat for more. 5 and 1.5 are numbers; 05 and 1.50 are text.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="The most rows.")] = 1000,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=600, metavar="SECONDS", help="How long it may take.")
    ] = sandbox.SECONDS,
) -> None:
    """Run one SELECT over the mirror's views.

    `dbos-mcp schema` tells which views and columns there are. The statement runs in a process of
    its own that can read the views and do nothing else. Conductor is not asked. On a terminal a
    long result goes through $PAGER.
    """
    from dbos_mcp.inspection.hints import caution
    from dbos_mcp.store.migrate import open_cache

    text = _stdin() if statement == "-" else statement
    parameters = _parameters(param or [])
    cache = open_cache(existing_cache(context.obj.target()), writable=False)
    box = sandbox.Sandbox(cache.read_uri, seconds=timeout)
    try:
        with until_interrupted(), working("Looking…"):
            found = box.run(
                text,
                parameters,
                rows=limit,
                cell_characters=SQL_CELL_CHARACTERS,
                total_bytes=SQL_BYTES,
            )
    except SqlTimeoutError as error:
        error.hint = f"{error.hint} Or give it longer, with --timeout SECONDS."
        raise
    finally:
        box.close()
        cache.close()
    _show(written(found, form, terminal=out.width if out.is_terminal else None))
    if mind := caution(text, parameters):
        print_warning(of_the_command_line(mind))
    if found.more:
        cut = f"cut at {size_text(SQL_BYTES)}: select less"
        if len(found.rows) == limit:
            cut = "--limit takes more"
        print_warning(f"{len(found.rows)} of {found.counted}; {cut}.")
    elif out.is_terminal and err.is_terminal:
        say(f"{found.counted}, {format_duration(round(found.ms))}", console=err)


def _stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError("The statement on stdin is not UTF-8.") from error


def _show(text: str) -> None:
    """Through $PAGER where it is longer than the terminal."""
    if out.is_terminal and text.count("\n") >= out.height:
        page(text)
    else:
        typer.echo(text.encode(), nl=False)  # bytes are left as they are


def _parameters(given: Sequence[str]) -> dict[str, sandbox.Parameter]:
    parameters: dict[str, sandbox.Parameter] = {}
    for each in given:
        name, equals, value = each.partition("=")
        name = name.removeprefix(":")
        if not (name and equals):
            raise UsageError(f"--param {each!r} is not NAME=VALUE.")
        if name in parameters:
            raise UsageError(f"--param {name!r} is given twice.")
        parameters[name] = _value(value)
    return parameters


def _value(text: str) -> sandbox.Parameter:
    """A number where it would be written just so: an id like 0012 and a version like 3.10 are not.
    SQLite compares either with a column as the column's type has it, but not with a result."""
    if re.fullmatch(r"-?\d{1,19}", text) and str(number := int(text)) == text:
        return number if -(2**63) <= number < 2**63 else text
    if re.fullmatch(r"-?\d{1,300}\.\d+", text) and str(real := float(text)) == text:
        return real
    return text


def schema(
    context: typer.Context,
    view: Annotated[
        str | None,
        typer.Argument(
            metavar="VIEW",
            help="Tell what the columns of this one mean.",
            autocompletion=view_names,
        ),
    ] = None,
    datasette: Annotated[
        bool, typer.Option("--datasette", help="Write it as metadata for Datasette.")
    ] = False,
) -> None:
    """Show the views for `dbos-mcp sql`, and what they hold.

    It names each view with its columns and their frequent values, and ends with statements to begin
    with. Of one view it tells what each column means.
    """
    from dbos_mcp.inspection import schema as in_use
    from dbos_mcp.inspection.datasette import metadata
    from dbos_mcp.server import schema as told
    from dbos_mcp.store.migrate import open_cache

    asked = None if view is None else told.view_named(view)
    path = existing_cache(context.obj.target())
    if datasette:
        typer.echo(json.dumps(metadata(path), indent=2))
        if importlib.util.find_spec("datasette") is None:
            err.print(
                "Datasette itself is not installed here: `dbos-mcp[inspect]` brings it, and"
                ' `uvx "datasette<1"` runs it.',
                markup=False,
            )
        return
    cache = open_cache(path, writable=False)
    try:
        with cache.read() as connection:
            lines = (
                told.overview(in_use.views(connection))
                if asked is None
                else told.detail(in_use.in_use(connection, asked))
            )
    finally:
        cache.close()
    text = of_the_command_line("\n".join(lines))
    if out.is_terminal:
        text = "\n".join(wrapped(line, out.width) for line in text.split("\n"))
    _show(f"{text}\n")
