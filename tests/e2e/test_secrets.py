"""Whole sessions of the real server and command line, in front of an issuer and a Conductor that
repeat what they were told: no token of them is found in any answer, log or file but the one that
keeps logins, and nobody else on the machine can read a file of them."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from dbos_mcp.conductor.credentials import CredentialStore, Login
from dbos_mcp.local_conductor.app import create_app
from dbos_mcp.local_conductor.system_database import SystemDatabase
from tests import command_line
from tests.loopback import served
from tests.oauth_server import AUDIENCE, CLIENT_ID, TOKEN, Drop, OAuthServer
from tests.secured_conductor import READ, Identity, SecuredConductor
from tests.server.conftest import ToolFailedError, asking

pytestmark = pytest.mark.e2e

KEY = "dbos_acme_canary-key-5f0c7c1d9b"

Say = Callable[..., Awaitable[str]]
Answer = Callable[[str], Response]


class Parrot:
    """In front of a Conductor: while it has an `answer`, that is what every request gets, made of
    what the request carried."""

    def __init__(self, conductor: SecuredConductor) -> None:
        self.conductor = conductor
        self.answer: Answer | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        authorization = Headers(scope=scope).get("authorization", "")
        if self.answer is not None and authorization:
            await self.answer(authorization)(scope, receive, send)
        else:
            await self.conductor(scope, receive, send)


def problem(status: int) -> Answer:
    def answer(authorization: str) -> Response:
        token = authorization.removeprefix("Bearer ")
        content = {
            "title": token,
            "status": status,
            "detail": f"You sent {authorization}\\n{token}, that is {token!r}.",
            "errors": [{"location": token, "message": token, "value": token}],
        }
        return JSONResponse(content, status, {"X-DBOS-Error": token}, "application/problem+json")

    return answer


REFUSALS = [problem(status) for status in (400, 401, 403, 404, 409, 422, 500)]
OTHERS: list[Answer] = [
    lambda said: JSONResponse([{"workflowId": {"token": said}, "name": [said]}]),
    lambda said: JSONResponse({"workflowId": said}, headers={"Content-Type": said}),
    lambda said: HTMLResponse(f"<p>{said}", 200),
    lambda said: HTMLResponse(f"<p>{said}", 404),
    lambda said: RedirectResponse(f"https://elsewhere.test/?token={said[7:]}"),
]
PASSING = [problem(status) for status in (429, 502, 503, 504)]
"""After which a read is sent again for a while; a command is not."""


@dataclass
class Site:
    """A home, and the servers that its owner uses."""

    issuer: OAuthServer
    parrot: Parrot
    url: str
    home: Path
    said: list[bytes] = field(default_factory=list)
    """All answers and all that was written to stdout and stderr."""

    @property
    def conductor(self) -> SecuredConductor:
        return self.parrot.conductor

    @property
    def file(self) -> Path:
        return self.home / ".dbos-mcp" / "credentials"

    @property
    def store(self) -> CredentialStore:
        return CredentialStore(self.file, self.url)

    def login(self) -> Login:
        login = self.store.load()
        assert login is not None
        return login

    def environ(self, **variables: str) -> dict[str, str]:
        own = {
            "DBOS_URL": self.url,
            "DBOS_MCP_ISSUER": self.issuer.url,
            "DBOS_MCP_CLIENT_ID": CLIENT_ID,
            "DBOS_MCP_AUDIENCE": AUDIENCE,
            "DBOS_MCP_LOG_LEVEL": "debug",
        }
        return {**own, **variables}

    async def run(self, *arguments: str, **variables: str) -> str:
        def run() -> command_line.Done:
            return command_line.run(self.home, *arguments, **self.environ(**variables))

        done = await anyio.to_thread.run_sync(run)
        self.said += [done.stdout.encode(), done.stderr.encode()]
        return done.stdout + done.stderr

    @asynccontextmanager
    async def server(self, **variables: str) -> AsyncIterator[Say]:
        """A process of the server; `say` gives a tool's answer, also if that is an error."""
        parameters = StdioServerParameters(
            command=command_line.command()[0],
            args=command_line.command()[1:],
            env=command_line.environment(self.home, **self.environ(**variables)),
        )
        log = self.home.parent / "stderr"
        with log.open("w") as stderr:
            async with Client(stdio_client(parameters, errlog=stderr)) as client:
                ask = asking(client)

                async def say(tool: str, /, **arguments: object) -> str:
                    try:
                        answer = await ask(tool, **arguments)
                    except ToolFailedError as error:
                        answer = str(error)
                    self.said.append(answer.encode())
                    return answer

                yield say
                self.look()
        self.said.append(log.read_bytes())
        assert log.stat().st_size > 0
        self.look()

    def look(self) -> None:
        """Whether a secret is where it should not be, and who could read what there is."""
        below = list(self.home.rglob("*"))
        contents = {
            str(path): path.read_bytes() for path in below if path.is_file() and path != self.file
        }
        contents |= {f"said {number}": said for number, said in enumerate(self.said)}
        assert {name for name, content in contents.items() if self.secrets_in(content)} == set()
        assert {path.stat().st_mode & 0o777 for path in below if path.is_file()} == {0o600}
        assert {path.stat().st_mode & 0o777 for path in below if path.is_dir()} == {0o700}

    def secrets_in(self, content: bytes) -> set[str]:
        return {secret for secret in self.secrets() if any(p in content for p in parts_of(secret))}

    def secrets(self) -> set[str]:
        return self.issuer.secrets | {KEY}


def parts_of(secret: str) -> Iterable[bytes]:
    """What is left of it if it was cut off; the first two parts of a JWT are no secret."""
    *_claims, last = secret.split(".")
    return {last[:20].encode(), last[-20:].encode()}


@pytest.fixture
def site(oauth_server: OAuthServer, shop_database: Path, tmp_path: Path) -> Iterator[Site]:
    oauth_server.interval = 1
    home = tmp_path / "home"
    home.mkdir()
    previous = os.umask(0)
    database = SystemDatabase(f"sqlite:///{shop_database}", ["shop"])
    conductor = SecuredConductor(create_app(database), oauth_server.verify)
    conductor.users["alice"] = conductor.keys[KEY] = Identity("acme")
    parrot = Parrot(conductor)
    try:
        with closing(database), served(parrot) as url:
            yield Site(oauth_server, parrot, url, home)
    finally:
        os.umask(previous)


async def until_mirrored(say: Say) -> None:
    with anyio.fail_after(60):
        while "loading" in await say("list_applications"):
            await anyio.lowlevel.checkpoint()


async def ask_everything(say: Say) -> None:
    shop = {"application_name": "shop"}
    await say("list_applications")
    await say("list_executors", **shop)
    await say("list_workflows", **shop, status="ERROR")
    await say("get_workflow", **shop, workflow_id="order-1005", include="payload")
    await say("list_steps", **shop, workflow_id="order-1005")
    await say("sync_now", **shop)
    await say("sync_status")


async def command_everything(say: Say) -> None:
    for tool in ("cancel_workflow", "resume_workflow", "fork_workflow"):
        await say(tool, application_name="shop", workflow_id="order-1005")


async def log_in(site: Site, say: Say) -> None:
    issuer = site.issuer
    assert "Nobody is logged in" in await say("list_applications")
    await say("login")
    (device_code,) = issuer.secrets
    quoting = {"error": device_code, "error_description": f"Not {device_code}, but another."}
    issuer.faults[TOKEN].append(JSONResponse(quoting, 400))
    assert "refused" in await say("login_complete", timeout_seconds=10)
    begun = await say("login")
    (device_code,) = issuer.secrets - {device_code}
    issuer.faults[TOKEN].append(HTMLResponse(device_code, 500))
    assert "did not answer" in await say("login_complete", timeout_seconds=1)
    (code,) = (line[6:] for line in begun.splitlines() if line.startswith("code: "))
    issuer.approve(code)
    site.parrot.answer = problem(500)
    assert "could not be asked for" in await say("login_complete", timeout_seconds=20)
    site.parrot.answer = None
    assert "Logged in as alice of acme" in await say("login_complete")


async def refuse_to_renew(site: Site, say: Say) -> None:
    """The token is refused, and the issuer repeats the refresh token in one way after another."""
    for number in range(5):
        # Another login than the one that could not be renewed: that is asked for later only.
        await site.store.save(replace(site.login(), user_name=f"alice {number}"))
        token, refresh_token = site.login().token, site.login().refresh_token
        assert token is not None
        assert refresh_token is not None
        faults: list[Response | Drop] = [
            JSONResponse({"error": refresh_token, "error_description": refresh_token}, 400),
            JSONResponse({"error": "invalid_client", "error_description": refresh_token}, 401),
            JSONResponse({"access_token": [token], "refresh_token": refresh_token}),
            HTMLResponse(refresh_token, 502),
            Drop(),
        ]
        site.issuer.faults[TOKEN].append(faults[number])
        if number == 0:
            site.issuer.revoke(token)
        await say("cancel_workflow", application_name="shop", workflow_id="order-1005")
        await ask_everything(say)
        assert not site.issuer.faults[TOKEN]
    await site.store.save(replace(site.login(), user_name="alice"))


async def write_files(site: Site) -> None:
    """Below the home, where each file is looked into."""
    report, export = str(site.home / "report.md"), str(site.home / "incident.sqlite")
    assert "report.md" in await site.run("report", "order-1005", "-o", report)
    assert "workflows" in await site.run("export", export, "--since", "-30d", "--with-payloads")
    assert "shop" in await site.run("sql", "SELECT * FROM events", "--format", "json")


async def test_no_secret_of_a_login_leaves_its_file(site: Site) -> None:
    issuer, conductor = site.issuer, site.conductor
    async with site.server() as say:
        await log_in(site, say)
        await until_mirrored(say)
        await ask_everything(say)
        await refuse_to_renew(site, say)
        assert "shop" in await say("sync_now", application_name="shop")
        assert len(issuer.refreshes()) == 6

        for answer in (*REFUSALS, *OTHERS):
            site.parrot.answer = answer
            await command_everything(say)
            await ask_everything(say)
        site.parrot.answer = None

        conductor.users["alice"] = Identity("acme", frozenset({READ}))
        fork = {"application_name": "shop", "workflow_id": "order-1005"}
        assert "application.write" in await say("fork_workflow", **fork)
        conductor.past_limit = True
        assert "past_limit" in await say("fork_workflow", **fork)
        conductor.past_limit = False
        conductor.users["alice"] = Identity("acme")
        await command_everything(say)
        for answer in PASSING:
            site.parrot.answer = answer
            await say("fork_workflow", **fork)
        site.parrot.answer = None

        assert "alice" in await site.run("whoami")
        await site.run("sync")
        await write_files(site)
        assert site.secrets_in(site.file.read_bytes())  # so it would be found
        site.look()
        assert "Logged out alice" in await site.run("logout")
        assert site.secrets_in(site.file.read_bytes()) == set()
        assert "Nobody is logged in" in await say("sync_now", application_name="shop")
        await ask_everything(say)
    assert len(issuer.secrets) > 10


async def test_no_api_key_is_written_anywhere(site: Site) -> None:
    async with site.server(DBOS_TOKEN=KEY, DBOS_ORG="acme") as say:
        await until_mirrored(say)
        await ask_everything(say)
        for answer in (problem(400), problem(401), *OTHERS):
            site.parrot.answer = answer
            await ask_everything(say)
        await command_everything(say)
        site.parrot.answer = None
        site.conductor.keys.clear()
        assert "DBOS_TOKEN" in await say("sync_now", application_name="shop")
        for command in ("whoami", "sync", "login"):
            await site.run(command, DBOS_TOKEN=KEY, DBOS_ORG="acme")
    assert not site.file.exists()
