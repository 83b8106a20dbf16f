"""The public schema: the views that people and agents read, and what each column means.

The tables behind them are private and may change with any version; a view only ever gains columns.
The views are in the cache file itself, so every program that opens SQLite files has them. Each time
is there twice: as ISO 8601 text, and in `…_ms` as the integer that the indexes hold.

No view calls a JSON function: up to SQLite 3.40 that is refused where schemas are not trusted.
Inside a view a table goes by the view's name, so that a query plan speaks of what was asked.
"""

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from dbos_mcp.domain import FAILED, IN_FLIGHT, TERMINAL, WorkflowStatus


@dataclass(frozen=True)
class Column:
    name: str
    sql: str
    """What it is made of."""
    meaning: str
    is_indexed: bool = False
    """Whether one value of it is found without reading all, within one application; of a time, also
    a range."""
    has_few: bool = False
    """Whether it holds few different values, which are worth being told."""
    is_integer_of_time: bool = False
    """Whether it is the time of the column before it, as an integer."""


@dataclass(frozen=True)
class View:
    name: str
    meaning: str
    columns: tuple[Column, ...]
    source: str
    """What stands behind FROM."""
    counted: str = ""
    """What says how many rows it has, where that is faster than counting them."""
    kept: str = ""
    """The same, of the counts of workflows that are kept; where they are."""

    @property
    def sql(self) -> str:
        columns = ",\n".join(f"  {column.sql} AS {column.name}" for column in self.columns)
        return f"CREATE VIEW {self.name} AS SELECT\n{columns}\nFROM {self.source}"


def iso(ms: str) -> str:
    """Of epoch milliseconds; null for what no calendar has."""
    return f"strftime('%Y-%m-%dT%H:%M:%fZ', {ms} / 1000.0, 'unixepoch')"


def _any_of(statuses: Iterable[str]) -> str:
    """As the partial index of failures has it, which is found by these very words."""
    return f"({', '.join(repr(str(status)) for status in statuses)})"


def _time(name: str, ms: str, meaning: str, *, is_indexed: bool = False) -> tuple[Column, Column]:
    return (
        Column(name, iso(ms), meaning),
        Column(
            f"{name}_ms",
            ms,
            f"{name} in epoch milliseconds",
            is_indexed=is_indexed,
            is_integer_of_time=True,
        ),
    )


def _times(table: str, **meanings: str) -> Iterator[Column]:
    for name, meaning in meanings.items():
        yield from _time(name, f"{table}.{name}", meaning)


_W = "workflows"
_APPLICATION = Column(
    "application_name", "{}.application_name", "the application; every index begins with it",
    is_indexed=True,
)  # fmt: skip


def _application(table: str) -> Column:
    return replace(_APPLICATION, sql=_APPLICATION.sql.format(table))


def _plain(table: str, **meanings: str) -> Iterator[Column]:
    for name, meaning in meanings.items():
        yield Column(name, f"{table}.{name}", meaning)


def _is(statuses: Iterable[str]) -> str:
    return f"{_W}.status IN {_any_of(statuses)}"


_DURATION = f"{_W}.completed_at - coalesce({_W}.dequeued_at, {_W}.created_at)"
_STATUS = Column("status", f"{_W}.status", ", ".join(WorkflowStatus), is_indexed=True, has_few=True)
_NAME = Column(
    "workflow_name", f"{_W}.workflow_name", "the workflow function", is_indexed=True, has_few=True
)
_QUEUE = Column("queue_name", f"{_W}.queue_name", "the queue; null: started directly",
                is_indexed=True, has_few=True)  # fmt: skip
_VERSION = Column("application_version", f"{_W}.application_version",
                  "the version that runs or ran it")  # fmt: skip
_EXECUTOR = Column("executor_id", f"{_W}.executor_id", "the process that runs it, or ran it last")
_IS_DELETED = Column(
    "is_deleted", f"{_W}.deleted_at IS NOT NULL",
    "1: gone upstream (by somebody or by retention); its last row stays",
)  # fmt: skip
_ID = Column("workflow_id", f"{_W}.workflow_id", "unique within its application", is_indexed=True)
_CREATED = _time("created_at", f"{_W}.created_at", "when it was created", is_indexed=True)
_COMPLETED = _time(
    "completed_at", f"{_W}.completed_at", "when it ended; null also where an old SDK leaves it out",
    is_indexed=True,
)  # fmt: skip
_PARENT = Column("parent_workflow_id", f"{_W}.parent_workflow_id", "the workflow that started it",
                 is_indexed=True)  # fmt: skip

WORKFLOWS = View(
    "workflows",
    "Every workflow that was seen, in its newest known state, the deleted ones included",
    (
        _application(_W),
        _ID,
        _NAME,
        *_plain(_W, class_name="its class", config_name="the configured instance of its class"),
        _STATUS,
        Column("is_terminal", _is(TERMINAL), "1: it has ended"),
        Column("is_failed", _is(FAILED), f"1: {' or '.join(FAILED)}"),
        _IS_DELETED,
        *_CREATED,
        *_times(
            _W,
            updated_at="its last change",
            dequeued_at="when an executor took it from its queue",
        ),
        *_COMPLETED,
        *_times(
            _W,
            delay_until="when a DELAYED one is enqueued",
            deadline="when it is cancelled unless it has ended",
        ),
        *_plain(_W, timeout_ms="how long it may run, in milliseconds"),
        Column("duration_ms", _DURATION,
               "from dequeued_at, else created_at, to completed_at; null before"),
        Column("queue_wait_ms", f"{_W}.dequeued_at - {_W}.created_at",
               "from creation to dequeued; null while it waits"),
        _QUEUE,
        *_plain(
            _W,
            queue_partition_key="the part of a partitioned queue",
            priority="in its queue; lower runs first, 0 before all",
            deduplication_id="only one of it is in a queue at a time",
        ),
        _PARENT,
        Column(
            "forked_from", f"{_W}.forked_from", "the workflow it is a fork of", is_indexed=True
        ),
        *_plain(_W, was_forked_from="1: there is a fork of it"),
        Column(
            "schedule_name", f"{_W}.schedule_name", "the schedule that started it",
            is_indexed=True, has_few=True,
        ),
        _VERSION,
        _EXECUTOR,
        *_plain(
            _W,
            authenticated_user="on whose behalf it runs",
            assumed_role="the role it runs with",
            authenticated_roles="the roles of that user, as JSON",
            owning_application="the application it belongs to, where it is another",
        ),
        *_plain(
            _W,
            attributes="custom attributes, as a JSON object",
            input="arguments as text; null unless they were read (DBOS_MCP_PAYLOADS)",
            output="the result as text; null unless it was read",
            error="the error as text",
        ),
        *_times(
            _W,
            observed_at="when the mirror saw this state (this machine's clock)",
            deleted_at="when the mirror saw that it is gone",
        ),
    ),
    f"workflow AS {_W}",
    kept="SELECT ifnull(sum(count), 0) FROM workflow_count",
)  # fmt: skip

STEPS = View(
    "steps",
    "The steps of the workflows whose steps were read, not of all; none that still runs",
    (
        _application(_W),
        _ID,
        replace(_NAME, has_few=False, is_indexed=False),
        _VERSION,
        Column("step_id", "steps.step_id", "its place in the workflow, ascending"),
        Column("step_name", "steps.step_name", "the step function; DBOS.… are its own",
               is_indexed=True),
        *_plain("steps", child_workflow_id="the workflow that it started or waited for"),
        *_times("steps", started_at="when it began", completed_at="when it ended"),
        Column("duration_ms", "steps.completed_at - steps.started_at", "how long it took"),
        Column("is_failed", "steps.error IS NOT NULL", "1: it raised an error"),
        *_plain("steps", output="the result as text; null unless it was read",
                error="the error as text"),
        *_times("steps", observed_at="when the mirror read it"),
    ),
    f"step AS steps JOIN workflow AS {_W} ON {_W}.id = steps.workflow_key",
    "SELECT count(*) FROM step",
)  # fmt: skip

EVENTS = View(
    "events",
    "The append-only log that all else is folded from: what was seen or done, and when",
    (
        Column("position", "events.position", "its place in the log", is_indexed=True),
        replace(_application("events"), is_indexed=False),
        Column("workflow_id", "events.workflow_id", "null for what is about no workflow",
               is_indexed=True),
        Column("kind", "events.kind", "what happened", has_few=True),
        *_times("events", occurred_at="upstream's clock"),
        *_time("recorded_at", "events.recorded_at",
               "the mirror's clock; in the order of position", is_indexed=True),
        Column(
            "data", "events.data",
            "all that was said, as a JSON object; times in it are epoch milliseconds",
        ),
    ),
    "event AS events",
)  # fmt: skip

APPLICATIONS = View(
    "applications",
    "The applications that Conductor lists",
    (
        replace(_application("applications"), meaning="its name", has_few=True),
        *_plain(
            "applications",
            application_id="Conductor's id of it",
            status="AVAILABLE, or why not",
            language="of its SDK",
            private_mode="1: Conductor never sees its data",
            dbos_cloud="1: it runs on DBOS Cloud",
            executor_timeout_secs="after how long a silent executor counts as dead",
            gc_rows_threshold="retention: how many workflows are kept",
            gc_time_threshold_ms="retention: how long they are kept",
            global_timeout_ms="after how long any workflow is cancelled",
        ),
        *_times("applications", observed_at="when this state was first seen"),
    ),
    "application AS applications",
)

EXECUTORS = View(
    "executors",
    "The processes that run an application, connected or not",
    (
        _application("executors"),
        *_plain("executors", executor_id="unique within its application"),
        Column("status", "executors.status", "HEALTHY, DISCONNECTED, DEAD, REMOVED",
               has_few=True),
        *_plain(
            "executors",
            application_version="the version that it runs",
            hostname="where it runs",
            host_id="the machine's id",
            language="of its SDK",
            dbos_version="of its SDK",
        ),
        *_plain("executors", executor_metadata="what it says of itself, as JSON"),
        *_times(
            "executors",
            created_at="when it first connected",
            updated_at="its last change",
            observed_at="when this state was first seen",
        ),
    ),
    "executor AS executors",
)  # fmt: skip


_ALL = f"count({_W}.id)"
"""Not `count(*)`: DuckDB, which reads these definitions, would make its own word of it."""


def _count(condition: str) -> str:
    return f"{_ALL} FILTER (WHERE {condition})"


_STILL_QUEUED = f"{_W}.queue_name IS NOT NULL AND {_W}.deleted_at IS NULL"
QUEUES = View(
    "queues",
    "Queues as far as mirrored workflows show them, with how many are in each",
    (
        replace(_application(_W), is_indexed=False),
        replace(_QUEUE, meaning="its name", is_indexed=False, has_few=False),
        Column("workflows", _ALL, "how many there are in the mirror, ended ones included"),
        Column("enqueued", _count(_is([WorkflowStatus.ENQUEUED])), "how many wait"),
        Column("delayed", _count(_is([WorkflowStatus.DELAYED])), "how many wait for their time"),
        Column("running", _count(_is([WorkflowStatus.PENDING])), "how many run"),
        Column("failed", _count(_is(FAILED)), "how many failed"),
        *_time(
            "oldest_enqueued_at",
            f"min({_W}.created_at) FILTER (WHERE {_is([WorkflowStatus.ENQUEUED])})",
            "the creation of the one that waits longest",
        ),
        *_time("last_created_at", f"max({_W}.created_at)", "the creation of the newest one"),
    ),
    f"workflow AS {_W} WHERE {_STILL_QUEUED} GROUP BY {_W}.application_name, {_W}.queue_name",
    kept="SELECT count(*) FROM (SELECT DISTINCT application_name, queue_name FROM workflow_count"
    " WHERE queue_name <> x'' AND NOT deleted)",
)

SCHEDULES = View(
    "schedules",
    "Schedules as far as mirrored workflows show them, with how many each started",
    (
        replace(_application(_W), is_indexed=False),
        Column("schedule_name", f"{_W}.schedule_name", "its name"),
        Column("workflow_name", f"max({_W}.workflow_name)", "the workflow function it starts"),
        Column("workflows", _ALL, "how many it started, as far as they are mirrored"),
        Column("in_flight", _count(_is(IN_FLIGHT)), "how many of them have not ended"),
        Column("failed", _count(_is(FAILED)), "how many of them failed"),
        *_time("last_created_at", f"max({_W}.created_at)", "when it last started one"),
    ),
    f"workflow AS {_W} WHERE {_W}.schedule_name IS NOT NULL"
    f" GROUP BY {_W}.application_name, {_W}.schedule_name",
    "SELECT count(*) FROM (SELECT DISTINCT application_name, schedule_name FROM workflow"
    " WHERE schedule_name IS NOT NULL)",
)

COMMANDS = View(
    "commands",
    "What was asked for through this mirror, and what came of it",
    (
        replace(_application("commands"), is_indexed=False),
        *_plain(
            "commands",
            command_id="unique",
            workflow_id="null for one that is about what its arguments name",
        ),
        Column("command", "commands.command", "cancel, resume, fork …", has_few=True),
        Column("arguments", "commands.arguments", "as a JSON object"),
        *_times("commands", issued_at="when it was sent", settled_at="when its answer was known"),
        Column("duration_ms", "commands.settled_at - commands.issued_at", "until that answer"),
        Column("outcome", "commands.outcome", "done, failed, unknown; null: not known yet",
               has_few=True),
        *_plain("commands", detail="what Conductor said", new_workflow_id="the fork it made"),
    ),
    "command AS commands",
)  # fmt: skip


def _failed_step(column: str) -> str:
    """Of the last of its steps that failed."""
    return (
        f"(SELECT steps.{column} FROM step AS steps WHERE steps.workflow_key = failures.id"
        " AND steps.error IS NOT NULL ORDER BY steps.step_id DESC LIMIT 1)"
    )


def _of_failures(*columns: Column) -> Iterator[Column]:
    for column in columns:
        yield replace(column, sql=column.sql.replace(f"{_W}.", "failures."), has_few=False)


_HAS_FAILED = f"failures.status IN {_any_of(FAILED)}"
FAILURES = View(
    "failures",
    f"The workflows that failed ({', '.join(FAILED)}), with the step that did",
    tuple(
        _of_failures(
            _application(_W),
            _ID,
            replace(_NAME, is_indexed=False),
            replace(_STATUS, meaning=" or ".join(FAILED)),
            *_CREATED,
            *_COMPLETED,
            *_times(_W, updated_at="its last change"),
            Column("duration_ms", _DURATION, "from dequeued_at, else created_at, to completed_at"),
            _VERSION,
            _EXECUTOR,
            replace(_QUEUE, is_indexed=False),
            replace(_PARENT, is_indexed=False),
            *_plain(
                _W,
                forked_from="the workflow it is a fork of",
                authenticated_user="on whose behalf it runs",
                attributes="custom attributes, as a JSON object",
                input="arguments as text; null unless they were read (DBOS_MCP_PAYLOADS)",
                error="the error as text",
            ),
            Column("failed_step_id", _failed_step("step_id"), "its last step that failed"),
            Column("failed_step_name", _failed_step("step_name"), "that step's function"),
            Column("failed_step_error", _failed_step("error"), "that step's error as text"),
            _IS_DELETED,
        )
    ),
    f"workflow AS failures WHERE {_HAS_FAILED}",
    kept=f"SELECT ifnull(sum(count), 0) FROM workflow_count WHERE status IN {_any_of(FAILED)}",
)

VIEWS: tuple[View, ...] = (
    WORKFLOWS,
    STEPS,
    EVENTS,
    APPLICATIONS,
    EXECUTORS,
    QUEUES,
    SCHEDULES,
    COMMANDS,
    FAILURES,
)


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """What may have been meant by a name that is not there."""
    return difflib.get_close_matches(name.strip('"`[] ').lower(), [*dict.fromkeys(known)], n=2)
