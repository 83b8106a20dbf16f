"""The wire to an OAuth issuer: discovery, and one form at a time (RFC 6749, RFC 8414).

Our own, because Authlib's client does not serve here: it has no device grant (RFC 8628, which it
implements for servers), its refresh is guarded against other tasks but not against other processes
that share a credentials file, and it has no types. What would be left of it is two forms and their
answers, which are below.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from dbos_mcp.conductor.wire import body_of, deadline, http_client, retry_after
from dbos_mcp.domain import one_line
from dbos_mcp.errors import LoginError, UnavailableError
from dbos_mcp.settings import Issuer

T = TypeVar("T")

REQUEST_SECONDS = 20.0
"""For a whole request, however it drips."""
MAX_ANSWER_BYTES = 1_000_000
"""Unpacked: an issuer says little."""


@dataclass(frozen=True)
class Tokens:
    access_token: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    expires_in: int | None = None


class Endpoints(BaseModel):
    """What discovery must tell (OpenID Connect Discovery 1.0, section 3)."""

    token_endpoint: str
    device_authorization_endpoint: str | None = None
    revocation_endpoint: str | None = None


class RefusedError(LoginError):
    """The issuer's answer is an OAuth error; `name` is its code (RFC 6749, section 5.2), and
    `description` what it says to people, if anything."""

    def __init__(self, name: str, description: str = "") -> None:
        said = f" ({description})" if description else ""
        super().__init__(f"The login server refused: {name}{said}.", hint="Log in again.")
        self.name = name
        self.description = description


class IssuerClient:
    """Asks one issuer, as its public client.

    Methods raise RefusedError for an OAuth error, LoginError for an answer or address that cannot
    be used, and UnavailableError when there was no answer, or it was the server's fault.
    """

    def __init__(
        self,
        issuer: Issuer,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        self.issuer = issuer
        self._transport = transport
        self._request_seconds = request_seconds
        self._endpoints: Endpoints | None = None

    @property
    def host(self) -> str:
        return httpx.URL(self.issuer.url).host

    async def discover(self) -> Endpoints:
        if self._endpoints is None:
            url = self.issuer.url.rstrip("/") + "/.well-known/openid-configuration"
            response = await self._send("GET", url)
            if not response.is_success:
                raise LoginError(
                    f"{self.host} answered {response.status_code} when asked how to log in.",
                    hint="Check the issuer's URL.",
                )
            self._endpoints = self.parse(Endpoints, response)
        return self._endpoints

    async def ask_for_tokens(self, form: Mapping[str, str]) -> Tokens:
        response = await self.post((await self.discover()).token_endpoint, form)
        return self.parse(Tokens, response)

    async def refresh(self, refresh_token: str) -> Tokens:
        """New tokens for an old refresh token (RFC 6749, section 6), which the issuer may end."""
        return await self.ask_for_tokens(
            {"grant_type": "refresh_token", "refresh_token": refresh_token}
        )

    async def revoke(self, refresh_token: str) -> bool:
        """End a login at the issuer's (RFC 7009); false if it knows no such thing."""
        endpoint = (await self.discover()).revocation_endpoint
        if endpoint is None:
            return False
        form = {"token": refresh_token, "token_type_hint": "refresh_token"}
        await self.post(endpoint, form)
        return True

    async def post(self, url: str, form: Mapping[str, str]) -> httpx.Response:
        """Its answer to a form, if that is a success."""
        response = await self._send("POST", url, {"client_id": self.issuer.client_id, **form})
        if not response.is_success:
            raise _refusal(response, form)
        return response

    async def _send(
        self, method: str, url: str, form: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """An answer of the issuer's that is not a fault of its server."""
        require_https(url)
        timeout = httpx.Timeout(10.0, connect=5.0)
        try:
            with deadline(self._request_seconds):
                async with (
                    http_client(transport=self._transport, timeout=timeout) as http,
                    http.stream(method, url, data=form) as response,
                ):
                    content, is_cut = await body_of(response, MAX_ANSWER_BYTES)
        except httpx.HTTPError as error:
            raise self._unavailable(str(error) or type(error).__name__) from error
        if is_cut:
            raise self._unavailable("what it says is too large")
        status = response.status_code
        if status == 429 or status >= 500:
            phrase = httpx.codes.get_reason_phrase(status)
            raise self._unavailable(f"{status} {phrase}".rstrip(), retry_after(response))
        return httpx.Response(status, content=content)

    def parse(self, answer: type[T], response: httpx.Response) -> T:
        try:
            return TypeAdapter(answer).validate_json(response.content)
        except ValidationError:
            pass
        # Outside the handler: the validation error holds the answer, and so perhaps a token.
        raise LoginError(
            f"The answer of {self.host} is not one of OAuth.",
            hint="Check the issuer's URL; a proxy may be answering.",
        )

    def _unavailable(
        self, reason: str, retry_after_seconds: float | None = None
    ) -> UnavailableError:
        return UnavailableError(
            f"The login server {self.host} did not answer: {one_line(reason)}.",
            hint="Try again: a login that was started is still valid.",
            retry_after_seconds=retry_after_seconds,
        )


class _OAuthError(BaseModel):
    error: str
    error_description: object = None


def _refusal(response: httpx.Response, form: Mapping[str, str]) -> RefusedError:
    """What the issuer says, without the code or token that it may quote."""

    def shown(text: str, limit: int) -> str:
        for name in ("device_code", "refresh_token", "token"):
            if secret := form.get(name):
                text = text.replace(secret, "…")
        return one_line(text, limit)

    try:
        said = _OAuthError.model_validate_json(response.content)
    except ValidationError:
        return RefusedError(f"HTTP status {response.status_code}")
    description = said.error_description if isinstance(said.error_description, str) else ""
    return RefusedError(shown(said.error, 100), shown(description, 200).rstrip("."))


def require_https(url: str) -> None:
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
