"""What to write instead: of SQL that was refused, and of SQL that would be answered wrongly.

Most of it comes from agents, which know PostgreSQL and DBOS's own tables better than these views.
Each hint has a statement that works and is near to what was asked; a test runs them all.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from dbos_mcp.domain import FAILED, WorkflowStatus
from dbos_mcp.inspection.views import VIEWS, View, nearest
from dbos_mcp.store.events import KINDS


class Advice(NamedTuple):
    pattern: str
    """Found in the statement, in upper or lower case, its texts emptied; or in SQLite's message."""
    words: str
    example: str


_SINCE = (
    "SELECT count(*) FROM workflows WHERE created_at_ms >= strftime('%s', 'now', '-1 hour') * 1000"
)
_BY_HOUR = "SELECT substr(created_at, 1, 13) AS hour, count(*) FROM workflows GROUP BY hour"
_LATEST = (
    "SELECT * FROM (SELECT workflow_id, status, row_number() OVER (PARTITION BY workflow_name"
    " ORDER BY created_at_ms DESC) AS n FROM workflows) WHERE n = 1"
)
_P95 = (
    "SELECT step_name, min(duration_ms) AS p95 FROM (SELECT step_name, duration_ms, cume_dist()"
    " OVER (PARTITION BY step_name ORDER BY duration_ms) AS share FROM steps"
    " WHERE duration_ms IS NOT NULL) WHERE share >= 0.95 GROUP BY step_name"
)
_ANY = "SELECT * FROM {view} LIMIT 5"

OF_STATEMENTS = (
    Advice("```", "Send the statement without ```.", _ANY),
    Advice(
        r"\b(information_schema|pg_catalog|sqlite_(temp_)?(master|schema)|pragma_\w+)\b"
        r"|^\s*(show|desc|describe|pragma)\b|^\s*[\\.]\w",
        "describe_schema tells the views and their columns.",
        _ANY,
    ),
    Advice(
        r"^\s*explain\b(?!\s+query\s+plan)",
        "Only EXPLAIN QUERY PLAN is answered.",
        "EXPLAIN QUERY PLAN SELECT * FROM workflows WHERE application_name = 'shop'",
    ),
    Advice(r"::", "CAST(… AS …) in place of ::.", "SELECT CAST(priority AS REAL) FROM workflows"),
    Advice(
        r"\bi?contains\b|\bilike\b|\bsimilar\s+to\b",
        "LIKE, for which upper and lower case are one.",
        "SELECT workflow_id, error FROM failures WHERE error LIKE '%timeout%'",
    ),
    Advice(
        r"\b(epoch|datediff|timestampdiff|date_diff|age)\b",
        "Subtract _ms columns; duration_ms and queue_wait_ms are there.",
        "SELECT workflow_id, (completed_at_ms - created_at_ms) / 1000.0 AS seconds FROM workflows",
    ),
    Advice(
        r"\b(date_trunc|date_part|date_bin|time_bucket|to_char|extract|hour|date_format)\s*\(",
        "substr(created_at, 1, 13) is the hour, 1, 16 the minute; for others divide _ms:"
        " created_at_ms / 300000 is one number for five minutes.",
        _BY_HOUR,
    ),
    Advice(
        r"\b(to_timestamp|from_unixtime|to_date|parse_\w+)\s*\(",
        "Each time is text, and beside it in _ms a number.",
        "SELECT created_at, created_at_ms FROM workflows LIMIT 5",
    ),
    Advice(
        r"\b(isnull|nvl|len|char_length)\s*\(",
        "ifnull, coalesce and length.",
        "SELECT ifnull(queue_name, ''), length(error) FROM workflows",
    ),
    Advice(
        r"\binterval\b|\b(now|getdate|sysdate|current_timestamp|dateadd|date_sub|date_add)\s*\("
        r"|\b(date|timestamp|timestamptz)\s*'",
        "Compare _ms with strftime('%s', …) * 1000.",
        _SINCE,
    ),
    Advice(r"\bdistinct\s+on\b|\bqualify\b", "row_number() finds the one of each.", _LATEST),
    Advice(
        r"\bwithin\s+group\b|\b(percentile\w*|approx_\w+|quantile\w*|median)\s*\(",
        "cume_dist() finds a percentile.",
        _P95,
    ),
    Advice(
        r"\b(stddev\w*|std|variance|var_\w+)\s*\(",
        "A variance is avg(x * x) - avg(x) * avg(x).",
        "SELECT step_name, avg(duration_ms * duration_ms) - avg(duration_ms) * avg(duration_ms)"
        " AS variance FROM steps GROUP BY step_name",
    ),
    Advice(
        r"\b(string_agg|array_agg|listagg)\s*\(",
        "group_concat(x, ', ').",
        "SELECT status, group_concat(workflow_id, ', ') FROM workflows GROUP BY status",
    ),
    Advice(
        r"\b(printf|format|to_number)\s*\(",
        "round(…, 1) and || in place of it.",
        "SELECT round(100.0 * sum(is_failed) / count(*), 1) || ' %' AS failed FROM workflows",
    ),
    Advice(
        r"\bregexp\w*\b|!?~|\brlike\b",
        "There are no regular expressions: LIKE, GLOB, instr, replace.",
        "SELECT workflow_id, error FROM failures WHERE error GLOB '*[0-9] ms*'",
    ),
    Advice(
        r"\b(left|right|split_part|strpos|position|charindex|locate|substring_index)\s*\(",
        "substr and instr in place of it.",
        "SELECT substr(error, 1, instr(error || ':', ':') - 1) AS kind, count(*) FROM failures"
        " GROUP BY kind",
    ),
    Advice(
        r"\bconcat(_ws)?\s*\(",
        "|| joins texts.",
        "SELECT status || ': ' || workflow_id FROM workflows",
    ),
    Advice(
        r"\b(greatest|least)\s*\(",
        "max(a, b) and min(a, b).",
        "SELECT workflow_id, max(created_at_ms, updated_at_ms) FROM workflows",
    ),
    Advice(
        r"\b(bool_or|bool_and|every|countif|count_if|if)\s*\(",
        "Flags are 0 or 1: sum, min, max; iif(…, …, …).",
        "SELECT workflow_name, max(is_failed) AS any_failed, sum(is_failed) AS failed"
        " FROM workflows GROUP BY workflow_name",
    ),
    Advice(
        r"\barray\s*\[|\bunnest\s*\(|\b(any|all)\s*\(|\bgenerate_series\b",
        "IN (…) for a list, or json_each of a list as JSON text.",
        "SELECT workflow_id FROM workflows WHERE status IN"
        """ (SELECT value FROM json_each('["ERROR", "CANCELLED"]'))""",
    ),
    Advice(
        r"\bjsonb?_(extract_path\w*|value|query|build_\w+|agg|array_elements\w*)\b|#>|@>"
        r"|\bjson_object_agg\b|\bget_json_object\b|\bto_jsonb?\b",
        "json_extract, ->> and json_each read JSON.",
        "SELECT attributes ->> '$.customer' AS customer, count(*) FROM workflows GROUP BY customer",
    ),
    Advice(r"\bselect\s+top\b|\bfetch\s+(first|next)\b", "LIMIT.", _ANY),
)

OF_MESSAGES = (
    Advice(
        "malformed json",
        "Not every text of an application is JSON: look only where json_valid(…).",
        "SELECT error ->> '$.code' AS code FROM failures WHERE json_valid(error)",
    ),
    Advice(
        "too big",
        "A value is longer than can be looked at here: leave out input, output, error, data.",
        "SELECT workflow_id, status FROM workflows LIMIT 5",
    ),
    Advice(
        "parameter|binding",
        """Write :name where a value belongs, and give each in params: {"name": …}.""",
        "",
    ),
    Advice("int too large", "Give so large a number as text.", ""),
    Advice("one statement at a time", "A WITH joins several into one.", ""),
    Advice(
        "misuse of aggregate",
        "Conditions on aggregates stand in HAVING.",
        "SELECT status, count(*) AS n FROM workflows GROUP BY status HAVING n > 1",
    ),
    Advice(
        "ambiguous column",
        "Write it with its view, or join with USING.",
        "SELECT workflow_id, status, step_name FROM workflows"
        " JOIN steps USING (application_name, workflow_id)",
    ),
)


def _times(*, indexed: bool = False) -> str:
    """The names of times as text, as a pattern."""
    columns = [column for view in VIEWS for column in view.columns if column.is_integer_of_time]
    return "|".join(
        sorted({c.name.removesuffix("_ms") for c in columns if c.is_indexed or not indexed})
    )


_TIMES = _times()

MISREAD = (
    Advice(
        r"""(?:[=>]|\b(?:in\s*\([^()]*|is|not|like|then|when))\s*"(?-i:ERROR)\"""",
        'In double quotes "ERROR" is the column error: texts stand in single quotes.',
        "SELECT count(*) FROM workflows WHERE status = 'ERROR'",
    ),
    Advice(
        rf"\b(?:{_TIMES})\s*(?:[<>]=?|=|\bbetween\b)\s*"
        r"(?:datetime\s*\(|current_timestamp\b|strftime\s*\(\s*'%Y-%m-%d |'\d{4}-\d\d-\d\d \d)",
        "Times are texts such as 2026-11-21T14:05:00.000Z; one with a space in place of T is less"
        " than any of its day. Write it with T, or compare _ms.",
        _SINCE,
    ),
    Advice(
        r"(?:[<>=]|\bbetween)\s*strftime\s*\(\s*'%s'[^()]*\)(?!\s*[*+/|-])",
        "strftime('%s', …) is a text, and seconds: * 1000 makes it a number to compare _ms with.",
        _SINCE,
    ),
    Advice(
        rf"\b(?:{_TIMES})_ms\s*(?:[<>]=?|=|\bbetween\b)\s*"
        r"(?:'\d{4}-|(?:\d{9,11}\b|unixepoch\s*\([^()]*\))(?!\s*\*))",
        "_ms are epoch milliseconds: numbers of 13 digits, neither text nor seconds.",
        _SINCE,
    ),
    Advice(
        r"\b(?:is_failed|is_terminal|is_deleted|duration_ms|queue_wait_ms)"
        r"\s*(?:[<>]=?|=|!=|<>|\bis\b|\bbetween\b)\s*'",
        "Flags (0 or 1) and durations are numbers: no quotes around theirs.",
        "SELECT count(*) FROM workflows WHERE is_failed AND duration_ms > 1000",
    ),
    Advice(
        r"(?:\bselect|,)\s*(?:sum\s*\(\s*is_\w+\s*\)|count\s*\([^()]*\)\s*filter\s*\([^()]*\))"
        r"\s*/\s*count\s*\(",
        "Integers divide to an integer, here 0: begin with 100.0 *.",
        "SELECT round(100.0 * sum(is_failed) / count(*), 1) AS percent FROM workflows",
    ),
)
"""What SQLite answers, though not what was asked."""

_TABLES = {
    "workflows": "workflow_status runs executions jobs tasks workflow_runs",
    "steps": "operation_outputs workflow_steps step_outputs operations",
    "events": "event_log log logs history changes workflow_history workflow_events audit",
    "failures": "errors failed failed_workflows",
    "executors": "workers hosts processes",
    "applications": "apps",
    "queues": "workflow_queues",
    "schedules": "workflow_schedules crons",
}
_COLUMNS = {
    "workflow_id position": "id uuid workflow_uuid workflow run_id",
    "workflow_name": "name workflow_type",
    "step_name workflow_name": "function function_name operation",
    "step_id": "function_id step",
    "error detail": "message error_message exception err reason failure_reason stack_trace",
    "started_at dequeued_at": "start_time started start begin_time began_at",
    "started_at_ms dequeued_at_ms": "started_at_epoch_ms start_ms",
    "completed_at settled_at": "end_time ended_at finished_at finish_time finished ended end",
    "created_at issued_at": "created create_time creation_time",
    "application_version": "version app_version",
    "application_name": "app app_name application",
    "queue_name": "queue",
    "schedule_name": "schedule",
    "parent_workflow_id": "parent parent_id",
    "executor_id": "executor worker worker_id host",
    "input data arguments": "inputs request args payload",
    "output": "outputs result response",
    "kind command": "type event event_type action",
    "recorded_at created_at started_at": "timestamp time ts date at",
    "duration_ms": "duration elapsed latency runtime duration_s elapsed_ms",
    "queue_wait_ms": "wait wait_ms wait_time queue_time",
    "authenticated_user attributes": "user user_id customer customer_id tenant",
    "status": "state outcome",
}
"""What agents write for a view, and for a column: the first of these that the view has."""

_TIME_AS_TEXT = re.compile(
    rf"\b({_times(indexed=True)})\b(?=\s*(?:[<>=]|between\b|like\b|glob\b|asc\b|desc\b))",
    re.IGNORECASE,
)
_FLAG_IS_1 = re.compile(r"\b(is_failed)\s*=\s*1\b", re.IGNORECASE)

_SKIPPED = re.compile(r"""'(?:[^']|'')*(?:'|$)|"[^"]*(?:"|$)|--[^\n]*|/\*.*?(?:\*/|$)""", re.DOTALL)
_TIME_TEXT = re.compile(r"'(?:%s|(?:%Y-%m-%d|\d{4}-\d\d-\d\d)[\w%:. +-]*)'")
_WORD_TEXT = re.compile(r"'\w*'")
_PARAMETER = re.compile(r"[:@$](\w+)")
_QUOTED = re.compile(r'"(\w+)"')
_NAMED = re.compile(r'\bas\s+"(\w+)"|"(\w+)"\s+as\s*\(', re.IGNORECASE)
_NO_TABLE = re.compile(r"no such table: (.*)")
_NO_COLUMN = re.compile(r"(?:no such column: |no column named )(\S+)")
_FUNCTION = re.compile(r"(?:no such function|use function): (\w+)")
_NEAR_WORD = re.compile(r'near "(\w+)": syntax error')
_KEYWORDS = ("select", "from", "where", "group", "order", "limit", "having", "join", "with")
_LONGEST_VALUE = 60
_MOST_NAMES = 50
_FORBIDDEN = re.compile("not authorized|prohibited|cannot modify")
_IS_QUESTION = re.compile(r"\s*(select|with|values|explain)\b", re.IGNORECASE)
_ALL = "Views: " + ", ".join(view.name for view in VIEWS)
_OF_VALUES = {"status": tuple(WorkflowStatus), "kind": tuple(KINDS)}
_OTHER_STATUSES = re.compile(r"\b(executors|applications)\b", re.IGNORECASE)


def caution(sql: str, parameters: Mapping[str, object]) -> str | None:
    """Why the answer may not be to what was meant."""
    return _misread(sql, parameters) or _unknown_value(sql, parameters)


def _misread(sql: str, parameters: Mapping[str, object]) -> str | None:
    code = _code(_with_values(sql, parameters), _TIME_TEXT)
    for advice in MISREAD:
        if re.search(advice.pattern, code, re.IGNORECASE):
            return f"{advice.words} {_try(advice.example)}"
    quoted = sorted({*_QUOTED.findall(code)})[:_MOST_NAMES]
    if not quoted:
        return None
    columns = {column.name for view in _mentioned(code) or VIEWS for column in view.columns}
    named = {*columns, *(view.name for view in VIEWS), *_named(code)}
    for name in quoted:
        near = get_close_matches(_snake(name), columns, n=1, cutoff=0.8)
        if near and name.lower() not in named and not name.isupper():
            return (
                f"There is no column {name[:80]}: SQLite takes it for a text."
                f" Did you mean {near[0]}? Texts stand in single quotes."
            )
    return None


def _unknown_value(sql: str, parameters: Mapping[str, object]) -> str | None:
    """That nothing has the status, or is of the kind, that was asked for: why nothing was found."""
    code = _code(_with_values(sql, parameters), _WORD_TEXT)
    for name, known in _OF_VALUES.items():
        if name == "status" and _OTHER_STATUSES.search(code):
            continue
        compared = rf"\b{name}\s*(?:=|==|<>|!=|(?:not\s+)?in\b)\s*\(?\s*((?:'[^']*'[\s,]*)+)"
        for values in re.findall(compared, code, re.IGNORECASE):
            for value in re.findall(r"'([^']*)'", values):
                if value and value not in known:
                    also = f" (is_failed: {' or '.join(FAILED)})" if name == "status" else ""
                    told = f"No {name} is known as '{value[:_LONGEST_VALUE]}'."
                    return f"{told} Known: {', '.join(known)}{also}."
    return None


def faster(sql: str) -> list[str]:
    """What would let a statement use an index."""
    ways = []
    if "application_name" not in sql.lower():
        ways.append("with application_name = '…' it can use the indexes")
    if text := _TIME_AS_TEXT.search(sql):
        ways.append(f"an index holds {text[1].lower()}_ms, none {text[1].lower()}")
    if flag := _FLAG_IS_1.search(sql):
        ways.append(f"without = 1 {flag[1].lower()} is found by an index")
    return ways


def hint(message: str, sql: str) -> str:
    """What may have been meant, and a statement that works."""
    code = _code(sql)
    if match := _NO_TABLE.search(message):
        return _about_table(match[1], code)
    name = match[1] if (match := _NO_COLUMN.search(message)) else None
    if name and (elsewhere := _elsewhere(name, code)):
        return elsewhere
    for advice in OF_MESSAGES:
        if re.search(advice.pattern, message, re.IGNORECASE):
            return _advised(advice, code)
    function = _FUNCTION.search(message)
    searched = f"{function[1]}(" if function else code
    for advice in OF_STATEMENTS:
        if re.search(advice.pattern, searched, re.IGNORECASE):
            return _advised(advice, code)
    if name:
        return _about_column(name, code)
    view = (_mentioned(code) or VIEWS)[0].name
    if function:
        return f"SQLite's own functions for text, times and JSON are there. {_any(view)}"
    word = match[1].lower() if (match := _NEAR_WORD.search(message)) else ""
    if word not in _KEYWORDS and (near := get_close_matches(word, _KEYWORDS, n=1, cutoff=0.7)):
        return f"Did you mean {near[0].upper()}? {_any(view)}"
    if _IS_QUESTION.match(code) and not _FORBIDDEN.search(message):
        return f"describe_schema tells views, columns and examples. {_any(view)}"
    return (
        "One SELECT (or WITH … SELECT, EXPLAIN QUERY PLAN) over the views is answered, nothing"
        f" else. {_ALL}. {_any(view)}"
    )


def _about_table(name: str, code: str) -> str:
    bare = _snake(name.rpartition(".")[2])
    for advice in OF_STATEMENTS:
        if re.search(advice.pattern, name, re.IGNORECASE):
            return _advised(advice, code)
    known = [view.name for view in VIEWS]
    meant = [view for view, others in _TABLES.items() if bare in others.split()]
    near = meant or [bare] * (bare in known) or nearest(bare, known)
    if near:
        return f"{_did_you_mean(near)} {_any(near[0])}"
    return f"{_ALL}. {_any(known[0])}"


def _elsewhere(name: str, code: str) -> str | None:
    """Of a column that is one of other views, or that a subquery does not pass on."""
    alias, _, bare = name.lower().rpartition(".")
    views = [view for view in VIEWS if _has(view, bare)]
    if not views:
        return None
    here = [view for view in _mentioned(code) if view in views]
    told = f"{bare} is a column of {', '.join(view.name for view in here or views)}"
    if others := _mentioned(code, alias) if alias else ():
        told += f", not of {others[0].name}"
    if here and not others:
        return f"{told}: select it in a subquery as well. {_try(_one(bare, here[0]))}"
    source, other = (here or views)[0], (*others, *_mentioned(code))[:1]
    if other and all(_has(view, "workflow_id") for view in (source, *other)):
        joined = f"{source.name} JOIN {other[0].name} USING (application_name, workflow_id)"
        return f"{told}. {_try(f'SELECT workflow_id, {source.name}.{bare} FROM {joined}')}"
    return f"{told}. {_try(_one(bare, source))}"


def _about_column(name: str, code: str) -> str:
    alias, _, column = name.rpartition(".")
    views = _mentioned(code, alias) or _mentioned(code) or VIEWS
    bare = _snake(column)
    known = [column.name for view in views for column in view.columns]
    own = [f"{view.name.removesuffix('s')}_{bare}" for view in views]
    meant = [
        next((column for column in columns.split() if column in known), "")
        for columns, others in _COLUMNS.items()
        if bare in others.split()
    ]
    if likely := [column for column in (*own, *meant) if column in known][:1] or nearest(
        bare, known
    ):
        view = next(view for view in views if _has(view, likely[0]))
        return f"{_did_you_mean(likely)} {_try(_one(likely[0], view))}"
    return f"describe_schema tells the columns of {views[0].name}. {_any(views[0].name)}"


def _mentioned(code: str, alias: str = "") -> Sequence[View]:
    """The views that a statement names; with an alias those that it stands for."""
    behind = rf"\s+(?:as\s+)?{re.escape(alias)}\b" if alias else r"\b"
    return [view for view in VIEWS if re.search(rf"\b{view.name}{behind}", code, re.IGNORECASE)]


def _named(code: str) -> set[str]:
    """What a statement itself gives a name in double quotes."""
    return {match[match.lastindex or 1].lower() for match in _NAMED.finditer(code)}


def _has(view: View, column: str) -> bool:
    return any(each.name == column for each in view.columns)


def _with_values(sql: str, parameters: Mapping[str, object]) -> str:
    """With short texts where they are bound, to be looked at and not to be run."""

    def value(match: re.Match[str]) -> str:
        given = parameters.get(match[1])
        is_short = isinstance(given, str) and len(given) <= _LONGEST_VALUE
        return f"'{str(given).replace(chr(39), '')}'" if is_short else match[0]

    return _PARAMETER.sub(value, sql)


def _code(sql: str, texts: re.Pattern[str] | None = None) -> str:
    """Without comments, and with nothing in texts but in those of that form."""

    def kept(found: re.Match[str]) -> str:
        match found[0][0]:
            case "'":
                return found[0] if texts and texts.fullmatch(found[0]) else "''"
            case '"':
                return found[0]
            case _:
                return " "

    return _SKIPPED.sub(kept, sql)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip('"`[] ')).lower()


def _did_you_mean(near: Iterable[str]) -> str:
    return f"Did you mean {' or '.join(near)}?"


def _advised(advice: Advice, code: str) -> str:
    view = (_mentioned(code) or VIEWS)[0].name
    example = _try(advice.example.replace("{view}", view)) if advice.example else ""
    return f"{advice.words} {example}".strip()


def _one(column: str, view: View) -> str:
    return f"SELECT {column} FROM {view.name} LIMIT 5"


def _any(view: str) -> str:
    return _try(_ANY.format(view=view))


def _try(sql: str) -> str:
    return f"Try: {sql}"
