"""Statements of a grammar that knows what is public, what is not, and what hurts.

`just fuzz-sql` makes 10,000 of them.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbos_mcp.errors import SqlRejectedError, SqlStoppedError
from dbos_mcp.inspection.sandbox import Sandbox
from dbos_mcp.inspection.views import VIEWS
from dbos_mcp.store import projector, sync_state
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.migrate import open_cache
from tests.inspection.test_sandbox import MOST_KIB, left_behind, peak_kib, workers
from tests.store.factories import BORN, issued, observed, steps

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))
SECONDS = 0.3
SECRET = "kept-from-sql"
"""In a private table."""
HIDDEN = (SECRET, "content_hash", "workflow_key", "sync_state", "CREATE ", "ix_", "ux_")

PUBLIC = [view.name for view in VIEWS]
PRIVATE = ["workflow", "event", "step", "sync_state", "attention", "sqlite_schema", "dbstat",
           "pragma_table_info('workflow')", "sqlite_master", "alembic_version"]  # fmt: skip
COLUMNS = sorted({column.name for view in VIEWS for column in view.columns})
FUNCTIONS = [
    *("count", "max", "sum", "group_concat", "json_group_array", "length", "hex", "upper", "quote"),
    *("json_extract", "replace", "instr", "typeof", "abs", "row_number", "json_each", "printf"),
    *("zeroblob", "load_extension", "fts3_tokenizer", "randomblob"),
]
BINARY = ["+", "||", "*", "=", "<", "LIKE", "GLOB", "IS", "AND", "OR", "->>", "IN", "%", "<<"]


def cased(words: list[str]) -> st.SearchStrategy[str]:
    return st.builds(
        lambda word, change: change(word),
        st.sampled_from(words),
        st.sampled_from([str, str, str, str.upper, lambda word: f'"{word}"', "main.{}".format]),
    )


literals = st.one_of(
    st.integers(-(2**63), 2**63 - 1).map(str),
    st.sampled_from(["NULL", "1", "0", "1.5e300", "x'00ff'", "''", "'a'", "'%a%a%'", "'$.status'"]),
    st.text("ab'\u202e\x00é%;-*/", max_size=6).map(
        lambda text: "'" + text.replace("'", "''") + "'"
    ),
)
names = st.one_of(st.sampled_from(COLUMNS), cased(["content_hash", "last_error", "sql", "rowid"]))
leaves = st.one_of(literals, names)
expressions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(BINARY), inner),
        st.builds("{}({})".format, st.sampled_from(FUNCTIONS), inner),
        st.builds("{}({}, {})".format, st.sampled_from(FUNCTIONS), inner, inner),
        st.builds("CASE WHEN {} THEN {} ELSE {} END".format, inner, inner, inner),
        st.builds("(SELECT {} FROM {})".format, inner, st.deferred(lambda: tables)),
        st.builds("EXISTS (SELECT {} FROM {})".format, inner, st.deferred(lambda: tables)),
        st.builds("count({}) OVER (ORDER BY {})".format, inner, inner),
    ),
    max_leaves=6,
)
endless = st.just(
    "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS status FROM n)"
)
tables: st.SearchStrategy[str] = st.one_of(
    cased(PUBLIC), cased(PUBLIC), cased(PUBLIC), cased(PRIVATE), endless,
    st.builds("json_each({})".format, literals),
)  # fmt: skip
sources = st.lists(tables, min_size=1, max_size=3).map(", ".join)
tails = st.sampled_from(
    ["", "", " LIMIT 5", " ORDER BY 1", " GROUP BY 1", " GROUP BY 1 HAVING 1", " ORDER BY random()"]
)
selects = st.builds(
    "SELECT {} FROM {} WHERE {}{}".format,
    st.lists(st.one_of(st.just("*"), expressions), min_size=1, max_size=3).map(", ".join),
    sources,
    st.one_of(st.just("1"), expressions),
    tails,
)
questions = st.one_of(
    selects,
    st.builds("{} {} {}".format, selects, st.sampled_from(["UNION", "EXCEPT"]), selects),
    st.builds("WITH {} AS ({}) {}".format, cased(PUBLIC + PRIVATE), selects, selects),
    st.builds("WITH RECURSIVE {0}(status) AS ({1} UNION ALL SELECT status || 'a' FROM {0})"
              " SELECT * FROM {0}".format, st.sampled_from(PUBLIC), selects),
    st.builds("EXPLAIN QUERY PLAN {}".format, selects),
)  # fmt: skip
changes = st.one_of(
    st.builds("DELETE FROM {} WHERE {}".format, cased(PUBLIC + PRIVATE), expressions),
    st.builds("UPDATE {} SET {} = {}".format, tables, names, expressions),
    st.builds("INSERT INTO {} {}".format, cased(PUBLIC + PRIVATE), selects),
    st.builds("CREATE {} evil AS {}".format, st.sampled_from(["TABLE", "TEMP VIEW"]), selects),
    st.builds("ATTACH {} AS {}".format, expressions, st.sampled_from(["evil", "temp", "main"])),
    st.builds("VACUUM INTO {}".format, expressions),
    st.builds(
        "PRAGMA {} = {}".format, st.sampled_from(["query_only", "writable_schema"]), literals
    ),
)
statements = st.one_of(
    questions,
    questions,
    questions,
    changes,
    st.builds("{}{}{}".format, questions, st.sampled_from(["; ", " -- \n", "\x00"]), changes),
    st.builds("EXPLAIN {}".format, st.one_of(questions, changes)),
    st.builds(lambda sql, place, noise: sql[:place] + noise + sql[place:], questions,
              st.integers(0, 200), st.text(max_size=4)),
)  # fmt: skip


@pytest.fixture(scope="module")
def cache(empty_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cache]:
    path = tmp_path_factory.mktemp("fuzz") / "cache.sqlite"
    shutil.copy(empty_cache, path)
    cache = open_cache(path)
    with cache.write() as connection:
        facts = [observed(f"order-{n}", queue_name="q") for n in range(20)]
        projector.record(connection, [*facts, steps("order-1", "a"), issued()], recorded_at=BORN)
        sync_state.update(connection, "shop", {"last_error": SECRET})
    yield cache
    cache.close()


@pytest.fixture(scope="module")
def sandbox(cache: Cache) -> Iterator[Sandbox]:
    sandbox = Sandbox(cache.read_uri, seconds=SECONDS)
    yield sandbox
    sandbox.close()


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(statements)
def test_no_statement_writes_shows_what_is_private_or_outgrows_its_box(
    cache: Cache, sandbox: Sandbox, sql: str
) -> None:
    before = left_behind(cache)
    try:
        found = sandbox.run(sql)
    except (SqlRejectedError, SqlStoppedError) as refusal:
        shown = str(refusal)
    else:
        shown = json.dumps([found.columns, found.rows])
        assert found.ms < SECONDS * 1_100
        assert sql.lstrip().upper().startswith(("SELECT", "WITH", "EXPLAIN QUERY PLAN")) or (
            not sql.lstrip()[:1].isalpha()
        )
    for hidden in HIDDEN:
        assert hidden not in shown or hidden in sql
    assert left_behind(cache) == before
    for pid in workers(sandbox):
        assert peak_kib(pid) < MOST_KIB


def test_most_questions_of_the_grammar_can_be_answered(sandbox: Sandbox) -> None:
    """Otherwise the above would say little."""
    answered: list[bool] = []

    @settings(max_examples=60, deadline=None, database=None, derandomize=True)
    @given(
        st.builds("SELECT * FROM {} WHERE {}{}".format, st.sampled_from(PUBLIC), literals, tails)
    )
    def ask(sql: str) -> None:
        try:
            sandbox.run(sql)
        except (SqlRejectedError, SqlStoppedError):
            answered.append(False)
        else:
            answered.append(True)

    ask()
    assert sum(answered) > len(answered) / 2
