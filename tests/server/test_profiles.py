"""One server for several Conductors: which one a call is about; the others hear nothing of it."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from mcp import Client

from dbos_mcp.conductor.credentials import Login
from dbos_mcp.local_conductor.app import create_app
from dbos_mcp.local_conductor.system_database import SystemDatabase
from dbos_mcp.runtime import login_store
from dbos_mcp.server.app import build_server
from dbos_mcp.settings import Settings
from tests.loopback import served
from tests.oauth_server import AUDIENCE, CLIENT_ID, OAuthServer
from tests.secured_conductor import Identity, SecuredConductor
from tests.server.conftest import Ask, ToolFailedError, asking
from tests.server.test_snapshots import DEFINITIONS_BYTES, dumped, size
from tests.upstream import Tables


@dataclass
class Profile:
    settings: Settings
    conductor: SecuredConductor
    tables: Tables


@pytest.fixture
def profiles(
    oauth_server: OAuthServer, shop_database: Path, tmp_path: Path
) -> Iterator[dict[str, Profile]]:
    """Two Conductors, each with a shop of its own. That of staging has had a bad day."""
    oauth_server.interval = 0
    found = {}
    with ExitStack() as stack:
        for name in ("prod", "staging"):
            database = Path(shutil.copy(shop_database, tmp_path / f"{name}.sqlite"))
            system_database = stack.enter_context(closing(SystemDatabase(f"sqlite:///{database}")))
            conductor = SecuredConductor(create_app(system_database), oauth_server.verify)
            conductor.users["alice"] = Identity(f"{name}_org")
            settings = Settings(
                home=tmp_path,
                profile=name,
                url=stack.enter_context(served(conductor)),
                issuer_url=oauth_server.url,
                client_id=CLIENT_ID,
                audience=AUDIENCE,
            )
            found[name] = Profile(settings, conductor, Tables(database))
        found["staging"].tables.change("UPDATE workflow_status SET status = 'CANCELLED'")
        yield found


@pytest.fixture
async def logged_in(profiles: dict[str, Profile], oauth_server: OAuthServer) -> None:

    for name, profile in profiles.items():
        issued = oauth_server.issue("alice")
        settings = profile.settings
        await login_store(settings).save(
            Login(issued.access_token, "alice", f"{name}_org", url=settings.address)
        )


def server_of(profiles: dict[str, Profile]) -> Client:
    return Client(build_server(*(profile.settings for profile in profiles.values())))


async def test_each_tool_takes_the_profile_where_there_are_several(
    profiles: dict[str, Profile], era: str
) -> None:
    several = build_server(*(profile.settings for profile in profiles.values()))
    one = build_server(profiles["prod"].settings)
    async with Client(several, mode=era) as client:
        tools = (await client.list_tools()).tools
        instructions = client.instructions
        resources = [str(each.uri) for each in (await client.list_resources()).resources]
    async with Client(one, mode=era) as client:
        plain_tools = (await client.list_tools()).tools
        plain_resources = [str(each.uri) for each in (await client.list_resources()).resources]
    assert [tool.name for tool in tools] == [tool.name for tool in plain_tools]
    for tool, plain_tool in zip(tools, plain_tools, strict=True):
        assert tool.input_schema["properties"]["profile"]["enum"] == ["prod", "staging"]
        assert "profile" not in plain_tool.input_schema["properties"]
    assert size(dumped(tools)) <= DEFINITIONS_BYTES + 80 * len(tools)
    assert instructions is not None and "prod, staging" in instructions
    assert resources == [
        "dbos://sync-status/prod",
        "dbos://sync-status/staging",
        "dbos://schema",
        "ui://dbos-mcp/waterfall.html",
    ]
    assert plain_resources == ["dbos://sync-status", *resources[2:]]


@pytest.mark.usefixtures("logged_in")
async def test_a_question_is_about_the_profile_it_names_or_the_first(
    profiles: dict[str, Profile],
) -> None:
    async with server_of(profiles) as client:
        ask = asking(client)
        by_default = await ask("list_workflows", application_name="shop", status="ERROR")
        assert by_default.endswith("Profile: prod.")
        assert not by_default.startswith("0 of 0")
        assert profiles["staging"].conductor.requests == []
        named = await ask("list_workflows", application_name="shop", status="ERROR", profile="prod")
        assert named.splitlines()[:3] == by_default.splitlines()[:3]
        other = await ask(
            "list_workflows", application_name="shop", status="ERROR", profile="staging"
        )
        assert other.startswith("0 of 0")
        assert other.endswith("Profile: staging.")
        status = await client.read_resource("dbos://sync-status/staging")
        assert "staging_org" in status.contents[0].model_dump()["text"]
    caches = sorted(path.name for path in profiles["prod"].settings.folder.glob("*.sqlite"))
    assert len(caches) == 2


@pytest.mark.usefixtures("logged_in")
async def test_a_call_that_is_ready_to_be_made_names_its_profile(
    profiles: dict[str, Profile],
) -> None:
    async with server_of(profiles) as client:
        ask = asking(client)
        for given in ({}, {"profile": "prod"}):
            failures = await ask("list_failures", application_name="shop", **given)
            newest = failures.splitlines()[2].split(" | ")[-1]
            answer = await ask(
                "diagnose_workflow", application_name="shop", workflow_id=newest, **given
            )
            _, *calls = answer.partition("\nnext:\n")[2].split("\n- ")
            assert calls
            assert all('(profile="prod", application_name="shop"' in each for each in calls)


@pytest.mark.usefixtures("logged_in")
async def test_questions_at_the_same_time_do_not_mix_their_profiles(
    profiles: dict[str, Profile],
) -> None:
    async with server_of(profiles) as client:
        ask = asking(client)
        answers: dict[int, str] = {}

        async def question(number: int, profile: str) -> None:
            answers[number] = await ask(
                "list_workflows", application_name="shop", status="ERROR", profile=profile
            )

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(question, number, ("prod", "staging")[number % 2])
    for number, answer in answers.items():
        assert answer.startswith("0 of 0") == (number % 2 == 1)


@pytest.mark.usefixtures("logged_in")
async def test_a_command_goes_to_the_profile_it_names_alone(profiles: dict[str, Profile]) -> None:
    async with server_of(profiles) as client:
        ask = asking(client)
        done = await ask(
            "resume_workflow",
            application_name="shop",
            workflow_id="order-1005",
            profile="staging",
        )
        assert "1 of 1 done" in done
        assert done.endswith("Profile: staging.")
    commands = {
        name: [each.path for each in profile.conductor.requests if each.path.endswith("/resume")]
        for name, profile in profiles.items()
    }
    assert commands["prod"] == []
    assert len(commands["staging"]) == 1


async def test_a_profile_that_is_not_served_is_named_with_the_nearest(
    profiles: dict[str, Profile],
) -> None:
    async with server_of(profiles) as client:
        ask = asking(client)
        with pytest.raises(ToolFailedError, match=r"did you mean staging\?"):
            await ask("list_applications", profile="stagin")
        with pytest.raises(ToolFailedError, match="did you mean 'profile'"):
            await ask("list_applications", profil="prod")
        with pytest.raises(ToolFailedError, match="no profile"):
            await ask("list_applications", profile=["prod"])


async def test_each_profile_has_a_login_of_its_own(
    profiles: dict[str, Profile], oauth_server: OAuthServer
) -> None:
    async def log_in(ask: Ask, profile: str) -> str:
        begun = await ask("login", profile=profile)
        (code,) = (line for line in begun.splitlines() if line.startswith("code: "))
        oauth_server.approve(code.removeprefix("code: "))
        return await ask("login_complete", profile=profile)

    async with server_of(profiles) as client:
        ask = asking(client)
        assert "alice of staging_org" in await log_in(ask, "staging")
        with pytest.raises(ToolFailedError, match=r"Nobody.*login --profile prod"):
            await ask("list_applications")
        assert "shop" in await ask("list_applications", profile="staging")
        assert "alice of prod_org" in await log_in(ask, "prod")
        assert "shop" in await ask("list_applications")
    tokens = {
        name: {each.token for each in profile.conductor.requests}
        for name, profile in profiles.items()
    }
    assert len(tokens["prod"]) == len(tokens["staging"]) == 1
    assert tokens["prod"] != tokens["staging"]
