"""Login by device code (RFC 8628): a code is shown here, and approved in a browser meanwhile."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import httpx
from pydantic import BaseModel

from dbos_mcp.conductor.oauth import IssuerClient, RefusedError, Tokens, require_https
from dbos_mcp.domain import one_line
from dbos_mcp.errors import LoginDeniedError, LoginError, LoginExpiredError, LoginPendingError
from dbos_mcp.settings import Issuer

_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


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

    @property
    def url(self) -> str:
        """To be opened: the one that brings the code along, where there is one."""
        return self.verification_uri_complete or self.verification_uri

    @property
    def host(self) -> str:
        """Where that is: to be compared by the person."""
        return httpx.URL(self.url).host


class _DeviceAnswer(BaseModel):
    device_code: str = field(repr=False)
    user_code: str
    verification_uri: str
    verification_uri_complete: str | None = None
    expires_in: int = 600
    interval: int = 5


@dataclass
class _Polling:
    """How a login is polled for; it outlives one call of `complete`."""

    interval_seconds: float
    next_at: float
    final_error: str | None = None


class DeviceAuthorization:
    """`start` gives the code to show, `complete` waits for approval."""

    def __init__(
        self,
        issuer: Issuer,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._client = IssuerClient(issuer, transport=transport)
        self._clock = clock
        self._sleep = sleep
        self._pollings: dict[str, _Polling] = {}

    async def start(self) -> DeviceLogin:
        """Ask for a code to show.

        Raises:
            LoginError: the issuer offers no such login, or refuses it.
            UnavailableError: the issuer did not answer.
        """
        endpoint = (await self._client.discover()).device_authorization_endpoint
        if endpoint is None:
            raise LoginError(
                f"{self._client.host} offers no login by device code.",
                hint="Enable the device grant there, or set DBOS_TOKEN to an API key.",
            )
        issuer = self._client.issuer
        asked_at = self._clock()
        form = {"scope": issuer.scope}
        if issuer.audience is not None:
            form["audience"] = issuer.audience
        try:
            response = await self._client.post(endpoint, form)
        except RefusedError as error:
            raise _final_error(error.name) from None
        answer = self._client.parse(_DeviceAnswer, response)
        require_https(answer.verification_uri)
        if answer.verification_uri_complete is not None:
            require_https(answer.verification_uri_complete)
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
        try:
            return await self._client.ask_for_tokens(
                {"grant_type": _GRANT, "device_code": login.device_code}
            )
        except RefusedError as error:
            if error.name == "slow_down":
                polling.interval_seconds += 5  # section 3.5
                polling.next_at += 5
            elif error.name != "authorization_pending":
                polling.final_error = error.name
        return None


def _final_error(name: str) -> LoginError:
    if name == "expired_token":
        return LoginExpiredError("The code of this login has expired.", hint="Log in again.")
    if name == "access_denied":
        return LoginDeniedError("The login was denied in the browser.", hint="Log in again.")
    return RefusedError(name)
