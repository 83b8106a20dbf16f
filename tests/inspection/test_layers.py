"""What each layer of the sandbox is for: the harm that a statement does without it.

Where several would each do, they are taken off together, and one is left on at a time.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import pytest

from dbos_mcp.errors import DbosMcpError, SqlStoppedError
from dbos_mcp.inspection import sandbox as sandbox_module
from dbos_mcp.inspection import worker
from dbos_mcp.inspection.sandbox import Sandbox
from dbos_mcp.store.engine import Cache
from tests.inspection.test_sandbox import ENDLESS, HOSTILE, MOST_KIB, cache, peak_kib, workers

__all__ = ["cache"]

REFUSED = [*chain.from_iterable(HOSTILE["refused"].values())]
(UNIONS,) = (sql for sql in HOSTILE["refused"]["beyond the limits"] if "UNION ALL" in sql)
OFF = {
    "the public schema": """
class Anything:
    def __getattr__(self, name):
        return lambda *_: self
begin = worker.Reader.__init__
def unchecked(reader, **given):
    begin(reader, **given)
    reader._public = Anything()
worker.Reader.__init__ = unchecked
""",
    "the authorizer of the public schema": "worker.Reader._allow_public = lambda *_: 0",
    "the authorizer of the cache": "worker.Reader._allow = lambda *_: 0",
    "the list of functions": """
class All:
    def __contains__(self, name):
        return True
worker._FUNCTIONS = All()
""",
    "the limits": "worker._LIMITS = {}",
    "the transaction that is rolled back": """
@worker.contextlib.contextmanager
def as_it_is(reader):
    yield
worker.Reader._one_state_of_the_file = as_it_is
""",
    "query_only": "without(worker, 'query_only')",
    "mode=ro": """
connect = worker._connect
worker._connect = lambda uri: connect(uri.replace("mode=ro", "mode=rw"))
""",
    "the limit of file sizes": """
import resource
limit_to = resource.setrlimit
resource.setrlimit = lambda what, most: what == resource.RLIMIT_FSIZE or limit_to(what, most)
""",
    "the bound of SQLite's memory": "without(worker, 'hard_heap_limit')",
    "the bound of the process's memory": "worker._ADDRESS_SPACE_BYTES = -1",
    "the deadline": "worker._stop_after = lambda *_: None",
    "its own end": "worker._end_after = lambda *_: None",
}
CHANGED = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("worker", {path!r})
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
def without(worker, pragma):
    kept = [each for each in worker._EVERY_CONNECTION if pragma not in each]
    worker._EVERY_CONNECTION = tuple(kept)
{changes}
worker.serve(sys.stdin)
"""
Without = Callable[..., Sandbox]


@pytest.fixture
def without(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Without]:
    """A sandbox with these layers taken off."""
    path = worker.__file__
    with ExitStack() as opened:

        def sandbox(*layers: str, seconds: float = 30.0) -> Sandbox:
            if "the parent's clock" in layers:
                monkeypatch.setattr(sandbox_module, "PATIENCE", 1_000)
            script = tmp_path / f"worker-{'-'.join(layers).replace(' ', '_')[:200]}.py"
            changes = "\n".join(OFF.get(layer, "") for layer in layers)
            script.write_text(CHANGED.format(path=path, changes=changes))
            monkeypatch.setattr(worker, "__file__", str(script))
            made = Sandbox(cache.read_uri, seconds=seconds)
            opened.callback(made.close)
            return made

        yield sandbox


def is_refused(sandbox: Sandbox, sql: str) -> bool:
    try:
        sandbox.run(sql)
    except DbosMcpError:
        return True
    return False


@pytest.mark.parametrize(
    ("layer", "sql"),
    [
        # The cache alone would see a view's name before the column, and nothing at all to count.
        ("the public schema", "WITH steps AS (SELECT id FROM workflow) SELECT * FROM steps"),
        ("the public schema", "SELECT count(*) FROM sync_state"),
        ("the list of functions", "SELECT sqlite_compileoption_get(1)"),
        ("the list of functions", "SELECT printf('%2000000000d', 1)"),
        ("the limits", UNIONS),
    ],
)
def test_without_this_layer_alone_it_is_answered(without: Without, layer: str, sql: str) -> None:
    assert sql in REFUSED
    assert is_refused(without(), sql)
    assert not is_refused(without(layer), sql)


AUTHORIZERS = ["the authorizer of the public schema", "the authorizer of the cache"]


@pytest.mark.parametrize("layer", AUTHORIZERS)
def test_one_authorizer_is_enough_to_refuse_all(without: Without, layer: str) -> None:
    sandbox = without(layer)
    for sql in REFUSED:
        assert is_refused(sandbox, sql), sql


@pytest.mark.parametrize("sql", ["PRAGMA table_info(workflow)", "SELECT sql FROM sqlite_master"])
def test_without_both_authorizers_the_schema_is_open(without: Without, sql: str) -> None:
    assert sql in REFUSED
    assert without(*AUTHORIZERS).run(sql).rows


WRITES = ["CREATE TABLE evil AS SELECT 1 AS x", "DELETE FROM command"]
AGAINST_WRITES = [
    "query_only",
    "mode=ro",
    "the limit of file sizes",
    "the transaction that is rolled back",
]


def is_changed(cache: Cache) -> bool:
    count = "SELECT count(*) FROM {}".format
    with cache.read() as connection:
        evil = connection.exec_driver_sql(count("sqlite_master WHERE name = 'evil'")).scalar_one()
        return bool(evil) or not connection.exec_driver_sql(count("command")).scalar_one()


@pytest.mark.parametrize("left", [*AGAINST_WRITES, "nothing"])
@pytest.mark.parametrize("sql", WRITES)
def test_each_layer_against_writes_holds_alone(
    cache: Cache, without: Without, left: str, sql: str
) -> None:
    others = [layer for layer in AGAINST_WRITES if layer != left]
    is_refused(without(*AUTHORIZERS, "the public schema", *others), sql)
    assert is_changed(cache) == (left == "nothing")


STRING = (
    "WITH RECURSIVE b(s) AS (SELECT 'aaaaaaaa' UNION ALL SELECT s || s FROM b"
    " WHERE length(s) < {}), m(s) AS MATERIALIZED (SELECT s FROM b ORDER BY length(s) DESC LIMIT 1)"
    ", n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300) "
)
SLOW = STRING.format(200_000) + "SELECT instr(s, substr(s, 1, 130000) || 'b') FROM m"
"""A second or so in one instruction."""
CLOCKS = ["the deadline", "the parent's clock", "its own end"]
HASTE = 0.02


@pytest.mark.parametrize("left", ["the parent's clock", "its own end"])
def test_either_clock_ends_one_long_instruction(without: Without, left: str) -> None:
    sandbox = without(*(clock for clock in CLOCKS if clock != left), seconds=HASTE)
    sandbox.run("SELECT 1")
    with pytest.raises(SqlStoppedError):
        sandbox.run(SLOW)
    assert workers(sandbox) == []


def test_without_these_clocks_it_outlives_its_time(without: Without) -> None:
    assert without(*CLOCKS, seconds=HASTE).run(SLOW).ms > 5 * HASTE * 1_000


def test_the_deadline_saves_the_process(without: Without) -> None:
    sandbox = without("the parent's clock", "its own end", seconds=HASTE)
    with pytest.raises(SqlStoppedError):
        sandbox.run(ENDLESS)
    assert len(workers(sandbox)) == 1


SORTED = STRING.format(1_000_000) + "SELECT s || i FROM m, n ORDER BY 1"
BLOBS = (
    STRING.format(1_000_000) + f"SELECT {', '.join(['CAST(s AS BLOB)'] * 100)} FROM m, n LIMIT 3"
)
"""The driver makes all values of a row before it hands them over, and has the last row still."""
BOUNDS = ["the bound of SQLite's memory", "the bound of the process's memory"]


@pytest.mark.parametrize(
    ("sql", "off"), [(SORTED, []), (SORTED, BOUNDS[:1]), (SORTED, BOUNDS[1:]), (BLOBS, []),
                     (BLOBS, BOUNDS[:1])]
)  # fmt: skip
def test_either_bound_stops_what_sqlite_holds_and_one_what_python_does(
    without: Without, sql: str, off: list[str]
) -> None:
    with pytest.raises(SqlStoppedError, match="too much memory"):
        without(*off).run(sql, rows=1)


@pytest.mark.parametrize(("sql", "off"), [(SORTED, BOUNDS), (BLOBS, BOUNDS[1:])])
def test_without_these_bounds_it_goes_beyond(without: Without, sql: str, off: list[str]) -> None:
    sandbox = without(*off)
    sandbox.run(sql, rows=1)
    assert peak_kib(*workers(sandbox)) > MOST_KIB
