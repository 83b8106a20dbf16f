"""What is published: all that the program needs, and nothing besides."""

import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath

from tests.packaging.built import ROOT, VERSION, build

INFO = f"dbos_mcp-{VERSION}.dist-info"


def files_of(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def files_below(folder: str) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }


def metadata_of(wheel: Path) -> Message:
    return Parser().parsestr(files_of(wheel)[f"{INFO}/METADATA"].decode())


def test_the_wheel_is_the_package_with_its_migrations(wheel: Path) -> None:
    names = set(files_of(wheel))
    migrations = {f"dbos_mcp/_{name}" for name in files_below("migrations")}
    assert {f"dbos_mcp/_migrations/{name}" for name in ("env.py", "script.py.mako")} <= migrations
    parts = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    info = {f"{INFO}/{part}" for part in parts}
    assert names == files_below("dbos_mcp") | migrations | info


def test_no_file_in_it_is_of_a_kind_that_the_program_does_not_read(wheel: Path) -> None:
    ours = [name for name in files_of(wheel) if not name.startswith(INFO)]
    kinds = {PurePosixPath(name).suffix or PurePosixPath(name).name for name in ours}
    assert kinds == {".py", ".mako", ".html", ".css", ".md", ".typed"}
    assert "dbos_mcp/py.typed" in ours


def test_the_sdist_has_what_the_wheel_is_built_from_and_nothing_else(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {name.split("/")[0] for name in names} == {
        "dbos_mcp", "migrations", "alembic.ini", "README.md", "CHANGELOG.md", "LICENSE",
        "pyproject.toml", "PKG-INFO", ".gitignore",
    }  # fmt: skip
    assert files_below("dbos_mcp") | files_below("migrations") <= names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".sqlite")]


def test_the_wheel_of_the_sdist_is_that_of_the_tree(
    wheel: Path, sdist: Path, tmp_path: Path
) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert files_of(build("wheel", source, tmp_path)) == files_of(wheel)


def test_uvx_finds_the_program_by_the_name_of_the_package(wheel: Path) -> None:
    entry_points = files_of(wheel)[f"{INFO}/entry_points.txt"].decode()
    assert entry_points.split() == ["[console_scripts]", "dbos-mcp", "=", "dbos_mcp.cli:main"]
    assert metadata_of(wheel)["Name"] == "dbos-mcp"


def test_its_metadata_tell_the_license_the_pythons_and_the_extras(wheel: Path) -> None:
    told = metadata_of(wheel)
    assert told["Version"] == VERSION
    assert (told["License-Expression"], told["License-File"]) == ("MIT", "LICENSE")
    assert told["Requires-Python"] == ">=3.11"
    assert told.get_all("Provides-Extra") == ["inspect", "local", "patterns"]
    assert told.get_payload() == (ROOT / "README.md").read_text()
