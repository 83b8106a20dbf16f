"""The tools by toolset, in the order in which a client lists them: add a new one here."""

from collections.abc import Collection

from mcp.server.mcpserver.tools import Tool

from dbos_mcp.server.apps import WATERFALL
from dbos_mcp.server.tools.admin import (
    delete_workflow,
    fork_from_failure,
    get_workflow_data,
    list_application_versions,
    list_queues,
    list_schedules,
    manage_schedule,
    set_latest_application_version,
)
from dbos_mcp.server.tools.aggregates import get_workflow_aggregates
from dbos_mcp.server.tools.applications import list_applications, list_executors
from dbos_mcp.server.tools.commands import cancel_workflow, fork_workflow, resume_workflow
from dbos_mcp.server.tools.comparison import compare_workflows
from dbos_mcp.server.tools.define import CommandTool, command_tool, login_tool, read_tool
from dbos_mcp.server.tools.diagnosis import diagnose_workflow
from dbos_mcp.server.tools.history import get_workflow_history, list_changes
from dbos_mcp.server.tools.login import login, login_complete
from dbos_mcp.server.tools.postmortem import list_failures
from dbos_mcp.server.tools.sql import describe_schema, query_sql
from dbos_mcp.server.tools.sync import sync_now, sync_status
from dbos_mcp.server.tools.workflow import get_workflow, list_steps
from dbos_mcp.server.tools.workflows import list_workflows
from dbos_mcp.settings import DEFAULT_TOOLSETS, Toolset

TOOLSETS: dict[Toolset, tuple[Tool, ...]] = {
    Toolset.CORE: (
        read_tool(list_applications),
        read_tool(list_executors),
        read_tool(list_workflows),
        read_tool(get_workflow),
        read_tool(list_steps),
        read_tool(get_workflow_aggregates),
        command_tool(cancel_workflow, destructive=True, idempotent=True),
        command_tool(resume_workflow, destructive=False, idempotent=False),
        command_tool(fork_workflow, destructive=False, idempotent=False),
        login_tool(login),
        login_tool(login_complete),
    ),
    Toolset.HISTORY: (
        read_tool(get_workflow_history),
        read_tool(list_changes),
    ),
    Toolset.POSTMORTEM: (
        read_tool(list_failures),
        read_tool(diagnose_workflow, app=WATERFALL),
        read_tool(compare_workflows),
    ),
    Toolset.SQL: (
        read_tool(query_sql),
        read_tool(describe_schema),
    ),
    Toolset.SYNC: (
        read_tool(sync_status),
        read_tool(sync_now, open_world=True),
    ),
    Toolset.ADMIN: (
        command_tool(delete_workflow, destructive=True, idempotent=True),
        command_tool(fork_from_failure, destructive=False, idempotent=False),
        read_tool(list_queues, open_world=True),
        read_tool(list_schedules, open_world=True),
        command_tool(manage_schedule, destructive=True, idempotent=False),
        read_tool(list_application_versions, open_world=True),
        command_tool(set_latest_application_version, destructive=True, idempotent=True),
        read_tool(get_workflow_data, open_world=True),
    ),
}


TOOLS = tuple(tool for tools in TOOLSETS.values() for tool in tools)


def tools_of(
    toolsets: Collection[Toolset] = DEFAULT_TOOLSETS, *, read_only: bool = False
) -> tuple[Tool, ...]:
    return tuple(
        tool
        for toolset, tools in TOOLSETS.items()
        for tool in tools
        if toolset in toolsets and not (read_only and isinstance(tool, CommandTool))
    )
