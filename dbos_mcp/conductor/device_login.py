"""Login by device code (RFC 8628): a code is shown here, and approved in a browser meanwhile."""

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import httpx
from pydantic import BaseModel, Field, FiniteFloat

from dbos_mcp.conductor.oauth import IssuerClient, RefusedError, Tokens, require_https
from dbos_mcp.domain import one_line
from dbos_mcp.errors import (
    LoginDeniedError,
    LoginError,
    LoginExpiredError,
    LoginPendingError,
    UnavailableError,
)
from dbos_mcp.settings import Issuer

_GRANT = "urn:ietf:params:oauth:grant-type:device_code"

_LIFETIME_SECONDS = 600.0
"""Of a code whose issuer does not say, or says nonsense; it ends the login itself at its time."""
_MAX_LIFETIME_SECONDS = 86_400.0
_INTERVAL_SECONDS = 5.0  # section 3.2
_MIN_INTERVAL_SECONDS = 1.0
_MAX_INTERVAL_SECONDS = 60.0
_SLOW_DOWN_SECONDS = 5.0  # section 3.5
_MAX_BACKOFF_SECONDS = 60.0
_LONGEST_RETRY_AFTER_SECONDS = 300.0


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
    device_code: str = Field(repr=False)
    user_code: str
    verification_uri: str
    verification_uri_complete: str | None = None
    expires_in: FiniteFloat | None = None
    interval: FiniteFloat | None = None

    @property
    def lifetime_seconds(self) -> float:
        if self.expires_in is None or self.expires_in <= 0:
            return _LIFETIME_SECONDS
        return min(self.expires_in, _MAX_LIFETIME_SECONDS)

    @property
    def interval_seconds(self) -> float:
        if self.interval is None:
            return _INTERVAL_SECONDS
        return min(max(self.interval, _MIN_INTERVAL_SECONDS), _MAX_INTERVAL_SECONDS)


@dataclass
class _Polling:
    """How a login is polled for; it outlives a call of `complete`, and several may share it."""

    interval_seconds: float
    next_at: float
    asking: anyio.Lock = field(default_factory=anyio.Lock)
    failures: int = 0
    """Polls without an answer, in a row."""
    last_error: UnavailableError | RefusedError | None = None
    outcome: Tokens | RefusedError | None = None


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
            raise _refusal_to_start(error, issuer) from None
        answer = self._client.parse(_DeviceAnswer, response)
        require_https(answer.verification_uri)
        if answer.verification_uri_complete is not None:
            require_https(answer.verification_uri_complete)
        login = DeviceLogin(
            user_code=one_line(answer.user_code, 100),
            verification_uri=answer.verification_uri,
            verification_uri_complete=answer.verification_uri_complete,
            expires_at=asked_at + answer.lifetime_seconds,
            interval_seconds=answer.interval_seconds,
            device_code=answer.device_code,
        )
        self._polling_of(login)  # the first interval begins now
        return login

    async def complete(self, login: DeviceLogin, *, timeout_seconds: float = 60.0) -> Tokens:
        """Wait for approval, at most `timeout_seconds`; it may be called again, also meanwhile.

        Polls are never closer together than the issuer allows, whoever calls, and stop for good at
        a final answer, which every later call gets too. Polls that fail become rarer.

        Raises:
            LoginPendingError: not approved yet.
            LoginExpiredError, LoginDeniedError, LoginError: final, start again.
            UnavailableError: the issuer did not answer in the end; the login is still valid.
        """
        deadline = self._clock() + timeout_seconds
        polling = self._polling_of(login)
        while polling.outcome is None:
            now = self._clock()
            wake_at = min(polling.next_at, login.expires_at)
            if now >= wake_at:
                await self._poll(login, polling)
            elif now >= deadline:
                raise self._unfinished(login, polling)
            else:
                await self._sleep(min(wake_at, deadline) - now)
        if isinstance(polling.outcome, RefusedError):
            raise _final_error(polling.outcome, self._client.issuer)
        return polling.outcome

    def _polling_of(self, login: DeviceLogin) -> _Polling:
        interval = login.interval_seconds
        return self._pollings.setdefault(
            login.device_code, _Polling(interval, self._clock() + interval)
        )

    async def _poll(self, login: DeviceLogin, polling: _Polling) -> None:
        """Ask once, if it is still time for it when nobody else is asking."""
        async with polling.asking:
            now = self._clock()
            if polling.outcome is not None:
                return
            if now >= login.expires_at:
                polling.outcome = RefusedError("expired_token")
            elif now >= polling.next_at:
                try:
                    # A code is good for one grant: who stops waiting must not lose the tokens.
                    with anyio.CancelScope(shield=True):
                        await self._ask(login, polling)
                finally:
                    polling.next_at = self._clock() + _distance(polling)

    async def _ask(self, login: DeviceLogin, polling: _Polling) -> None:
        """The answer is noted in `polling`."""
        form = {"grant_type": _GRANT, "device_code": login.device_code}
        try:
            polling.outcome = await self._client.ask_for_tokens(form)
        except UnavailableError as error:
            polling.failures += 1
            polling.last_error = error
            return
        except RefusedError as error:
            polling.last_error = error
            if error.name == "slow_down":
                polling.interval_seconds += _SLOW_DOWN_SECONDS
            elif error.name != "authorization_pending":
                polling.outcome = error
        polling.failures = 0

    def _unfinished(self, login: DeviceLogin, polling: _Polling) -> LoginError | UnavailableError:
        last = polling.last_error
        if isinstance(last, UnavailableError):
            return UnavailableError(
                last.message, hint="The login is still valid: call `login_complete` again."
            )
        minutes = math.ceil((login.expires_at - self._clock()) / 60)
        slower = ""
        if last is not None and last.name == "slow_down":
            wait = math.ceil(polling.next_at - self._clock())
            slower = f" The login server asks for more patience: {wait} seconds to the next try."
        return LoginPendingError(
            f"The login is still pending: the code {login.user_code} is valid for {minutes} min, "
            f"at {one_line(login.url, 1000)}.{slower}",
            hint="Approve it in the browser, then call `login_complete` again.",
        )


def _distance(polling: _Polling) -> float:
    """To the next poll (section 3.5: exponential backoff when no answer comes)."""
    backoff = polling.interval_seconds * 2.0 ** min(polling.failures, 10)
    wanted = 0.0
    if polling.failures and isinstance(polling.last_error, UnavailableError):
        wanted = polling.last_error.retry_after_seconds or 0.0
    return max(
        polling.interval_seconds,
        min(backoff, _MAX_BACKOFF_SECONDS),
        min(wanted, _LONGEST_RETRY_AFTER_SECONDS),
    )


def _refusal_to_start(error: RefusedError, issuer: Issuer) -> LoginError:
    """Before there is a code, nobody can have denied it: it is the audience that is refused."""
    if error.name not in ("access_denied", "invalid_target"):
        return _final_error(error, issuer)
    if issuer.audience is None:
        return LoginError(
            f"The login server wants to know what the login is for{_said(error)}.",
            hint="Set DBOS_MCP_AUDIENCE.",
        )
    return LoginError(
        f"The login server refuses the audience {issuer.audience}{_said(error)}.",
        hint="Check DBOS_MCP_AUDIENCE.",
    )


def _final_error(error: RefusedError, issuer: Issuer) -> LoginError:
    match error.name:
        case "expired_token":
            return LoginExpiredError("The code of this login has expired.", hint="Log in again.")
        case "access_denied":
            return LoginDeniedError("The login was denied in the browser.", hint="Log in again.")
        case "invalid_grant":
            return LoginError(
                f"The code of this login was already used, or is not known any more{_said(error)}.",
                hint="Log in again.",
            )
        case "invalid_client" | "unauthorized_client":
            return LoginError(
                f"The login server does not let the client {issuer.client_id} log in by device "
                f"code{_said(error)}.",
                hint="Check DBOS_MCP_CLIENT_ID: it must be a public client with the device grant.",
            )
    return RefusedError(error.name, error.description)


def _said(error: RefusedError) -> str:
    return f" ({error.name}: {error.description})" if error.description else f" ({error.name})"
