"""`dbos-mcp sql` and `dbos-mcp schema`, as a person or a script runs them."""

import csv
import io
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dbos_mcp import cli
from dbos_mcp.inspection.examples import EXAMPLES
from dbos_mcp.inspection.views import VIEWS
from dbos_mcp.store import projector
from dbos_mcp.store.events import ApplicationObserved
from dbos_mcp.store.migrate import open_cache
from tests.command_line import Done, environment
from tests.store.factories import BORN, observed

EVIL = 'a,"b|<i>\x1b[31m\n\u202e'

GREEDY = """
    WITH RECURSIVE
    long(s) AS (SELECT 'aaaaaaaa' UNION ALL SELECT s || s FROM long WHERE length(s) < 900000),
    n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
    SELECT s || i FROM (SELECT max(s) AS s FROM long), n ORDER BY 1
"""

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"

LARGE = """
    WITH RECURSIVE
    long(s) AS (SELECT 'aaaaaaaa' UNION ALL SELECT s || s FROM long WHERE length(s) < 1000000),
    one(s) AS (SELECT max(s) FROM long)
    SELECT s FROM one, json_each('[1,2,3,4,5,6,7,8,9,10,11,12]')
"""

Run = Callable[..., Done]


@pytest.fixture
def run(
    cache_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> Iterator[Run]:
    """`dbos-mcp --offline …` on a mirror of two workflows. In this process: to start another one
    takes seconds."""
    cache = open_cache(cache_path)
    with cache.write() as connection:
        shop = ApplicationObserved(application_name="shop", application_id="1", status="AVAILABLE")
        facts = [shop, observed("order-1", error=EVIL), observed("order-2", queue_name="q")]
        projector.record(connection, facts, recorded_at=BORN)
    cache.close()
    monkeypatch.setattr("os.environ", environment(tmp_path))
    logs = logging.root.handlers[:]

    def run(*arguments: str, stdin: bytes = b"") -> Done:
        before = ["--offline", "--cache", str(cache_path)]
        monkeypatch.setattr(sys, "argv", ["dbos-mcp", *before, *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capfdbinary.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Done(arguments, code, shown.out.decode(), shown.err.decode())

    yield run
    logging.root.handlers[:] = logs


ALL = "SELECT workflow_id, error, queue_name, created_at_ms FROM workflows ORDER BY 1"


def test_rows_come_aligned_and_without_control_characters(run: Run) -> None:
    done = run("sql", ALL)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "workflow_id  error                     queue_name  created_at_ms",
        "-----------  ------------------------  ----------  -------------",
        r'order-1      a,"b|<i>\x1b[31m\n\u202e              1790000000000',
        "order-2                                q           1790000000000",
    ]


def test_programs_get_values_as_they_are(run: Run) -> None:
    rows = [["order-1", EVIL, None, BORN], ["order-2", None, "q", BORN]]
    names = ["workflow_id", "error", "queue_name", "created_at_ms"]
    found = json.loads(run("sql", ALL, "--format", "json").stdout)
    assert found == [dict(zip(names, row, strict=True)) for row in rows]
    read = [*csv.reader(io.StringIO(run("sql", ALL, "--format", "csv").stdout))]
    assert read == [names, *([str("" if v is None else v) for v in row] for row in rows)]


def test_markdown_is_a_table_that_no_value_can_leave(run: Run) -> None:
    lines = run("sql", ALL, "--format", "markdown").stdout.splitlines()
    assert lines[1] == "| --- | --- | --- | --- |"
    assert lines[2].startswith(r'| order-1 | a,"b\|\<i\>\\x1b\[31m\\n\\u202e |  | 1790')
    assert len(lines) == 4


def test_a_statement_comes_from_stdin_too_with_parameters_as_what_they_are(run: Run) -> None:
    given = {"a": "1", "b": "1.5", "c": "x=y", "d": "0012", "e": "3.10", "f": "", "g": "9" * 19}
    statement = "\ufeff-- all\nSELECT :a a, :b b, :c c, :d d, :e e, :f f, :g g; -- of them\n"
    parameters = [f"--param={name}={value}" for name, value in given.items()]
    done = run("sql", "-", "--format", "json", *parameters, stdin=statement.encode())
    assert json.loads(done.stdout) == [{**given, "a": 1, "b": 1.5}]
    done = run("sql", "-", stdin="SELECT 'é'".encode("latin-1"))
    assert (done.returncode, done.stderr) == (2, "Error: The statement on stdin is not UTF-8.\n")


def test_what_is_left_out_is_said_beside_the_rows(run: Run) -> None:
    done = run("sql", "SELECT workflow_id FROM workflows", "--limit", "1", "--format", "csv")
    assert done.stdout == "workflow_id\norder-1\n"
    assert done.stderr == "Warning: 1 of 2 rows; --limit takes more.\n"


def test_values_come_whole_until_there_is_too_much_of_them(run: Run) -> None:
    done = run("sql", LARGE, "--format", "csv")
    lengths = [len(line) for line in done.stdout.splitlines()[1:]]
    assert {*lengths} == {1_048_576}
    assert done.stderr == f"Warning: {len(lengths)} of 12 rows; cut at 8.0 MB: select less.\n"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["sql", "SELECT * FROM workflow"], 2, "Did you mean workflows?"),
        (["sql", "DELETE FROM workflows"], 2, "One SELECT"),
        (["sql", "SELECT :a", "--param", "a"], 2, "is not NAME=VALUE"),
        (["sql", "SELECT :a", "--param=a=1", "--param=:a=2"], 2, "is given twice"),
        (["sql", ENDLESS, "--timeout", "0.1"], 1, "--timeout SECONDS"),
        (["sql", GREEDY, "--timeout", "60"], 1, "too much memory"),
        (["schema", "workflow"], 2, "did you mean workflows?"),
    ],
)  # fmt: skip
def test_errors_have_exit_codes_and_next_steps(
    run: Run, arguments: list[str], code: int, told: str
) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr


def test_the_schema_is_shown_whole_or_by_view(run: Run) -> None:
    whole = run("schema").stdout
    for view in VIEWS:
        assert f"\n{view.name} (" in whole
    assert "workflows (2): Every workflow" in whole
    assert "\nqueue_name*: the queue; null: started directly; here: q\n" in (
        run("schema", "workflows").stdout
    )


def test_a_mirror_that_is_missing_is_exit_code_4(run: Run, tmp_path: Path) -> None:
    assert run("--cache", str(tmp_path / "no"), "sql", "SELECT 1").returncode == 4


def test_datasette_opens_a_copy_and_answers_the_examples(
    run: Run, cache_path: Path, tmp_path: Path
) -> None:
    described = tmp_path / "metadata.json"
    described.write_text(run("schema", "--datasette").stdout)
    (tmp_path / "copy").mkdir()
    copy = shutil.copy(cache_path, tmp_path / "copy")

    def get(path: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "datasette", copy, "--metadata", described, "--get", path],
            env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        return json.loads(done.stdout)

    found = get(f"/{cache_path.stem}.json")
    assert {view["name"] for view in found["views"]} == {view.name for view in VIEWS}
    assert all(table["hidden"] for table in found["tables"])
    assert [query["name"] for query in found["queries"]] == [each.name for each in EXAMPLES]
    at = "2099-01-01T00:00:00Z"
    query = f"in_flight_at.json?application_name=shop&at={at}&_shape=array"
    rows = get(f"/{cache_path.stem}/{query}")
    assert [row["workflow_id"] for row in rows] == ["order-1", "order-2"]
