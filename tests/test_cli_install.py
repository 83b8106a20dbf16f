"""`dbos-mcp install`: what comes to be in the configuration of other programs."""

import json
import logging
import os
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client as McpClient
from mcp import StdioServerParameters

from dbos_mcp import cli
from dbos_mcp.installing import jsonc
from dbos_mcp.installing.clients import CLIENTS, Client
from tests.command_line import Done, command, environment

Run = Callable[..., Done]

TOKEN = "dbos_canary-of-a-token"
PATH = "/usr/bin:/bin"
FILES = {
    "claude-code": ".claude.json",
    "claude-desktop": ".config/Claude/claude_desktop_config.json",
    "cursor": ".cursor/mcp.json",
    "vscode": ".config/Code/User/mcp.json",
    "windsurf": ".codeium/windsurf/mcp_config.json",
    "codex": ".codex/config.toml",
}
OTHERS = {
    "json": '{\n\t"theme": "dark",\n\t"KEY": {\n\t\t"b": {"url": "x"},\n\t\t"a": {}\n\t}\n}\n',
    "jsonc": '// mine\n{\n  "KEY": {\n    "a": {"url": "y"}, // why\n  },\n  "last": [1, 2,],\n}\n',
    "toml": '# mine\nmodel = "x" # why\n\n[mcp_servers.a]\nurl = "y"\n\n# last\n[last]\nn = 1\n',
}
each_client = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the paths are those of Linux"
)


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """`dbos-mcp …` in this process, in a home where no client is; none is on the PATH, and uv did
    not start it."""
    handlers, level = logging.root.handlers[:], logging.root.level

    def run(*arguments: str, **variables: str) -> Done:
        with monkeypatch.context() as place:
            for name in os.environ:
                place.delenv(name)
            for name, value in {"HOME": str(tmp_path), "PATH": PATH, **variables}.items():
                place.setenv(name, value)
            place.setattr(sys, "argv", ["dbos-mcp", *arguments])
            with pytest.raises(SystemExit) as ended:
                cli.main()
        shown = capsys.readouterr()
        return Done(arguments, int(ended.value.code or 0), shown.out, shown.err)

    yield run
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def file_of(client: Client, home: Path) -> Path:
    """Its configuration, in the folder that says that it is installed."""
    path = home / FILES[client.name]
    path.parent.mkdir(parents=True, exist_ok=True)
    if client.name == "claude-code":
        (home / ".claude").mkdir(exist_ok=True)
    return path


def others_of(client: Client) -> str:
    kind = "toml" if client.is_toml else "json" if client.is_strict else "jsonc"
    return OTHERS[kind].replace("KEY", client.key)


def values_in(client: Client, text: str) -> dict[str, Any]:
    text = text.removeprefix("\ufeff")
    found = tomllib.loads(text) if client.is_toml else jsonc.get(text, ())
    assert isinstance(found, dict)
    return found


def servers_in(client: Client, path: Path) -> dict[str, Any]:
    found = values_in(client, path.read_text(encoding="utf-8"))[client.key]
    assert isinstance(found, dict)
    return found


def backups_of(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.backup-*"))


@each_client
@pytest.mark.parametrize("content", [None, "", "\n"], ids=["absent", "empty", "blank"])
def test_a_file_is_made_once(client: Client, content: str | None, run: Run, tmp_path: Path) -> None:
    path = file_of(client, tmp_path)
    if content is not None:
        path.write_text(content)
    done = run("install", client.name, "--read-only")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{client.title} has it now, as dbos in {path}." in done.stdout
    assert client.next_step in done.stdout
    server = servers_in(client, path)["dbos"]
    assert server["args"][-1] == "--read-only"
    assert Path(server["command"]).is_absolute()
    assert server.get("type") == ("stdio" if client.is_typed else None)
    if content is None:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    again = run("install", client.name, "--read-only")
    assert (again.returncode, again.stderr) == (0, "")
    assert "nothing was changed" in again.stdout
    assert path.read_bytes() == before
    assert len(backups_of(path)) == (content is not None)


@each_client
@pytest.mark.parametrize("style", ["plain", "CRLF", "BOM"])
def test_what_else_is_in_the_file_stays(
    client: Client, style: str, run: Run, tmp_path: Path
) -> None:
    path = file_of(client, tmp_path)
    text = others_of(client)
    before = {"plain": text, "CRLF": text.replace("\n", "\r\n"), "BOM": f"\ufeff{text}"}[style]
    path.write_bytes(before.encode())
    path.chmod(0o640)
    done = run("install", client.name)
    assert (done.returncode, done.stderr) == (0, "")
    after = path.read_bytes().decode()
    characters = iter(after)
    assert all(each in characters for each in before)
    assert after.startswith("\ufeff") == (style == "BOM")
    assert after.count("\n") == (after.count("\r\n") if style == "CRLF" else after.count("\n"))
    values = values_in(client, after)
    del values[client.key]["dbos"]
    assert values == values_in(client, before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    (backup,) = backups_of(path)
    assert backup.read_bytes() == before.encode()
    assert stat.S_IMODE(backup.stat().st_mode) == 0o640
    assert str(backup) in done.stdout

    removed = run("install", client.name, "--remove")
    assert (removed.returncode, removed.stderr) == (0, "")
    assert values_in(client, path.read_bytes().decode()) == values_in(client, before)
    assert "There is no server dbos" in run("install", client.name, "--remove").stdout


@each_client
@pytest.mark.parametrize("content", [b'{\n  "a": \n[mcp', b"a = 1\n\xff\xfe"])
def test_a_file_that_cannot_be_read_is_left_as_it_is(
    client: Client, content: bytes, run: Run, tmp_path: Path
) -> None:
    path = file_of(client, tmp_path)
    path.write_bytes(content)
    done = run("install", client.name)
    assert done.returncode == 1
    assert f"Error: {path} cannot be used: line " in done.stderr
    assert "left as it is" in done.stderr
    assert "Traceback" not in done.stderr
    assert values_in(client, done.stdout)[client.key]["dbos"]["command"]
    assert path.read_bytes() == content
    assert backups_of(path) == []


@pytest.mark.parametrize(
    "client", [each for each in CLIENTS if each.is_strict], ids=lambda each: each.name
)
def test_what_the_client_itself_cannot_read_is_told(
    client: Client, run: Run, tmp_path: Path
) -> None:
    path = file_of(client, tmp_path)
    path.write_text('{\n  "mcpServers": {}, // none\n}')
    done = run("install", client.name)
    assert done.returncode == 1
    assert "line 2, column 21" in done.stderr
    assert f"{client.title} reads no comments" in done.stderr
    assert backups_of(path) == []


@each_client
def test_another_server_of_that_name_stays_unless_it_is_to_be_replaced(
    client: Client, run: Run, tmp_path: Path
) -> None:
    path = file_of(client, tmp_path)
    other = {"command": "/old", "args": ["-x"], "env": {"MY_KEY": TOKEN}, "timeout": 9}
    if client.is_toml:
        server = f'command = "/old"\nargs = ["-x"]\ntimeout = 9\nenv = {{ MY_KEY = "{TOKEN}" }}\n'
        path.write_text(f"[mcp_servers.dbos]\n{server}")
    else:
        path.write_text(json.dumps({client.key: {"dbos": other}}, indent=4))
    before = path.read_bytes()
    done = run("install", client.name)
    assert done.returncode == 2
    assert f"There is another server dbos in {path}; it was left as it is." in done.stderr
    assert '"command": "/old"' in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert path.read_bytes() == before

    beside = run("install", client.name, "--name", "dbos-2")
    assert beside.returncode == 0
    servers = servers_in(client, path)
    assert servers["dbos"] == other
    replaced = run("install", client.name, "--force")
    assert replaced.returncode == 0
    assert servers_in(client, path)["dbos"] == {**servers["dbos-2"], "timeout": 9}
    assert "nothing was changed" in run("install", client.name).stdout


@each_client
def test_a_link_stays_one_and_what_it_leads_to_is_changed(
    client: Client, run: Run, tmp_path: Path
) -> None:
    path = file_of(client, tmp_path)
    real = tmp_path / "dotfiles" / "a file"
    real.parent.mkdir()
    real.write_text(others_of(client))
    path.symlink_to(real)
    assert run("install", client.name).returncode == 0
    assert path.readlink() == real
    assert "dbos" in servers_in(client, real)
    assert len(backups_of(real)) == 1
    assert backups_of(path) == []


@each_client
def test_a_file_that_is_read_only_is_left_as_it_is(
    client: Client, run: Run, tmp_path: Path
) -> None:
    path = file_of(client, tmp_path)
    path.write_text(others_of(client))
    path.chmod(0o444)
    done = run("install", client.name)
    assert done.returncode == 1
    assert f"Error: {path} cannot be written: it is read-only." in done.stderr
    assert path.read_text() == others_of(client)
    assert backups_of(path) == []


@each_client
def test_a_client_that_is_not_there_is_told(client: Client, run: Run, tmp_path: Path) -> None:
    done = run("install", client.name)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{client.title} was not found on this machine" in done.stderr
    assert not (tmp_path / FILES[client.name]).exists()
    assert run("install", client.name, "--force").returncode == 0
    assert "dbos" in servers_in(client, tmp_path / FILES[client.name])


@each_client
def test_printing_writes_nothing(client: Client, run: Run, tmp_path: Path) -> None:
    done = run("--toolsets", "core", "install", client.name, "--print", "--name", "d")
    assert done.returncode == 0
    assert values_in(client, done.stdout)[client.key]["d"]["args"][-2:] == ["--toolsets", "core"]
    assert done.stderr == f"This belongs into {tmp_path / FILES[client.name]}.\n"
    assert list(tmp_path.iterdir()) == []


@each_client
def test_no_secret_is_written_unless_that_is_asked_for(
    client: Client, run: Run, tmp_path: Path
) -> None:
    path = file_of(client, tmp_path)
    url = "https://user:canary-of-a-password@conductor.example.com"
    variables = {"DBOS_TOKEN": TOKEN, "DBOS_ORG": "acme", "DBOS_URL": url}
    done = run("install", client.name, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert "DBOS_URL, DBOS_TOKEN is not in it" in done.stdout
    for text in (done.stdout, path.read_text()):
        assert "canary" not in text
    server = servers_in(client, path)["dbos"]
    assert server["env"]["DBOS_ORG"] == "acme"
    told = {
        "claude-code": "${DBOS_TOKEN:-}",
        "cursor": "${env:DBOS_TOKEN}",
        "windsurf": "${env:DBOS_TOKEN}",
        "vscode": "${input:dbos-token}",
    }
    assert server["env"].get("DBOS_TOKEN") == told.get(client.name)
    if client.asks:
        inputs = values_in(client, path.read_text())["inputs"]
        assert [(each["id"], each["password"]) for each in inputs] == [
            ("dbos-url", True),
            ("dbos-token", True),
        ]
    if client.is_toml:
        assert server["env_vars"] == ["DBOS_URL", "DBOS_TOKEN"]
    asked = run("install", client.name, "--force", "--with-secrets", **variables)
    assert asked.returncode == 0
    assert f"DBOS_URL, DBOS_TOKEN can be read in {path}" in asked.stderr
    assert "canary" not in asked.stdout + asked.stderr
    assert servers_in(client, path)["dbos"]["env"]["DBOS_TOKEN"] == TOKEN


def test_another_name_for_the_same_program_is_told_with_the_way_out(
    run: Run, tmp_path: Path
) -> None:
    path = file_of(CLIENTS[2], tmp_path)
    old = {"command": "uvx", "args": ["dbos-mcp@0.8.0", f"--api-key={TOKEN}"]}
    path.write_text(json.dumps({"mcpServers": {"conductor": old, "x": {"command": "dbos"}}}))
    done = run("install", "cursor")
    assert done.returncode == 0
    assert "The server conductor in it starts a dbos-mcp as well (uvx dbos-mcp@0.8.0" in done.stderr
    assert "install cursor --remove --name conductor" in done.stderr
    assert "The server x " not in done.stderr
    assert TOKEN not in done.stderr
    assert run("install", "cursor", "--remove", "--name", "conductor").returncode == 0
    assert servers_in(CLIENTS[2], path).keys() == {"dbos", "x"}


def test_options_profiles_and_settings_come_along_with_paths_that_hold_anywhere(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".config" / "dbos"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("profiles: {prod: {auth: none, url: 'http://a'}, b: {}}")
    monkeypatch.chdir(tmp_path)
    options = ["--cache", "c.sqlite", "--log-level", "info", "install", "cursor", "--print"]
    done = run(*options, "--profile", "prod", "--profile", "b", DBOS_PROFILE="b")
    assert done.returncode == 2  # one file for two
    done = run(
        *options,
        *("--profile", "prod"),
        DBOS_PROFILE="b",
        DBOS_MCP_HISTORY="7d",
        DBOS_MCP_HTTP_AUDIENCE="x",
        SSL_CERT_FILE="ca.pem",
        https_proxy="http://proxy:3128",
    )
    server = json.loads(done.stdout)["mcpServers"]["dbos"]
    cache = str(tmp_path / "c.sqlite")
    assert server["args"] == ["--profile", "prod", "--cache", cache, "--log-level", "info"]
    assert server["env"] == {
        "DBOS_MCP_HISTORY": "7d",
        "SSL_CERT_FILE": str(tmp_path / "ca.pem"),
        "https_proxy": "http://proxy:3128",
    }
    local = run("install", "cursor", "--print", DBOS_SYSTEM_DATABASE_URL="sqlite:///shop.sqlite")
    url = json.loads(local.stdout)["mcpServers"]["dbos"]["env"]["DBOS_SYSTEM_DATABASE_URL"]
    assert url == f"sqlite:///{tmp_path}/shop.sqlite"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--read-only", "install", "cursor", "--profile", "none"], "There is no profile none"),
        (["install", "cursor", "--name", "a b"], "A server's name has"),
        (["install", "windsurf", "--project"], "has no configuration of a project"),
        (["install", "cursor", "--project", "--with-secrets"], "no secret is written into it"),
        (["install", "service"], "`dbos-mcp install service systemd --print` prints it"),
        (["--offline", "install", "service", "--print"], "do not go together"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], said: str, run: Run) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_projects_file_is_that_of_the_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for client in CLIENTS:
        if client.project_file is not None:
            done = run("install", client.name, "--project")
            assert (done.returncode, done.stderr) == (0, "")
            assert "for others" in done.stdout
            assert "dbos" in servers_in(client, tmp_path / client.project_file)


@pytest.mark.e2e
def test_of_those_who_write_at_once_each_is_heard(tmp_path: Path) -> None:
    path = file_of(CLIENTS[2], tmp_path)
    path.write_text("{}")
    names = ["a", "b", "c"]
    started = [
        subprocess.Popen(
            command("install", "cursor", "--name", name),
            env=environment(tmp_path),
            stdout=subprocess.DEVNULL,
        )
        for name in names
    ]
    assert [process.wait(timeout=60) for process in started] == [0, 0, 0]
    assert sorted(servers_in(CLIENTS[2], path)) == names


@pytest.mark.e2e
async def test_what_is_written_starts_the_server_from_anywhere(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file_of(CLIENTS[2], tmp_path)
    assert run("install", "cursor", "--read-only", DBOS_URL="http://127.0.0.1:9").returncode == 0
    server = servers_in(CLIENTS[2], path)["dbos"]
    variables = {"HOME": str(tmp_path), "PATH": PATH, **server["env"]}
    monkeypatch.chdir("/")
    parameters = StdioServerParameters(
        command=server["command"], args=server["args"], env=variables, cwd="/"
    )
    async with McpClient(parameters) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
    assert "list_workflows" in names
    assert "cancel_workflow" not in names
