"""What commands were asked for, by whom, and what came of them: a line of the log for each."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Self

from dbos_mcp.server.render import plain

logger = logging.getLogger("dbos_mcp.audit")

NAME_CHARACTERS = 200


@dataclass
class Entry:
    """One call of a command tool."""

    who: str | None
    tool: str
    application_name: str | None
    workflows: int
    """How many ids were named."""
    outcome: str = "nothing sent"

    @classmethod
    def of(cls, who: str | None, tool: str, arguments: Mapping[str, Any]) -> Self:
        application_name, ids = arguments.get("application_name"), arguments.get("workflow_id")
        return cls(
            who,
            tool,
            plain(application_name, limit=NAME_CHARACTERS) if application_name else None,
            len(ids) if isinstance(ids, list) else int(ids is not None),
        )


_current: ContextVar[Entry | None] = ContextVar("audit", default=None)


@contextmanager
def keeping(entry: Entry) -> Iterator[None]:
    """Write it down when the call has ended, however it did."""
    token = _current.set(entry)
    try:
        yield
    except BaseException:
        entry.outcome = "cut short"
        raise
    finally:
        _current.reset(token)
        logger.info(
            "%s: %s",
            entry.tool,
            entry.outcome,
            extra={
                "fields": {
                    "who": entry.who,
                    "tool": entry.tool,
                    "application_name": entry.application_name,
                    "workflows": entry.workflows,
                    "outcome": entry.outcome,
                }
            },
        )


def note(outcome: str) -> None:
    """What came of the command that is being carried out."""
    entry = _current.get()
    if entry is not None:
        entry.outcome = outcome
