"""A picture beside an answer, in clients that show MCP Apps; all others get the text alone."""

from mcp.server.apps import Apps
from mcp_types import CallToolResult, TextContent
from sqlalchemy import Connection

from dbos_mcp import __version__
from dbos_mcp.domain import now_ms
from dbos_mcp.postmortem.timeline import read_timeline
from dbos_mcp.report import waterfall
from dbos_mcp.report.templates import filled

WATERFALL = "ui://dbos-mcp/waterfall.html"
PICTURE = "dbos-mcp/waterfall"
"""Where in a result's `_meta`, which no model sees, the picture is."""
MOST_LANES = 80


def waterfall_app() -> Apps:
    """Its page is always the same: what it shows comes with the results."""
    apps = Apps()
    page = filled("app.html", {"style": waterfall.style(), "version": __version__})
    apps.add_html_resource(
        WATERFALL,
        page,
        name="waterfall",
        title="Waterfall",
        description="Shows the answer of diagnose_workflow with a timeline of the workflow's tree.",
        prefers_border=True,
    )
    return apps


def picture_of(connection: Connection, application_name: str, workflow_id: str) -> str:
    timeline = read_timeline(
        connection, application_name, workflow_id, now=now_ms(), most=MOST_LANES
    )
    return waterfall.draw(timeline, with_style=False)


def pictured(answer: str, picture: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=answer)], _meta={PICTURE: picture})
