"""What ConductorClient sends, what it makes of answers, and what it refuses to send at all.

Upstream is an ASGI application with one answer to everything, or a transport that fails.
"""

import json
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import stamina
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from dbos_mcp.conductor.client import ConductorClient
from dbos_mcp.conductor.credentials import Credentials, CredentialStore, Login
from dbos_mcp.conductor.identity import FixedIdentity, LoginIdentity
from dbos_mcp.conductor.identity import Identity as Who
from dbos_mcp.conductor.models import (
    BackfillRequest,
    BulkCancelRequest,
    BulkDeleteRequest,
    BulkForkFromFailureRequest,
    BulkResumeRequest,
    ForkRequest,
    StepAggregateQuery,
    WorkflowAggregateQuery,
    WorkflowSearch,
)
from dbos_mcp.conductor.oauth import IssuerClient
from dbos_mcp.errors import (
    AuthenticationError,
    ConductorError,
    DbosMcpError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RejectedError,
    ResponseError,
    UnavailableError,
    UsageError,
)
from tests.oauth_server import OAuthServer
from tests.secured_conductor import READ, WRITE, SecuredConductor
from tests.secured_conductor import Identity as Allowed

Call = Callable[[ConductorClient], Awaitable[object]]

TOKEN = "dbos_canary_4f1d"
ALICE = Credentials("acme", token=TOKEN)
LOG_IN = "Call `login`, or set DBOS_TOKEN."
BASE = "https://conductor.test/conductor"
MOMENT = 1_790_000_000_120
WIRE_MOMENT = "2026-09-21T14:13:20.120Z"
WORKFLOW = {
    "workflowId": "w",
    "status": "SUCCESS",
    "createdAt": WIRE_MOMENT,
    "updatedAt": "2026-09-21T14:13:20Z",
    "somethingNew": 1,
}


@pytest.fixture(autouse=True)
def nothing_is_repeated() -> Iterator[None]:
    """One try for each read: what becomes of the others is test_traffic's subject."""
    with stamina.set_testing(True, attempts=1):
        yield


class Upstream:
    """Gives the same answer to everything, and remembers what it was asked."""

    def __init__(self, answer: Response | None = None) -> None:
        self.answer = answer or JSONResponse([])
        self.requests: list[Request] = []
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.requests.append(request)
        self.bodies.append(await request.body())
        await self.answer(scope, receive, send)

    @property
    def raw_path(self) -> str:
        raw_path: bytes = self.requests[-1].scope["raw_path"]
        return raw_path.decode()


class Failing(httpx.AsyncBaseTransport):
    def __init__(self, error: Exception) -> None:
        self.error = error

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise self.error


def client_of(
    upstream: Upstream | httpx.AsyncBaseTransport,
    credentials: Credentials = ALICE,
    base_url: str = BASE,
) -> ConductorClient:
    if isinstance(upstream, Upstream):
        upstream = httpx.ASGITransport(upstream)
    return ConductorClient(
        base_url, FixedIdentity(credentials, LOG_IN), transport=upstream, reads_per_second=10_000
    )


def problem(status: int, headers: Mapping[str, str] | None = None, **members: object) -> Response:
    return Response(
        json.dumps({"status": status, **members}),
        status,
        headers,
        media_type="application/problem+json",
    )


async def error_of(call: Call, upstream: Upstream | httpx.AsyncBaseTransport) -> DbosMcpError:
    async with client_of(upstream) as client:
        with pytest.raises(DbosMcpError) as caught:
            await call(client)
    return caught.value


def read(client: ConductorClient) -> Awaitable[object]:
    return client.get_workflow("shop", "w-1")


def command(client: ConductorClient) -> Awaitable[object]:
    return client.cancel_workflow("shop", "w-1")


# What is sent

APP = "/conductor/v2/orgs/acme/apps/shop"

READS: list[tuple[Call, str, object]] = [
    (lambda c: c.list_applications(), "GET /conductor/v2/orgs/acme/apps", None),
    (lambda c: c.list_executors("shop"), f"GET {APP}/executors", None),
    (lambda c: c.list_application_versions("shop"), f"GET {APP}/versions", None),
    (lambda c: c.list_workflows("shop", limit=5), f"GET {APP}/workflows?limit=5", None),
    (
        lambda c: c.list_workflows("shop", limit=5, status="ERROR", sort_desc=True),
        f"GET {APP}/workflows?status=ERROR&limit=5&sortDesc=true",
        None,
    ),
    (
        lambda c: c.search_workflows(
            "shop", WorkflowSearch(status=["ERROR"], start_time=MOMENT, limit=2)
        ),
        f"POST {APP}/workflows/search",
        {"status": ["ERROR"], "startTime": WIRE_MOMENT, "limit": 2},
    ),
    (lambda c: c.list_steps("shop", "w"), f"GET {APP}/workflows/w/steps", None),
    (
        lambda c: c.list_steps("shop", "w", limit=9, offset=3),
        f"GET {APP}/workflows/w/steps?limit=9&offset=3",
        None,
    ),
    (lambda c: c.list_events("shop", "w"), f"GET {APP}/workflows/w/events", None),
    (lambda c: c.list_notifications("shop", "w"), f"GET {APP}/workflows/w/notifications", None),
    (lambda c: c.list_streams("shop", "w"), f"GET {APP}/workflows/w/streams", None),
    (
        lambda c: c.get_workflow_aggregates("shop", WorkflowAggregateQuery(group_by_status=True)),
        f"POST {APP}/workflows/aggregates",
        {"groupByStatus": True},
    ),
    (
        lambda c: c.get_step_aggregates("shop", StepAggregateQuery(group_by_function_name=True)),
        f"POST {APP}/steps/aggregates",
        {"groupByFunctionName": True},
    ),
    (lambda c: c.list_queues("shop"), f"GET {APP}/queues", None),
    (lambda c: c.list_schedules("shop"), f"GET {APP}/schedules", None),
    (
        lambda c: c.list_schedules("shop", schedule_name_prefix="night", load_context=False),
        f"GET {APP}/schedules?scheduleNamePrefix=night&loadContext=false",
        None,
    ),
]

COMMANDS: list[tuple[Call, str, object]] = [
    (lambda c: c.cancel_workflow("shop", "w"), f"POST {APP}/workflows/w/cancel", {}),
    (
        lambda c: c.cancel_workflow("shop", "w", cancel_children=True),
        f"POST {APP}/workflows/w/cancel",
        {"cancelChildren": True},
    ),
    (
        lambda c: c.resume_workflow("shop", "w", queue_name="q"),
        f"POST {APP}/workflows/w/resume",
        {"queueName": "q"},
    ),
    (lambda c: c.delete_workflow("shop", "w"), f"DELETE {APP}/workflows/w", None),
    (
        lambda c: c.delete_workflow("shop", "w", delete_children=True),
        f"DELETE {APP}/workflows/w?deleteChildren=true",
        None,
    ),
    (
        lambda c: c.bulk_cancel_workflows("shop", BulkCancelRequest(workflow_ids=["a", "b"])),
        f"POST {APP}/workflows/bulk-cancel",
        {"workflowIds": ["a", "b"]},
    ),
    (
        lambda c: c.bulk_resume_workflows("shop", BulkResumeRequest(workflow_ids=["a"])),
        f"POST {APP}/workflows/bulk-resume",
        {"workflowIds": ["a"]},
    ),
    (
        lambda c: c.bulk_delete_workflows(
            "shop", BulkDeleteRequest(workflow_ids=["a"], delete_children=True)
        ),
        f"POST {APP}/workflows/bulk-delete",
        {"workflowIds": ["a"], "deleteChildren": True},
    ),
    (lambda c: c.pause_schedule("shop", "s"), f"POST {APP}/schedules/s/pause", None),
    (lambda c: c.resume_schedule("shop", "s"), f"POST {APP}/schedules/s/resume", None),
    (
        lambda c: c.set_latest_application_version("shop", "v2"),
        f"PATCH {APP}/versions/latest",
        {"versionName": "v2"},
    ),
]

IDS: list[tuple[Call, str, object, object]] = [
    (
        lambda c: c.fork_workflow("shop", "w", ForkRequest(start_step=3, new_workflow_id="n")),
        f"POST {APP}/workflows/w/fork",
        {"startStep": 3, "newWorkflowId": "n"},
        "n",
    ),
    (lambda c: c.trigger_schedule("shop", "s"), f"POST {APP}/schedules/s/trigger", None, "n"),
    (
        lambda c: c.backfill_schedule(
            "shop", "s", BackfillRequest(start_time=MOMENT, end_time=MOMENT)
        ),
        f"POST {APP}/schedules/s/backfill",
        {"startTime": WIRE_MOMENT, "endTime": WIRE_MOMENT},
        ["n"],
    ),
    (
        lambda c: c.bulk_fork_from_failure(
            "shop", BulkForkFromFailureRequest(workflow_ids=["a"], from_last_failure=True)
        ),
        f"POST {APP}/workflows/bulk-fork-from-failure",
        {"workflowIds": ["a"], "fromLastFailure": True},
        ["n"],
    ),
]


def assert_sent(upstream: Upstream, sent: str, body: object) -> None:
    (request,) = upstream.requests
    target = upstream.raw_path + (f"?{request.url.query}" if request.url.query else "")
    assert f"{request.method} {target}" == sent
    assert (json.loads(upstream.bodies[0]) if upstream.bodies[0] else None) == body
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize(("call", "sent", "body"), READS, ids=[sent for _, sent, _ in READS])
async def test_a_read_asks_its_operation_and_an_empty_list_is_an_answer(
    call: Call, sent: str, body: object
) -> None:
    upstream = Upstream(JSONResponse([]))
    async with client_of(upstream) as client:
        assert await call(client) == []
    assert_sent(upstream, sent, body)


@pytest.mark.parametrize(("call", "sent", "body"), COMMANDS, ids=[sent for _, sent, _ in COMMANDS])
@pytest.mark.parametrize("answer", [Response(status_code=204), JSONResponse({})], ids=["204", "{}"])
async def test_a_command_is_sent_once_and_any_success_will_do(
    call: Call, sent: str, body: object, answer: Response
) -> None:
    upstream = Upstream(answer)
    async with client_of(upstream) as client:
        await call(client)
    assert_sent(upstream, sent, body)


@pytest.mark.parametrize(("call", "sent", "body", "ids"), IDS, ids=[sent for _, sent, _, _ in IDS])
async def test_a_command_that_starts_workflows_returns_their_ids(
    call: Call, sent: str, body: object, ids: object
) -> None:
    upstream = Upstream(
        JSONResponse({"$schema": "x", "workflowId": "n", "workflowIds": ["n"]}, 201)
    )
    async with client_of(upstream) as client:
        assert await call(client) == ids
    assert_sent(upstream, sent, body)


async def test_a_workflow_is_read_in_our_words_and_fields_new_to_us_are_ignored() -> None:
    upstream = Upstream(JSONResponse(WORKFLOW))
    async with client_of(upstream) as client:
        workflow = await client.get_workflow("shop", "w")
    assert_sent(upstream, f"GET {APP}/workflows/w", None)
    assert (workflow.workflow_id, workflow.created_at, workflow.output) == ("w", MOMENT, None)


async def test_single_things_are_read_from_their_own_paths() -> None:
    upstream = Upstream(JSONResponse({"id": "1", "name": "shop", "status": "AVAILABLE"}))
    async with client_of(upstream) as client:
        assert (await client.get_application("shop")).name == "shop"
        assert upstream.raw_path == APP
        assert (await client.get_queue("shop", "mail out")).name == "shop"
        assert upstream.raw_path == f"{APP}/queues/mail%20out"
        upstream.answer = JSONResponse({"name": "alice", "orgName": "acme"})
        assert (await client.get_current_user()).org_name == "acme"
        assert upstream.raw_path == "/conductor/v2/users/me"
        upstream.answer = JSONResponse(
            {
                "scheduleId": "1",
                "scheduleName": "night",
                "workflowName": "report",
                "cronExpression": "0 3 * * *",
                "status": "ACTIVE",
            }
        )
        assert (await client.get_schedule("shop", "night")).workflow_name == "report"
        assert upstream.raw_path == f"{APP}/schedules/night"


async def test_the_identity_is_asked_at_each_call_and_no_token_means_no_header() -> None:
    upstream = Upstream()
    url = "http://localhost:8090"
    async with client_of(upstream, Credentials("local"), url) as client:
        await client.list_applications()
        client.identity = FixedIdentity(ALICE)
        await client.list_applications()
    first, second = upstream.requests
    assert "Authorization" not in first.headers
    assert first.scope["raw_path"] == b"/v2/orgs/local/apps"
    assert second.headers["Authorization"] == f"Bearer {TOKEN}"


async def test_without_a_login_nothing_is_sent(tmp_path: Path) -> None:
    upstream = Upstream()
    async with client_of(upstream) as client:
        client.identity = LoginIdentity(CredentialStore(tmp_path / "credentials"))
        with pytest.raises(AuthenticationError):
            await client.list_applications()
    assert upstream.requests == []


async def test_a_password_in_the_url_is_sent_where_there_is_no_token() -> None:
    upstream = Upstream()
    base_url = "https://proxy:hunter2@conductor.test"
    async with client_of(upstream, Credentials("acme"), base_url) as client:
        await client.list_applications()
    async with client_of(upstream, ALICE, base_url) as client:
        await client.list_applications()
    basic, bearer = (request.headers["Authorization"] for request in upstream.requests)
    assert basic.startswith("Basic ")
    assert bearer == f"Bearer {TOKEN}"


@pytest.mark.parametrize(
    "base_url",
    ["", "conductor.test", "ftp://conductor.test", "https://", "https://x.test/?a=1", "https://x:y",
     "http://cloud.dbos.dev/conductor", "https://x.test/#a", "https://\x00"],
)  # fmt: skip
def test_a_url_that_is_not_a_conductors_is_refused(base_url: str) -> None:
    with pytest.raises(UsageError, match="DBOS_URL"):
        ConductorClient(base_url, FixedIdentity(ALICE))


# What is refused before it is sent

NASTY = [
    "", ".", "..", "\x00", "a\nb", "..\r\n", "\x7f", "a\x85b", "\ud800", "w\udfff", "\x1b[2J", "\t",
]  # fmt: skip
ODD = [
    "a/b", "../x", "x/..", "./x", "/", "//", "%2e%2e", "%2E", "%", "%00", "a?b", "a#b", "...",
    ". .", "a b", "a+b", "a;b", "..;", "\\..\\", "ä", "\u202e", "日本", "🙂", "@",
    "a:b", "x" * 2000,
]  # fmt: skip


@pytest.mark.parametrize("name", NASTY, ids=repr)
async def test_a_name_that_would_address_another_resource_is_never_sent(name: str) -> None:
    upstream = Upstream()
    calls: list[Call] = [
        lambda c: c.get_application(name),
        lambda c: c.get_workflow("shop", name),
        lambda c: c.delete_workflow("shop", name),
        lambda c: c.list_steps(name, "w"),
        lambda c: c.pause_schedule("shop", name),
        lambda c: c.get_queue("shop", name),
    ]
    for call in calls:
        error = await error_of(call, upstream)
        assert isinstance(error, UsageError)
        assert "would address another resource" in error.hint
        assert str(error).isprintable()
    async with client_of(upstream, Credentials(name)) as client:
        with pytest.raises(UsageError):
            await client.list_applications()
    assert upstream.requests == []


@pytest.mark.parametrize("name", ODD, ids=ascii)
async def test_an_odd_name_stays_one_segment_of_the_path(name: str) -> None:
    upstream = Upstream(Response(status_code=204))
    async with client_of(upstream) as client:
        await client.delete_workflow("shop", name)
    assert upstream.raw_path == f"{APP}/workflows/{quote(name, safe='')}"
    assert upstream.raw_path.count("/") == f"{APP}/workflows/w".count("/")


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.search_workflows("shop", WorkflowSearch(workflow_ids=[], limit=1)),
        lambda c: c.search_workflows("shop", WorkflowSearch(status=(), limit=1)),
        lambda c: c.search_workflows("shop", WorkflowSearch(attributes={}, limit=1)),
        lambda c: c.get_workflow_aggregates("shop", WorkflowAggregateQuery(queue_name=[])),
        lambda c: c.get_step_aggregates("shop", StepAggregateQuery(step_name=[])),
        lambda c: c.bulk_cancel_workflows("shop", BulkCancelRequest(workflow_ids=[])),
        lambda c: c.bulk_delete_workflows("shop", BulkDeleteRequest(workflow_ids=[])),
        lambda c: c.list_workflows("shop", limit=1, status=""),
        lambda c: c.list_schedules("shop", schedule_name_prefix=""),
        lambda c: c.resume_workflow("shop", "w", queue_name=""),
    ],
)
async def test_an_empty_filter_is_refused_because_upstream_it_means_everything(call: Call) -> None:
    upstream = Upstream()
    error = await error_of(call, upstream)
    assert isinstance(error, UsageError)
    assert "everything upstream" in error.hint
    assert upstream.requests == []


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.search_workflows("shop", WorkflowSearch()),
        lambda c: c.search_workflows("shop", WorkflowSearch(limit=0)),
        lambda c: c.search_workflows("shop", WorkflowSearch(limit=-1)),
        lambda c: c.list_workflows("shop", limit=0),
        lambda c: c.list_steps("shop", "w", limit=0),
    ],
)
async def test_a_list_without_a_limit_is_refused_because_every_row_would_come(call: Call) -> None:
    upstream = Upstream()
    error = await error_of(call, upstream)
    assert isinstance(error, UsageError)
    assert "every row" in error.hint
    assert upstream.requests == []


@pytest.mark.parametrize(
    "search",
    [
        WorkflowSearch(limit=1, workflow_ids=["\ud800"]),
        WorkflowSearch(limit=1, start_time=10**18),
    ],
    ids=["lone surrogate", "no such time"],
)
async def test_what_json_cannot_say_is_the_callers_mistake(search: WorkflowSearch) -> None:
    upstream = Upstream()
    error = await error_of(lambda c: c.search_workflows("shop", search), upstream)
    assert isinstance(error, UsageError)
    assert upstream.requests == []


# What becomes of an answer that is not a success

HTML = Response("<html>gateway</html>", media_type="text/html")

REFUSALS: list[tuple[Response, type[DbosMcpError], list[str]]] = [
    (problem(401), AuthenticationError, ["conductor.test", "login", "DBOS_TOKEN"]),
    (Response(status_code=401), AuthenticationError, ["DBOS_TOKEN"]),
    (problem(403, detail="not yours"), PermissionDeniedError, ["application.read", "not yours"]),
    (
        problem(403, {"X-DBOS-Error": "past_limit"}),
        PermissionDeniedError,
        ["past the limit of its plan", "past_limit"],
    ),
    (problem(403, {"X-DBOS-Error": "new"}), PermissionDeniedError, ["new"]),
    (
        problem(404, detail="no row"),
        NotFoundError,
        ["workflow 'w-1' in application 'shop'", "no row", "list_workflows"],
    ),
    (Response("404 page not found", 404), ResponseError, ["no API v2", "0.17.0", "DBOS_URL"]),
    (JSONResponse({}, 404), ResponseError, ["application/json"]),
    (problem(400, detail="bad step"), RejectedError, ["400 Bad Request: bad step"]),
    (problem(409, title="Conflict of names"), RejectedError, ["409", "Conflict of names"]),
    (
        problem(
            422,
            detail="validation failed",
            errors=[{"location": "body.limit", "message": "too small", "value": "secret value"}],
        ),
        RejectedError,
        ["validation failed; body.limit: too small"],
    ),
    (Response("nope", 413, media_type="text/plain"), RejectedError, ["413"]),
    (problem(500, detail="boom"), ResponseError, ["500 Internal Server Error: boom"]),
    (Response("<html>", 502, media_type="text/html"), UnavailableError, ["502 Bad Gateway"]),
    (problem(503), UnavailableError, ["'shop' has no healthy executor connected"]),
    (problem(504), UnavailableError, ["504"]),
    (Response(status_code=520), ResponseError, ["520"]),
    (Response(status_code=304), ResponseError, ["304"]),
    (
        Response(status_code=302, headers={"Location": "https://u:pw@evil.test/x?t=secret"}),
        ResponseError,
        ["302", "evil.test", "DBOS_URL"],
    ),
    (problem(400, detail=7), RejectedError, ["400"]),
    (Response(b"\xff{", 400, media_type="application/problem+json"), RejectedError, ["400"]),
    (problem(429, detail="slow"), RateLimitError, ["too many requests: slow"]),
]


@pytest.mark.parametrize(
    ("answer", "expected", "words"),
    REFUSALS,
    ids=[f"{answer.status_code} {number}" for number, (answer, *_) in enumerate(REFUSALS)],
)
async def test_a_refusal_becomes_an_error_that_says_what_to_do(
    answer: Response, expected: type[DbosMcpError], words: list[str]
) -> None:
    upstream = Upstream(answer)
    error = await error_of(read, upstream)
    assert type(error) is expected
    for word in words:
        assert word in str(error)
    for secret in ("secret", "pw", "<html", "page not found", "nope"):
        assert secret not in str(error)
    assert len(upstream.requests) == 1
    if isinstance(error, ConductorError):
        assert not error.outcome_unknown


@pytest.mark.parametrize(
    ("call", "sought", "lookup"),
    [
        (lambda c: c.list_applications(), "organization 'acme'", "DBOS_ORG"),
        (lambda c: c.list_queues("shop"), "application 'shop' in organization", "list_app"),
        (lambda c: c.get_queue("shop", "q"), "queue 'q' in application 'shop'", "list_queues"),
        (lambda c: c.pause_schedule("shop", "s"), "schedule 's' in", "list_schedules"),
        (lambda c: c.fork_workflow("shop", "w", ForkRequest()), "workflow 'w' in", "list_work"),
        (lambda c: c.get_current_user(), "no user for these credentials", "API key"),
    ],
)
async def test_not_found_names_what_was_asked_for(call: Call, sought: str, lookup: str) -> None:
    error = await error_of(call, Upstream(problem(404)))
    assert isinstance(error, NotFoundError)
    assert sought in error.message
    assert lookup in error.hint


async def test_a_command_that_is_forbidden_names_the_permission_to_write() -> None:
    error = await error_of(command, Upstream(problem(403)))
    assert "application.write" in error.hint


async def test_an_api_key_that_asks_for_its_user_is_told_why_it_may_not() -> None:
    error = await error_of(lambda c: c.get_current_user(), Upstream(problem(403)))
    assert isinstance(error, PermissionDeniedError)
    assert "API key" in error.hint


async def test_503_of_a_list_of_applications_blames_no_application() -> None:
    error = await error_of(lambda c: c.list_applications(), Upstream(problem(503)))
    assert isinstance(error, UnavailableError)
    assert "executor connected" not in error.message


async def test_hostile_text_in_a_problem_is_clipped_and_made_harmless() -> None:
    detail = "\x1b[2J\x9b\u202e\U000e0041\r\nTraceback " + "x" * 100_000
    answer = problem(400, detail=detail, errors=[{"location": "\x00", "message": "y" * 5000}] * 50)
    message = str(await error_of(read, Upstream(answer)))
    assert message.isprintable()
    assert "Traceback" in message
    assert len(message) < 800


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7), ("0", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("soon", None), ("", None),
     ("9" * 5000, None), ("-1", None), ("Wed, 21 Oct 2015 07:28:00 -0000", 0)],
)  # fmt: skip
async def test_retry_after_is_read_as_seconds_or_as_a_date(
    value: str, seconds: float | None
) -> None:
    error = await error_of(read, Upstream(problem(429, {"Retry-After": value})))
    assert isinstance(error, RateLimitError)
    assert error.retry_after_seconds == seconds


async def test_retry_after_a_moment_to_come_is_the_time_until_then() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(minutes=5), usegmt=True)
    error = await error_of(read, Upstream(problem(429, {"Retry-After": later})))
    assert isinstance(error, RateLimitError)
    assert error.retry_after_seconds is not None
    assert 200 < error.retry_after_seconds <= 300


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (HTML, ["text/html", "proxy", "json_invalid"]),
        (Response('{"workflowId": "w', media_type="application/json"), ["json_invalid"]),
        (Response(status_code=204), ["204", "no content type"]),
        (JSONResponse([WORKFLOW]), ["application/json"]),
        (JSONResponse({**WORKFLOW, "status": None}), ["string_type.status"]),
        (JSONResponse({**WORKFLOW, "createdAt": "secret time"}), ["value_error.createdAt"]),
        (Response(b"[" * 100_000, media_type="application/json"), ["json_invalid"]),
        (Response(b'{"workflowId": "\\ud800"}', media_type="application/json"), ["json_invalid"]),
    ],
    ids=["HTML", "half", "nothing", "a list", "null", "bad time", "too deep", "lone surrogate"],
)
async def test_a_success_that_is_not_the_apis_says_what_came(
    answer: Response, words: list[str]
) -> None:
    error = await error_of(read, Upstream(answer))
    assert isinstance(error, ResponseError)
    for word in words:
        assert word in str(error)
    assert "secret" not in str(error)
    assert error.__cause__ is error.__context__ is None


async def test_an_answer_that_cannot_be_unpacked_is_not_conductors() -> None:
    squeezed = Response(b"not gzip", headers={"Content-Encoding": "gzip"})
    of_read = await error_of(read, Upstream(squeezed))
    of_command = await error_of(command, Upstream(squeezed))
    assert isinstance(of_read, ResponseError)
    assert isinstance(of_command, ResponseError)
    assert (of_read.outcome_unknown, of_command.outcome_unknown) == (False, True)


# What becomes of no answer, and what a command may have done

NOT_SENT = [httpx.ConnectError("refused"), httpx.ConnectTimeout(""), httpx.PoolTimeout("")]
SENT = [
    httpx.ReadTimeout(""),
    httpx.WriteTimeout(""),
    httpx.ReadError("reset"),
    httpx.WriteError("reset"),
    httpx.RemoteProtocolError("half"),
]


@pytest.mark.parametrize("failure", [*NOT_SENT, *SENT], ids=lambda error: type(error).__name__)
async def test_without_an_answer_conductor_is_unavailable_and_a_command_may_have_run(
    failure: Exception,
) -> None:
    of_read = await error_of(read, Failing(failure))
    of_command = await error_of(command, Failing(failure))
    assert isinstance(of_read, UnavailableError)
    assert isinstance(of_command, UnavailableError)
    assert "conductor.test" in of_read.message
    assert of_read.retryable
    assert not of_read.outcome_unknown
    assert of_command.outcome_unknown == (failure in SENT)
    assert ("may have run" in of_command.hint) == of_command.outcome_unknown


@pytest.mark.parametrize(
    ("answer", "unknown"),
    [
        (problem(500), True),
        (problem(502), True),
        (problem(503), False),
        (problem(504), True),
        (Response(status_code=520), True),
        (problem(501), False),
        (problem(400), False),
        (problem(401), False),
        (problem(403), False),
        (problem(422), False),
        (Response(status_code=404), False),
        (Response(status_code=302, headers={"Location": "/x"}), False),
        (HTML, True),
    ],
    ids=lambda value: str(value.status_code) if isinstance(value, Response) else None,
)
async def test_a_command_knows_whether_it_may_have_run(answer: Response, unknown: bool) -> None:
    upstream = Upstream(answer)
    error = await error_of(command, upstream)
    assert isinstance(error, ConductorError)
    assert error.outcome_unknown == unknown
    assert ("may have run" in error.hint) == unknown
    assert len(upstream.requests) == 1


async def test_a_refused_connection_is_said_in_words() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    async with ConductorClient(f"http://127.0.0.1:{port}", FixedIdentity(ALICE)) as client:
        with pytest.raises(UnavailableError, match=f"127.0.0.1:{port} cannot be reached") as caught:
            await client.cancel_workflow("shop", "w")
    assert not caught.value.outcome_unknown


# Who asks, and what they may

GUARDED = "https://conductor.test"


@dataclass
class Guarded:
    """A Conductor that wants alice's token or a key, in front of one that says yes to everything,
    and alice's login."""

    issuer: OAuthServer
    upstream: Upstream
    conductor: SecuredConductor
    store: CredentialStore

    def client(self, identity: Who | None = None) -> ConductorClient:
        identity = identity or LoginIdentity(
            self.store,
            url=GUARDED,
            issuer=IssuerClient(self.issuer.as_issuer()),
            how_to_log_in=LOG_IN,
            clock=self.issuer.clock,
        )
        transport = httpx.ASGITransport(self.conductor)
        return ConductorClient(GUARDED, identity, transport=transport, reads_per_second=10_000)

    def statuses(self) -> list[int]:
        return [asked.status for asked in self.conductor.requests]


@pytest.fixture
async def guarded(oauth_server: OAuthServer, tmp_path: Path) -> Guarded:
    upstream = Upstream(JSONResponse(WORKFLOW))
    conductor = SecuredConductor(upstream, oauth_server.verify)
    conductor.users["alice"] = conductor.keys[TOKEN] = Allowed("acme")
    issued = oauth_server.issue()
    login = Login(
        issued.access_token,
        "alice",
        "acme",
        issued.refresh_token,
        url=GUARDED,
        issuer=oauth_server.url,
    )
    store = CredentialStore(tmp_path / "credentials")
    await store.save(login)
    return Guarded(oauth_server, upstream, conductor, store)


@pytest.mark.parametrize("call", [read, command])
async def test_after_a_401_the_same_is_sent_once_more_with_a_renewed_token(
    guarded: Guarded, call: Call
) -> None:
    before = guarded.store.load()
    assert before is not None
    guarded.issuer.revoke(before.token or "")
    async with guarded.client() as client:
        await call(client)
        await call(client)
    after = guarded.store.load()
    assert after is not None
    assert [(asked.token, asked.status) for asked in guarded.conductor.requests] == [
        (before.token, 401),
        (after.token, 200),
        (after.token, 200),
    ]
    assert len(guarded.upstream.requests) == 2  # each ran once
    assert len(guarded.issuer.refreshes()) == 1


@pytest.mark.parametrize("call", [read, command])
async def test_a_renewed_token_that_is_refused_as_well_is_not_tried_again(
    guarded: Guarded, call: Call
) -> None:
    guarded.issuer.audience = "another-api"  # which this Conductor trusts from now on
    async with guarded.client() as client:
        with pytest.raises(AuthenticationError, match="does not accept the credentials") as caught:
            await call(client)
    assert caught.value.hint == LOG_IN
    assert guarded.statuses() == [401, 401]
    assert len(guarded.issuer.refreshes()) == 1


@pytest.mark.parametrize("call", [read, command])
async def test_after_a_401_nothing_is_sent_where_there_is_nothing_else_to_try(
    guarded: Guarded, call: Call
) -> None:
    login = guarded.store.load()
    assert login is not None
    guarded.issuer.revoke(login.refresh_token or "")
    async with guarded.client() as client:
        with pytest.raises(AuthenticationError, match="does not accept the credentials"):
            await call(client)
    async with guarded.client(FixedIdentity(Credentials("acme", TOKEN + "0"), LOG_IN)) as client:
        with pytest.raises(AuthenticationError, match="The API key is not valid"):
            await call(client)
    assert guarded.statuses() == [401, 401]
    assert not guarded.upstream.requests


async def test_a_login_that_has_ended_is_told_before_anything_is_sent(guarded: Guarded) -> None:
    login = guarded.store.load()
    assert login is not None
    await guarded.store.save(replace(login, refresh_token=None))
    guarded.issuer.clock.now += guarded.issuer.token_lifetime
    async with guarded.client() as client:
        with pytest.raises(AuthenticationError, match="The login of alice ended at"):
            await command(client)
    assert not guarded.conductor.requests


@pytest.mark.parametrize(
    ("permissions", "missing", "call"),
    [(frozenset(), READ, read), (frozenset({READ}), WRITE, command)],
)
@pytest.mark.parametrize("who", ["a user", "a key"])
async def test_a_403_names_the_permission_that_is_missing_and_the_way_to_it(
    guarded: Guarded, who: str, permissions: frozenset[str], missing: str, call: Call
) -> None:
    guarded.conductor.users["alice"] = Allowed("acme", permissions)
    guarded.conductor.keys[TOKEN] = Allowed("acme", permissions)
    key = FixedIdentity(Credentials("acme", TOKEN), LOG_IN)
    async with guarded.client(key if who == "a key" else None) as client:
        if permissions:
            await read(client)
        with pytest.raises(PermissionDeniedError) as caught:
            await call(client)
    assert f"the permission {missing} in application 'shop'" in caught.value.message
    if who == "a key":
        assert f"The API key lacks {missing}, or is limited to other applications" in (
            caught.value.hint
        )
        assert "DBOS_TOKEN" in caught.value.hint
    else:
        assert f"The role of this user lacks {missing}" in caught.value.hint
        assert "administrator" in caught.value.hint
    # A refusal of what was understood is not one of who asks.
    assert guarded.statuses()[-1] == 403
    assert not guarded.issuer.refreshes()


async def test_a_403_for_the_organization_names_the_organization(guarded: Guarded) -> None:
    guarded.conductor.users["alice"] = Allowed("acme", frozenset())
    async with guarded.client() as client:
        with pytest.raises(PermissionDeniedError, match=r"application\.read in org.* 'acme'"):
            await client.list_applications()


async def test_a_key_that_is_limited_to_other_applications_is_told_so(guarded: Guarded) -> None:
    guarded.conductor.keys[TOKEN] = Allowed("acme", applications=frozenset({"billing"}))
    async with guarded.client(FixedIdentity(Credentials("acme", TOKEN), LOG_IN)) as client:
        await client.get_workflow("billing", "w-1")
        with pytest.raises(PermissionDeniedError, match="in application 'shop'") as caught:
            await read(client)
    assert "limited to other applications" in caught.value.hint


@pytest.mark.parametrize("call", [read, command])
async def test_a_plan_past_its_limit_is_told_as_such(guarded: Guarded, call: Call) -> None:
    guarded.conductor.past_limit = True
    async with guarded.client() as client:
        with pytest.raises(PermissionDeniedError, match="past the limit of its plan") as caught:
            await call(client)
    assert "change the plan" in caught.value.hint
    assert "application." not in str(caught.value)
    assert not caught.value.retryable


# Secrets

ECHO = problem(400, detail=f"bad {TOKEN}", errors=[{"location": TOKEN, "message": TOKEN}])


async def test_no_error_and_no_log_holds_the_token_or_a_password(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    base_url = "https://proxy:hunter2@conductor.test"
    media_type = Response(TOKEN, media_type=f"text/{TOKEN}")
    answers = [ECHO, media_type, HTML, *(answer for answer, *_ in REFUSALS)]
    failures = [httpx.ReadError(f"Illegal header Bearer {TOKEN}"), *SENT]
    upstreams: list[Upstream | Failing] = [*map(Upstream, answers), *map(Failing, failures)]
    for upstream in upstreams:
        client = client_of(upstream, ALICE, base_url)
        for call in (read, command):
            with pytest.raises(DbosMcpError) as caught:
                await call(client)
            for text in (str(caught.value), repr(caught.value), caught.value.hint, caplog.text):
                assert TOKEN not in text
                assert "hunter2" not in text
        await client.aclose()
    assert "HTTP Request" in caplog.text


@pytest.mark.parametrize("token", [f"{TOKEN}\n", f"{TOKEN} x", f"{TOKEN}ä", f"\x00{TOKEN}"])
async def test_a_token_that_cannot_be_a_header_is_refused_without_being_quoted(token: str) -> None:
    upstream = Upstream()
    async with client_of(upstream, Credentials("acme", token=token)) as client:
        with pytest.raises(AuthenticationError) as caught:
            await client.list_applications()
    assert TOKEN not in str(caught.value)
    assert upstream.requests == []
