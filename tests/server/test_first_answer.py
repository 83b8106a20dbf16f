"""The first question to an empty mirror: it is answered with what is there, whatever becomes of
what is not. In these tests it never comes."""

import anyio
import anyio.lowlevel
import pytest

from dbos_mcp.domain import now_ms
from dbos_mcp.server import context
from dbos_mcp.server.context import Session, opened_for
from tests.server.conftest import Place, ToolFailedError
from tests.upstream import APP, Asked, workflow

FIRST_PAGE = 1_000
NOT_FINISHED = (
    "The first look is not finished. Ask again in a moment; sync_status tells how far it is."
)


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is to come of waiting longer."""
    monkeypatch.setattr(context, "FIRST_ANSWER_SECONDS", 0.1)


async def never(_asked: Asked) -> None:
    await anyio.sleep_forever()


@pytest.fixture
def large(place: Place) -> Place:
    """Of two pages, of which the second is never answered."""
    place.tables.clear()
    place.tables.add(*(workflow(f"old-{n:04}", now_ms() - n) for n in range(2 * FIRST_PAGE)))
    pages = 0

    async def heard(asked: Asked) -> None:
        nonlocal pages
        if asked.body.get("sortDesc"):
            pages += 1
            if pages > 1:
                await never(asked)

    place.wire.heard = heard
    return place


async def test_what_the_first_page_brought_is_told_while_the_second_is_waited_for(
    large: Place, era: str
) -> None:
    async with large.asking(era) as ask:
        while APP not in await ask("list_applications"):
            await anyio.lowlevel.checkpoint()
        answer = ""
        while not answer.startswith(f"3 of {FIRST_PAGE} workflows of {APP}"):
            answer = await ask("list_workflows", application_name=APP, limit=3)
    *_, gap, line = answer.splitlines()
    assert "old-0000" in answer
    assert gap.endswith("still being loaded; sync_status shows how far.")
    assert line.startswith("The first look is not finished; still loading, complete for workflows")
    assert line.endswith("Ask again in a moment; sync_status tells how far it is.")


async def test_a_conductor_that_says_nothing_is_not_waited_for(place: Place, era: str) -> None:
    place.wire.heard = never
    async with place.asking(era) as ask:
        with pytest.raises(ToolFailedError) as failed:
            await ask("list_workflows", application_name=APP)
        assert "No application 'shop' is known here." in str(failed.value)
        assert str(failed.value).endswith(NOT_FINISHED)
        assert (await ask("list_applications")).startswith("0 applications")


async def test_who_has_waited_long_enough_before_is_answered_at_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "FIRST_ANSWER_SECONDS", 3600.0)
    place.wire.heard = never
    session = Session(place.settings, transport=place.wire)
    try:
        await opened_for(session, APP, anyio.current_time() - 3600)
        assert not session.looked_once
    finally:
        await session.close()


async def test_an_application_of_which_nothing_is_there_yet_has_an_answer(
    place: Place, era: str
) -> None:
    async def heard(asked: Asked) -> None:
        if asked.path.endswith("/search"):
            await never(asked)

    place.wire.heard = heard
    async with place.asking(era) as ask:
        while APP not in await ask("list_applications"):
            await anyio.lowlevel.checkpoint()
        answer = await ask("list_workflows", application_name=APP)
    assert answer.startswith(f"0 of 0 workflows of {APP}")
    assert "The first load has only begun: much may be missing." in answer
    assert answer.endswith(NOT_FINISHED)
