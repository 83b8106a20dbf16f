"""What a client may read, or watch, without calling a tool."""

from mcp.server.mcpserver.exceptions import ResourceError
from mcp.server.mcpserver.resources import FunctionResource, Resource

from dbos_mcp.errors import DbosMcpError
from dbos_mcp.server.context import Session, words_of
from dbos_mcp.server.tools.sync import read_status

SYNC_STATUS = "dbos://sync-status"


def resources_of(session: Session) -> list[Resource]:
    """The SDK hands a resource without parameters no context, so the session comes along."""

    async def sync_status() -> str:
        try:
            return await read_status(session)
        except DbosMcpError as error:
            raise ResourceError(words_of(error)) from error

    return [
        FunctionResource.from_function(
            sync_status,
            SYNC_STATUS,
            title="Sync status",
            description="How far, how fresh and at what cost each application is mirrored: the"
            " answer of sync_status.",
            mime_type="text/plain",
        )
    ]
