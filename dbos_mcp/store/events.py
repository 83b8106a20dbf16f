"""The event kinds: what was observed or done, in the past tense, with all that Conductor said.

An event is written once and read for ever: a field may be added with a default, never renamed or
given another meaning. The log's columns hold the envelope (application, workflow, kind, clocks);
all other fields are its JSON `data`, defaults left out.
"""

import json
from hashlib import blake2b
from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from dbos_mcp.errors import UnknownEventError

ENVELOPE = frozenset({"application_name", "workflow_id", "occurred_at"})


class Event(BaseModel):
    """What every kind has; `occurred_at` is upstream's clock in epoch milliseconds."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    application_name: str
    workflow_id: str | None = None
    occurred_at: int | None = None

    @property
    def kind(self) -> str:
        return type(self).__name__

    def data(self) -> str:
        """The log's JSON: compact, defaults and the envelope left out."""
        fields = self.model_dump(exclude_defaults=True, exclude=set(ENVELOPE))
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


class ApplicationObserved(Event):
    application_id: str
    status: str
    language: str | None = None
    private_mode: bool = False
    dbos_cloud: bool = False
    executor_timeout_secs: int | None = None
    gc_rows_threshold: int | None = None
    gc_time_threshold_ms: int | None = None
    global_timeout_ms: int | None = None


class ExecutorObserved(Event):
    executor_id: str
    status: str
    application_version: str | None = None
    hostname: str | None = None
    host_id: str | None = None
    language: str | None = None
    dbos_version: str | None = None
    executor_metadata: str | None = None
    created_at: int
    updated_at: int


class WorkflowState(Event):
    """A workflow's row as Conductor showed it.

    `input`, `output` and `error` are display text, and were asked for only if `payloads_loaded`:
    otherwise their absence says nothing.
    """

    workflow_id: str
    status: str
    workflow_name: str | None = None
    class_name: str | None = None
    config_name: str | None = None
    owning_application: str | None = None
    authenticated_user: str | None = None
    assumed_role: str | None = None
    authenticated_roles: str | None = None
    application_version: str | None = None
    executor_id: str | None = None
    queue_name: str | None = None
    queue_partition_key: str | None = None
    priority: int = 0
    deduplication_id: str | None = None
    parent_workflow_id: str | None = None
    forked_from: str | None = None
    was_forked_from: bool = False
    schedule_name: str | None = None
    attributes: str | None = None
    created_at: int
    updated_at: int
    dequeued_at: int | None = None
    completed_at: int | None = None
    delay_until: int | None = None
    deadline: int | None = None
    timeout_ms: int | None = None
    payloads_loaded: bool = False
    input: str | None = None
    output: str | None = None
    error: str | None = None

    PAYLOAD: ClassVar[frozenset[str]] = frozenset({"payloads_loaded", "input", "output", "error"})

    def content_hash(self) -> bytes:
        """Eight bytes that change when the metadata does; payloads are compared by themselves."""
        content = self.model_dump(exclude_defaults=True, exclude=set(self.PAYLOAD))
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


class WorkflowObserved(WorkflowState):
    """Seen for the first time, or again after it was gone."""


class WorkflowChanged(WorkflowState):
    """Seen again, different."""


class WorkflowDeleted(Event):
    """No longer upstream: deleted by somebody or by retention. Its last row stays, marked."""

    workflow_id: str


class StepState(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    step_id: int
    step_name: str
    child_workflow_id: str | None = None
    started_at: int | None = None
    completed_at: int | None = None
    output: str | None = None
    error: str | None = None


class StepsObserved(Event):
    """A workflow's whole list of steps, when it changed."""

    workflow_id: str
    steps: tuple[StepState, ...]


class StepsDiscarded(Event):
    """Steps that are gone upstream while their workflow is not: a rewind."""

    workflow_id: str
    step_ids: tuple[int, ...]


CommandName = Literal["cancel", "resume", "fork"]
CommandOutcome = Literal["done", "failed", "unknown"]


class CommandIssued(Event):
    """Somebody asked, through us, for something to be done to a workflow."""

    workflow_id: str
    command_id: str
    command: CommandName
    arguments: dict[str, Any] = {}


class CommandSettled(Event):
    """What came of it. `unknown`: it was sent, no answer came, it may have run."""

    workflow_id: str
    command_id: str
    outcome: CommandOutcome
    detail: str | None = None
    new_workflow_id: str | None = None


AnyEvent = (
    ApplicationObserved
    | ExecutorObserved
    | WorkflowObserved
    | WorkflowChanged
    | WorkflowDeleted
    | StepsObserved
    | StepsDiscarded
    | CommandIssued
    | CommandSettled
)
KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in get_args(AnyEvent)}


def from_log(
    kind: str,
    application_name: str,
    workflow_id: str | None,
    occurred_at: int | None,
    data: str,
) -> Event:
    """The event that a log row holds.

    Raises:
        UnknownEventError: a kind, or a shape of it, that this version does not know.
    """
    try:
        return KINDS[kind].model_validate(
            {
                **json.loads(data),
                "application_name": application_name,
                "workflow_id": workflow_id,
                "occurred_at": occurred_at,
            }
        )
    except (KeyError, ValidationError, json.JSONDecodeError) as error:
        raise UnknownEventError(
            f"The log holds a {kind} event that this version of dbos-mcp cannot read.",
            hint="It was written by a newer version: upgrade with `uvx dbos-mcp@latest`.",
        ) from error
