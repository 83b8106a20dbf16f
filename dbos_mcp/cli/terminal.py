"""What every command tells, and how: answers on stdout, all else on stderr."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from dbos_mcp.domain import size_text as size_text
from dbos_mcp.server.render import plain

out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


@contextmanager
def until_interrupted(said: str = "") -> Iterator[None]:
    """Ctrl-C is a way to end, not a failure."""
    try:
        yield
    except KeyboardInterrupt:
        if said:
            err.print(said)
        sys.exit(130)


def print_error(text: str) -> None:
    err.print(escape(plain(f"Error: {text}", limit=2000)))


def print_warning(text: str) -> None:
    err.print(escape(plain(f"Warning: {text}", limit=2000)))


def redacted_text(found: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
