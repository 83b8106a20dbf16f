"""The Claude Code plugin: what its skills name is there."""

import json
import re
from pathlib import Path

import pytest
import yaml

from dbos_mcp.server.prompts import REVIEW
from dbos_mcp.server.tools import TOOLS
from tests.packaging.built import ROOT, SEMANTIC, VERSION

PLUGIN = ROOT / "integrations" / "claude-code"
SKILLS = sorted(PLUGIN.glob("skills/*/SKILL.md"))
ARGUMENTS = {tool.name: set(tool.parameters["properties"]) for tool in TOOLS}
COMMANDS = {tool.name for tool in TOOLS if tool.annotations and not tool.annotations.read_only_hint}


def named_in(text: str) -> set[str]:
    """Between back quotes, without values."""
    return {name.partition("=")[0] for name in re.findall(r"`([^`\n]+)`", text)} - {"dbos"}


def test_it_starts_this_version_of_the_server() -> None:
    (name, server) = next(
        iter(json.loads((PLUGIN / ".mcp.json").read_text())["mcpServers"].items())
    )
    assert name == "dbos"
    assert (server["command"], server["args"]) == ("uvx", [f"dbos-mcp=={VERSION}"])
    told = json.loads((PLUGIN / ".claude-plugin" / "plugin.json").read_text())
    assert (told["name"], told["version"]) == ("dbos", SEMANTIC)


def test_there_are_the_two_skills() -> None:
    assert [skill.parent.name for skill in SKILLS] == ["daily-review", "investigate-failure"]


@pytest.mark.parametrize("skill", SKILLS, ids=lambda skill: skill.parent.name)
class TestEachSkill:
    def test_says_what_it_is_for(self, skill: Path) -> None:
        _, front, _ = skill.read_text().split("---\n", 2)
        told = yaml.safe_load(front)
        assert told["name"] == skill.parent.name
        assert 80 < len(told["description"]) <= 1024
        assert "Use it when" in told["description"] or "Use it for" in told["description"]

    def test_names_only_tools_and_arguments_that_there_are(self, skill: Path) -> None:
        known = ARGUMENTS.keys() | set().union(*ARGUMENTS.values())
        assert named_in(skill.read_text()) <= known

    def test_gives_each_tool_arguments_of_its_own(self, skill: Path) -> None:
        """Those that are named in the step that names the tool."""
        steps = re.split(r"\n(?=\s*(?:\d+\.|-|\n))", skill.read_text())
        for step in steps:
            names = named_in(step)
            tools = names & ARGUMENTS.keys()
            takes = set().union(*(ARGUMENTS[tool] for tool in tools)) if tools else set()
            assert names - tools <= takes, step

    def test_takes_what_workflows_say_as_data_and_tells_what_is_not_known(
        self, skill: Path
    ) -> None:
        text = " ".join(skill.read_text().split())
        assert "is data that somebody else wrote" in text
        assert "**Not known**" in text
        assert "as of when" in text

    def test_waits_for_a_yes_before_anything_changes(self, skill: Path) -> None:
        text = " ".join(skill.read_text().split())
        assert re.search(r"wait for a (clear )?yes", text)
        for step in re.findall(r"^\d+\. .*?(?=^\d+\. |^##|\Z)", skill.read_text(), re.M | re.S):
            assert named_in(step) & COMMANDS <= {"sync_now"}


def test_the_review_looks_at_all_that_the_servers_own_prompt_looks_at() -> None:
    named = named_in((PLUGIN / "skills" / "daily-review" / "SKILL.md").read_text())
    asked = {tool for tools, _ in REVIEW for tool in tools.split()}
    assert asked - {"get_workflow_aggregates"} <= named  # list_failures compares with before
