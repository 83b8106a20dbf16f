"""Commands: sent straight through, once, and left in the log with what came of them.

Each workflow is looked up upstream first, because a cancel of an unknown id succeeds silently, and
again afterwards, so that the next question sees the new state. A command whose answer did not come
is "unknown", never repeated: a second resume would restart a running workflow.

Many go out one after the other, in batches: what was seen before a batch is seldom out of date when
its last command is sent, and the reads are few.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal
from uuid import uuid4

import anyio
from sqlalchemy import Connection

from dbos_mcp.conductor.models import BackfillRequest, BulkForkFromFailureRequest, ForkRequest
from dbos_mcp.domain import WorkflowStatus
from dbos_mcp.errors import (
    AuthenticationError,
    ConductorError,
    DbosMcpError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RejectedError,
    ResponseError,
    UsageError,
)
from dbos_mcp.store.events import CommandIssued, CommandName, CommandOutcome, CommandSettled
from dbos_mcp.sync import known
from dbos_mcp.sync.mirror import Mirror, Reread

BATCH = 20
FAILURES_TO_STOP = 3
"""So many without an answer, one after the other, and the rest is not sent."""
GONE = "gone upstream"

_ENDED_FOR_GOOD = (WorkflowStatus.SUCCESS, WorkflowStatus.ERROR)
_CONCERNS_ALL = (AuthenticationError, PermissionDeniedError, RateLimitError)
"""The next command would fail alike."""

_EFFECTS: Mapping[CommandName, Mapping[str, str]] = {
    "cancel": {
        WorkflowStatus.PENDING: "stops at its next step",
        WorkflowStatus.ENQUEUED: "leaves its queue",
        WorkflowStatus.DELAYED: "will not start",
        "": "becomes CANCELLED",
    },
    "resume": {
        WorkflowStatus.PENDING: "is started again WHILE IT RUNS",
        WorkflowStatus.ENQUEUED: "starts now",
        WorkflowStatus.DELAYED: "starts now",
        "": "goes on from its last completed step",
    },
    "fork": {"": "runs again, as a new workflow"},
    "fork_from_failure": {"": "runs again, as a new workflow"},
    "delete": {
        WorkflowStatus.PENDING: "is deleted WHILE IT RUNS, for ever",
        "": "is deleted for ever, with its steps",
    },
}
"""What a command does to a workflow in a status; under the empty one, to any other."""

Outcome = CommandOutcome | Literal["not sent"]
Told = Callable[[int, int], Awaitable[None]]
"""Is told after each batch how many of how many are done with."""


@dataclass(frozen=True)
class CommandResult:
    """What came of one command on one workflow; a status is None where it could not be seen."""

    workflow_id: str
    outcome: Outcome
    status_before: str | None = None
    status_after: str | None = None
    new_workflow_id: str | None = None
    error: DbosMcpError | None = None


@dataclass(frozen=True)
class Settled:
    """What came of one command on something else than a workflow."""

    outcome: CommandOutcome
    made: tuple[str, ...] = ()
    """The ids of the workflows that it started."""
    error: DbosMcpError | None = None


@dataclass(frozen=True)
class _Order:
    """A command, still to be sent. What it answers are the ids of workflows that it made, if any.
    It has another id, `new_workflow_id`, where we chose that of the one it makes."""

    command: CommandName
    arguments: Mapping[str, object]
    send: Callable[[], Awaitable[object]]
    new_workflow_id: str | None = None


@dataclass(frozen=True)
class Group:
    """Workflows that are alike, and what a command would do to them; no `status`: not there."""

    status: str | None
    workflow_name: str | None
    effect: str | None
    """None: nothing would be sent."""
    workflow_ids: Sequence[str]


@dataclass(frozen=True)
class Preview:
    """What a command would do by the state upstream; it changes nothing."""

    groups: Sequence[Group]
    """The largest first, those to which nothing would happen at the end."""
    descendants: int = 0
    """How many child workflows, at any depth, the mirror knows, where they are concerned."""

    @property
    def to_send(self) -> int:
        return sum(len(group.workflow_ids) for group in self.groups if group.effect is not None)


async def _tell_nobody(_done: int, _total: int) -> None:
    pass


class Commands:
    def __init__(self, mirror: Mirror, requested_by: str | None = None) -> None:
        self.mirror = mirror
        self.requested_by = requested_by

    async def cancel(
        self,
        application_name: str,
        workflow_ids: Sequence[str],
        *,
        cancel_children: bool = False,
        told: Told = _tell_nobody,
    ) -> list[CommandResult]:
        def order(workflow_id: str) -> _Order:
            return _Order(
                "cancel",
                {"cancel_children": True} if cancel_children else {},
                partial(
                    self.mirror.client.cancel_workflow,
                    application_name,
                    workflow_id,
                    cancel_children=cancel_children,
                ),
            )

        return await self._each(
            application_name, workflow_ids, order, told, with_children=cancel_children
        )

    async def resume(
        self,
        application_name: str,
        workflow_ids: Sequence[str],
        *,
        queue_name: str | None = None,
        told: Told = _tell_nobody,
    ) -> list[CommandResult]:
        def order(workflow_id: str) -> _Order:
            return _Order(
                "resume",
                {"queue_name": queue_name} if queue_name else {},
                partial(
                    self.mirror.client.resume_workflow,
                    application_name,
                    workflow_id,
                    queue_name=queue_name,
                ),
            )

        return await self._each(application_name, workflow_ids, order, told)

    async def fork(
        self,
        application_name: str,
        workflow_ids: Sequence[str],
        request: ForkRequest,
        *,
        told: Told = _tell_nobody,
    ) -> list[CommandResult]:
        """A fork carries an id that we chose, so that it can be looked up when no answer comes."""

        def order(workflow_id: str) -> _Order:
            new_workflow_id = request.new_workflow_id or str(uuid4())
            named = request.model_copy(update={"new_workflow_id": new_workflow_id})
            return _Order(
                "fork",
                named.model_dump(exclude_none=True),
                partial(self.mirror.client.fork_workflow, application_name, workflow_id, named),
                new_workflow_id,
            )

        return await self._each(application_name, workflow_ids, order, told)

    async def fork_from_failure(
        self,
        application_name: str,
        workflow_ids: Sequence[str],
        request: BulkForkFromFailureRequest,
        *,
        told: Told = _tell_nobody,
    ) -> list[CommandResult]:
        """The new id is Conductor's choice. Each goes out by itself, so that it is known which new
        workflow is of which old one; the ids in `request` do not count."""

        def order(workflow_id: str) -> _Order:
            of_one = request.model_copy(update={"workflow_ids": [workflow_id]})
            return _Order(
                "fork_from_failure",
                of_one.model_dump(exclude_none=True, exclude={"workflow_ids"}),
                partial(self.mirror.client.bulk_fork_from_failure, application_name, of_one),
            )

        return await self._each(application_name, workflow_ids, order, told)

    async def delete(
        self,
        application_name: str,
        workflow_ids: Sequence[str],
        *,
        delete_children: bool = False,
        told: Told = _tell_nobody,
    ) -> list[CommandResult]:
        def order(workflow_id: str) -> _Order:
            return _Order(
                "delete",
                {"delete_children": True} if delete_children else {},
                partial(
                    self.mirror.client.delete_workflow,
                    application_name,
                    workflow_id,
                    delete_children=delete_children,
                ),
            )

        return await self._each(
            application_name, workflow_ids, order, told, with_children=delete_children
        )

    async def pause_schedule(self, application_name: str, schedule_name: str) -> Settled:
        send = partial(self.mirror.client.pause_schedule, application_name, schedule_name)
        order = _Order("pause_schedule", {"schedule_name": schedule_name}, send)
        return await self._one(application_name, order)

    async def resume_schedule(self, application_name: str, schedule_name: str) -> Settled:
        send = partial(self.mirror.client.resume_schedule, application_name, schedule_name)
        order = _Order("resume_schedule", {"schedule_name": schedule_name}, send)
        return await self._one(application_name, order)

    async def trigger_schedule(self, application_name: str, schedule_name: str) -> Settled:
        send = partial(self.mirror.client.trigger_schedule, application_name, schedule_name)
        order = _Order("trigger_schedule", {"schedule_name": schedule_name}, send)
        return await self._one(application_name, order)

    async def backfill_schedule(
        self, application_name: str, schedule_name: str, request: BackfillRequest
    ) -> Settled:
        send = partial(
            self.mirror.client.backfill_schedule, application_name, schedule_name, request
        )
        arguments = {"schedule_name": schedule_name, **request.model_dump(exclude_none=True)}
        return await self._one(application_name, _Order("backfill_schedule", arguments, send))

    async def set_latest_application_version(
        self, application_name: str, application_version: str
    ) -> Settled:
        send = partial(
            self.mirror.client.set_latest_application_version, application_name, application_version
        )
        arguments = {"application_version": application_version}
        order = _Order("set_latest_application_version", arguments, send)
        return await self._one(application_name, order)

    async def preview(
        self,
        application_name: str,
        command: CommandName,
        workflow_ids: Sequence[str],
        *,
        with_children: bool = False,
    ) -> Preview:
        """Look at the workflows upstream, and tell what the command would do to them.

        Raises:
            ConductorError, NotFoundError: their states cannot be read.
        """
        statuses = (await self.mirror.refresh_workflows(application_name, workflow_ids)).statuses

        names = await self.mirror.read(
            partial(
                known.workflow_names, application_name=application_name, workflow_ids=workflow_ids
            )
        )
        descendants = (
            await self.descendants(application_name, workflow_ids) if with_children else []
        )
        groups: defaultdict[tuple[str | None, str | None], list[str]] = defaultdict(list)
        for workflow_id in dict.fromkeys(workflow_ids):
            status = statuses.get(workflow_id)
            groups[status, names.get(workflow_id) if status else None].append(workflow_id)
        found = [
            Group(status, name, _effect(command, status, with_children=with_children), ids)
            for (status, name), ids in groups.items()
        ]
        found.sort(key=lambda group: (group.effect is None, -len(group.workflow_ids)))
        return Preview(found, len(descendants))

    async def descendants(
        self, application_name: str, workflow_ids: Sequence[str]
    ) -> Sequence[str]:
        """The children, at any depth, that the mirror knows, or the first of very many."""
        return await self.mirror.read(
            partial(known.descendants, application_name=application_name, workflow_ids=workflow_ids)
        )

    async def _each(
        self,
        application_name: str,
        workflow_ids: Sequence[str],
        order: Callable[[str], _Order],
        told: Told,
        *,
        with_children: bool = False,
    ) -> list[CommandResult]:
        """One command after the other, each workflow once.

        Raises:
            DbosMcpError: nothing was done, and the rest would fail alike.
        """
        ids = list(dict.fromkeys(workflow_ids))
        run = _Run(in_turn=len(ids) > BATCH, with_children=with_children)
        results: list[CommandResult] = []
        for start in range(0, len(ids), BATCH):
            batch = {workflow_id: order(workflow_id) for workflow_id in ids[start : start + BATCH]}
            results += await self._batch(application_name, batch, run)
            await told(len(results), len(ids))
        if run.stopped_by is not None and all(
            result.outcome in ("failed", "not sent") for result in results
        ):
            raise run.stopped_by
        return results

    async def _batch(
        self, application_name: str, orders: Mapping[str, _Order], run: "_Run"
    ) -> list[CommandResult]:
        ids = list(orders)
        before = Reread({}, 0)
        children: Sequence[str] = []
        if run.stopped_by is None:
            try:
                before = await self.mirror.refresh_workflows(application_name, ids)
            except (ConductorError, NotFoundError) as error:
                run.stopped_by = error
            if run.with_children:
                children = await self.descendants(application_name, ids)
        results: list[CommandResult] = []
        for workflow_id, order in orders.items():
            status = before.statuses.get(workflow_id)
            refusal = run.stopped_by or _refusal(
                order.command, application_name, workflow_id, status, run.with_children
            )
            if status is None and workflow_id in before.unreadable:
                refusal = run.stopped_by or _unreadable(workflow_id, before.unreadable[workflow_id])
            if refusal is not None:
                result = CommandResult(workflow_id, "not sent", status, status, error=refusal)
            else:
                if run.in_turn:
                    await self.mirror.client.traffic.turn()
                settled = await self._settle(application_name, workflow_id, order)
                run.note(settled.error)
                made = settled.made[0] if settled.made else None
                result = CommandResult(
                    workflow_id, settled.outcome, status, None, made, settled.error
                )
            results.append(result)
        sent = [result for result in results if result.outcome != "not sent"]
        if not sent:
            return results
        touched = [result.workflow_id for result in sent]
        touched += [result.new_workflow_id for result in sent if result.new_workflow_id is not None]
        after = await self._look_again(application_name, [*touched, *children])
        if after is None:
            return results
        return [
            replace(result, status_after=after.get(result.workflow_id, GONE))
            if result.outcome != "not sent"
            else result
            for result in results
        ]

    async def _one(self, application_name: str, order: _Order) -> Settled:
        """Raises the error of a command that was not carried out."""
        settled = await self._settle(application_name, None, order)
        if settled.error is not None and settled.outcome == "failed":
            raise settled.error
        if settled.made:
            await self._look_again(application_name, settled.made)
        return settled

    async def _settle(
        self, application_name: str, workflow_id: str | None, order: _Order
    ) -> Settled:
        """Send a command, and leave in the log what came of it, also when nobody waits any more."""
        issued = CommandIssued(
            application_name=application_name,
            workflow_id=workflow_id,
            command_id=str(uuid4()),
            command=order.command,
            arguments=order.arguments,
            requested_by=self.requested_by,
        )
        await self._record(issued)
        ours = (order.new_workflow_id,) if order.new_workflow_id is not None else ()
        settled = Settled("unknown", ours)
        detail: str | None = "Nobody waited for the answer."
        try:
            settled = await _sent(order, ours)
            detail = str(settled.error) if settled.error else None
        finally:
            made = settled.made
            with anyio.CancelScope(shield=True):
                await self._record(
                    CommandSettled(
                        application_name=application_name,
                        workflow_id=workflow_id,
                        command_id=issued.command_id,
                        outcome=settled.outcome,
                        detail=detail,
                        new_workflow_id=made[0] if len(made) == 1 else None,
                        new_workflow_ids=made if len(made) > 1 else (),
                    )
                )
        return settled

    async def _look_again(
        self, application_name: str, workflow_ids: Sequence[str]
    ) -> Mapping[str, str] | None:
        """The statuses now of those that are there; None: they could not be read."""
        try:
            reread = await self.mirror.refresh_workflows(application_name, workflow_ids)
        except (ConductorError, NotFoundError):
            return None
        return reread.statuses

    async def _record(self, event: CommandIssued | CommandSettled) -> None:
        def work(connection: Connection) -> None:
            self.mirror.record(connection, [self.mirror.upstream.without_secrets(event)])

        await self.mirror.write(work)


@dataclass
class _Run:
    """How it goes with many commands, and what ended it before the last."""

    in_turn: bool
    """Whether they wait for their turn, as reads do."""
    with_children: bool
    stopped_by: DbosMcpError | None = None
    failures: int = 0

    def note(self, failure: DbosMcpError | None) -> None:
        away = isinstance(failure, ConductorError) and not isinstance(failure, RejectedError)
        self.failures = self.failures + 1 if away else 0
        if isinstance(failure, _CONCERNS_ALL) or self.failures >= FAILURES_TO_STOP:
            self.stopped_by = failure


def _effect(command: CommandName, status: str | None, *, with_children: bool) -> str | None:
    """What would happen to a workflow in this status; None: nothing, so nothing is sent."""
    stays = (*_ENDED_FOR_GOOD, *((WorkflowStatus.CANCELLED,) if not with_children else ()))
    if (
        status is None
        or (command == "resume" and status in _ENDED_FOR_GOOD)
        or (command == "cancel" and status in stays)
    ):
        return None
    return _EFFECTS[command].get(status, _EFFECTS[command][""])


def _refusal(
    command: CommandName,
    application_name: str,
    workflow_id: str,
    status: str | None,
    with_children: bool,
) -> DbosMcpError | None:
    """Why a command is not to be sent."""
    if _effect(command, status, with_children=with_children) is not None:
        return None
    if status is None:
        return NotFoundError(
            f"{application_name} has no workflow {workflow_id!r}; nothing was sent.",
            hint="Look ids up with list_workflows.",
        )
    return UsageError(
        f"{workflow_id} has ended as {status}; nothing was sent, since Conductor would accept a"
        f" {command} and do nothing.",
        hint="fork_workflow runs it again from a step, under a new id."
        if status in _ENDED_FOR_GOOD
        else "resume_workflow lets it go on from its last completed step.",
    )


def _unreadable(workflow_id: str, reason: str) -> ResponseError:
    return ResponseError(
        f"What Conductor says of {workflow_id} cannot be read ({reason}); nothing was sent, since"
        " its status is unknown.",
        hint="sync_status tells what else could not be read.",
    )


async def _sent(order: _Order, ours: tuple[str, ...]) -> Settled:
    try:
        answer = await order.send()
    except DbosMcpError as error:
        if isinstance(error, ConductorError) and error.outcome_unknown:
            return Settled("unknown", ours, error)
        return Settled("failed", (), error)
    match answer:
        case str():
            return Settled("done", (answer,))
        case list():
            return Settled("done", tuple(answer))
    return Settled("done")
