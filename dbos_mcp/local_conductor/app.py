"""The routes of the Conductor API v2 over a `SystemDatabase`: one organization, `local`, no login.

Every failure is problem+json. What the API does not say, this server answers so:

- 404 for unknown ids, also where DBOS says nothing (schedules, versions); but cancel and delete of
  an unknown workflow are silent, and its steps, events, notifications and streams are empty, as
  upstream.
- 409 when a fork is to get an id that is taken.
- 500 where an executor would throw: aggregates without a group, a filter on attributes over
  SQLite, fork from a step name that a workflow has not. Asking again changes nothing, so it is
  not 502, which says "try later".
- 503 when the database is gone, refuses, is locked, or is not (yet) a system database.
- 404 for export and import: they carry pickles, and importing one runs it.
- 403 for any request with an `Origin`: a web page must not command a local database.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import IPv4Address
from itertools import groupby
from operator import attrgetter
from typing import Any
from urllib.parse import quote

import uvicorn
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from dbos_mcp.conductor.models import (
    BackfillRequest,
    Body,
    BulkCancelRequest,
    BulkDeleteRequest,
    BulkForkFromFailureRequest,
    BulkResumeRequest,
    CancelRequest,
    ForkRequest,
    ForkResult,
    LatestVersionRequest,
    Problem,
    ResumeRequest,
    StepAggregate,
    StepAggregateQuery,
    TriggerResult,
    Wire,
    WorkflowAggregate,
    WorkflowAggregateQuery,
    WorkflowSearch,
)
from dbos_mcp.errors import ConductorError, NotFoundError, UsageError
from dbos_mcp.local_conductor.requests import (
    InvalidRequestError,
    parse_body,
    parse_path,
    parse_query,
)
from dbos_mcp.local_conductor.system_database import (
    ORGANIZATION,
    ApplicationDatabase,
    SystemDatabase,
    is_away,
)
from dbos_mcp.sqlite import TOO_OLD_FOR_DBOS, makes_no_rows

_log = logging.getLogger(__name__)

ORG = "/v2/orgs/{orgName}"
APP = ORG + "/apps/{appName}"
WORKFLOW = APP + "/workflows/{workflowId}"
SCHEDULE = APP + "/schedules/{scheduleName}"

Answer = Wire | Sequence[Wire] | None


def _refuse_pickles(_: ApplicationDatabase, **__: str) -> None:
    raise NotFoundError("Export and import are not offered: they carry pickles.")


@dataclass(frozen=True)
class Operation:
    """One method on one path, and what answers it: a method of `SystemDatabase`, or below an
    application of `ApplicationDatabase`, which takes the path's and the query's parameters by
    name and the body as `body`."""

    method: str
    path: str
    answer: Callable[..., Answer]
    body: type[Body] | None = None
    body_required: bool = False
    query: dict[str, type] = field(default_factory=dict)


OPERATIONS = (
    Operation("GET", ORG + "/apps", SystemDatabase.list_applications),
    Operation("GET", APP, SystemDatabase.get_application),
    Operation("GET", APP + "/executors", ApplicationDatabase.list_executors),
    Operation("GET", APP + "/versions", ApplicationDatabase.list_versions),
    Operation(
        "PATCH",
        APP + "/versions/latest",
        ApplicationDatabase.set_latest_version,
        body=LatestVersionRequest,
        body_required=True,
    ),
    Operation(
        "GET",
        APP + "/workflows",
        ApplicationDatabase.list_workflows,
        query={
            "status": str,
            "workflowName": str,
            "limit": int,
            "offset": int,
            "sortDesc": bool,
            "loadInput": bool,
            "loadOutput": bool,
        },
    ),
    Operation(
        "POST",
        APP + "/workflows/search",
        ApplicationDatabase.search_workflows,
        body=WorkflowSearch,
    ),
    Operation(
        "POST",
        APP + "/workflows/aggregates",
        ApplicationDatabase.aggregate_workflows,
        body=WorkflowAggregateQuery,
    ),
    Operation(
        "POST",
        APP + "/steps/aggregates",
        ApplicationDatabase.aggregate_steps,
        body=StepAggregateQuery,
    ),
    Operation(
        "POST",
        APP + "/workflows/bulk-cancel",
        ApplicationDatabase.cancel_workflows,
        body=BulkCancelRequest,
        body_required=True,
    ),
    Operation(
        "POST",
        APP + "/workflows/bulk-resume",
        ApplicationDatabase.resume_workflows,
        body=BulkResumeRequest,
        body_required=True,
    ),
    Operation(
        "POST",
        APP + "/workflows/bulk-delete",
        ApplicationDatabase.delete_workflows,
        body=BulkDeleteRequest,
        body_required=True,
    ),
    Operation(
        "POST",
        APP + "/workflows/bulk-fork-from-failure",
        ApplicationDatabase.fork_workflows_from_failure,
        body=BulkForkFromFailureRequest,
        body_required=True,
    ),
    Operation("POST", APP + "/workflows/import", _refuse_pickles),
    Operation("GET", WORKFLOW, ApplicationDatabase.get_workflow),
    Operation(
        "DELETE",
        WORKFLOW,
        ApplicationDatabase.delete_workflow,
        query={"deleteChildren": bool},
    ),
    Operation(
        "GET",
        WORKFLOW + "/steps",
        ApplicationDatabase.list_steps,
        query={"limit": int, "offset": int},
    ),
    Operation("GET", WORKFLOW + "/events", ApplicationDatabase.list_events),
    Operation("GET", WORKFLOW + "/notifications", ApplicationDatabase.list_notifications),
    Operation("GET", WORKFLOW + "/streams", ApplicationDatabase.list_streams),
    Operation("GET", WORKFLOW + "/export", _refuse_pickles),
    Operation(
        "POST", WORKFLOW + "/cancel", ApplicationDatabase.cancel_workflow, body=CancelRequest
    ),
    Operation(
        "POST", WORKFLOW + "/resume", ApplicationDatabase.resume_workflow, body=ResumeRequest
    ),
    Operation(
        "POST",
        WORKFLOW + "/fork",
        ApplicationDatabase.fork_workflow,
        body=ForkRequest,
    ),
    Operation("GET", APP + "/queues", ApplicationDatabase.list_queues),
    Operation("GET", APP + "/queues/{queueName}", ApplicationDatabase.get_queue),
    Operation(
        "GET",
        APP + "/schedules",
        ApplicationDatabase.list_schedules,
        query={
            "status": str,
            "workflowName": str,
            "scheduleNamePrefix": str,
            "loadContext": bool,
        },
    ),
    Operation("GET", SCHEDULE, ApplicationDatabase.get_schedule),
    Operation("POST", SCHEDULE + "/pause", ApplicationDatabase.pause_schedule),
    Operation("POST", SCHEDULE + "/resume", ApplicationDatabase.resume_schedule),
    Operation("POST", SCHEDULE + "/trigger", ApplicationDatabase.trigger_schedule),
    Operation(
        "POST",
        SCHEDULE + "/backfill",
        ApplicationDatabase.backfill_schedule,
        body=BackfillRequest,
        body_required=True,
    ),
)


def create_app(system_database: SystemDatabase) -> Starlette:
    """The API over `system_database`, which stays its caller's to close."""
    from dbos import error as dbos_errors  # an open SystemDatabase: the extra is installed

    def healthz(_: Request) -> Response:
        system_database.check()
        return JSONResponse({"status": "ok"})

    app = Starlette(
        routes=[
            Route("/healthz", healthz),
            *(_route(system_database, path, operations) for path, operations in _by_path()),
        ],
        middleware=[
            Middleware(_RawPath),
            # Here rather than below: Starlette raises again what it answers for `Exception`, and
            # a client in the same process would get that instead of the answer.
            Middleware(ExceptionMiddleware, handlers={Exception: _answer_crash}),
        ],
        exception_handlers={
            HTTPException: _answer_http_error,
            InvalidRequestError: _answer_invalid_request,
            NotFoundError: _answering(HTTPStatus.NOT_FOUND),
            dbos_errors.DBOSNonExistentWorkflowError: _answering(HTTPStatus.NOT_FOUND),
            ConductorError: _answering(HTTPStatus.INTERNAL_SERVER_ERROR),
            dbos_errors.DBOSException: _answering(HTTPStatus.INTERNAL_SERVER_ERROR),
            dbos_errors.DBOSQueryTimeoutError: _answering(HTTPStatus.SERVICE_UNAVAILABLE),
            DBAPIError: _answer_database_error,
            PoolTimeoutError: _answering(HTTPStatus.SERVICE_UNAVAILABLE),
        },
    )
    app.router.redirect_slashes = False
    return app


def serve(system_database: SystemDatabase, host: str = "127.0.0.1", port: int = 8090) -> None:
    """Serve on a port of this machine until a signal comes. What goes wrong is logged to stderr.

    Raises:
        UsageError: `host` is not this machine alone. There is no login: who can connect, commands.
    """
    if host != "localhost" and not _is_loopback(host):
        raise UsageError(
            f"A local Conductor is not served on {host}: it has no login.",
            hint="Use 127.0.0.1.",
        )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # A page whose name was made to point here would still say its own name.
    app = TrustedHostMiddleware(create_app(system_database), [host, "localhost", "127.0.0.1"])
    uvicorn.run(app, host=host, port=port, log_config=None)


def _is_loopback(host: str) -> bool:
    try:
        return IPv4Address(host).is_loopback
    except ValueError:
        return False


class _RawPath:
    """Routes on the path as it was sent. An id may hold `/`, which a decoded path no longer tells
    from a separator; so segments are decoded after the match, in `parse_path`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": scope["raw_path"].decode("latin-1")}
        await self.app(scope, receive, send)


def _by_path() -> Iterable[tuple[str, dict[str, Operation]]]:
    """One route a path, so that a wrong method is told all the right ones."""
    for path, operations in groupby(OPERATIONS, key=attrgetter("path")):
        yield path, {operation.method: operation for operation in operations}


def _route(system_database: SystemDatabase, path: str, operations: dict[str, Operation]) -> Route:
    async def endpoint(request: Request) -> Response:
        body = await request.body()
        operation = operations[request.method]
        return await run_in_threadpool(_respond, system_database, operation, request, body)

    route = Route(path, endpoint)
    route.methods = set(operations)  # Route(methods=…) would add HEAD, which upstream has not
    return route


def _respond(
    system_database: SystemDatabase, operation: Operation, request: Request, raw_body: bytes
) -> Response:
    if "origin" in request.headers:
        raise HTTPException(HTTPStatus.FORBIDDEN, "Web pages are not served.")
    given = parse_path(request.path_params)
    if given.pop("org_name") != ORGANIZATION:
        raise NotFoundError(f"The only organization here is {ORGANIZATION!r}.")
    target: SystemDatabase | ApplicationDatabase = system_database
    if operation.path.startswith(APP + "/"):
        target = system_database.application(given.pop("app_name"))
    parameters: dict[str, Any] = given | parse_query(operation.query, request.query_params)
    if operation.body:
        parameters["body"] = parse_body(operation.body, raw_body, required=operation.body_required)
    answer = operation.answer(target, **parameters)
    if answer is None:
        return Response(status_code=HTTPStatus.NO_CONTENT)
    if isinstance(answer, ForkResult | TriggerResult) and isinstance(target, ApplicationDatabase):
        app, workflow = quote(target.name), quote(answer.workflow_id, safe="")
        location = WORKFLOW.format(orgName=ORGANIZATION, appName=app, workflowId=workflow)
        return JSONResponse(answer.to_wire(), HTTPStatus.CREATED, {"Location": location})
    if isinstance(answer, Wire):
        return JSONResponse(answer.to_wire())
    return JSONResponse([_item(item) for item in answer])


def _item(item: Wire) -> dict[str, Any]:
    """As on the wire, where what was not asked of an aggregate is absent rather than null."""
    wire = item.to_wire()
    if isinstance(item, WorkflowAggregate | StepAggregate):
        return {name: value for name, value in wire.items() if value is not None}
    return wire


def _problem(
    status: int,
    detail: str,
    errors: Iterable[tuple[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    problem = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        errors=[{"location": location, "message": message} for location, message in errors] or None,
    )
    return JSONResponse(problem.to_wire(), status, headers, media_type="application/problem+json")


def _answering(status: int) -> Callable[[Request, Exception], Response]:
    return lambda _, error: _problem(status, str(error))


def _answer_crash(request: Request, error: Exception) -> Response:
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}")


def _answer_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, error.detail, headers=error.headers)


def _answer_invalid_request(_: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidRequestError)
    return _problem(error.status, str(error), error.errors)


def _answer_database_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, DBAPIError)
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    if is_away(error):
        status = HTTPStatus.SERVICE_UNAVAILABLE
    elif isinstance(error, IntegrityError):
        status = HTTPStatus.CONFLICT
        if makes_no_rows(error.orig):
            return _problem(status, f"{error.orig}. {TOO_OLD_FOR_DBOS}")
    return _problem(status, str(error.orig))
