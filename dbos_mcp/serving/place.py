"""Where a server over HTTP is, by which names clients come to it, and whom that lets in."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from dbos_mcp.errors import UsageError

MCP_PATH = "/mcp"

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
_ORIGIN = re.compile(r"https?://[a-z0-9.\[\]:-]+")


@dataclass(frozen=True)
class Place:
    """Where it is served, and for whom: names and pages, as clients and browsers say them."""

    host: str = "127.0.0.1"
    port: int = 8321
    allowed_hosts: Sequence[str] = ()
    """Besides those of the address itself."""
    allowed_origins: Sequence[str] = ()
    tls_certificate: Path | None = None
    tls_key: Path | None = None

    @property
    def is_loopback(self) -> bool:
        address = _address(self.host)
        return self.host == "localhost" or (address is not None and address.is_loopback)

    @property
    def is_any(self) -> bool:
        address = _address(self.host)
        return self.host == "" or (address is not None and address.is_unspecified)

    @property
    def is_private(self) -> bool:
        """Whether only programs of this machine come here, and nobody hands others on to it."""
        return self.is_loopback and not self.allowed_hosts

    @property
    def scheme(self) -> str:
        return "https" if self.tls_certificate is not None else "http"

    @property
    def hosts(self) -> frozenset[str]:
        """All that a `Host` header may be."""
        names = {"localhost", "127.0.0.1", "[::1]"} if self.is_loopback or self.is_any else set()
        if not self.is_any:
            names.add(_in_url(self.host))
        named = {f"{name}:{self.port}" for name in names}
        for name in self.allowed_hosts:
            named |= {name} if _has_port(name) else {name, f"{name}:{self.port}"}
        if self.port in (80, 443):
            named |= names
        return frozenset(name.lower() for name in named)

    @property
    def url(self) -> str:
        name = next(iter(self.allowed_hosts), f"{_in_url(self.host)}:{self.port}")
        scheme = "https" if self.allowed_hosts else self.scheme
        return f"{scheme}://{name}{MCP_PATH}"

    def require_safe(self, *, authenticated: bool) -> None:
        """
        Raises:
            UsageError: whoever can connect could ask, or command; or nobody could.
        """
        if not authenticated and not self.is_private:
            raise UsageError(
                f"Nobody is served on {self.host} without a token"
                + (f" for {self.allowed_hosts[0]}." if self.is_loopback else "."),
                hint="Make one first: `dbos-mcp token create NAME`; or set DBOS_MCP_HTTP_ISSUER.",
            )
        if self.is_any and not self.allowed_hosts:
            raise UsageError(
                f"{self.host or 'An empty host'} is every address of this machine, and no name.",
                hint="Say by which name clients come: `--allow-host mcp.example.com`.",
            )
        for name in self.allowed_hosts:
            if not _HOST.fullmatch(name):
                raise UsageError(
                    f"{name!r} is no host.",
                    hint="Give one name, as `--allow-host mcp.example.com`.",
                )
        for origin in self.allowed_origins:
            if not _ORIGIN.fullmatch(origin):
                raise UsageError(
                    f"{origin!r} is no origin.",
                    hint="Give what a browser says, as `--allow-origin https://app.example.com`.",
                )
        for file in (self.tls_certificate, self.tls_key):
            if file is not None and not file.is_file():
                raise UsageError(f"There is no file {file}.")
        if self.tls_key is not None and self.tls_certificate is None:
            raise UsageError("A key alone is not enough.", hint="Give --tls-cert, too.")


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _has_port(name: str) -> bool:
    return name.rpartition(":")[2].isdigit() and not name.endswith("]")
