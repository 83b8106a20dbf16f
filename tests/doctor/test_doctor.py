"""`dbos-mcp doctor` as it is typed: what it prints, and that it prints no secret."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dbos_mcp.doctor.checks import CHECKS
from dbos_mcp.store.migrate import HEAD
from tests.command_line import Done, run
from tests.doctor.conftest import Place, token
from tests.doctor.test_account import keep
from tests.doctor.test_cache import state_of
from tests.loopback import open_listener, url_of

TERMINAL = {"TTY_COMPATIBLE": "1", "NO_COLOR": "1", "TERM": "xterm"}
HEALTHY = """\
Target
  ok    conductor    self-hosted Conductor, URL (by DBOS_URL)
  ok    settings     DBOS_URL, DBOS_ORG, DBOS_TOKEN and DBOS_MCP_CACHE are set
  ok    extras       local, patterns installed; no setting wants another
Network
  ok    name         127.0.0.1 is an address
  ok    connection   plain HTTP to HOST answers after N ms
  ok    conductor    it speaks API v2
Account
  ok    login        a token of acme (DBOS_TOKEN), until TIME; it is not renewed
  ok    file         there is no ~/.dbos-mcp/credentials
  ok    accepted     Conductor takes these credentials
  ok    organization acme (plan team)
  ok    permissions  the role role_of_tests may read and command
Conductor
  ok    applications 1 of 2 connected
  ok                 mail: not connected (unavailable)
  ok                 shop: 1 executor, 1 gone or going
  ok    clock        as Conductor's, to a few seconds
Cache
  ok    file         CACHE, SIZE
  ok    disk         SIZE are free in FOLDER
  ok    schema       HEAD, as of this version
  ok    integrity    not looked through yet: the first server does, and `doctor --deep`
Sync
  ok    process      none: a server, or `dbos-mcp sync`, syncs while it runs
  ok    mirror       nothing is mirrored yet: the first sync begins with the newest
  skip  coverage     nothing is mirrored yet
Program
"""


def settings_of(place: Place, **more: str) -> dict[str, str]:
    url = place.settings.url or ""
    return {"DBOS_URL": url, "DBOS_ORG": "acme", "DBOS_TOKEN": token("alice"), **more}


def told(done: Done) -> dict[str, Any]:
    assert "Traceback" not in done.stderr
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def test_a_healthy_target_from_top_to_bottom(place: Place, cache_path: Path) -> None:
    done = run(place.settings.home, "doctor", **settings_of(place, DBOS_MCP_CACHE=str(cache_path)))
    assert (done.returncode, done.stderr) == (0, "")
    shown, _, program = done.stdout.partition("Program\n")
    url = place.settings.url or ""
    for text, name in (
        (url, "URL"),
        (url.removeprefix("http://"), "HOST"),
        (str(cache_path), "CACHE"),
        (str(cache_path.parent), "FOLDER"),
        (f"schema       {HEAD}", "schema       HEAD"),
    ):
        shown = shown.replace(text, name)
    shown = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "TIME", shown)
    shown = re.sub(r"after \d+ ms", "after N ms", shown)
    shown = re.sub(r"[\d.]+ [KMG]B", "SIZE", shown)
    assert f"{shown}Program\n" == HEALTHY
    assert program.endswith("All is well.\n")
    assert "\x1b" not in done.stdout


def test_the_answer_for_programs_has_a_shape_that_stays(place: Place, cache_path: Path) -> None:
    done = run(
        place.settings.home, "--cache", str(cache_path), "doctor", "--json", **settings_of(place)
    )
    answer = told(done)
    assert set(answer) == {"overall", "exit_code", "versions", "checks"}
    assert (answer["overall"], answer["exit_code"], done.returncode) == ("ok", 0, 0)
    assert set(answer["versions"]) == {"dbos_mcp", "python", "sqlite"}
    for check in answer["checks"]:
        assert set(check) == {"id", "profile", "status", "message", "next_step", "facts"}
        assert check["status"] in ("ok", "warn", "fail", "skip")
    ids = list(dict.fromkeys(check["id"] for check in answer["checks"]))
    assert ids == [check.id for check in CHECKS]


def test_each_group_is_together_and_each_check_is_listed_once() -> None:
    groups = [check.group for check in CHECKS]
    assert sorted(set(groups), key=groups.index) == list(dict.fromkeys(groups))
    assert len({check.id for check in CHECKS}) == len(CHECKS)
    runs = [group for i, group in enumerate(groups) if i == 0 or groups[i - 1] != group]
    assert len(runs) == len(set(groups))


@pytest.mark.parametrize("columns", [50, 80, 120])
def test_lines_fit_the_terminal(place: Place, columns: int) -> None:
    home = place.settings.home
    for more in ({}, {"DBOS_TOKEN": "dbos_bad"}, {"DBOS_URL": "http://127.0.0.1:1"}):
        variables = {**settings_of(place, **TERMINAL, COLUMNS=str(columns)), **more}
        done = run(home, "doctor", **variables)
        lines = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout).splitlines()
        assert max(map(len, lines)) <= columns
        assert len(lines) > 20


def test_it_writes_nothing_at_all(place: Place) -> None:
    home = place.settings.home
    before = state_of(home)
    login = {"DBOS_URL": place.settings.url or "", "DBOS_MCP_ISSUER": "http://127.0.0.1:1"}
    for variables in (settings_of(place), {**login, "DBOS_MCP_CLIENT_ID": "c"}, {}):
        run(home, "doctor", "--deep", **variables)
        assert state_of(home) == before
    keep(place.settings, 0o644, token=token("alice", -60), refreshToken="r")
    before = state_of(home)
    run(home, "doctor", **login, DBOS_MCP_CLIENT_ID="c")
    assert state_of(home) == before


CANARY = "canary_77aa"


def test_it_never_prints_a_secret(place: Place, tmp_path: Path) -> None:
    """Wherever one may be."""
    home = place.settings.home
    url = (place.settings.url or "").replace("//", f"//user:{CANARY}@")
    folder = home / ".config" / "dbos"
    folder.mkdir(parents=True)
    profile = f"{{url: '{url}', auth: bearer}}"
    (folder / "config.yaml").write_text(f"profiles:\n  prod: {profile}\n  odd: [{CANARY}]\n")
    login = {"token": f"{CANARY}.login", "refreshToken": f"{CANARY}-refresh"}
    (folder / "credentials.json").write_text(json.dumps({"prod": login}))
    keep(place.settings, token=f"a.{CANARY}.b", refreshToken=CANARY)
    patterns = tmp_path / "patterns"
    patterns.write_text(f"kind = ((({CANARY}\n")
    database = f"postgresql://u:{CANARY}@127.0.0.1:1/x?password={CANARY}"
    proxy = f"http://u:{CANARY}@127.0.0.1:1"
    for variables in (
        {"DBOS_URL": url},
        {"DBOS_URL": url, "DBOS_TOKEN": CANARY, "DBOS_ORG": "acme"},
        {"DBOS_URL": url, "DBOS_TOKEN": f"dbos_{CANARY}"},
        {"DBOS_URL": url, "DBOS_TOKEN": f"dbos_{CANARY} \n", "DBOS_ORG": "acme"},
        {"DBOS_URL": "https://c.invalid", "HTTPS_PROXY": proxy, "DBOS_TOKEN": CANARY},
        {"DBOS_URL": f"ftp://u:{CANARY}@host"},
        {"DBOS_SYSTEM_DATABASE_URL": database},
        {"DBOS_PROFILE": "prod"},
        {"DBOS_PROFILE": "odd"},
        {"DBOS_URL": url, "DBOS_MCP_ISSUER": f"https://u:{CANARY}@i.test"}
        | {"DBOS_MCP_CLIENT_ID": "c"},
        {"DBOS_URL": place.settings.url or "", "DBOS_MCP_ISSUER": "http://127.0.0.1:1"}
        | {"DBOS_MCP_CLIENT_ID": "c", "DBOS_MCP_LOG_LEVEL": "debug"},
    ):
        done = run(home, "doctor", "--json", **variables)  # all that is shown, and more
        assert done.returncode in (0, 1, 3), done.stderr
        assert CANARY not in done.stdout + done.stderr, variables
        assert "Traceback" not in done.stderr


def test_settings_that_cannot_be_used_are_a_line(tmp_path: Path) -> None:
    done = run(tmp_path, "doctor", DBOS_MCP_READONLY="yes")
    assert done.returncode == 1
    assert "fail  settings     DBOS_MCP_READONLY is not a setting" in done.stdout
    assert "Program\n" in done.stdout
    answer = told(run(tmp_path, "doctor", "--json", DBOS_MCP_HISTORY="x"))
    assert next(check["id"] for check in answer["checks"]) == "target.settings"


def test_a_login_is_all_that_is_missing(place: Place) -> None:
    done = run(
        place.settings.home,
        "doctor",
        DBOS_URL=place.settings.url or "",
        DBOS_MCP_ISSUER="http://127.0.0.1:1",
        DBOS_MCP_CLIENT_ID="c",
    )
    assert done.returncode == 3
    assert done.stdout.endswith("1 failure. A login is all that is missing.\n")
    assert "skip  accepted, organization, permissions: nobody is logged in\n" in done.stdout


def test_several_profiles_are_told_one_after_the_other(place: Place) -> None:
    home = place.settings.home
    folder = home / ".config" / "dbos"
    folder.mkdir(parents=True)
    with open_listener() as listener:
        away = url_of(listener)
    here = f"  here: {{url: '{place.settings.url}', auth: none, org: acme}}\n"
    there = f"  there: {{url: '{away}', auth: none, org: acme}}\n"
    (folder / "config.yaml").write_text(f"current: here\nprofiles:\n{here}{there}")
    done = run(home, "--profile", "all", "doctor")
    assert done.returncode == 1
    first, second = done.stdout.split("Profile there\n")
    assert first.startswith("Profile here\n")
    assert "nothing listens" in second
    assert "nothing listens" not in first
    assert done.stdout.count("Program\n") == 1
    answer = told(run(home, "--profile", "here", "--profile", "there", "doctor", "--json"))
    assert {check["profile"] for check in answer["checks"]} == {"here", "there", None}


def test_offline_sends_nothing_and_says_so(place: Place) -> None:
    for arguments in (["--offline", "doctor"], ["doctor", "--offline"]):
        done = run(place.settings.home, *arguments, **settings_of(place))
        assert "--offline: nothing is sent" in done.stdout
    assert place.conductor.requests == []


def test_names_that_mean_harm_are_written_out(place: Place) -> None:
    place.applications[:] = [{"id": "1", "name": "sh\x1b[31mop\u202e\n[bold]", "status": "\x9b1m"}]
    for arguments in ([], ["--json"]):
        done = run(place.settings.home, "doctor", *arguments, **settings_of(place))
        assert not set("\x1b\u202e\x9b") & set(done.stdout)
        assert "[bold]" in done.stdout


def test_it_has_an_end_where_nobody_answers(tmp_path: Path) -> None:
    with open_listener() as listener:
        done = run(tmp_path, "doctor", DBOS_URL=url_of(listener))
    assert done.returncode == 1
    assert "gives no answer within 5 s" in done.stdout


def test_a_home_that_is_not_there(tmp_path: Path) -> None:
    done = run(tmp_path / "none", "doctor", DBOS_URL="http://127.0.0.1:1")
    assert done.returncode == 1
    assert "is not there yet" in done.stdout
    assert not (tmp_path / "none").exists()
