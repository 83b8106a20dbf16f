"""Who asks, until when, and what they may."""

import json
import stat
from pathlib import Path

import pytest

from dbos_mcp.doctor.finding import Status
from dbos_mcp.settings import Settings
from tests.doctor.conftest import Place, token
from tests.doctor.looking import found_at


def keep(settings: Settings, mode: int = 0o600, **login: object) -> Path:
    path = settings.credentials_path
    path.parent.mkdir(mode=0o700, exist_ok=True)
    kept = {"userName": "alice", "organization": "acme", "url": settings.address, **login}
    path.write_text(json.dumps({"logins": {settings.profile or settings.address: kept}}))
    path.chmod(mode)
    return path


def test_nobody_is_logged_in(place: Place) -> None:
    found = found_at(place.settings)
    assert found.failing == ["account.login"]
    assert found.exit_code == 3
    assert "`dbos-mcp login`" in found.one("account.login").next_step
    assert found.one("network.conductor").status is Status.OK
    assert found.one("account.permissions").status is Status.SKIP
    assert found.one("cache.file").status is Status.SKIP


def test_a_user_who_may_do_all(place: Place) -> None:
    found = found_at(place.as_user())
    assert found.failing == []
    assert found.one("account.permissions").facts == {
        "role": "role_of_tests",
        "read": True,
        "write": True,
    }
    told = [each.message for each in found.all("conductor.applications")]
    assert told == [
        "1 of 2 connected",
        "mail: not connected (unavailable)",
        "shop: 1 executor, 1 gone or going",
    ]
    asked = place.conductor.requests
    assert {each.method for each in asked} == {"GET"}
    assert len(asked) == 3


def test_a_user_who_may_only_read_is_a_warning(place: Place) -> None:
    found = found_at(place.as_user("reader"))
    assert found.failing == []
    assert found.one("account.permissions").status is Status.WARN
    read_only = found_at(place.as_user("reader", read_only=True))
    assert read_only.one("account.permissions").status is Status.OK


def test_a_user_who_may_do_nothing(place: Place) -> None:
    found = found_at(place.as_user("nobody"))
    assert found.failing == ["account.permissions"]
    assert "application.read" in found.one("account.permissions").message


def test_a_plan_that_is_past_its_limit(place: Place) -> None:
    place.conductor.past_limit = True
    found = found_at(place.as_user())
    assert "account.organization" in found.failing
    assert "past the limit" in found.one("account.organization").message


def test_another_organization_than_the_users(place: Place) -> None:
    found = found_at(place.as_user().model_copy(update={"organization": "umbrella"}))
    assert "account.organization" in found.failing
    assert "alice is of acme" in found.one("account.organization").message


def test_an_api_key_with_its_organization_and_without(place: Place) -> None:
    found = found_at(place.with_(token="dbos_key", organization="acme"))
    assert found.failing == []
    assert found.one("account.login").facts["kind"] == "api key"
    assert found.one("account.permissions").facts == {"read": True}
    without = found_at(place.with_(token="dbos_key"))
    assert without.failing == ["account.login"]
    assert "DBOS_ORG" in without.one("account.login").next_step
    assert without.exit_code == 1


def test_a_token_without_its_organization_is_told_which_it_is(place: Place) -> None:
    found = found_at(place.with_(token=token("alice")))
    assert found.failing == ["account.login"]
    assert found.one("account.organization").facts["organization"] == "acme"


def test_credentials_that_conductor_does_not_take(place: Place) -> None:
    found = found_at(place.with_(token="dbos_other", organization="acme"))
    assert found.failing == ["account.accepted"]
    assert found.exit_code == 3


@pytest.mark.parametrize(("seconds", "status"), [(-60, Status.FAIL), (60, Status.WARN)])
def test_a_token_that_has_ended_or_is_about_to(place: Place, seconds: int, status: Status) -> None:
    found = found_at(place.as_user(seconds=seconds))
    assert found.one("account.login").status is status
    assert found.exit_code == (3 if status is Status.FAIL else 0)


def test_a_login_that_ended_and_is_not_renewed(place: Place) -> None:
    keep(place.settings, token=token("alice", -60))
    found = found_at(place.settings)
    assert found.failing == ["account.login"]
    assert found.exit_code == 3
    assert not any(each.token for each in place.conductor.requests)


def test_a_login_that_ended_is_not_renewed_by_looking(place: Place) -> None:
    path = keep(
        place.settings,
        token=token("alice", -60),
        refreshToken="refresh",
        issuer="http://127.0.0.1:1",
    )
    before = path.read_bytes()
    found = found_at(place.settings)
    assert found.failing == []
    assert "the next request renews it" in found.one("account.login").message
    assert "dbos-mcp whoami" in found.one("account.accepted").message
    assert path.read_bytes() == before
    assert not any(each.token for each in place.conductor.requests)


def test_a_file_that_others_can_read_stays_as_it_is(place: Place) -> None:
    path = keep(place.settings, 0o644, token=token("alice"))
    found = found_at(place.settings)
    assert found.failing == []
    assert found.one("account.file").status is Status.WARN
    assert "`chmod 600 ~/.dbos-mcp/credentials`" in found.one("account.file").next_step
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_file_that_cannot_be_parsed_stays_where_it_is(place: Place) -> None:
    path = keep(place.settings)
    path.write_text("{canary_77")
    found = found_at(place.settings)
    assert found.failing == ["account.login"]
    assert found.exit_code == 3
    assert "damaged" in found.one("account.login").message
    assert "canary" not in found.texts()
    assert [each.name for each in path.parent.iterdir()] == ["credentials"]


def test_a_login_that_is_borrowed_from_dbosctl(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "dbos"
    folder.mkdir()
    logins = {"prod": {"token": token("alice"), "userName": "alice", "organization": "acme"}}
    (folder / "credentials.json").write_text(json.dumps(logins))
    found = found_at(place.with_(profile="prod", dbosctl_folder=folder, auth="bearer"))
    assert found.failing == []
    assert found.one("account.login").facts["borrowed"] is True
    assert found.one("account.organization").message.startswith("acme")


def test_no_application_and_none_connected_are_warnings(place: Place) -> None:
    del place.applications[0]
    found = found_at(place.as_user())
    assert found.all("conductor.applications")[0].status is Status.WARN
    place.applications.clear()
    found = found_at(place.as_user())
    assert found.one("conductor.applications").status is Status.WARN
    assert found.exit_code == 0


def test_many_applications_cost_no_more_requests(place: Place) -> None:
    place.applications += [
        {"id": str(number), "name": f"app-{number}", "status": "AVAILABLE"} for number in range(200)
    ]
    found = found_at(place.as_user())
    assert len(found.all("conductor.applications")) < 12
    assert len(place.conductor.requests) <= 6
