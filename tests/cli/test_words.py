"""Errors are written for agents; at the command line they speak of commands."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import dbos_mcp
from dbos_mcp.cli.words import of_the_command_line
from dbos_mcp.server.tools import TOOLS

PACKAGE = Path(dbos_mcp.__file__).parent
BELOW = ("conductor", "inspection", "postmortem", "queries", "store", "sync", "incident", "upkeep")
MODULES = ("runtime.py", "login.py", "server/sync_status.py", "server/schema.py")
TOLD_TO_AGENTS_ALONE = {"sync/commands.py", "login.py"}
"""What cancels, resumes and forks; a login in two calls. The command line has neither."""
ARGUMENTS = ("params", "max_age_seconds", "workflow_id_prefix")
NAMES = re.compile(
    rf"\b(?:{'|'.join([*(t.name for t in TOOLS if t.name != 'login'), *ARGUMENTS])})\b"
)


def sentences() -> Iterator[tuple[str, str]]:
    paths = [path for name in BELOW for path in (PACKAGE / name).rglob("*.py")]
    for path in sorted([*paths, *(PACKAGE / name for name in MODULES)]):
        name = str(path.relative_to(PACKAGE))
        if name in TOLD_TO_AGENTS_ALONE:
            continue
        tree = ast.parse(path.read_text())
        told = {
            id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
        }  # docstrings
        for node in ast.walk(tree):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            if id(node) not in told and " " in node.value and NAMES.search(node.value):
                yield name, node.value


@pytest.mark.parametrize(("module", "sentence"), list(sentences()))
def test_no_tool_is_named_to_a_person(module: str, sentence: str) -> None:
    assert NAMES.search(of_the_command_line(sentence)) is None


def test_there_are_sentences_that_name_tools() -> None:
    assert len(list(sentences())) > 5


@pytest.mark.parametrize(
    ("to_agents", "to_people"),
    [
        (
            'Write :name where a value belongs, and give each in params: {"name": …}.',
            "Write :name where a value belongs, and give each as --param name=VALUE.",
        ),
        (
            "Call `login`, or run `dbos-mcp login --profile a`; or set DBOS_TOKEN to an API key.",
            "Run `dbos-mcp login --profile a`; or set DBOS_TOKEN to an API key.",
        ),
        (
            "describe_schema tells the columns of workflows.",
            "`dbos-mcp schema` tells the columns of workflows.",
        ),
        ("There is no cache at describe_schemas.", "There is no cache at describe_schemas."),
    ],
)
def test_a_tool_becomes_a_command(to_agents: str, to_people: str) -> None:
    assert of_the_command_line(to_agents) == to_people
