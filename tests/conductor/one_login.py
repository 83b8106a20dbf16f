"""One of several processes that share a login. At each line on its stdin, which is the time, it
asks Conductor as that login, and answers with the token that it did so with."""

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread

from dbos_mcp.conductor.client import ConductorClient
from dbos_mcp.conductor.credentials import CredentialStore, Login
from dbos_mcp.conductor.identity import LoginIdentity
from dbos_mcp.conductor.oauth import IssuerClient
from dbos_mcp.errors import DbosMcpError
from dbos_mcp.settings import Issuer


class UnlockedStore(CredentialStore):
    """Locks the file while it writes, and not while the issuer is asked."""

    @asynccontextmanager
    async def exclusively(self) -> AsyncIterator[Callable[[Login], None]]:
        def save(login: Login) -> None:
            with self._lock().acquire(timeout=10):
                self._write(login)

        yield save


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def main(url: str, issuer_url: str, client_id: str, path: Path, locked: bool) -> None:
    store = (CredentialStore if locked else UnlockedStore)(path)
    now = 0.0
    issuer = IssuerClient(Issuer(issuer_url, client_id, None))
    identity = LoginIdentity(store, url=url, issuer=issuer, clock=lambda: now)
    async with ConductorClient(url, identity) as client:
        say("ready")
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            now = float(line)
            try:
                await client.list_applications()
                say(identity.current().token or "")
            except DbosMcpError as error:
                say(type(error).__name__)


if __name__ == "__main__":
    _, url, issuer_url, client_id, path, locked = sys.argv
    anyio.run(main, url, issuer_url, client_id, Path(path), locked == "locked")
