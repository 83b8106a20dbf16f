"""The credentials file: who can read it, and what is left when something goes wrong."""

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from dbos_mcp.conductor.credentials import CredentialStore, Login
from dbos_mcp.errors import AuthenticationError, LoginError

ALICE = Login("token-1", "alice", "acme", "refresh-1", 1_790_000_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "credentials"


@pytest.fixture
def open_umask() -> Iterator[None]:
    previous = os.umask(0)
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


@pytest.mark.usefixtures("open_umask")
def test_only_the_owner_can_read_it_under_any_umask(path: Path) -> None:
    save(CredentialStore(path), ALICE)
    assert (mode(path.parent), mode(path)) == (0o700, 0o600)


@pytest.mark.usefixtures("open_umask")
def test_a_file_and_folder_that_others_could_read_are_narrowed(path: Path) -> None:
    path.parent.mkdir(mode=0o777)
    path.write_text("{}")
    path.chmod(0o666)
    save(CredentialStore(path), ALICE)
    assert (mode(path.parent), mode(path)) == (0o700, 0o600)


def test_a_reader_never_sees_half_a_file(path: Path) -> None:
    store = CredentialStore(path)
    long, short = Login("x" * 100_000, "acme"), Login("y", "acme")
    save(store, long)
    done = threading.Event()

    def keep_writing() -> None:
        for _ in range(100):
            save(store, short)
            save(store, long)
        done.set()

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        while not done.is_set():
            assert store.load() in (long, short)
    finally:
        writer.join()
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


def test_a_file_that_cannot_be_read_is_not_taken_for_no_login(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(AuthenticationError, match="cannot be read"):
        CredentialStore(path).load()


def test_credentials_do_not_show_their_tokens() -> None:
    assert "token-1" not in repr(ALICE)
    assert "refresh-1" not in repr(ALICE)
