"""Settings: what the environment means, and where things are."""

from pathlib import Path

import pytest

from dbos_mcp.errors import UsageError
from dbos_mcp.settings import MANAGED_URL, LogLevel, Payloads, Settings


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
    with pytest.raises(UsageError, match=variable):
        Settings.from_env(environ)


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
