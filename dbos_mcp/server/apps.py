"""A picture beside an answer, in clients that show MCP Apps; all others get the text alone."""

from typing import TYPE_CHECKING

from mcp.server.apps import APP_MIME_TYPE, Apps
from mcp.server.mcpserver.resources import FunctionResource
from mcp_types import CallToolResult, TextContent

from dbos_mcp import __version__
from dbos_mcp.domain import now_ms

if TYPE_CHECKING:
    from sqlalchemy import Connection

WATERFALL = "ui://dbos-mcp/waterfall.html"
PICTURE = "dbos-mcp/waterfall"
"""Where in a result's `_meta`, which no model sees, the picture is."""
MOST_LANES = 80

# `report` is imported where it is used: a server starts without loading templates.


def waterfall_app() -> Apps:
    apps = Apps()
    apps.add_resource(
        FunctionResource(
            uri=WATERFALL,
            name="waterfall",
            title="Waterfall",
            description="Shows the answer of diagnose_workflow with a timeline of the workflow's"
            " tree.",
            mime_type=APP_MIME_TYPE,
            meta={"ui": {"prefersBorder": True}},
            fn=_page,
        )
    )
    return apps


def _page() -> str:
    """Always the same: what it shows comes with the results."""
    from dbos_mcp.report import waterfall
    from dbos_mcp.report.templates import filled

    return filled("app.html", {"style": waterfall.style(), "version": __version__})


def picture_of(connection: "Connection", application_name: str, workflow_id: str) -> str:
    from dbos_mcp.postmortem.timeline import read_timeline
    from dbos_mcp.report import waterfall

    timeline = read_timeline(
        connection, application_name, workflow_id, now=now_ms(), most=MOST_LANES
    )
    return waterfall.draw(timeline, with_style=False)


def pictured(answer: str, picture: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=answer)], _meta={PICTURE: picture})
