"""A report as Markdown. Whatever is put into it is made harmless: a name makes no link, no image,
no HTML, no heading, no cell and no mention of anybody."""

import re

from markupsafe import Markup

from dbos_mcp.domain import visible
from dbos_mcp.postmortem.words import at
from dbos_mcp.report.mermaid import gantt
from dbos_mcp.report.subjects import FailuresReport, WorkflowReport
from dbos_mcp.report.templates import ENVIRONMENT

NAME_CHARACTERS = 200
TEXT_CHARACTERS = 4_000

_SPECIAL = re.compile(r"[\\`*_\[\]<>|~&!#$]")
_AT_THE_START = re.compile(r"^(\d*)([-+=:.)])")
_WORD = re.compile(r"\S+")
_ADDRESS = re.compile(r"://|www\.|@|mailto:", re.IGNORECASE)
"""What is in a word that readers make a link of, or call somebody by, whatever is escaped in it."""


def markdown(report: WorkflowReport | FailuresReport) -> str:
    name = "failures.md" if isinstance(report, FailuresReport) else "workflow.md"
    filled = _ENVIRONMENT.get_template(name).render(report=report)
    return re.sub(r"\n{3,}", "\n\n", filled).strip() + "\n"


def text(value: object, limit: int = NAME_CHARACTERS) -> Markup:
    """In a line of prose, or in a cell."""
    line = _clipped(value, limit)
    parts, place = [], 0
    for match in _WORD.finditer(line):
        if not _ADDRESS.search(match[0]):
            continue
        parts += [_escaped(line[place : match.start()]), code(match[0])]
        place = match.end()
    parts.append(_escaped(line[place:]))
    return Markup(_AT_THE_START.sub(r"\1\\\2", "".join(parts)))  # noqa: S704 # escaped above


def code(value: object, limit: int = NAME_CHARACTERS) -> Markup:
    """A name: nothing in it means anything. A `|` would end the cell."""
    line = _clipped(value, limit).replace("|", "¦") or " "
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    space = " " if line[0] in "` " or line[-1] in "` " else ""
    return Markup(f"{fence}{space}{line}{space}{fence}")  # noqa: S704 # escaped above


def block(value: object, limit: int = TEXT_CHARACTERS) -> Markup:
    """Lines, as they are."""
    whole = str(value)
    lines = [visible(line) for line in whole[:limit].splitlines()]
    if len(whole) > limit:
        lines.append(f"… {len(whole) - limit:,} more characters")
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup("\n".join([f"{fence}text", *lines, fence]))  # noqa: S704 # escaped above


def _clipped(value: object, limit: int) -> str:
    line = " ".join(str(value).split())
    more = f"… ({len(line) - limit:,} more characters)" if len(line) > limit else ""
    return visible(line[:limit]) + more


def _escaped(part: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", part)


def _finalize(value: object) -> object:
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return text(value, TEXT_CHARACTERS)


_ENVIRONMENT = ENVIRONMENT.overlay(finalize=_finalize)
_ENVIRONMENT.filters = {
    **ENVIRONMENT.filters,
    "block": block,
    "code": code,
    "gantt": lambda timeline: Markup(f"```mermaid\n{gantt(timeline)}```"),  # noqa: S704 # of words()
    "time": lambda ms: "" if ms is None else at(ms),
}
