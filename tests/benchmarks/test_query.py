"""The benchmark of reading asks by every filter, and notices an answer that is wrong."""

from pathlib import Path

import pytest

from benchmarks import query
from benchmarks.generate import Population
from benchmarks.mirror import FEWEST_ROWS, mirror_of
from benchmarks.questions import without_a_case

pytestmark = pytest.mark.slow

PAGE = "2 of 7 workflows of shop, newest first\nworkflow_id | status\none | ERROR\ntwo | ERROR"


async def test_it_asks_by_every_filter_and_sqlite_finds_the_same(tmp_path: Path) -> None:
    cache = await mirror_of(Population(rows=FEWEST_ROWS), tmp_path)
    findings = await query.run(FEWEST_ROWS, cache, combinations=10, most=3)
    assert findings.unasked == set()
    assert [(each.question.arguments(), each.wrong) for each in findings.wrong] == []
    asked_by = {name for each in findings.asked for name in each.question.fields}
    assert {"status", "active_at", "step_name", "deleted_upstream"} <= asked_by
    assert sum(len(each.question.fields) > 1 for each in findings.asked) == 10


def test_a_filter_that_nobody_asks_by_is_found() -> None:
    assert without_a_case(["status", "mood", "limit"], {"status": []}) == {"mood"}
    assert without_a_case(["status"], {"status": [], "gone": []}) == {"gone"}


def test_an_answer_is_held_against_sqlite() -> None:
    assert query.difference(PAGE, ["one", "two", "three"], 7) is None
    assert query.difference(PAGE, ["one", "two"], 8) == "7 match, of SQLite's 8"
    assert query.difference(PAGE, ["one", "three"], 7) == "row 2 is 'two', not 'three'"
    assert query.difference(PAGE, ["one"], 7) == "2 rows, of SQLite's 1"
