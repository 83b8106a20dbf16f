"""Which tools there are: by toolset, and none that changes anything where that is not wanted."""

import re
from pathlib import Path

import pytest
from mcp import Client

from dbos_mcp.server.app import build_server
from dbos_mcp.server.tools import TOOLS, TOOLSETS
from dbos_mcp.server.tools.define import CommandTool
from dbos_mcp.settings import DEFAULT_TOOLSETS, Settings, Toolset
from tests.server.conftest import Serve, ToolFailedError, asking, mirrored

COMMANDS = {tool.name for tool in TOOLS if isinstance(tool, CommandTool)}
TOOLS_THAT_LOOK = (
    *("list_applications", "list_executors", "list_workflows", "get_workflow", "list_steps"),
    *("get_workflow_aggregates", "get_workflow_history", "list_changes", "sync_status"),
    *("list_failures", "diagnose_workflow", "compare_workflows", "query_sql", "describe_schema"),
)


async def offered(settings: Settings, era: str = "auto") -> tuple[set[str], str]:
    """The names of the tools, and the instructions."""
    async with Client(build_server(settings), mode=era) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        return names, client.instructions or ""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, offline=True, cache=tmp_path / "none.sqlite")


def test_each_tool_is_in_one_toolset() -> None:
    assert set(TOOLSETS) == set(Toolset)
    names = [tool.name for tools in TOOLSETS.values() for tool in tools]
    assert len(names) == len(set(names)) == len(TOOLS)


def test_what_may_change_something_is_a_command_or_a_login() -> None:
    for tool in TOOLS:
        assert tool.annotations is not None
        changes = not tool.annotations.read_only_hint
        assert changes == (tool.name in COMMANDS | {"login", "login_complete"})


LOOKS = (True, None, None, False)
LOOKS_UPSTREAM = (True, None, None, True)
ADDS = (False, False, None, True)
OVERWRITES = (False, True, True, True)
HINTS = {
    **dict.fromkeys(TOOLS_THAT_LOOK, LOOKS),
    "sync_now": LOOKS_UPSTREAM,
    "list_queues": LOOKS_UPSTREAM,
    "list_schedules": LOOKS_UPSTREAM,
    "list_application_versions": LOOKS_UPSTREAM,
    "get_workflow_data": LOOKS_UPSTREAM,
    "login": ADDS,
    "login_complete": ADDS,
    "resume_workflow": ADDS,
    "fork_workflow": ADDS,
    "fork_from_failure": ADDS,
    "cancel_workflow": OVERWRITES,
    "delete_workflow": OVERWRITES,
    "set_latest_application_version": OVERWRITES,
    "manage_schedule": (False, True, None, True),
}


async def test_each_tool_hints_at_what_it_does(settings: Settings, era: str) -> None:
    """Whether it only reads; whether it may destroy; whether twice is as good as once; whether it
    asks Conductor. What is left out is what the protocol takes it for, and destroying and repeating
    are no matter of reading."""
    everything = settings.model_copy(update={"toolsets": frozenset(Toolset)})
    async with Client(build_server(everything), mode=era) as client:
        hints = {tool.name: tool.annotations for tool in (await client.list_tools()).tools}
    seen = {
        name: hint
        and (
            bool(hint.read_only_hint),
            hint.destructive_hint,
            hint.idempotent_hint,
            hint.open_world_hint is not False,
        )
        for name, hint in hints.items()
    }
    assert seen == HINTS


async def test_the_tools_are_those_of_the_toolsets(settings: Settings, era: str) -> None:
    for toolsets in (DEFAULT_TOOLSETS, {Toolset.SYNC}, {Toolset.CORE, Toolset.ADMIN}, set(Toolset)):
        chosen = settings.model_copy(update={"toolsets": frozenset(toolsets)})
        names, _ = await offered(chosen, era)
        assert names == {tool.name for toolset in toolsets for tool in TOOLSETS[toolset]}


@pytest.mark.parametrize("toolset", [*Toolset, None])
async def test_a_read_only_server_has_all_tools_but_the_commands(
    settings: Settings, toolset: Toolset | None
) -> None:
    toolsets = frozenset(Toolset) if toolset is None else frozenset({toolset})
    everything = {"toolsets": toolsets, "read_only": False}
    names, _ = await offered(settings.model_copy(update=everything))
    kept, _ = await offered(settings.model_copy(update=everything | {"read_only": True}))
    assert kept == names - COMMANDS
    if toolset in (Toolset.CORE, None):
        assert {"login", "login_complete"} <= kept
        assert {"cancel_workflow", "resume_workflow", "fork_workflow"} <= names - kept


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("toolset", [*Toolset, None])
async def test_the_instructions_name_no_tool_that_is_not_there(
    settings: Settings, toolset: Toolset | None, read_only: bool
) -> None:
    toolsets = DEFAULT_TOOLSETS if toolset is None else frozenset({toolset})
    names, instructions = await offered(
        settings.model_copy(update={"toolsets": toolsets, "read_only": read_only})
    )
    named = set(re.findall(r"\w+", instructions)) & {tool.name for tool in TOOLS}
    assert named <= names
    assert "only when the user asks" not in instructions or names & COMMANDS
    assert COMMANDS & names <= named


async def test_a_command_is_not_to_be_called_in_a_read_only_server(
    shop_settings: Settings, serve: Serve, era: str
) -> None:
    settings = shop_settings.model_copy(update={"read_only": True})
    async with serve(settings, era=era) as ask:
        await mirrored(ask)
        with pytest.raises(Exception, match="Unknown tool"):
            await ask("cancel_workflow", application_name="shop", workflow_id="reconcile-1")
        shown = await ask("get_workflow", application_name="shop", workflow_id="reconcile-1")
    assert "PENDING" in shown.splitlines()[0]


async def test_of_several_profiles_the_read_only_one_refuses_each_command(
    shop_settings: Settings, tmp_path: Path
) -> None:
    """The tools are there, for the other profile's sake; the handlers ask again."""
    prod = shop_settings.model_copy(
        update={
            "profile": "prod",
            "read_only": True,
            "toolsets": frozenset(Toolset),
            "cache": tmp_path / "prod.sqlite",
        }
    )
    staging = shop_settings.model_copy(
        update={"profile": "staging", "cache": tmp_path / "staging.sqlite"}
    )
    others = {
        "manage_schedule": {"schedule_name": "nightly-report", "action": "pause"},
        "set_latest_application_version": {"application_version": "1.4.0"},
    }
    async with Client(build_server(prod, staging)) as client:
        ask = asking(client)
        workflow = {"application_name": "shop", "workflow_id": "reconcile-1"}
        for name in COMMANDS:
            arguments = {"application_name": "shop", **others[name]} if name in others else workflow
            with pytest.raises(ToolFailedError, match="read-only: it sends no command"):
                await ask(name, **arguments, profile="prod")
        assert "PENDING" in (await ask("get_workflow", **workflow)).splitlines()[0]
        assert "1 of 1 done" in await ask("cancel_workflow", **workflow, profile="staging")
