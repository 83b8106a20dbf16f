"""Tokens: shown once, known by their hash, revoked at once."""

import json
import stat
import threading
from pathlib import Path

import pytest

from dbos_mcp.domain import Rights
from dbos_mcp.errors import NotFoundError, StoreError, UsageError
from dbos_mcp.serving.tokens import USED_AGAIN_MS, TokenFile
from tests.command_line import run

HOUR_MS = 3_600_000


class Clock:
    now = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "tokens.json"


@pytest.fixture
def tokens(path: Path, clock: Clock) -> TokenFile:
    return TokenFile(path, clock)


def test_a_token_is_known_and_not_kept(tokens: TokenFile, path: Path) -> None:
    secret, token = tokens.create("ci", Rights.FULL)
    assert tokens.verify(secret) == token
    secret_part = secret.rpartition(token.id)[2]
    assert secret_part not in path.read_text()
    assert secret_part not in repr(token)
    assert token.sha256 not in repr(token)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_nothing_else_is_taken_for_it(tokens: TokenFile) -> None:
    secret, token = tokens.create("ci", Rights.FULL)
    other, _ = tokens.create("other", Rights.READ)
    swapped = f"dbosmcp_{token.id}_{other.rpartition('_')[2]}"
    for wrong in (swapped, secret[:-1], secret + "A", secret.upper(), f" {secret}", "", "é" * 70):
        assert tokens.verify(wrong) is None


def test_another_process_hears_of_a_change_at_once(tokens: TokenFile, path: Path) -> None:
    running = TokenFile(path)
    assert not running.any_good()
    secret, token = tokens.create("ci", Rights.READ)
    assert running.verify(secret) == token
    assert running.is_good(token.id)
    tokens.revoke(token.id)
    assert running.verify(secret) is None
    assert not running.is_good(token.id)


def test_a_token_ends_when_it_was_to(tokens: TokenFile, clock: Clock) -> None:
    secret, token = tokens.create("ci", Rights.READ, lasts_ms=HOUR_MS)
    clock.now += HOUR_MS - 1
    assert tokens.verify(secret) == token
    assert tokens.any_good()
    clock.now += 1
    assert tokens.verify(secret) is None
    assert not tokens.is_good(token.id)
    assert not tokens.any_good()


def test_the_last_use_is_written_down_now_and_then(tokens: TokenFile, clock: Clock) -> None:
    secret, token = tokens.create("ci", Rights.READ)
    assert tokens.wants_note(token)
    tokens.note_use(token)
    used = tokens.verify(secret)
    assert used is not None
    assert used.last_used_at == clock.now
    clock.now += USED_AGAIN_MS - 1
    assert not tokens.wants_note(used)
    clock.now += 1
    assert tokens.wants_note(used)


def test_a_use_that_is_written_late_does_not_bring_a_revoked_token_back(tokens: TokenFile) -> None:
    secret, token = tokens.create("ci", Rights.READ)
    tokens.revoke("ci")
    tokens.note_use(token)
    assert tokens.verify(secret) is None


@pytest.mark.parametrize("name", ["", "a b", "-x", "a\n", "x" * 65, "é", "dbos/mcp"])
def test_a_name_is_plain(tokens: TokenFile, name: str) -> None:
    with pytest.raises(UsageError, match="cannot have this name"):
        tokens.create(name, Rights.READ)


def test_a_name_is_of_one_token(tokens: TokenFile) -> None:
    tokens.create("ci", Rights.READ)
    with pytest.raises(UsageError, match="There is a token ci already"):
        tokens.create("ci", Rights.READ)
    with pytest.raises(NotFoundError):
        tokens.revoke("nobody")


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 2}', b'{"tokens": [{"id": "x"}]}'])
def test_a_damaged_file_lets_nobody_in_and_is_not_written_over(
    tokens: TokenFile, path: Path, content: bytes
) -> None:
    secret, _ = tokens.create("ci", Rights.READ)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="cannot be read: it is damaged"):
        tokens.verify(secret)
    with pytest.raises(StoreError, match="it is damaged"):
        tokens.create("another", Rights.READ)
    assert path.read_bytes() == content


def test_those_that_are_made_at_once_are_all_kept(path: Path) -> None:
    makers = [
        threading.Thread(target=TokenFile(path).create, args=(f"token-{n}", Rights.READ))
        for n in range(8)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert {token.name for token in TokenFile(path).tokens()} == {f"token-{n}" for n in range(8)}


def test_the_command_line_makes_lists_and_revokes_them(tmp_path: Path) -> None:
    made = run(tmp_path, "token", "create", "alice", "--full", "--expires", "30d")
    secret = made.stdout.strip()
    assert made.returncode == 0
    assert "may ask and command until 20" in made.stderr
    assert secret not in made.stderr
    token = TokenFile(tmp_path / ".dbos-mcp" / "tokens.json").verify(secret)
    assert token is not None
    assert token.expires_at == token.created_at + 30 * 24 * HOUR_MS
    listed = run(tmp_path, "token", "list")
    (row,) = json.loads(run(tmp_path, "token", "list", "--json").stdout)
    assert f"{token.id} | alice | full" in listed.stdout
    assert "sha256" not in row
    assert secret.rpartition("_")[2] not in listed.stdout
    assert run(tmp_path, "token", "revoke", "alice").stdout == f"Revoked alice ({token.id}).\n"
    assert "There are none" in run(tmp_path, "token", "list").stdout
    wrong = run(tmp_path, "token", "create", "bob", "--expires", "soon")
    assert (wrong.returncode, "12h, 30d or 8w" in wrong.stderr) == (2, True)
