"""How a command ends: its exit code, and what is said of an error, always in one way.

`Error: ` and a sentence, then the next step; never a traceback, unless the log is to have all.
"""

import errno
import os
import sys
import traceback
from collections.abc import Callable

import typer

from dbos_mcp.cli.terminal import err, print_error
from dbos_mcp.errors import DbosMcpError

INTERRUPTED = 130


def code_of(run: Callable[[], object]) -> int:
    """What it ends with; what went wrong is told on stderr."""
    try:
        code = run()
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the one place where all of them are told
        code = _told(error)
    return code if isinstance(code, int) else int(code is not None and code != "")


def flush() -> None:
    """What is still to be written; where that cannot be, nobody else is to try it again."""
    if sys.stdout is None or sys.stdout.closed:
        return
    try:
        sys.stdout.flush()
    except OSError:
        flush_to_nobody()
        raise


def _told(error: Exception) -> int:
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    try:
        return _tell(error)
    except OSError:  # nobody can be told
        return 1


def _tell(error: Exception) -> int:
    match error:
        case DbosMcpError():
            from dbos_mcp.cli.words import of_the_command_line

            print_error(of_the_command_line(error.message), of_the_command_line(error.hint))
            return error.exit_code
        case typer.TyperException():
            from dbos_mcp.cli.mistakes import explained

            print_error(*explained(error))
            return error.exit_code
        case typer.Abort():
            return INTERRUPTED
        case BrokenPipeError():
            flush_to_nobody()
            return 1
        case OSError(filename=None, errno=errno.ENOSPC | errno.EIO | errno.EDQUOT | errno.EFBIG):
            flush_to_nobody()
            print_error(f"The answer could not be written: {error.strerror}.")
            return 1
        case OSError(filename=str() | bytes() as name) if error.strerror:
            print_error(f"{os.fsdecode(name)} cannot be used: {error.strerror}.")
        case _:
            print_error(
                f"dbos-mcp came upon something that it does not expect ({_kind(error)}).",
                "It is a fault of dbos-mcp: please report it."
                + ("" if _all_is_wanted() else " With `--log-level debug` it tells where it was."),
            )
    if _all_is_wanted():
        for line in traceback.format_exception(error):
            err.out(_visible(line), end="", highlight=False)
    return 1


def flush_to_nobody() -> None:
    """Python would try again at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _kind(error: Exception) -> str:
    """Not what it says: that may be anything, a password included."""
    return type(error).__name__


def _all_is_wanted() -> bool:
    """Also before the settings are read, or where they cannot be."""
    given = " ".join(sys.argv).replace("=", " ").lower()
    if "--log-level" in given:
        return "--log-level debug" in given
    return os.environ.get("DBOS_MCP_LOG_LEVEL", "").lower() == "debug"


def _visible(text: str) -> str:
    return "".join(
        character if character.isprintable() or character == "\n" else repr(character)[1:-1]
        for character in text
    )
