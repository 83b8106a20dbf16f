"""A login of many processes: renewed by one of them, used by all, lost by none."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from starlette.responses import JSONResponse

from dbos_mcp.conductor.credentials import CredentialStore, Login
from dbos_mcp.conductor.identity import LoginIdentity
from dbos_mcp.conductor.oauth import IssuerClient
from dbos_mcp.errors import AuthenticationError
from tests.loopback import served
from tests.oauth_server import CLIENT_ID, TOKEN, Hold, OAuthServer
from tests.secured_conductor import Identity, SecuredConductor

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
PROCESSES = 10
ROUNDS = int(os.environ.get("FUZZ_EXAMPLES", "3"))


@dataclass
class Place:
    """An issuer, a Conductor that trusts it, and the file that the processes share."""

    issuer: OAuthServer
    conductor: SecuredConductor
    url: str
    path: Path

    def log_in(self) -> Login:
        """One whose access token has ended."""
        issued = self.issuer.issue()
        login = Login(
            token=issued.access_token,
            refresh_token=issued.refresh_token,
            user_name="alice",
            organization="acme",
            url=self.url,
            issuer=self.issuer.url,
        )
        anyio.run(CredentialStore(self.path).save, login)
        self.issuer.clock.now += issued.expires_in
        self.issuer.requests.clear()
        self.conductor.requests.clear()
        return login

    def kept(self) -> Login:
        login = CredentialStore(self.path).load()
        assert login is not None
        return login


@pytest.fixture
def place(oauth_server: OAuthServer, tmp_path: Path) -> Iterator[Place]:
    conductor = SecuredConductor(JSONResponse([]), oauth_server.verify)
    conductor.users["alice"] = Identity("acme")
    with served(conductor) as url:
        yield Place(oauth_server, conductor, url, tmp_path / "home" / "credentials")


class Process:
    def __init__(self, popen: "subprocess.Popen[str]") -> None:
        self.popen = popen

    def tell(self, line: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()

    def hear(self) -> str:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().removesuffix("\n")


Start = Callable[..., list[Process]]


@pytest.fixture
def start(place: Place) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(count: int, *, locked: bool = True) -> list[Process]:
            command = [sys.executable, "-m", "tests.conductor.one_login", place.url]
            command += [place.issuer.url, CLIENT_ID, str(place.path)]
            started = []
            for _ in range(count):
                popen = subprocess.Popen(
                    [*command, "locked" if locked else "unlocked"],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                stack.enter_context(popen)
                stack.callback(popen.kill)
                started.append(Process(popen))
            for process in started:
                assert process.hear() == "ready"
            return started

        yield start


def test_of_ten_processes_one_renews_the_login_that_all_go_on_with(
    place: Place, start: Start
) -> None:
    processes = start(PROCESSES)
    for _ in range(ROUNDS):
        before = place.log_in()
        for process in processes:
            process.tell(str(place.issuer.clock()))
        answers = [process.hear() for process in processes]
        kept = place.kept()
        assert kept.token != before.token
        assert answers == [kept.token] * PROCESSES
        (asked,) = place.issuer.refreshes()
        assert asked.form["refresh_token"] == before.refresh_token
        assert [(seen.token, seen.status) for seen in place.conductor.requests] == [
            (kept.token, 200)
        ] * PROCESSES
        assert place.issuer.families_revoked == 0


def test_without_the_lock_they_lose_it(place: Place, start: Start) -> None:
    place.log_in()
    holds = [Hold(), Hold()]
    place.issuer.faults[TOKEN].extend(holds)
    processes = start(2, locked=False)
    for process in processes:
        process.tell(str(place.issuer.clock()))
    assert all(hold.arrived.wait(30) for hold in holds)
    for hold in holds:
        hold.release.set()
    assert "AuthenticationError" in [process.hear() for process in processes]
    assert place.issuer.families_revoked == 1


async def test_one_that_is_killed_at_the_issuer_holds_up_nobody_and_a_new_login_is_asked_for(
    place: Place, start: Start
) -> None:
    before = await anyio.to_thread.run_sync(place.log_in)
    hold = Hold()
    place.issuer.faults[TOKEN].append(hold)
    (killed,) = await anyio.to_thread.run_sync(start, 1)
    killed.tell(str(place.issuer.clock()))
    assert await anyio.to_thread.run_sync(hold.arrived.wait, 30)
    killed.popen.kill()
    killed.popen.wait()
    hold.release.set()
    identity = LoginIdentity(
        CredentialStore(place.path),
        url=place.url,
        issuer=IssuerClient(place.issuer.as_issuer()),
        how_to_log_in="Log in.",
        clock=place.issuer.clock,
    )
    # What the issuer gave was never told to anybody: the old token is all there is.
    with pytest.raises(AuthenticationError, match="ended at") as caught:
        await identity.fresh()
    assert caught.value.hint == "Log in."
    assert place.kept() == replace(before, refresh_token=None)
