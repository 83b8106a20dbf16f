"""What docs/security.md says, in a form that tests can compare with what is so."""

import re
from typing import NamedTuple


class Touched(NamedTuple):
    how: str
    """read, write, network, program or library"""
    what: str


def touched_of(document: str) -> dict[Touched, bool]:
    """The rows of its table of what is touched, and whether every session does so."""
    section = document.split("\n## What it touches\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| `([^`]+)` \| (always|at times) \|", section, re.MULTILINE)
    return {Touched(how, what): when == "always" for how, what, when in rows}


def proofs_in(document: str) -> list[str]:
    """The tests that it names as proof."""
    return re.findall(r"`(tests/[\w/]+\.py)(?:::\w+)?`", document)
