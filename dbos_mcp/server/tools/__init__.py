"""The tools, in the order in which a client lists them."""

from mcp.server.mcpserver.tools import Tool

from dbos_mcp.server.tools.aggregates import get_workflow_aggregates
from dbos_mcp.server.tools.applications import list_applications, list_executors
from dbos_mcp.server.tools.commands import cancel_workflow, fork_workflow, resume_workflow
from dbos_mcp.server.tools.define import command_tool, login_tool, read_tool
from dbos_mcp.server.tools.login import login, login_complete
from dbos_mcp.server.tools.sync import sync_now, sync_status
from dbos_mcp.server.tools.workflows import get_workflow, list_steps, list_workflows

TOOLS: tuple[Tool, ...] = (
    read_tool(list_applications),
    read_tool(list_executors),
    read_tool(list_workflows),
    read_tool(get_workflow),
    read_tool(list_steps),
    read_tool(get_workflow_aggregates),
    read_tool(sync_status),
    read_tool(sync_now, open_world=True),
    command_tool(cancel_workflow, destructive=True, idempotent=True),
    command_tool(resume_workflow, destructive=False, idempotent=False),
    command_tool(fork_workflow, destructive=False, idempotent=False),
    login_tool(login),
    login_tool(login_complete),
)
