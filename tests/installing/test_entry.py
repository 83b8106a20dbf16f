"""The command that starts the program as it runs now."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dbos_mcp import __version__
from dbos_mcp.errors import InstallError
from dbos_mcp.installing import entry
from dbos_mcp.installing.entry import entry_of, is_secret

UV = {"UV": "/opt/uv/bin/uv"}
CACHED = "/home/ann/.cache/uv/archive-v0/9myH5XYK"
LOCAL = {"DBOS_SYSTEM_DATABASE_URL": "sqlite:////shop.sqlite"}


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Says from where it was installed, and into what."""

    def place(source: Mapping[str, Any], prefix: str) -> None:
        monkeypatch.setattr(entry, "_source", lambda: source)
        monkeypatch.setattr(sys, "prefix", prefix)
        monkeypatch.setattr(sys, "executable", f"{prefix}/bin/python")

    return place


@pytest.mark.parametrize(
    ("source", "requirement"),
    [
        ({}, f"dbos-mcp[local]>={__version__}"),
        (
            {"url": "https://example.com/r.git", "vcs_info": {"vcs": "git", "commit_id": "ab1"}},
            "dbos-mcp[local] @ git+https://example.com/r.git@ab1",
        ),
        (
            {"url": "file:///a%20b/x.whl", "archive_info": {}},
            "dbos-mcp[local] @ file:///a%20b/x.whl",
        ),
    ],
)
def test_what_uvx_started_it_starts_again_in_the_same_version_at_least(
    placed: Any, source: Mapping[str, Any], requirement: str
) -> None:
    placed(source, CACHED)
    made = entry_of({**UV, **LOCAL, "UV_INDEX": "https://pypi.example.com"}, flags={})
    assert made.program == ("/opt/uv/bin/uvx", "--from", requirement, "dbos-mcp")
    assert made.variables["UV_INDEX"] == "https://pypi.example.com"
    assert made.through_uv


def test_a_checkout_that_uv_runs_is_run_by_uv(placed: Any, tmp_path: Path) -> None:
    source = {"url": tmp_path.as_uri(), "dir_info": {"editable": True}}
    placed(source, str(tmp_path / ".venv"))
    run = ("/opt/uv/bin/uv", "run", "--directory", str(tmp_path))
    under_uv = {**UV, "UV_RUN_RECURSION_DEPTH": "1"}
    assert entry_of(under_uv, flags={}).program == (*run, "dbos-mcp")
    assert entry_of({**under_uv, **LOCAL}, flags={}).program == (
        *run,
        *("--extra", "local", "dbos-mcp"),
    )


def test_what_is_installed_is_started_by_its_own_script(placed: Any, tmp_path: Path) -> None:
    placed({}, str(tmp_path))
    python, script = tmp_path / "bin" / "python", tmp_path / "bin" / "dbos-mcp"
    assert entry_of({}, flags={}).program == (str(python), "-m", "dbos_mcp")
    script.parent.mkdir()
    script.touch()
    made = entry_of({**UV, "UV_INDEX": "x"}, flags={})
    assert made.program == (str(script),)
    assert "UV_INDEX" not in made.variables


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("DBOS_TOKEN", "x", True),
        ("DBOS_SYSTEM_DATABASE_URL", "postgresql://u:p@h/d", True),
        ("DBOS_SYSTEM_DATABASE_URL", "postgresql://h/d?user=u&password=hunter22", True),
        ("DBOS_SYSTEM_DATABASE_URL", "postgresql://u@h/d", False),
        ("DBOS_SYSTEM_DATABASE_URL", "sqlite:////a b/c.sqlite", False),
        ("HTTPS_PROXY", "http://u:p@proxy:3128", True),
        ("HTTPS_PROXY", "http://proxy:3128", False),
        ("DBOS_URL", "http://[", True),
        ("DBOS_MCP_CLIENT_ID", "6p7Sjxf13cyLMkdwn14MxlH7JdhILled", False),
    ],
)
def test_what_is_secret(name: str, value: str, secret: bool) -> None:
    assert is_secret(name, value) is secret


def test_a_path_that_the_encoding_of_the_machine_does_not_have_is_in_utf_8() -> None:
    as_read = "/home/Größe/x.sqlite".encode().decode("ascii", "surrogateescape")
    made = entry_of({"DBOS_MCP_CACHE": as_read}, flags={"redact_patterns": Path(as_read)})
    assert made.variables["DBOS_MCP_CACHE"] == "/home/Größe/x.sqlite"
    assert made.options == ("--redact-patterns", "/home/Größe/x.sqlite")


def test_what_is_in_no_utf_8_is_named_and_not_told() -> None:
    with pytest.raises(InstallError, match=r"^DBOS_TOKEN is not in UTF-8") as failed:
        entry_of({"DBOS_TOKEN": "ann\udce9"}, flags={})
    assert "ann" not in str(failed.value)
