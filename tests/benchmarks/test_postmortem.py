"""The benchmark of post-mortems plants its causes, and notices an answer that is wrong."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks import postmortem
from benchmarks.failures import CAUSES, Failures
from benchmarks.generate import ENDS_AT, Population
from benchmarks.mirror import DAYS, FEWEST_ROWS, mirror_of_failures
from benchmarks.postmortem import Planted, Span
from dbos_mcp.domain import FAILED
from dbos_mcp.settings import DAY_MS

pytestmark = pytest.mark.slow

FAILED_ROWS = 300
LAST_DAY = Span(ENDS_AT - DAY_MS, ENDS_AT)
ANSWER = """\
3 workflows of shop failed from 2025-12-31 to 2026-01-01, of 2 causes; 1 in as much time before

group | began | before | failed | workflow_name | step_name | error | first_at | last_at | newest
abc | 1 | 1 | 2 | charge_card | capture | no money | a | b | child
def | 1 | 0 | 1 | refund |  | one | two | a | b | alone

def: executor_id x in 1 of 1 failed, 0 of 9 other runs"""


@pytest.fixture
def planted() -> Iterator[Planted]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE workflow (completed_at, workflow_id, attributes)")
        connection.executemany(
            "INSERT INTO workflow VALUES (?, ?, json_object('cause', ?, 'origin', ?))",
            (
                (ENDS_AT, "parent", 1, "child"),
                (ENDS_AT - 1, "child", 1, "child"),
                (ENDS_AT - 2, "alone", 2, "alone"),
                (ENDS_AT - DAY_MS - 1, "yesterday", 1, "yesterday"),
            ),
        )
        yield Planted(connection)


async def test_what_was_planted_is_found(tmp_path: Path) -> None:
    population = Population(rows=FEWEST_ROWS, days=DAYS, in_flight=20)
    cache = await mirror_of_failures(population, Failures(FAILED_ROWS), tmp_path)
    findings = await postmortem.run(FEWEST_ROWS, FAILED_ROWS, cache, windows=2, diagnoses=18)
    assert findings.wrong == []
    with closing(sqlite3.connect(cache)) as connection:
        rows = connection.execute(
            "SELECT status, completed_at > ?, json_extract(attributes, '$.cause') FROM workflow"
            " WHERE attributes LIKE '%\"cause\"%'",
            (LAST_DAY.since,),
        ).fetchall()
        ((failed,),) = connection.execute(
            "SELECT count(*) FROM workflow WHERE status IN (?, ?, 'CANCELLED')", FAILED
        )
    assert len(rows) == failed == FAILED_ROWS
    assert sum(last_day for _, last_day, _ in rows) == FAILED_ROWS // 5
    assert {status for status, _, _ in rows} == {*FAILED, "CANCELLED"}
    assert any(CAUSES[cause].parents for _, _, cause in rows)


def test_an_answer_is_held_against_what_was_planted(planted: Planted) -> None:
    assert planted.contradiction(ANSWER, LAST_DAY) is None
    for right, wrong, says in (
        ("of 2 causes", "of 3 causes", "and 2 causes"),
        ("abc | 1 | 1 | 2", "abc | 2 | 1 | 2", "(2, 1, 2), of (1, 1, 2)"),
        ("b | alone", "b | parent", "are one cause"),
    ):
        assert says in (planted.contradiction(ANSWER.replace(right, wrong), LAST_DAY) or "")
