"""Which target it is, by what it was chosen, and settings that do nothing."""

from pathlib import Path

import pytest

from dbos_mcp.doctor.finding import Finding, Status
from dbos_mcp.doctor.subject import Subject
from dbos_mcp.doctor.target import extras, settings_apply, target
from dbos_mcp.settings import targets_from_env

PROFILES = """
current: here
profiles:
  here: {url: "http://127.0.0.1:1", auth: none}
  there: {url: "http://127.0.0.1:2", auth: none}
"""


def subject(home: Path, *profiles: str, **environ: str) -> Subject:
    """Nothing is sent."""
    environ = {"HOME": str(home), **environ}
    settings, *_ = targets_from_env(environ, profiles=profiles, offline=True)
    return Subject(settings, environ, named=bool(profiles))


def chosen(home: Path, *profiles: str, **environ: str) -> str:
    (finding,) = target(subject(home, *profiles, **environ))
    return finding.message


def warnings(home: Path, *profiles: str, **environ: str) -> list[Finding]:
    found = settings_apply(subject(home, *profiles, **environ))
    return [each for each in found if each.status is Status.WARN]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / ".config" / "dbos"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(PROFILES)
    return tmp_path


def test_it_says_what_chose_the_target(
    home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    empty = tmp_path_factory.mktemp("empty")
    assert "cloud.dbos.dev/conductor (the default)" in chosen(empty)
    assert "http://u.test (by DBOS_URL)" in chosen(home, DBOS_URL="http://u:canary@u.test")
    assert "127.0.0.1:1 (by the profile here, dbosctl's current one)" in chosen(home)
    assert "127.0.0.1:2 (by --profile there)" in chosen(home, "there")
    named = chosen(home, DBOS_PROFILE="there")
    assert "127.0.0.1:2 (by the profile there, which DBOS_PROFILE names)" in named
    assert "(by DBOS_URL, and else by the profile there" in chosen(
        home, DBOS_PROFILE="there", DBOS_URL="http://u.test"
    )


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://u:canary@db.test:5432/x?password=canary", "db.test:5432/x (postgresql)"),
        ("sqlite:////tmp/x.sqlite", "/tmp/x.sqlite (SQLite)"),
    ],
)
def test_a_system_database_is_told_without_its_password(home: Path, url: str, told: str) -> None:
    message = chosen(home, DBOS_SYSTEM_DATABASE_URL=url)
    assert told in message
    assert "canary" not in message


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        (
            {"DBOS_SYSTEM_DATABASE_URL": "sqlite:///x", "DBOS_URL": "http://u", "DBOS_TOKEN": "t"},
            "DBOS_URL and DBOS_TOKEN have no effect",
        ),
        ({"DBOS_APP": "shop"}, "DBOS_APP has no effect"),
        (
            {"DBOS_TOKEN": "t", "DBOS_MCP_AUDIENCE": "a"},
            "DBOS_MCP_AUDIENCE has no effect: DBOS_TOKEN",
        ),
        (
            {"DBOS_URL": "http://u", "DBOS_MCP_CLIENT_ID": "c"},
            "DBOS_MCP_CLIENT_ID has no effect: DBOS_MCP_ISSUER is not set",
        ),
        ({"DBOS_PROFILE": "here", "DBOS_MCP_PROFILES": "here,there"}, "DBOS_MCP_PROFILES has no"),
        ({"DBOS_PROFILE": "here", "DBOS_URL": "http://u"}, "DBOS_URL takes the place"),
        ({"DBOS_MCP_HTTP_AUDIENCE": "a"}, "DBOS_MCP_HTTP_AUDIENCE has no effect"),
        ({"DBOS_MCP_TOOLSETS": "all", "DBOS_MCP_READ_ONLY": "true"}, "The toolset admin"),
        ({"DBOS_TOKEN": ""}, "DBOS_TOKEN set to nothing"),
        ({"DBOS_MCP_CASHE": "x"}, "DBOS_MCP_CASHE is not a setting: did you mean DBOS_MCP_CACHE?"),
        ({"DBOS_MCP_WHATEVER_IT_IS": "x"}, "DBOS_MCP_WHATEVER_IT_IS is not a setting"),
    ],
)
def test_what_is_set_and_does_nothing_is_told(
    home: Path, environ: dict[str, str], told: str
) -> None:
    found = warnings(home, **environ)
    assert [each for each in found if each.message.startswith(told)], found
    assert all(each.next_step for each in found)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"DBOS_URL": "http://u", "DBOS_ORG": "o", "DBOS_TOKEN": "t"},
        {"DBOS_SYSTEM_DATABASE_URL": "sqlite:///x", "DBOS_APP": "shop"},
        {
            "DBOS_URL": "https://u",
            "DBOS_MCP_ISSUER": "https://i",
            "DBOS_MCP_CLIENT_ID": "c",
            "DBOS_MCP_AUDIENCE": "a",
        },
        {"DBOS_MCP_HISTORY": "all", "DBOS_MCP_READ_ONLY": "true"},
    ],
)
def test_what_goes_together_is_no_matter(
    environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert warnings(tmp_path_factory.mktemp("empty"), **environ) == []


def test_patterns_that_cannot_be_used(home: Path, tmp_path: Path) -> None:
    patterns = tmp_path / "patterns"
    patterns.write_text("employee = (((\n")
    (finding,) = extras(subject(home, DBOS_MCP_REDACT_PATTERNS=str(patterns)))
    assert finding.status is Status.FAIL
    assert "line 1" in finding.message
    assert finding.next_step
    (finding,) = extras(subject(home))
    assert finding.status is Status.OK
