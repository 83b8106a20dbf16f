"""The runner, on the incidents that take the least time; `just evals` runs them all."""

from pathlib import Path

import pytest

from evals.agent import Answer, MissingToolError
from evals.incident import Call, Fact, Incident, Sign, Verdict
from evals.incidents import INCIDENTS
from evals.run import (
    MOST_BYTES,
    MOST_CALLS,
    Outcome,
    asking,
    evaluate,
    judge,
    missing_signs,
    table_of,
)
from evals.upstream import Upstream, open_upstream

pytestmark = pytest.mark.slow

BY_NAME = {incident.name: incident for incident in INCIDENTS}
QUICK = ("deadlocked_children", "retry_storm", "starved_queue")


@pytest.mark.e2e
@pytest.mark.parametrize("name", QUICK)
async def test_an_incident_leaves_what_it_claims_and_is_explained(
    name: str, tmp_path: Path
) -> None:
    outcome = await evaluate(BY_NAME[name], tmp_path)
    assert outcome.faults == []
    first, *_ = outcome.answers
    assert first.call == BY_NAME[name].first_call
    assert judge(BY_NAME[name], [first]), "a list alone is no diagnosis"
    assert len(outcome.answers) <= MOST_CALLS
    assert outcome.bytes_read <= MOST_BYTES


async def do_nothing(upstream: Upstream) -> None:
    """No database, no application."""


NOTHING = Incident(
    name="nothing",
    application_name="nobody",
    question="What happened?",
    seed=do_nothing,
    signs=(Sign(Call("list_workflows"), (Fact("a workflow", "work-1"),)),),
    first_call=Call("list_failures"),
    verdict=Verdict((), ()),
)


async def test_an_incident_that_did_not_happen_is_no_wrong_verdict(tmp_path: Path) -> None:
    outcome = await evaluate(NOTHING, tmp_path)
    (fault,) = outcome.faults
    assert fault.startswith("did not happen: ")
    assert not outcome.answers


async def test_a_tool_that_is_not_there_is_told(tmp_path: Path) -> None:
    async with open_upstream(tmp_path, "nobody") as upstream:
        with pytest.raises(MissingToolError, match="explain_everything"):
            async with asking(upstream) as agent:
                await agent.ask(Call("explain_everything"))


async def test_a_sign_that_the_mirror_does_not_show_is_told(tmp_path: Path) -> None:
    async with open_upstream(tmp_path, "nobody") as upstream:
        assert await missing_signs(NOTHING, upstream) == [
            "was not planted: list_workflows does not show a workflow"
        ]


def test_too_many_calls_or_bytes_are_wrong() -> None:
    short, long = Answer(Call("list_failures"), "None."), Answer(Call("list_steps"), "x" * 5000)
    assert judge(NOTHING, [short, short, long]) == []
    assert judge(NOTHING, [short] * 4) == ["took 4 calls"]
    assert judge(NOTHING, [long, long]) == ["took 10000 bytes"]
    refused = Answer(Call("list_steps"), "There is no workflow.", is_error=True)
    assert judge(NOTHING, [refused]) == ["list_steps failed: There is no workflow."]


def test_the_table_counts_what_is_right() -> None:
    wrong = Outcome(BY_NAME["bad_fork"], faults=["says to do the same once more"])
    table = table_of([Outcome(BY_NAME["bad_deploy"]), wrong])
    assert table.title == "1 of 2 right"


def test_incidents_have_names_of_their_own() -> None:
    assert len(BY_NAME) == len(INCIDENTS) == 10
    assert len({incident.application_name for incident in INCIDENTS}) == 10


@pytest.mark.parametrize("incident", INCIDENTS, ids=lambda incident: incident.name)
def test_each_incident_knows_what_would_lead_astray(incident: Incident) -> None:
    assert incident.signs
    assert incident.verdict.facts
    assert incident.verdict.forbidden
    assert judge(incident, [])
