"""Who asks Conductor: logins that are renewed in time, end, move, and go to nobody else.

The issuer is a real authorization server, and so is the way to it; only its clock is the test's.
"""

import base64
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.responses import JSONResponse

from dbos_mcp.conductor.client import ConductorClient
from dbos_mcp.conductor.credentials import Credentials, CredentialStore, Login, expiry_of
from dbos_mcp.conductor.identity import (
    RENEW_BEFORE_SECONDS,
    TRY_AGAIN_SECONDS,
    FixedIdentity,
    LoginIdentity,
)
from dbos_mcp.conductor.oauth import IssuerClient
from dbos_mcp.domain import format_time
from dbos_mcp.errors import AuthenticationError, DbosMcpError, UnavailableError
from tests.loopback import served
from tests.oauth_server import DISCOVERY, TOKEN, Drop, Hold, Issued, OAuthServer
from tests.secured_conductor import Identity, SecuredConductor

URL = "https://conductor.test"
LOG_IN = "Call `login`."
LIFETIME = 3600


@dataclass
class Place:
    """An issuer, and a credentials file."""

    issuer: OAuthServer
    store: CredentialStore

    def identity(
        self,
        *,
        url: str = URL,
        organization: str | None = None,
        pinned: str | None = None,
        fallbacks: tuple[Callable[[], Login | None], ...] = (),
    ) -> LoginIdentity:
        """As another process would make it."""
        return LoginIdentity(
            self.store,
            url=url,
            organization=organization,
            pinned=pinned,
            issuer=IssuerClient(self.issuer.as_issuer()),
            fallbacks=fallbacks,
            how_to_log_in=LOG_IN,
            clock=self.issuer.clock,
        )

    async def log_in(self, **changes: object) -> Login:
        login = replace(self.login_of(self.issuer.issue()), **changes)  # type: ignore[arg-type]
        await self.store.save(login)
        return login

    def login_of(self, issued: Issued) -> Login:
        return Login(
            token=issued.access_token,
            refresh_token=issued.refresh_token,
            expires_at=int(self.issuer.clock()) + issued.expires_in,
            user_name="alice",
            organization="acme",
            url=URL,
            issuer=self.issuer.url,
        )

    def pass_time(self, seconds: float) -> None:
        self.issuer.clock.now += seconds

    def kept(self) -> Login:
        login = self.store.load()
        assert login is not None
        return login

    @property
    def refreshes(self) -> int:
        return len(self.issuer.refreshes())


@pytest.fixture
def place(oauth_server: OAuthServer, tmp_path: Path) -> Place:
    oauth_server.token_lifetime = LIFETIME
    return Place(oauth_server, CredentialStore(tmp_path / "home" / "credentials"))


def end_of(login: Login) -> str:
    assert login.ends_at is not None
    return format_time(login.ends_at * 1000)


def jwt(**claims: object) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"h.{payload}.s"


# Renewal


async def test_a_login_is_renewed_shortly_before_its_end_and_not_sooner(place: Place) -> None:
    login = await place.log_in()
    identity = place.identity()
    place.pass_time(LIFETIME - RENEW_BEFORE_SECONDS - 1)
    assert (await identity.fresh()).token == login.token
    assert place.refreshes == 0
    place.pass_time(1)
    fresh = await identity.fresh()
    assert fresh.token != login.token
    assert place.issuer.verify(fresh.token or "")["sub"] == "alice"
    assert (await identity.fresh(), identity.current()) == (fresh, fresh)
    assert place.refreshes == 1


async def test_the_end_of_a_login_is_known_by_its_token_too(place: Place) -> None:
    login = await place.log_in(expires_at=None)
    place.pass_time(LIFETIME - RENEW_BEFORE_SECONDS)
    assert (await place.identity().fresh()).token != login.token


async def test_each_refresh_token_is_used_once_and_all_else_of_the_login_stays(
    place: Place,
) -> None:
    login = await place.log_in()
    for _ in range(3):
        place.pass_time(LIFETIME)
        await place.identity().fresh()
    kept = place.kept()
    names = {"token": None, "refresh_token": None, "expires_at": None}
    assert replace(kept, **names) == replace(login, **names)
    assert kept.expires_at == int(place.issuer.clock()) + LIFETIME
    used = [asked.form["refresh_token"] for asked in place.issuer.refreshes()]
    assert len({*used, kept.refresh_token}) == 4
    assert place.issuer.families_revoked == 0


async def test_a_refresh_asks_for_what_dbosctl_asks_for(place: Place) -> None:
    login = await place.log_in()
    place.pass_time(LIFETIME)
    await place.identity().fresh()
    (asked,) = place.issuer.refreshes()
    assert asked.form == {
        "grant_type": "refresh_token",
        "refresh_token": login.refresh_token,
        "client_id": place.issuer.as_issuer().client_id,
    }


async def test_the_refresh_token_is_kept_where_the_issuer_gives_no_other(place: Place) -> None:
    login = await place.log_in()
    answer = {"access_token": "opaque", "token_type": "Bearer"}
    place.issuer.faults[TOKEN].append(JSONResponse(answer))
    place.pass_time(LIFETIME)
    await place.identity().fresh()
    kept = place.kept()
    assert (kept.token, kept.refresh_token) == ("opaque", login.refresh_token)
    assert kept.ends_at is None


async def test_tasks_of_one_process_ask_once(place: Place) -> None:
    await place.log_in()
    place.pass_time(LIFETIME)
    identity = place.identity()
    got: list[Credentials] = []

    async def ask() -> None:
        got.append(await identity.fresh())

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(ask)
    assert got == [Credentials("acme", place.kept().token)] * 10
    assert (place.refreshes, place.issuer.families_revoked) == (1, 0)


async def test_what_the_issuer_gave_is_kept_when_nobody_waits_for_it_any_more(
    place: Place,
) -> None:
    login = await place.log_in()
    place.pass_time(LIFETIME)
    hold = Hold()
    place.issuer.faults[TOKEN].append(hold)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(place.identity().fresh)
        await anyio.to_thread.run_sync(hold.arrived.wait)
        tasks.cancel_scope.cancel()
        hold.release.set()
    assert place.kept().token != login.token
    await place.identity().fresh()
    assert (place.refreshes, place.issuer.families_revoked) == (1, 0)


async def test_on_a_full_disk_the_issuer_is_not_asked_for_what_could_not_be_kept(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = await place.log_in()
    identity = place.identity()

    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    place.pass_time(LIFETIME - 1)
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", disk_full)
        assert (await identity.fresh()).token == login.token
        place.pass_time(1)
        with pytest.raises(AuthenticationError, match="No space left on device"):
            await identity.fresh()
    assert (place.refreshes, place.kept()) == (0, login)
    place.pass_time(TRY_AGAIN_SECONDS)
    assert (await identity.fresh()).token == place.kept().token != login.token


# Logins that end


@pytest.mark.parametrize("known_by", ["the file", "the token"])
async def test_a_login_that_cannot_be_renewed_ends_before_the_first_401(
    place: Place, known_by: str
) -> None:
    place.issuer.offline_access = False
    login = await place.log_in()
    if known_by == "the token":
        await place.store.save(replace(login, expires_at=None))
    identity = place.identity()
    place.pass_time(LIFETIME - 1)
    assert (await identity.fresh(), identity.current()) == (Credentials("acme", login.token),) * 2
    place.pass_time(1)
    with pytest.raises(AuthenticationError) as caught:
        await identity.fresh()
    assert caught.value.message == f"The login of alice ended at {end_of(login)}."
    assert caught.value.hint == LOG_IN
    with pytest.raises(AuthenticationError, match="ended at"):
        identity.current()
    assert identity.described() == f"alice of acme, ended at {end_of(login)}"
    assert identity.organization() == "acme"
    assert not place.issuer.requests


async def test_a_login_whose_end_is_unknown_goes_on_until_a_401(place: Place) -> None:
    await place.log_in(token="opaque", refresh_token=None, expires_at=None)
    identity = place.identity()
    place.pass_time(10**9)
    credentials = await identity.fresh()
    assert credentials.token == "opaque"
    assert await identity.after_refusal(credentials) is None
    assert identity.described() == "alice of acme"


async def test_a_refused_token_is_renewed_once(place: Place) -> None:
    login = await place.log_in()
    identity = place.identity()
    refused = await identity.fresh()
    others = await identity.after_refusal(refused)
    assert others is not None
    assert others.token == place.kept().token != login.token
    # A task that was refused at the same time finds what the first one got.
    assert await identity.after_refusal(refused) == others
    assert place.refreshes == 1


async def test_nobody_is_there_before_a_login(place: Place) -> None:
    identity = place.identity()
    for ask in (identity.current, identity.organization):
        with pytest.raises(AuthenticationError) as caught:
            ask()
        assert caught.value.message == "Nobody is logged in to Conductor at conductor.test."
        assert caught.value.hint == LOG_IN
    with pytest.raises(AuthenticationError, match="Nobody is logged in"):
        await identity.fresh()
    assert identity.described() == "Nobody is logged in to Conductor at conductor.test."


# What other processes do


async def test_what_another_process_does_to_the_login_counts_at_once(place: Place) -> None:
    identity = place.identity()
    first = await place.log_in()
    assert (await identity.fresh()).token == first.token

    second = await place.log_in(organization="umbrella")
    assert await identity.fresh() == Credentials("umbrella", second.token)
    assert await identity.after_refusal(Credentials("acme", first.token)) == identity.current()

    place.pass_time(LIFETIME)
    await place.identity().fresh()
    assert (await identity.fresh()).token == place.kept().token != second.token
    assert place.refreshes == 1

    await place.store.save(Login(user_name="alice", organization="umbrella", url=URL))
    with pytest.raises(AuthenticationError, match="Nobody is logged in"):
        await identity.fresh()
    assert identity.organization() == "umbrella"


async def test_a_logout_while_a_renewal_waits_for_its_turn_is_not_undone(place: Place) -> None:
    await place.log_in()
    place.pass_time(LIFETIME)
    gone = Login(organization="acme", url=URL)
    refused = []

    async def ask() -> None:
        with pytest.raises(AuthenticationError, match="Nobody is logged in") as caught:
            await place.identity().fresh()
        refused.append(caught.value)

    async with anyio.create_task_group() as tasks, place.store.exclusively() as save:
        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        save(gone)
    assert (place.kept(), place.refreshes, len(refused)) == (gone, 0, 1)


# Issuers that do not renew


async def test_a_refresh_token_that_will_not_do_is_dropped_for_everybody(place: Place) -> None:
    login = await place.log_in()
    place.issuer.revoke(login.refresh_token or "")
    place.pass_time(LIFETIME - 1)
    identity = place.identity()
    for each in (identity, identity, place.identity()):
        assert (await each.fresh()).token == login.token
    assert place.kept() == replace(login, refresh_token=None)
    assert place.refreshes == 1
    assert identity.described() == f"alice of acme, until {end_of(login)}"
    assert await identity.after_refusal(identity.current()) is None
    place.pass_time(1)
    with pytest.raises(AuthenticationError, match="The login of alice ended at"):
        await identity.fresh()


async def test_a_login_that_ended_and_cannot_be_renewed_says_so(place: Place) -> None:
    login = await place.log_in()
    place.issuer.revoke(login.refresh_token or "")
    place.pass_time(LIFETIME)
    for each in (place.identity(), place.identity()):
        with pytest.raises(AuthenticationError) as caught:
            await each.fresh()
        assert caught.value.message == f"The login of alice ended at {end_of(login)}."
        assert caught.value.hint == LOG_IN
    assert place.refreshes == 1


AWAY = [Drop(), JSONResponse({}, 503), JSONResponse({}, 429)]
REFUSING = [
    JSONResponse({"error": "invalid_client"}, 401),
    JSONResponse({"error": "unauthorized_client"}, 400),
    JSONResponse({"access_token": ["not a token"]}),
]


@pytest.mark.parametrize(
    ("fault", "error"),
    [(fault, UnavailableError) for fault in AWAY]
    + [(fault, AuthenticationError) for fault in REFUSING],
)
async def test_an_issuer_that_does_not_renew_is_asked_again_later(
    place: Place, fault: Drop | JSONResponse, error: type[DbosMcpError]
) -> None:
    login = await place.log_in()
    identity = place.identity()
    place.issuer.faults[TOKEN].extend([fault, fault])
    place.pass_time(LIFETIME - TRY_AGAIN_SECONDS)
    for _ in range(2):
        assert (await identity.fresh()).token == login.token
    assert place.refreshes == 1
    place.pass_time(TRY_AGAIN_SECONDS)
    for _ in range(2):
        with pytest.raises(error) as caught:
            await identity.fresh()
        assert login.token not in (str(caught.value), repr(caught.value))
    with pytest.raises(error):
        await identity.after_refusal(Credentials("acme", login.token))
    assert (place.refreshes, place.kept()) == (2, login)
    place.pass_time(TRY_AGAIN_SECONDS)
    assert (await identity.fresh()).token != login.token


async def test_an_issuer_that_is_away_at_a_401_is_told_as_such(place: Place) -> None:
    login = await place.log_in()
    place.issuer.faults[DISCOVERY].append(JSONResponse({}, 502))
    identity = place.identity()
    with pytest.raises(UnavailableError, match="login server 127"):
        await identity.after_refusal(await identity.fresh())
    assert (await identity.fresh()).token == login.token


async def test_a_login_of_an_earlier_attempt_does_not_hold_up_the_next(place: Place) -> None:
    await place.log_in()
    identity = place.identity()
    place.pass_time(LIFETIME)
    place.issuer.faults[TOKEN].append(Drop())
    with pytest.raises(UnavailableError):
        await identity.fresh()
    another = await place.log_in()
    assert (await identity.fresh()).token == another.token


# Whom a token goes to


async def test_a_login_to_another_conductor_is_never_sent(place: Place) -> None:
    conductor = SecuredConductor(JSONResponse([]), place.issuer.verify)
    conductor.users["alice"] = Identity("acme")
    with served(conductor) as url:
        await place.log_in(url=url)
        for elsewhere in (url + "/other", url.replace("127.0.0.1", "localhost"), URL):
            identity = place.identity(url=elsewhere)
            async with ConductorClient(elsewhere, identity) as client:
                with pytest.raises(AuthenticationError, match="Nobody is logged in"):
                    await client.list_applications()
        await place.store.save(replace(place.kept(), url=None))  # of DBOS-managed
        identity = place.identity(url=url)
        async with ConductorClient(url, identity) as client:
            with pytest.raises(AuthenticationError, match="Nobody is logged in"):
                await client.list_applications()
            assert not conductor.requests
            login = await place.log_in(url=url)
            assert await client.list_applications() == []
    assert [(asked.token, asked.status) for asked in conductor.requests] == [(login.token, 200)]


async def test_a_refresh_token_goes_to_nobody_but_its_issuer(place: Place) -> None:
    for issuer in ("https://login.example/", None):
        login = await place.log_in(issuer=issuer)
        identity = place.identity()
        assert await identity.after_refusal(await identity.fresh()) is None
        place.pass_time(LIFETIME)
        with pytest.raises(AuthenticationError, match="ended at"):
            await identity.fresh()
        assert place.kept() == login
    assert not place.issuer.requests


async def test_the_organization_that_is_asked_for_wins_over_the_logins(place: Place) -> None:
    login = await place.log_in()
    identity = place.identity(organization="umbrella")
    assert await identity.fresh() == Credentials("umbrella", login.token)
    assert identity.organization() == "umbrella"
    assert identity.described() == "alice of umbrella, renewed by itself"


async def test_an_open_mirror_is_filled_by_its_own_organization_alone(place: Place) -> None:
    await place.log_in()
    identity = place.identity(pinned="acme")
    await identity.fresh()
    other = await place.log_in(organization="umbrella")
    with pytest.raises(AuthenticationError) as caught:
        await identity.fresh()
    assert "one of umbrella, and this mirror is of acme" in caught.value.message
    with pytest.raises(AuthenticationError, match="this mirror is of acme"):
        await identity.after_refusal(Credentials("acme", "x"))
    await place.store.save(replace(other, organization=None))
    assert await identity.fresh() == Credentials("acme", other.token)


async def test_a_login_without_an_organization_asks_for_one(place: Place) -> None:
    await place.log_in(organization=None)
    identity = place.identity()
    for ask in (identity.current, identity.organization):
        with pytest.raises(AuthenticationError, match="organization is unknown") as caught:
            ask()
        assert "DBOS_ORG" in caught.value.hint
    with pytest.raises(AuthenticationError, match="organization is unknown"):
        await identity.fresh()
    assert identity.described() == "alice of an unknown organization, renewed by itself"


# Other places that hold a login


async def test_a_login_of_another_place_is_used_and_never_renewed(place: Place) -> None:
    elsewhere = place.login_of(place.issuer.issue())
    identity = place.identity(fallbacks=(lambda: None, lambda: elsewhere))
    assert await identity.fresh() == Credentials("acme", elsewhere.token)
    assert identity.organization() == "acme"
    assert identity.described() == f"alice of acme, until {end_of(elsewhere)}"
    assert await identity.after_refusal(identity.current()) is None
    place.pass_time(LIFETIME)
    with pytest.raises(AuthenticationError, match="ended at"):
        await identity.fresh()
    assert identity.organization() == "acme"  # whose mirror it is stays known
    assert not place.issuer.requests
    assert place.store.load() is None


@pytest.mark.parametrize(
    ("changes", "organization"),
    [
        ({"url": "https://elsewhere.test"}, None),
        ({"url": None}, None),
        ({"token": None}, None),
        ({}, "umbrella"),
        ({"organization": None}, "umbrella"),
    ],
)
async def test_a_login_of_another_place_is_used_for_what_it_is_for_alone(
    place: Place, changes: dict[str, str | None], organization: str | None
) -> None:
    elsewhere = replace(place.login_of(place.issuer.issue()), **changes)  # type: ignore[arg-type]
    identity = place.identity(organization=organization, fallbacks=(lambda: elsewhere,))
    with pytest.raises(AuthenticationError, match="Nobody is logged in"):
        await identity.fresh()


async def test_the_login_that_was_made_here_wins_until_it_has_ended(place: Place) -> None:
    place.issuer.offline_access = False
    own = await place.log_in()
    place.pass_time(LIFETIME / 2)
    ended = replace(own, token="another", expires_at=1)
    elsewhere = place.login_of(place.issuer.issue())
    identity = place.identity(fallbacks=(lambda: ended, lambda: elsewhere))
    assert (await identity.fresh()).token == own.token
    # Refused before its time, it is not replaced by another's without a word.
    assert await identity.after_refusal(identity.current()) is None
    place.pass_time(LIFETIME / 2)
    assert (await identity.fresh()).token == elsewhere.token
    place.pass_time(LIFETIME / 2)
    with pytest.raises(AuthenticationError, match=f"ended at {end_of(own)}"):
        await identity.fresh()


async def test_a_logout_here_counts_whoever_else_is_logged_in(place: Place) -> None:
    elsewhere = place.login_of(place.issuer.issue())
    identity = place.identity(fallbacks=(lambda: elsewhere,))
    await identity.fresh()
    await place.store.save(Login(organization="acme", url=URL))
    with pytest.raises(AuthenticationError, match="Nobody is logged in"):
        await identity.fresh()
    # A login that was ended was one to that Conductor.
    await place.store.save(Login(organization="acme", url="https://elsewhere.test"))
    assert (await identity.fresh()).token == elsewhere.token


# Tokens that somebody else keeps


async def test_a_fixed_token_ends_when_it_says_so(place: Place) -> None:
    token = place.issuer.issue().access_token
    end = format_time(int(place.issuer.clock() + LIFETIME) * 1000)
    identity = FixedIdentity(Credentials("acme", token), "Set it.", clock=place.issuer.clock)
    place.pass_time(LIFETIME - 1)
    assert await identity.fresh() == identity.current() == Credentials("acme", token)
    assert identity.described() == f"a token of acme, until {end}"
    place.pass_time(1)
    with pytest.raises(AuthenticationError) as caught:
        await identity.fresh()
    assert (caught.value.message, caught.value.hint) == (f"DBOS_TOKEN ended at {end}.", "Set it.")
    assert token not in identity.described()
    assert await identity.after_refusal(Credentials("acme", token)) is None


def test_an_api_key_and_nobody_have_no_end() -> None:
    key = FixedIdentity(Credentials("acme", "dbos_canary.canary.canary"), clock=lambda: 1e18)
    assert key.current().token == "dbos_canary.canary.canary"
    assert key.described() == "an API key of acme"
    assert FixedIdentity(Credentials("local")).described() == "nobody in particular, of local"


# What tokens say


payloads = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.just("exp") | st.text(), inner),
)
tokens = (
    st.text()
    | st.binary().map(lambda b: f"a.{base64.urlsafe_b64encode(b).decode()}.c")
    | payloads.map(lambda value: jwt(exp=value))
    | st.integers(-(10**400), 10**400).map(lambda value: jwt(exp=value))
)


@given(tokens)
@example(jwt(exp=10**18))
@example(jwt(exp=-(10**18)))
@example(jwt(exp=10**4299))
@example("a." + base64.urlsafe_b64encode(b"9" * 5000).decode() + ".c")
@example("a." + base64.urlsafe_b64encode(b"[" * 100_000).decode() + ".c")
@example("a.\ud800.c")
@example("..")
def test_no_token_spoils_what_is_said_of_it(token: str) -> None:
    ends_at = expiry_of(token)
    assert ends_at is None or isinstance(ends_at, int)
    fixed = FixedIdentity(Credentials("acme", token), clock=lambda: 1e9)
    assert fixed.described()
    try:
        fixed.current()
    except AuthenticationError as error:
        assert ends_at is not None
        assert "ended at" in error.message


@pytest.mark.parametrize("ends_at", [10**18, 10**400, -1, -(10**18), 2**63])
async def test_a_time_that_no_calendar_has_is_told_as_such(place: Place, ends_at: int) -> None:
    for changes in ({"expires_at": ends_at}, {"expires_at": None, "token": jwt(exp=ends_at)}):
        await place.log_in(**changes, refresh_token=None)
        identity = place.identity()
        assert ("ended at " if ends_at < 0 else ", until ") in identity.described()
        if ends_at < 0:
            with pytest.raises(AuthenticationError, match="ended at "):
                await identity.fresh()
        else:
            assert (await identity.fresh()).organization == "acme"


async def test_a_description_shows_no_token_and_a_damaged_file_does_not_spoil_it(
    place: Place, tmp_path: Path
) -> None:
    login = await place.log_in()
    identity = place.identity()
    shown = identity.described() + repr(identity.current())
    assert login.token is not None
    assert login.refresh_token is not None
    assert login.token not in shown
    assert login.refresh_token not in shown
    file = tmp_path / "home" / "credentials"
    file.write_text('{"token": "canary')
    assert "damaged" in identity.described()
    assert not file.exists()  # it was set aside
    file.mkdir()
    assert "cannot be read" in identity.described()
