"""Login by device code: the person approves in a browser, here a code is shown and polled for.

The client is ours because no Python library has one: Authlib implements RFC 8628 for servers only,
httpx-oauth not at all, and requests-oauthlib would block the event loop.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TypeVar

import anyio
import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from dbos_mcp.conductor.client import one_line
from dbos_mcp.errors import (
    DbosMcpError,
    LoginDeniedError,
    LoginError,
    LoginExpiredError,
    LoginPendingError,
    UnavailableError,
)

T = TypeVar("T")

_DEVICE_CODE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


@dataclass(frozen=True)
class Issuer:
    """Who signs the tokens, and as which public client (without a secret) we ask."""

    url: str
    client_id: str
    audience: str | None
    scope: str = "openid offline_access"


MANAGED_ISSUER = Issuer(
    "https://login.dbos.dev/", "6p7Sjxf13cyLMkdwn14MxlH7JdhILled", "dbos-cloud-api"
)


@dataclass(frozen=True)
class DeviceLogin:
    """A login that waits for its person: show the code together with the address.

    `expires_at` is a time of the clock that was given to DeviceAuthorization.
    """

    user_code: str
    verification_uri: str
    verification_uri_complete: str | None
    expires_at: float
    interval_seconds: float
    device_code: str = field(repr=False)


@dataclass(frozen=True)
class Tokens:
    access_token: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    expires_in: int | None = None


class _Discovery(BaseModel):
    token_endpoint: str
    device_authorization_endpoint: str | None = None


class _DeviceAnswer(BaseModel):
    device_code: str = field(repr=False)
    user_code: str
    verification_uri: str
    verification_uri_complete: str | None = None
    expires_in: int = 600
    interval: int = 5


class _OAuthError(BaseModel):
    error: str


@dataclass
class _Polling:
    """How a login is polled for; it outlives one call of `complete`."""

    interval_seconds: float
    next_at: float
    final_error: str | None = None


class DeviceAuthorization:
    """RFC 8628 with one issuer. `start` gives the code to show, `complete` waits for approval."""

    def __init__(
        self,
        issuer: Issuer,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._issuer = issuer
        self._transport = transport
        self._clock = clock
        self._sleep = sleep
        self._endpoints: _Discovery | None = None
        self._pollings: dict[str, _Polling] = {}

    async def start(self) -> DeviceLogin:
        """Ask for a code to show.

        Raises:
            LoginError: the issuer offers no such login, or refuses it.
            UnavailableError: the issuer did not answer.
        """
        endpoint = (await self._discover()).device_authorization_endpoint
        if endpoint is None:
            raise LoginError(
                f"{self._host} offers no login by device code.",
                hint="Enable the device grant there, or set DBOS_TOKEN to an API key.",
            )
        asked_at = self._clock()
        form = {"client_id": self._issuer.client_id, "scope": self._issuer.scope}
        if self._issuer.audience is not None:
            form["audience"] = self._issuer.audience
        response = await self._send("POST", endpoint, form)
        if not response.is_success:
            raise _final_error(_error_name(response))
        answer = self._parse(_DeviceAnswer, response)
        _require_https(answer.verification_uri)
        if answer.verification_uri_complete is not None:
            _require_https(answer.verification_uri_complete)
        return DeviceLogin(
            user_code=one_line(answer.user_code, 100),
            verification_uri=answer.verification_uri,
            verification_uri_complete=answer.verification_uri_complete,
            expires_at=asked_at + answer.expires_in,
            interval_seconds=max(answer.interval, 1),
            device_code=answer.device_code,
        )

    async def complete(self, login: DeviceLogin, *, timeout_seconds: float = 60.0) -> Tokens:
        """Wait for approval, at most `timeout_seconds`; it may be called again.

        Polls are never closer together than the issuer allows, also over several calls, and stop
        for good at a final answer.

        Raises:
            LoginPendingError: not approved yet.
            LoginExpiredError, LoginDeniedError, LoginError: final, start again.
            UnavailableError: the issuer did not answer; the login is still valid.
        """
        deadline = self._clock() + timeout_seconds
        polling = self._pollings.setdefault(
            login.device_code,
            _Polling(login.interval_seconds, self._clock() + login.interval_seconds),
        )
        while polling.final_error is None:
            now = self._clock()
            if now >= login.expires_at:
                polling.final_error = "expired_token"
            elif now >= polling.next_at:
                polling.next_at = now + polling.interval_seconds
                tokens = await self._poll(login, polling)
                if tokens is not None:
                    return tokens
            elif now >= deadline:
                raise LoginPendingError(
                    "The login is still pending.",
                    hint="Approve it in the browser, then call `login_complete` again.",
                )
            else:
                await self._sleep(min(polling.next_at, deadline, login.expires_at) - now)
        raise _final_error(polling.final_error)

    async def _poll(self, login: DeviceLogin, polling: _Polling) -> Tokens | None:
        """The tokens, or None with what the issuer said noted in `polling`."""
        form = {
            "grant_type": _DEVICE_CODE_GRANT,
            "device_code": login.device_code,
            "client_id": self._issuer.client_id,
        }
        response = await self._send("POST", (await self._discover()).token_endpoint, form)
        if response.is_success:
            return self._parse(Tokens, response)
        match _error_name(response):
            case "authorization_pending":
                pass
            case "slow_down":
                polling.interval_seconds += 5  # RFC 8628, section 3.5
                polling.next_at += 5
            case _ if response.status_code == 429:
                raise self._unavailable("429 Too Many Requests")
            case name:
                polling.final_error = name
        return None

    async def _discover(self) -> _Discovery:
        if self._endpoints is None:
            url = self._issuer.url.rstrip("/") + "/.well-known/openid-configuration"
            response = await self._send("GET", url)
            if not response.is_success:
                raise LoginError(
                    f"{self._host} answered {response.status_code} when asked how to log in.",
                    hint="Check the issuer's URL.",
                )
            self._endpoints = self._parse(_Discovery, response)
        return self._endpoints

    async def _send(
        self, method: str, url: str, form: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """An answer of the issuer's that is not a fault of its server."""
        _require_https(url)
        timeout = httpx.Timeout(10.0, connect=5.0)
        try:
            async with httpx.AsyncClient(transport=self._transport, timeout=timeout) as http:
                response = await http.request(method, url, data=form)
        except httpx.HTTPError as error:
            raise self._unavailable(str(error) or type(error).__name__) from error
        if response.status_code >= 500:
            raise self._unavailable(f"{response.status_code}")
        return response

    def _parse(self, answer: type[T], response: httpx.Response) -> T:
        try:
            return TypeAdapter(answer).validate_json(response.content)
        except ValidationError:
            pass
        # Outside the handler: the validation error holds the answer, and so perhaps a token.
        raise LoginError(
            f"The answer of {self._host} is not one of OAuth.",
            hint="Check the issuer's URL; a proxy may be answering.",
        )

    def _unavailable(self, reason: str) -> DbosMcpError:
        return UnavailableError(
            f"The login server {self._host} did not answer: {one_line(reason)}.",
            hint="Try again: a login that was started is still valid.",
        )

    @property
    def _host(self) -> str:
        return httpx.URL(self._issuer.url).host


def _error_name(response: httpx.Response) -> str:
    try:
        return one_line(_OAuthError.model_validate_json(response.content).error, 100)
    except ValidationError:
        return f"HTTP status {response.status_code}"


def _final_error(name: str) -> LoginError:
    if name == "expired_token":
        return LoginExpiredError("The code of this login has expired.", hint="Log in again.")
    if name == "access_denied":
        return LoginDeniedError("The login was denied in the browser.", hint="Log in again.")
    return LoginError(f"The login server refused: {name}.", hint="Log in again.")


def _require_https(url: str) -> None:
    """Codes and tokens pass here; only on this machine may they pass in the clear."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        raise LoginError("The login server names an address that is not a URL.") from None
    if parsed.scheme != "https" and not (parsed.scheme == "http" and _is_loopback(parsed.host)):
        raise LoginError(
            f"The login would leave https, to {one_line(parsed.host) or 'another scheme'}.",
            hint="Check the issuer's URL.",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
