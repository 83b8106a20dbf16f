"""Who a request is of: a token of ours, or one of the team's OAuth issuer. No route is outside of
this but the few that are named public."""

import json
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from http import HTTPStatus

import anyio
import anyio.to_thread
from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dbos_mcp.domain import now_ms
from dbos_mcp.errors import StoreError, UnavailableError
from dbos_mcp.server.callers import USER, Principal
from dbos_mcp.serving.issuer import IssuerTokens
from dbos_mcp.serving.tokens import PREFIX, Token, TokenFile

logger = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 5.0
"""How often the token of a request that goes on is looked at again."""


@dataclass(frozen=True)
class Admitted:
    principal: Principal
    is_good: Callable[[], bool]
    """Whether the token still is."""


class RefusedError(Exception):
    """The request is not let in; the client is told no more than that."""

    def __init__(self, status: HTTPStatus, reason: str, error: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        """For the figures: no text of the client's."""
        self.error = error
        """As RFC 6750 names it."""


class User(AuthenticatedUser):
    """What the SDK keeps of a request, and binds sessions to: without the token itself."""

    def __init__(self, principal: Principal) -> None:
        super().__init__(
            AccessToken(
                token="",
                client_id=principal.id,
                scopes=[principal.rights],
                subject=principal.name,
            )
        )
        self.principal = principal


def caller() -> Principal:
    """Whose the message is. Raises PermissionError: nobody's, which no route lets happen."""
    user = auth_context_var.get()
    if not isinstance(user, User):
        raise PermissionError("a message without a token")
    return user.principal


class Verifier:
    """Knows the tokens of ours, and those of an issuer where there is one."""

    def __init__(self, tokens: TokenFile, issuer: IssuerTokens | None) -> None:
        self._tokens = tokens
        self._issuer = issuer

    async def admit(self, token: str) -> Admitted:
        """Raises RefusedError."""
        try:
            if token.startswith(f"{PREFIX}_"):
                return await self._of_ours(token)
            if self._issuer is not None:
                return await self._of_issuer(self._issuer, token)
        except (StoreError, UnavailableError) as error:
            logger.error("No token can be checked: %s", error)
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable") from error
        raise RefusedError(HTTPStatus.UNAUTHORIZED, "invalid", "invalid_token")

    async def _of_ours(self, secret: str) -> Admitted:
        token = self._tokens.verify(secret)
        if token is None:
            raise RefusedError(HTTPStatus.UNAUTHORIZED, "invalid", "invalid_token")
        if self._tokens.wants_note(token):
            await anyio.to_thread.run_sync(self._note_use, token)
        principal = Principal(f"token {token.id}", token.name, token.rights)
        return Admitted(principal, lambda: self._is_good(token))

    def _is_good(self, token: Token) -> bool:
        try:
            return self._tokens.is_good(token.id)
        except StoreError:
            return False

    def _note_use(self, token: Token) -> None:
        try:
            self._tokens.note_use(token)
        except StoreError as error:
            logger.warning("The use of a token was not written down: %s", error)

    async def _of_issuer(self, issuer: IssuerTokens, token: str) -> Admitted:
        verified = await issuer.verify(token)
        if verified is None:
            raise RefusedError(HTTPStatus.UNAUTHORIZED, "invalid", "invalid_token")
        if verified.principal is None:
            raise RefusedError(HTTPStatus.FORBIDDEN, "scope", "insufficient_scope")
        ends_at = verified.expires_at
        return Admitted(verified.principal, lambda: now_ms() < ends_at * 1000)


class Authentication:
    """Around all routes. Without a verifier everybody is the user of this process, as on stdio.

    It also ends what would go on for ever: streams when the server does, and whatever still runs
    when its token has ended.
    """

    def __init__(
        self,
        app: ASGIApp,
        verifier: Verifier | None,
        *,
        public: Collection[str],
        metadata_url: str | None = None,
        on_failure: Callable[[str], None] = lambda reason: None,
        look_again_seconds: float = LOOK_AGAIN_SECONDS,
    ) -> None:
        self.app = app
        self.closing = anyio.Event()
        self._verifier = verifier
        self._public = public
        self._metadata_url = metadata_url
        self._on_failure = on_failure
        self._look_again_seconds = look_again_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._public:
            await self.app(scope, receive, send)
            return
        if self._verifier is None:
            await self._run(Admitted(USER, lambda: True), scope, receive, send)
            return
        try:
            admitted = await self._verifier.admit(_bearer(Headers(scope=scope)))
        except RefusedError as error:
            self._on_failure(error.reason)
            await self._refusal(error)(scope, receive, send)
            return
        user = User(admitted.principal)
        token = auth_context_var.set(user)
        try:
            await self._run(admitted, {**scope, "user": user}, receive, send)
        finally:
            auth_context_var.reset(token)

    async def _run(self, admitted: Admitted, scope: Scope, receive: Receive, send: Send) -> None:
        begun = ended = False

        async def noting(message: Message) -> None:
            nonlocal begun, ended
            begun = True
            ended = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, admitted, _is_stream(scope), tasks.cancel_scope)
            await self.app(scope, receive, noting)
            tasks.cancel_scope.cancel()
        if not begun:
            await Response(status_code=HTTPStatus.SERVICE_UNAVAILABLE)(scope, receive, send)
        elif not ended:
            await send({"type": "http.response.body", "body": b""})

    async def _watch(self, admitted: Admitted, is_stream: bool, request: anyio.CancelScope) -> None:
        """End the request when its time has come."""
        while admitted.is_good():
            with anyio.move_on_after(self._look_again_seconds):
                await self.closing.wait()
                if is_stream:
                    break
                return  # the answer is waited for
        request.cancel()

    def _refusal(self, error: RefusedError) -> Response:
        told = {"error": error.error} if error.error else {}
        headers = {}
        if error.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            known = {**told} | (
                {"resource_metadata": self._metadata_url} if self._metadata_url else {}
            )
            parameters = ", ".join(f'{name}="{value}"' for name, value in known.items())
            headers["WWW-Authenticate"] = f"Bearer {parameters}".rstrip()
        return Response(
            json.dumps(told or {"error": error.reason}),
            error.status,
            headers,
            media_type="application/json",
        )


def _bearer(headers: Headers) -> str:
    """The token. One in the address or in the body is none: those end up in logs."""
    given = headers.getlist("authorization")
    if not given:
        raise RefusedError(HTTPStatus.UNAUTHORIZED, "missing")
    scheme, _, token = given[0].partition(" ")
    if len(given) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise RefusedError(HTTPStatus.UNAUTHORIZED, "invalid", "invalid_token")
    return token.strip()


def _is_stream(scope: Scope) -> bool:
    """Whether its answer goes on for as long as somebody listens."""
    headers = Headers(scope=scope)
    return scope["method"] == "GET" or headers.get("mcp-method") == "subscriptions/listen"
