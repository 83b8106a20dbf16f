"""Runs other people's SQL, in a process of its own: `python -I -S worker.py`, and nothing of ours.

A line of JSON comes in for each statement and one goes out, in the order of `Sandbox`. The parent
ends the process when a statement outlives its time; all else is refused or bounded here:

1. The statement is compiled against an empty copy of the public schema. Private tables do not exist
   there, so that no statement can name one: an authorizer alone would not see the difference, since
   SQLite reports a common table expression that is called like a view as that view.
2. It is then compiled against the cache, where an authorizer allows reading public views, and of
   tables the columns that those views read, through them.
3. In both, no other action than SELECT and no function that is not listed; limits on lengths,
   counts and memory; a file that is opened for reading only, and no other one; a transaction that
   is rolled back.

Not one of them but has another behind it, save 1., the list of functions, the limits and the bound
of the process's memory: tests/inspection/test_layers.py takes them off one by one.
"""

import contextlib
import json
import math
import re
import signal
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from time import monotonic, perf_counter
from typing import Any

LONGEST_SQL = 10_000
_MEBIBYTE = 1024 * 1024
_HEAP_BYTES = 128 * _MEBIBYTE
_ADDRESS_SPACE_BYTES = 256_000_000
_INSTRUCTIONS = 1_000
"""Of SQLite's machine, between two looks at the clock."""
_OF_THE_FILE = tuple(
    f"SQLITE_{name}" for name in ("BUSY", "CANTOPEN", "CORRUPT", "IOERR", "NOTADB", "READONLY")
)
_COUNTED_MORE = 10_000
"""Rows that are counted beyond those that were asked for."""
_MESSAGE_CHARACTERS = 1_000
"""Of an error, which may quote a value of any length."""

_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 2_000_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: LONGEST_SQL + 100,
    sqlite3.SQLITE_LIMIT_COLUMN: 200,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 20,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 25_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 32,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 100,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_EVERY_CONNECTION = (
    "PRAGMA query_only = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA mmap_size = 0",
    "PRAGMA temp_store = 2",
    "PRAGMA cache_size = -4000",
    "PRAGMA busy_timeout = 1000",
    f"PRAGMA hard_heap_limit = {_HEAP_BYTES}",
)
_TABLE_FUNCTIONS = ("json_each", "json_tree")
_FUNCTION_NAMES = """
    -> ->> abs acos acosh asin asinh atan atan2 atanh avg ceil ceiling char coalesce concat
    concat_ws cos cosh count cume_dist current_date current_time current_timestamp date datetime
    degrees dense_rank exp first_value floor glob group_concat hex if ifnull iif instr json
    json_array json_array_length json_each json_error_position json_extract json_group_array
    json_group_object json_insert json_object json_quote json_remove json_replace json_set json_tree
    json_type json_valid julianday lag last_value lead length like likelihood likely ln log log10
    log2 lower ltrim max median min mod nth_value ntile nullif octet_length percent_rank percentile
    percentile_cont percentile_disc pi pow power quote radians random rank replace round row_number
    rtrim sign sin sinh sqlite_version sqrt strftime string_agg substr substring sum tan
    tanh time timediff total trim trunc typeof unhex unicode unixepoch unlikely upper
"""
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_GAP = r"(?>\s|--[^\n]*|/\*.*?(?:\*/|\Z))"
"""Taken as SQLite takes it or not at all: no comment is ever longer, and no gap tried twice."""
_IS_PLAN = re.compile(rf"{_GAP}*+explain{_GAP}++query{_GAP}++plan\b", re.IGNORECASE | re.DOTALL)
_SCANNED = re.compile(r"(?<=^SCAN )\w+")
_INDEX_NAME = re.compile(r"(?<= INDEX) [a-z]\w*")
_COMPARED = re.compile(r"(?<=[ (,])[a-z]\w*(?=[=<>,)])")

Answer = dict[str, Any]


class _FileError(Exception):
    """It cannot be read, or has not the views it should have."""


class Reader:
    """The cache file and the empty copy of its public schema, both as statements see them."""

    def __init__(self, uri: str, views: Mapping[str, Sequence[str]]) -> None:
        self._names = frozenset(views)
        self._columns = frozenset(column for columns in views.values() for column in columns)
        self._read_by_views: frozenset[tuple[str, str, str]] = frozenset()
        self._view_of: dict[str, str] = {}
        self._schema_version: int | None = None
        self._views = views
        self._public = _connect(":memory:")
        for view, columns in views.items():
            nothing = ", ".join(["NULL"] * len(columns))
            self._public.execute(f"CREATE VIEW {view} ({', '.join(columns)}) AS SELECT {nothing}")
        _confine(self._public, self._allow_public)
        self._cache = _connect(uri)
        _confine(self._cache, self._allow)

    def answer(
        self,
        sql: str,
        parameters: Mapping[str, Any],
        *,
        rows: int,
        cell_characters: int,
        total_bytes: int,
        seconds: float,
    ) -> Answer:
        """The first rows of what a statement finds, and how many more there are."""
        began = perf_counter()
        _stop_after(self._public, seconds)
        _stop_after(self._cache, seconds)
        is_plan = _IS_PLAN.match(sql)
        checked = sql if is_plan else f"EXPLAIN {sql}"
        self._public.execute(checked, parameters).close()
        self._cache.text_factory = lambda raw: _text(raw, cell_characters)
        found: list[list[Any]] = []
        size, more, all_counted = 0, 0, True
        with (
            self._one_state_of_the_file(),
            contextlib.closing(self._cache.execute(sql, parameters)) as cursor,
        ):
            names = [_cell(column[0], cell_characters) for column in cursor.description or ()]
            try:
                for row in cursor:
                    if more or len(found) == rows or size > total_bytes:
                        more += 1
                        if more > _COUNTED_MORE:
                            all_counted = False
                            break
                    else:
                        cells = [_cell(value, cell_characters) for value in row]
                        found.append(cells)
                        size += sum(len(cell) if isinstance(cell, str) else 8 for cell in cells)
            except sqlite3.OperationalError:
                if not more:
                    raise
                all_counted = False  # what was asked for is there
        if not names:
            raise sqlite3.OperationalError("there is no statement")
        if is_plan:
            found = [[*row[:-1], self._in_public_words(row[-1])] for row in found]
        return {
            "columns": names,
            "rows": found,
            "more": more,
            "all_counted": all_counted,
            "ms": (perf_counter() - began) * 1000,
        }

    def _in_public_words(self, step: str) -> str:
        """A step of a plan, without names of tables, indexes and columns that are private."""
        step = _SCANNED.sub(lambda name: self._view_of.get(name[0], name[0]), step)
        step = _INDEX_NAME.sub("", step)
        return _COMPARED.sub(lambda name: name[0] if name[0] in self._columns else "key", step)

    @contextlib.contextmanager
    def _one_state_of_the_file(self) -> Iterator[None]:
        """Another program may bring it to a newer schema, but not within this."""
        try:
            self._cache.set_authorizer(None)
            self._cache.execute("BEGIN")
            self._learn_what_views_read()
            self._cache.set_authorizer(self._allow)
        except sqlite3.Error as error:
            raise _FileError(str(error)) from error
        try:
            yield
        finally:
            self._cache.set_authorizer(None)
            self._cache.rollback()  # SQLite may have done so itself, for want of memory

    def _learn_what_views_read(self) -> None:
        (version,) = self._cache.execute("PRAGMA schema_version").fetchone()
        if version == self._schema_version:
            return
        read: dict[tuple[str, str, str], None] = {}

        def note(action: int, table: Any, column: Any, _: Any, within: Any) -> int:
            if action == sqlite3.SQLITE_READ and within in self._names:
                read[within, table, column] = None
            return _allow_functions(action, column, also=sqlite3.SQLITE_READ)

        # An explanation alone would be of the schema that was known before.
        self._cache.execute("SELECT count(*) FROM sqlite_master").fetchone()
        self._cache.set_authorizer(note)
        for view in self._views:
            self._cache.execute(f"EXPLAIN SELECT * FROM {view}").close()
        self._read_by_views = frozenset(read)
        self._view_of = {table: view for view, table, _ in reversed(read)}
        self._schema_version = version

    def _allow_public(self, action: int, what: Any, column: Any, _: Any, __: Any) -> int:
        if action == sqlite3.SQLITE_READ and not column:
            # Rows are counted, of a subquery or of what exists here.
            return sqlite3.SQLITE_DENY if _is_internal(what) else sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_READ:
            known = what in self._names or what in _TABLE_FUNCTIONS
            return sqlite3.SQLITE_OK if known else sqlite3.SQLITE_DENY
        return _allow_functions(action, column)

    def _allow(self, action: int, what: Any, column: Any, _: Any, within: Any) -> int:
        if action == sqlite3.SQLITE_READ:
            if what in self._names or what in _TABLE_FUNCTIONS:
                return sqlite3.SQLITE_OK
            if not column:  # counting is not told of a view
                return sqlite3.SQLITE_DENY if _is_internal(what) else sqlite3.SQLITE_OK
            known = (str(within).lower(), what, column) in self._read_by_views
            return sqlite3.SQLITE_OK if known else sqlite3.SQLITE_DENY
        return _allow_functions(action, column)


def _is_internal(table: Any) -> bool:
    return str(table).lower().startswith(("sqlite_", "pragma_"))


def _allow_functions(action: int, name: Any, *, also: int = sqlite3.SQLITE_SELECT) -> int:
    if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE, also):
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION and str(name).lower() in _FUNCTIONS:
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, cached_statements=0)
    for number, limit in _LIMITS.items():
        connection.setlimit(number, limit)
    return connection


def _confine(connection: sqlite3.Connection, authorizer: Any) -> None:
    for pragma in _EVERY_CONNECTION:
        connection.execute(pragma).close()
    for name in _TABLE_FUNCTIONS:
        # At its first use it declares a table, which the authorizer would have to allow for all.
        connection.execute(f"SELECT 1 FROM {name}('[]')").close()
    connection.set_authorizer(authorizer)


def _stop_after(connection: sqlite3.Connection, seconds: float) -> None:
    end = monotonic() + seconds
    connection.set_progress_handler(lambda: monotonic() > end, _INSTRUCTIONS)


def _text(raw: bytes, characters: int) -> str:
    """Four bytes are the most that a character takes; one more says that there was more."""
    return raw[: 4 * (characters + 1)].decode(errors="replace")


def _cell(value: Any, characters: int) -> Any:
    match value:
        case bytes():
            mark = "…" if len(value) > characters // 2 else ""
            return f"x'{value[: characters // 2].hex()}{mark}'"
        case str() if len(value) > characters:
            return f"{value[: characters - 1]}…"
        case float() if not math.isfinite(value):
            return str(value)
        case _:
            return value


def _answer_or_error(reader: Reader, request: Mapping[str, Any]) -> Answer:
    _end_after(2 * request["seconds"])
    try:
        return reader.answer(**request)
    except MemoryError:
        return {"error": "memory", "message": "out of memory"}
    except _FileError as error:
        return {"error": "file", "message": str(error)}
    except (sqlite3.Error, sqlite3.Warning, OverflowError, ValueError, RecursionError) as error:
        # What kind it is of is told by SQLite's name of it alone; a misuse has none.
        name = getattr(error, "sqlite_errorname", "") or ""
        return {"error": _kind(name), "message": str(error)[:_MESSAGE_CHARACTERS]}
    finally:
        _end_after(0)


def _kind(name: str) -> str:
    if name == "SQLITE_INTERRUPT":
        return "time"
    if name.endswith("NOMEM"):
        return "memory"
    return "file" if name.startswith(_OF_THE_FILE) else "rejected"


def _end_after(seconds: float) -> None:
    """For when the parent, who would do it sooner, is gone. 0: not at all."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _confine_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's business
    if sys.platform == "win32":
        return
    import resource

    for limit, most in (
        (resource.RLIMIT_AS, _ADDRESS_SPACE_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 16),
        (resource.RLIMIT_NPROC, 0),
    ):
        with contextlib.suppress(OSError, ValueError):  # some systems know not all of them
            resource.setrlimit(limit, (most, most))


def serve(requests: Iterable[str]) -> None:
    """The first line says of which file, and what is public in it."""
    lines = iter(requests)
    first = next(lines, None)
    if first is None:
        return
    _confine_process()
    try:
        reader = Reader(**json.loads(first))
    except sqlite3.Error as error:
        _send({"error": "file", "message": str(error)})
        return
    _send({})
    for line in lines:
        answer = _answer_or_error(reader, json.loads(line))
        _send(answer)
        if answer.get("error") in ("memory", "file"):
            return


def _send(answer: Answer) -> None:
    sys.stdout.write(json.dumps(answer, ensure_ascii=True) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve(sys.stdin)
