"""What Conductor's API v2 says and accepts, as on the wire.

Attributes carry the project's words (`application_version`), aliases the wire's (`appVersion`); no
other module knows the camelCase. Times are epoch milliseconds here and RFC 3339 on the wire.
Answers are decoded leniently, because servers add fields and leave nulls out; the same classes,
dumped by alias, are what `local_conductor` answers with.

Source: the OpenAPI document of the DBOS Conductor API v2.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

from dbos_mcp.domain import format_time, parse_time


def _from_wire_time(value: object) -> object:
    return parse_time(value) if isinstance(value, str) else value


EpochMs = Annotated[
    int,
    BeforeValidator(_from_wire_time),
    PlainSerializer(format_time, return_type=str, when_used="json"),
]
"""RFC 3339 on the wire, epoch milliseconds in Python."""


class Wire(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True
    )

    def to_wire(self) -> dict[str, Any]:
        """JSON-ready, camelCase, nulls included: an answer."""
        return self.model_dump(mode="json", by_alias=True)


class Application(Wire):
    id: str
    name: str
    org_id: str = ""
    status: str
    language: str | None = None
    private_mode: bool = False
    dbos_cloud: bool = False
    executor_timeout_secs: int = 60
    gc_rows_threshold: int | None = None
    gc_time_threshold_ms: int | None = None
    global_timeout_ms: int | None = None


class Executor(Wire):
    executor_id: str
    app_id: str = ""
    application_version: str = Field("", alias="appVersion")
    status: str
    created_at: EpochMs
    updated_at: EpochMs
    hostname: str | None = None
    host_id: str | None = None
    language: str | None = None
    dbos_version: str | None = None
    executor_metadata: dict[str, Any] | None = None


class ApplicationVersion(Wire):
    version_id: str
    version_name: str
    version_timestamp: EpochMs
    created_at: EpochMs


class Workflow(Wire):
    workflow_id: str
    status: str
    workflow_name: str | None = None
    class_name: str | None = Field(None, alias="workflowClass")
    config_name: str | None = Field(None, alias="workflowConfig")
    authenticated_user: str | None = Field(None, alias="user")
    assumed_role: str | None = None
    authenticated_roles: str | None = Field(None, alias="roles")
    input: str | None = None
    output: str | None = None
    error: str | None = None
    created_at: EpochMs
    updated_at: EpochMs
    queue_name: str | None = None
    application_version: str | None = Field(None, alias="appVersion")
    executor_id: str | None = None
    timeout_ms: int | None = None
    deadline: EpochMs | None = None
    deduplication_id: str | None = None
    priority: int = 0
    queue_partition_key: str | None = None
    forked_from: str | None = None
    was_forked_from: bool = False
    parent_workflow_id: str | None = None
    dequeued_at: EpochMs | None = None
    delay_until: EpochMs | None = None
    completed_at: EpochMs | None = None
    attributes: str | None = None
    schedule_name: str | None = None
    application_name: str | None = None


class Step(Wire):
    step_id: int
    step_name: str
    output: str | None = None
    error: str | None = None
    child_workflow_id: str | None = None
    started_at: EpochMs | None = None
    completed_at: EpochMs | None = None


class Event(Wire):
    key: str
    value: str


class Notification(Wire):
    topic: str | None = None
    message: str
    created_at: EpochMs
    consumed: bool


class StreamEntry(Wire):
    key: str
    values: list[str]


class Queue(Wire):
    name: str
    application_name: str | None = None
    concurrency: int | None = None
    worker_concurrency: int | None = None
    rate_limit_max: int | None = None
    rate_limit_period_secs: float | None = None
    partition_queue: bool = False
    priority_enabled: bool = False
    polling_interval_secs: float = 1.0


class Schedule(Wire):
    schedule_id: str
    schedule_name: str
    application_name: str | None = None
    workflow_name: str
    class_name: str | None = Field(None, alias="workflowClass")
    cron_expression: str
    cron_timezone: str | None = None
    status: str
    context: str | None = None
    last_fired_at: EpochMs | None = None
    automatic_backfill: bool = False


class WorkflowAggregate(Wire):
    group: dict[str, str | None]
    count: int | None = None
    min_created_at: EpochMs | None = None
    max_queue_wait_ms: int | None = None
    max_total_latency_ms: int | None = None


class StepAggregate(Wire):
    group: dict[str, str | None]
    count: int | None = None
    max_duration_ms: int | None = None


class Role(Wire):
    name: str
    permissions: list[str] = []


class UserProfile(Wire):
    name: str
    org_name: str
    email: str | None = None
    role: Role | None = None
    subscription_plan: str | None = None


class Problem(Wire):
    """RFC 9457 problem details."""

    title: str | None = None
    status: int | None = None
    detail: str | None = None
    errors: list[dict[str, Any]] | None = None


class Body(Wire):
    """A request body: unknown keys are refused, unset fields left out, not sent as null."""

    model_config = ConfigDict(extra="forbid")

    schema_url: str | None = Field(None, alias="$schema", exclude=True)

    def to_request(self) -> dict[str, Any]:
        """JSON-ready, camelCase, without what was not given."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class WorkflowSelection(Body):
    """The filters that search and aggregates share: ANDed, values inside one list ORed.

    An empty list means "no filter" upstream; `ConductorClient` refuses it.
    """

    workflow_ids: Sequence[str] | None = None
    workflow_id_prefix: Sequence[str] | None = None
    workflow_name: Sequence[str] | None = None
    status: Sequence[str] | None = None
    authenticated_user: Sequence[str] | None = Field(None, alias="user")
    application_version: Sequence[str] | None = Field(None, alias="appVersion")
    executor_id: Sequence[str] | None = None
    queue_name: Sequence[str] | None = None
    schedule_name: Sequence[str] | None = None
    parent_workflow_id: Sequence[str] | None = None
    forked_from: Sequence[str] | None = None
    start_time: EpochMs | None = None
    end_time: EpochMs | None = None
    completed_after: EpochMs | None = None
    completed_before: EpochMs | None = None
    dequeued_after: EpochMs | None = None
    dequeued_before: EpochMs | None = None
    has_parent: bool | None = None
    was_forked_from: bool | None = None
    attributes: dict[str, Any] | None = None


class WorkflowSearch(WorkflowSelection):
    queues_only: bool | None = None
    load_input: bool | None = None
    load_output: bool | None = None
    sort_desc: bool | None = None
    limit: int | None = None
    offset: int | None = None


class WorkflowAggregateQuery(WorkflowSelection):
    group_by_status: bool | None = None
    group_by_workflow_name: bool | None = None
    group_by_queue_name: bool | None = None
    group_by_executor_id: bool | None = None
    group_by_application_version: bool | None = Field(None, alias="groupByAppVersion")
    group_by_application_name: bool | None = None
    select_count: bool | None = None
    select_min_created_at: bool | None = None
    select_max_queue_wait_ms: bool | None = None
    select_max_total_latency_ms: bool | None = None
    time_bucket_size_ms: int | None = None


class StepAggregateQuery(Body):
    workflow_id_prefix: Sequence[str] | None = None
    step_name: Sequence[str] | None = None
    status: Sequence[str] | None = None
    completed_after: EpochMs | None = None
    completed_before: EpochMs | None = None
    group_by_function_name: bool | None = None
    group_by_status: bool | None = None
    select_count: bool | None = None
    select_max_duration_ms: bool | None = None
    time_bucket_size_ms: int | None = None


class CancelRequest(Body):
    cancel_children: bool | None = None


class ResumeRequest(Body):
    queue_name: str | None = None


class ForkRequest(Body):
    start_step: int | None = None
    new_workflow_id: str | None = None
    application_version: str | None = Field(None, alias="appVersion")
    queue_name: str | None = None
    queue_partition_key: str | None = None


class ForkResult(Wire):
    workflow_id: str


class BulkCancelRequest(Body):
    workflow_ids: Sequence[str]
    cancel_children: bool | None = None


class BulkResumeRequest(Body):
    workflow_ids: Sequence[str]
    queue_name: str | None = None


class BulkDeleteRequest(Body):
    workflow_ids: Sequence[str]
    delete_children: bool | None = None


class BulkForkFromFailureRequest(Body):
    workflow_ids: Sequence[str]
    from_last_failure: bool | None = None
    from_last_step: bool | None = None
    from_step: int | None = None
    from_step_name: str | None = None
    application_version: str | None = Field(None, alias="appVersion")
    queue_name: str | None = None
    queue_partition_key: str | None = None


class WorkflowIds(Wire):
    """The answer of bulk fork and of backfill."""

    workflow_ids: list[str]


class BackfillRequest(Body):
    start_time: EpochMs
    end_time: EpochMs


class TriggerResult(Wire):
    workflow_id: str


class LatestVersionRequest(Body):
    version_name: str
