"""What Conductor would hear from an application, read from its DBOS system database instead.

`DBOSClient` does what its public API offers. Aggregates, all events, notifications, streams and
the list of applications it does not offer: they are plain reads of the system tables, on
connections that cannot write. Nothing here creates or migrates a database.

As an executor does, values are unpickled to be shown (`str(value)`): only name a database that is
your own, because unpickling runs what the database says, and imports the application's modules
where they can be found. A value that cannot be read comes as the raw stored text.

A system database has no list of executors (a row names the one that ran it last, which may be
long gone), so there are none; nor does it know settings of an application that Conductor keeps.
"""

import base64
import json
import logging
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.pool import NullPool

from dbos_mcp.conductor.models import (
    Application,
    ApplicationVersion,
    BackfillRequest,
    BulkCancelRequest,
    BulkDeleteRequest,
    BulkForkFromFailureRequest,
    BulkResumeRequest,
    CancelRequest,
    Event,
    Executor,
    ForkRequest,
    ForkResult,
    LatestVersionRequest,
    Notification,
    Queue,
    ResumeRequest,
    Schedule,
    Step,
    StepAggregate,
    StepAggregateQuery,
    StreamEntry,
    TriggerResult,
    Workflow,
    WorkflowAggregate,
    WorkflowAggregateQuery,
    WorkflowIds,
    WorkflowSearch,
    WorkflowSelection,
)
from dbos_mcp.domain import format_time, parse_time, to_datetime
from dbos_mcp.errors import ConductorError, NotFoundError, UsageError

if TYPE_CHECKING:
    import dbos

ORGANIZATION = "local"

_SCHEMA = "dbos"
_NULL_TOPIC = "__null__topic__"
_STREAM_CLOSED = ('"__DBOS_STREAM_CLOSED__"', "portable_json")
_READ_TIMEOUT_MS = 30_000  # as DBOS caps its own listings
_CONNECT_TIMEOUT_SECONDS = 10


def _table(name: str, *columns: str, **typed: Any) -> sa.Table:
    text = [sa.Column(column, sa.Text) for column in columns]
    return sa.Table(name, _TABLES, *text, *(sa.Column(*item) for item in typed.items()))


_TABLES = sa.MetaData(schema=_SCHEMA)
_WORKFLOWS = _table(
    "workflow_status",
    "workflow_uuid",
    "status",
    "name",
    "authenticated_user",
    "executor_id",
    "application_version",
    "queue_name",
    "forked_from",
    "parent_workflow_id",
    "schedule_name",
    "application_name",
    attributes=sa.JSON,
    created_at=sa.BigInteger,
    started_at_epoch_ms=sa.BigInteger,
    completed_at=sa.BigInteger,
    was_forked_from=sa.Boolean,
)
_STEPS = _table(
    "operation_outputs",
    "workflow_uuid",
    "function_name",
    "error",
    "application_name",
    function_id=sa.Integer,
    started_at_epoch_ms=sa.BigInteger,
    completed_at_epoch_ms=sa.BigInteger,
)
_EVENTS = _table("workflow_events", "workflow_uuid", "key", "value", "serialization")
_NOTIFICATIONS = _table(
    "notifications",
    "destination_uuid",
    "topic",
    "message",
    "message_uuid",
    "serialization",
    created_at_epoch_ms=sa.BigInteger,
    consumed=sa.Boolean,
)
_STREAMS = _table("streams", "workflow_uuid", "key", "value", "serialization", offset=sa.Integer)
_QUEUES = _table(
    "queues",
    "name",
    "application_name",
    concurrency=sa.Integer,
    worker_concurrency=sa.Integer,
    rate_limit_max=sa.Integer,
    rate_limit_period_sec=sa.Float,
    partition_queue=sa.Boolean,
    priority_enabled=sa.Boolean,
    polling_interval_sec=sa.Float,
)
_VERSIONS = _table("application_versions", "application_name")
_SCHEDULES = _table("workflow_schedules", "application_name")
_MIGRATIONS = _table("dbos_migrations", version=sa.BigInteger)


def is_away(error: DBAPIError) -> bool:
    """Whether a database error says that no system database answers there: it is gone, refuses,
    is locked, or is not (yet) one. Anything else is the database's answer to what was asked."""
    name = getattr(error.orig, "sqlite_errorname", None)
    if name is not None:
        away = ("SQLITE_CANTOPEN", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR", "SQLITE_NOTADB")
        return name.startswith(away) or "no such table" in str(error.orig)
    no_table_or_schema = ("42P01", "3F000")
    if getattr(error.orig, "sqlstate", None) in no_table_or_schema:
        return True
    return isinstance(error, OperationalError | InterfaceError)


class SystemDatabase:
    """A DBOS system database at a SQLite or PostgreSQL URL.

    Its applications are those in `application_names`; without any, those that own rows.

    Raises:
        UsageError: DBOS is not installed, or the URL cannot name a system database.
    """

    def __init__(self, url: str, application_names: Sequence[str] = ()) -> None:
        try:
            import dbos
        except ImportError as error:
            raise UsageError(
                "DBOS is not installed.", hint="Install it with `dbos-mcp[local]`."
            ) from error
        # It logs each value that it cannot unpickle, each time; the answer shows that as well.
        logging.getLogger("dbos").setLevel(logging.ERROR)
        self._new_client = dbos.DBOSClient
        self._engine = _open_engine(url)
        self._named = tuple(application_names)
        self._seen: set[str] = set()
        self._databases: dict[str, ApplicationDatabase] = {}
        self._lock = Lock()

    def close(self) -> None:
        with self._lock:
            for database in self._databases.values():
                database.client.destroy()
            self._databases.clear()
            self._engine.dispose()

    def check(self) -> None:
        """One read of the system tables: it raises what any other read would."""
        with self.reading() as connection:
            connection.execute(sa.select(_WORKFLOWS.c.workflow_uuid).limit(1))

    def schema_version(self) -> int | None:
        """Its newest migration, as DBOS counts them."""
        with self.reading() as connection:
            return connection.execute(sa.select(_MIGRATIONS.c.version)).scalar()

    def list_applications(self) -> list[Application]:
        try:
            self.check()
        except DBAPIError:
            if not self._named:
                raise
            return [_application(name, "UNAVAILABLE") for name in self._named]
        return [_application(name, "AVAILABLE") for name in self._names()]

    def get_application(self, app_name: str) -> Application:
        for application in self.list_applications():
            if application.name == app_name:
                return application
        raise _no_application(app_name)

    def application(self, app_name: str) -> "ApplicationDatabase":
        """What the application `app_name` sees of this database.

        Raises:
            NotFoundError: it has no such application.
        """
        if app_name not in (self._named or self._seen) and app_name not in self._names():
            raise _no_application(app_name)
        with self._lock:
            if app_name not in self._databases:
                client = self._new_client(
                    system_database_engine=self._engine,
                    application_name=app_name,
                    lazy=True,
                    retry_connection_errors=False,
                )
                self._databases[app_name] = ApplicationDatabase(app_name, client, self)
            return self._databases[app_name]

    def _names(self) -> Sequence[str]:
        """The applications by name. Looking through all workflows is the last resort: it is slow
        where there are millions, and they are claimed by the same process that writes the rest."""
        if self._named:
            return self._named
        small = sa.union(
            *(sa.select(t.c.application_name) for t in (_VERSIONS, _QUEUES, _SCHEDULES))
        )
        every = sa.select(_WORKFLOWS.c.application_name).distinct()
        with self.reading() as connection:
            for statement in (small, every):
                names = sorted(filter(None, connection.execute(statement).scalars()))
                if names:
                    break
        self._seen.update(names)
        return names

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection that cannot write."""
        with self._engine.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("PRAGMA query_only = ON")
            else:
                connection.execute(sa.text("SET TRANSACTION READ ONLY"))
                connection.execute(sa.text(f"SET LOCAL statement_timeout = {_READ_TIMEOUT_MS}"))
            yield connection

    @property
    def is_sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"


class ApplicationDatabase:
    """The system database as one application sees it: its own rows and those that no application
    owns. A workflow, queue or schedule that is asked for by id or name is found whoever owns it,
    as an executor finds it."""

    def __init__(self, name: str, client: "dbos.DBOSClient", database: SystemDatabase) -> None:
        self.name = name
        self.client = client
        self._database = database

    def list_executors(self) -> list[Executor]:
        """None: see this module's docstring."""
        return []

    def list_versions(self) -> list[ApplicationVersion]:
        return [
            ApplicationVersion(
                version_id=version["version_id"],
                version_name=version["version_name"],
                version_timestamp=version["version_timestamp"],
                created_at=version["created_at"],
            )
            for version in self.client.list_application_versions()
        ]

    def set_latest_version(self, body: LatestVersionRequest) -> None:
        if body.version_name not in {version.version_name for version in self.list_versions()}:
            raise NotFoundError(f"{self.name} has no version {body.version_name!r}.")
        self.client.set_latest_application_version(body.version_name)

    # Workflows

    def list_workflows(
        self, status: str | None = None, workflow_name: str | None = None, **options: Any
    ) -> list[Workflow]:
        return self.search_workflows(
            WorkflowSearch(
                status=[status] if status else None,
                workflow_name=[workflow_name] if workflow_name else None,
                **options,
            )
        )

    def search_workflows(self, body: WorkflowSearch) -> list[Workflow]:
        statuses = self.client.list_workflows(
            workflow_ids=_list(body.workflow_ids),
            workflow_id_prefix=_list(body.workflow_id_prefix),
            name=_list(body.workflow_name),
            status=_list(body.status),
            user=_list(body.authenticated_user),
            app_version=_list(body.application_version),
            executor_id=_list(body.executor_id),
            queue_name=_list(body.queue_name),
            schedule_name=_list(body.schedule_name),
            parent_workflow_id=_list(body.parent_workflow_id),
            forked_from=_list(body.forked_from),
            start_time=_iso(body.start_time),
            end_time=_iso(body.end_time),
            completed_after=_iso(body.completed_after),
            completed_before=_iso(body.completed_before),
            dequeued_after=_iso(body.dequeued_after),
            dequeued_before=_iso(body.dequeued_before),
            has_parent=body.has_parent,
            was_forked_from=body.was_forked_from,
            attributes=body.attributes,
            queues_only=bool(body.queues_only),
            load_input=bool(body.load_input),
            load_output=bool(body.load_output),
            sort_desc=bool(body.sort_desc),
            limit=body.limit,
            offset=body.offset,
        )
        return [_workflow(status) for status in statuses]

    def get_workflow(self, workflow_id: str) -> Workflow:
        search = WorkflowSearch(workflow_ids=[workflow_id], load_input=True, load_output=True)
        for workflow in self.search_workflows(search):
            return workflow
        raise NotFoundError(f"There is no workflow {workflow_id!r}.")

    def list_steps(
        self, workflow_id: str, limit: int | None = None, offset: int | None = None
    ) -> list[Step]:
        steps = self.client.list_workflow_steps(workflow_id, limit=limit or None, offset=offset)
        return [
            Step(
                step_id=step["function_id"],
                step_name=step["function_name"],
                output=_display(step["output"]),
                error=_display(step["error"]),
                child_workflow_id=step["child_workflow_id"],
                started_at=_calendar(step["started_at_epoch_ms"]),
                completed_at=_calendar(step["completed_at_epoch_ms"]),
            )
            for step in steps
        ]

    def list_events(self, workflow_id: str) -> list[Event]:
        rows = self._rows(
            sa.select(_EVENTS).where(_EVENTS.c.workflow_uuid == workflow_id).order_by(_EVENTS.c.key)
        )
        return [Event(key=row["key"], value=_stored(row, "value")) for row in rows]

    def list_notifications(self, workflow_id: str) -> list[Notification]:
        rows = self._rows(
            sa.select(_NOTIFICATIONS)
            .where(_NOTIFICATIONS.c.destination_uuid == workflow_id)
            .order_by(_NOTIFICATIONS.c.created_at_epoch_ms, _NOTIFICATIONS.c.message_uuid)
        )
        return [
            Notification(
                topic=None if row["topic"] == _NULL_TOPIC else row["topic"],
                message=_stored(row, "message"),
                created_at=row["created_at_epoch_ms"],
                consumed=row["consumed"],
            )
            for row in rows
        ]

    def list_streams(self, workflow_id: str) -> list[StreamEntry]:
        rows = self._rows(
            sa.select(_STREAMS)
            .where(_STREAMS.c.workflow_uuid == workflow_id)
            .order_by(_STREAMS.c.key, _STREAMS.c.offset)
        )
        return [
            StreamEntry(key=key, values=[_stored(row, "value") for row in group if _is_open(row)])
            for key, group in groupby(rows, key=lambda row: row["key"])
        ]

    def cancel_workflow(self, workflow_id: str, body: CancelRequest) -> None:
        self.client.cancel_workflow(workflow_id, cancel_children=bool(body.cancel_children))

    def resume_workflow(self, workflow_id: str, body: ResumeRequest) -> None:
        self.client.resume_workflow(workflow_id, queue_name=body.queue_name)

    def fork_workflow(self, workflow_id: str, body: ForkRequest) -> ForkResult:
        start_step = 1 if body.start_step is None else body.start_step
        return ForkResult(workflow_id=self._fork(workflow_id, start_step, body))

    def delete_workflow(self, workflow_id: str, delete_children: bool = False) -> None:
        self.client.delete_workflow(workflow_id, delete_children=delete_children)

    def cancel_workflows(self, body: BulkCancelRequest) -> None:
        self.client.cancel_workflows(
            list(body.workflow_ids), cancel_children=bool(body.cancel_children)
        )

    def resume_workflows(self, body: BulkResumeRequest) -> None:
        self.client.resume_workflows(list(body.workflow_ids), queue_name=body.queue_name)

    def delete_workflows(self, body: BulkDeleteRequest) -> None:
        self.client.delete_workflows(
            list(body.workflow_ids), delete_children=bool(body.delete_children)
        )

    def fork_workflows_from_failure(self, body: BulkForkFromFailureRequest) -> WorkflowIds:
        """Forks each workflow at its own step. `DBOSClient` forks one at a time, so all are looked
        up before the first one is forked: an unknown id leaves nothing behind."""
        start_steps = self._start_steps(body)
        forks = [self._fork(id_, start_steps.get(id_, 1), body) for id_ in body.workflow_ids]
        return WorkflowIds(workflow_ids=forks)

    def _start_steps(self, body: BulkForkFromFailureRequest) -> dict[str, int]:
        ids = set(body.workflow_ids)
        known = set(self._column(_WORKFLOWS.c.workflow_uuid, _WORKFLOWS.c.workflow_uuid.in_(ids)))
        if missing := ids - known:
            raise NotFoundError(f"There is no workflow {', '.join(sorted(missing))}.")
        if body.from_step is not None:
            return dict.fromkeys(ids, body.from_step)
        step_id = _STEPS.c.function_id
        last = sa.func.max(step_id)
        last_failed = sa.func.max(sa.case((_STEPS.c.error.is_not(None), step_id)))
        start_step = sa.func.coalesce(last_failed, last) if body.from_last_failure else last
        statement = sa.select(_STEPS.c.workflow_uuid.label("id"), start_step.label("step"))
        statement = statement.where(_STEPS.c.workflow_uuid.in_(ids))
        if body.from_step_name is not None:
            statement = statement.where(_STEPS.c.function_name == body.from_step_name)
        rows = self._rows(statement.group_by(_STEPS.c.workflow_uuid))
        steps = {row["id"]: row["step"] for row in rows}
        if body.from_step_name is not None and (without := ids - steps.keys()):
            raise ConductorError(
                f"There is no step {body.from_step_name!r} in {', '.join(sorted(without))}."
            )
        return steps

    def _fork(
        self, workflow_id: str, start_step: int, body: ForkRequest | BulkForkFromFailureRequest
    ) -> str:
        from dbos import SetWorkflowID

        def fork() -> str:
            return self.client.fork_workflow(
                workflow_id,
                start_step,
                application_version=body.application_version,
                queue_name=body.queue_name,
                queue_partition_key=body.queue_partition_key,
            ).get_workflow_id()

        if isinstance(body, BulkForkFromFailureRequest) or body.new_workflow_id is None:
            return fork()
        with SetWorkflowID(body.new_workflow_id):
            return fork()

    # Aggregates

    def aggregate_workflows(self, body: WorkflowAggregateQuery) -> list[WorkflowAggregate]:
        column = _WORKFLOWS.c
        groups = {
            "status": (column.status, body.group_by_status),
            "name": (column.name, body.group_by_workflow_name),
            "queue_name": (column.queue_name, body.group_by_queue_name),
            "executor_id": (column.executor_id, body.group_by_executor_id),
            "application_version": (column.application_version, body.group_by_application_version),
            "application_name": (column.application_name, body.group_by_application_name),
            "time_bucket": _bucket(column.created_at, body.time_bucket_size_ms),
        }
        values = {
            "count": (sa.func.count(), body.select_count),
            "min_created_at": (sa.func.min(column.created_at), body.select_min_created_at),
            "max_queue_wait_ms": (
                sa.func.max(column.started_at_epoch_ms - column.created_at),
                body.select_max_queue_wait_ms,
            ),
            "max_total_latency_ms": (
                sa.func.max(column.completed_at - column.created_at),
                body.select_max_total_latency_ms,
            ),
        }
        rows = self._aggregate(groups, values, self._selected(body))
        return [WorkflowAggregate(group=group, **selected) for group, selected in rows]

    def aggregate_steps(self, body: StepAggregateQuery) -> list[StepAggregate]:
        column = _STEPS.c
        status = sa.case(
            (column.error.is_(None), sa.literal_column("'SUCCESS'")),
            else_=sa.literal_column("'ERROR'"),
        )
        groups = {
            "function_name": (column.function_name, body.group_by_function_name),
            "status": (status, body.group_by_status),
            "time_bucket": _bucket(column.completed_at_epoch_ms, body.time_bucket_size_ms),
        }
        values = {
            "count": (sa.func.count(), body.select_count),
            "max_duration_ms": (
                sa.func.max(column.completed_at_epoch_ms - column.started_at_epoch_ms),
                body.select_max_duration_ms,
            ),
        }
        conditions = [
            self._visible(_STEPS),
            *_prefixed(column.workflow_uuid, body.workflow_id_prefix),
            *_among(column.function_name, body.step_name),
            *_among(status, body.status),
            *_between(column.completed_at_epoch_ms, body.completed_after, body.completed_before),
        ]
        rows = self._aggregate(groups, values, conditions)
        return [StepAggregate(group=group, **selected) for group, selected in rows]

    def _aggregate(
        self,
        groups: Mapping[str, tuple[sa.ColumnElement[Any], object]],
        values: Mapping[str, tuple[sa.ColumnElement[Any], object]],
        conditions: Sequence[sa.ColumnElement[bool]],
    ) -> Iterator[tuple[dict[str, str | None], dict[str, int]]]:
        by = {name: column for name, (column, wanted) in groups.items() if wanted}
        if not by:
            raise ConductorError("At least one groupBy flag, or timeBucketSizeMs, must be set.")
        selected = {name: column for name, (column, wanted) in values.items() if wanted}
        selected = selected or {"count": sa.func.count()}
        statement = (
            sa.select(*by.values(), *selected.values()).where(*conditions).group_by(*by.values())
        )
        with self._database.reading() as connection:
            rows = connection.execute(statement).all()
        for row in rows:
            group = {
                name: None if value is None else str(value)
                for name, value in zip(by, row, strict=False)
            }
            yield group, dict(zip(selected, row[len(by) :], strict=True))

    def _selected(self, body: WorkflowSelection) -> list[sa.ColumnElement[bool]]:
        column = _WORKFLOWS.c
        conditions = [
            self._visible(_WORKFLOWS),
            *_among(column.workflow_uuid, body.workflow_ids),
            *_prefixed(column.workflow_uuid, body.workflow_id_prefix),
            *_among(column.name, body.workflow_name),
            *_among(column.status, body.status),
            *_among(column.authenticated_user, body.authenticated_user),
            *_among(column.application_version, body.application_version),
            *_among(column.executor_id, body.executor_id),
            *_among(column.queue_name, body.queue_name),
            *_among(column.schedule_name, body.schedule_name),
            *_among(column.parent_workflow_id, body.parent_workflow_id),
            *_among(column.forked_from, body.forked_from),
            *_between(column.created_at, body.start_time, body.end_time),
            *_between(column.completed_at, body.completed_after, body.completed_before),
            *_between(column.started_at_epoch_ms, body.dequeued_after, body.dequeued_before),
        ]
        if body.has_parent is not None:
            conditions.append(column.parent_workflow_id.is_not(None).is_(body.has_parent))
        if body.was_forked_from is not None:
            conditions.append(column.was_forked_from.is_(body.was_forked_from))
        if body.attributes:
            if self._database.is_sqlite:  # in DBOS's words, for a search is refused by DBOS
                raise ConductorError(
                    "Filtering workflows by attributes is not supported on SQLite."
                )
            conditions.append(sa.type_coerce(column.attributes, JSONB).contains(body.attributes))
        return conditions

    def _visible(self, table: sa.Table) -> sa.ColumnElement[bool]:
        owner = table.c.application_name
        return sa.or_(owner == self.name, owner.is_(None))

    # Queues and schedules

    def list_queues(self) -> list[Queue]:
        return self._queues(self._visible(_QUEUES))

    def get_queue(self, queue_name: str) -> Queue:
        for queue in self._queues(_QUEUES.c.name == queue_name):
            return queue
        raise NotFoundError(f"There is no queue {queue_name!r}.")

    def _queues(self, condition: sa.ColumnElement[bool]) -> list[Queue]:
        """From the table: each property of DBOS's own `Queue` asks the database anew."""
        return [
            Queue(
                name=row["name"],
                application_name=row["application_name"],
                concurrency=row["concurrency"],
                worker_concurrency=row["worker_concurrency"],
                rate_limit_max=row["rate_limit_max"],
                rate_limit_period_secs=row["rate_limit_period_sec"],
                partition_queue=row["partition_queue"],
                priority_enabled=row["priority_enabled"],
                polling_interval_secs=row["polling_interval_sec"],
            )
            for row in self._rows(sa.select(_QUEUES).where(condition).order_by(_QUEUES.c.name))
        ]

    def list_schedules(self, load_context: bool = True, **filters: str) -> list[Schedule]:
        schedules = [_schedule(schedule) for schedule in self.client.list_schedules(**filters)]
        if load_context:
            return schedules
        return [schedule.model_copy(update={"context": None}) for schedule in schedules]

    def get_schedule(self, schedule_name: str) -> Schedule:
        schedule = self.client.get_schedule(schedule_name)
        if schedule is None:
            raise NotFoundError(f"There is no schedule {schedule_name!r}.")
        return _schedule(schedule)

    def pause_schedule(self, schedule_name: str) -> None:
        self.get_schedule(schedule_name)
        self.client.pause_schedule(schedule_name)

    def resume_schedule(self, schedule_name: str) -> None:
        self.get_schedule(schedule_name)
        self.client.resume_schedule(schedule_name)

    def trigger_schedule(self, schedule_name: str) -> TriggerResult:
        self.get_schedule(schedule_name)
        handle = self.client.trigger_schedule(schedule_name)
        return TriggerResult(workflow_id=handle.get_workflow_id())

    def backfill_schedule(self, schedule_name: str, body: BackfillRequest) -> WorkflowIds:
        self.get_schedule(schedule_name)
        handles = self.client.backfill_schedule(
            schedule_name, to_datetime(body.start_time), to_datetime(body.end_time)
        )
        return WorkflowIds(workflow_ids=[handle.get_workflow_id() for handle in handles])

    def _rows(self, statement: sa.Select[Any]) -> Sequence[sa.RowMapping]:
        with self._database.reading() as connection:
            return connection.execute(statement).mappings().all()

    def _column(
        self, column: sa.ColumnElement[str], condition: sa.ColumnElement[bool]
    ) -> Sequence[str]:
        with self._database.reading() as connection:
            return connection.execute(sa.select(column).where(condition)).scalars().all()


def _open_engine(url: str) -> sa.Engine:
    """An engine for DBOS and for our own reads, which never brings a database into being.

    A SQLite file is opened by URI with `mode=rw`, which SQLite refuses to create, and anew for
    each use, so a file that was removed or replaced is noticed.
    """
    try:
        parsed = sa.make_url(url)
    except ArgumentError as error:
        raise UsageError("The system database URL is not a URL.") from error
    match parsed.get_backend_name():
        case "sqlite":
            return _open_sqlite(parsed)
        case "postgresql" | "postgres":
            timeout = {"connect_timeout": str(_CONNECT_TIMEOUT_SECONDS), **parsed.query}
            parsed = parsed.set(drivername="postgresql+psycopg", query=timeout)
            return sa.create_engine(parsed, pool_pre_ping=True)
        case other:
            raise UsageError(
                f"A DBOS system database cannot be in {other}.",
                hint="Give a URL that begins with sqlite:/// or postgresql://.",
            )


def _open_sqlite(url: sa.URL) -> sa.Engine:
    path = url.database or ":memory:"
    if ":memory:" in path or url.query.get("mode") == "memory":
        raise UsageError(
            "A SQLite system database in memory cannot be shared.",
            hint="Give the URL of a file: sqlite:///path/to/file.sqlite.",
        )
    if not path.startswith("file:"):
        path = "file:" + quote(str(Path(path).absolute()))
    query = {"mode": "rw", **url.query, "uri": "true"}
    engine = sa.create_engine(
        url.set(database=path, query=query).set(drivername="sqlite"), poolclass=NullPool
    ).execution_options(schema_translate_map={_SCHEMA: None})

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _: object) -> None:
        # As DBOS opens its own: writers take turns, and deleting a workflow reaches its rows.
        connection.isolation_level = "IMMEDIATE"
        connection.execute("PRAGMA busy_timeout = 30000")
        connection.execute("PRAGMA foreign_keys = ON")

    return engine


def _no_application(name: str) -> NotFoundError:
    return NotFoundError(f"There is no application {name!r} in this system database.")


def _application(name: str, status: str) -> Application:
    return Application(id=name, name=name, org_id=ORGANIZATION, status=status)


def _workflow(status: "dbos.WorkflowStatus") -> Workflow:
    attributes, roles = status.attributes, status.authenticated_roles
    return Workflow(
        workflow_id=status.workflow_id,
        status=status.status,
        workflow_name=status.name,
        class_name=status.class_name,
        config_name=status.config_name,
        authenticated_user=status.authenticated_user,
        assumed_role=status.assumed_role,
        authenticated_roles=_display(roles),
        input=_display(status.input),
        output=_display(status.output),
        error=_display(status.error),
        created_at=status.created_at,
        updated_at=status.updated_at,
        queue_name=status.queue_name,
        application_version=status.app_version,
        executor_id=status.executor_id,
        timeout_ms=status.workflow_timeout_ms,
        deadline=_calendar(status.workflow_deadline_epoch_ms),
        deduplication_id=status.deduplication_id,
        priority=status.priority or 0,
        queue_partition_key=status.queue_partition_key,
        forked_from=status.forked_from,
        was_forked_from=status.was_forked_from,
        parent_workflow_id=status.parent_workflow_id,
        dequeued_at=_calendar(status.dequeued_at),
        delay_until=_calendar(status.delay_until_epoch_ms),
        completed_at=_calendar(status.completed_at),
        attributes=None if attributes is None else json.dumps(attributes),
        schedule_name=status.schedule_name,
        application_name=status.application_name,
    )


def _schedule(schedule: "dbos.WorkflowSchedule") -> Schedule:
    last_fired_at = schedule["last_fired_at"]
    return Schedule(
        schedule_id=schedule["schedule_id"],
        schedule_name=schedule["schedule_name"],
        application_name=schedule["application_name"],
        workflow_name=schedule["workflow_name"],
        class_name=schedule["workflow_class_name"],
        cron_expression=schedule["schedule"],
        cron_timezone=schedule["cron_timezone"],
        status=schedule["status"],
        context=_text(schedule["context"]),
        last_fired_at=None if last_fired_at is None else parse_time(last_fired_at),
        automatic_backfill=schedule["automatic_backfill"],
    )


def _list(values: Sequence[str] | None) -> list[str] | None:
    return None if values is None else list(values)


def _iso(ms: int | None) -> str | None:
    return None if ms is None else format_time(ms)


def _calendar(ms: int | None) -> int | None:
    """A time that the wire can carry. A deadline after year 9999 is as good as none."""
    if ms is None:
        return None
    try:
        to_datetime(ms)
    except ValueError:
        return None
    return ms


def _bucket(
    column: sa.ColumnElement[int], size_ms: int | None
) -> tuple[sa.ColumnElement[int], object]:
    # Written into the statement: PostgreSQL takes two bound sizes for two different groups.
    size: sa.ColumnElement[int] = sa.literal_column(str(size_ms or 1), sa.BigInteger)
    return column - column % size, size_ms


def _among(
    column: sa.ColumnElement[Any], values: Sequence[str] | None
) -> list[sa.ColumnElement[bool]]:
    return [column.in_(values)] if values else []


def _prefixed(
    column: sa.ColumnElement[str], prefixes: Sequence[str] | None
) -> list[sa.ColumnElement[bool]]:
    if not prefixes:
        return []
    return [sa.or_(*(column.startswith(prefix, autoescape=True) for prefix in prefixes))]


def _between(
    column: sa.ColumnElement[int], first: int | None, last: int | None
) -> Iterator[sa.ColumnElement[bool]]:
    if first is not None:
        yield column >= first
    if last is not None:
        yield column <= last


def _display(value: object) -> str | None:
    return None if value is None else _text(value)


def _text(value: object) -> str:
    """What a Python application shows of a value. The value's class is the application's, so its
    `__str__` may fail, or give text that no encoding takes."""
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 # `__str__` is the application's code
        text = object.__repr__(value)
    return text.encode("utf-8", "replace").decode()


def _stored(row: sa.RowMapping, column: str) -> str:
    """The display text of a value as DBOS stores it."""
    raw: str = row[column]
    try:
        match row["serialization"]:
            case "portable_json":
                return _text(json.loads(raw))
            case None | "py_pickle":
                return _text(pickle.loads(base64.b64decode(raw)))  # noqa: S301 # see above
    except Exception:  # noqa: BLE001 # unpickling runs the application's code
        return raw
    return raw


def _is_open(row: sa.RowMapping) -> bool:
    """Whether a stream's entry is a value, not the mark that the stream ends there."""
    return (row["value"], row["serialization"]) != _STREAM_CLOSED
