"""What a change must keep up with: the tables of the README, the checks, the words."""

import json
import re
from pathlib import Path

import pytest
import typer
from mcp.server.mcpserver.tools import Tool

from dbos_mcp.cli import app
from dbos_mcp.queries.filters import WorkflowFilter
from dbos_mcp.server.tools import TOOLS
from dbos_mcp.settings import ENVIRONMENT, SEVERAL, Settings
from tests.exits.documented import proofs_in

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DEMO = "uv run --extra local dbos-mcp demo"
TEST = "uv run pytest -n auto"


def first_cells(heading: str) -> list[str]:
    """The first column of the table below a heading of the README, without its back quotes."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", section, flags=re.MULTILINE)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
class TestEachTool:
    def test_says_what_it_does(self, tool: Tool) -> None:
        assert 40 < len(tool.description) < 700

    def test_says_what_it_may_change(self, tool: Tool) -> None:
        hints = tool.annotations
        assert hints is not None
        assert hints.read_only_hint is not False  # that is what its absence means
        assert hints.read_only_hint or hints.destructive_hint is not None

    def test_refuses_unknown_arguments(self, tool: Tool) -> None:
        assert tool.parameters["additionalProperties"] is False

    def test_answers_in_one_channel(self, tool: Tool) -> None:
        assert tool.output_schema is None


def test_the_readme_has_a_row_for_each_tool() -> None:
    assert first_cells("Tools") == [tool.name for tool in TOOLS]


def test_the_readme_has_a_row_for_each_resource_and_prompt() -> None:
    snapshots = ROOT / "tests" / "server" / "snapshots"
    keys = {"resources": "uri", "resource_templates": "uriTemplate", "prompts": "name"}
    assert first_cells("Resources and prompts") == [
        definition[key]
        for name, key in keys.items()
        for definition in json.loads((snapshots / f"{name}.json").read_text())
    ]


def test_the_readme_has_a_row_for_each_command() -> None:
    commands = typer.main.get_command(app)
    assert isinstance(commands, typer.core.TyperGroup)
    named = [
        f"dbos-mcp {name} {each}" if each else f"dbos-mcp {name}"
        for name, command in commands.commands.items()
        for each in (command.commands if isinstance(command, typer.core.TyperGroup) else [""])
    ]
    assert first_cells("Commands") == ["dbos-mcp", *named]


def test_the_readme_has_a_row_for_each_setting() -> None:
    assert sorted(first_cells("Settings")) == sorted([*ENVIRONMENT, SEVERAL])


def test_each_variable_names_a_setting() -> None:
    assert set(ENVIRONMENT.values()) <= set(Settings.model_fields)


def test_each_filter_is_an_argument() -> None:
    (listing,) = (tool for tool in TOOLS if tool.name == "list_workflows")
    assert WorkflowFilter.model_fields.keys() <= listing.parameters["properties"].keys()


def test_the_readme_counts_the_filters() -> None:
    (listing,) = (tool for tool in TOOLS if tool.name == "list_workflows")
    others = {"application_name", "limit", "cursor", "columns", "detail", "format"}
    others |= {"order_by", "descending", "max_age_seconds"}
    filters = set(listing.parameters["properties"]) - others
    assert f"any combination of {len(filters)} filters" in README


def test_the_readme_shows_the_two_commands_that_do_everything() -> None:
    assert re.findall(r"^uv run .*?(?=\s*#)", README, flags=re.MULTILINE) == [DEMO, TEST]


def test_the_readmes_commands_are_those_of_the_checks_and_the_recipes() -> None:
    assert f"step {TEST}\n" in (ROOT / ".ci" / "run").read_text()
    recipes = (ROOT / "justfile").read_text()
    assert f"    {TEST} {{{{ arguments }}}}\n" in recipes
    assert f"    {DEMO}\n" in recipes
    from dbos_mcp.demo import tour

    assert tour.__file__ is not None
    assert f"`{DEMO}`" in Path(tour.__file__).read_text()


def test_each_folder_that_the_readme_names_exists() -> None:
    for folder in re.findall(r"`(tests/\w+/)`", README):
        assert any((ROOT / folder).glob("test_*.py")), folder


def test_each_test_that_the_page_on_security_names_exists() -> None:
    named = proofs_in((ROOT / "docs" / "security.md").read_text())
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_no_module_prints_but_the_command_line() -> None:
    for module in (ROOT / "dbos_mcp").rglob("*.py"):
        if module.parent.name != "cli":
            assert not re.search(r"(^|\s)print\(", module.read_text()), module
