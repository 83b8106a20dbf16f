"""What every command tells, and how: answers on stdout, all else on stderr."""

import codecs
import io
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from dbos_mcp.domain import plain

if TYPE_CHECKING:
    from rich.status import Status

out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

_NEAREST_THAT_IT_HAS = "dbos_mcp_nearest"
_NEAREST = {"…": "...", "\u2013": "-", "\u2014": "-", "“": '"', "”": '"', "\u2019": "'", "¦": "|"}


def show_all_characters() -> None:
    """A character that the terminal's encoding has not is shown by the nearest that it has."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_NEAREST_THAT_IT_HAS)


def _nearest(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    wrong = error.object[error.start : error.end]
    return "".join(_NEAREST.get(character, "?") for character in wrong), error.end


codecs.register_error(_NEAREST_THAT_IT_HAS, _nearest)


def writable(text: str) -> str:
    """For those who write by themselves, with a mind of their own on what cannot be."""
    encoding = out.encoding
    return text.encode(encoding, _NEAREST_THAT_IT_HAS).decode(encoding)


def say(text: str, *, console: Console = out, limit: int = 4000) -> None:
    """Lines of text from anywhere: on a terminal broken between words, elsewhere not at all."""
    for line in text.split("\n"):
        shown = plain(line, limit=limit)
        if console.is_terminal:
            shown = wrapped(shown, console.width)
        console.print(Text(shown))


def wrapped(line: str, width: int) -> str:
    """What is longer than the terminal, such as a path, is left whole to be copied."""
    indent = " " * (len(line) - len(line.lstrip()))
    lines = textwrap.wrap(
        line,
        width,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )
    return "\n".join(lines)


def print_error(text: str, hint: str = "") -> None:
    say(f"Error: {text}", console=err)
    if hint:
        say(hint, console=err)


def print_warning(text: str) -> None:
    say(f"Warning: {text}", console=err)


def working(doing: str) -> "Status":
    """A spinner for a person who waits; for a program, a file, or a dumb terminal nothing."""
    spinner = "dots" if err.encoding.startswith("utf") else "line"
    return err.status(doing, spinner=spinner)


@contextmanager
def until_interrupted(said: str = "") -> Iterator[None]:
    """Ctrl-C is a way to end, not a failure."""
    try:
        yield
    except KeyboardInterrupt:
        if said:
            say(said, console=err)
        sys.exit(130)


def redacted_text(found: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
