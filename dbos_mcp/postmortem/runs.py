"""Runs of one workflow to be compared: what the mirror knows of them, with the inputs and outputs
that it has kept. The others may be read at Conductor and put beside them."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select
from sqlmodel import col

from dbos_mcp.domain import WorkflowStatus, one_line, to_datetime
from dbos_mcp.postmortem.discriminators import Facts
from dbos_mcp.postmortem.error_text import LONGEST, kind_of
from dbos_mcp.postmortem.values import Scalar, arguments, paths, positions, read
from dbos_mcp.queries.steps import duration
from dbos_mcp.store.projections.steps import StepRow
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.sync_state import StepReadingRow
from dbos_mcp.store.tables import batches

ROWS_FOR_ONE = 5
"""So many rows about the time of some failures are looked through for each run that is wanted."""
GENERATIONS = ("parent", "grandparent", "root")
"""Whose inputs are looked at besides those of the runs themselves."""
MOST_ANCESTORS = 50
NAME_CHARACTERS = 60
INPUT = "input"
"""The fields of inputs begin with it."""
KEEPING_ITS_QUEUE = (WorkflowStatus.SUCCESS, WorkflowStatus.ERROR)
"""Whatever ends otherwise loses its queue."""


@dataclass(frozen=True, slots=True)
class Run:
    key: int
    workflow_id: str
    status: str
    workflow_name: str | None
    created_at: int
    updated_at: int
    deleted_at: int | None
    application_version: str | None
    executor_id: str | None
    queue_name: str | None
    schedule_name: str | None
    authenticated_user: str | None
    attributes: str | None
    parent_workflow_id: str | None
    forked_from: str | None
    error: str | None
    input_loaded: bool
    """Whether the mirror has asked for the input; it may be null all the same."""
    input: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of a step."""

    step_id: int
    step_name: str
    output: str | None
    error: str | None
    child_workflow_id: str | None
    started_at: int | None
    completed_at: int | None

    @property
    def duration_ms(self) -> int | None:
        return duration(self.started_at, self.completed_at)


_COLUMNS = [
    col(getattr(WorkflowRow, "id" if name == "key" else name)) for name in Run.__dataclass_fields__
]


_OF_STEPS = [col(getattr(StepRow, name)) for name in Outcome.__dataclass_fields__]


def runs_of(connection: Connection, keys: Iterable[int]) -> list[Run]:
    """In the order of the keys."""
    wanted = list(dict.fromkeys(keys))
    found = {run.key: run for run in _runs(connection, col(WorkflowRow.id).in_(wanted))}
    return [found[key] for key in wanted if key in found]


def _runs(connection: Connection, *those: ColumnElement[bool]) -> Iterator[Run]:
    for row in connection.execute(select(*_COLUMNS).where(*those)):
        yield Run(*row)


def ancestors_of(
    connection: Connection, application_name: str, runs: Sequence[Run]
) -> list[dict[int, Run]]:
    """The parents of runs, by the keys of these, then the parents of those; where there are more
    generations than are looked at, the last are the roots. Ids are the application's: nothing
    keeps them from going round in a circle."""
    line = {run.key: run for run in runs}
    seen = {run.key: {run.key} for run in runs}
    found: list[dict[int, Run]] = []
    for _ in range(MOST_ANCESTORS):
        wanted = {run.parent_workflow_id for run in line.values()} - {None}
        parents = {
            run.workflow_id: run
            for batch in batches(wanted)
            for run in _runs(
                connection,
                col(WorkflowRow.application_name) == application_name,
                col(WorkflowRow.workflow_id).in_(batch),
            )
        }
        line = {
            key: parent
            for key, run in line.items()
            if (parent := parents.get(run.parent_workflow_id or "")) is not None
            and parent.key not in seen[key]
        }
        if not line:
            break
        for key, parent in line.items():
            seen[key].add(parent.key)
        found.append(line)
    last = len(GENERATIONS) - 1
    roots = {key: run for generation in found[last:] for key, run in generation.items()}
    return [*found[:last], roots] if roots else found


def went_well(
    connection: Connection, application_name: str, failed: Sequence[Run], most: int
) -> list[Run]:
    """Runs of the workflow of some failed ones that succeeded about the time when those began,
    evenly out of all that were looked through."""
    if not failed:
        return []
    begun = sorted(run.created_at for run in failed)
    near = _near(
        connection,
        application_name,
        failed[0].workflow_name,
        begun[len(begun) // 2],
        ROWS_FOR_ONE * most,
        col(WorkflowRow.status),
    )
    keys = sorted(key for key, status in near if status == WorkflowStatus.SUCCESS)
    step = max(1.0, len(keys) / most)
    return runs_of(connection, [keys[int(place * step)] for place in range(min(most, len(keys)))])


def failed_alike(connection: Connection, application_name: str, run: Run, most: int) -> list[int]:
    """Keys of runs of a workflow that failed with the same kind of error, itself the first."""
    kind = kind_of(run.error or "")
    near = _near(
        connection,
        application_name,
        run.workflow_name,
        run.created_at,
        ROWS_FOR_ONE * most,
        col(WorkflowRow.status),
        func.substr(col(WorkflowRow.error), 1, LONGEST),
    )
    others = (
        key
        for key, status, error in near
        if status == run.status and key != run.key and kind_of(error or "") == kind
    )
    return [run.key, *islice(others, most - 1)]


def _near(
    connection: Connection,
    application_name: str,
    workflow_name: str | None,
    moment: int,
    most: int,
    *columns: Any,
) -> list[tuple[Any, ...]]:
    """Key and columns of the runs that began about that time, the nearest first."""
    if workflow_name is None:
        return []
    created_at = col(WorkflowRow.created_at)
    found: list[tuple[Any, ...]] = []
    for side, order in (
        (created_at >= moment, created_at),
        (created_at < moment, created_at.desc()),
    ):
        rows = connection.execute(
            select(created_at, col(WorkflowRow.id), *columns)
            .where(
                col(WorkflowRow.application_name) == application_name,
                col(WorkflowRow.workflow_name) == workflow_name,
                side,
            )
            .order_by(order)
            .limit(most // 2)
        )
        found += [(abs(begun - moment), *rest) for begun, *rest in rows]
    return [rest for _, *rest in sorted(found, key=lambda row: row[:2])]  # type: ignore[misc]


def kept_outcomes(connection: Connection, runs: Sequence[Run]) -> dict[int, list[Outcome]]:
    """By key: the steps of those whose steps were read, as the mirror has them."""
    keys = [run.key for run in runs]
    reading = col(StepReadingRow.workflow_key)
    read_of = connection.execute(select(reading).where(reading.in_(keys))).scalars()
    found: dict[int, list[Outcome]] = {key: [] for key in read_of}
    rows = connection.execute(
        select(col(StepRow.workflow_key), *_OF_STEPS)
        .where(col(StepRow.workflow_key).in_(keys))
        .order_by(col(StepRow.workflow_key), col(StepRow.step_id))
    )
    for key, *values in rows:
        found.setdefault(key, []).append(Outcome(*values))
    return found


def has_outputs(steps: Sequence[Outcome]) -> bool:
    return any(step.output is not None for step in steps)


def facts_of(
    runs: Sequence[Run],
    inputs: Mapping[int, str | None],
    ancestors: Sequence[Mapping[int, Run]] = (),
) -> list[Facts]:
    """What may separate runs from each other, of their own and of their ancestors; the input of
    any of them by its key, where it is known."""
    values = _values(runs, inputs)
    queued = all(run.status in KEEPING_ITS_QUEUE for run in runs)
    found: list[dict[str, tuple[Scalar, ...]]] = [
        {
            "application_version": (run.application_version,),
            "executor_id": (run.executor_id,),
            **({"queue_name": (run.queue_name,)} if queued else {}),
            "schedule_name": (run.schedule_name,),
            "authenticated_user": (run.authenticated_user,),
            "hour of creation (UTC)": (to_datetime(run.created_at).hour,),
            **dict(_attributes(run)),
            **values.get(run.key, {}),
        }
        for run in runs
    ]
    for place, generation in enumerate(ancestors):
        _add_ancestors(found, runs, generation, inputs, called(generation, place))
    return _without_what_nobody_has(found)


def called(generation: Mapping[int, Run], place: int) -> str:
    """Such as `the parent settle_order`; the name is left out where there are several."""
    names = {run.workflow_name for run in generation.values()}
    name = names.pop() if len(names) == 1 else None
    which = f"the {GENERATIONS[place]}"
    return which if name is None else f"{which} {one_line(name, NAME_CHARACTERS)}"


def _add_ancestors(
    found: Sequence[dict[str, tuple[Scalar, ...]]],
    runs: Sequence[Run],
    generation: Mapping[int, Run],
    inputs: Mapping[int, str | None],
    name: str,
) -> None:
    values = _values(list(generation.values()), inputs)
    own: list[Facts] = []
    for run in runs:
        ancestor = generation.get(run.key)
        own.append(
            {"workflow_name": (None,)}
            if ancestor is None
            else {
                "workflow_name": (ancestor.workflow_name,),
                "schedule_name": (ancestor.schedule_name,),
                **dict(_attributes(ancestor)),
            }
        )
    seen: defaultdict[str, Counter[tuple[Scalar, ...]]] = defaultdict(Counter)
    for facts in own:
        for field, value in facts.items():
            seen[field][value] += 1
    # What all have says no more of them than of their children.
    differing = {field for field, values in seen.items() if max(values.values()) < len(runs)}
    for facts, mine, run in zip(found, own, runs, strict=True):
        ancestor = generation.get(run.key)
        given = {} if ancestor is None else values.get(ancestor.key, {})
        told = {field: value for field, value in mine.items() if field in differing}
        for field, value in (*told.items(), *given.items()):
            facts[f"{field} of {name}"] = value


def _values(
    runs: Sequence[Run], inputs: Mapping[int, str | None]
) -> dict[int, Mapping[str, tuple[Scalar, ...]]]:
    """The scalars in the inputs of runs of one workflow, by their keys and paths."""
    values = {run.key: read(text) for run in runs if (text := inputs.get(run.key)) is not None}
    alone = all(positions(value) <= 1 for value in values.values())
    return {key: paths(arguments(value, alone=alone), INPUT) for key, value in values.items()}


def _attributes(run: Run) -> Iterator[tuple[str, tuple[Scalar, ...]]]:
    if run.attributes is None:
        return
    try:
        told = json.loads(run.attributes)
    except (ValueError, RecursionError):
        return
    if isinstance(told, dict):
        yield from paths(told, "attributes").items()


def _without_what_nobody_has(found: Sequence[Facts]) -> list[Facts]:
    """A schedule, a user or a queue that none of them has says nothing of any."""
    some = {field for facts in found for field, values in facts.items() if values != (None,)}
    return [{field: v for field, v in facts.items() if field in some} for facts in found]
