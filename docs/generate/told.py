"""What the page of the tools says beside what the server does: which tool to prefer, what arguments
mean whose name is all that an agent is told, and the calls that are shown."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from docs.generate.night import APP, OLD

_SHOP = {"application_name": APP}
_ORDER = {**_SHOP, "workflow_id": "order-1030"}


@dataclass(frozen=True)
class Call:
    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    is_wrong: bool = False

    def __str__(self) -> str:
        given = ", ".join(f"{name}={_said(value)}" for name, value in self.arguments.items())
        return f"{self.tool}({given})"

    def __hash__(self) -> int:
        return hash(str(self))


def _said(value: Any) -> str:
    return str(value) if isinstance(value, bool) else json.dumps(value, ensure_ascii=False)


def _wrong(tool: str, *arguments: Mapping[str, Any]) -> list[Call]:
    return [Call(tool, given, is_wrong=True) for given in arguments]


MEANINGS = {
    "application_name": "The application, as `list_applications` shows it",
    "workflow_id": "The workflow's id",
    "max_age_seconds": "At most so many seconds old, see [above](#arguments-that-many-have)",
    "confirm": "From the preview, once the user has agreed; good once, for 5 minutes, and for these"
    " workflows only",
    "format": "How the answer is written",
    "cursor": "From the last answer, to go on with the same question",
    "limit": "The most rows",
    "status": "ENQUEUED, DELAYED, PENDING, SUCCESS, ERROR, CANCELLED or"
    " MAX_RECOVERY_ATTEMPTS_EXCEEDED",
    "workflow_name": "The workflow function; one or several",
    "workflow_id_prefix": "What ids begin with",
    "queue_name": "The queue",
    "queue_partition_key": "The part of a partitioned queue",
    "executor_id": "The process that runs it, or ran it last",
    "application_version": "The version that runs or ran it",
    "authenticated_user": "On whose behalf it runs",
    "schedule_name": "The schedule that started it",
    "has_failed_step": "Whether one raised an error, by the steps that were read",
    "completed_after": "Ended since",
    "completed_before": "Ended until",
    "dequeued_after": "Taken from its queue since",
    "dequeued_before": "Taken from its queue until",
    "end_time": "Created until",
    "max_duration": "As min_duration",
    "max_queue_wait": "As min_queue_wait",
    "has_parent": "Whether another workflow started it",
    "was_forked_from": "Whether there is a fork of it",
    "descending": "The newest, or the largest, first",
    "failed_only": "Only the steps that failed",
    "order_by": "Which groups come first",
    "durations": "Also p50, p95 and the longest, of runs and of waits",
    "compare": "Beside as much time before `start_time`",
    "cancel_children": "Also what they started, and what that did",
    "delete_children": "Also what they started, and what that did",
    "newest_first": "The newest entry first",
    "other_workflow_id": "The run to compare it with",
    "until": "Failed until",
    "sql": "One SELECT, up to 10,000 characters; [docs/sql.md](sql.md) has many",
    "view": "One of the views; without it, all of them",
    "timeout_seconds": "How long to wait",
    "from_last_step": "From the last step, whether it failed or not",
    "since": "Failed since",
    "after_position": "Of the last answer",
    "list_workflows.workflow_id": "These, up to 1,000",
    "cancel_workflow.workflow_id": "One, or up to 500",
    "resume_workflow.workflow_id": "One, or up to 500",
    "fork_workflow.workflow_id": "One, or up to 500",
    "delete_workflow.workflow_id": "One, or up to 500",
    "fork_from_failure.workflow_id": "One, or up to 500",
    "fork_workflow.queue_name": "Enqueue it there, not at once",
    "fork_from_failure.queue_name": "Enqueue them there, not at once",
    "set_latest_application_version.application_version": "As list_application_versions shows it",
    "list_steps.step_id": "With include_output also its output",
}
"""By the argument's name, or by `tool.argument`, which is said beside what the agent is told."""

COMMON = (
    ("`application_name`", "string", "the application, as `list_applications` shows it"),
    ("`workflow_id`", "string", "the workflow; a command takes a list of up to 500, too"),
    (
        "`max_age_seconds`",
        "number, 0 or more",
        "where the mirror has not looked for longer, Conductor is asked first, for 10 seconds"
        " at the most; 0 is now. Without it the mirror answers as it is",
    ),
    (
        "times, as `start_time`",
        "string",
        "-2h, -30m, -3d, now, today, yesterday (UTC), ISO 8601 with a zone, or epoch milliseconds."
        " With `--offline`, and of an incident file, they count from the mirror's last look",
    ),
    ("durations, as `min_duration`", "string", "250ms, 30s, 5m, 2h, 1d, 1h 30m, or milliseconds"),
    (
        "`confirm`",
        "string",
        "from the preview, once the user has agreed; good once, for 5 minutes, and for just these"
        " workflows",
    ),
    ("`cursor`, `after_position`", "", "from the last answer, to go on with the same question"),
)
"""What is said once for all tools: name, type, meaning."""

PREFERRED = {
    "list_applications": "Begin here. For how syncing goes, `sync_status` says more.",
    "list_executors": "For which versions they run, `list_application_versions`; for one workflow"
    " that does not get on, `diagnose_workflow` looks at them by itself.",
    "list_workflows": "For what failed, `list_failures` groups by cause; for how many,"
    " `get_workflow_aggregates`; for what no filter says, `query_sql`.",
    "get_workflow": "For why it failed or waits, `diagnose_workflow`; for all of its steps,"
    " `list_steps`; for what came before, `get_workflow_history`.",
    "list_steps": "`diagnose_workflow` goes down through the children to the cause by itself.",
    "get_workflow_aggregates": "For which workflows these are, `list_workflows` with the same"
    " filters; for failures by cause, `list_failures`.",
    "cancel_workflow": "To take it away for ever, `delete_workflow`. To see what would be met,"
    " `list_workflows` with the same ids.",
    "resume_workflow": "After ERROR or SUCCESS nothing is resumed: `fork_workflow`.",
    "fork_workflow": "For many failures, each from the step that failed, `fork_from_failure`. From"
    " which step, and whether that mends it, says `diagnose_workflow`.",
    "login": "Where `DBOS_TOKEN` is set, or Conductor wants no login, there is none. In a terminal:"
    " `dbos-mcp login`.",
    "login_complete": "`login` comes first.",
    "get_workflow_history": "For why, `diagnose_workflow` reads it, too; for what changed in all"
    " workflows, `list_changes`.",
    "list_changes": "For failures alone, by cause, `list_failures`; for one workflow,"
    " `get_workflow_history`.",
    "list_failures": "For one workflow, `diagnose_workflow`; for a list with filters,"
    " `list_workflows` with a status or `error_contains`.",
    "diagnose_workflow": "Of many failures, diagnose one of each cause of `list_failures`.",
    "compare_workflows": "`diagnose_workflow` picks the run to compare with by itself, and compares"
    " with many.",
    "query_sql": "What `list_failures`, `get_workflow_aggregates` or another tool answers, it"
    " answers in fewer characters, and says what is not known: SQL is for the rest.",
    "describe_schema": "[docs/sql.md](sql.md) is the same for people, with a cookbook.",
    "sync_status": "Each answer ends with the freshness of what it is about; this says why. In a"
    " terminal: `dbos-mcp status`.",
    "sync_now": "`max_age_seconds` of `list_workflows`, or of another tool, looks at what that"
    " question rests on, and at nothing else.",
    "delete_workflow": "To stop it, `cancel_workflow`: that can be undone. What was mirrored of it"
    " stays.",
    "fork_from_failure": "For one, `fork_workflow` from a step of your choice.",
    "list_queues": "For how long they wait, `get_workflow_aggregates` by `queue_name`; for which,"
    " `list_workflows` with `queue_name`.",
    "list_schedules": "For what they started, `list_workflows` with `schedule_name`.",
    "manage_schedule": "For one run again, `fork_workflow`.",
    "list_application_versions": "For which version fails more, `get_workflow_aggregates` by"
    " `application_version`.",
    "set_latest_application_version": "For what already runs or failed, `fork_workflow` with"
    " `application_version`.",
    "get_workflow_data": "For inputs and outputs, `get_workflow` with `include` `payload`, and"
    " `list_steps` with `include_output`.",
}
"""When another tool serves better."""

_SHOWN: dict[str, list[dict[str, Any]]] = {
    "list_applications": [{}],
    "list_executors": [_SHOP],
    "list_workflows": [
        {**_SHOP, "status": ["PENDING", "ENQUEUED"], "end_time": "-30m", "limit": 5},
        {**_SHOP, "workflow_id": "order-1030", "format": "json"},
    ],
    "get_workflow": [
        {**_ORDER, "include": "payload"},
        {**_SHOP, "workflow_id": "stock-0314", "as_of": "2026-03-14T01:15:00Z"},
    ],
    "list_steps": [_ORDER, {**_SHOP, "workflow_id": "order-1030-4-2", "step_id": 1,
                            "include_output": True}],
    "get_workflow_aggregates": [
        {**_SHOP, "group_by": ["application_version", "workflow_name"], "start_time": "-3h",
         "limit": 5},
    ],
    "get_workflow_history": [{**_SHOP, "workflow_id": "stock-0314"}],
    "list_changes": [{**_SHOP, "since": "-15m"}],
    "list_failures": [_SHOP, {**_SHOP, "group": "014927a5ac"}],
    "diagnose_workflow": [_ORDER, {**_SHOP, "workflow_id": "order-1031-3"}],
    "compare_workflows": [
        {**_SHOP, "workflow_id": "order-1030-4-2", "other_workflow_id": "order-1026-4-2"}
    ],
    "query_sql": [
        {
            "sql": "SELECT failed_step_name, count(*) AS failed FROM failures WHERE"
            " application_name = :app GROUP BY failed_step_name ORDER BY failed DESC",
            "params": {"app": APP},
        },
        {"sql": "SELECT status, count(*) AS workflows FROM workflows GROUP BY status",
         "format": "json"},
    ],
    "describe_schema": [{"view": "commands"}],
    "sync_status": [{}],
    "sync_now": [{}],
    "list_queues": [_SHOP],
    "list_schedules": [_SHOP],
    "list_application_versions": [_SHOP],
    "get_workflow_data": [_ORDER],
    "cancel_workflow": [{**_SHOP, "workflow_id": ["import-0314", "order-1021"]}],
    "resume_workflow": [{**_SHOP, "workflow_id": "import-0314"}],
    "fork_workflow": [
        {**_ORDER, "start_step": 4, "application_version": OLD,
         "new_workflow_id": "order-1030-again"}
    ],
    "delete_workflow": [{**_SHOP, "workflow_id": "order-1008"}],
    "fork_from_failure": [
        {**_SHOP, "workflow_id": ["order-1025", "order-1035"], "application_version": OLD}
    ],
    "manage_schedule": [{**_SHOP, "schedule_name": "nightly-report", "action": "resume"}],
    "set_latest_application_version": [{**_SHOP, "application_version": OLD}],
    "login": [{}],
    "login_complete": [{}],
}  # fmt: skip
SAMPLES = {tool: [Call(tool, given) for given in calls] for tool, calls in _SHOWN.items()}
"""In the order in which they are asked: what changes something comes last."""

WRONG: dict[str, list[Call]] = {
    "": [
        *_wrong(
            "list_workflows", {**_SHOP, "workflow": "order-1030"}, {**_SHOP, "start_time": "2 h"}
        ),
        *_wrong("get_workflow", {**_SHOP, "workflow_id": "order-103"}),
        *_wrong("list_executors", {"application_name": "shopp"}),
    ],
    "list_workflows": _wrong("list_workflows", {**_SHOP, "status": "FAILED"}),
    "query_sql": _wrong("query_sql", {"sql": "SELECT state FROM workflows"}),
    "describe_schema": _wrong("describe_schema", {"view": "workflow"}),
    "list_failures": _wrong("list_failures", {**_SHOP, "group": "nothing"}),
    "manage_schedule": _wrong(
        "manage_schedule", {**_SHOP, "schedule_name": "nightly", "action": "resume"}
    ),
}
"""Calls that are refused, by the tool beside which they are shown; those of "" at the end."""

ERRORS = (
    (
        "Unknown argument",
        "a misspelt or foreign argument; nothing was asked",
        "the nearest name is in it",
    ),
    (
        "is known here",
        "no such application, in a mirror that is as fresh as it says",
        "`list_applications`, or `sync_now` if it is new",
    ),
    (
        "has no workflow",
        "neither in the mirror nor upstream",
        "`list_workflows` with `workflow_id_prefix`",
    ),
    (
        "is not a time",
        "a time that cannot be read",
        "see [above](#arguments-that-many-have)",
    ),
    ("cursor", "a cursor of another question or of another version", "ask again without it"),
    ("SQLite:", "a statement that is wrong, or may not be run", "the statement that it proposes"),
    (
        "The statement was stopped",
        "more than 5 seconds, or too much memory",
        "`application_name = …` and a range of `created_at_ms`",
    ),
    ("Nobody is logged in", "Conductor wants a login", "`login`, or `dbos-mcp login`"),
    (
        "This server is read-only",
        "it sends no command",
        "whoever runs the server can change that",
    ),
    ("This token may only read", "the same, of who asks", "ask for one made with `--full`"),
    (
        "unknown",
        "as an outcome: a command was sent, no answer came, it may have run",
        "look at the workflow before doing it again",
    ),
)
"""Words of the program's own, what they mean, and what to do."""
