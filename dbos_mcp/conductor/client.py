"""Conductor's API v2: one async method per operation, and one place where requests are made.

`_request` is the only way out. It builds the path, asks, and turns every failure and every status
into an answer of `conductor.models` or an error of `dbos_mcp.errors`. When a read is sent, and
whether again, is up to `conductor.traffic`. A command is sent once: when it may have run although
no answer came, the error says so in `outcome_unknown`.

Names are put into paths with care. httpx resolves dot segments, so that deleting the workflow `..`
would go out as deleting its application.
"""

import re
import unicodedata
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

import anyio
import httpx
from pydantic import ValidationError

from dbos_mcp.conductor.credentials import API_KEY_PREFIX, Credentials
from dbos_mcp.conductor.decoding import Read, Rows, UnfitError, rows, whole
from dbos_mcp.conductor.identity import Identity
from dbos_mcp.conductor.models import (
    Application,
    ApplicationVersion,
    BackfillRequest,
    Body,
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
    Problem,
    Queue,
    ResumeRequest,
    Schedule,
    Step,
    StepAggregate,
    StepAggregateQuery,
    StreamEntry,
    TriggerResult,
    UserProfile,
    Wire,
    Workflow,
    WorkflowAggregate,
    WorkflowAggregateQuery,
    WorkflowIds,
    WorkflowSearch,
)
from dbos_mcp.conductor.traffic import PATIENCE_SECONDS, READS_PER_SECOND, Traffic
from dbos_mcp.conductor.wire import (
    BAD_CERTIFICATE,
    Proxy,
    body_of,
    deadline,
    fault_of,
    http_client,
    proxy_of,
    retry_after,
)
from dbos_mcp.domain import one_line
from dbos_mcp.errors import (
    AuthenticationError,
    DbosMcpError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RejectedError,
    ResponseError,
    UnavailableError,
    UsageError,
)
from dbos_mcp.settings import MANAGED_URL

T = TypeVar("T")
Row = TypeVar("Row", bound=Wire)
Hook = Callable[..., Awaitable[None]]

MAX_ANSWER_BYTES = 64_000_000
"""Unpacked: what comes beyond it is not read."""
REQUEST_SECONDS = 120.0
"""For a whole request, however it drips."""

_ORGANIZATION = "/v2/orgs/{organization}"
_APPLICATION = _ORGANIZATION + "/apps/{application}"
_WORKFLOWS = _APPLICATION + "/workflows"
_WORKFLOW = _WORKFLOWS + "/{workflow}"
_SCHEDULES = _APPLICATION + "/schedules"
_SCHEDULE = _SCHEDULES + "/{schedule}"
_QUEUES = _APPLICATION + "/queues"

_FIELD = re.compile(r"\{(\w+)\}")

_LOOKUP = {
    "organization": "Check the organization's name (DBOS_ORG).",
    "application": "list_applications shows the names.",
    "workflow": "list_workflows shows the ids.",
    "queue": "list_queues shows the names.",
    "schedule": "list_schedules shows the names.",
}

_NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
)

_OUR_FAULT = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)

_ANOTHER_RESOURCE = (
    "In a URL it would address another resource; a search by workflow_ids can name any workflow."
)
_NOT_CONDUCTOR = "A proxy, or something else at a wrong DBOS_URL, may be answering."
_MAY_HAVE_RUN = "The command may have run: look at the state before sending it again."


class ConductorClient:
    """Asks one Conductor, as whoever `identity` is at the time of the request.

    Methods raise the ConductorError and NotFoundError of `dbos_mcp.errors`, and UsageError, before
    anything is sent, for what cannot be asked without asking for something else.

    Reads take turns, and are repeated for up to `patience_seconds`. `traffic` counts all requests;
    `event_hooks` are httpx's.
    """

    def __init__(
        self,
        base_url: str,
        identity: Identity,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
        request_seconds: float = REQUEST_SECONDS,
        reads_per_second: float = READS_PER_SECOND,
        event_hooks: Mapping[str, list[Hook]] | None = None,
    ) -> None:
        self.traffic = Traffic(patience_seconds=patience_seconds, reads_per_second=reads_per_second)
        url = _parse_base_url(base_url)
        self.identity = identity
        self._request_seconds = request_seconds
        self._proxy = proxy_of(url) if transport is None else None
        self._http = http_client(
            # httpx logs URLs in full, so a password must not stay in one.
            base_url=url.copy_with(userinfo=b""),
            auth=httpx.BasicAuth(url.username, url.password) if url.userinfo else None,
            timeout=httpx.Timeout(30.0, connect=5.0),
            transport=transport,
            event_hooks=event_hooks,
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    # Applications

    async def list_applications(self) -> Rows[Application]:
        return await self._get(rows(Application), _ORGANIZATION + "/apps")

    async def get_application(self, application_name: str) -> Application:
        return await self._get(whole(Application), _APPLICATION, application=application_name)

    async def list_executors(self, application_name: str) -> Rows[Executor]:
        path = _APPLICATION + "/executors"
        return await self._get(rows(Executor), path, application=application_name)

    async def list_application_versions(self, application_name: str) -> list[ApplicationVersion]:
        path = _APPLICATION + "/versions"
        return await self._get(whole(list[ApplicationVersion]), path, application=application_name)

    async def get_current_user(self) -> UserProfile:
        """Of a login; an API key has no user."""
        return await self._get(whole(UserProfile), "/v2/users/me")

    # Workflows

    async def list_workflows(
        self,
        application_name: str,
        *,
        status: str | None = None,
        workflow_name: str | None = None,
        limit: int,
        offset: int | None = None,
        sort_desc: bool | None = None,
        load_input: bool | None = None,
        load_output: bool | None = None,
    ) -> list[Workflow]:
        """The GET form: one value per filter."""
        _require_limit(limit)
        params = {
            "status": status,
            "workflowName": workflow_name,
            "limit": limit,
            "offset": offset,
            "sortDesc": sort_desc,
            "loadInput": load_input,
            "loadOutput": load_output,
        }
        return await self._get(
            whole(list[Workflow]), _WORKFLOWS, params=params, application=application_name
        )

    async def search_workflows(
        self, application_name: str, search: WorkflowSearch, *, salvage: bool = False
    ) -> Rows[Workflow]:
        """`salvage`: what can be read will do, be there unreadable rows or too many."""
        _require_limit(search.limit)
        path = _WORKFLOWS + "/search"
        answer = rows(Workflow, in_part=True) if salvage else _all(Workflow)
        return await self._query(answer, path, search, application=application_name)

    async def get_workflow(self, application_name: str, workflow_id: str) -> Workflow:
        return await self._get(
            whole(Workflow), _WORKFLOW, application=application_name, workflow=workflow_id
        )

    async def list_steps(
        self,
        application_name: str,
        workflow_id: str,
        *,
        limit: int | None = None,
        offset: int | None = None,
        salvage: bool = False,
    ) -> Rows[Step]:
        """With outputs. An unknown workflow has an empty list, here and in the next three.

        `salvage`: what can be read will do, be there unreadable steps or too many."""
        if limit is not None:
            _require_limit(limit)
        return await self._get(
            rows(Step, in_part=True) if salvage else _all(Step),
            _WORKFLOW + "/steps",
            params={"limit": limit, "offset": offset},
            application=application_name,
            workflow=workflow_id,
        )

    async def list_events(self, application_name: str, workflow_id: str) -> list[Event]:
        path = _WORKFLOW + "/events"
        return await self._get(
            whole(list[Event]), path, application=application_name, workflow=workflow_id
        )

    async def list_notifications(
        self, application_name: str, workflow_id: str
    ) -> list[Notification]:
        path = _WORKFLOW + "/notifications"
        return await self._get(
            whole(list[Notification]), path, application=application_name, workflow=workflow_id
        )

    async def list_streams(self, application_name: str, workflow_id: str) -> list[StreamEntry]:
        path = _WORKFLOW + "/streams"
        return await self._get(
            whole(list[StreamEntry]), path, application=application_name, workflow=workflow_id
        )

    async def get_workflow_aggregates(
        self, application_name: str, query: WorkflowAggregateQuery
    ) -> list[WorkflowAggregate]:
        path = _WORKFLOWS + "/aggregates"
        answer = whole(list[WorkflowAggregate])
        return await self._query(answer, path, query, application=application_name)

    async def get_step_aggregates(
        self, application_name: str, query: StepAggregateQuery
    ) -> list[StepAggregate]:
        path = _APPLICATION + "/steps/aggregates"
        answer = whole(list[StepAggregate])
        return await self._query(answer, path, query, application=application_name)

    # Queues and schedules

    async def list_queues(self, application_name: str) -> list[Queue]:
        return await self._get(whole(list[Queue]), _QUEUES, application=application_name)

    async def get_queue(self, application_name: str, queue_name: str) -> Queue:
        path = _QUEUES + "/{queue}"
        return await self._get(whole(Queue), path, application=application_name, queue=queue_name)

    async def list_schedules(
        self,
        application_name: str,
        *,
        status: str | None = None,
        workflow_name: str | None = None,
        schedule_name_prefix: str | None = None,
        load_context: bool | None = None,
    ) -> list[Schedule]:
        params = {
            "status": status,
            "workflowName": workflow_name,
            "scheduleNamePrefix": schedule_name_prefix,
            "loadContext": load_context,
        }
        return await self._get(
            whole(list[Schedule]), _SCHEDULES, params=params, application=application_name
        )

    async def get_schedule(self, application_name: str, schedule_name: str) -> Schedule:
        return await self._get(
            whole(Schedule), _SCHEDULE, application=application_name, schedule=schedule_name
        )

    # Commands: sent once, never repeated here

    async def cancel_workflow(
        self, application_name: str, workflow_id: str, *, cancel_children: bool = False
    ) -> None:
        await self._post(
            whole(object),
            _WORKFLOW + "/cancel",
            CancelRequest(cancel_children=cancel_children or None),
            application=application_name,
            workflow=workflow_id,
        )

    async def resume_workflow(
        self, application_name: str, workflow_id: str, *, queue_name: str | None = None
    ) -> None:
        """Enqueues the workflow again, a running one included."""
        await self._post(
            whole(object),
            _WORKFLOW + "/resume",
            ResumeRequest(queue_name=queue_name),
            application=application_name,
            workflow=workflow_id,
        )

    async def fork_workflow(
        self, application_name: str, workflow_id: str, request: ForkRequest
    ) -> str:
        """The new workflow's id. With `new_workflow_id` set, a repeat cannot make a second fork."""
        result = await self._post(
            whole(ForkResult),
            _WORKFLOW + "/fork",
            request,
            application=application_name,
            workflow=workflow_id,
        )
        return result.workflow_id

    async def delete_workflow(
        self, application_name: str, workflow_id: str, *, delete_children: bool = False
    ) -> None:
        await self._request(
            "DELETE",
            _WORKFLOW,
            {"application": application_name, "workflow": workflow_id},
            whole(object),
            params={"deleteChildren": delete_children or None},
            command=True,
        )

    async def bulk_cancel_workflows(
        self, application_name: str, request: BulkCancelRequest
    ) -> None:
        path = _WORKFLOWS + "/bulk-cancel"
        await self._post(whole(object), path, request, application=application_name)

    async def bulk_resume_workflows(
        self, application_name: str, request: BulkResumeRequest
    ) -> None:
        path = _WORKFLOWS + "/bulk-resume"
        await self._post(whole(object), path, request, application=application_name)

    async def bulk_delete_workflows(
        self, application_name: str, request: BulkDeleteRequest
    ) -> None:
        path = _WORKFLOWS + "/bulk-delete"
        await self._post(whole(object), path, request, application=application_name)

    async def bulk_fork_from_failure(
        self, application_name: str, request: BulkForkFromFailureRequest
    ) -> list[str]:
        """The new workflows' ids."""
        path = _WORKFLOWS + "/bulk-fork-from-failure"
        result = await self._post(whole(WorkflowIds), path, request, application=application_name)
        return result.workflow_ids

    async def pause_schedule(self, application_name: str, schedule_name: str) -> None:
        path = _SCHEDULE + "/pause"
        await self._post(whole(object), path, application=application_name, schedule=schedule_name)

    async def resume_schedule(self, application_name: str, schedule_name: str) -> None:
        path = _SCHEDULE + "/resume"
        await self._post(whole(object), path, application=application_name, schedule=schedule_name)

    async def trigger_schedule(self, application_name: str, schedule_name: str) -> str:
        """The id of the workflow it started."""
        result = await self._post(
            whole(TriggerResult),
            _SCHEDULE + "/trigger",
            application=application_name,
            schedule=schedule_name,
        )
        return result.workflow_id

    async def backfill_schedule(
        self, application_name: str, schedule_name: str, request: BackfillRequest
    ) -> list[str]:
        """The ids of the workflows it started."""
        result = await self._post(
            whole(WorkflowIds),
            _SCHEDULE + "/backfill",
            request,
            application=application_name,
            schedule=schedule_name,
        )
        return result.workflow_ids

    async def set_latest_application_version(
        self, application_name: str, version_name: str
    ) -> None:
        await self._request(
            "PATCH",
            _APPLICATION + "/versions/latest",
            {"application": application_name},
            whole(object),
            body=LatestVersionRequest(version_name=version_name),
            command=True,
        )

    # The way out

    async def _get(
        self,
        answer: Read[T],
        template: str,
        *,
        params: Mapping[str, str | int | None] | None = None,
        **names: str,
    ) -> T:
        return await self._request("GET", template, names, answer, params=params)

    async def _query(self, answer: Read[T], template: str, body: Body, **names: str) -> T:
        """A read whose filters do not fit into a query string."""
        return await self._request("POST", template, names, answer, body=body)

    async def _post(
        self, answer: Read[T], template: str, body: Body | None = None, **names: str
    ) -> T:
        return await self._request("POST", template, names, answer, body=body, command=True)

    async def _request(
        self,
        method: str,
        template: str,
        names: Mapping[str, str],
        answer: Read[T],
        *,
        params: Mapping[str, str | int | None] | None = None,
        body: Body | None = None,
        command: bool = False,
    ) -> T:
        """`answer` reads what a success says."""
        ask_as = partial(
            self._request_as, method, template, names, answer, params, body, command=command
        )
        credentials = await self.identity.fresh()
        try:
            return await ask_as(credentials)
        except AuthenticationError:
            # A 401 says that nothing was done.
            others = await self.identity.after_refusal(credentials)
            if others is None:
                raise
        return await ask_as(others)

    async def _request_as(
        self,
        method: str,
        template: str,
        names: Mapping[str, str],
        answer: Read[T],
        params: Mapping[str, str | int | None] | None,
        body: Body | None,
        credentials: Credentials,
        *,
        command: bool,
    ) -> T:
        asked = _Asked(
            self._http.base_url,
            template,
            {"organization": credentials.organization, **names},
            command,
            self.identity.how_to_log_in,
            credentials.token,
            self._proxy,
        )
        request = self._build(method, asked, params, body)
        auth = _Bearer(credentials.token, asked.how_to_log_in) if credentials.token else None
        application_name = names.get("application")

        async def ask() -> T:
            try:
                response, content, is_cut = await self._send(request, auth, application_name)
            except httpx.HTTPError as error:
                raise asked.failure(error) from error
            if not response.is_success:
                raise asked.refusal(response, content)
            try:
                return answer(content, is_cut)
            except UnfitError as error:
                fault = str(error)
            raise asked.unreadable(response, fault)

        in_its_way = self.traffic.command if command else self.traffic.read
        return await in_its_way(application_name, ask)

    async def _send(
        self, request: httpx.Request, auth: "_Bearer | None", application_name: str | None
    ) -> tuple[httpx.Response, bytes, bool]:
        """An answer, its body unpacked, and whether that is only the beginning of a too large one.

        Streamed, so that what came of an answer that broke off is counted too.
        """
        self.traffic.transferred(application_name, bytes_sent=len(request.content))
        received = 0
        with deadline(self._request_seconds):
            response = await self._http.send(
                request, auth=auth or httpx.USE_CLIENT_DEFAULT, stream=True
            )
            try:
                content, is_cut = await body_of(response, MAX_ANSWER_BYTES)
                received = len(content)
            finally:
                # 0 for a transport that hands over a body as a whole: then there is no wire.
                received = response.num_bytes_downloaded or received
                self.traffic.transferred(application_name, bytes_received=received)
                with anyio.CancelScope(shield=True):
                    await response.aclose()
        return response, content, is_cut

    def _build(
        self,
        method: str,
        asked: "_Asked",
        params: Mapping[str, str | int | None] | None,
        body: Body | None,
    ) -> httpx.Request:
        given = {name: value for name, value in (params or {}).items() if value is not None}
        for name, value in [*given.items(), *(body or ())]:
            if value is not None and value in ("", (), [], {}):
                raise UsageError(
                    f"{name} is empty.",
                    hint="An empty filter means everything upstream: leave it out, or fill it.",
                )
        path = asked.path()
        try:
            request = self._http.build_request(
                method, path, params=given, json=None if body is None else body.to_request()
            )
        except (ValueError, httpx.InvalidURL) as error:
            raise UsageError(
                f"This cannot be sent to Conductor: {one_line(str(error))}."
            ) from error
        expected = self._http.base_url.raw_path + path.removeprefix("/").encode()
        if request.url.raw_path.partition(b"?")[0] != expected:
            raise UsageError("These names cannot be put into a URL.", hint=_ANOTHER_RESOURCE)
        return request


@dataclass(frozen=True)
class _Asked:
    """What was asked, for the words of an error. No text of the server's goes unclipped."""

    base_url: httpx.URL
    template: str
    names: Mapping[str, str]
    command: bool
    how_to_log_in: str
    token: str | None = field(repr=False)
    proxy: Proxy | None = None
    """Where there is one in between."""

    def path(self) -> str:
        return _FIELD.sub(lambda match: self._segment(match[1]), self.template)

    def failure(self, error: httpx.HTTPError) -> DbosMcpError:
        """No answer, or one that broke off."""
        sent = not isinstance(error, _NOT_SENT)
        unknown = self.command and sent
        if isinstance(error, httpx.DecodingError):
            return ResponseError(
                f"The answer of Conductor at {self._host} cannot be unpacked.",
                hint=_MAY_HAVE_RUN if unknown else _NOT_CONDUCTOR,
                outcome_unknown=unknown,
            )
        reason = "timed out" if isinstance(error, httpx.TimeoutException) else str(error)
        through = f" through the proxy {self.proxy}," if self.proxy else ""
        return UnavailableError(
            f"Conductor at {self._host} {'gave no answer' if sent else 'cannot be reached'}"
            f"{through}{self._because(reason or type(error).__name__)}.",
            hint=_MAY_HAVE_RUN if unknown else _check(error),
            outcome_unknown=unknown,
            passing=not isinstance(error, _OUR_FAULT),
        )

    def refusal(self, response: httpx.Response, content: bytes) -> DbosMcpError:
        """An answer that is not a success."""
        status = response.status_code
        phrase = f"{status} {httpx.codes.get_reason_phrase(status)}".rstrip()
        answered = f"Conductor at {self._host} answered {phrase}"
        because = self._because(*_explain(_problem(response, content)))
        # 501 and 503 say that nothing was tried.
        unknown = self.command and status >= 500 and status not in (501, 503)
        hint = _MAY_HAVE_RUN if unknown else ""
        if status == 401:
            return AuthenticationError(
                f"Conductor at {self._host} does not accept the credentials{because}.",
                hint=self.how_to_log_in,
            )
        if status == 403:
            return self._forbidden(response, because)
        if status == 404 and _media_type(response) != "application/problem+json":
            return ResponseError(
                f"{answered} ({self._shown(_media_type(response))}): it has no API v2 at this"
                " address.",
                hint="A self-hosted Conductor needs image 0.17.0 or later; else DBOS_URL may miss "
                "its prefix, such as /conductor.",
            )
        if status == 404:
            return self._not_found(because)
        if status == 429:
            return RateLimitError(
                f"Conductor at {self._host} has had too many requests{because}.",
                hint="Wait before the next one.",
                retry_after_seconds=retry_after(response),
            )
        if status == 503 and "{application}" in self.template:
            return UnavailableError(
                f"Application {_quoted(self.names['application'])} has no healthy executor "
                f"connected{because}.",
                hint="Conductor asks the application itself: start it, or use the cache.",
                passing=retry_after(response) is not None,
                retry_after_seconds=retry_after(response),
            )
        if status in (502, 503, 504):
            return UnavailableError(
                f"{answered}{because}.",
                hint=hint or "An executor, or a proxy, did not answer: try again later.",
                outcome_unknown=unknown,
                passing=status != 503 or retry_after(response) is not None,
                retry_after_seconds=retry_after(response) if status == 503 else None,
            )
        if 400 <= status < 500:
            return RejectedError(
                f"{answered}{because}.", hint="The same again would be refused again."
            )
        if response.next_request is not None:
            return ResponseError(
                f"{answered}, to {self._shown(response.next_request.url.host)}.",
                hint="Redirects are not followed: set DBOS_URL to where Conductor is.",
            )
        return ResponseError(
            f"{answered}{because}.",
            hint=hint or "Try again later; Conductor's log tells more.",
            outcome_unknown=unknown,
        )

    def unreadable(self, response: httpx.Response, fault: str) -> ResponseError:
        """A success that is not one of API v2."""
        return ResponseError(
            f"Conductor at {self._host} answered {response.status_code} with "
            f"{self._shown(_media_type(response))} that is not of API v2{self._because(fault)}.",
            hint=_MAY_HAVE_RUN if self.command else _NOT_CONDUCTOR,
            outcome_unknown=self.command,
        )

    def _forbidden(self, response: httpx.Response, because: str) -> PermissionDeniedError:
        reason = response.headers.get("X-DBOS-Error", "")
        if reason == "past_limit":
            return PermissionDeniedError(
                f"The organization is past the limit of its plan (past_limit){because}.",
                hint="Its administrator can change the plan at the DBOS console; the same call will"
                " not succeed before.",
            )
        said = f"{because}{self._because(reason)}"
        if "{organization}" not in self.template:
            return PermissionDeniedError(
                f"Conductor does not allow this{said}.", hint="An API key has no user: log in."
            )
        permission = "application.write" if self.command else "application.read"
        kind = "application" if "application" in self.names else "organization"
        hint = (
            f"The API key lacks {permission}, or is limited to other applications. Whoever may make"
            f" keys can make one that has {permission}; set it as DBOS_TOKEN."
            if self.token and self.token.startswith(API_KEY_PREFIX)
            else f"The role of this user lacks {permission}. An administrator of the organization"
            " can grant a role that has it."
        )
        return PermissionDeniedError(
            f"Conductor does not allow this without the permission {permission} in {kind}"
            f" {_quoted(self.names[kind])}{said}.",
            hint=hint,
        )

    @property
    def _host(self) -> str:
        return str(self.base_url.netloc, "ascii")

    def _not_found(self, because: str) -> NotFoundError:
        """What was asked for is the last name in the path."""
        names: list[str] = _FIELD.findall(self.template)
        if not names:
            return NotFoundError(
                f"Conductor has no user for these credentials{because}.",
                hint="An API key has no user, nor has a login that is not registered yet.",
            )
        sought = " in ".join(f"{name} {_quoted(self.names[name])}" for name in names[:-3:-1])
        return NotFoundError(f"Conductor has no {sought}{because}.", hint=_LOOKUP[names[-1]])

    def _segment(self, name: str) -> str:
        value = self.names[name]
        if value in ("", ".", "..") or any(unicodedata.category(c) in ("Cc", "Cs") for c in value):
            raise UsageError(
                f"{_quoted(value)} cannot be asked for as {name}.", hint=_ANOTHER_RESOURCE
            )
        return quote(value, safe="")

    def _because(self, *reasons: str) -> str:
        """`: reason; reason`, each clipped."""
        said = "; ".join(filter(None, map(self._shown, reasons))).rstrip(".")
        return f": {said}" if said else ""

    def _shown(self, text: str) -> str:
        """Text of the server's, without the token should it repeat that, also in lower case."""
        if self.token:
            text = re.sub(re.escape(self.token), "[token]", text, flags=re.IGNORECASE)
        return one_line(text)


def _check(error: httpx.HTTPError) -> str:
    if fault_of(error) in BAD_CERTIFICATE:
        return (
            "Its certificate is not trusted here: check DBOS_URL, or name the authority's"
            " certificate with SSL_CERT_FILE. Checks cannot be turned off."
        )
    return "Check DBOS_URL and the network, then try again."


class _Bearer(httpx.Auth):
    def __init__(self, token: str, how_to_log_in: str) -> None:
        # httpx and h11 would quote it in their errors.
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise AuthenticationError(
                "The token holds spaces, line breaks or other characters that no token has.",
                hint=how_to_log_in,
            )
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


def _quoted(name: str) -> str:
    return one_line(repr(name), 100)


def _parse_base_url(base_url: str) -> httpx.URL:
    hint = f"Set DBOS_URL to an address such as {MANAGED_URL} or http://localhost:8090."
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        raise UsageError("The URL of Conductor is not a URL.", hint=hint) from None
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise UsageError(f"This is not the URL of a Conductor: {one_line(url.host)!r}.", hint=hint)
    if url.scheme == "http" and url.host.rstrip(".") == httpx.URL(MANAGED_URL).host:
        raise UsageError(f"{url.host} is to be asked over https.", hint=hint)
    return url


def _require_limit(limit: int | None) -> None:
    if limit is None or limit < 1:
        raise UsageError(
            f"limit is {limit}.", hint="Give one of at least 1: without, every row would come."
        )


def _all(shape: type[Row]) -> Read[Rows[Row]]:
    """Of a list, or it is no answer."""
    read: Read[list[Row]] = whole(list[shape])  # type: ignore[valid-type]
    return lambda content, is_cut: Rows(read(content, is_cut))


def _media_type(response: httpx.Response) -> str:
    content_type: str = response.headers.get("Content-Type", "")
    return one_line(content_type.partition(";")[0].lower(), 100) or "no content type"


def _problem(response: httpx.Response, content: bytes) -> Problem:
    if _media_type(response) in ("application/problem+json", "application/json"):
        try:
            return Problem.model_validate_json(content)
        except ValidationError:
            pass
    return Problem()


def _explain(problem: Problem) -> tuple[str, str]:
    """The problem's detail, and the places it names; never the values."""
    places = (f"{error.get('location')}: {error.get('message')}" for error in problem.errors or ())
    return problem.detail or problem.title or "", ", ".join(islice(places, 10))
