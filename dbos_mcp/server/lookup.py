"""What is read at Conductor before a question is answered: what the mirror lacks, and what is to be
fresher. None of it makes an answer fail: the line about its freshness says what was not to be had.
"""

from collections.abc import Awaitable, Callable, Hashable
from functools import partial

import anyio

from dbos_mcp.domain import now_ms
from dbos_mcp.errors import (
    AuthenticationError,
    ConductorError,
    DbosMcpError,
    NotFoundError,
    ResponseError,
    UsageError,
)
from dbos_mcp.queries.applications import is_known
from dbos_mcp.queries.freshness import NOTHING_LOOKED_AT, Looked
from dbos_mcp.queries.workflows import holds
from dbos_mcp.runtime import Live, Runtime
from dbos_mcp.server.context import Asker, Session
from dbos_mcp.server.progress import telling
from dbos_mcp.store import unreadable
from dbos_mcp.sync.now import Wanted, look_unless_met
from dbos_mcp.sync.pacing import SHORTEST_MS

LOOK_SECONDS = 10.0
OFFLINE = "start the server without --offline for that."
REFUSED = "the credentials were refused. Log in, or set others."
SLOW = f"it takes more than {LOOK_SECONDS:g} s. sync_now waits longer; sync_status shows how far."

# UsageError: an id such as `..`, which no URL can hold, is mirrored like any other.
NOT_TO_BE_READ = (ConductorError, NotFoundError, UsageError)


async def look_at(
    asker: Asker, runtime: Runtime, application_name: str | None, max_age_seconds: float | None
) -> Looked:
    """Have the mirror of an application be at most that old; of the list of them if it is
    CONDUCTOR, and of all if it is None."""
    if max_age_seconds is None:
        return NOTHING_LOOKED_AT
    now = now_ms()
    since = now - max_age_seconds * 1000
    wanted = Wanted(
        application_name, since, failed_since=max(since, now - SHORTEST_MS), asked_at=now
    )
    if not await runtime.read(wanted.unseen):
        return NOTHING_LOOKED_AT
    why: str | None = OFFLINE
    if runtime.live is not None:
        worker = runtime.live.worker

        async def look() -> None:
            await telling(asker.call, partial(look_unless_met, worker, wanted))

        why = await why_not(asker.session, look)
    if why is None:
        why = await runtime.read(wanted.reason)
    return NOTHING_LOOKED_AT if why is None else _not_as_fresh(why)


async def look_up(
    asker: Asker,
    runtime: Runtime,
    application_name: str,
    workflow_id: str,
    max_age_seconds: float | None,
) -> Looked:
    """Have the mirror of one workflow be at most that old, or hold it, if it does not.

    Raises:
        NotFoundError: upstream does not have it either.
    """
    if max_age_seconds is not None and not await runtime.read(
        partial(is_known, application_name=application_name)
    ):
        await look_at(asker, runtime, application_name, max_age_seconds)
    held = partial(holds, application_name=application_name, workflow_id=workflow_id)
    was_held = await runtime.read(held)
    now = now_ms()
    since = now - (max_age_seconds or 0) * 1000
    if was_held and (
        max_age_seconds is None
        or not await runtime.read(Wanted(application_name, since, since, now).unseen)
    ):
        return NOTHING_LOOKED_AT
    if runtime.live is None:
        return NOTHING_LOOKED_AT if max_age_seconds is None else _not_as_fresh(OFFLINE)
    session = asker.session
    read_at: list[int] = []

    async def look(live: Live) -> None:
        async def reread() -> None:
            await live.mirror.refresh_workflows(application_name, [workflow_id])

        read_at.append(await session.readings.read((application_name, workflow_id), since, reread))

    if max_age_seconds is None:
        try:
            await look(runtime.live)
        except ConductorError as error:
            return Looked(why_not=f"Not looked up at Conductor: {error}")
    elif (why := await why_not(session, partial(look, runtime.live))) is not None:
        return _not_as_fresh(why)
    if not was_held and not await runtime.read(held):
        aside = await runtime.read(
            partial(unreadable.find, application_name=application_name, workflow_id=workflow_id)
        )
        if aside is not None:
            raise ResponseError(
                f"Conductor has a workflow {workflow_id!r}, but what it says of it cannot be read:"
                f" {aside.reason}.",
                hint="It is tried again; sync_status tells what else could not be read.",
            )
        raise NotFoundError(
            f"{application_name} has no workflow {workflow_id!r}, here or at Conductor.",
            hint="Look ids up with list_workflows (workflow_id_prefix finds the start of one).",
        )
    return Looked(read_at=read_at[0])


async def read_again(
    asker: Asker, what: Hashable, max_age_seconds: float, read: Callable[[], Awaitable[object]]
) -> str | None:
    """Read something at Conductor, unless that was done so recently; why it could not be."""
    session = asker.session
    since = now_ms() - max_age_seconds * 1000

    async def reread() -> None:
        await read()

    async def look() -> None:
        await session.readings.read(what, since, reread)

    return await why_not(session, look)


async def why_not(
    session: Session,
    look: Callable[[], Awaitable[object]],
    *,
    seconds: float | None = None,
    slow: str = SLOW,
) -> str | None:
    """Look, for as long as somebody waits (none: LOOK_SECONDS); why it came to nothing."""
    scheduler = session.scheduler
    if scheduler is not None and scheduler.refused:
        return REFUSED
    try:
        with anyio.fail_after(LOOK_SECONDS if seconds is None else seconds):
            await look()
    except TimeoutError:
        return slow
    except DbosMcpError as error:
        if isinstance(error, AuthenticationError) and scheduler is not None:
            scheduler.note_refusal()
        return str(error)
    except OSError as error:  # whose turn it is cannot be seen
        return str(error)
    return None


def _not_as_fresh(why: str) -> Looked:
    return Looked(why_not=f"Not as fresh as asked: {why}")
