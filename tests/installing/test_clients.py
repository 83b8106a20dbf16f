"""Where each client keeps its configuration, on each platform."""

from pathlib import Path

import pytest

from dbos_mcp.installing.clients import CLIENTS, Place

HOME = Path("/home/ann")
BY_NAME = {client.name: client for client in CLIENTS}
MAC, ROAMING = "Library/Application Support", "AppData/Roaming"


@pytest.mark.parametrize(
    ("name", "linux", "darwin", "win32"),
    [
        ("claude-code", ".claude.json", ".claude.json", ".claude.json"),
        (
            "claude-desktop",
            ".config/Claude/claude_desktop_config.json",
            f"{MAC}/Claude/claude_desktop_config.json",
            f"{ROAMING}/Claude/claude_desktop_config.json",
        ),
        ("cursor", ".cursor/mcp.json", ".cursor/mcp.json", ".cursor/mcp.json"),
        (
            "vscode",
            ".config/Code/User/mcp.json",
            f"{MAC}/Code/User/mcp.json",
            f"{ROAMING}/Code/User/mcp.json",
        ),
        ("windsurf", *[".codeium/windsurf/mcp_config.json"] * 3),
        ("codex", *[".codex/config.toml"] * 3),
    ],
)
def test_the_file_of_a_client(name: str, linux: str, darwin: str, win32: str) -> None:
    for platform, path in {"linux": linux, "darwin": darwin, "win32": win32}.items():
        assert BY_NAME[name].path(Place({}, HOME, platform)) == HOME / path


@pytest.mark.parametrize(
    ("name", "variable", "platform", "path"),
    [
        ("claude-code", "CLAUDE_CONFIG_DIR", "linux", "/x/.claude.json"),
        ("codex", "CODEX_HOME", "darwin", "/x/config.toml"),
        ("vscode", "XDG_CONFIG_HOME", "linux", "/x/Code/User/mcp.json"),
        ("claude-desktop", "APPDATA", "win32", "/x/Claude/claude_desktop_config.json"),
    ],
)
def test_a_variable_says_where_else(name: str, variable: str, platform: str, path: str) -> None:
    assert BY_NAME[name].path(Place({variable: "/x"}, HOME, platform)) == Path(path)
    relative = BY_NAME[name].path(Place({variable: "x"}, HOME, platform))
    assert relative.is_relative_to(HOME)


def test_on_windows_a_packaged_claude_desktop_has_its_own_folder(tmp_path: Path) -> None:
    folder = "Packages/Claude_pzs8sxrjxfjjc/LocalCache/Roaming/Claude"
    place = Place({"LOCALAPPDATA": str(tmp_path)}, HOME, "win32")
    client = BY_NAME["claude-desktop"]
    assert client.path(place).is_relative_to(HOME)
    assert not client.is_installed(place)
    (tmp_path / folder).mkdir(parents=True)
    assert client.path(place).parent == tmp_path / folder
    assert client.is_installed(place)


def test_an_editor_that_is_not_the_usual_one_is_found(tmp_path: Path) -> None:
    (tmp_path / ".config" / "VSCodium" / "User").mkdir(parents=True)
    place = Place({}, tmp_path, "linux")
    assert BY_NAME["vscode"].path(place) == tmp_path / ".config/VSCodium/User/mcp.json"
    assert BY_NAME["vscode"].is_installed(place)
