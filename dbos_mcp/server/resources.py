"""What a client may read, or watch, without calling a tool."""

from urllib.parse import quote

from mcp.server.mcpserver.exceptions import ResourceError
from mcp.server.mcpserver.resources import FunctionResource, Resource

from dbos_mcp.errors import DbosMcpError
from dbos_mcp.server.context import Session, Sessions, words_of
from dbos_mcp.server.tools.sync import read_status

SYNC_STATUS = "dbos://sync-status"


def resources_of(sessions: Sessions) -> list[Resource]:
    """The SDK hands a resource without parameters no context, so its session comes along."""
    if len(sessions.by_profile) == 1:
        return [_sync_status(sessions.current, SYNC_STATUS)]
    return [
        _sync_status(session, f"{SYNC_STATUS}/{quote(profile or '', safe='')}", f" of {profile}")
        for profile, session in sessions.by_profile.items()
    ]


def _sync_status(session: Session, uri: str, of_which: str = "") -> Resource:
    async def sync_status() -> str:
        try:
            return await read_status(session)
        except DbosMcpError as error:
            raise ResourceError(words_of(error)) from error

    return FunctionResource.from_function(
        sync_status,
        uri,
        title=f"Sync status{of_which}",
        description="How far, how fresh and at what cost each application is mirrored: the"
        " answer of sync_status.",
        mime_type="text/plain",
    )
