"""Login by device code against a real authorization server, on a clock of ours."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from starlette.responses import JSONResponse, Response

from dbos_mcp.conductor.client import ConductorClient
from dbos_mcp.conductor.credentials import Credentials
from dbos_mcp.conductor.device_login import DeviceAuthorization, DeviceLogin
from dbos_mcp.conductor.identity import FixedIdentity
from dbos_mcp.conductor.oauth import IssuerClient, RefusedError, Tokens, require_https
from dbos_mcp.errors import (
    AuthenticationError,
    DbosMcpError,
    LoginDeniedError,
    LoginError,
    LoginExpiredError,
    LoginPendingError,
    UnavailableError,
)
from dbos_mcp.local_conductor.app import create_app
from dbos_mcp.local_conductor.system_database import SystemDatabase
from dbos_mcp.settings import Issuer
from tests.loopback import open_listener, served, url_of
from tests.oauth_server import (
    AUDIENCE,
    CLIENT_ID,
    DEVICE,
    DEVICE_GRANT,
    DISCOVERY,
    TOKEN,
    Drop,
    Fault,
    Hold,
    OAuthServer,
)
from tests.secured_conductor import Identity, SecuredConductor


@dataclass
class Flow:
    """A login that has begun."""

    server: OAuthServer
    authorization: DeviceAuthorization
    login: DeviceLogin
    began_at: float

    async def complete(self, timeout_seconds: float = 2000) -> Tokens:
        return await self.authorization.complete(self.login, timeout_seconds=timeout_seconds)

    async def error(self, timeout_seconds: float = 2000) -> DbosMcpError:
        with pytest.raises(DbosMcpError) as caught:
            await self.complete(timeout_seconds)
        return caught.value

    def approve(self) -> None:
        self.server.approve(self.login.user_code)

    def polled_at(self) -> list[float]:
        """In seconds from the beginning."""
        return [poll.at - self.began_at for poll in self.server.polls()]


def authorization(server: OAuthServer, issuer: Issuer | None = None) -> DeviceAuthorization:
    clock = server.clock
    return DeviceAuthorization(issuer or server.as_issuer(), clock=clock, sleep=clock.sleep)


async def begin(server: OAuthServer, issuer: Issuer | None = None) -> Flow:
    asking = authorization(server, issuer)
    return Flow(server, asking, await asking.start(), server.clock())


async def error_of_start(server: OAuthServer, issuer: Issuer | None = None) -> DbosMcpError:
    with pytest.raises(DbosMcpError) as caught:
        await authorization(server, issuer).start()
    return caught.value


async def arrived(hold: Hold) -> None:
    assert await anyio.to_thread.run_sync(hold.arrived.wait, 30)


async def test_a_login_is_approved_in_the_browser_refreshed_and_known_to_conductor(
    oauth_server: OAuthServer, shop_database: Path
) -> None:
    flow = await begin(oauth_server)
    flow.approve()
    tokens = await flow.complete()
    assert tokens.refresh_token is not None
    tokens = await IssuerClient(oauth_server.as_issuer()).refresh(tokens.refresh_token)

    database = SystemDatabase(f"sqlite:///{shop_database}")
    conductor = SecuredConductor(create_app(database), oauth_server.verify)
    conductor.users["alice"] = Identity("acme")
    with closing(database), served(conductor) as url:
        async with ConductorClient(
            url, FixedIdentity(Credentials("acme", tokens.access_token))
        ) as client:
            assert (await client.get_current_user()).org_name == "acme"
            assert await client.list_applications() != []
            oauth_server.revoke(tokens.access_token)
            with pytest.raises(AuthenticationError):
                await client.list_applications()


# What is asked, and what comes of it


async def test_a_started_login_has_the_code_to_show_and_keeps_the_device_code_to_itself(
    oauth_server: OAuthServer,
) -> None:
    flow = await begin(oauth_server)
    activate = oauth_server.url + "activate"
    code = flow.login.user_code
    assert flow.login == DeviceLogin(
        user_code=code,
        verification_uri=activate,
        verification_uri_complete=f"{activate}?user_code={code}",
        expires_at=flow.began_at + 900,
        interval_seconds=5,
        device_code=flow.login.device_code,
    )
    assert flow.login.device_code not in repr(flow.login)
    assert oauth_server.requests[-1].form == {
        "client_id": CLIENT_ID,
        "scope": "openid offline_access",
        "audience": AUDIENCE,
    }


async def test_what_the_rfc_makes_optional_has_defaults(oauth_server: OAuthServer) -> None:
    oauth_server.audience = None
    missing = ("verification_uri_complete", "interval", "expires_in")
    oauth_server.device_answer = dict.fromkeys(missing)
    flow = await begin(oauth_server, Issuer(oauth_server.url.rstrip("/"), CLIENT_ID, None))
    assert flow.login.verification_uri_complete is None
    assert flow.login.interval_seconds == 5
    assert flow.login.expires_at == flow.began_at + 600
    assert "audience" not in oauth_server.requests[-1].form


@pytest.mark.parametrize(
    ("answered", "taken"),
    [(0, 1), (-3, 1), (0.5, 1), (2.5, 2.5), (10**9, 60)],
)
async def test_an_interval_is_neither_too_short_to_be_polite_nor_too_long_to_be_of_use(
    oauth_server: OAuthServer, answered: float, taken: float
) -> None:
    oauth_server.device_answer = {"interval": answered}
    assert (await begin(oauth_server)).login.interval_seconds == taken


@pytest.mark.parametrize(("answered", "taken"), [(0, 600), (-1, 600), (10**12, 86_400)])
async def test_a_lifetime_that_cannot_be_is_replaced(
    oauth_server: OAuthServer, answered: int, taken: float
) -> None:
    oauth_server.device_answer = {"expires_in": answered}
    flow = await begin(oauth_server)
    assert flow.login.expires_at == flow.began_at + taken


@pytest.mark.parametrize("pending_status", [400, 403], ids=["RFC 6749", "Auth0"])
async def test_approval_gives_the_tokens_and_never_shows_them(
    oauth_server: OAuthServer, pending_status: int
) -> None:
    oauth_server.pending_status = pending_status
    flow = await begin(oauth_server)
    oauth_server.clock.after(12, flow.approve)
    tokens = await flow.complete()
    assert oauth_server.verify(tokens.access_token)["sub"] == "alice"
    assert tokens.refresh_token is not None
    assert tokens.expires_in == 86_400
    assert tokens.access_token not in repr(tokens)
    assert tokens.refresh_token not in repr(tokens)
    assert flow.polled_at() == [5, 10, 15]
    assert oauth_server.polls()[-1].form == {
        "grant_type": DEVICE_GRANT,
        "device_code": flow.login.device_code,
        "client_id": CLIENT_ID,
    }


async def test_a_refresh_token_may_be_missing(oauth_server: OAuthServer) -> None:
    oauth_server.offline_access = False
    flow = await begin(oauth_server)
    flow.approve()
    assert (await flow.complete()).refresh_token is None


async def test_a_login_that_was_approved_before_anyone_waits_is_complete_at_once(
    oauth_server: OAuthServer,
) -> None:
    flow = await begin(oauth_server)
    flow.approve()
    oauth_server.clock.move(30)
    await flow.complete()
    assert flow.polled_at() == [30]


# When to ask again


async def test_slow_down_adds_five_seconds_for_good(oauth_server: OAuthServer) -> None:
    flow = await begin(oauth_server)
    code = flow.login.user_code
    oauth_server.slow_down(code)
    oauth_server.clock.after(20, lambda: oauth_server.slow_down(code))
    oauth_server.clock.after(30, flow.approve)
    await flow.complete()
    # The server would say slow_down, and so add more, to any poll that came sooner.
    assert flow.polled_at() == [5, 15, 25, 40]


async def test_who_waits_after_slow_down_is_told_how_long_it_takes(
    oauth_server: OAuthServer,
) -> None:
    flow = await begin(oauth_server)
    oauth_server.slow_down(flow.login.user_code)
    error = await flow.error(timeout_seconds=8)
    assert isinstance(error, LoginPendingError)
    assert "more patience: 7 seconds" in error.message


async def test_waiting_is_bounded_and_can_go_on_in_the_same_login(
    oauth_server: OAuthServer,
) -> None:
    flow = await begin(oauth_server)
    error = await flow.error(timeout_seconds=12)
    assert isinstance(error, LoginPendingError)
    assert error.retryable
    assert oauth_server.clock() == flow.began_at + 12
    for words in (flow.login.user_code, flow.login.url, "15 min", "login_complete"):
        assert words in str(error)
    flow.approve()
    await flow.complete()
    assert flow.polled_at() == [5, 10, 15]


async def test_impatient_callers_neither_poll_faster_nor_wait_for_ever(
    oauth_server: OAuthServer,
) -> None:
    flow = await begin(oauth_server)
    oauth_server.slow_down(flow.login.user_code)
    oauth_server.clock.after(14, flow.approve)
    pending = 0
    while True:
        try:
            await flow.complete(timeout_seconds=1)
            break
        except LoginPendingError:
            pending += 1
    assert flow.polled_at() == [5, 15]
    assert pending >= 10


async def test_a_login_nobody_approves_expires_by_the_clock(oauth_server: OAuthServer) -> None:
    oauth_server.code_lifetime = 32
    flow = await begin(oauth_server)
    assert isinstance(await flow.error(timeout_seconds=10_000), LoginExpiredError)
    assert oauth_server.clock() == flow.began_at + 32
    assert flow.polled_at() == [5, 10, 15, 20, 25, 30]


async def test_while_a_login_waits_other_tasks_run() -> None:
    """By the real clock, and cut short: what blocked them would come to the end of its wait."""
    waiting = DeviceAuthorization(Issuer("https://nobody-is-asked.test/", CLIENT_ID, None))
    login = DeviceLogin("CODE", "https://nobody-is-asked.test/", None, float("inf"), 3600, "device")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(waiting.complete, login, timeout_seconds=10))
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert tasks.cancel_scope.cancelled_caught


# When no answer comes


FAULTS: list[Fault] = [
    Response(status_code=500),
    Response("<html>", 502),
    JSONResponse({"error": "too_many_requests"}, 429),
    Drop(),
]


async def test_polls_without_an_answer_become_rarer_until_one_comes(
    oauth_server: OAuthServer,
) -> None:
    flow = await begin(oauth_server)
    oauth_server.faults[TOKEN].extend([*FAULTS, Drop()])
    oauth_server.clock.after(197, flow.approve)
    await flow.complete()
    assert flow.polled_at() == [5, 15, 35, 75, 135, 195, 200]


async def test_the_slower_interval_outlasts_a_failure(oauth_server: OAuthServer) -> None:
    oauth_server.interval = 50
    flow = await begin(oauth_server)
    oauth_server.slow_down(flow.login.user_code)
    oauth_server.clock.after(60, lambda: oauth_server.slow_down(flow.login.user_code))
    oauth_server.clock.after(110, lambda: oauth_server.slow_down(flow.login.user_code))
    oauth_server.clock.after(170, lambda: oauth_server.faults[TOKEN].append(Drop()))
    oauth_server.clock.after(240, flow.approve)
    await flow.complete()
    assert flow.polled_at() == [50, 105, 165, 230, 295]


@pytest.mark.parametrize("fault", FAULTS, ids=["500", "502", "429", "no answer"])
async def test_a_wait_that_ends_without_an_answer_is_not_the_end_of_the_login(
    oauth_server: OAuthServer, fault: Fault
) -> None:
    flow = await begin(oauth_server)
    oauth_server.faults[TOKEN].extend([fault, fault])
    for _ in range(2):
        error = await flow.error(timeout_seconds=12)
        assert isinstance(error, UnavailableError)
        assert error.retryable
        assert "still valid" in str(error)
        assert "login_complete" in str(error)
    assert isinstance(await flow.error(timeout_seconds=12), LoginPendingError)
    flow.approve()
    await flow.complete()
    assert flow.polled_at() == [5, 15, 35, 40]


async def test_after_an_answer_that_was_lost_it_is_said_that_the_code_was_used(
    oauth_server: OAuthServer,
) -> None:
    flow = await begin(oauth_server)
    flow.approve()
    oauth_server.faults[TOKEN].append(Drop(handled=True))
    error = await flow.error()
    assert "already used" in error.message
    assert error.hint == "Log in again."
    assert flow.polled_at() == [5, 15]


async def test_without_a_network_the_error_says_to_try_again() -> None:
    with closing(open_listener()) as listener:
        gone = Issuer(url_of(listener), CLIENT_ID, None)
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1 did not answer.*Try again"):
        await DeviceAuthorization(gone).start()


async def test_an_answer_that_does_not_come_to_an_end_is_not_waited_for(
    oauth_server: OAuthServer,
) -> None:
    issued = oauth_server.issue()
    assert issued.refresh_token is not None
    hold = Hold()
    oauth_server.faults[TOKEN].append(hold)
    client = IssuerClient(oauth_server.as_issuer(), request_seconds=0.5)
    with pytest.raises(UnavailableError, match=r"nothing in 0\.5 seconds"):
        await client.refresh(issued.refresh_token)
    hold.release.set()


# Several who wait


async def test_two_who_wait_for_one_login_use_its_code_once(oauth_server: OAuthServer) -> None:
    flow = await begin(oauth_server)
    flow.approve()
    hold = Hold()
    oauth_server.faults[TOKEN].append(hold)
    got: list[Tokens] = []

    async def wait() -> None:
        got.append(await flow.complete())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await arrived(hold)
        oauth_server.clock.move(1000)  # another poll is due, and the code has expired
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        hold.release.set()
    assert got[0] == got[1]
    assert await flow.complete() == got[0]
    assert flow.polled_at() == [5]


async def test_two_who_wait_for_one_login_poll_no_more_than_one(oauth_server: OAuthServer) -> None:
    flow = await begin(oauth_server)
    oauth_server.clock.after(100, flow.approve)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(flow.complete)
        tasks.start_soon(flow.complete)
    polled = flow.polled_at()
    assert len(polled) > 3
    assert all(later - sooner >= 5 for sooner, later in pairwise(polled))


async def test_the_end_of_a_wait_does_not_lose_the_tokens_that_are_on_their_way(
    oauth_server: OAuthServer,
) -> None:
    flow = await begin(oauth_server)
    flow.approve()
    hold = Hold()
    oauth_server.faults[TOKEN].append(hold)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(flow.complete)
        await arrived(hold)
        tasks.cancel_scope.cancel()
        hold.release.set()
    tokens = await flow.complete(timeout_seconds=0)
    assert oauth_server.verify(tokens.access_token)["sub"] == "alice"
    assert flow.polled_at() == [5]


# What ends a login


Event = Callable[[Flow], object]


def deny(flow: Flow) -> None:
    flow.server.deny(flow.login.user_code)


def expire(flow: Flow) -> None:
    flow.server.expire(flow.login.user_code)


def forget_the_client(flow: Flow) -> None:
    flow.server.clients.clear()


def take_the_grant_away(flow: Flow) -> None:
    flow.server.clients[CLIENT_ID] = frozenset()


def answer(response: Response) -> Event:
    return lambda flow: flow.server.faults[TOKEN].append(response)


def refuse(name: object, description: object) -> Event:
    return answer(JSONResponse({"error": name, "error_description": description}, 403))


@pytest.mark.parametrize(
    ("event", "expected", "words", "hint"),
    [
        (expire, LoginExpiredError, "expired", "Log in again"),
        (deny, LoginDeniedError, "denied in the browser", "Log in again"),
        (forget_the_client, LoginError, "invalid_client", "DBOS_MCP_CLIENT_ID"),
        (take_the_grant_away, LoginError, "unauthorized_client", "DBOS_MCP_CLIENT_ID"),
        (refuse("odd", "Ask the\x1b[2J admin."), RefusedError, "odd (Ask the [2J admin)", "Log in"),
        (refuse("\x1b[2Jodd" + "x" * 5000, "y" * 5000), RefusedError, "odd", "Log in again"),
        (refuse("odd", {"a": 1}), RefusedError, "refused: odd.", "Log in again"),
        (refuse({"a": 1}, ""), RefusedError, "HTTP status 403", "Log in again"),
        (answer(Response("<html>", 404)), RefusedError, "HTTP status 404", "Log in again"),
    ],
    ids=[
        "expired_token", "access_denied", "invalid_client", "unauthorized_client", "described",
        "odd", "description is no text", "name is no text", "HTML",
    ],
)  # fmt: skip
async def test_a_final_answer_ends_the_login_and_is_never_followed_by_a_poll(
    oauth_server: OAuthServer, event: Event, expected: type[LoginError], words: str, hint: str
) -> None:
    flow = await begin(oauth_server)
    oauth_server.clock.after(7, lambda: event(flow))
    for _ in range(3):
        error = await flow.error()
        assert type(error) is expected
        assert words in error.message
        assert hint in error.hint
        assert str(error).isprintable()
        assert len(str(error)) < 400
    assert flow.polled_at() == [5, 10]


async def test_a_code_that_someone_else_has_used_is_said_to_be_used(
    oauth_server: OAuthServer,
) -> None:
    flow = await begin(oauth_server)
    flow.approve()
    await IssuerClient(oauth_server.as_issuer()).ask_for_tokens(
        {"grant_type": DEVICE_GRANT, "device_code": flow.login.device_code}
    )
    error = await flow.error()
    assert isinstance(error, LoginError)
    assert "already used" in error.message
    assert "invalid_grant" in error.message


async def test_a_code_or_token_that_the_server_quotes_is_not_passed_on(
    oauth_server: OAuthServer,
) -> None:
    flow = await begin(oauth_server)
    secret = flow.login.device_code
    refuse(f"no {secret}", f"There is no {secret} here.")(flow)
    error = await flow.error()
    assert secret not in str(error)
    assert "There is no … here" in error.message
    refuse("odd", "There is no refresh-canary here.")(flow)
    with pytest.raises(RefusedError, match="There is no … here"):
        await IssuerClient(oauth_server.as_issuer()).refresh("refresh-canary")


async def test_a_login_that_is_revoked_gives_no_more_tokens(oauth_server: OAuthServer) -> None:
    issued = oauth_server.issue()
    assert issued.refresh_token is not None
    client = IssuerClient(oauth_server.as_issuer())
    assert await client.revoke(issued.refresh_token)
    with pytest.raises(RefusedError, match="invalid_grant"):
        await client.refresh(issued.refresh_token)


async def test_an_answer_that_is_not_oauths_shows_nothing_of_itself(
    oauth_server: OAuthServer,
) -> None:
    flow = await begin(oauth_server)
    answer(JSONResponse({"access_token": ["access-canary"]}))(flow)
    error = await flow.error()
    assert isinstance(error, LoginError)
    assert "canary" not in str(error)
    assert error.__cause__ is error.__context__ is None
    # It may have been a proxy's. The next one keeps its distance all the same.
    flow.approve()
    await flow.complete()
    assert flow.polled_at() == [5, 10]


# Why a login does not begin


@pytest.mark.parametrize(
    ("discovery", "words"),
    [
        (JSONResponse({"token_endpoint": "https://issuer.test/oauth/token"}), "device code"),
        (JSONResponse({}), "not one of OAuth"),
        (Response("<html>", media_type="text/html"), "not one of OAuth"),
        (Response(status_code=404), "404"),
        (Response(status_code=302, headers={"Location": "https://evil.test/"}), "302"),
    ],
    ids=["no device grant", "no endpoints", "HTML", "404", "redirect"],
)
async def test_an_issuer_that_cannot_be_used_is_explained(
    oauth_server: OAuthServer, discovery: Response, words: str
) -> None:
    oauth_server.faults[DISCOVERY].append(discovery)
    error = await error_of_start(oauth_server)
    assert isinstance(error, LoginError)
    assert words in error.message
    assert error.hint


async def test_an_answer_without_a_code_is_not_a_login(oauth_server: OAuthServer) -> None:
    oauth_server.device_answer = {"device_code": None}
    assert "not one of OAuth" in (await error_of_start(oauth_server)).message


@pytest.mark.parametrize("error_name", ["invalid_client", "unauthorized_client"])
async def test_a_client_that_may_not_log_in_so_is_named(
    oauth_server: OAuthServer, error_name: str
) -> None:
    oauth_server.clients["of-a-web-app"] = frozenset({"refresh_token"})
    client_id = "of-a-web-app" if error_name == "unauthorized_client" else "nobody"
    error = await error_of_start(oauth_server, oauth_server.as_issuer(client_id))
    assert isinstance(error, LoginError)
    assert error_name in error.message
    assert client_id in error.message
    assert "DBOS_MCP_CLIENT_ID" in error.hint


@pytest.mark.parametrize(
    ("audience", "hint"),
    [("of-something-else", "Check DBOS_MCP_AUDIENCE."), (None, "Set DBOS_MCP_AUDIENCE.")],
)
async def test_an_audience_that_is_refused_is_not_taken_for_a_person_who_refused(
    oauth_server: OAuthServer, audience: str | None, hint: str
) -> None:
    error = await error_of_start(oauth_server, oauth_server.as_issuer(audience=audience))
    assert type(error) is LoginError
    assert "Service not found" in error.message
    assert error.hint == hint


async def test_a_refusal_to_start_is_named_by_its_oauth_error(oauth_server: OAuthServer) -> None:
    oauth_server.faults[DEVICE].append(JSONResponse({"error": "invalid_scope"}, 400))
    assert "invalid_scope" in (await error_of_start(oauth_server)).message


@pytest.mark.parametrize(
    "url", ["http://evil.test/x", "ftp://issuer.test/x", "javascript:alert(1)", "", "https://\x00"]
)
async def test_an_address_that_is_not_https_is_refused(oauth_server: OAuthServer, url: str) -> None:
    proper = dict(oauth_server.discovery)
    oauth_server.discovery["device_authorization_endpoint"] = url
    assert isinstance(await error_of_start(oauth_server), LoginError)
    oauth_server.discovery = {**proper, "token_endpoint": url}
    flow = await begin(oauth_server)
    assert isinstance(await flow.error(), LoginError)
    assert flow.polled_at() == []
    oauth_server.discovery = proper
    for name in ("verification_uri", "verification_uri_complete"):
        oauth_server.device_answer = {name: url}
        assert isinstance(await error_of_start(oauth_server), LoginError)
    assert isinstance(await error_of_start(oauth_server, Issuer(url, CLIENT_ID, None)), LoginError)


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:9"])
def test_on_this_machine_http_will_do(host: str) -> None:
    require_https(f"http://{host}/oauth")


@pytest.mark.parametrize("host", ["localhost.evil.test", "127.0.0.1.evil.test", "192.0.2.1"])
def test_what_only_looks_like_this_machine_is_another(host: str) -> None:
    with pytest.raises(LoginError, match="would leave https"):
        require_https(f"http://{host}/oauth")
