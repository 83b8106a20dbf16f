"""dbosctl's logins: what is read of them, what is left alone, and what is never shown."""

import json
import traceback
from pathlib import Path

import pytest

from dbos_mcp.conductor.dbosctl import DbosctlLogin, load_dbosctl_login
from dbos_mcp.errors import AuthenticationError

ALICE = {
    "token": "canary-token",
    "refreshToken": "canary-refresh",
    "userName": "alice",
    "organization": "acme",
    "expiresAt": 1_790_000_000,
}


def write(folder: Path, content: object) -> Path:
    path = folder / "credentials.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def test_the_login_of_a_profile_is_read(tmp_path: Path) -> None:
    write(tmp_path, {"managed": ALICE, "other": {"token": "t"}})
    login = load_dbosctl_login(tmp_path, "managed")
    assert login == DbosctlLogin("canary-token", "alice", "acme", 1_790_000_000)
    assert load_dbosctl_login(tmp_path, "other") == DbosctlLogin("t")


@pytest.mark.parametrize("content", [{}, None, {"other": ALICE}, {"managed": None}])
def test_a_profile_without_a_login_has_none(tmp_path: Path, content: object) -> None:
    assert load_dbosctl_login(tmp_path, "managed") is None
    write(tmp_path, content)
    assert load_dbosctl_login(tmp_path, "managed") is None


def test_what_is_blank_or_zero_is_absent_and_keys_new_to_us_are_ignored(tmp_path: Path) -> None:
    entry = {"token": "t", "userName": "", "organization": "", "expiresAt": 0, "new": [1]}
    write(tmp_path, {"managed": entry})
    assert load_dbosctl_login(tmp_path, "managed") == DbosctlLogin("t")


def test_no_token_is_shown_and_the_refresh_token_is_not_even_kept(tmp_path: Path) -> None:
    write(tmp_path, {"managed": ALICE})
    login = load_dbosctl_login(tmp_path, "managed")
    assert "canary" not in repr(login)
    assert "canary-refresh" not in str(vars(login))


DAMAGED = {
    "empty": b"",
    "half": b'{"managed": {"token": "canary',
    "a list": [ALICE],
    "not a login": {"managed": "canary"},
    "no token": {"managed": {"refreshToken": "canary"}},
    "an empty token": {"managed": ALICE | {"token": ""}},
    "a token of two lines": {"managed": ALICE | {"token": "canary\r\nX-Other: canary"}},
    "a token that no header holds": {"managed": ALICE | {"token": "canary\u00e9"}},
    "half a character": b'{"managed": {"token": "canary\\ud800"}}',
    "wrong types": {"managed": ALICE | {"userName": ["canary"]}},
    "an expiry of no number": {"managed": ALICE | {"expiresAt": "canary"}},
    "not text": b'{"managed": {"token": "canary\xff"}}',
    "deep": b'{"managed": ' + b"[" * 100_000,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_said_so_without_a_word_of_it_and_left_as_it_is(
    tmp_path: Path, content: object
) -> None:
    path = write(tmp_path, content)
    path.chmod(0o644)
    before = path.read_bytes()
    with pytest.raises(AuthenticationError, match="damaged") as caught:
        load_dbosctl_login(tmp_path, "managed")
    error = caught.value
    assert str(path) in error.message
    assert "dbosctl login" in error.hint
    assert error.__cause__ is error.__context__ is None
    assert "canary" not in "".join(traceback.format_exception(error))
    assert list(tmp_path.iterdir()) == [path]
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (before, 0o644)


def test_another_profiles_damage_does_not_matter(tmp_path: Path) -> None:
    write(tmp_path, {"managed": ALICE, "sso": {"token": 7}})
    login = load_dbosctl_login(tmp_path, "managed")
    assert login is not None
    assert login.user_name == "alice"


def test_a_file_that_cannot_be_read_is_not_taken_for_no_login(tmp_path: Path) -> None:
    (tmp_path / "credentials.json").mkdir()
    with pytest.raises(AuthenticationError, match="cannot be read") as caught:
        load_dbosctl_login(tmp_path, "managed")
    assert "dbosctl login" in caught.value.hint
