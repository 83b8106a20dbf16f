"""Machines with something wrong: the program answers there, or says why it does not. `just
clean-machine` does many more of them, with the wheel."""

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from benchmarks.generate import Population, database_of
from benchmarks.mirror import make_mirror
from benchmarks.reliability.asked_program import SQL, Outcome, Situation, ask_command, ask_server
from benchmarks.reliability.situations import (
    Around,
    Prepare,
    SkippedError,
    a_closed_proxy,
    empty_home,
    plain_letters,
    read_only_home,
    small_files,
)
from dbos_mcp.demo.tour import APPLICATION_NAME
from dbos_mcp.local_conductor.app import create_app
from dbos_mcp.local_conductor.system_database import SystemDatabase
from tests.loopback import served

pytestmark = pytest.mark.e2e

PROGRAM = [sys.executable, "-m", "dbos_mcp"]
NAME = "Größe und Maß 尺 寸"
SITUATIONS: dict[str, Prepare] = {
    "an empty home, with spaces and letters": empty_home,
    "a home that is read-only, with a mirror": read_only_home(mirrored=True),
    "a disk that is full": small_files,
    "no network, with a mirror": a_closed_proxy,
    "LANG=C": plain_letters,
}


@pytest.fixture(scope="module")
def around(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Around]:
    folder = tmp_path_factory.mktemp("around")
    system, mirror = database_of(Population(rows=20, in_flight=2), folder), folder / "mirror.sqlite"
    anyio.run(make_mirror, system, mirror)
    with (
        closing(SystemDatabase(f"sqlite:///{system}", [APPLICATION_NAME])) as database,
        served(create_app(database)) as url,
    ):
        yield Around(url, mirror, APPLICATION_NAME)


@pytest.fixture
def given(request: pytest.FixtureRequest, around: Around, tmp_path: Path) -> Iterator[Situation]:
    place = tmp_path / NAME
    place.mkdir(mode=0o755)
    try:
        with SITUATIONS[request.param](place, around) as given:
            yield given
    except SkippedError as skipped:
        pytest.skip(str(skipped))


@pytest.mark.parametrize("given", SITUATIONS, indirect=True)
def test_an_agent_has_rows_there_or_the_reason_why_not(given: Situation) -> None:
    seen = ask_server(PROGRAM, given, APPLICATION_NAME)
    expected = dict.fromkeys(("list_workflows", "query_sql"), given.expected)
    assert {tool: each.outcome for tool, each in seen.items()} == expected, seen


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a home that is read-only, with a mirror", Outcome.ROWS),
        ("a disk that is full", Outcome.ENDS),
    ],
    indirect=["given"],
)
def test_so_has_a_person(given: Situation, expected: Outcome) -> None:
    seen = ask_command(PROGRAM, given, ["sql", SQL])
    assert seen.outcome == expected, seen
