"""A confirmation is good once, for a few minutes, and for exactly what was shown."""

from dataclasses import replace

import pytest

from dbos_mcp.errors import UsageError
from dbos_mcp.server.consent import CONFIRM_SECONDS, MOST_OPEN, Confirmations, Subject

SUBJECT = Subject("acme", "shop", "cancel", {"cancel_children": True}, ("a", "b"))
DIGEST = SUBJECT.digest(asked="agent")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def confirmations(clock: Clock) -> Confirmations:
    return Confirmations(clock)


def test_it_is_good_once(confirmations: Confirmations) -> None:
    token = confirmations.issue(DIGEST)
    confirmations.redeem(token, DIGEST)
    with pytest.raises(UsageError, match="was used already"):
        confirmations.redeem(token, DIGEST)


def test_it_is_good_for_five_minutes(confirmations: Confirmations, clock: Clock) -> None:
    first, second = confirmations.issue(DIGEST), confirmations.issue(DIGEST)
    clock.now += CONFIRM_SECONDS - 1
    confirmations.redeem(first, DIGEST)
    clock.now += 1
    with pytest.raises(UsageError, match="older than 5 minutes"):
        confirmations.redeem(second, DIGEST)


@pytest.mark.parametrize(
    "other",
    [
        {"organization": "umbrella"},
        {"application_name": "shop2"},
        {"command": "delete"},
        {"arguments": {}},
        {"workflow_ids": ("a",)},
        {"workflow_ids": ("a", "b", "c")},
        {"workflow_ids": ("a", 'b", "c')},
    ],
    ids=lambda other: str(other),
)
def test_it_is_good_for_nothing_else_and_stays_good_for_that(
    confirmations: Confirmations, other: dict[str, object]
) -> None:
    token = confirmations.issue(DIGEST)
    with pytest.raises(UsageError, match="another command, other arguments or other workflows"):
        confirmations.redeem(token, replace(SUBJECT, **other).digest(asked="agent"))  # type: ignore[arg-type]
    confirmations.redeem(token, DIGEST)


def test_the_order_of_the_workflows_does_not_count(confirmations: Confirmations) -> None:
    turned = replace(SUBJECT, workflow_ids=("b", "a"))
    confirmations.redeem(confirmations.issue(DIGEST), turned.digest(asked="agent"))


def test_what_the_user_was_asked_an_agent_cannot_answer(confirmations: Confirmations) -> None:
    token = confirmations.issue(SUBJECT.digest(asked="user"))
    with pytest.raises(UsageError):
        confirmations.redeem(token, DIGEST)


def test_a_guess_is_good_for_nothing(confirmations: Confirmations) -> None:
    confirmations.issue(DIGEST)
    with pytest.raises(UsageError, match="was not given by this server") as refused:
        confirmations.redeem("yes", DIGEST)
    assert "without confirm" in refused.value.hint


def test_those_that_nobody_uses_do_not_pile_up(confirmations: Confirmations) -> None:
    tokens = [confirmations.issue(DIGEST) for _ in range(MOST_OPEN + 1)]
    assert len(set(tokens)) == len(tokens)
    with pytest.raises(UsageError):
        confirmations.redeem(tokens[0], DIGEST)
    confirmations.redeem(tokens[1], DIGEST)
