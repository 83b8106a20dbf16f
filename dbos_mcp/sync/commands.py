"""Commands: sent straight through, once, and left in the log with what came of them.

Each workflow is looked up upstream first, because a cancel of an unknown id succeeds silently, and
again afterwards, so that the next question sees the new state. A command whose answer did not come
is "unknown", never repeated: a second resume would restart a running workflow.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import uuid4

import anyio
from sqlalchemy import Connection

from dbos_mcp.conductor.models import ForkRequest
from dbos_mcp.domain import WorkflowStatus
from dbos_mcp.errors import (
    AuthenticationError,
    ConductorError,
    DbosMcpError,
    NotFoundError,
    PermissionDeniedError,
    UsageError,
)
from dbos_mcp.store.events import CommandIssued, CommandName, CommandOutcome, CommandSettled
from dbos_mcp.sync.mirror import Mirror

_ENDED_FOR_GOOD = (WorkflowStatus.SUCCESS, WorkflowStatus.ERROR)

Send = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class CommandResult:
    """What came of one command on one workflow; a status is None where it could not be seen."""

    workflow_id: str
    outcome: CommandOutcome
    status_before: str | None = None
    status_after: str | None = None
    new_workflow_id: str | None = None
    error: DbosMcpError | None = None


class Commands:
    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror

    async def cancel(
        self, application_name: str, workflow_ids: Sequence[str], *, cancel_children: bool = False
    ) -> list[CommandResult]:
        client = self.mirror.client

        def send(workflow_id: str) -> Send:
            return partial(
                client.cancel_workflow,
                application_name,
                workflow_id,
                cancel_children=cancel_children,
            )

        arguments: dict[str, object] = {"cancel_children": True} if cancel_children else {}
        return await self._each(application_name, workflow_ids, "cancel", arguments, send)

    async def resume(
        self, application_name: str, workflow_ids: Sequence[str], *, queue_name: str | None = None
    ) -> list[CommandResult]:
        client = self.mirror.client

        def send(workflow_id: str) -> Send:
            return partial(
                client.resume_workflow, application_name, workflow_id, queue_name=queue_name
            )

        arguments: dict[str, object] = {"queue_name": queue_name} if queue_name else {}
        return await self._each(application_name, workflow_ids, "resume", arguments, send)

    async def fork(
        self, application_name: str, workflow_ids: Sequence[str], request: ForkRequest
    ) -> list[CommandResult]:
        """A fork carries an id that we chose, so that it can be looked up when no answer comes."""
        results = []
        for workflow_id in workflow_ids:
            named = request.model_copy(
                update={"new_workflow_id": request.new_workflow_id or str(uuid4())}
            )

            def send(workflow_id: str, named: ForkRequest = named) -> Send:
                return partial(
                    self.mirror.client.fork_workflow, application_name, workflow_id, named
                )

            results += await self._each(
                application_name,
                [workflow_id],
                "fork",
                named.model_dump(exclude_none=True),
                send,
                new_workflow_id=named.new_workflow_id,
            )
        return results

    async def _each(
        self,
        application_name: str,
        workflow_ids: Sequence[str],
        command: CommandName,
        arguments: dict[str, object],
        send: Callable[[str], Send],
        *,
        new_workflow_id: str | None = None,
    ) -> list[CommandResult]:
        """One command after the other.

        Raises:
            AuthenticationError, PermissionDeniedError: the rest would fail alike.
            DbosMcpError: the states before cannot be read; nothing was sent.
        """
        statuses = await self.mirror.refresh_workflows(application_name, workflow_ids)
        results = []
        for workflow_id in dict.fromkeys(workflow_ids):
            before = statuses.get(workflow_id)
            if before is None:
                missing = NotFoundError(
                    f"{application_name} has no workflow {workflow_id!r}; nothing was sent.",
                    hint="Look ids up with list_workflows.",
                )
                results.append(CommandResult(workflow_id, "failed", error=missing))
                continue
            if command in ("cancel", "resume") and before in _ENDED_FOR_GOOD:
                error = UsageError(
                    f"{workflow_id} has ended as {before}; nothing was sent, since Conductor would"
                    f" accept a {command} and do nothing.",
                    hint="fork_workflow runs it again from a step, under a new id.",
                )
                results.append(CommandResult(workflow_id, "failed", before, before, error=error))
                continue
            issued = CommandIssued(
                application_name=application_name,
                workflow_id=workflow_id,
                command_id=str(uuid4()),
                command=command,
                arguments=arguments,
            )
            await self._record(issued)
            outcome, failure = await self._settle(issued, send(workflow_id), new_workflow_id)
            if isinstance(failure, AuthenticationError | PermissionDeniedError):
                raise failure
            made = new_workflow_id if outcome != "failed" else None
            after = await self._status_now(application_name, workflow_id, made)
            results.append(CommandResult(workflow_id, outcome, before, after, made, failure))
        return results

    async def _settle(
        self, issued: CommandIssued, send: Send, new_workflow_id: str | None
    ) -> tuple[CommandOutcome, DbosMcpError | None]:
        """Send a command, and leave in the log what came of it, also when nobody waits any more."""
        outcome: CommandOutcome = "unknown"
        failure: DbosMcpError | None = None
        detail: str | None = "Nobody waited for the answer."
        try:
            outcome, failure = await _outcome_of(send)
            detail = str(failure) if failure else None
        finally:
            with anyio.CancelScope(shield=True):
                await self._record(
                    CommandSettled(
                        application_name=issued.application_name,
                        workflow_id=issued.workflow_id,
                        command_id=issued.command_id,
                        outcome=outcome,
                        detail=detail,
                        new_workflow_id=new_workflow_id if outcome != "failed" else None,
                    )
                )
        return outcome, failure

    async def _status_now(
        self, application_name: str, workflow_id: str, new_workflow_id: str | None
    ) -> str | None:
        touched = [workflow_id, *([new_workflow_id] if new_workflow_id else [])]
        try:
            statuses = await self.mirror.refresh_workflows(application_name, touched)
        except (ConductorError, NotFoundError):
            return None
        return statuses.get(workflow_id)

    async def _record(self, event: CommandIssued | CommandSettled) -> None:
        def work(connection: Connection) -> None:
            self.mirror.record(connection, [event])

        await self.mirror.write(work)


async def _outcome_of(send: Send) -> tuple[CommandOutcome, DbosMcpError | None]:
    try:
        await send()
    except DbosMcpError as error:
        unknown = isinstance(error, ConductorError) and error.outcome_unknown
        return ("unknown" if unknown else "failed"), error
    return "done", None
