"""What may be wrong with a machine, each as a way to prepare a folder of its own."""

import os
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reliability.asked_program import Outcome, Situation
from dbos_mcp.settings import LOCAL_ORGANIZATION, Settings
from tests.store.test_versions import OLDER, made_by

GONE = "http://127.0.0.1:9"
NOBODY = 65534


class SkippedError(Exception):
    """This situation cannot be had here."""


@dataclass(frozen=True)
class Around:
    """What all situations have in common."""

    url: str
    """Of a Conductor that is well."""
    mirror: Path
    """Of it, and closed."""
    application_name: str

    def put_mirror(self, home: Path, url: str = GONE) -> Path:
        """Where a program looks for it."""
        path = Settings(home=home, url=url).cache_path(LOCAL_ORGANIZATION)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        return Path(shutil.copy(self.mirror, path))


Prepare = Callable[[Path, Around], AbstractContextManager[Situation]]


def _with(
    in_child: Callable[[], None] | None = None,
    expected: Outcome = Outcome.ROWS,
    sql: Outcome | None = None,
    *,
    mirrored: bool = False,
    **variables: str | None,
) -> Prepare:
    """An empty home in front of a Conductor, or a mirror of one that is gone."""

    @contextmanager
    def prepare(place: Path, around: Around) -> Iterator[Situation]:
        if mirrored:
            around.put_mirror(place)
        url = {"DBOS_URL": GONE if mirrored else around.url}
        yield Situation(place, url | variables, in_child=in_child, expected=expected, sql=sql)

    return prepare


@contextmanager
def _named_cache(place: Path, around: Around) -> Iterator[Situation]:
    cache = str(place / "der Spiegel ✓.sqlite")
    yield Situation(place, {"DBOS_URL": around.url, "DBOS_MCP_CACHE": cache})


@contextmanager
def _no_home(place: Path, around: Around) -> Iterator[Situation]:
    """Its cache is a named one: nothing is left where whoever runs this lives."""
    given = {"HOME": None, "DBOS_URL": around.url, "DBOS_MCP_CACHE": str(place / "cache.sqlite")}
    yield Situation(place, given)


def read_only_home(*, mirrored: bool) -> Prepare:
    """Of a user who is not root."""

    @contextmanager
    def prepare(place: Path, around: Around) -> Iterator[Situation]:
        if mirrored:
            around.put_mirror(place)
        before = _as_nobody(place)
        folders = [folder for folder in (place / ".dbos-mcp", place) if folder.exists()]
        for folder in folders:
            folder.chmod(0o555)
        yield Situation(
            place,
            {"DBOS_URL": GONE if mirrored else around.url},
            before=before,
            expected=Outcome.ROWS if mirrored else Outcome.ERROR,
        )
        for folder in folders:
            folder.chmod(0o755)

    return prepare


@contextmanager
def _of_a_user(place: Path, around: Around) -> Iterator[Situation]:
    yield Situation(place, {"DBOS_URL": around.url}, before=_as_nobody(place))


@contextmanager
def _read_only_file_system(place: Path, around: Around) -> Iterator[Situation]:
    with _mounted(place, "size=8m,mode=755"):
        around.put_mirror(place)
        _run("mount", "-o", "remount,ro", str(place))
        yield Situation(place, {"DBOS_URL": GONE})


@contextmanager
def _nowhere(place: Path, around: Around) -> Iterator[Situation]:
    before = _as_nobody(place)
    place.chmod(0o555)
    home = place / "not" / "there"
    given = {"DBOS_URL": around.url}
    yield Situation(home, given, before=before, cwd=place, expected=Outcome.ERROR)
    place.chmod(0o755)


def _as_nobody(place: Path) -> tuple[str, ...]:
    """Root may write whatever modes say: it becomes a user who owns the place, and can read all, as
    Python may be in a folder of root's."""
    if os.getuid() != 0:
        return ()
    user = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    reads = "dac_read_search"
    caps = (f"--inh-caps=+{reads}", f"--ambient-caps=+{reads}", f"--bounding-set=-all,+{reads}")
    if (
        not shutil.which("setpriv")
        or subprocess.run([*user, *caps, "true"], check=False).returncode
    ):
        raise SkippedError("root may write everywhere, and there is no setpriv")
    for each in (place, *place.rglob("*")):
        os.chown(each, NOBODY, NOBODY)
    return (*user, *caps)


def _disk(size: str, *, full: bool = False, mirrored: bool = False) -> Prepare:
    """A small one, which holds the home."""

    @contextmanager
    def prepare(place: Path, around: Around) -> Iterator[Situation]:
        with _mounted(place, f"size={size},mode=700"):
            if mirrored:
                around.put_mirror(place)
            if full:
                _fill(place)
            url = {"DBOS_URL": GONE if mirrored else around.url}
            yield Situation(place, url, expected=Outcome.ERROR)

    return prepare


@contextmanager
def _full_tmp(place: Path, around: Around) -> Iterator[Situation]:
    with _mounted(place, "size=64k,mode=1777"):
        _fill(place)
        home = place.with_name(f"{place.name} home")
        home.mkdir()
        yield Situation(home, {"DBOS_URL": around.url, "TMPDIR": str(place)})


@contextmanager
def _read_only_tmp(place: Path, around: Around) -> Iterator[Situation]:
    """And nowhere else to go, but for a home."""
    _require_mounts()
    script = "".join(
        f"mount --rbind {folder} {folder} && mount -o remount,bind,ro {folder} && "
        for folder in ("/tmp", "/var/tmp")
    )
    with _mounted(place, "size=64m,mode=755"):
        before = ("unshare", "-m", "sh", "-c", f'{script}exec "$0" "$@"')
        yield Situation(place, {"DBOS_URL": around.url}, before=before)


def _fill(place: Path) -> None:
    with _until_full(), (place / "all of it").open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass


@contextmanager
def _until_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if "No space" not in str(error):
            raise


@contextmanager
def _mounted(place: Path, options: str) -> Iterator[None]:
    _require_mounts()
    _run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place))
    try:
        yield
    finally:
        _run("umount", "--lazy", str(place))


def _require_mounts() -> None:
    can = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if os.getuid() != 0 or subprocess.run(can, capture_output=True, check=False).returncode:
        raise SkippedError("nothing can be mounted here")


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


@contextmanager
def no_network(place: Path, around: Around) -> Iterator[Situation]:
    """A mirror, and no way to the Conductor that it is of."""
    url = "https://conductor.example"
    around.put_mirror(place, url)
    given = {"DBOS_URL": url, "DBOS_TOKEN": "t", "DBOS_MCP_CACHE": str(around.put_mirror(place))}
    alone = ["unshare", "-n"]
    if shutil.which("unshare") and not subprocess.run([*alone, "true"], check=False).returncode:
        yield Situation(place, given, before=alone)
    else:
        yield Situation(place, given | {"HTTPS_PROXY": GONE})


@contextmanager
def a_closed_proxy(place: Path, around: Around) -> Iterator[Situation]:
    given = {"DBOS_URL": "https://conductor.example", "DBOS_TOKEN": "t", "HTTPS_PROXY": GONE}
    yield Situation(place, given | {"DBOS_MCP_CACHE": str(around.put_mirror(place))})


@contextmanager
def _no_cache(place: Path, around: Around) -> Iterator[Situation]:
    old = place / "old.sqlite"
    old.write_bytes(b"SQLite format 3\0" + bytes(4080))
    given = {"DBOS_URL": around.url, "DBOS_MCP_CACHE": str(old)}
    yield Situation(place, given, expected=Outcome.ERROR)


def older_cache(*, read_only: bool) -> Prepare:
    """With a workflow in it, of an application that there is."""

    @contextmanager
    def prepare(place: Path, around: Around) -> Iterator[Situation]:
        folder = place / "older"
        folder.mkdir()
        path = folder / "cache.sqlite"
        made_by(path, place / "migrations", OLDER[3])
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute(
                "INSERT INTO workflow (id, application_name, workflow_id, created_at, updated_at,"
                " status, priority, was_forked_from, payloads_loaded, content_hash, observed_at)"
                " VALUES (1, ?, 'w-1', 5, 6, 'SUCCESS', 0, 0, 0, x'00', 7)",
                (around.application_name,),
            )
        given = {"DBOS_URL": GONE if read_only else around.url, "DBOS_MCP_CACHE": str(path)}
        before: tuple[str, ...] = ()
        if read_only:
            before = _as_nobody(place)
            folder.chmod(0o555)
        expected = Outcome.ERROR if read_only else Outcome.ROWS
        yield Situation(place, given, before=before, expected=expected)
        folder.chmod(0o755)

    return prepare


@contextmanager
def _unreadable_names(place: Path, around: Around) -> Iterator[Situation]:
    """Bytes that are no UTF-8, of the home, of the folder that it is started in, and of a file."""
    home = Path(os.fsdecode(os.fsencode(place) + b"/M\xfcll"))
    home.mkdir()
    (home / os.fsdecode(b"na\xefve.txt")).touch()
    yield Situation(home, {"DBOS_URL": around.url})


def _limit(what: int, most: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(what, (most, most))


def _umask(mode: int) -> Callable[[], None]:
    def umask() -> None:
        os.umask(mode)

    return umask


small_files = _with(_limit(resource.RLIMIT_FSIZE, 20_000), Outcome.ERROR)
"""As a disk that is full, without one."""
empty_home = _with()
plain_letters = _with(LANG="C", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")

SITUATIONS: dict[str, Prepare] = {
    "an empty home, with spaces and letters": empty_home,
    "the same, of a user who is not root": _of_a_user,
    "a named cache": _named_cache,
    "nobody is logged in": _with(expected=Outcome.ERROR, DBOS_URL=None),
    "a home that is read-only": read_only_home(mirrored=False),
    "a home that is read-only, with a mirror": read_only_home(mirrored=True),
    "a read-only file system, with a mirror": _read_only_file_system,
    "a home that does not exist": _nowhere,
    "no HOME": _no_home,
    "a full disk": _disk("64k", full=True),
    "a full disk, with a mirror": _disk("2m", full=True, mirrored=True),
    "a disk that is soon full": _disk("96k"),
    "files of 20 KB at the most": small_files,
    "no network, with a mirror": no_network,
    "no network": _with(expected=Outcome.ERROR, sql=Outcome.EMPTY, DBOS_URL=GONE),
    "TMPDIR is full": _full_tmp,
    "TMPDIR does not exist": _with(TMPDIR="/not/there"),
    "/tmp is read-only": _read_only_tmp,
    "umask 077": _with(_umask(0o077)),
    "umask 000": _with(_umask(0)),
    "LANG=C": plain_letters,
    "names that are no UTF-8": _unreadable_names,
    "no PATH": _with(PATH=None),
    "no variable at all": _with(
        expected=Outcome.ERROR, PATH=None, LANG=None, HOME=None, DBOS_URL=None
    ),
    "stderr is closed": _with(lambda: os.close(2)),
    "stdin is closed": _with(lambda: os.close(0), Outcome.ENDS),
    "a file that is no cache": _no_cache,
    "a cache of an older version": older_cache(read_only=False),
    "the same, in a folder that is read-only": older_cache(read_only=True),
    "32 open files at the most": _with(_limit(resource.RLIMIT_NOFILE, 32)),
    "12 open files at the most": _with(_limit(resource.RLIMIT_NOFILE, 12), Outcome.ERROR),
    "a setting that is wrong": _with(expected=Outcome.ENDS, DBOS_MCP_HISTORY="for ever"),
}
