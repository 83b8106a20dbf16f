"""The access tokens of an OAuth issuer: JWTs (RFC 9068), checked with the keys that it publishes.

The keys are kept, and asked for again when they are old, or when a token names one that is not
among them: an issuer that rotates its keys is followed at once, and a stranger who makes names up
costs it one request a minute.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio
import httpx
import jwt

from dbos_mcp.domain import Rights
from dbos_mcp.errors import DbosMcpError, UnavailableError, UsageError
from dbos_mcp.server.callers import Principal

logger = logging.getLogger(__name__)

ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""Of public keys alone: with `none` or HS256, whoever knows a public key could sign."""
TYPES = (None, "jwt", "at+jwt", "application/at+jwt")
SKEW_SECONDS = 30
KEYS_GOOD_SECONDS = 3600.0
KEYS_USABLE_SECONDS = 86_400.0
"""So long they are used while the issuer is away."""
ASK_AGAIN_SECONDS = 60.0
REQUEST_SECONDS = 10.0
MOST_BYTES = 512_000
MOST_TOKEN_CHARACTERS = 16_384


@dataclass(frozen=True)
class Expected:
    """What a token must be, to be one for this server."""

    issuer: str
    audience: str
    read_scope: str
    full_scope: str


@dataclass(frozen=True)
class Verified:
    """A token's user, and when that ends. No `principal`: it is good, and allows nothing here."""

    principal: Principal | None
    expires_at: int


class IssuerTokens:
    def __init__(
        self,
        expected: Expected,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.expected = expected
        self._transport = transport
        self._clock = clock
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._read_at = self._asked_at = float("-inf")
        self._asking = anyio.Lock()

    async def verify(self, token: str) -> Verified | None:
        """Whose it is, if it is good; None: it is not.

        Raises:
            UnavailableError: that cannot be told, since the issuer's keys are not to be had.
        """
        if len(token) > MOST_TOKEN_CHARACTERS:
            return None
        try:
            header = jwt.get_unverified_header(token)
            kind = header.get("typ")
            if header.get("alg") not in ALGORITHMS or header.get("crit") is not None:
                return None
            if (kind.lower() if isinstance(kind, str) else kind) not in TYPES:
                return None
            key = await self._key(header.get("kid"))
            if key is None:
                return None
            claims = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=self.expected.audience,
                issuer=self.expected.issuer,
                leeway=SKEW_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"], "verify_exp": False},
            )
            expires_at = int(claims["exp"])
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            return None
        if expires_at + SKEW_SECONDS <= self._clock():
            return None
        return Verified(self._principal(claims), expires_at + SKEW_SECONDS)

    def _principal(self, claims: Mapping[str, Any]) -> Principal | None:
        scopes = _scopes(claims)
        if self.expected.full_scope in scopes:
            rights = Rights.FULL
        elif self.expected.read_scope in scopes:
            rights = Rights.READ
        else:
            return None
        subject = claims["sub"]
        return Principal(f"{self.expected.issuer} {subject} {rights}", subject, rights)

    async def _key(self, kid: object) -> jwt.PyJWK | None:
        """Raises UnavailableError: see `verify`."""
        name = kid if isinstance(kid, str) else None
        now = self._clock()
        known = self._found(name)
        if known is not None and now - self._read_at < KEYS_GOOD_SECONDS:
            return known
        async with self._asking:
            if now - self._asked_at >= ASK_AGAIN_SECONDS:
                self._asked_at = now
                try:
                    self._keys, self._read_at = await self._ask(), now
                except DbosMcpError as error:
                    logger.warning("The keys of the issuer cannot be read: %s", error)
        if now - self._read_at >= KEYS_USABLE_SECONDS:
            raise UnavailableError(
                "The keys of the issuer cannot be read, so no token can be checked.",
                hint="Look into this server's log; a token of its own works meanwhile.",
            )
        return self._found(name)

    def _found(self, name: str | None) -> jwt.PyJWK | None:
        """A token that names no key is of the only one."""
        if name is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(name)

    async def _ask(self) -> dict[str | None, jwt.PyJWK]:
        issuer = self.expected.issuer
        async with httpx.AsyncClient(
            transport=self._transport, timeout=REQUEST_SECONDS, follow_redirects=False
        ) as client:
            with anyio.move_on_after(REQUEST_SECONDS) as patience:
                about = await _json(
                    client, issuer.rstrip("/") + "/.well-known/openid-configuration"
                )
                if about.get("issuer") != issuer:
                    raise UnavailableError("What is published there is of another issuer.")
                address = about.get("jwks_uri")
                if not isinstance(address, str):
                    raise UnavailableError("It does not say where its keys are.")
                require_safe(address)
                published = await _json(client, address)
        if patience.cancelled_caught:
            raise UnavailableError(f"There was no whole answer in {REQUEST_SECONDS:g} seconds.")
        return _usable(published)


def require_safe(url: str) -> None:
    """Keys that somebody on the way could replace are no keys.

    Raises:
        UsageError: it is not https, nor on this machine.
    """
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UsageError("The issuer's address is no URL.") from error
    here = parts.scheme == "http" and parts.host in ("127.0.0.1", "::1", "localhost")
    if not parts.host or not (parts.scheme == "https" or here):
        raise UsageError(
            "The keys of an issuer are read by https only.", hint="Give its https address."
        )


async def _json(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    try:
        async with client.stream("GET", url, headers={"Accept": "application/json"}) as response:
            if response.status_code != 200:
                raise UnavailableError(f"It answered {response.status_code}.")
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MOST_BYTES:
                    raise UnavailableError("Its answer is too long.")
        found = httpx.Response(200, content=bytes(body)).json()
    except httpx.HTTPError as error:
        raise UnavailableError(f"There was no answer ({type(error).__name__}).") from error
    except (ValueError, RecursionError) as error:
        raise UnavailableError("Its answer is no JSON.") from error
    if not isinstance(found, dict):
        raise UnavailableError("Its answer is no JSON object.")
    return found


def _usable(published: Mapping[str, Any]) -> dict[str | None, jwt.PyJWK]:
    """The keys that sign, and that a signer of ours may have. Raises UnavailableError: none."""
    listed = published.get("keys")
    found: dict[str | None, jwt.PyJWK] = {}
    for given in listed if isinstance(listed, list) else ():
        if not isinstance(given, dict) or given.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(given)
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        if key.algorithm_name in ALGORITHMS:
            found[key.key_id] = key
    if not found:
        raise UnavailableError("It publishes no key that can be used.")
    return found


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """As RFC 9068 has them, and as the larger issuers do."""
    found: set[str] = set()
    for name in ("scope", "scp", "permissions"):
        given = claims.get(name)
        if isinstance(given, str):
            found.update(given.split())
        elif isinstance(given, list):
            found.update(item for item in given if isinstance(item, str))
    return frozenset(found)
