"""A new machine, and what may be wrong with it: `just clean-machine`.

The wheel is built and installed into a new venv, below a folder with spaces and letters that are
not ASCII. The installed program is then started with an environment of a few variables in one
situation after the other: as a server, which is asked for workflows and by SQL, and as five
commands. Each must end in rows where there can be some, else in one clear sentence and an exit
code; never in a traceback.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio

from benchmarks.generate import Population, database_of
from benchmarks.mirror import make_mirror
from benchmarks.reliability.asked_program import (
    COMMANDS,
    Outcome,
    Seen,
    Situation,
    ask_command,
    ask_server,
)
from benchmarks.reliability.situations import SITUATIONS, Around, SkippedError
from benchmarks.report import machine, out, show, table
from dbos_mcp.demo.tour import APPLICATION_NAME, running_conductor

ROOT = Path(__file__).parents[2]
NAME = "Größe und Maß 尺 寸"
POPULATION = Population(rows=300, in_flight=20)


def main() -> None:
    parser = argparse.ArgumentParser(prog="clean-machine", description=__doc__)
    parser.add_argument("--only", default="", help="situations whose name holds this")
    parser.add_argument("--servers-only", action="store_true", help="leave the commands out")
    given = parser.parse_args()
    sys.exit(anyio.run(run, given.only, not given.servers_only))


async def run(only: str, commands: bool) -> int:
    out.print(machine())
    with tempfile.TemporaryDirectory(prefix="dbos-mcp-clean-") as name:
        os.chmod(name, 0o755)  # noqa: PTH101 - a user who is not root starts it too
        folder = Path(name) / NAME
        folder.mkdir()
        system = database_of(POPULATION, folder)
        mirror = folder / "mirror.sqlite"
        await make_mirror(system, mirror)
        async with running_conductor(system) as url:
            around = Around(url, mirror, APPLICATION_NAME)
            return await anyio.to_thread.run_sync(_look, folder, around, only, commands)


def _look(folder: Path, around: Around, only: str, commands: bool) -> int:
    """1, if anything was other than expected."""
    program = _installed(folder)
    columns = ("list_workflows", "query_sql", *(f"{command[0]}" for command in COMMANDS))
    made = table("A clean machine", "Situation", "The server", *columns)
    bad = 0
    for number, (name, prepare) in enumerate(SITUATIONS.items()):
        if only not in name:
            continue
        place = folder / f"ré {number}"
        place.mkdir(mode=0o755)
        cells: dict[str, str] = {}
        try:
            with prepare(place, around) as given:
                for asked, seen, fine in _seen(program, given, commands):
                    bad += not fine
                    out.print(f"{name}; {asked}: {seen.outcome}: {seen.said}", markup=False)
                    cells[asked] = seen.outcome if fine else f"[red]{seen.outcome}[/red]"
        except SkippedError as skipped:
            cells["the server"] = f"skipped: {skipped}"
        made.add_row(name, *(cells.get(column, "") for column in ("the server", *columns)))
    show(made)
    return min(bad, 1)


def _seen(program: Path, given: Situation, commands: bool) -> Iterator[tuple[str, Seen, bool]]:
    for tool, seen in ask_server([str(program)], given, APPLICATION_NAME).items():
        expected = given.sql or given.expected if tool == "query_sql" else given.expected
        yield tool, seen, seen.outcome == expected
    for command in COMMANDS if commands else ():
        seen = ask_command([str(program)], given, command)
        yield command[0], seen, seen.outcome != Outcome.WRONG


def _installed(folder: Path) -> Path:
    wheels, venv = folder / "wheel", folder / "the venv"
    _run("uv", "build", "--quiet", "--wheel", "--out-dir", str(wheels), str(ROOT))
    (wheel,) = wheels.glob("*.whl")
    _run("uv", "venv", "--quiet", "--python", sys.executable, str(venv))
    _run("uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", str(venv), str(wheel))
    return venv / "bin" / "dbos-mcp"


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
