"""Statements of a grammar that knows what is public, what is not, and what hurts.

`just fuzz-sql` makes 10,000 of them.
"""

import json
import os
import re
import resource
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbos_mcp.errors import SqlRejectedError, SqlStoppedError
from dbos_mcp.inspection.sandbox import Found, Parameter, Sandbox
from dbos_mcp.inspection.views import VIEWS
from dbos_mcp.store import projector, sync_state
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.migrate import open_cache
from tests.inspection.test_sandbox import (
    MOST_KIB,
    is_there,
    left_behind,
    nothing_is_held,
    peak_kib,
    workers,
)
from tests.store.factories import BORN, issued, observed, steps

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))
SECONDS = 0.3
SECRET = "kept-from-sql"
"""In a private table, and in a private column of each row."""
PARAMETERS: dict[str, Parameter] = {"text": "order-1", "number": 1.5, "none": None, "json": "[1]"}

Tables = dict[str, list[str]]
"""Columns by what stands behind FROM."""
PUBLIC: Tables = {view.name: [column.name for column in view.columns] for view in VIEWS}
COMPUTED: Tables = {
    "json_each('[1, {\"a\": 2}]')": ["key", "value", "type", "atom"],
    "json_tree(:json)": ["fullkey", "path", "value"],
    "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n)": ["i"],
    "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 9) SELECT i FROM n)":
        ["i"],
    "(VALUES (1, 'é'), (2, x'ff'))": ["column1", "column2"],
}  # fmt: skip
PRIVATE: Tables = {
    "workflow": ["content_hash", "id"],
    "main.event": ["data"],
    "step": ["workflow_key"],
    "sync_state": ["last_error"],
    "attention": ["workflow_id"],
    "alembic_version": ["version_num"],
    "sqlite_schema": ["sql", "name"],
    '"SQLITE_MASTER"': ["sql"],
    "dbstat": ["name"],
    "pragma_table_info('workflow')": ["name"],
}
OF_ONE = [
    *("length", "hex", "upper", "quote", "typeof", "abs", "trim", "unicode", "json_valid", "date"),
    *("json_type", "json", "json_array", "round", "char", "zeroblob", "load_extension"),
]
OF_TWO = ["coalesce", "instr", "substr", "json_extract", "nullif", "trim", "max", "min", "printf"]
AGGREGATES = ["count", "max", "min", "sum", "avg", "group_concat", "json_group_array", "total"]
RANKS = ["row_number()", "rank()", "ntile(3)", "cume_dist()"]
FRAMES = ["", " ROWS BETWEEN 2 PRECEDING AND CURRENT ROW", " RANGE UNBOUNDED PRECEDING"]
BINARY = ["+", "||", "*", "=", "<", "LIKE", "GLOB", "IS", "AND", "OR", "->>", "->", "%", "<<"]
TAILS = ["", "", " LIMIT 5", " ORDER BY 1 LIMIT 3 OFFSET 1", " ORDER BY random()"]
GAPS = [" ", " ", " ", "\n", "\t /* é\u202e; */ ", " -- ;\n"]


def filled(text: str, mark: str, known: Sequence[str]) -> str:
    """With a column for each `<mark><number>#`."""
    return re.sub(rf"{mark}(\d+)#", lambda at: known[int(at[1]) % len(known)], text)


columns = st.integers(0, 200).map("§{}#".format)
outer_columns = st.integers(0, 200).map("¤{}#".format)
literals = st.one_of(
    st.integers(-(2**63), 2**63 - 1).map(str),
    st.sampled_from(["NULL", "1", "0", "1.5e300", "x'00ff'", "''", "'a'", "'%a%a%'", "'$.status'"]),
    st.sampled_from([f":{name}" for name in PARAMETERS]),
    st.text("ab'\u202eé%;-*/", max_size=6).map(lambda text: "'" + text.replace("'", "''") + "'"),
)


def _inner() -> st.SearchStrategy[str]:
    """It may name columns of the statement around it."""
    return select(width=1).map(lambda inner: inner.replace("¤", "§"))


subqueries = st.deferred(_inner)
expressions: st.SearchStrategy[str] = st.recursive(
    st.one_of(columns, outer_columns, literals),
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(BINARY), inner),
        st.builds("{}({})".format, st.sampled_from(OF_ONE), inner),
        st.builds("{}({}, {})".format, st.sampled_from(OF_TWO), inner, inner),
        st.builds("CASE WHEN {} THEN {} ELSE {} END".format, inner, inner, inner),
        st.builds("CAST({} AS {})".format, inner, st.sampled_from(["TEXT", "INTEGER", "BLOB"])),
        st.builds("{} BETWEEN {} AND {}".format, inner, inner, inner),
        st.builds("({}, {}) < ({}, 2)".format, inner, inner, inner),
        st.builds("{} COLLATE NOCASE".format, inner),
        st.builds("{} IN ({})".format, inner, subqueries),
        st.builds("({})".format, subqueries),
        st.builds("EXISTS ({})".format, subqueries),
    ),
    max_leaves=5,
)
results = st.one_of(
    expressions,
    st.builds("{}(DISTINCT {})".format, st.sampled_from(AGGREGATES), expressions),
    st.builds("{}({}) FILTER (WHERE {})".format, st.sampled_from(AGGREGATES), columns, expressions),
    st.builds(
        "{} OVER (PARTITION BY {} ORDER BY {}{})".format,
        st.one_of(
            st.sampled_from(RANKS),
            st.builds("{}({})".format, st.sampled_from(AGGREGATES), columns),
        ),
        columns,
        columns,
        st.sampled_from(FRAMES),
    ),
)
sources = st.sampled_from([*PUBLIC.items()] * 8 + [*COMPUTED.items()] * 2 + [*PRIVATE.items()])
joins = st.sampled_from([", ", " CROSS JOIN ", " NATURAL JOIN ", " LEFT JOIN ", " JOIN "])


@st.composite
def select(draw: st.DrawFn, width: int | None = None) -> str:
    """What stands for columns of a statement around it is left for that one to fill."""
    alias = draw(st.sampled_from("abcdefghij"))
    known: list[str] = []
    source = ""
    for number in range(draw(st.sampled_from([1, 1, 1, 2, 2, 3]))):
        table, its_columns = draw(sources)
        known += [f"{alias}{number}.{column}" for column in its_columns]
        join = draw(joins) if number else ""
        on = f" ON {draw(columns)} = {draw(columns)}" if join in (" LEFT JOIN ", " JOIN ") else ""
        # As it may name only what stands before it.
        source += filled(f"{join}{table} AS {alias}{number}{on}", "§", known)
    found = draw(st.lists(results, min_size=width or 1, max_size=width or 3))
    if width is None and draw(st.booleans()):
        found.append("*")
    where = draw(st.one_of(st.just(""), expressions.map(" WHERE {}".format)))
    group = draw(
        st.one_of(
            st.just(""),
            columns.map(" GROUP BY {}".format),
            columns.map(" GROUP BY {} HAVING count(*) > 0".format),
        )
    )
    return filled(f"SELECT {', '.join(found)} FROM {source}{where}{group}", "§", known)


complete = select().map(lambda inner: filled(inner, "¤", ["NULL"]))
of_one = select(width=1).map(lambda inner: filled(inner, "¤", ["NULL"]))
statement = st.builds("{}{}".format, complete, st.sampled_from(TAILS))
names = st.sampled_from([*PUBLIC, "workflow", "step", "sync_state", "sqlite_schema", "x"])
compounds = st.sampled_from(["UNION", "EXCEPT", "INTERSECT", "UNION ALL"])
questions = st.one_of(
    statement,
    st.builds("{} {} {}".format, of_one, compounds, of_one),
    st.builds("WITH {0} AS{1} ({2}) SELECT * FROM {0} AS x, main.{3} AS y".format, names,
              st.sampled_from(["", " MATERIALIZED"]), complete, st.sampled_from([*PUBLIC])),
    st.builds("WITH {0} AS ({1}) SELECT *, (SELECT count(*) FROM {0}) FROM {2}".format, names,
              complete, names),
    st.builds("WITH RECURSIVE {0}(status) AS ({1} UNION ALL SELECT status || 'a' FROM {0})"
              " SELECT * FROM {0}".format, names, of_one),
    st.builds("EXPLAIN QUERY PLAN {}".format, statement),
)  # fmt: skip
changes = st.one_of(
    st.builds("DELETE FROM {} WHERE {}".format, names, literals),
    st.builds("UPDATE {} SET status = {}".format, names, literals),
    st.builds("INSERT INTO {} {}".format, names, complete),
    st.builds("CREATE {} evil AS {}".format, st.sampled_from(["TABLE", "TEMP VIEW"]), complete),
    st.builds("ATTACH {} AS {}".format, literals, st.sampled_from(["evil", "temp", "main"])),
    st.builds("VACUUM INTO {}".format, literals),
    st.builds("PRAGMA {} = {}".format, st.sampled_from(["query_only", "user_version"]), literals),
)  # fmt: skip
statements = st.one_of(
    questions,
    st.builds(lambda sql, gap: sql.replace(" ", gap), questions, st.sampled_from(GAPS)),
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
        connection.exec_driver_sql("UPDATE workflow SET content_hash = ?", (SECRET.encode(),))
    yield cache
    cache.close()


@pytest.fixture(scope="module")
def sandbox(cache: Cache) -> Iterator[Sandbox]:
    """At its end nothing is left of what ran in it."""
    around = {*Path("/").iterdir()}
    sandbox = Sandbox(cache.read_uri, seconds=SECONDS)
    yield sandbox
    last = workers(sandbox)
    sandbox.close()
    assert not any(is_there(pid) for pid in last)
    assert {*Path("/").iterdir()} == around, "it is where workers are at home"
    assert nothing_is_held(cache)


@pytest.fixture(scope="module")
def private(cache: Cache) -> re.Pattern[str]:
    """Names that nobody should come to know; without those that are words as well."""
    with cache.read() as connection:
        objects = connection.exec_driver_sql("SELECT name, type FROM sqlite_master").all()
        tables = {name for name, kind in objects if kind == "table"}
        columns = {
            column
            for table in tables
            for (column,) in connection.exec_driver_sql(
                "SELECT name FROM pragma_table_info(?)", (table,)
            )
            if "_" in column
        }
    public = {*PUBLIC, *(column for columns in PUBLIC.values() for column in columns)}
    words = {*tables, *columns, *(name for name, _ in objects)} - public
    assert {"workflow", "content_hash", "ux_workflow", "workflow_key", "sync_state"} <= words
    return re.compile(rf"\b(?:{'|'.join(sorted(words))})\b")


def seconds_used(sandbox: Sandbox) -> float:
    """Of the processor, by all processes that ran statements: no load of others makes it more."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    alive = (Path(f"/proc/{pid}/schedstat").read_text() for pid in workers(sandbox))
    return ended.ru_utime + ended.ru_stime + sum(int(times.split()[0]) / 1e9 for times in alive)


def names_in(found: Found, sql: str) -> str:
    is_plan = found.columns[-1] == "detail"
    return json.dumps([found.columns, found.rows if is_plan else None], ensure_ascii=False)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(statements)
def test_no_statement_writes_shows_what_is_private_or_outgrows_its_box(
    cache: Cache, sandbox: Sandbox, private: re.Pattern[str], sql: str
) -> None:
    sandbox.run("SELECT 1")  # a process that has started
    (pid,) = workers(sandbox)
    assert "Max address space 256000000 " in limits_of(pid)
    before, used = left_behind(cache), seconds_used(sandbox)
    values = ""
    try:
        found = sandbox.run(sql, PARAMETERS)
    except (SqlRejectedError, SqlStoppedError) as refusal:
        names = refusal.message  # the hint is ours, and says "application" as people do
    else:
        names, values = names_in(found, sql), json.dumps(found.rows)
        bare = re.sub(r"(?s)^(\s|--[^\n]*|/\*.*?(\*/|\Z))+", "", sql).upper()
        assert bare.startswith(("SELECT", "WITH", "VALUES", "EXPLAIN"))
        assert found.ms < SECONDS * 1_100
    assert seconds_used(sandbox) - used < SECONDS * 1.1
    assert left_behind(cache) == before
    assert not {*private.findall(names)} - {*private.findall(sql)}
    assert SECRET not in values
    assert SECRET.encode().hex() not in values.lower()
    for pid in workers(sandbox):
        assert peak_kib(pid) < MOST_KIB


def limits_of(pid: int) -> str:
    return " ".join(Path(f"/proc/{pid}/limits").read_text().split())


def test_the_grammar_reaches_all_that_can_be_asked(cache: Cache) -> None:
    """Otherwise the above would say little."""
    sandbox = Sandbox(cache.read_uri, seconds=0.05)
    answered: list[str] = []
    asked: list[str] = []

    @settings(max_examples=600, deadline=None, database=None, derandomize=True,
              suppress_health_check=[HealthCheck.too_slow])  # fmt: skip
    @given(questions)
    def ask(sql: str) -> None:
        asked.append(sql)
        try:
            sandbox.run(sql, PARAMETERS)
        except (SqlRejectedError, SqlStoppedError):
            return
        answered.append(sql)

    ask()
    sandbox.close()
    assert len(answered) > len(asked) / 4
    for reached in (
        *(" JOIN ", " LEFT JOIN ", " OVER (PARTITION BY ", " FILTER (", "GROUP BY", "HAVING"),
        *("WITH ", " UNION ", " EXCEPT ", "json_each", "CASE WHEN", "CAST(", "IN (SELECT"),
        *("EXISTS (", ":json", ":text", "EXPLAIN QUERY PLAN", " COLLATE ", "\u202e", "LIMIT"),
        *PUBLIC,
    ):
        assert any(reached in sql for sql in answered), reached
