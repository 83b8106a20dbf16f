"""Settings: what the environment means, and where things are."""

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dbos_mcp.errors import UsageError
from dbos_mcp.runtime import identity_of, locate_cache, login_store
from dbos_mcp.settings import (
    DEFAULT_TOOLSETS,
    MANAGED_ISSUER,
    MANAGED_URL,
    ONE_TARGETS_OWN,
    OTHER_DOMAINS_ISSUER,
    Issuer,
    LogLevel,
    Payloads,
    Settings,
    Toolset,
    targets_from_env,
)


def test_without_anything_set_the_target_is_managed() -> None:
    settings = Settings.from_env({"HOME": "/home/alice"})
    assert settings.is_managed
    assert settings.base_url == MANAGED_URL
    assert settings.cache_path("acme") == Path("/home/alice/.dbos-mcp/cloud.dbos.dev-acme.sqlite")


def test_a_flag_wins_over_the_environment_and_an_empty_variable_is_none() -> None:
    environ = {"DBOS_MCP_CACHE": "/a.sqlite", "DBOS_URL": "", "DBOS_MCP_LOG_LEVEL": "info"}
    settings = Settings.from_env(environ, cache=Path("/b.sqlite"), log_level=None)
    assert settings.cache_path("acme") == Path("/b.sqlite")
    assert settings.url is None
    assert settings.log_level is LogLevel.INFO


@pytest.mark.parametrize(
    ("text", "days"), [("7", 7), ("14d", 14), ("all", None), ("ALL", None), ("", 30)]
)
def test_history_is_days_or_all(text: str, days: int | None) -> None:
    assert Settings.from_env({"DBOS_MCP_HISTORY": text}).history == days


@pytest.mark.parametrize(
    ("text", "toolsets"),
    [
        ("default", DEFAULT_TOOLSETS),
        ("all", set(Toolset)),
        ("default,admin", set(Toolset)),
        ("Core, sync", {Toolset.CORE, Toolset.SYNC}),
    ],
)
def test_toolsets_are_named_one_by_one_or_as_a_group(text: str, toolsets: set[Toolset]) -> None:
    assert Settings.from_env({"DBOS_MCP_TOOLSETS": text}).toolsets == toolsets
    assert Settings.from_env({}, toolsets=text).toolsets == toolsets
    assert Settings.from_env({}).toolsets == set(Toolset) - {Toolset.ADMIN}


@pytest.mark.parametrize("text", ["true", "TRUE", "1", "yes", "on", " true "])
def test_read_only_is_true_in_any_of_its_spellings(text: str) -> None:
    assert Settings.from_env({"DBOS_MCP_READ_ONLY": text}).read_only
    assert not Settings.from_env({}).read_only


def test_read_only_can_be_switched_off_in_words_only() -> None:
    assert not Settings.from_env({"DBOS_MCP_READ_ONLY": "false"}).read_only
    assert Settings.from_env({"DBOS_MCP_READ_ONLY": "false"}, read_only=True).read_only


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("DBOS_MCP_READ_ONLY", "treu", "DBOS_MCP_READ_ONLY.*'treu'.*did you mean true?"),
        ("DBOS_MCP_READ_ONLY", "", "DBOS_MCP_READ_ONLY cannot be used: '' is not true or false"),
        ("DBOS_MCP_READ_ONLY", "  ", "DBOS_MCP_READ_ONLY cannot be used"),
        ("DBOS_MCP_READ_ONLY", "2", "Give true, yes,"),
        ("DBOS_MCP_TOOLSETS", "core,amdin", "'amdin' is not a toolset; did you mean admin?"),
        ("DBOS_MCP_TOOLSETS", "core sync", "is not a toolset"),
        ("DBOS_MCP_TOOLSETS", "core,", "'' is not a toolset. Give core, history"),
        ("DBOS_MCP_TOOLSETS", "", "DBOS_MCP_TOOLSETS cannot be used"),
        ("DBOS_MCP_READONLY", "true", "did you mean DBOS_MCP_READ_ONLY?"),
        ("dbos_mcp_read_only", "true", "did you mean DBOS_MCP_READ_ONLY?"),
        ("DBOS_MCP_TOOLSET", "core", "did you mean DBOS_MCP_TOOLSETS?"),
    ],
)
def test_a_slip_in_what_limits_is_an_error_and_allows_nothing(
    variable: str, text: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Settings.from_env({variable: text})


@pytest.mark.parametrize("policy", Payloads)
def test_payloads_are_one_of_the_policies(policy: Payloads) -> None:
    assert Settings.from_env({"DBOS_MCP_PAYLOADS": str(policy)}).payloads is policy
    assert Settings.from_env({}).payloads is Payloads.ERRORS


@pytest.mark.parametrize(
    "environ",
    [
        {"DBOS_URL": "conductor:8090"},
        {"DBOS_URL": "http://"},
        {"DBOS_MCP_HISTORY": "0"},
        {"DBOS_MCP_HISTORY": "-3"},
        {"DBOS_MCP_PAYLOADS": "secrets"},
        {"DBOS_MCP_LOG_LEVEL": "loud"},
    ],
)
def test_a_value_that_cannot_be_used_names_its_variable(environ: dict[str, str]) -> None:
    (variable,) = environ
    with pytest.raises(UsageError, match=variable) as failed:
        Settings.from_env(environ)
    assert "Value error" not in str(failed.value)


def test_each_target_and_organization_has_a_cache_of_its_own() -> None:
    paths = {
        Settings.from_env(environ).cache_path(organization)
        for environ in (
            {},
            {"DBOS_URL": "http://one:8090"},
            {"DBOS_URL": "http://one:8091"},
            {"DBOS_URL": "http://one/api/conductor"},
            {"DBOS_SYSTEM_DATABASE_URL": "sqlite:////a"},
            {"DBOS_SYSTEM_DATABASE_URL": "sqlite:////b"},
        )
        for organization in ("acme", "umbrella")
    }
    assert len(paths) == 12


def test_secrets_are_in_no_repr_and_no_file_name() -> None:
    settings = Settings.from_env(
        {
            "DBOS_TOKEN": "canary-token",
            "DBOS_SYSTEM_DATABASE_URL": "postgresql://u:canary-password@db/x",
        }
    )
    assert "canary" not in repr(settings)
    assert "canary" not in str(settings.cache_path("local"))
    behind_password = Settings.from_env({"DBOS_URL": "http://u:canary@one:8090"})
    assert "canary" not in repr(behind_password)
    assert "canary" not in str(behind_password.cache_path("local"))


# dbosctl's profiles

CONFIG = """
current: managed
profiles:
  managed: {domain: cloud.dbos.dev, org: my_org, app: my-app}
  staging: {domain: staging.dbos.dev}
  sso:
    auth: bearer
    url: "https://conductor.example.com"
    oidc: {issuer: "https://login.example.com", audience: aud, clientID: public}
  both: {domain: cloud.dbos.dev, oidc: {issuer: "https://login.example.com", clientID: public}}
  plain: {auth: none, url: "http://localhost:8090"}
  plain_org: {auth: none, url: "http://localhost:8091", org: umbrella}
  bare: {url: "http://localhost:8092/", org: acme}
  unknown_issuer: {auth: bearer, url: "https://conductor.example.org"}
"""

Environ = Callable[..., dict[str, str]]


@pytest.fixture
def environ(tmp_path: Path) -> Environ:
    """An environment whose home has profiles."""

    def with_home(config: str = CONFIG, **variables: str) -> dict[str, str]:
        folder = tmp_path / "config" / "dbos"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(config)
        return {
            "HOME": str(tmp_path),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "APPDATA": str(tmp_path / "config"),
            **variables,
        }

    return with_home


SSO = Issuer("https://login.example.com", "public", "aud")
PROFILES: dict[str, tuple[str, Issuer | None, bool, str | None]] = {
    "managed": (MANAGED_URL, MANAGED_ISSUER, True, "my_org"),
    "staging": ("https://staging.dbos.dev/conductor", OTHER_DOMAINS_ISSUER, True, None),
    "sso": ("https://conductor.example.com", SSO, True, None),
    "both": (MANAGED_URL, Issuer("https://login.example.com", "public", None), True, None),
    "plain": ("http://localhost:8090", None, False, "local"),
    "plain_org": ("http://localhost:8091", None, False, "umbrella"),
    "bare": ("http://localhost:8092", None, False, "acme"),
    "unknown_issuer": ("https://conductor.example.org", None, True, None),
}


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_says_where_conductor_is_and_how_to_log_in(environ: Environ, name: str) -> None:
    url, issuer, wants_login, organization = PROFILES[name]
    settings = Settings.from_env(environ(), profile=name)
    assert (settings.profile, settings.base_url, settings.issuer) == (name, url, issuer)
    assert (settings.wants_login, settings.known_organization) == (wants_login, organization)
    assert settings == Settings.from_env(environ(DBOS_PROFILE=name))
    assert settings == Settings.from_env(environ(DBOS_PROFILE="nobody"), profile=name)


def test_the_current_profile_is_meant_where_no_address_is_set(environ: Environ) -> None:
    assert Settings.from_env(environ()).profile == "managed"
    assert Settings.from_env(environ(DBOS_PROFILE="", DBOS_URL="")).profile == "managed"
    assert Settings.from_env(environ(DBOS_ORG="umbrella")).profile == "managed"
    assert Settings.from_env(environ("profiles: {a: {org: x}}")).profile is None
    for variables in (
        {"DBOS_URL": "http://other:8090"},
        {"DBOS_SYSTEM_DATABASE_URL": "sqlite:////a"},
    ):
        settings = Settings.from_env(environ(**variables))
        assert (settings.profile, settings.known_organization) == (None, "local")
        assert settings.dbosctl_folder is None
        assert settings == Settings.from_env(environ("", **variables))


def test_a_current_profile_that_is_missing_is_an_error_where_it_is_meant(environ: Environ) -> None:
    config = "current: managad\n" + CONFIG.replace("current: managed", "")
    with pytest.raises(UsageError, match="no profile managad") as caught:
        Settings.from_env(environ(config))
    assert "Did you mean managed?" in caught.value.hint
    assert Settings.from_env(environ(config, DBOS_URL="http://other:8090")).profile is None
    assert Settings.from_env(environ(config), profile="sso").profile == "sso"


OTHER: dict[str, tuple[str, str, object]] = {
    "url": ("DBOS_URL", "http://other:8090", "http://other:8090"),
    "organization": ("DBOS_ORG", "other", "other"),
    "issuer_url": ("DBOS_MCP_ISSUER", "https://other/", "https://other/"),
    "client_id": ("DBOS_MCP_CLIENT_ID", "other", "other"),
    "audience": ("DBOS_MCP_AUDIENCE", "other", "other"),
}


@pytest.mark.parametrize("field", OTHER)
def test_a_flag_wins_over_the_environment_and_that_over_the_profile(
    environ: Environ, field: str
) -> None:
    variable, text, value = OTHER[field]
    config = CONFIG.replace("auth: bearer\n", "auth: bearer\n    org: acme\n")
    of_profile = Settings.from_env(environ(config), profile="sso")
    of_environ = Settings.from_env(environ(config, **{variable: text}), profile="sso")
    of_flag = Settings.from_env(
        environ(config, **{variable: "https://lost"}), profile="sso", **{field: text}
    )
    assert getattr(of_profile, field) not in (None, value)
    assert getattr(of_environ, field) == value
    assert of_flag == of_environ
    # All else is the profile's; but dbosctl's login to it is not for another address.
    changed = {field: value} | ({"dbosctl_folder": None} if field == "url" else {})
    assert of_environ == of_profile.model_copy(update=changed)


def test_a_token_goes_together_with_a_profile(environ: Environ) -> None:
    for name, organization in (("managed", "my_org"), ("plain", "local")):
        settings = Settings.from_env(environ(DBOS_TOKEN="dbos_canary"), profile=name)
        identity = identity_of(settings)
        assert identity.current().token == "dbos_canary"
        assert identity.organization() == organization
    with pytest.raises(UsageError, match="DBOS_TOKEN needs the name of its organization"):
        identity_of(Settings.from_env(environ(DBOS_TOKEN="dbos_canary"), profile="sso"))
    both = environ(DBOS_TOKEN="dbos_canary", DBOS_ORG="acme")
    assert identity_of(Settings.from_env(both, profile="sso")).organization() == "acme"


def test_a_system_database_is_asked_without_a_token(environ: Environ) -> None:
    settings = Settings.from_env(
        environ(DBOS_TOKEN="dbos_canary", DBOS_SYSTEM_DATABASE_URL="sqlite:////a", DBOS_ORG="x")
    )
    assert identity_of(settings).current().token is None
    assert settings.known_organization == "local"


@pytest.mark.parametrize(
    ("config", "variables", "words"),
    [
        ("", {"DBOS_URL": "http://cloud.dbos.dev/conductor"}, ["DBOS_URL", "https only"]),
        ("", {"DBOS_URL": "http://CLOUD.dbos.dev.:80"}, ["DBOS_URL", "https only"]),
        ("profiles: {p: {url: 'http://cloud.dbos.dev'}}", {"DBOS_PROFILE": "p"},
         ["DBOS_URL (of dbosctl's profile p)", "https only"]),
        ("profiles: {p: {url: 'ftp://u:canary@x'}}", {"DBOS_PROFILE": "p"},
         ["DBOS_URL (of dbosctl's profile p)"]),
        ("profiles: {p: {auth: canary}}", {"DBOS_PROFILE": "p"}, ["The profile p", "auth"]),
        ("", {"DBOS_URL": "u:canary@x"}, ["DBOS_URL"]),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_told_by_its_name_and_never_by_its_value(
    environ: Environ, config: str, variables: dict[str, str], words: list[str]
) -> None:
    given = environ(config, **variables, DBOS_TOKEN="canary", DBOS_ORG="acme")
    with pytest.raises(UsageError) as caught:
        Settings.from_env(given)
    assert all(word in caught.value.message for word in words)
    assert "canary" not in "".join(traceback.format_exception(caught.value))


def test_an_address_that_is_not_a_managed_one_by_case_and_dot_is(environ: Environ) -> None:
    assert Settings.from_env(environ(DBOS_URL="https://Cloud.DBOS.dev.:443/conductor")).is_managed
    assert not Settings.from_env(environ(DBOS_URL="https://cloud.dbos.dev.example")).is_managed


# Several targets


def where(settings: Settings) -> tuple[Path, object]:
    return locate_cache(settings), vars(login_store(settings))["_name"]


def test_each_profile_has_a_cache_and_a_login_of_its_own(environ: Environ) -> None:
    config = CONFIG.replace("{domain: staging.dbos.dev}", "{domain: staging.dbos.dev, org: acme}")
    names = ["managed", "staging", "plain", "plain_org", "bare"]
    targets = targets_from_env(environ(config), profiles=names)
    assert [settings.profile for settings in targets] == names
    assert targets == tuple(Settings.from_env(environ(config), profile=name) for name in names)
    places = [where(settings) for settings in targets]
    assert len({cache for cache, _ in places}) == len({name for _, name in places}) == 5
    alone = Settings.from_env({**environ(""), "DBOS_URL": "http://localhost:8090"})
    assert where(alone)[1] not in {name for _, name in places}


def test_profiles_are_named_by_a_variable_too_and_all_begins_with_the_current_one(
    environ: Environ,
) -> None:
    def profiles(**variables: str) -> list[str | None]:
        return [settings.profile for settings in targets_from_env(environ(**variables))]

    assert profiles(DBOS_MCP_PROFILES=" sso , managed,sso,") == ["sso", "managed"]
    assert profiles(DBOS_MCP_PROFILES="sso") == ["sso"]
    assert profiles(DBOS_MCP_PROFILES="") == ["managed"]
    assert profiles(DBOS_MCP_PROFILES="sso,bare", DBOS_PROFILE="plain") == ["plain"]
    assert profiles(DBOS_MCP_PROFILES="all") == ["managed", *sorted(set(PROFILES) - {"managed"})]
    flags = targets_from_env(environ(DBOS_MCP_PROFILES="sso"), profiles=("bare",))
    assert [settings.profile for settings in flags] == ["bare"]


def test_of_all_profiles_one_that_cannot_be_used_is_not_left_out_without_a_word(
    environ: Environ,
) -> None:
    config = CONFIG + "  broken: {auth: perhaps}\n"
    with pytest.raises(UsageError, match="The profile broken"):
        targets_from_env(environ(config, DBOS_MCP_PROFILES="all"))
    assert len(targets_from_env(environ(config, DBOS_MCP_PROFILES="sso,bare"))) == 2


def test_without_any_profile_all_is_the_default_target(environ: Environ) -> None:
    (settings,) = targets_from_env(environ("", DBOS_MCP_PROFILES="all"))
    assert (settings.profile, settings.is_managed) == (None, True)


ONE_TARGETS_VARIABLES: Mapping[str, Any] = {
    "DBOS_URL": "http://x",
    "DBOS_ORG": "acme",
    "DBOS_TOKEN": "dbos_canary",
    "DBOS_MCP_ISSUER": "https://x/",
    "DBOS_MCP_CLIENT_ID": "x",
    "DBOS_MCP_AUDIENCE": "x",
    "DBOS_SYSTEM_DATABASE_URL": "sqlite:///canary",
    "DBOS_MCP_CACHE": "/a.sqlite",
}


@pytest.mark.parametrize("variable", ONE_TARGETS_VARIABLES)
def test_several_profiles_cannot_share_what_is_of_one_conductor(
    environ: Environ, variable: str
) -> None:
    assert len(ONE_TARGETS_VARIABLES) == len(ONE_TARGETS_OWN)
    given = environ(**{variable: ONE_TARGETS_VARIABLES[variable]})
    with pytest.raises(UsageError, match=variable) as caught:
        targets_from_env(given, profiles=("sso", "plain"))
    assert "sso, plain" in caught.value.hint
    assert "canary" not in str(caught.value)
    targets_from_env({**given, variable: ""}, profiles=("sso", "plain"))


def test_several_profiles_cannot_share_a_cache_that_a_flag_names(environ: Environ) -> None:
    with pytest.raises(UsageError, match="DBOS_MCP_CACHE"):
        targets_from_env(environ(), profiles=("sso", "plain"), cache=Path("/a.sqlite"))
    targets = targets_from_env(environ(), profiles=("sso", "plain"), history=7)
    assert [settings.history for settings in targets] == [7, 7]


def test_no_profiles_password_is_in_a_repr_or_a_file_name(environ: Environ) -> None:
    config = "profiles: {p: {url: 'https://u:canary@one:8090/x', org: acme}}"
    settings = Settings.from_env(environ(config), profile="p")
    assert "canary" not in repr(settings) + settings.address + str(where(settings))


def test_an_issuer_without_a_client_will_do_where_there_is_a_token(tmp_path: Path) -> None:
    folder = tmp_path / ".config" / "dbos"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        "current: a\nprofiles: {a: {auth: bearer, url: 'https://c.test', org: acme,"
        " oidc: {issuer: 'https://i.test'}}}\n"
    )
    environ = {"HOME": str(tmp_path)}
    no_profile = {"HOME": str(tmp_path / "elsewhere"), "DBOS_MCP_ISSUER": "https://i.test"}
    for incomplete in (environ, no_profile):
        with pytest.raises(UsageError, match="DBOS_MCP_CLIENT_ID is missing"):
            Settings.from_env(incomplete)
    assert Settings.from_env(environ | {"DBOS_TOKEN": "t"}).known_organization == "acme"
    assert Settings.from_env(environ | {"DBOS_MCP_CLIENT_ID": "c"}).issuer is not None
