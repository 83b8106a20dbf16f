"""`doctor`: what is wrong, and what to type next."""

import json
import os
import platform
import sqlite3
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from dbos_mcp import __version__
from dbos_mcp.cli.terminal import err, out, until_interrupted
from dbos_mcp.doctor.finding import Finding, Status, Told, exit_code, overall
from dbos_mcp.domain import counted, plain
from dbos_mcp.errors import DbosMcpError

if TYPE_CHECKING:
    from dbos_mcp.settings import Settings

STYLES = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red", Status.SKIP: "dim"}
LONGEST = 600
NARROW = 60
"""Columns: with fewer, a column of names would leave too little."""
_NAME_COLUMNS = 13


def doctor(
    context: typer.Context,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also look through every page of the cache.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Look at what is here alone, send nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check everything between Conductor and the cache, and say what to do next.

    It changes nothing, sends a handful of GETs, and takes at most some seconds. Exit code 1 if
    something fails, 3 if a login is all that is missing; warnings are no failures.
    """
    with until_interrupted():
        told = _told(context, deep=deep, offline=offline, quiet=as_json)
    if as_json:
        typer.echo(json.dumps(_as_json(told), indent=2))
    else:
        _print(told)
    sys.exit(exit_code(told))


def _told(context: typer.Context, *, deep: bool, offline: bool, quiet: bool) -> list[Told]:
    from dbos_mcp.doctor.checks import examine, examine_without

    options = context.obj
    try:
        if offline:
            options = replace(options, flags={**options.flags, "offline": True})
        targets: Sequence[Settings] = options.targets()
    except DbosMcpError as error:
        return list(examine_without(error))
    found = examine(targets, os.environ, named=bool(options.profiles), deep=deep)
    if quiet or not err.is_terminal:
        return list(found)
    with err.status("Looking…"):
        return list(found)


def _as_json(told: Sequence[Told]) -> dict[str, Any]:
    """Its shape is kept: programs go by it."""
    return {
        "overall": overall(told),
        "exit_code": exit_code(told),
        "versions": {
            "dbos_mcp": __version__,
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
        },
        "checks": [
            {
                "id": each.check.id,
                "profile": each.profile,
                "status": each.finding.status,
                "message": each.finding.message,
                "next_step": each.finding.next_step or None,
                "facts": dict(each.finding.facts),
            }
            for each in told
        ],
    }


def _print(told: Sequence[Told]) -> None:
    several = len({each.profile for each in told if each.profile is not None}) > 1
    for profile, of_one in groupby(told, key=lambda each: each.profile):
        if several and profile is not None:
            out.print(Text(f"Profile {plain(profile)}", "bold underline"))
        for group, lines in groupby(of_one, key=lambda each: each.check.group):
            out.print(Text(group.capitalize(), "bold"))
            _print_group(list(lines))
    out.print(_summary(told))


def _print_group(lines: Sequence[Told]) -> None:
    """What is skipped for one reason is told in one line."""
    last = None
    for finding, alike in groupby(lines, key=_told_together):
        several = list(alike)
        if len(several) > 1 and finding is not None:
            names = ", ".join(each.check.name for each in several)
            text = f"{names}: {finding.message}"
            first = several[0]
            _print_line(replace(first, finding=replace(finding, message=text)), None)
            last = None
            continue
        for line in several:
            _print_line(line, "" if line.check is last else line.check.name)
            last = line.check


def _told_together(line: Told) -> Finding | None:
    return line.finding if line.finding.status is Status.SKIP else None


def _print_line(line: Told, name: str | None) -> None:
    """None: there are several, and the message names them."""
    finding = line.finding
    narrow = out.is_terminal and out.width < NARROW
    column = "" if narrow or name is None else f"{name:<{_NAME_COLUMNS}}"
    indent = 8 + len(column)
    # A name that needs a second look must be told where there is no column for it.
    message = f"{name}: {finding.message}" if narrow and name else finding.message
    first, *others = _wrapped(message, indent)
    out.print(
        Text.assemble("  ", (f"{finding.status:<6}", STYLES[finding.status]), column, first),
    )
    for text in others:
        out.print(Text(" " * indent + text))
    if finding.next_step:
        before = " " * (indent - 2) + "→ "
        for text in _wrapped(finding.next_step, indent):
            out.print(Text(before + text))
            before = " " * indent


def _wrapped(text: str, indent: int) -> list[str]:
    """In lines that fit beside the indent, on a terminal; what came from elsewhere, as it is."""
    safe = plain(text, limit=LONGEST)
    if not out.is_terminal:
        return [safe]
    width = max(20, out.width - indent)
    return [line.plain.rstrip() for line in Text(safe).wrap(out, width)] or [""]


def _summary(told: Sequence[Told]) -> Text:
    counts = {status: sum(each.finding.status is status for each in told) for status in Status}
    nouns = {Status.FAIL: "failure", Status.WARN: "warning"}
    parts = [counted(counts[status], noun) for status, noun in nouns.items() if counts[status]]
    if not parts:
        return Text("All is well.", STYLES[Status.OK])
    text = f"{' and '.join(parts)}."
    if exit_code(told) == 3:
        text += " A login is all that is missing."
    elif not counts[Status.FAIL]:
        text += " It works."
    return Text(text, STYLES[overall(told)])
