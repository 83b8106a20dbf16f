"""What goes into a report has no secrets in it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dbos_mcp.domain import WorkflowStatus
from dbos_mcp.queries.steps import StepItem
from dbos_mcp.redaction import Redactor
from dbos_mcp.report.redacted import redacted
from tests.report.hostile import TOKEN


class Pair(NamedTuple):
    text: str
    number: int


@dataclass(frozen=True)
class Everything:
    texts: Sequence[str]
    by_id: Mapping[str, StepItem]
    counts: Counter[str]
    pair: Pair
    status: str = WorkflowStatus.ERROR
    none: str | None = None
    nested: "Everything | None" = None
    numbers: tuple[int, ...] = field(default=(1, 2))


def everything(secret: str, nested: Everything | None = None) -> Everything:
    step = StepItem(step_id=1, step_name="charge", error=f"token {secret} is wrong")
    return Everything([secret], {secret: step}, Counter([secret]), Pair(secret, 1), nested=nested)


def test_a_secret_is_taken_out_of_every_place_and_what_refers_to_it_still_does() -> None:
    redactor = Redactor()
    found = redacted(everything(TOKEN, everything(TOKEN)), redactor)
    assert TOKEN not in repr(found)
    assert redactor.found["github-token"] >= 8
    (mark,) = found.texts
    assert mark.startswith("[redacted:github-token")
    assert found.by_id[mark].error == f"token {mark} is wrong"
    assert found.counts[mark] == found.pair.number == 1
    assert found.nested is not None
    assert found.nested.texts == [mark]
    assert found.status is WorkflowStatus.ERROR


def test_what_holds_no_secret_stays_equal() -> None:
    harmless = everything("order-1005", everything("order-1006"))
    redactor = Redactor()
    assert redacted(harmless, redactor) == harmless
    assert not redactor.found
