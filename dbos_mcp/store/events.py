"""The event kinds: what was observed or done, in the past tense, with all that Conductor said.

An event is written once and read for ever: a field may be added with a default, never renamed or
given another meaning. The log's columns hold the envelope (application, workflow, kind, clocks);
all other fields are its JSON `data`, defaults left out.
"""

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ModelWrapValidatorHandler,
    StringConstraints,
    ValidationError,
    model_validator,
)

from dbos_mcp.domain import INTEGER_LIMIT, storable
from dbos_mcp.errors import UnknownEventError

ENVELOPE = {"application_name", "workflow_id", "occurred_at"}

Text = Annotated[str, StringConstraints(min_length=0)]
"""Any constraint makes pydantic refuse lone surrogates."""
Integer = Annotated[int, Field(ge=-INTEGER_LIMIT, lt=INTEGER_LIMIT)]


class Stored(BaseModel):
    """What goes into the log. Upstream's strings and numbers are other people's data: a value that
    could not be stored is replaced here, before anything is hashed or compared."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @model_validator(mode="wrap")
    @classmethod
    def _make_storable(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(values)
        except ValidationError:
            return handler(storable(values))


class Event(Stored):
    """What every kind has; `occurred_at` is upstream's clock in epoch milliseconds."""

    application_name: Text
    workflow_id: Text | None = None
    occurred_at: Integer | None = None

    @property
    def kind(self) -> str:
        return type(self).__name__

    def data(self) -> str:
        """The log's JSON: compact, defaults and the envelope left out."""
        return self.model_dump_json(exclude_defaults=True, exclude=ENVELOPE)


class ApplicationObserved(Event):
    application_id: Text
    status: Text
    language: Text | None = None
    private_mode: bool = False
    dbos_cloud: bool = False
    executor_timeout_secs: Integer | None = None
    gc_rows_threshold: Integer | None = None
    gc_time_threshold_ms: Integer | None = None
    global_timeout_ms: Integer | None = None


class ExecutorObserved(Event):
    executor_id: Text
    status: Text
    application_version: Text | None = None
    hostname: Text | None = None
    host_id: Text | None = None
    language: Text | None = None
    dbos_version: Text | None = None
    executor_metadata: Text | None = None
    created_at: Integer
    updated_at: Integer


class WorkflowState(Event):
    """A workflow's row as Conductor showed it.

    `input`, `output` and `error` are display text. The error was asked for only if
    `payloads_loaded`, the other two only if `input_loaded` and `output_loaded`: otherwise their
    absence says nothing.
    """

    workflow_id: Text
    status: Text
    workflow_name: Text | None = None
    class_name: Text | None = None
    config_name: Text | None = None
    owning_application: Text | None = None
    authenticated_user: Text | None = None
    assumed_role: Text | None = None
    authenticated_roles: Text | None = None
    application_version: Text | None = None
    executor_id: Text | None = None
    queue_name: Text | None = None
    queue_partition_key: Text | None = None
    priority: Integer = 0
    deduplication_id: Text | None = None
    parent_workflow_id: Text | None = None
    forked_from: Text | None = None
    was_forked_from: bool = False
    schedule_name: Text | None = None
    attributes: Text | None = None
    created_at: Integer
    updated_at: Integer
    dequeued_at: Integer | None = None
    completed_at: Integer | None = None
    delay_until: Integer | None = None
    deadline: Integer | None = None
    timeout_ms: Integer | None = None
    payloads_loaded: bool = False
    input_loaded: bool = False
    output_loaded: bool = False
    input: Text | None = None
    output: Text | None = None
    error: Text | None = None

    LOADED: ClassVar[Mapping[str, str]] = {
        "input": "input_loaded",
        "output": "output_loaded",
        "error": "payloads_loaded",
    }
    """Each payload, and the field that says whether it was asked for."""
    PAYLOAD: ClassVar[set[str]] = {*LOADED, *LOADED.values()}

    def content_hash(self) -> bytes:
        """Eight bytes that change when the metadata does; payloads are compared by themselves."""
        content = self.model_dump_json(exclude_defaults=True, exclude=self.PAYLOAD)
        return blake2b(content.encode(), digest_size=8).digest()


class WorkflowObserved(WorkflowState):
    """Seen for the first time, or again after it was gone."""


class WorkflowChanged(WorkflowState):
    """Seen again, different."""


class WorkflowDeleted(Event):
    """No longer upstream: deleted by somebody or by retention. Its last row stays, marked."""

    workflow_id: Text


class StepState(Stored):
    step_id: Integer
    step_name: Text
    child_workflow_id: Text | None = None
    started_at: Integer | None = None
    completed_at: Integer | None = None
    output: Text | None = None
    error: Text | None = None


class StepsObserved(Event):
    """A workflow's whole list of steps, when it changed."""

    workflow_id: Text
    steps: tuple[StepState, ...]


class StepsDiscarded(Event):
    """Steps that are gone upstream while their workflow is not: a rewind."""

    workflow_id: Text
    step_ids: tuple[Integer, ...]


CommandName = Literal[
    "cancel",
    "resume",
    "fork",
    "fork_from_failure",
    "delete",
    "pause_schedule",
    "resume_schedule",
    "trigger_schedule",
    "backfill_schedule",
    "set_latest_application_version",
]
CommandOutcome = Literal["done", "failed", "unknown"]


class CommandIssued(Event):
    """Somebody asked, through us, for something to be done: to a workflow, or to what the arguments
    name."""

    command_id: Text
    command: CommandName
    arguments: Annotated[dict[str, JsonValue], BeforeValidator(storable)] = {}
    requested_by: Text | None = None
    """The token or user of a shared server; None: whoever runs this one."""


class CommandSettled(Event):
    """What came of it. `unknown`: it was sent, no answer came, it may have run. Where it made one
    workflow that is the new id, where it made several they are the new ids."""

    command_id: Text
    outcome: CommandOutcome
    detail: Text | None = None
    new_workflow_id: Text | None = None
    new_workflow_ids: tuple[Text, ...] = ()


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
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UnknownEventError(
            f"The log holds a {kind} event that this version of dbos-mcp cannot read.",
            hint="A newer version wrote it, or the file is damaged: try `uvx dbos-mcp@latest`.",
        ) from error
