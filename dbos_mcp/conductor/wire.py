"""HTTP clients that go by the usual variables of proxies and certificates, and say so.

As with curl: HTTPS_PROXY, HTTP_PROXY and ALL_PROXY name the proxy by the scheme of the URL, also
for this machine itself; NO_PROXY excepts hosts. SSL_CERT_FILE and SSL_CERT_DIR name who is trusted.
"""

import errno
import os
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, NamedTuple
from urllib.request import getproxies, proxy_bypass

import anyio
import httpx

from dbos_mcp.domain import one_line
from dbos_mcp.errors import UsageError


def http_client(**options: Any) -> httpx.AsyncClient:
    """Never follows a redirect: credentials stay with the host that they are for.

    Raises:
        UsageError: a proxy or the certificates that the environment names cannot be used.
    """
    try:
        return httpx.AsyncClient(follow_redirects=False, **options)
    except OSError:  # also what is no certificate
        named = _set("SSL_CERT_FILE", "SSL_CERT_DIR") or "The system's certificates"
        refusal = UsageError(
            f"{named} cannot be read as certificates.",
            hint="Name a PEM file, or a folder of them as `openssl rehash` makes it.",
        )
    except (ValueError, httpx.InvalidURL, ImportError):
        named = _set("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
        refusal = UsageError(
            f"No proxy that can be used is named by {named}.",
            hint="Give a URL such as http://proxy.example:3128; SOCKS is not supported.",
        )
    # Outside the handler: the error may hold a password.
    raise refusal


class Proxy(NamedTuple):
    host: str | None
    """None: what names it cannot be read."""
    port: int
    variable: str

    def __str__(self) -> str:
        """For people: its host and the variable, never its password."""
        place = "a proxy" if self.host is None else f"{one_line(self.host, 100)}:{self.port}"
        return f"{place}, which {self.variable} names"


def proxy_of(url: httpx.URL) -> Proxy | None:
    """The proxy that the environment names for a URL."""
    proxies = getproxies()
    scheme = url.scheme if proxies.get(url.scheme) else "all"
    if not proxies.get(scheme) or proxy_bypass(url.host):
        return None
    named, variable = proxies[scheme], _set(f"{scheme}_PROXY".upper())
    try:
        parsed = httpx.URL(named if "://" in named else f"http://{named}")
        port = parsed.port or (443 if parsed.scheme == "https" else 80)
        return Proxy(parsed.host or None, port, variable)
    except (httpx.InvalidURL, UnicodeError):
        return Proxy(None, 0, variable)


class Fault(StrEnum):
    """What kept a request from getting its answer."""

    NAME = "name not found"
    REFUSED = "refused"
    NO_ROUTE = "no route"
    TIMEOUT = "timeout"
    PROXY = "proxy"
    EXPIRED = "certificate expired"
    NOT_YET = "certificate not valid yet"
    OTHER_HOST = "certificate of another host"
    UNTRUSTED = "certificate of an unknown authority"
    NOT_TLS = "no TLS"
    SILENT = "no answer in time"
    BROKEN = "broken off"


BAD_CERTIFICATE = frozenset({Fault.EXPIRED, Fault.NOT_YET, Fault.OTHER_HOST, Fault.UNTRUSTED})
_VERIFY_CODES = {
    9: Fault.NOT_YET,
    10: Fault.EXPIRED,
    62: Fault.OTHER_HOST,
    64: Fault.OTHER_HOST,  # an address instead of a name
}
"""OpenSSL's X509_V_ERR_…; all others are of an authority that is not trusted."""


def fault_of(error: httpx.HTTPError) -> Fault:
    """Told by what the libraries below say happened, rather than by their words."""
    for each in _causes(error):
        match each:
            case httpx.ProxyError():
                return Fault.PROXY
            case httpx.ConnectTimeout() | httpx.PoolTimeout():
                return Fault.TIMEOUT
            case httpx.TimeoutException():
                return Fault.SILENT
            case ssl.SSLCertVerificationError():
                return _VERIFY_CODES.get(each.verify_code, Fault.UNTRUSTED)
            case ssl.SSLError():
                return Fault.NOT_TLS
            case socket.gaierror():
                return Fault.NAME
            case ConnectionRefusedError():
                return Fault.REFUSED
            case OSError() if each.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
                return Fault.NO_ROUTE
    return Fault.BROKEN


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it came of; also where that was several at once."""
    yield error
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _causes(each)
    cause = error.__cause__ or error.__context__
    if cause is not None:
        yield from _causes(cause)


def _set(*names: str) -> str:
    """Those that are set, as they are."""
    given = [each for name in names for each in (name, name.lower()) if os.environ.get(each)]
    return " and ".join(given)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """For a whole request: httpx gives up on a silent server, not on one that drips."""
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError as error:
        raise httpx.ReadTimeout(f"nothing in {seconds:g} seconds") from error


async def body_of(response: httpx.Response, most: int) -> tuple[bytes, bool]:
    """Unpacked, and whether that is only its beginning, because there is more than `most`."""
    if "," in response.headers.get("Content-Encoding", ""):
        # Packed once, a part of 64 KB becomes 64 MB at the worst; packed twice, 64 GB.
        raise httpx.DecodingError("the answer is packed more than once")
    content = bytearray()
    async for part in response.aiter_bytes():
        content += part
        if len(content) > most:
            del content[most:]
            return bytes(content), True
    return bytes(content), False


def retry_after(response: httpx.Response) -> float | None:
    """RFC 9110, section 10.2.3: seconds, or a date."""
    value = response.headers.get("Retry-After", "")
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
