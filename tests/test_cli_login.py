"""Logging in, out, and asking who one is, as a person does on the command line."""

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml
from starlette.responses import Response

from dbos_mcp.conductor.credentials import CredentialStore, Login
from dbos_mcp.local_conductor.app import create_app
from dbos_mcp.local_conductor.system_database import SystemDatabase
from dbos_mcp.runtime import login_store
from dbos_mcp.settings import Settings
from tests import command_line
from tests.command_line import Done, command, environment
from tests.loopback import served
from tests.oauth_server import AUDIENCE, CLIENT_ID, TOKEN, OAuthServer
from tests.secured_conductor import READ, WRITE, Identity, SecuredConductor

ENDED = 1_700_000_000
CODE = "WDJB-0001"


@dataclass
class Site:
    """A self-hosted Conductor with logins, its issuer, and somebody's home."""

    oauth: OAuthServer
    conductor: SecuredConductor
    url: str
    home: Path
    said: list[str] = field(default_factory=list)
    """All that the commands have written."""

    @property
    def environ(self) -> dict[str, str]:
        return {
            "DBOS_URL": self.url,
            "DBOS_MCP_ISSUER": self.oauth.url,
            "DBOS_MCP_CLIENT_ID": CLIENT_ID,
            "DBOS_MCP_AUDIENCE": AUDIENCE,
        }

    @property
    def unset(self) -> dict[str, str]:
        """In place of it, for profiles."""
        return dict.fromkeys(self.environ, "")

    def run(self, *arguments: str, **variables: str) -> Done:
        done = command_line.run(self.home, *arguments, **{**self.environ, **variables})
        self.said += [done.stdout, done.stderr]
        assert "Traceback" not in done.stderr
        return done

    @contextmanager
    def started(self, *arguments: str, **variables: str) -> Iterator["subprocess.Popen[str]"]:
        """A command that waits for somebody; it is at its end when this is left."""
        with subprocess.Popen(
            command(*arguments),
            env=environment(self.home, **{**self.environ, **variables}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
                process.wait(timeout=60)
            finally:
                process.kill()

    def login(self, **changes: Any) -> Login:
        """What a login that is over has left in the home."""
        issued = self.oauth.issue()
        login = Login(
            token=issued.access_token,
            user_name="alice",
            organization="acme",
            refresh_token=issued.refresh_token,
            expires_at=int(self.oauth.clock()) + issued.expires_in,
            url=self.url,
            issuer=self.oauth.url,
        )
        login = replace(login, **changes)
        store = login_store(Settings(home=self.home, url=login.url))
        anyio.run(store.save, login)
        return login

    def stored(self, name: str | None = None) -> Login | None:
        return CredentialStore(self.home / ".dbos-mcp" / "credentials", name or self.url).load()

    def write_profiles(self, **profiles: dict[str, Any]) -> Path:
        folder = self.home / ".config" / "dbos"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump({"profiles": profiles}))
        return folder

    def profile(self, **more: Any) -> dict[str, Any]:
        """This Conductor, as dbosctl's profiles say it."""
        oidc = {"issuer": self.oauth.url, "clientID": CLIENT_ID, "audience": AUDIENCE}
        return {"auth": "bearer", "url": self.url, "oidc": oidc, **more}

    def secrets(self) -> set[str]:
        """Every token and device code that went through anybody's hands."""
        names = ("device_code", "refresh_token", "token")
        found = {asked.form.get(name) for asked in self.oauth.requests for name in names}
        found |= {asked.token for asked in self.conductor.requests}
        with suppress(FileNotFoundError):
            kept = json.loads((self.home / ".dbos-mcp" / "credentials").read_text())
            for login in kept.get("logins", {}).values():
                found |= {login.get("token"), login.get("refreshToken")}
        return {secret for secret in found if secret}


@pytest.fixture
def site(oauth_server: OAuthServer, shop_database: Path, tmp_path: Path) -> Iterator[Site]:
    """After the test, all that was written is searched for secrets."""
    oauth_server.interval = 0  # its clock stands still, and no poll shall be too early
    database = SystemDatabase(f"sqlite:///{shop_database}")
    conductor = SecuredConductor(create_app(database), oauth_server.verify)
    conductor.users["alice"] = Identity("acme")
    home = tmp_path / "home"
    home.mkdir()
    with closing(database), served(conductor) as url:
        site = Site(oauth_server, conductor, url, home)
        yield site
    for text in site.said:
        assert not [secret for secret in site.secrets() if secret in text]


def lines_until(process: "subprocess.Popen[str]", sought: str) -> list[str]:
    """What it writes to stdout, up to a line that holds something."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if sought in line:
            return lines
    pytest.fail(f"{sought!r} did not come: {lines} {process.stderr and process.stderr.read()}")


def rest_of(site: Site, process: "subprocess.Popen[str]", *read: str) -> tuple[str, str]:
    stdout, stderr = process.communicate(timeout=60)
    site.said += [*read, stdout, stderr]
    assert "Traceback" not in stderr
    return stdout, stderr


def test_a_login_shows_the_code_and_waits_for_the_approval_through_failures(site: Site) -> None:
    site.oauth.faults[TOKEN].append(Response(status_code=503))
    with site.started("login") as process:
        first, url, code, host, until = shown = lines_until(process, "valid until")
        assert first == "Open this address in a browser, and check that it shows the same code:"
        assert url == f"url: {site.oauth.url}activate?user_code={CODE}"
        assert (host, code) == ("host: 127.0.0.1", f"code: {CODE}")
        assert re.fullmatch(r"valid until: \d{4}-\S+Z \(0:1[45]:\d\d\)", until)
        assert process.stderr is not None
        waiting, failing = process.stderr.readline(), process.stderr.readline()
        assert waiting.startswith("Waiting for the approval, 0:1")
        assert failing.startswith("Warning: The login server 127.0.0.1 did not answer: 503 ")
        site.oauth.approve(CODE)
        done, problems = rest_of(site, process, *shown, waiting, failing)
    assert process.returncode == 0
    assert done == "Logged in as alice of acme.\nThe login is renewed by itself.\n"
    assert problems == ""
    kept = site.stored()
    assert kept is not None
    assert (kept.organization, kept.refresh_token is None) == ("acme", False)
    assert (site.home / ".dbos-mcp" / "credentials").stat().st_mode & 0o777 == 0o600


@pytest.mark.e2e
def test_on_a_terminal_the_code_stands_out_and_a_browser_is_opened_on_demand(
    site: Site, tmp_path: Path
) -> None:
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o700)
    site.oauth.offline_access = False
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command("login", "--browser"),
        env=environment(
            site.home, TERM="xterm", COLUMNS="200", BROWSER=f"{browser} %s", **site.environ
        ),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        shown = ""
        try:
            while not re.search(r"⠋|⠙|⠹|⠸|⠼|⠴|⠦|⠧", shown) or "left" not in shown:
                shown += os.read(ours, 4096).decode(errors="replace")
            site.oauth.approve(CODE)
            with suppress(OSError):  # EIO: the other end is closed
                while more := os.read(ours, 4096):
                    shown += more.decode(errors="replace")
            process.wait(timeout=60)
        finally:
            process.kill()
            os.close(ours)
    site.said.append(shown)
    assert process.returncode == 0
    url = f"{site.oauth.url}activate?user_code={CODE}"
    assert re.search(rf"\x1b]8;id=\d+;{re.escape(url)}\x1b\\{re.escape(url)}\x1b]8;;", shown)
    assert re.search(rf"│ +\x1b\[1m{CODE}\x1b\[0m +│", shown)
    assert "Logged in as alice of acme." in shown
    assert re.search(r"The login is good until 2\d{3}-\S+Z\.", shown)
    assert opened.read_text() == f"{url}\n"


def test_without_being_told_to_no_browser_is_opened_and_ctrl_c_gives_the_login_up(
    site: Site, tmp_path: Path
) -> None:
    opened = tmp_path / "opened"
    with site.started("login", BROWSER=f"touch {opened} %s") as process:
        shown = lines_until(process, "valid until")
        process.send_signal(signal.SIGINT)
        done, said = rest_of(site, process, *shown)
    assert process.returncode == 130
    assert (done, said.splitlines()[-1]) == ("", "The login was given up.")
    assert site.stored() is None
    assert not opened.exists()


@pytest.mark.parametrize(
    ("what_happens", "message"),
    [
        ("deny", "The login was denied in the browser."),
        ("expire", "The code of this login has expired."),
    ],
)
def test_a_login_that_comes_to_nothing_is_exit_code_3(
    site: Site, what_happens: str, message: str
) -> None:
    with site.started("login") as process:
        shown = lines_until(process, "valid until")
        getattr(site.oauth, what_happens)(CODE)
        done, said = rest_of(site, process, *shown)
    assert (process.returncode, done) == (3, "")
    assert f"\nError: {message}\nLog in again.\n" in said
    assert site.stored() is None


@pytest.mark.parametrize(
    ("answer", "variables", "message"),
    [
        ({}, {"DBOS_MCP_CLIENT_ID": "somebody"}, "Check DBOS_MCP_CLIENT_ID"),
        ({}, {"DBOS_MCP_AUDIENCE": "something"}, "Check DBOS_MCP_AUDIENCE"),
        ({"verification_uri": "http://login.example/activate"}, {}, "would leave https"),
        ({"verification_uri_complete": "file:///etc/passwd"}, {}, "would leave https"),
    ],
)
def test_a_login_that_does_not_begin_shows_no_address_and_opens_none(
    site: Site, tmp_path: Path, answer: dict[str, str], variables: dict[str, str], message: str
) -> None:
    site.oauth.device_answer = answer
    opened = tmp_path / "opened"
    done = site.run("login", "--browser", BROWSER=f"touch {opened} %s", **variables)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("Error: ")
    assert message in done.stderr
    assert not opened.exists()


@pytest.mark.parametrize("name", ["login", "logout"])
@pytest.mark.parametrize(
    ("options", "variables", "reason"),
    [
        ([], {"DBOS_TOKEN": "canary"}, "DBOS_TOKEN is set"),
        ([], {"DBOS_MCP_ISSUER": ""}, "this Conductor is used without a login"),
        (["--offline"], {}, "--offline"),
    ],
)
def test_where_there_is_no_login_wanting_one_is_wrong_usage(
    site: Site, name: str, options: list[str], variables: dict[str, str], reason: str
) -> None:
    done = site.run(*options, name, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: There is nothing to log in to: ")
    assert reason in done.stderr
    assert "canary" not in done.stderr
    assert site.oauth.requests == []


def test_a_user_who_is_not_registered_is_logged_in_and_known_once_registered(site: Site) -> None:
    del site.conductor.users["alice"]
    with site.started("login") as process:
        shown = lines_until(process, "valid until")
        site.oauth.approve(CODE)
        done, said = rest_of(site, process, *shown)
    assert process.returncode == 0
    assert done.startswith("Logged in as a user.\n")
    assert "Warning: Conductor does not know this user yet" in said
    assert "Then `dbos-mcp whoami` asks again." in said
    unknown = site.run("whoami")
    assert unknown.returncode == 0
    assert "Warning: Conductor does not know this user yet" in unknown.stderr
    assert "a user of an unknown organization" in unknown.stdout

    site.conductor.users["alice"] = Identity("acme")
    assert "user: alice\n" in site.run("whoami").stdout
    kept = site.stored()
    assert kept is not None
    assert (kept.user_name, kept.organization) == ("alice", "acme")


def test_after_a_logout_the_mirror_is_still_read_and_says_that_it_grows_old(site: Site) -> None:
    login = site.login()
    assert site.run("sync").returncode == 0
    (cache,) = (site.home / ".dbos-mcp").glob("*.sqlite")

    done = site.run("logout")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "Logged out alice of acme.",
        "The login server has ended the login, too.",
        f"The mirror stays, and can still be read: {cache}",
    ]
    kept = site.stored()
    assert kept is not None
    assert (kept.token, kept.refresh_token, kept.organization) == (None, None, "acme")
    assert login.token is not None
    with pytest.raises(Exception, match="revoked"):
        site.oauth.verify(login.token)

    for reading in ("status", "rebuild"):
        told = site.run(reading)
        assert told.returncode == 0
        assert "shop" in told.stdout or "equal to the live ones" in told.stdout
        assert told.stderr.startswith("Warning: The mirror is not kept up to date. Nobody is log")
        assert "Run `dbos-mcp login`" in told.stderr
    assert json.loads(site.run("status", "--json").stdout)["cache"] == str(cache)

    before = len(site.conductor.requests)
    synced = site.run("sync")
    assert synced.returncode == 3
    assert synced.stderr.startswith("Error: Nobody is logged in to Conductor at 127.0.0.1")
    assert len(site.conductor.requests) == before

    again = site.run("logout")
    assert (again.returncode, again.stdout) == (0, f"Nobody is logged in to {site.url}.\n")


@pytest.mark.parametrize(
    ("expires_at", "told"),
    [(1_900_000_000, "2030-03-17T17:46:40Z"), (10**15, "a time that no calendar has")],
)
def test_a_logout_says_when_the_login_server_has_not_ended_it(
    site: Site, expires_at: int, told: str
) -> None:
    del site.oauth.discovery["revocation_endpoint"]
    site.login(expires_at=expires_at)
    done = site.run("logout")
    assert done.returncode == 0
    assert f"not ended the login: its token ends at {told}.\n" in done.stdout


def test_who_one_is_comes_from_conductor_with_what_one_may(site: Site) -> None:
    site.login(expires_at=1_900_000_000)
    done = site.run("whoami")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"conductor: {site.url}",
        "organization: acme",
        "user: alice",
        "email: alice@example.test",
        "role: role_of_tests",
        "permissions: application.read, application.write",
        "plan: team",
        "authentication: alice of acme, renewed by itself",
        "ends at: 2030-03-17T17:46:40Z",
    ]

    site.conductor.users["alice"] = Identity("acme", frozenset({READ, "token.read"}))
    site.conductor.past_limit = True
    told = site.run("whoami", "--json", DBOS_ORG="globex")
    assert told.returncode == 0
    account = json.loads(told.stdout)
    assert account["permissions"] == [READ, "token.read"]
    assert (account["checked"], account["error"], account["profile"]) == (True, None, None)
    other, limit, lacking = account["warnings"]
    assert "names globex, but the user is of acme" in other
    assert "past the limit of its plan" in limit
    assert f"lacks {WRITE}: cancel, resume and fork will be refused" in lacking
    assert told.stderr.splitlines() == [f"Warning: {each}" for each in account["warnings"]]


@pytest.mark.parametrize("name", ["whoami", "sync"])
def test_without_a_login_that_is_accepted_a_command_is_exit_code_3(site: Site, name: str) -> None:
    def refused(reason: str, next_step: str) -> None:
        done = site.run(name)
        assert done.returncode == 3
        assert reason in done.stderr
        assert next_step in done.stderr
        assert "alice" not in done.stdout

    refused("Error: Nobody is logged in to Conductor at 127.0.0.1", "Run `dbos-mcp login`")
    site.login(expires_at=ENDED, refresh_token=None)
    refused("Error: The login of alice ended at 2023-11-14T22:13:20Z.", "Run `dbos-mcp login`")
    assert site.conductor.requests == []
    login = site.login(refresh_token=None)
    site.oauth.revoke(str(login.token))
    refused("does not accept the credentials", "Run `dbos-mcp login`")
    assert {asked.status for asked in site.conductor.requests} == {401}


def test_while_conductor_is_away_what_is_known_here_is_told_with_exit_code_1(site: Site) -> None:
    away = "http://127.0.0.1:9"
    site.login(url=away)
    done = site.run("whoami", DBOS_URL=away)
    assert done.returncode == 1
    assert "authentication: alice of acme, renewed by itself\n" in done.stdout
    assert done.stderr.startswith("Error: Conductor at 127.0.0.1:9 cannot be reached")
    told = site.run("whoami", "--json", DBOS_URL=away)
    assert told.returncode == 1
    account = json.loads(told.stdout)
    assert (account["checked"], account["organization"], account["user"]) == (False, "acme", None)
    assert account["error"] in done.stderr.replace("\n", " ").removeprefix("Error: ")

    offline = site.run("--offline", "whoami", "--json", DBOS_URL=away)
    assert (offline.returncode, offline.stderr) == (0, "")
    assert json.loads(offline.stdout) == {**account, "error": None}


def test_an_api_key_has_no_user_and_conductor_says_whether_it_is_accepted(site: Site) -> None:
    site.conductor.keys["dbos_canary"] = Identity("acme")
    done = site.run("whoami", DBOS_TOKEN="dbos_canary", DBOS_ORG="acme")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == [
        "organization: acme",
        "authentication: an API key of acme",
    ]
    site.conductor.keys["dbos_canary"] = Identity("acme", frozenset({WRITE}))
    lacking = site.run("whoami", DBOS_TOKEN="dbos_canary", DBOS_ORG="acme")
    assert lacking.returncode == 1
    assert f"The API key lacks {READ}" in lacking.stderr
    unknown = site.run("whoami", DBOS_TOKEN="dbos_canary-2", DBOS_ORG="acme")
    assert unknown.returncode == 3
    nameless = site.run("whoami", DBOS_TOKEN="dbos_canary")
    assert (nameless.returncode, "Set DBOS_ORG" in nameless.stderr) == (2, True)
    assert not any("canary" in text for text in site.said)


def test_a_token_tells_whose_it_is_without_its_organization(site: Site) -> None:
    token = site.oauth.issue().access_token
    done = site.run("whoami", DBOS_TOKEN=token)
    assert done.returncode == 0
    assert "organization: acme\n" in done.stdout
    assert "authentication: a token of acme, until 2" in done.stdout


def test_the_profile_of_the_command_wins_over_the_others(site: Site) -> None:
    site.write_profiles(prod=site.profile(url="http://127.0.0.1:9"), staging=site.profile())
    with site.started(
        "--profile", "prod", "login", "--profile", "staging", DBOS_PROFILE="no-such", **site.unset
    ) as process:
        shown = lines_until(process, "valid until")
        site.oauth.approve(CODE)
        done, _ = rest_of(site, process, *shown)
    assert done.startswith("Logged in as alice of acme.\n")
    assert site.stored("staging") is not None
    assert site.stored("prod") is None

    known = site.run("--profile", "staging", "whoami", DBOS_PROFILE="prod", **site.unset)
    assert known.stdout.startswith(f"profile: staging\nconductor: {site.url}\n")
    assert site.run("--profile", "staging", "sync", **site.unset).returncode == 0
    nobody = site.run("whoami", DBOS_PROFILE="prod", **site.unset)
    assert nobody.returncode == 3
    assert "Run `dbos-mcp login --profile prod`" in nobody.stderr


def test_a_command_is_for_one_profile_and_names_the_nearest_to_a_misspelt_one(site: Site) -> None:
    site.write_profiles(prod=site.profile(), staging=site.profile())
    for arguments in (
        ["--profile", "prod", "--profile", "staging", "status"],
        ["--profile", "all", "sync"],
        ["login", "--profile", "all"],
    ):
        done = site.run(*arguments, **site.unset)
        assert (done.returncode, done.stdout) == (2, "")
        assert "for one profile at a time" in done.stderr
        assert "`dbos-mcp --profile prod …`: one of prod, staging." in done.stderr
    for arguments in (["--profile", "stagign", "status"], ["whoami", "--profile", "stagign"]):
        done = site.run(*arguments, **site.unset)
        assert (done.returncode, done.stdout) == (2, "")
        assert "Did you mean staging?" in done.stderr
    assert site.oauth.requests == []


def test_dbosctls_own_login_is_used_and_left_as_it_is(site: Site) -> None:
    folder = site.write_profiles(prod=site.profile())
    issued = site.oauth.issue()
    theirs = {"token": issued.access_token, "userName": "alice", "organization": "acme"}
    file = folder / "credentials.json"
    file.write_text(json.dumps({"prod": {**theirs, "refreshToken": issued.refresh_token}}))
    before = file.read_bytes()
    assert site.run("--profile", "prod", "sync", **site.unset).returncode == 0
    done = site.run("logout", "--profile", "prod", **site.unset)
    assert done.stdout.startswith(
        "Logged out alice of acme.\n"
        "That login was made elsewhere: there it stays, and is not used here any more.\n"
        "The mirror stays, and can still be read: "
    )
    assert site.run("whoami", "--profile", "prod", **site.unset).returncode == 3
    assert file.read_bytes() == before
    assert site.oauth.verify(issued.access_token)["sub"] == "alice"
    assert site.oauth.requests == []


def test_what_servers_say_cannot_steer_the_terminal(site: Site) -> None:
    hostile = "[red]al\x1b[31mice\u202e"
    site.conductor.users[hostile] = Identity("[bold]acme\x1b]8;;")
    site.oauth.device_answer = {"user_code": "[b]W\x1b[2JD", "verification_uri_complete": None}
    with site.started("login") as process:
        shown = lines_until(process, "valid until")
        site.oauth.approve(CODE, hostile)
        done, _ = rest_of(site, process, *shown)
    assert "code: [b]W [2JD" in shown
    assert done.startswith("Logged in as [red]al\\x1b[31mice\\u202e of [bold]acme\\x1b]8;;.\n")
    told = site.run("whoami")
    assert "user: [red]al\\x1b[31mice\\u202e\n" in told.stdout
    out = site.run("logout")
    assert out.stdout.startswith("Logged out [red]al\\x1b[31mice\\u202e of [bold]acme")
    assert not any("\x1b" in text or "\u202e" in text for text in site.said)
