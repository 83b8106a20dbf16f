"""What an incident happens to: a system database, the application's processes, and the mirror."""

import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE

import anyio
import httpx
from anyio.streams.buffered import BufferedByteReceiveStream
from pydantic import SecretStr
from starlette.applications import Starlette

from dbos_mcp.conductor.models import Executor
from dbos_mcp.domain import now_ms
from dbos_mcp.errors import DbosMcpError
from dbos_mcp.local_conductor.app import create_app
from dbos_mcp.local_conductor.system_database import SystemDatabase
from dbos_mcp.runtime import Live, open_runtime
from dbos_mcp.settings import Settings
from evals.application import READY

STAGE_SECONDS = 60.0

Stage = Callable[[], None]
"""A function of an incident's module, which a process of the application runs."""


class IncidentError(DbosMcpError):
    """An incident did not happen as it should."""


class Upstream:
    """The application of one incident. A local Conductor stands before its system database, which
    does not know executors, so those are told here, as Conductor would: whoever ran is connected,
    whoever died is not. The processes themselves are killed as soon as their stage is done; what
    was in flight stays in flight, and nobody but Conductor can tell a process that is busy."""

    def __init__(self, folder: Path, application_name: str) -> None:
        self.folder = folder
        self.application_name = application_name
        self.database = folder / "system.sqlite"
        url = f"sqlite:///{self.database}"
        self.settings = Settings(
            home=folder,
            application_name=application_name,
            system_database_url=SecretStr(url),
            cache=folder / "mirror.sqlite",
        )
        self.executors: dict[str, Executor] = {}
        self._system_database = SystemDatabase(url, [application_name])
        self.transport = _Conductor(create_app(self._system_database), self.executors)

    def close(self) -> None:
        self._system_database.close()

    async def run(
        self,
        stage: Stage,
        *,
        executor_id: str = "worker-1",
        application_version: str = "1.0.0",
        dies: bool = False,
    ) -> None:
        """Let a process run `stage` to its end; `dies`: Conductor has noticed that it is gone.

        Raises:
            IncidentError: it did not come to its end.
        """
        command = [
            *(sys.executable, "-m", "evals.application", stage.__module__, stage.__name__),
            *("--system-database-url", f"sqlite:///{self.database}"),
            *("--application-name", self.application_name),
            *("--application-version", application_version),
            *("--executor-id", executor_id),
        ]
        began_at = now_ms()
        log = self.folder / "application.log"
        with log.open("ab") as complaints:
            process = await anyio.open_process(
                command, stdin=PIPE, stdout=PIPE, stderr=complaints, env=_without_dbos()
            )
        try:
            assert process.stdout is not None
            with anyio.fail_after(STAGE_SECONDS):
                said = await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 1000)
            if said != READY.encode():
                raise IncidentError(f"{stage.__name__} said {said!r}.", hint=f"See {log}.")
        except (TimeoutError, anyio.EndOfStream, anyio.IncompleteRead) as error:
            raise IncidentError(
                f"{stage.__name__} did not come to its end.", hint=f"{log}: {log.read_text()}"
            ) from error
        finally:
            with anyio.CancelScope(shield=True):
                if process.returncode is None:
                    process.kill()
                await process.aclose()
        self.executors[executor_id] = Executor(
            executor_id=executor_id,
            application_version=application_version,
            status="DEAD" if dies else "HEALTHY",
            created_at=began_at,
            updated_at=now_ms() if dies else began_at,
            hostname=executor_id,
            language="python",
        )

    @asynccontextmanager
    async def live(self) -> AsyncIterator[Live]:
        """The way to its Conductor, and the mirror's worker."""
        async with open_runtime(self.settings, transport=self.transport) as runtime:
            yield runtime.require_live()

    async def sync(self) -> None:
        """Mirror what there is by now.

        Raises:
            IncidentError: it could not be read.
        """
        async with self.live() as live:
            for report in await live.worker.run_until_read():
                if report.error is not None:
                    raise IncidentError(f"Not mirrored: {report.error}") from report.error


@asynccontextmanager
async def open_upstream(folder: Path, application_name: str) -> AsyncIterator[Upstream]:
    upstream = Upstream(folder, application_name)
    try:
        yield upstream
    finally:
        upstream.close()


class _Conductor(httpx.ASGITransport):
    """A local Conductor that knows executors."""

    def __init__(self, app: Starlette, executors: dict[str, Executor]) -> None:
        super().__init__(app)
        self._executors = executors

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET" and request.url.path.endswith("/executors"):
            return httpx.Response(200, json=[each.to_wire() for each in self._executors.values()])
        return await super().handle_async_request(request)


def _without_dbos() -> dict[str, str]:
    """The environment without settings that are meant for somebody's real application."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DBOS")}
