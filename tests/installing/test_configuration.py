"""A client's file: replaced at once, or left as it is."""

import stat
from pathlib import Path

import pytest

from benchmarks.reliability.file_faults import limited_size
from dbos_mcp.errors import InstallError
from dbos_mcp.installing.configuration import BACKUPS, opened, read


def test_what_another_program_has_written_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text("{}")
    with opened(path, tmp_path / "home") as configuration:
        path.write_text('{"theirs": 1}')
        with pytest.raises(InstallError, match="Another program changed"):
            configuration.replace('{"ours": 1}')
    assert path.read_text() == '{"theirs": 1}'


def test_on_a_full_disk_nothing_is_lost_and_nothing_stays(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text("{}")
    configuration = read(path)
    (tmp_path / "x-wal").write_bytes(b"." * 1000)
    with (
        limited_size(tmp_path / "x"),
        pytest.raises(InstallError, match="cannot be written") as raised,
    ):
        configuration.replace(f'"{"x" * 10_000}"')
    assert raised.value.hint == "It was left as it is."
    assert path.read_text() == "{}"
    names = {each.name for each in tmp_path.iterdir() if "backup" not in each.name}
    assert names == {"mcp.json", "x-wal"}


def test_the_newest_copies_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a[b]*.json"
    other = tmp_path / "ab.json.backup-20260101T000000.000000Z"
    other.touch()
    for number in range(BACKUPS + 3):
        read(path).replace(str(number))
    kept = sorted(tmp_path.glob("a[[]b*.backup-*"))
    assert [each.read_text() for each in kept] == ["2", "3", "4"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert other.exists()


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InstallError, match="folder cannot be read"):
        read(tmp_path / "folder")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InstallError, match="loop cannot be read"):
        read(tmp_path / "loop")
    with (
        pytest.raises(InstallError, match="cannot be written"),
        opened(tmp_path / "x", tmp_path / "loop"),
    ):
        pass
