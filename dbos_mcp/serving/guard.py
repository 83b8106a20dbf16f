"""What is checked of every request, whoever it is of: that it means this server, and comes from no
web page that nobody allowed; that its body is JSON, short, and there in time."""

from collections.abc import Callable, Collection
from http import HTTPStatus
from math import inf

import anyio
from mcp.server.transport_security import RequestBodyLimitMiddleware
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
MOST_BODY_BYTES = 1_000_000
BODY_SECONDS = 30.0
OWN_SITE = (None, "none", "same-origin")
"""Of `Sec-Fetch-Site`: typed by a person, or of no browser. A page can send some requests without
saying its origin, but not without this."""


class Guard:
    """Refuses what does not name one of `hosts` (a name that was made to point here: DNS
    rebinding), and what a page of any origin but `origins` sends."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Collection[str],
        origins: Collection[str],
        on_refusal: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origins)
        self._on_refusal = on_refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http" and (refusal := self._refusal(scope)) is not None:
            status, reason = refusal
            self._on_refusal(reason)
            await PlainTextResponse(f"Refused: {reason}.", status)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[HTTPStatus, str] | None:
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        allowed = len(origins) == 1 and origins[0] in self._origins
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return HTTPStatus.MISDIRECTED_REQUEST, "host"
        if origins and not allowed:
            return HTTPStatus.FORBIDDEN, "origin"
        if headers.get("sec-fetch-site") not in OWN_SITE and not allowed:
            return HTTPStatus.FORBIDDEN, "site"
        if scope["method"] not in METHODS:
            return HTTPStatus.METHOD_NOT_ALLOWED, "method"
        if scope["method"] == "POST" and not _is_json(headers.getlist("content-type")):
            return HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "content type"
        return None


class Bodies:
    """Reads a body before anybody is called with it."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        most_bytes: int = MOST_BODY_BYTES,
        seconds: float = BODY_SECONDS,
    ) -> None:
        self.app = app
        self._most_bytes = most_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with anyio.move_on_after(self._seconds) as patience:

            async def there(scope: Scope, receive: Receive, send: Send) -> None:
                patience.deadline = inf
                await self.app(scope, receive, send)

            await RequestBodyLimitMiddleware(there, self._most_bytes)(scope, receive, send)
        if patience.cancelled_caught:
            late = Response(status_code=HTTPStatus.REQUEST_TIMEOUT, headers={"Connection": "close"})
            await late(scope, receive, send)


def _is_json(content_types: list[str]) -> bool:
    if len(content_types) != 1:
        return False
    kind, _, parameters = content_types[0].lower().partition(";")
    return kind.strip() == "application/json" and parameters.strip() in ("", "charset=utf-8")
