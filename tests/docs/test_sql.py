"""docs/sql.md: its views are those of the program, and each statement finds what it says."""

import re

import pytest

from dbos_mcp.inspection.examples import EXAMPLES
from dbos_mcp.inspection.views import VIEWS
from docs.generate import sql

PAGE = sql.PAGE.read_text()
RECIPES = [*sql.recipes(PAGE)]
ASKED_OF_THE_CLOCK = {"changed_today"}
"""Examples whose answer is another one every day: the page has another statement for that."""


def test_the_page_tells_the_views() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, flags=re.MULTILINE)
    assert rows == [(view.name, view.meaning[0].lower() + view.meaning[1:]) for view in VIEWS]


def test_each_statement_of_the_cookbook_finds_what_the_page_says() -> None:
    assert sql.made(PAGE) == PAGE, "docs/sql.md is stale: run `just docs`"


def test_each_statement_finds_something() -> None:
    with sql.opened() as sandbox:
        assert all(sql.run(sandbox, recipe["sql"]).rows for recipe in RECIPES)


def test_each_question_has_one_statement_and_what_to_do_with_the_answer() -> None:
    cookbook = PAGE.split("\n## Cookbook\n")[1]
    questions = re.split(r"^#### ", cookbook, flags=re.MULTILINE)[1:]
    assert len(questions) == len(RECIPES) >= 25
    for question in questions:
        assert question.splitlines()[0].endswith("?")
        advice = re.sub(r"^#.*", "", question.rpartition("|\n")[2], flags=re.MULTILINE)
        assert len(advice.strip()) > 40, question


def test_the_examples_of_the_program_are_in_it_to_the_word() -> None:
    shown = {
        recipe["example"]: " ".join(re.sub(r"^--.*$", "", recipe["sql"], flags=re.M).split())
        for recipe in RECIPES
        if recipe["example"]
    }
    assert shown == {
        example.name: example.sql for example in EXAMPLES if example.name not in ASKED_OF_THE_CLOCK
    }


def test_a_statement_that_the_program_would_warn_of_is_no_recipe() -> None:
    with sql.opened() as sandbox, pytest.raises(ValueError, match="No status is known"):
        sql.run(sandbox, "SELECT * FROM workflows WHERE status = 'FAILED'")
