"""A new machine, and what may be wrong with it: `just clean-machine`.

The wheel is built and installed into a new venv, below a folder with spaces and letters that are
not ASCII. The installed program is then started with an environment of a few variables in one
situation after the other. Each ends in a server that names its tools and answers a question, or in
one clear sentence: an exit code, no traceback.
"""

import argparse
import json
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.report import machine, out, show, table

ROOT = Path(__file__).parents[2]
NAME = "Größe und Maß 尺 寸"
PATIENCE_SECONDS = 90.0
GONE = "http://127.0.0.1:9"
_HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "clean-machine", "version": "1"},
}


class SkippedError(Exception):
    """This situation cannot be had here."""


@dataclass
class Situation:
    home: Path
    variables: dict[str, str | None] = field(default_factory=dict)
    """None: it is not set."""
    before: Sequence[str] = ()
    """What starts the program."""
    in_child: Callable[[], None] | None = None
    arguments: Sequence[str] = ()


@dataclass
class Seen:
    works: bool
    said: str
    fine: bool


def main() -> None:
    parser = argparse.ArgumentParser(prog="clean-machine", description=__doc__)
    parser.add_argument("--only", default="", help="situations whose name holds this")
    only = parser.parse_args().only
    out.print(machine())
    with tempfile.TemporaryDirectory(prefix="dbos-mcp-clean-") as name:
        folder = Path(name) / NAME
        folder.mkdir()
        Path(name).chmod(0o755)
        program = _installed(folder)
        made = table("A clean machine", "Situation", "", "What was seen")
        bad = 0
        for situation, prepare in SITUATIONS.items():
            if only not in situation:
                continue
            place = folder / f"ré {len(made.rows)}"
            place.mkdir(mode=0o755)
            try:
                with prepare(place) as given:
                    seen = _seen(program, given)
            except SkippedError as skipped:
                made.add_row(situation, "skipped", str(skipped))
                continue
            bad += not seen.fine
            if not seen.fine:
                out.print(f"{situation}: {seen.said}", markup=False)
            verdict = "works" if seen.works else "says why"
            made.add_row(situation, verdict if seen.fine else "[red]wrong[/red]", seen.said)
        show(made)
    sys.exit(min(bad, 1))


def _installed(folder: Path) -> Path:
    wheels, venv = folder / "wheel", folder / "the venv"
    _run("uv", "build", "--quiet", "--wheel", "--out-dir", str(wheels), str(ROOT))
    (wheel,) = wheels.glob("*.whl")
    _run("uv", "venv", "--quiet", "--python", sys.executable, str(venv))
    _run("uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", str(venv), str(wheel))
    return venv / "bin" / "dbos-mcp"


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def _environment(given: Situation) -> dict[str, str]:
    plain: dict[str, str | None] = {
        "HOME": str(given.home),
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "DBOS_URL": GONE,
    }
    return {k: v for k, v in (plain | given.variables).items() if v is not None}


def _seen(program: Path, given: Situation) -> Seen:
    command = [*given.before, str(program), *given.arguments]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command,
            env=_environment(given),
            cwd=given.home if given.home.is_dir() else "/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            preexec_fn=given.in_child,
        ) as process,
    ):
        try:
            answer = _asked(process)
        finally:
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        errors.seek(0)
        told = errors.read().decode(errors="replace").strip()
    last = " ".join(told.split())[-300:]
    if "Traceback" in told:
        return Seen(False, f"a traceback: …{last}", False)
    if answer is None:
        lines = len(told.splitlines())
        clear = process.returncode in (1, 2, 3, 4) and 1 <= lines <= 3
        return Seen(False, f"exit {process.returncode}: {last}", clear)
    clean = process.returncode == 0 and bool(answer)
    return Seen(True, f"{_short(answer)}" + (f" (stderr: {last})" if last else ""), clean)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) < 330 else f"{text[:160]} … {text[-165:]}"


def _asked(process: subprocess.Popen[bytes]) -> str | None:
    """What the server answers to a question; None: it ended instead."""
    question = {"name": "list_applications", "arguments": {}}
    answer: dict[str, Any] | None = None
    for method, params in (
        ("initialize", _HELLO),
        ("notifications/initialized", None),
        ("tools/list", {}),
        ("tools/call", question),
    ):
        answer = _ask(process, method, params)
        if answer is None:
            return None
    assert answer is not None
    text: str = answer["result"]["content"][0]["text"]
    return text


def _ask(
    process: subprocess.Popen[bytes], method: str, params: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    assert process.stdin is not None
    assert process.stdout is not None
    message = {"jsonrpc": "2.0", "method": method}
    asked = message if params is None else message | {"id": 1, "params": params}
    try:
        process.stdin.write(json.dumps(asked).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        return None
    until = monotonic() + PATIENCE_SECONDS
    while params is not None:
        if not select.select([process.stdout], [], [], max(0, until - monotonic()))[0]:
            return None
        line = process.stdout.readline()
        if not line:
            return None
        answer: dict[str, Any] = json.loads(line)
        if "id" in answer:
            return answer
    return {}


@contextmanager
def _plain(place: Path) -> Iterator[Situation]:
    yield Situation(place)


def _with(**changes: Any) -> Callable[[Path], Any]:
    @contextmanager
    def prepare(place: Path) -> Iterator[Situation]:
        yield Situation(place, **changes)

    return prepare


@contextmanager
def _named_cache(place: Path) -> Iterator[Situation]:
    yield Situation(place, {"DBOS_MCP_CACHE": str(place / "der Spiegel ✓.sqlite")})


@contextmanager
def _read_only_home(place: Path) -> Iterator[Situation]:
    place.chmod(0o555)
    yield Situation(place, before=_as_anybody())
    place.chmod(0o755)


@contextmanager
def _nowhere(place: Path) -> Iterator[Situation]:
    place.chmod(0o555)
    yield Situation(place / "not" / "there", before=_as_anybody())
    place.chmod(0o755)


def _as_anybody() -> Sequence[str]:
    """Root may write whatever modes say, unless it gives that up."""
    if os.getuid() != 0:
        return ()
    plainly = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    if not shutil.which("setpriv") or subprocess.run([*plainly, "true"], check=False).returncode:
        raise SkippedError("root may write everywhere, and there is no setpriv")
    return plainly


@contextmanager
def _small_disk(place: Path, size: str = "96k") -> Iterator[Situation]:
    with _mounted(place, f"size={size},mode=700"):
        yield Situation(place)


@contextmanager
def _full_disk(place: Path) -> Iterator[Situation]:
    with _mounted(place, "size=64k,mode=700"):
        (place / "all of it").write_bytes(b"x" * 64 * 1024)
        yield Situation(place)


@contextmanager
def _full_tmp(place: Path) -> Iterator[Situation]:
    with _mounted(place, "size=64k,mode=1777"):
        (place / "all of it").write_bytes(b"x" * 64 * 1024)
        home = place.with_name(f"{place.name} home")
        home.mkdir()
        yield Situation(home, {"TMPDIR": str(place)})


@contextmanager
def _mounted(place: Path, options: str) -> Iterator[None]:
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        raise SkippedError("no tmpfs can be mounted here")
    try:
        yield
    finally:
        _run("umount", "--lazy", str(place))


@contextmanager
def _no_network(place: Path) -> Iterator[Situation]:
    alone = ["unshare", "-n"]
    works = shutil.which("unshare") and not subprocess.run([*alone, "true"], check=False).returncode
    if works:
        yield Situation(place, {"DBOS_URL": "https://conductor.example"}, before=alone)
    else:
        yield Situation(
            place, {"DBOS_URL": "https://conductor.example", "HTTPS_PROXY": "http://127.0.0.1:9"}
        )


@contextmanager
def _old_cache(place: Path) -> Iterator[Situation]:
    old = place / "old.sqlite"
    old.write_bytes(b"SQLite format 3\0" + bytes(4080))
    yield Situation(place, {"DBOS_MCP_CACHE": str(old)})


def _limit(what: int, most: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(what, (most, most))


SITUATIONS: dict[str, Callable[[Path], Any]] = {
    "an empty home, with spaces and letters": _plain,
    "a named cache, the same": _named_cache,
    "nobody is logged in": _with(variables={"DBOS_URL": None}),
    "a home that is read-only": _read_only_home,
    "a home that does not exist": _nowhere,
    "no HOME": _with(variables={"HOME": None}),
    "a full disk": _full_disk,
    "a disk that is soon full": _small_disk,
    "files of 20 KB at the most": _with(in_child=_limit(resource.RLIMIT_FSIZE, 20_000)),
    "no network": _no_network,
    "TMPDIR is full": _full_tmp,
    "TMPDIR does not exist": _with(variables={"TMPDIR": "/not/there"}),
    "umask 077": _with(in_child=lambda: os.umask(0o077) and None),
    "umask 000": _with(in_child=lambda: os.umask(0) and None),
    "LANG=C": _with(variables={"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"}),
    "no PATH": _with(variables={"PATH": None}),
    "no variable at all": _with(
        variables={"PATH": None, "LANG": None, "HOME": None, "DBOS_URL": None}
    ),
    "stderr is closed": _with(in_child=lambda: os.close(2)),
    "stdin is closed": _with(in_child=lambda: os.close(0)),
    "a file that is no cache": _old_cache,
    "32 open files at the most": _with(in_child=_limit(resource.RLIMIT_NOFILE, 32)),
    "12 open files at the most": _with(in_child=_limit(resource.RLIMIT_NOFILE, 12)),
    "a setting that is wrong": _with(variables={"DBOS_MCP_HISTORY": "for ever"}),
}


if __name__ == "__main__":
    main()
