"""A state machine of log and read models holds, and finds planted bugs: `just planted-bugs`.

Each bug takes the place of one function of the running code.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import count
from math import inf
from time import monotonic
from typing import Any
from unittest import mock

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import Connection

from benchmarks.reliability import machine
from benchmarks.reliability.machine import Machine, OutOfTimeError
from benchmarks.report import Report, out
from benchmarks.report import machine as this_machine
from dbos_mcp.conductor.models import Workflow
from dbos_mcp.store import event_log
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.event_log import Recorded
from dbos_mcp.store.events import Event
from dbos_mcp.store.projections import workflows
from dbos_mcp.sync import diff, known
from dbos_mcp.sync.mirror import Mirror

STEPS = 100_000
STEPS_OF_AN_EXAMPLE = 40
EXAMPLES_OF_A_SEED = 5
LONGEST_SECONDS = 60.0

Planted = AbstractContextManager[object]


def late_page_wins() -> Planted:
    """A page that comes late is recorded over what was seen after it."""
    return mock.patch.object(known, "recorded_since", lambda *_: frozenset())


def unchanged_is_recorded() -> Planted:
    """A workflow that is as it was makes an event all the same."""
    unharmed = diff.diff_workflow

    def diff_workflow(name: str, before: Any, seen: Workflow, **others: Any) -> Any:
        return unharmed(name, before, seen, **others) or unharmed(name, None, seen, **others)

    return mock.patch.object(diff, "diff_workflow", diff_workflow)


def transaction_is_split() -> Planted:
    """Events are committed before the read models are changed."""
    unharmed = event_log.append

    def append(connection: Connection, events: Sequence[Event], at: int) -> list[Recorded]:
        recorded = unharmed(connection, events, at)
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return recorded

    return mock.patch.object(event_log, "append", append)


def field_is_forgotten() -> Planted:
    """The read model of workflows leaves out a field of what it is told."""
    unharmed = workflows._row
    return mock.patch.object(
        workflows, "_row", lambda recorded: unharmed(recorded) | {"queue_name": None}
    )


def watermark_is_early() -> Planted:
    """How far it was seen is stored before what was seen."""
    unharmed = Mirror._record

    async def _record(self: Mirror, *arguments: Any, also: Any = None, **others: Any) -> Any:
        if also is not None:
            with Cache.write(self.cache) as connection:
                also(connection)
        return await unharmed(self, *arguments, **others)

    return mock.patch.object(Mirror, "_record", _record)


BUGS: Sequence[Callable[[], Planted]] = (
    late_page_wins,
    unchanged_is_recorded,
    transaction_is_split,
    field_is_forgotten,
    watermark_is_early,
)


class _Clock:
    """Ends the machine when its time is over, or when it has taken all its steps."""

    def __init__(self, seconds: float, steps: float) -> None:
        self._ends_at = monotonic() + seconds
        self._last_step = Machine.steps_taken + steps

        self.over = False

    def __call__(self) -> None:
        self.over |= monotonic() >= self._ends_at or Machine.steps_taken >= self._last_step
        if self.over:
            raise OutOfTimeError


def wrong_within(*, seconds: float = inf, steps: float = inf, seed: int = 1) -> str | None:
    """Let the machine run; what it finds wrong until then.

    It begins anew every few examples: in a longer run they become ever more alike.
    """
    how = settings(
        max_examples=EXAMPLES_OF_A_SEED,
        stateful_step_count=STEPS_OF_AN_EXAMPLE,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # what is found is not made smaller
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    clock = _Clock(seconds, steps)
    with mock.patch.object(machine, "out_of_time", clock):
        for each in count(seed * 1_000_000):
            seeded = hypothesis.seed(each)(type("Seeded", (Machine,), {}))
            try:
                run_state_machine_as_test(seeded, settings=how)
            except (OutOfTimeError, Exception) as error:
                return None if clock.over else f"seed {each}: {error!r}"
    raise AssertionError


def main() -> None:
    parser = argparse.ArgumentParser(prog="planted-bugs", description=__doc__)
    parser.add_argument("--rounds", type=int, default=STEPS, help="steps that must hold")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    out.print(this_machine())
    report, started = Report("A state machine of log and read models"), monotonic()
    wrong = wrong_within(steps=asked.rounds, seed=asked.seed)
    figure = f"{Machine.steps_taken:,} steps, {monotonic() - started:.0f} s"
    report.add("ours holds", figure, f"{asked.rounds:,} steps", wrong is None)
    missed = 0
    for planted in BUGS:
        started = monotonic()
        with planted():
            found = wrong_within(seconds=LONGEST_SECONDS, seed=asked.seed)
        name = planted.__name__.replace("_", " ")
        seconds = f"after {monotonic() - started:.1f} s" if found else "not found"
        report.add(f"planted: {name}", seconds, "<= 60 s", found is not None)
        missed += found is None
    report.print()
    if wrong is not None:
        out.print(wrong)
    sys.exit(wrong is not None or missed > 0)


if __name__ == "__main__":
    main()
