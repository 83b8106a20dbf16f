"""The login in two calls: an authorization server, a Conductor that wants its tokens, a client of
either era."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from mcp import Client
from mcp.client.context import ClientRequestContext
from mcp_types import ElicitRequestParams, ElicitRequestURLParams, ElicitResult
from starlette.types import ASGIApp, Receive, Scope, Send

from dbos_mcp.conductor.credentials import CredentialStore, Login
from dbos_mcp.local_conductor.app import create_app
from dbos_mcp.local_conductor.system_database import SystemDatabase
from dbos_mcp.runtime import login_store
from dbos_mcp.server.app import build_server
from dbos_mcp.settings import MANAGED_ISSUER, Settings
from tests.loopback import served
from tests.oauth_server import AUDIENCE, CLIENT_ID, DEVICE, GRANTS, TOKEN, OAuthServer
from tests.secured_conductor import Identity, SecuredConductor
from tests.server.conftest import Ask, Serve, ToolFailedError, asking


@dataclass
class Place:
    """A self-hosted Conductor that wants logins; alice may do everything in acme."""

    settings: Settings
    oauth: OAuthServer
    conductor: SecuredConductor

    def login(self) -> Login | None:
        return login_store(self.settings).load()


@pytest.fixture
def place(oauth_server: OAuthServer, shop_database: Path, tmp_path: Path) -> Iterator[Place]:
    oauth_server.interval = 0
    database = SystemDatabase(f"sqlite:///{shop_database}")
    conductor = SecuredConductor(create_app(database), oauth_server.verify)
    conductor.users["alice"] = Identity("acme")
    with closing(database), served(conductor) as url:
        settings = Settings(
            home=tmp_path,
            url=url,
            issuer_url=oauth_server.url,
            client_id=CLIENT_ID,
            audience=AUDIENCE,
        )
        yield Place(settings, oauth_server, conductor)


def code_in(answer: str) -> str:
    (line,) = (line for line in answer.splitlines() if line.startswith("code: "))
    return line.removeprefix("code: ")


async def log_in(place: Place, ask: Ask, subject: str = "alice") -> str:
    place.oauth.approve(code_in(await ask("login")), subject)
    return await ask("login_complete")


async def test_a_login_is_begun_approved_and_used(place: Place, serve: Serve, era: str) -> None:
    async with serve(place.settings, era=era) as ask:
        with pytest.raises(ToolFailedError, match="Nobody is logged in"):
            await ask("list_applications")
        begun = await ask("login")
        code = code_in(begun)
        assert f"url: {place.oauth.url}activate?user_code={code}" in begun
        assert "host: 127.0.0.1" in begun
        with pytest.raises(ToolFailedError, match="pending"):
            await ask("login_complete", timeout_seconds=1)
        place.oauth.approve(code)
        assert (await ask("login_complete")).startswith("Logged in as alice of acme.")
        assert "shop" in await ask("list_applications")
        assert "alice of acme, renewed by itself" in await ask("sync_status")
    login = place.login()
    assert login is not None
    assert (login.user_name, login.organization) == ("alice", "acme")
    assert {asked.token for asked in place.conductor.requests} == {login.token}


async def test_denied_in_the_browser_is_said_so(place: Place, serve: Serve) -> None:
    async with serve(place.settings) as ask:
        place.oauth.deny(code_in(await ask("login")))
        with pytest.raises(ToolFailedError, match="denied"):
            await ask("login_complete")
        assert place.login() is None


async def test_a_user_whom_conductor_does_not_know_is_logged_in_all_the_same(
    place: Place, serve: Serve
) -> None:
    async with serve(place.settings) as ask:
        answer = await log_in(place, ask, "bob")
        assert "does not know this user" in answer
        assert "set DBOS_ORG" in answer
        place.conductor.users["bob"] = Identity("umbrella")
        # The code was good for one grant, which is kept.
        assert (await ask("login_complete")).startswith("Logged in as bob of umbrella.")
        assert "shop" in await ask("list_applications")


async def test_login_complete_without_a_login_says_what_comes_first(
    place: Place, serve: Serve
) -> None:
    async with serve(place.settings) as ask:
        with pytest.raises(ToolFailedError, match="Call `login` first"):
            await ask("login_complete")


async def test_while_logged_out_reads_go_on_from_the_mirror(
    place: Place, serve: Serve, era: str
) -> None:
    store = login_store(place.settings)
    async with serve(place.settings, era=era) as ask:
        await log_in(place, ask)
        await ask("sync_now")
        kept = place.login()
        assert kept is not None
        await store.save(Login(user_name="alice", organization="acme", url=kept.url))
        assert "place_order" in await ask("list_workflows", application_name="shop")
        with pytest.raises(ToolFailedError, match=r"Nobody is logged in.*`login`"):
            await ask("cancel_workflow", application_name="shop", workflow_id="x")
    async with serve(place.settings, era=era) as ask:
        assert "place_order" in await ask("list_workflows", application_name="shop")


async def test_a_refused_login_is_asked_for_again_and_reads_go_on(
    place: Place, serve: Serve
) -> None:
    place.oauth.offline_access = False
    async with serve(place.settings) as ask:
        await log_in(place, ask)
        await ask("sync_now")
        login = place.login()
        assert login is not None and login.token is not None
        place.oauth.revoke(login.token)
        with pytest.raises(ToolFailedError, match=r"does not accept.*`login`"):
            await ask("sync_now")
        assert "place_order" in await ask("list_workflows", application_name="shop")
        assert "login needed" in await ask("sync_status")
        await log_in(place, ask)
        await ask("sync_now")
        assert "login needed" not in await ask("sync_status")


async def test_a_login_to_another_organization_is_another_mirror(
    place: Place, serve: Serve
) -> None:
    place.conductor.users["bob"] = Identity("umbrella")
    async with serve(place.settings) as ask:
        await log_in(place, ask)
        assert "shop" in await ask("list_applications")
        assert "acme" in await ask("sync_status")
        await log_in(place, ask, "bob")
        assert "umbrella" in await ask("sync_status")
    names = {path.name for path in place.settings.folder.glob("*.sqlite")}
    assert {name.rpartition("-")[2] for name in names} == {"acme.sqlite", "umbrella.sqlite"}


async def test_a_missing_permission_is_named_with_the_way_to_get_it(
    place: Place, serve: Serve
) -> None:
    place.conductor.users["alice"] = Identity("acme", frozenset({"application.read"}))
    async with serve(place.settings) as ask:
        await log_in(place, ask)
        with pytest.raises(ToolFailedError, match=r"application\.write.*administrator"):
            await ask("fork_workflow", application_name="shop", workflow_id="order-1005")
        place.conductor.past_limit = True
        with pytest.raises(ToolFailedError, match="past the limit of its plan"):
            await ask("sync_now")


class User:
    """Answers the client's dialogs."""

    def __init__(self, action: str = "accept") -> None:
        self.action = action
        self.shown: list[ElicitRequestURLParams] = []

    async def __call__(
        self, context: ClientRequestContext, params: ElicitRequestParams
    ) -> ElicitResult:
        assert isinstance(params, ElicitRequestURLParams)
        self.shown.append(params)
        return ElicitResult.model_validate({"action": self.action})


async def test_a_client_that_can_open_the_address_is_asked_to(place: Place, era: str) -> None:
    user = User()
    async with Client(build_server(place.settings), mode=era, elicitation_callback=user) as client:
        ask = asking(client)
        begun = await ask("login")
        (shown,) = user.shown
        assert shown.url == f"{place.oauth.url}activate?user_code={code_in(begun)}"
        assert code_in(begun) in shown.message
        assert "127.0.0.1" in shown.message
        assert begun.startswith("The user has opened")
        place.oauth.approve(code_in(begun))
        assert "alice of acme" in await ask("login_complete")
    assert len([asked for asked in place.oauth.requests if asked.path == DEVICE]) == 1


@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_a_user_who_does_not_want_to_is_not_logged_in(
    place: Place, era: str, action: str
) -> None:
    async with Client(
        build_server(place.settings), mode=era, elicitation_callback=User(action)
    ) as client:
        ask = asking(client)
        assert "did not want" in await ask("login")
        with pytest.raises(ToolFailedError, match="No login is under way"):
            await ask("login_complete")
    assert place.oauth.polls() == []


class Hosts(httpx.AsyncBaseTransport):
    """The network of a test: an app for each host."""

    def __init__(self, **apps: httpx.AsyncBaseTransport) -> None:
        self._apps = apps

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._apps[request.url.host.split(".")[0]].handle_async_request(request)


class Below:
    """An app whose paths begin with a prefix."""

    def __init__(self, prefix: str, app: ASGIApp) -> None:
        self._prefix = prefix
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        inner = {
            "path": scope["path"].removeprefix(self._prefix),
            "raw_path": scope["raw_path"].removeprefix(self._prefix.encode()),
        }
        await self._app({**scope, **inner}, receive, send)


async def test_dbos_managed_needs_no_settings(
    oauth_server: OAuthServer, shop_database: Path, tmp_path: Path, serve: Serve
) -> None:
    at = MANAGED_ISSUER.url.rstrip("/")
    oauth_server.discovery |= {
        "device_authorization_endpoint": at + DEVICE,
        "token_endpoint": at + TOKEN,
    }
    oauth_server.clients = {MANAGED_ISSUER.client_id: GRANTS}
    oauth_server.audience = MANAGED_ISSUER.audience
    oauth_server.interval = 0
    with closing(SystemDatabase(f"sqlite:///{shop_database}")) as database:
        conductor = SecuredConductor(create_app(database), oauth_server.verify)
        conductor.users["alice"] = Identity("acme")
        network = Hosts(
            login=httpx.ASGITransport(oauth_server.app),
            cloud=httpx.ASGITransport(Below("/conductor", conductor)),
        )
        async with serve(Settings(home=tmp_path), transport=network) as ask:
            oauth_server.approve(code_in(await ask("login")))
            assert "alice of acme" in await ask("login_complete")
            assert "shop" in await ask("list_applications")
    login = CredentialStore(tmp_path / ".dbos-mcp" / "credentials").load()
    assert login is not None and login.organization == "acme"
    assert (tmp_path / ".dbos-mcp" / "cloud.dbos.dev-acme.sqlite").exists()
