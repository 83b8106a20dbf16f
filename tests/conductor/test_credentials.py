"""The credentials file: who can read it, and what is left when something goes wrong."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from dbos_mcp.conductor import credentials
from dbos_mcp.conductor.credentials import CredentialStore, Login
from dbos_mcp.errors import AuthenticationError, LoginError

READS = 1_000 * int(os.environ.get("FUZZ_EXAMPLES", "1"))
ALICE = Login("token-1", "alice", "acme", "refresh-1", 1_790_000_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "credentials"


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def any_umask(request: pytest.FixtureRequest) -> Iterator[None]:
    previous = os.umask(request.param)
    yield
    os.umask(previous)


def save(store: CredentialStore, login: Login) -> None:
    anyio.run(store.save, login)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_what_was_saved_is_loaded(path: Path) -> None:
    store = CredentialStore(path)
    assert store.load() is None
    save(store, ALICE)
    assert store.load() == ALICE
    save(store, Login(organization="local"))
    assert store.load() == Login(organization="local")


def test_the_file_of_earlier_versions_loads_and_keys_new_to_us_are_ignored(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"token": "t", "userName": "alice", "organization": "acme", "new": 1}')
    assert CredentialStore(path).load() == Login("t", "alice", "acme")


def test_the_keys_are_those_of_dbosctl(path: Path) -> None:
    save(CredentialStore(path), ALICE)
    assert json.loads(path.read_text()) == {
        "organization": "acme",
        "token": "token-1",
        "userName": "alice",
        "refreshToken": "refresh-1",
        "expiresAt": 1_790_000_000,
    }


@pytest.mark.usefixtures("any_umask")
def test_only_the_owner_can_read_anything_under_any_umask(path: Path) -> None:
    save(CredentialStore(path), ALICE)
    assert (mode(path.parent), mode(path)) == (0o700, 0o600)
    assert [mode(file) & 0o077 for file in path.parent.iterdir()] == [0, 0]
    path.write_bytes(b"damaged")
    save(CredentialStore(path), ALICE)
    assert [mode(file) & 0o077 for file in path.parent.iterdir()] == [0, 0, 0]


@pytest.mark.parametrize("wide", ["the file", "the folder", "both"])
@pytest.mark.parametrize("act", ["load", "save"])
def test_a_file_and_folder_that_others_could_read_are_narrowed(
    path: Path, wide: str, act: str
) -> None:
    save(CredentialStore(path), ALICE)
    path.chmod(0o600 if wide == "the folder" else 0o666)
    path.parent.chmod(0o700 if wide == "the file" else 0o777)
    if act == "save":
        save(CredentialStore(path), ALICE)
    else:
        assert CredentialStore(path).load() == ALICE
    assert (mode(path.parent), mode(path)) == (0o700, 0o600)


def test_a_reader_never_sees_half_a_file(path: Path) -> None:
    store = CredentialStore(path)
    long, short = Login("x" * 100_000, "acme"), Login("y", "acme")
    save(store, long)
    done = threading.Event()

    def keep_writing() -> None:
        while not done.is_set():
            save(store, short)
            save(store, long)

    writer = threading.Thread(target=keep_writing)
    writer.start()
    seen: set[Login | None] = set()
    try:
        reads = 0
        while reads < READS or len(seen) < 2:
            login = store.load()
            assert login in (long, short)
            seen.add(login)
            reads += 1
    finally:
        done.set()
        writer.join()
    assert seen == {long, short}
    assert set(path.parent.iterdir()) == {path, path.with_name("credentials.lock")}


def test_a_failed_write_keeps_the_old_login_and_leaves_nothing_behind(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CredentialStore(path)
    save(store, ALICE)

    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(LoginError, match="No space left on device") as caught:
        save(store, Login("token-2"))
    assert "token-2" not in str(caught.value)
    assert store.load() == ALICE
    assert set(path.parent.iterdir()) == {path, path.with_name("credentials.lock")}


@pytest.mark.parametrize(
    "content",
    [b"", b'{"token": "canary', b"[]", b"\xff", b'{"organization": 7, "token": "canary"}'],
    ids=["empty", "half", "a list", "not text", "wrong type"],
)  # fmt: skip
def test_a_damaged_file_is_kept_under_another_name_and_said_so(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.with_name("credentials.corrupt-1").write_bytes(b"an earlier one")
    path.write_bytes(content)
    store = CredentialStore(path)
    with pytest.raises(AuthenticationError, match=r"credentials\.corrupt-2") as caught:
        store.load()
    error = caught.value
    assert "canary" not in str(error)
    assert error.__cause__ is error.__context__ is None
    aside = path.with_name("credentials.corrupt-2")
    assert (aside.read_bytes(), mode(aside)) == (content, 0o600)
    assert store.load() is None


@pytest.mark.parametrize("name", [None, "bad"])
@pytest.mark.parametrize("content", ['{"token": 7, "logins": {"bad": {"token": 7}}}', "{"])
def test_a_damaged_file_is_kept_when_a_login_is_saved(
    path: Path, name: str | None, content: str
) -> None:
    path.parent.mkdir()
    path.write_text(content)
    save(CredentialStore(path, name), ALICE)
    assert path.with_name("credentials.corrupt-1").read_text() == content
    assert CredentialStore(path, name).load() == ALICE


def test_damage_in_one_login_does_not_matter_to_the_others(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"token": "t", "logins": {"bad": {"token": ["canary"]}}}')
    assert CredentialStore(path).load() == Login("t")
    assert CredentialStore(path, "good").load() is None
    save(CredentialStore(path, "good"), ALICE)
    assert json.loads(path.read_text())["logins"]["bad"] == {"token": ["canary"]}
    with pytest.raises(AuthenticationError, match=r"credentials\.corrupt-1") as caught:
        CredentialStore(path, "bad").load()
    assert "canary" not in str(caught.value)


def test_a_damaged_file_that_cannot_be_moved_is_said_to_be_damaged(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("{")
    path.with_name("credentials.lock").mkdir()
    with pytest.raises(AuthenticationError, match=r"are damaged\.") as caught:
        CredentialStore(path).load()
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert path.read_text() == "{"


def test_a_file_that_cannot_be_read_is_not_taken_for_no_login(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(AuthenticationError, match="cannot be read"):
        CredentialStore(path).load()


def test_credentials_do_not_show_their_tokens() -> None:
    assert "token-1" not in repr(ALICE)
    assert "refresh-1" not in repr(ALICE)


# Other logins, and other writers


def test_other_logins_and_what_is_unknown_to_us_survive(path: Path) -> None:
    before = {
        "token": "t", "organization": "acme", "new": [1],
        "logins": {"a": {"token": "a", "newer": {"x": 1}}, "b": {"token": "b"}, "c": "unknown"},
    }  # fmt: skip
    path.parent.mkdir()
    path.write_text(json.dumps(before))
    save(CredentialStore(path, "a"), Login(organization="umbrella"))
    entry = {"organization": "umbrella", "newer": {"x": 1}}
    logins = {**before["logins"], "a": entry}  # type: ignore[dict-item]
    assert json.loads(path.read_text()) == {**before, "logins": logins}
    save(CredentialStore(path), Login(user_name="alice"))
    assert json.loads(path.read_text()) == {"userName": "alice", "new": [1], "logins": logins}
    assert CredentialStore(path, "b").load() == Login("b")


async def test_tasks_that_save_at_the_same_time_lose_nothing(path: Path) -> None:
    names = [None, *map(str, range(20))]
    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(CredentialStore(path, name).save, Login(f"token of {name}"))
    assert [CredentialStore(path, name).load() for name in names] == [
        Login(f"token of {name}") for name in names
    ]


PRELUDE = """
import os, signal, sys, tempfile, anyio
from pathlib import Path
from dbos_mcp.conductor.credentials import CredentialStore, Login

path, given = Path(sys.argv[1]), sys.argv[2]
os.umask(0)

def save(name, login):
    anyio.run(CredentialStore(path, name).save, login)
"""

SAVE_MANY = """
print(flush=True)
sys.stdin.readline()
for n in range(20):
    save(f"{given}-{n}", Login(f"token of {given}-{n}"))
"""

HOLD = """
async def main():
    async with CredentialStore(path).exclusively():
        print(flush=True)
        sys.stdin.readline()

anyio.run(main)
"""

DIE = """
def die(*_arguments, **_named):
    os.kill(os.getpid(), signal.SIGKILL)

def then_die(function):
    return lambda *arguments, **named: die(function(*arguments, **named))

def half(descriptor, mode):
    os.write(descriptor, b'{"token": "half')
    die()

match given:
    case "the file was made":
        tempfile.mkstemp = then_die(tempfile.mkstemp)
    case "half of it was written":
        os.fdopen = half
    case "all of it was written":
        os.fsync = die
    case "it was on the disk":
        os.fsync = then_die(os.fsync)
    case "it was to take its place":
        Path.replace = die
    case "it had taken its place":
        Path.replace = then_die(Path.replace)
save(None, Login("new"))
"""


@contextmanager
def running(script: str, path: Path, given: str = "") -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script, str(path), given],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.e2e
def test_processes_that_save_at_the_same_time_lose_nothing(path: Path) -> None:
    with (
        running(SAVE_MANY, path, "a") as a,
        running(SAVE_MANY, path, "b") as b,
        running(SAVE_MANY, path, "c") as c,
    ):
        for process in (a, b, c):
            assert line_of(process)
        for process in (a, b, c):
            assert process.stdin is not None
            process.stdin.close()  # the sign to begin
        assert [process.wait() for process in (a, b, c)] == [0, 0, 0]
    names = [f"{process}-{n}" for process in "abc" for n in range(20)]
    assert [CredentialStore(path, name).load() for name in names] == [
        Login(f"token of {name}") for name in names
    ]


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("point", "kept", "leftovers"),
    [
        ("the file was made", ALICE, 1),
        ("half of it was written", ALICE, 1),
        ("all of it was written", ALICE, 1),
        ("it was on the disk", ALICE, 1),
        ("it was to take its place", ALICE, 1),
        ("it had taken its place", Login("new"), 0),
    ],
)
def test_a_process_that_is_killed_leaves_the_old_login_or_the_new_one(
    path: Path, point: str, kept: Login, leftovers: int
) -> None:
    store = CredentialStore(path)
    save(store, ALICE)
    with running(DIE, path, point) as process:
        assert process.wait() == -9
    assert store.load() == kept
    left = set(path.parent.iterdir()) - {path, path.with_name("credentials.lock")}
    assert [mode(file) for file in left] == [0o600] * leftovers
    save(store, Login("after"))
    assert store.load() == Login("after")
    assert set(path.parent.iterdir()) == {path, path.with_name("credentials.lock")}


@pytest.mark.e2e
def test_a_process_that_does_not_let_go_is_not_waited_for_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "LOCK_PATIENCE_SECONDS", 0)
    store = CredentialStore(path)
    save(store, ALICE)
    with running(HOLD, path) as process:
        assert line_of(process)
        with pytest.raises(LoginError, match="Another process is writing") as caught:
            save(store, Login("new"))
        assert "Look for a dbos-mcp that hangs" in caught.value.hint
        assert store.load() == ALICE  # reading waits for nobody
        process.kill()
        process.wait()
        save(store, Login("new"))
    assert store.load() == Login("new")


# Folders that cannot be written


@pytest.mark.parametrize("obstacle", ["home", "home/credentials.lock/x"])
def test_what_stands_in_the_way_of_a_save_is_told(path: Path, obstacle: str) -> None:
    blocked = path.parent.parent / obstacle
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("")
    with pytest.raises(LoginError, match=f"cannot be written to {path.parent}: ") as caught:
        save(CredentialStore(path), ALICE)
    assert "DBOS_TOKEN" in caught.value.hint
    assert "token-1" not in str(caught.value)


@pytest.fixture
def forbidden(path: Path) -> Iterator[Path]:
    """A login in a folder of which nothing is allowed to this process."""
    save(CredentialStore(path), ALICE)
    folder, user = path.parent.parent, os.geteuid()
    folder.chmod(0)
    if user == 0:
        os.seteuid(65534)  # root is allowed everything
    yield path
    os.seteuid(user)
    folder.chmod(0o700)


def test_a_folder_without_permission_is_told(forbidden: Path) -> None:
    with pytest.raises(LoginError, match=r"cannot be written .* Permission denied"):
        save(CredentialStore(forbidden), Login("new"))
    with pytest.raises(AuthenticationError, match=r"cannot be read: Permission denied"):
        CredentialStore(forbidden).load()
