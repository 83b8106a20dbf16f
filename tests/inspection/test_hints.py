"""What is said of wrong SQL: SQLite's word, what to write instead, and that it works."""

import re

import pytest

from dbos_mcp.errors import SqlRejectedError
from dbos_mcp.inspection import hints
from dbos_mcp.inspection.hints import MISREAD, OF_MESSAGES, OF_STATEMENTS, caution, faster
from dbos_mcp.inspection.sandbox import Sandbox
from dbos_mcp.inspection.views import VIEWS
from dbos_mcp.store.engine import Cache
from tests.inspection.test_sandbox import cache, sandbox

__all__ = ["cache", "sandbox"]

BROUGHT = {
    "```sql\nSELECT 1\n```": "without ```",
    "SHOW TABLES": "describe_schema tells the views",
    "DESCRIBE workflows": "describe_schema tells the views",
    "\\d workflows": "describe_schema tells the views",
    "SELECT * FROM information_schema.tables": "describe_schema tells the views",
    "SELECT * FROM sqlite_master": "describe_schema tells the views",
    "EXPLAIN ANALYZE SELECT * FROM workflows": "Only EXPLAIN QUERY PLAN",
    "SELECT count(*)::int FROM workflows": "SELECT CAST(",
    "SELECT * FROM workflows WHERE error ILIKE '%x%'": "error LIKE ",
    "SELECT extract(epoch FROM completed_at - created_at) FROM workflows": "completed_at_ms -",
    "SELECT datediff(minute, created_at, completed_at) FROM workflows": "completed_at_ms -",
    "SELECT date_trunc('hour', created_at) FROM workflows": "substr(created_at, 1, 13) AS hour",
    "SELECT extract(hour FROM created_at) FROM workflows": "substr(created_at, 1, 13) AS hour",
    "SELECT time_bucket('5 minutes', created_at) FROM workflows": "created_at_ms / 300000",
    "SELECT * FROM workflows WHERE created_at > now() - interval '1 hour'": "created_at_ms >= ",
    "SELECT * FROM workflows WHERE created_at > timestamp '2026-01-01'": "created_at_ms >= ",
    "SELECT DISTINCT ON (workflow_name) workflow_id FROM workflows": "row_number() OVER",
    "SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY step_id) FROM steps": "cume_dist() OVER",
    "SELECT stddev(duration_ms) FROM steps": "AS variance FROM steps",
    "SELECT array_agg(workflow_id) FROM workflows": "group_concat(workflow_id",
    "SELECT printf('%.1f', avg(is_failed)) FROM workflows": "round(100.0 *",
    "SELECT * FROM workflows WHERE error ~ 'x'": "GLOB",
    "SELECT regexp_replace(error, '[0-9]', '') FROM workflows": "GLOB",
    "SELECT left(error, 10) FROM workflows": "substr(error, 1,",
    "SELECT split_part(workflow_id, '-', 1) FROM workflows": "substr(error, 1,",
    "SELECT greatest(1, 2)": "max(created_at_ms,",
    "SELECT bool_or(is_failed) FROM workflows": "max(is_failed)",
    "SELECT * FROM workflows WHERE workflow_id = ANY(ARRAY['a'])": "json_each(",
    "SELECT * FROM generate_series(1, 5)": "json_each(",
    "SELECT jsonb_extract_path_text(attributes, 'a') FROM workflows": "attributes ->> ",
    "SELECT * FROM pragma_table_info('workflows')": "describe_schema tells the views",
    "SELECT to_timestamp(created_at_ms / 1000) FROM workflows": "created_at, created_at_ms",
    "SELECT isnull(error, ''), len(error) FROM workflows": "ifnull(",
    "SELECT * FROM workflows WHERE error CONTAINS 'x'": "error LIKE ",
    "SELECT TOP 5 * FROM workflows": "FROM workflows LIMIT 5",
    "SELECT error ->> '$.a' FROM failures": "WHERE json_valid(error)",
    "SELECT * FROM workflows WHERE workflow_id = ?": 'in params: {"name": …}',
    "SELECT * FROM workflows WHERE workflow_id = $1": 'in params: {"name": …}',
    "SELECT 1; SELECT 2": "A WITH joins several",
    "SELECT status FROM workflows WHERE count(*) > 1 GROUP BY status": "HAVING n > 1",
    "SELECT workflow_id FROM workflows AS w JOIN steps AS s ON s.workflow_id = w.workflow_id":
        "USING (application_name, workflow_id)",
    "SELECT * FORM workflows": "Did you mean FROM?",
    "SELEC * FROM workflows": "Did you mean SELECT?",
    "SELECT nonsense(1)": "SQLite's own functions",
    "UPDATE workflows SET status = 'x'": "One SELECT (or WITH … SELECT",
    "WITH x AS (SELECT 1) INSERT INTO workflows SELECT 1": "One SELECT (or WITH … SELECT",
    "": "One SELECT (or WITH … SELECT",
    "-- nothing but a comment": "One SELECT (or WITH … SELECT",
    "SELECT * FROM workflows WHERE": "describe_schema tells views",
    "SELECT * FROM workflow_status": "Did you mean workflows?",
    "SELECT * FROM dbos.operation_outputs": "Did you mean steps?",
    "SELECT * FROM public.workflows": "Did you mean workflows?",
    "SELECT * FROM WorkflowEvents": "Did you mean events?",
    "SELECT id FROM steps": "SELECT step_id FROM steps LIMIT 5",
    "SELECT id, name FROM workflows": "SELECT workflow_id FROM workflows LIMIT 5",
    "SELECT name FROM queues": "SELECT queue_name FROM queues LIMIT 5",
    "SELECT w.createdAt FROM workflows AS w": "Did you mean created_at",
    "SELECT error_message FROM failures": "SELECT error FROM failures LIMIT 5",
    "SELECT started_at FROM workflows": "started_at is a column of steps",
    "SELECT start_time FROM workflows": "Did you mean dequeued_at?",
    "SELECT executor_id FROM steps":
        "Try: SELECT workflow_id, workflows.executor_id FROM workflows JOIN steps USING",
    "SELECT s.input FROM steps AS s JOIN workflows USING (workflow_id)": "workflows, not of steps",
    "WITH x AS (SELECT workflow_id FROM workflows) SELECT x.status FROM x": "in a subquery as well",
}  # fmt: skip


@pytest.mark.parametrize("sql", BROUGHT)
def test_what_is_brought_from_elsewhere_is_told_in_few_words(sandbox: Sandbox, sql: str) -> None:
    with pytest.raises(SqlRejectedError) as refusal:
        sandbox.run(sql)
    assert refusal.value.message.startswith("SQLite: ")
    assert BROUGHT[sql] in refusal.value.hint
    assert len(str(refusal.value)) <= 350
    _, _, proposed = refusal.value.hint.partition("Try: ")
    assert not proposed or sandbox.run(proposed).columns


def test_what_is_proposed_works_and_is_not_refused(sandbox: Sandbox) -> None:
    for advice in (*OF_STATEMENTS, *OF_MESSAGES, *MISREAD):
        re.compile(advice.pattern)
        if advice.example:
            assert sandbox.run(advice.example.replace("{view}", "steps")).columns, advice


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("SELECT * FROM workflows WHERE status = \"ERROR\"", "the column error"),
        ("SELECT * FROM workflows WHERE status in ('SUCCESS', \"ERROR\")", "the column error"),
        ("SELECT * FROM workflows WHERE created_at > datetime('now', '-1 hour')", "with T"),
        ("SELECT * FROM workflows w WHERE w.deadline<CURRENT_TIMESTAMP", "with T"),
        ("SELECT * FROM steps WHERE started_at BETWEEN '2026-11-21 10:00' AND 'x'", "with T"),
        ("SELECT * FROM workflows WHERE created_at >= :text", "with T"),
        ("SELECT * FROM workflows WHERE created_at_ms > strftime('%s', 'now')", "is a text"),
        ("SELECT * FROM workflows WHERE created_at_ms/1000>strftime('%s','now','-1 day')", "text"),
        ("SELECT * FROM workflows WHERE created_at_ms > 1795289406", "13 digits"),
        ("SELECT * FROM workflows WHERE created_at_ms >= unixepoch('now') - 60", "13 digits"),
        ("SELECT * FROM workflows WHERE created_at_ms >= '2026-11-21T10:00:00Z'", "13 digits"),
        ("SELECT * FROM workflows WHERE is_failed = 'true'", "no quotes"),
        ("SELECT * FROM workflows WHERE duration_ms > '1000'", "no quotes"),
        ("SELECT sum(is_failed) / count(*) FROM workflows", "100.0 *"),
        ("SELECT status, COUNT(*) FILTER (WHERE is_failed)/COUNT(*) FROM workflows", "100.0 *"),
        ('SELECT "createdAt" FROM workflows', "Did you mean created_at?"),
        ('SELECT * FROM workflows WHERE "statsu" = 1', "Did you mean status?"),
    ],
)  # fmt: skip
def test_what_sqlite_misreads_comes_with_a_caution(sandbox: Sandbox, sql: str, told: str) -> None:
    given = {"text": "2026-11-21 10:00:00"} if ":text" in sql else {}
    assert told in (caution(sql, given) or "")
    assert sandbox.run(sql, given).columns


def test_a_time_with_a_space_would_find_all_of_its_day(cache: Cache) -> None:
    """Why there is a caution; and what else there is one for."""
    with cache.read() as connection:
        for condition, holds in (
            ("created_at > '2026-11-21 23:59:59'", "'2026-11-21T00:00:00.000Z' AS created_at"),
            ("status = \"ERROR\"", "NULL AS error, 'ERROR' AS status"),
            ("ms / 1000 > strftime('%s', '1970-01-01')", "5000 AS ms"),
        ):  # fmt: skip
            found = connection.exec_driver_sql(
                f"SELECT count(*) FROM (SELECT {holds}) WHERE {condition}"
            )
            assert found.scalar_one() == (1 if condition.startswith("created") else 0)


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("status = 'FAILED'", "No status is known as 'FAILED'"),
        ("status NOT IN ('SUCCESS', 'error')", "No status is known as 'error'"),
        ("status = :given", "No status is known as 'failed'"),
        ("kind = 'WorkflowFailed'", "WorkflowDeleted"),
        ("status = 'ERROR'", None),
        ("status LIKE 'ERR%'", None),
        ("error = 'status = ''FAILED'''", None),
    ],
)
def test_a_value_that_nothing_has_is_named(condition: str, told: str | None) -> None:
    note = caution(f"SELECT * FROM workflows WHERE {condition}", {"given": "failed"})
    assert note is None if told is None else told in (note or "")
    assert caution("SELECT * FROM executors WHERE status = 'DEAD'", {}) is None


def test_what_agents_write_for_a_name_leads_to_one_that_is_there() -> None:
    columns = {column.name for view in VIEWS for column in view.columns}
    assert {name for names in hints._COLUMNS for name in names.split()} <= columns
    assert hints._TABLES.keys() == {view.name for view in VIEWS} - {"commands"}


def test_what_is_bound_makes_nothing_longer() -> None:
    """What is looked at is bounded, however often a long text is named."""
    caution(":x " * 3_000, {"x": "y" * 1_000_000})
    note = caution("SELECT * FROM workflows WHERE status = '" + "y" * 9_000 + "'", {})
    assert note is not None
    assert len(note) < 400


def test_no_statement_holds_up_those_who_look_for_a_hint() -> None:
    """Each would take minutes, were it looked at in more than a few passes."""
    for part in (
        "'",
        '"',
        "/*",
        "--",
        "sum(",
        "count(",
        "status in (",
        "'a',",
        "created_at ",
        "is_",
    ):
        sql = (part * 10_000)[:10_000]
        caution(sql, {"x": sql})
        hints.hint("near", sql)


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("SELECT 1 FROM workflows", ["with application_name = '…'"]),
        ("SELECT 1 FROM workflows WHERE application_name = 'a'", []),
        ("SELECT 1 FROM workflows WHERE application_name = 'a' AND created_at_ms > 1", []),
        (
            "SELECT 1 FROM workflows WHERE application_name = 'a' AND Created_At >= '2026'",
            ["an index holds created_at_ms, none created_at"],
        ),
        (
            "SELECT application_name FROM workflows ORDER BY completed_at DESC",
            ["an index holds completed_at_ms"],
        ),
        ("SELECT application_name FROM workflows WHERE updated_at > '2026'", []),
        (
            "SELECT 1 FROM workflows WHERE is_failed = 1 AND created_at LIKE '2026-11%'",
            ["application_name", "holds created_at_ms", "without = 1 is_failed is found by an"],
        ),
    ],
)
def test_what_would_make_a_slow_statement_faster_is_told(sql: str, told: list[str]) -> None:
    ways = "; ".join(faster(sql))
    assert bool(ways) == bool(told)
    for words in told:
        assert words in ways
