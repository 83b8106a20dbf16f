"""Writes an incident file: the chosen events, redacted, folded into a cache of their own.

The events keep their places in the log, so that what refers to one still does, and their order.
The file appears all at once, under a name that was free.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import Connection, func, insert, select
from sqlmodel import col

import dbos_mcp
from dbos_mcp import files
from dbos_mcp.domain import CONDUCTOR
from dbos_mcp.incident.selection import Selection
from dbos_mcp.queries.coverage import first_looked_at
from dbos_mcp.redaction import Redactor
from dbos_mcp.store import engine, event_log, projector, sync_state
from dbos_mcp.store.event_log import Recorded
from dbos_mcp.store.events import (
    CommandIssued,
    CommandSettled,
    Event,
    ExecutorObserved,
    StepsObserved,
    StepState,
    Stored,
    WorkflowState,
)
from dbos_mcp.store.migrate import open_cache
from dbos_mcp.store.projections.executors import ExecutorRow
from dbos_mcp.store.projections.steps import StepRow
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.sync_state import Excerpt, StepReadingRow
from dbos_mcp.store.tables import batches, table_of

REFERENCES = frozenset(
    {
        "application_name",
        "application_id",
        "owning_application",
        "workflow_id",
        "parent_workflow_id",
        "forked_from",
        "child_workflow_id",
        "new_workflow_id",
        "new_workflow_ids",
        "executor_id",
        "deduplication_id",
        "queue_partition_key",
        "command_id",
    }
)
"""What names something: two that are not equal must not become so."""
_REMOVED = "REMOVED"


@dataclass(frozen=True)
class Exported:
    """What is in the file."""

    path: Path
    excerpt: Excerpt
    parts: Mapping[str, int]
    """How many workflows came for which reason."""
    events: int
    steps: int
    redacted: Mapping[str, int]
    """How many texts of which kind."""
    bytes: int


def export(
    source: Connection,
    selection: Selection,
    path: Path,
    *,
    now: int,
    with_payloads: bool = False,
    redact_users: bool = False,
    force: bool = False,
) -> Exported:
    """Write a selection of a mirror to a file of its own, from one snapshot.

    Raises:
        UsageError: there is a file of that name, and it was not to be replaced.
        StoreError: it cannot be written there.
    """
    path = path.absolute()
    if not force:
        files.require_free(path)
    redactor = Redactor(_users(source, selection) if redact_users else None)
    ids = _ids(source, selection)
    outgoing = _Outgoing(redactor, ids, with_payloads=with_payloads)
    try:
        with ExitStack() as stack:
            folder = Path(
                stack.enter_context(
                    TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent)  # it is 0700
                )
            )
            draft = open_cache(folder / "draft.sqlite")
            stack.callback(draft.close)
            excerpts = _excerpts(source, selection, redactor, now, with_payloads=with_payloads)
            with draft.write() as target:
                for batch in _events(source, ids):
                    event_log.insert_at(target, [outgoing.recorded(each) for each in batch])
                projector.catch_up(target)
                _copy_sync_state(source, target, selection, excerpts, redactor)
                events, steps = event_log.count(target), _count(target, StepRow)
            sealed = folder / "sealed.sqlite"
            size = engine.seal(draft, sealed)
            files.publish(sealed, path, force=force)
    except OSError as error:
        raise files.not_to_be_written(path, error) from error
    return Exported(
        path, excerpts[CONDUCTOR], selection.parts, events, steps, dict(redactor.found), size
    )


class _Outgoing:
    """Events as they leave: without payloads, unless they were asked for, and without secrets."""

    def __init__(
        self, redactor: Redactor, chosen: Mapping[str, frozenset[str]], *, with_payloads: bool
    ) -> None:
        self._redactor = redactor
        self._chosen = chosen
        self._with_payloads = with_payloads

    def recorded(self, recorded: Recorded) -> Recorded:
        event = self._without_others(recorded.event)
        if not self._with_payloads:
            event = _without_payloads(event)
        return recorded._replace(event=self._redacted(event))

    def _without_others(self, event: Event) -> Event:
        """A command may have made many workflows; those that stay behind are not named."""
        if not isinstance(event, CommandSettled) or event.workflow_id is not None:
            return event
        chosen = self._chosen[event.application_name]
        kept = tuple(each for each in _made_by(event) if each in chosen)
        return event.model_copy(
            update={
                "new_workflow_id": kept[0] if len(kept) == 1 else None,
                "new_workflow_ids": kept if len(kept) > 1 else (),
            }
        )

    def _redacted(self, event: Event) -> Event:
        return event.model_copy(update=self._changes(event))

    def _changes(self, stored: Stored) -> dict[str, Any]:
        changes = {}
        for name, value in vars(stored).items():
            new = self._field(name, value)
            if new is not value:
                changes[name] = new
        return changes

    def _field(self, name: str, value: Any) -> Any:
        match value:
            case str() if name in REFERENCES:
                return self._redactor.reference(value)
            case str() if name == "authenticated_user":
                return self._redactor.user(value)
            case str():
                return self._redactor.text(value)
            case dict():
                return self._redactor.value(value)
            case StepState():
                return value.model_copy(update=self._changes(value))
            case tuple():
                return tuple(self._field(name, item) for item in value)
            case _:
                return value


def _without_payloads(event: Event) -> Event:
    """What was not taken along counts as never asked for. Errors explain, and stay."""
    if isinstance(event, WorkflowState):
        gone = {"input": None, "input_loaded": False, "output": None, "output_loaded": False}
        return event.model_copy(update=gone)
    if isinstance(event, StepsObserved):
        steps = tuple(step.model_copy(update={"output": None}) for step in event.steps)
        return event.model_copy(update={"steps": steps})
    return event


def _ids(source: Connection, selection: Selection) -> dict[str, frozenset[str]]:
    return {
        name: frozenset(
            workflow_id
            for batch in batches(keys)
            for workflow_id in source.execute(
                select(col(WorkflowRow.workflow_id)).where(col(WorkflowRow.id).in_(batch))
            ).scalars()
        )
        for name, keys in selection.keys.items()
    }


def _users(source: Connection, selection: Selection) -> set[str]:
    user = col(WorkflowRow.authenticated_user)
    return {
        name
        for keys in selection.keys.values()
        for batch in batches(keys)
        for name in source.execute(
            select(user).where(col(WorkflowRow.id).in_(batch), user.is_not(None)).distinct()
        ).scalars()
        if name is not None
    }


def _events(source: Connection, ids: Mapping[str, frozenset[str]]) -> Iterator[list[Recorded]]:
    """In the order of the log, of workflows by their applications."""
    positions: list[int] = []
    for name, its in ids.items():
        of_workflows = [
            position
            for batch in batches(its)
            for position in event_log.positions_of(source, name, batch)
        ]
        if of_workflows:
            positions += chain(of_workflows, _beside(source, name, of_workflows, its))
    for batch in batches(sorted(positions)):
        yield event_log.read_at(source, batch)


def _beside(
    source: Connection, application_name: str, of_workflows: Sequence[int], ids: frozenset[str]
) -> Iterator[int]:
    """The application itself, the executors that are up or that ran any of it, and what was ordered
    meanwhile that is about no workflow."""
    executors = {
        executor_id
        for batch in batches(of_workflows)
        for executor_id in event_log.executors_at(source, batch)
    }
    executors.update(
        source.execute(
            select(col(ExecutorRow.executor_id)).where(
                col(ExecutorRow.application_name) == application_name,
                col(ExecutorRow.status) != _REMOVED,
            )
        ).scalars()
    )
    first, last = min(of_workflows), max(of_workflows)
    others = list(event_log.read_without_workflow(source, application_name))
    commands = {
        event.command_id
        for position, _, event in others
        if (isinstance(event, CommandIssued) and first <= position <= last)
        or (isinstance(event, CommandSettled) and ids.intersection(_made_by(event)))
    }
    for position, _, event in others:
        match event:
            case ExecutorObserved():
                wanted = event.executor_id in executors
            case CommandIssued() | CommandSettled():
                wanted = event.command_id in commands
            case _:
                wanted = True
        if wanted:
            yield position


def _made_by(event: CommandSettled) -> tuple[str, ...]:
    return tuple(
        made for made in (event.new_workflow_id, *event.new_workflow_ids) if made is not None
    )


def _excerpts(
    source: Connection,
    selection: Selection,
    redactor: Redactor,
    now: int,
    *,
    with_payloads: bool,
) -> dict[str, Excerpt]:
    """Of each application, and of all of it."""
    there = {name: _workflows_of(source, name) for name in selection.keys}
    shared = {
        "made_at": now,
        "version": dbos_mcp.__version__,
        "subject": redactor.text(selection.subject),
        "left_out": tuple(selection.left_out),
        "payloads": with_payloads,
    }
    excerpts = {
        name: Excerpt(
            **shared,
            workflows=len(keys),
            of_workflows=there[name],
            first_looked_at=first_looked_at(source, name),
        )
        for name, keys in selection.keys.items()
    }
    total = sum(there.values())
    return excerpts | {
        CONDUCTOR: Excerpt(**shared, workflows=selection.workflows, of_workflows=total)
    }


def _workflows_of(source: Connection, application_name: str) -> int:
    """In the mirror, also if this is made of an excerpt."""
    excerpt = sync_state.load(source, application_name).excerpt_of
    if excerpt is not None:
        return excerpt.of_workflows
    return source.execute(
        select(func.count())
        .select_from(WorkflowRow)
        .where(col(WorkflowRow.application_name) == application_name)
    ).scalar_one()


def _copy_sync_state(
    source: Connection,
    target: Connection,
    selection: Selection,
    excerpts: Mapping[str, Excerpt],
    redactor: Redactor,
) -> None:
    """Of when it is; and nothing that would say that it is complete, or that anybody syncs it."""
    for name, excerpt in excerpts.items():
        state = sync_state.load(source, name)
        sync_state.update(
            target,
            redactor.reference(name),
            {
                "attempted_at": state.attempted_at,
                "succeeded_at": state.succeeded_at,
                "steps_since": 0,  # none are still to be read
                "excerpt": excerpt.model_dump_json(),
            },
        )
    table = table_of(StepReadingRow)
    for keys in selection.keys.values():
        for batch in batches(keys):
            rows = source.execute(select(table).where(table.c.workflow_key.in_(batch))).mappings()
            readings = [{**row, "next_at": None} for row in rows]
            if readings:
                target.execute(insert(StepReadingRow), readings)


def _count(connection: Connection, table: type[StepRow]) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()
