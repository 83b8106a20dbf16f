"""What a check finds, and how it is said."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from dbos_mcp.errors import AuthenticationError, DbosMcpError

if TYPE_CHECKING:
    from dbos_mcp.doctor.subject import Subject

Fact = str | int | float | bool | None | list[str]


class Status(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"
    """It could not be looked at, for a reason that another line is about."""


@dataclass(frozen=True)
class Finding:
    """Its texts may hold names of somebody else's: whoever shows them writes those out."""

    status: Status
    message: str
    next_step: str = ""
    """What to type, or whom to ask; of what fails never empty."""
    facts: Mapping[str, Fact] = field(default_factory=dict)
    login_needed: bool = False
    """Whether a login is all that it takes."""


Look = Callable[["Subject"], Iterable[Finding]]


@dataclass(frozen=True)
class Check:
    id: str
    """`group.name`"""
    look: Callable[..., Iterable[Finding]]
    """At a target; or at nothing, for what is the same for all of them."""
    of_the_program: bool = False

    @property
    def group(self) -> str:
        return self.id.partition(".")[0]

    @property
    def name(self) -> str:
        return self.id.partition(".")[2].replace("_", " ")


@dataclass(frozen=True)
class Told:
    """A finding, and of what."""

    check: Check
    profile: str | None
    finding: Finding


def ok(message: str, **facts: Fact) -> Finding:
    return Finding(Status.OK, message, facts=facts)


def warn(message: str, next_step: str, **facts: Fact) -> Finding:
    return Finding(Status.WARN, message, next_step, facts)


def fail(message: str, next_step: str, **facts: Fact) -> Finding:
    return Finding(Status.FAIL, message, next_step, facts)


def skip(why: str) -> Finding:
    return Finding(Status.SKIP, why)


def failed(error: DbosMcpError, next_step: str = "", **facts: Fact) -> Finding:
    """An error, which says itself what to do next."""
    login_needed = isinstance(error, AuthenticationError)
    step = next_step or error.hint or "`dbos-mcp --help` tells what there is."
    return Finding(Status.FAIL, error.message, step, facts, login_needed)


def overall(told: Sequence[Told]) -> Status:
    found = {each.finding.status for each in told}
    return next((each for each in (Status.FAIL, Status.WARN) if each in found), Status.OK)


def exit_code(told: Sequence[Told]) -> int:
    """0: nothing fails; 3: a login is all that it takes; 1: more than that."""
    failures = [each.finding for each in told if each.finding.status is Status.FAIL]
    if not failures:
        return 0
    return 3 if all(each.login_needed for each in failures) else 1
