"""What is longer than the terminal, through $PAGER."""

import os
import re
import shlex
import shutil
import sys

from dbos_mcp.cli.terminal import print_warning


def page(text: str) -> None:
    import pydoc

    os.environ.pop("MANPAGER", None)  # which pydoc prefers, and is for manuals
    program = _program(os.environ.get("PAGER", ""))
    if program and shutil.which(program) is None:
        print_warning(f"$PAGER is {program}, which is not there: this goes without it.")
        sys.stdout.write(text)
        return
    pydoc.pager(text)


def _program(command: str) -> str:
    """Of `LESS=R less -S` it is less; nothing where only a shell could tell."""
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    words = [word for word in words if not re.match(r"\w+=", word)]
    return words[0] if words and re.fullmatch(r"[\w./+-]+", words[0]) else ""
