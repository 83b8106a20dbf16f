"""README.md and docs/: the links, files, commands, options, tools and settings that they name."""

import re
import shlex
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
from markdown_it import MarkdownIt
from markdown_it.token import Token

from dbos_mcp.cli import app
from dbos_mcp.inspection.views import VIEWS
from dbos_mcp.server.tools import TOOLS
from dbos_mcp.settings import ENVIRONMENT, SEVERAL

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
VARIABLES = {*ENVIRONMENT, SEVERAL}
VERBS = "list|get|cancel|resume|fork|delete|manage|set|diagnose|compare|query|describe|sync|login"
NAMED_LIKE_TOOLS = {"fork_from_failure", *(tool.name for tool in TOOLS)}
NO_TOOLS = {"set_event"}
"""Of DBOS's own API."""
FOREIGN = {"--extra", "--token"}
"""Options of other programs, where they stand alone in back quotes."""

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def tokens(page: Path) -> Iterator[Token]:
    for token in MarkdownIt().enable("table").parse(page.read_text()):
        yield token
        yield from token.children or ()


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    found: dict[str, int] = {}
    made = set()
    parsed = MarkdownIt().enable("table").parse(page.read_text())
    for token, inline in pairwise(parsed):
        if token.type == "heading_open":
            text = "".join(
                child.content for child in inline.children or () if child.type != "image"
            )
            slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
            seen = found[slug] = found.get(slug, -1) + 1
            made.add(f"{slug}-{seen}" if seen else slug)
    return made


def code(page: Path) -> list[str]:
    """What stands in back quotes, or in a block that is indented or fenced as shell."""
    return [
        token.content
        for token in tokens(page)
        if token.type == "code_inline"
        or (
            token.type == "fence" and token.info.split(" ")[0] in ("sh", "bash", "shell", "console")
        )
    ]


def quoted(page: Path) -> list[str]:
    return [token.content for token in tokens(page) if token.type == "code_inline"]


@every_page
def test_each_relative_link_leads_somewhere(page: Path) -> None:
    for token in tokens(page):
        target = token.attrGet("href") if token.type == "link_open" else token.attrGet("src")
        if target is None or re.match(r"[a-z]+:", str(target)):
            continue
        path, _, anchor = str(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(file), target


@every_page
def test_each_file_that_is_named_exists(page: Path) -> None:
    for text in quoted(page):
        for path in re.findall(
            r"^(?:tests|dbos_mcp|docs|benchmarks|evals|migrations)/[\w./-]*(?=$|::)", text
        ):
            assert (ROOT / path).exists(), path
            if "::" in text:
                name = text.rpartition("::")[2]
                assert re.search(rf"def {re.escape(name)}\b", (ROOT / path).read_text()), text


@every_page
def test_each_command_line_is_one_that_there_is(page: Path) -> None:
    for text in code(page):
        for line in text.replace("\\\n", " ").splitlines():
            for said in re.findall(r"(?:^|[\s(\"'|])dbos-mcp(?=\s|$)([^|;&`)]*)", line):
                assert_known(said)


def command_line() -> Any:
    return typer.main.get_command(app)


def below(command: Any) -> Mapping[str, Any]:
    """Its subcommands."""
    return command.commands if isinstance(command, typer.core.TyperGroup) else {}


def assert_known(said: str) -> None:
    """Its subcommands and its options, each where it may stand."""
    try:
        words = shlex.split(said, comments=True)
    except ValueError:  # of a quotation that ends behind it
        words = said.split("#")[0].replace('"', " ").replace("'", " ").split()
    command = command_line()
    allowed = options_of(command)
    takes_value = False
    for word in words:
        name, given, _ = word.partition("=")
        if takes_value:
            takes_value = False
        elif re.fullmatch(r"--?[a-z][\w-]*", name):
            # The client's own, in `claude mcp add … -- dbos-mcp`.
            assert name in allowed, f"dbos-mcp{said}: {name}"
            takes_value = allowed[name] and not given
        elif below(command) and re.fullmatch(r"[a-z][\w-]*", word):
            assert word in below(command), f"dbos-mcp{said}: {word}"
            command = below(command)[word]
            allowed = options_of(command)
        elif not re.match(r"[\w.]", word):
            return


def options_of(command: Any) -> dict[str, bool]:
    """Each option, and whether a value follows."""
    options = {"--help": False}
    for parameter in command.params:
        if isinstance(parameter, typer.core.TyperOption):
            for name in (*parameter.opts, *parameter.secondary_opts):
                options[name] = not parameter.is_flag and not parameter.count
    return options


@every_page
def test_each_option_in_back_quotes_is_one_of_some_program_of_ours(page: Path) -> None:
    known = {option for command in every_command() for option in options_of(command)} | FOREIGN
    recipes = "".join(path.read_text() for path in (ROOT / "benchmarks").rglob("*.py"))
    recipes += (ROOT / "evals" / "run.py").read_text()
    for text in quoted(page):
        if option := re.match(r"--[a-z][\w-]*", text):
            assert option[0] in known or f'"{option[0]}"' in recipes, text


def every_command() -> Iterator[Any]:
    waiting = [command_line()]
    while waiting:
        command = waiting.pop()
        yield command
        waiting += below(command).values()


@every_page
def test_each_tool_that_is_named_exists(page: Path) -> None:
    columns = {column.name for view in VIEWS for column in view.columns}
    arguments = {name for tool in TOOLS for name in tool.parameters.get("properties", {})}
    for text in quoted(page):
        called = re.match(rf"((?:{VERBS})_[a-z_]+)(?=$|\()", text)
        if called and called[1] not in columns | arguments | NO_TOOLS:
            assert called[1] in NAMED_LIKE_TOOLS, text


@every_page
def test_each_setting_that_is_named_exists(page: Path) -> None:
    for name in re.findall(r"\bDBOS_[A-Z][A-Z_]*[A-Z]\b", page.read_text()):
        assert name in VARIABLES, name


@every_page
def test_each_recipe_that_is_named_exists(page: Path) -> None:
    justfile = (ROOT / "justfile").read_text()
    recipes = {*re.findall(r"^([a-z][\w-]*)[^:\n]*:", justfile, flags=re.MULTILINE)}
    for text in code(page):
        for recipe in re.findall(r"(?:^|\n)just ([a-z][\w-]*)", text):
            assert recipe in recipes, recipe


def test_the_checks_see_what_is_not_there(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[a](#b) `tests/none.py` `dbos-mcp sync --watched` `list_everything` `DBOS_XY`")
    for check, what in (
        (test_each_relative_link_leads_somewhere, "#b"),
        (test_each_file_that_is_named_exists, "tests/none.py"),
        (test_each_command_line_is_one_that_there_is, "--watched"),
        (test_each_tool_that_is_named_exists, "list_everything"),
        (test_each_setting_that_is_named_exists, "DBOS_XY"),
    ):
        with pytest.raises(AssertionError, match=re.escape(what)):
            check(page)
