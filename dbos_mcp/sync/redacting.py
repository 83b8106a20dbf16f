"""Between Conductor and the cache: what sync reads, without the secrets in its free text.

It is the only reader of what may be stored, so that nothing passes beside it; and it comes before
any comparison, so that redacted text is compared with redacted text, and what did not change stays
as it is.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import anyio.to_thread
from pydantic import BaseModel

from dbos_mcp.conductor.client import ConductorClient
from dbos_mcp.conductor.decoding import Rows
from dbos_mcp.conductor.models import Application, Executor, Step, Workflow, WorkflowSearch
from dbos_mcp.redaction import Redactor, kinds_in
from dbos_mcp.store.events import CommandIssued, CommandSettled, Event, StepsObserved, Stored

FREE_TEXT: Mapping[type[BaseModel], frozenset[str]] = {
    Workflow: frozenset({"input", "output", "error", "attributes"}),
    Step: frozenset({"output", "error"}),
    Executor: frozenset({"executor_metadata"}),
    CommandIssued: frozenset({"arguments"}),
    CommandSettled: frozenset({"detail"}),
}
"""What applications, and the errors of others, say in their own words."""

AS_IT_IS: Mapping[str, str] = {
    "application_name": "it addresses the application",
    "application_id": "it addresses the application",
    "workflow_id": "it addresses the workflow, and everything about it is joined by it",
    "parent_workflow_id": "it is another workflow's id",
    "forked_from": "it is another workflow's id",
    "child_workflow_id": "it is another workflow's id",
    "new_workflow_id": "it is another workflow's id",
    "new_workflow_ids": "they are other workflows' ids",
    "command_id": "we made it",
    "requested_by": "the name of one of our tokens, or whoever an issuer says it is",
    "executor_id": "it joins workflows and executors",
    "deduplication_id": "two that differ must stay two: it says which workflows exclude each other",
    "queue_partition_key": "two that differ must stay two: each has limits of its own",
    "owning_application": "it is an application's name",
    "queue_name": "a name in the code, by which is filtered and grouped",
    "schedule_name": "a name in the code, by which is filtered and grouped",
    "workflow_name": "a name in the code, by which is filtered and grouped",
    "class_name": "a name in the code, by which is filtered and grouped",
    "config_name": "a name in the code, by which is filtered and grouped",
    "step_name": "a name in the code, by which is filtered and grouped",
    "application_version": "a hash or a name, by which is filtered and grouped",
    "status": "one of Conductor's words",
    "authenticated_user": "who it was is what one asks for; it is no secret",
    "assumed_role": "a role's name",
    "authenticated_roles": "roles' names",
    "hostname": "where it ran",
    "host_id": "where it ran",
    "language": "one of Conductor's words",
    "dbos_version": "a version",
}
"""The other texts of events, and why each is stored as it is. That an id is a token as well cannot
be told for sure, and Conductor has to be asked for it as it is. What is sent away, reports and
incident files, is redacted in ids and names too."""

_STORED = frozenset().union(*FREE_TEXT.values())

M = TypeVar("M", bound=BaseModel)


class Upstream:
    """Conductor, as far as what it answers may be stored."""

    def __init__(self, client: ConductorClient, redactor: Redactor | None) -> None:
        """Without a redactor everything is stored as it is."""
        self._client = client
        self._redactor = redactor

    async def list_applications(self) -> Rows[Application]:
        return await self._redacted(await self._client.list_applications())

    async def list_executors(self, application_name: str) -> Rows[Executor]:
        return await self._redacted(await self._client.list_executors(application_name))

    async def search_workflows(
        self, application_name: str, search: WorkflowSearch
    ) -> Rows[Workflow]:
        """Those that can be read."""
        said = await self._client.search_workflows(application_name, search, salvage=True)
        return await self._redacted(said)

    async def list_steps(
        self, application_name: str, workflow_id: str, *, offset: int | None = None
    ) -> Rows[Step]:
        """Those that can be read."""
        said = await self._client.list_steps(
            application_name, workflow_id, offset=offset, salvage=True
        )
        return await self._redacted(said)

    def text(self, text: str) -> str:
        return text if self._redactor is None else self._redactor.text(text)

    def without_secrets(self, said: M) -> M:
        """The same, with its free text redacted."""
        if self._redactor is None:
            return said
        changes = {}
        for name in FREE_TEXT.get(type(said), ()):
            value = getattr(said, name)
            if value is not None and (redacted := self._redactor.value(value)) != value:
                changes[name] = redacted
        return said.model_copy(update=changes) if changes else said

    def counted(self, events: Iterable[Event]) -> dict[str, Counter[str]]:
        """How many secrets of which kind were taken out of what events hold, by application."""
        counts: dict[str, Counter[str]] = {}
        if self._redactor is not None:
            for event in events:
                for kind in kinds_in(_texts(event)):
                    if kind in self._redactor.kinds:  # others are the application's own words
                        counts.setdefault(event.application_name, Counter())[kind] += 1
        return counts

    async def _redacted(self, said: Rows[M]) -> Rows[M]:
        """On a thread: a page may hold many long texts."""
        return await anyio.to_thread.run_sync(
            lambda: Rows(map(self.without_secrets, said), said.unreadable, is_cut=said.is_cut)
        )


def _texts(stored: Stored) -> Iterator[str]:
    """The free text of an event."""
    if isinstance(stored, StepsObserved):
        for step in stored.steps:
            yield from _texts(step)
    for name in _STORED & vars(stored).keys():
        value = getattr(stored, name)
        if value is not None:
            yield value if isinstance(value, str) else json.dumps(value)
