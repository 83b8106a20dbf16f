"""A workflow that the mirror lacks may be there upstream all the same."""

from functools import partial

from dbos_mcp.errors import ConductorError, NotFoundError, UsageError
from dbos_mcp.queries.workflows import holds
from dbos_mcp.runtime import Runtime
from dbos_mcp.server.render import plain

WHY_CHARACTERS = 2_000

# UsageError: an id such as `..`, which no URL can hold, is mirrored like any other.
NOT_TO_BE_READ = (ConductorError, NotFoundError, UsageError)


async def look_up(runtime: Runtime, application_name: str, workflow_id: str) -> str | None:
    """Ask upstream for a workflow that the mirror lacks; why it could not, if it could not.

    Raises:
        NotFoundError: upstream does not have it either.
    """
    held = await runtime.read(
        partial(holds, application_name=application_name, workflow_id=workflow_id)
    )
    if held or runtime.live is None:
        return None
    try:
        reread = await runtime.live.mirror.refresh_workflows(application_name, [workflow_id])
    except ConductorError as error:
        return f"Not looked up at Conductor: {plain(error, limit=WHY_CHARACTERS)}"
    if not reread.statuses:
        raise NotFoundError(
            f"{application_name} has no workflow {workflow_id!r}, here or at Conductor.",
            hint="Look ids up with list_workflows (workflow_id_prefix finds the start of one).",
        )
    return None
