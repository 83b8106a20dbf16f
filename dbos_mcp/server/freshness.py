"""How fresh and how complete an answer is: read in one snapshot with it, and told in its last line.

As the answers, it is imported when there is something to answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import anyio
from sqlalchemy import Connection

from dbos_mcp.domain import CONDUCTOR, format_time, now_ms
from dbos_mcp.errors import NotFoundError
from dbos_mcp.queries.applications import is_known
from dbos_mcp.queries.coverage import Gap, Missing
from dbos_mcp.queries.freshness import (
    NOTHING_LOOKED_AT,
    Freshness,
    Looked,
    freshness,
    freshness_of_all,
    looked_at_applications,
    looked_at_conductor,
    now_offline,
)
from dbos_mcp.runtime import Runtime
from dbos_mcp.server.render import WHY_CHARACTERS, duration, plain, time

LATE_MS = 600_000
"""Even what nobody asks about is looked at every five minutes, while anybody asks anything."""
MOST_BEHIND = 3
LAST_ERROR = " Last error: "

T = TypeVar("T")


async def answer_from(
    runtime: Runtime,
    query: Callable[[Connection], T],
    application_name: str | None = CONDUCTOR,
    *,
    looked: Looked = NOTHING_LOOKED_AT,
) -> tuple[T, str]:
    """What a query finds, and the line that says how fresh it is, of one snapshot. It is about an
    application, about the list of them (CONDUCTOR), or about all of them (None)."""
    result, state = await found_by(runtime, query, application_name, looked=looked)
    return result, line_of(runtime, state)


async def found_by(
    runtime: Runtime,
    query: Callable[[Connection], T],
    application_name: str | None = CONDUCTOR,
    *,
    looked: Looked = NOTHING_LOOKED_AT,
) -> tuple[T, Freshness]:
    """What a query finds, and how fresh it is, of one snapshot.

    Raises:
        NotFoundError: it found nothing, in a mirror that is as fresh as the hint says.
    """

    def work(connection: Connection) -> tuple[T, Freshness]:
        if application_name is None:
            state = freshness_of_all(connection)
        elif is_known(connection, application_name):
            state = freshness(connection, application_name)
        else:
            state = freshness(connection)
        state = replace(state, looked=looked)
        try:
            return query(connection), state
        except NotFoundError as error:
            raise resting_on(error, runtime, state) from error

    return await runtime.read(work)


async def now_of(runtime: Runtime, application_name: str | None) -> int:
    """What `now` and `-2h` mean in a question. Where nobody looks any more, of an incident file or
    a mirror that is read offline, it is when somebody last did: all that is there is of before."""
    now = now_ms()
    if runtime.live is not None:
        return now
    return await runtime.read(partial(now_offline, application_name=application_name, now=now))


def read_live() -> str:
    """In place of that line, where nothing is of the mirror."""
    return f"Read live from Conductor at {format_time(now_ms())}."


def line_of(runtime: Runtime, state: Freshness, *, times_from_then: bool = True) -> str:
    return freshness_line(
        state,
        now=now_ms(),
        offline=runtime.live is None,
        times_from_then=times_from_then,
        notice=runtime.cache.notice,
    )


def resting_on(error: NotFoundError, runtime: Runtime, state: Freshness) -> NotFoundError:
    """Not found: in a mirror of when?"""
    line = line_of(runtime, state)
    if state.reason is not None and state.reason in str(error):
        line, _, _ = line.partition(LAST_ERROR)
    return NotFoundError(error.message, hint=f"{error.hint} {line}".strip())


async def first_look(runtime: Runtime, until: float) -> bool:
    """On a new mirror, wait until then (the event loop's clock) for what any process finds at its
    first look; whether the applications were listed, or could not be.

    An application that takes longer to load is answered with what is there.
    """
    listed = False
    with anyio.CancelScope(deadline=until):
        # Another process may be the one that looks: only the cache says when it has.
        while not (listed := await runtime.read(looked_at_conductor)):  # noqa: ASYNC110
            await anyio.sleep(0.02)
        while not await runtime.read(looked_at_applications):  # noqa: ASYNC110
            await anyio.sleep(0.02)
    return listed


def freshness_line(
    state: Freshness,
    *,
    now: int,
    offline: bool = False,
    times_from_then: bool = True,
    notice: str | None = None,
) -> str:
    """As of when, how complete, live or offline; `notice` is why it can only be read."""
    parts = []
    looked = state.looked
    if looked.read_at is not None:
        parts.append(f"This workflow as of {_as_of(looked.read_at, now)}")
    if state.as_of is None:
        parts.append("The first look is not finished")
    else:
        what = "As of" if not parts else "all else as of"
        parts.append(f"{what} {_as_of(state.as_of, now)}")
    if state.covered_since:
        word = "complete" if state.history_complete else "still loading, complete"
        parts.append(f"{word} for workflows created since {format_time(state.covered_since)}")
    elif state.history_complete:
        parts.append("complete")
    excerpt = state.excerpt
    if excerpt is not None:
        rest = excerpt.of_workflows - excerpt.workflows
        parts.append(
            f"an excerpt made at {format_time(excerpt.made_at)}:"
            f" {plain(excerpt.subject, limit=WHY_CHARACTERS)};"
            f" {rest} of {excerpt.of_workflows} workflows are not in it"
        )
        if excerpt.left_out:
            left_out = plain(", ".join(excerpt.left_out), limit=WHY_CHARACTERS)
            parts.append(f"left out: {left_out}")
    if offline:
        old = state.as_of is not None and now - state.as_of > LATE_MS
        parts.append("offline: answered from the cache alone")
        if old and times_from_then:
            parts.append("`now` and times such as -24h count from then")
    elif state.offline_since is not None:
        parts.append(f"offline since {format_time(state.offline_since)}")
    elif state.reason is None and state.as_of is not None:
        late = now - state.as_of > LATE_MS
        parts.append("no look since then; sync_now makes one" if late else "live")
    if state.behind:
        parts.append(f"but {_first_of(state.behind)}")
    line = "; ".join(parts) + "."
    if looked.why_not is not None:
        line += f" {plain(looked.why_not, limit=WHY_CHARACTERS)}"
    elif state.as_of is None and not offline and state.reason is None:
        line += " Ask again in a moment; sync_status tells how far it is."
    elif state.reason is not None:
        line += f"{LAST_ERROR}{plain(state.reason, limit=300)}"
    if notice is not None:
        line += f" {plain(notice, limit=WHY_CHARACTERS)}"
    return line


def _as_of(moment: int, now: int) -> str:
    return f"{format_time(moment)} ({duration(max(0, now - moment))} ago)"


def _first_of(texts: Sequence[str]) -> str:
    more = len(texts) - MOST_BEHIND
    shown = ", ".join(plain(text) for text in texts[:MOST_BEHIND])
    return shown + (f" and {more} more" if more > 0 else "")


def gap_line(gap: Gap | None) -> str | None:
    """What an answer may lack because it reaches behind what is mirrored, and how to get it."""
    if gap is None:
        return None
    at = time(gap.before)
    match gap.missing:
        case Missing.REST:
            return "This is of an excerpt: counts and comparisons are of what it holds."
        case Missing.ENDED:
            return (
                f"Ended workflows created before {at} may be missing; DBOS_MCP_HISTORY=all"
                " mirrors them."
            )
        case Missing.LOADING:
            return (
                f"Ended workflows created before {at} are still being loaded; sync_status shows"
                " how far."
            )
        case Missing.ALL:
            return "The first load has only begun: much may be missing. sync_status shows how far."
        case Missing.DELETED:
            first = f", at {at}," if at else ""
            return f"What was deleted upstream before the mirror first looked{first} is missing."
        case Missing.CHANGES:
            return f"The mirror's log begins at {at}: changes before that were not seen."
        case Missing.STATES:
            return f"It is older than the mirror: its states before {at} were not seen."
        case Missing.PRUNED:
            return (
                f"Older events were pruned before {at}: of what had ended by then, only the last"
                " known state is left."
            )
        case Missing.LOST:
            return f"Events from before {at} were lost with a damaged file: some may be missing."
