"""Logging in, logging out, asking who one is: at a real issuer and a Conductor that trusts it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import stamina
from pydantic import SecretStr
from starlette.responses import JSONResponse

from dbos_mcp.conductor.credentials import CredentialStore, Login
from dbos_mcp.errors import (
    AuthenticationError,
    LoginError,
    LoginPendingError,
    PermissionDeniedError,
    UnavailableError,
    UsageError,
)
from dbos_mcp.login import NOT_REGISTERED, LoginFlow, issuer_of, log_out, who_am_i
from dbos_mcp.runtime import identity_of, locate_cache, login_store
from dbos_mcp.settings import MANAGED_ISSUER, Settings
from tests.loopback import served
from tests.oauth_server import AUDIENCE, CLIENT_ID, REVOKE, TOKEN, Drop, OAuthServer
from tests.secured_conductor import Identity, SecuredConductor

KEY = "dbos_canary_key"


@dataclass
class Place:
    """A Conductor whose users log in at an issuer; alice is registered, bob is not."""

    issuer: OAuthServer
    conductor: SecuredConductor
    settings: Settings

    def flow(self, settings: Settings | None = None) -> LoginFlow:
        clock = self.issuer.clock
        return LoginFlow(settings or self.settings, clock=clock, sleep=clock.sleep)

    async def log_in(self, subject: str = "alice", settings: Settings | None = None) -> Login:
        flow = self.flow(settings)
        self.issuer.approve((await flow.begin()).user_code, subject)
        return (await flow.complete(60)).login

    def with_(self, **changes: object) -> Settings:
        return self.settings.model_copy(update=changes)

    def kept(self) -> Login:
        login = login_store(self.settings).load()
        assert login is not None
        return login

    def asked(self) -> list[tuple[str, int]]:
        return [(asked.path, asked.status) for asked in self.conductor.requests]


@pytest.fixture(autouse=True)
def nothing_is_repeated() -> Iterator[None]:
    with stamina.set_testing(True, attempts=1):
        yield


@pytest.fixture
def place(oauth_server: OAuthServer, tmp_path: Path) -> Iterator[Place]:
    conductor = SecuredConductor(JSONResponse([]), oauth_server.verify)
    conductor.users["alice"] = Identity("acme")
    conductor.keys[KEY] = Identity("acme")
    with served(conductor) as url:
        settings = Settings(
            home=tmp_path,
            url=url,
            issuer_url=oauth_server.url,
            client_id=CLIENT_ID,
            audience=AUDIENCE,
        )
        yield Place(oauth_server, conductor, settings)


# Logging in


async def test_a_login_learns_the_names_and_is_used_from_then_on(place: Place) -> None:
    flow = place.flow()
    device = await flow.begin()
    assert flow.device == device
    with pytest.raises(LoginPendingError):
        await flow.complete(1)
    place.issuer.approve(device.user_code)
    done = await flow.complete(60)
    assert (done.login, done.problem) == (place.kept(), None)
    login = done.login
    assert (login.user_name, login.organization) == ("alice", "acme")
    assert (login.url, login.issuer) == (place.settings.address, place.issuer.url)
    assert place.issuer.verify(login.token or "")["aud"] == AUDIENCE
    assert login.ends_at is not None
    assert login.refresh_token is not None
    credentials = await identity_of(place.settings).fresh()
    assert (credentials.organization, credentials.token) == ("acme", login.token)
    assert locate_cache(place.settings).name.endswith("-acme.sqlite")
    assert flow.device is None
    with pytest.raises(LoginError, match="No login is under way"):
        await flow.complete(60)


async def test_the_login_to_managed_is_kept_where_earlier_versions_kept_it(place: Place) -> None:
    managed = Settings(home=place.settings.home)
    assert issuer_of(managed) == MANAGED_ISSUER
    await login_store(managed).save(Login(token="t", organization="acme"))
    file = json.loads(managed.credentials_path.read_text())
    assert (file["token"], file["organization"]) == ("t", "acme")
    await place.log_in()
    file = json.loads(managed.credentials_path.read_text())
    assert file["token"] == "t"
    assert list(file["logins"]) == [place.settings.address]


async def test_a_user_who_is_not_registered_is_logged_in_and_named_later(place: Place) -> None:
    flow = place.flow()
    place.issuer.approve((await flow.begin()).user_code, "bob")
    for _ in range(2):
        done = await flow.complete(60)
        assert done.problem == NOT_REGISTERED
        assert done.login == place.kept()
        assert done.login.organization is None
    with pytest.raises(AuthenticationError, match="organization is unknown"):
        locate_cache(place.settings)
    place.conductor.users["bob"] = Identity("umbrella")
    done = await flow.complete(60)
    assert (done.problem, done.login.organization) == (None, "umbrella")
    assert (done.login, flow.device) == (place.kept(), None)
    assert len(place.issuer.polls()) == 1


async def test_completing_again_does_not_bring_back_what_was_renewed_meanwhile(
    place: Place,
) -> None:
    flow = place.flow()
    place.issuer.approve((await flow.begin()).user_code, "bob")
    first = (await flow.complete(60)).login
    await login_store(place.settings).save(replace(first, expires_at=1))
    await who_am_i(place.settings)
    renewed = place.kept()
    assert renewed.refresh_token != first.refresh_token
    assert (await flow.complete(60)).login == renewed


async def test_a_conductor_that_is_away_does_not_cost_the_login(place: Place) -> None:
    away = place.with_(url="http://127.0.0.1:1")
    flow = place.flow(away)
    place.issuer.approve((await flow.begin()).user_code)
    done = await flow.complete(60)
    assert done.problem is not None
    assert "could not be asked for: Conductor at 127.0.0.1:1 cannot be reached" in done.problem
    kept = login_store(away).load()
    assert kept is not None
    assert place.issuer.verify(kept.token or "")
    assert flow.device is not None


async def test_a_conductor_that_does_not_take_the_token_is_told_as_such(place: Place) -> None:
    place.issuer.audience = None
    unwanted = place.with_(audience="another-api")
    flow = place.flow(unwanted)
    place.issuer.approve((await flow.begin()).user_code)
    place.issuer.audience = AUDIENCE
    done = await flow.complete(60)
    assert done.problem is not None
    assert "does not accept the credentials" in done.problem
    assert (place.kept().token or "canary") not in done.problem


async def test_the_organization_that_is_set_stands_in_for_the_one_that_is_not_told(
    place: Place,
) -> None:
    settings = place.with_(organization="umbrella")
    flow = place.flow(settings)
    place.issuer.approve((await flow.begin()).user_code, "bob")
    done = await flow.complete(60)
    assert (done.problem, done.login.organization) == (None, "umbrella")
    login = await place.log_in("alice", settings)
    assert (login.user_name, login.organization) == ("alice", "acme")
    assert identity_of(settings).current().organization == "umbrella"


async def test_of_two_logins_the_one_that_began_last_is_completed(place: Place) -> None:
    flow = place.flow()
    first, second = await flow.begin(), await flow.begin()
    place.issuer.approve(first.user_code, "mallory")
    with pytest.raises(LoginPendingError):
        await flow.complete(10)
    place.issuer.approve(second.user_code)
    assert (await flow.complete(60)).login.user_name == "alice"
    flow.abandon()
    with pytest.raises(LoginError, match="No login is under way"):
        await flow.complete(10)


async def test_a_login_that_cannot_be_kept_can_be_completed_again(place: Place) -> None:
    flow = place.flow()
    place.issuer.approve((await flow.begin()).user_code)
    place.settings.folder.write_text("in its way")
    with pytest.raises(LoginError, match="cannot be written"):
        await flow.complete(60)
    place.settings.folder.unlink()
    assert (await flow.complete(60)).login.user_name == "alice"
    assert len(place.issuer.polls()) == 1


SOMEWHERE = "http://conductor.test"


@pytest.mark.parametrize(
    ("settings", "reason", "hint"),
    [
        (Settings(offline=True), "from the cache only", ""),
        (Settings(token=SecretStr(KEY)), "DBOS_TOKEN is set", ""),
        (Settings(url=SOMEWHERE), "without a login", ""),
        (Settings(auth="none"), "without a login", ""),
        (Settings(url=SOMEWHERE, auth="bearer"), "issuer is not known", "DBOS_MCP_ISSUER"),
        (Settings(system_database_url=SecretStr("sqlite:////a")), "without a login", ""),
        (
            Settings(system_database_url=SecretStr("sqlite:////a"), token=SecretStr(KEY)),
            "without a login",
            "",
        ),
    ],
)
async def test_where_there_is_nothing_to_log_in_to_it_says_why(
    settings: Settings, reason: str, hint: str
) -> None:
    for ask in (LoginFlow(settings).begin, lambda: log_out(settings)):
        with pytest.raises(UsageError, match=reason) as caught:
            await ask()
        assert hint in caught.value.hint
        assert "canary" not in str(caught.value)


# Logging out


async def test_a_logout_ends_the_login_here_and_at_the_issuer_and_leaves_the_names(
    place: Place,
) -> None:
    login = await place.log_in()
    cache = locate_cache(place.settings)
    gone = await log_out(place.settings)
    assert (gone.who, gone.revoked, gone.borrowed) == (login, True, False)
    (asked,) = (asked for asked in place.issuer.requests if asked.path == REVOKE)
    assert asked.form["token"] == login.refresh_token
    kept = place.kept()
    assert (kept.token, kept.refresh_token, kept.expires_at) == (None, None, None)
    assert (kept.user_name, kept.organization) == ("alice", "acme")
    assert locate_cache(place.settings) == cache
    with pytest.raises(AuthenticationError, match="Nobody is logged in"):
        await who_am_i(place.settings)
    again = await log_out(place.settings)
    assert (again.who, again.revoked) == (None, False)


@pytest.mark.parametrize("trouble", ["no such endpoint", "away", "no refresh token", "refused"])
async def test_a_logout_counts_here_whatever_the_issuer_does(place: Place, trouble: str) -> None:
    match trouble:
        case "no such endpoint":
            del place.issuer.discovery["revocation_endpoint"]
        case "away":
            place.issuer.faults[REVOKE].append(Drop())
        case "refused":
            error = {"error": "unsupported_token_type"}
            place.issuer.faults[REVOKE].append(JSONResponse(error, 400))
        case _:
            place.issuer.offline_access = False
    login = await place.log_in()
    gone = await log_out(place.settings)
    assert (gone.who, gone.revoked) == (login, False)
    assert place.kept().token is None


async def test_a_refresh_token_of_another_issuer_is_not_sent_to_this_one(place: Place) -> None:
    login = await place.log_in()
    for other in (
        replace(login, issuer="https://login.example/"),
        replace(login, url="https://conductor.test"),
    ):
        await login_store(place.settings).save(other)
        assert (await log_out(place.settings)).revoked is False
    assert REVOKE not in [asked.path for asked in place.issuer.requests]


async def test_dbosctls_login_is_not_used_after_a_logout_and_left_as_it_is(place: Place) -> None:
    folder = place.settings.home / "dbos"
    folder.mkdir()
    token = place.issuer.issue().access_token
    entry = {"token": token, "refreshToken": "canary", "organization": "acme"}
    (folder / "credentials.json").write_text(json.dumps({"sso": entry}))
    settings = place.with_(profile="sso", dbosctl_folder=folder)
    assert (await who_am_i(settings)).organization == "acme"
    gone = await log_out(settings)
    assert gone.who is not None
    assert (gone.who.token, gone.revoked, gone.borrowed) == (token, False, True)
    assert json.loads((folder / "credentials.json").read_text()) == {"sso": entry}
    with pytest.raises(AuthenticationError, match="Nobody is logged in"):
        await who_am_i(settings)
    assert REVOKE not in [asked.path for asked in place.issuer.requests]
    await place.log_in(settings=settings)
    assert (await who_am_i(settings)).user is not None


# Who one is


async def test_a_user_is_told_by_conductors_own_word(place: Place) -> None:
    await place.log_in()
    account = await who_am_i(place.settings)
    assert account.user is not None
    assert (account.user.name, account.organization, account.error) == ("alice", "acme", None)
    assert (account.profile, account.url) == (None, place.settings.address)
    assert account.authentication == "alice of acme, renewed by itself"


@pytest.mark.parametrize("place_of_it", ["own", "dbosctl's"])
async def test_a_login_whose_organization_is_unknown_learns_it(
    place: Place, place_of_it: str
) -> None:
    token = place.issuer.issue().access_token
    settings, folder = place.settings, place.settings.home
    if place_of_it == "own":
        login = Login(token=token, url=settings.address, issuer=place.issuer.url)
        await login_store(settings).save(login)
    else:
        (folder / "credentials.json").write_text(json.dumps({"sso": {"token": token}}))
        settings = place.with_(profile="sso", dbosctl_folder=folder)
    account = await who_am_i(settings)
    assert account.organization == "acme"
    if place_of_it == "own":
        assert (place.kept().user_name, place.kept().organization) == ("alice", "acme")
        assert identity_of(settings).organization() == "acme"
    else:
        assert login_store(settings).load() is None


async def test_a_user_who_is_not_registered_is_told_so(place: Place) -> None:
    await place.log_in("bob")
    account = await who_am_i(place.settings)
    assert (account.user, account.organization, account.error) == (None, None, None)
    assert account.warnings == (NOT_REGISTERED,)
    assert account.authentication == "a user of an unknown organization, renewed by itself"


async def test_an_api_key_has_no_user_and_is_tried(place: Place) -> None:
    settings = place.with_(token=SecretStr(KEY), organization="acme")
    account = await who_am_i(settings)
    assert (account.user, account.organization, account.error) == (None, "acme", None)
    assert account.authentication == "an API key of acme"
    assert place.asked() == [("/v2/orgs/acme/apps", 200)]
    deleted = place.with_(token=SecretStr(KEY + "2"), organization="acme")
    with pytest.raises(AuthenticationError) as caught:
        await who_am_i(deleted)
    assert "The API key in DBOS_TOKEN may have been deleted" in caught.value.hint
    assert KEY not in str(caught.value)
    place.conductor.keys[KEY] = Identity("acme", frozenset())
    account = await who_am_i(settings)
    assert isinstance(account.error, PermissionDeniedError)
    assert "application.read in organization 'acme'" in account.error.message


async def test_a_users_token_that_is_set_tells_its_organization(place: Place) -> None:
    token = place.issuer.issue().access_token
    settings = place.with_(token=SecretStr(token))
    account = await who_am_i(settings)
    assert account.user is not None
    assert account.organization == "acme"
    assert not place.settings.credentials_path.exists()
    place.issuer.revoke(token)
    with pytest.raises(AuthenticationError) as caught:
        await who_am_i(settings)
    assert caught.value.hint == "Set DBOS_TOKEN to a newer one; or unset it, and log in."
    assert token not in str(caught.value)


async def test_without_a_login_one_is_nobody_in_particular(place: Place) -> None:
    with served(JSONResponse([])) as url:
        account = await who_am_i(Settings(home=place.settings.home, url=url))
    assert (account.user, account.organization) == (None, "local")
    assert account.authentication == "nobody in particular, of local"


async def test_a_login_that_is_refused_is_renewed_or_asked_for_anew(place: Place) -> None:
    login = await place.log_in()
    place.issuer.revoke(login.token or "")
    account = await who_am_i(place.settings)
    assert account.user is not None
    assert place.kept().token != login.token
    place.issuer.revoke(place.kept().refresh_token or "")
    with pytest.raises(AuthenticationError, match="does not accept the credentials") as caught:
        await who_am_i(place.settings)
    assert "dbos-mcp login" in caught.value.hint
    assert place.kept().refresh_token is None


async def test_a_conductor_or_an_issuer_that_is_away_is_told_as_such(place: Place) -> None:
    login = await place.log_in()
    await login_store(place.settings).save(replace(login, expires_at=1))
    place.issuer.faults[TOKEN].append(Drop())
    account = await who_am_i(place.settings)
    assert isinstance(account.error, UnavailableError)
    assert "The login server" in account.error.message
    assert (account.checked, account.organization) == (False, "acme")
    away = place.with_(url="http://127.0.0.1:1")
    await CredentialStore(away.credentials_path, away.address).save(replace(login, url=away.url))
    account = await who_am_i(away)
    assert isinstance(account.error, UnavailableError)
    assert "Conductor at 127.0.0.1:1" in account.error.message
