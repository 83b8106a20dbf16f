"""How it goes, in numbers for Prometheus. Labels are names of ours and of applications: nothing
that a workflow wrote, nor anything that a client may choose."""

import os
import time
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mcp import MCPError
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector
from sqlalchemy import Connection

from dbos_mcp.domain import now_ms
from dbos_mcp.errors import DbosMcpError
from dbos_mcp.queries import commands
from dbos_mcp.queries.sync_status import SyncStatus, sync_status
from dbos_mcp.server.context import Session, Sessions

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
OTHER = "other"


class Metrics:
    def __init__(self, sessions: Sessions, tools: Collection[str]) -> None:
        self._sessions = sessions
        self._tools = frozenset(tools)
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._calls = Counter(
            "dbos_mcp_tool_calls",
            "Calls by tool and outcome.",
            ["tool", "outcome"],
            registry=registry,
        )
        self._seconds = Histogram(
            "dbos_mcp_tool_seconds",
            "How long calls took.",
            ["tool"],
            buckets=SECONDS,
            registry=registry,
        )
        self._running = Gauge("dbos_mcp_tool_calls_running", "Calls now.", registry=registry)
        self._refused = Counter(
            "dbos_mcp_requests_refused",
            "Requests that were not let in, by reason.",
            ["reason"],
            registry=registry,
        )
        gauge = partial(_Shown, registry=registry)
        applications = ["profile", "application"]
        self._age = gauge("sync_age_seconds", "Since the last complete look.", applications)
        self._offline = gauge("offline", "1: Conductor or the application is away.", applications)
        self._steps = gauge("steps_pending", "Workflows whose steps are to be read.", applications)
        self._up = gauge("mirror_open", "1: the mirror can be read.", ["profile"])
        self._events = gauge("events", "Events in the log.", ["profile"])
        self._cache = gauge("cache_bytes", "The size of the cache.", ["profile"])
        self._wal = gauge("wal_bytes", "The size of its write-ahead log.", ["profile"])
        self._commands = gauge(
            "commands", "Commands in the log, by outcome.", ["profile", "command", "outcome"]
        )
        self._gauges = (
            self._age,
            self._offline,
            self._steps,
            self._up,
            self._events,
            self._cache,
            self._wal,
            self._commands,
        )

    def note_refusal(self, reason: str) -> None:
        self._refused.labels(reason).inc()

    async def calls(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Around each message."""
        if ctx.method != "tools/call":
            return await call_next(ctx)
        named = (ctx.params or {}).get("name")
        tool = named if isinstance(named, str) and named in self._tools else OTHER
        outcome, begun = "cancelled", time.perf_counter()
        self._running.inc()
        try:
            result = await call_next(ctx)
            outcome = "error" if _is_error(result) else "ok"
            return result
        except (MCPError, ValueError):
            outcome = "error"
            raise
        finally:
            self._running.dec()
            self._calls.labels(tool, outcome).inc()
            self._seconds.labels(tool).observe(time.perf_counter() - begun)

    async def exposition(self) -> bytes:
        """All of it now, in Prometheus's text format."""
        seen = [
            (profile or "", await _seen(session))
            for profile, session in self._sessions.by_profile.items()
        ]
        for gauge in self._gauges:
            gauge.clear()
        for profile, state in seen:
            self._up.set(state is not None, profile)
            if state is not None:
                self._show(profile, *state)
        return generate_latest(self._registry)

    def _show(
        self,
        profile: str,
        status: SyncStatus,
        counted: Sequence[tuple[str, str, int]],
        wal_bytes: int,
    ) -> None:
        now = now_ms()
        for item in status.applications:
            name = item.application_name
            if item.as_of is not None:
                self._age.set((now - item.as_of) / 1000, profile, name)
            self._offline.set(item.offline_since is not None, profile, name)
            self._steps.set(item.steps_pending, profile, name)
        self._events.set(status.events, profile)
        self._cache.set(status.bytes, profile)
        self._wal.set(wal_bytes, profile)
        for command, outcome, count in counted:
            self._commands.set(count, profile, command, outcome)


class _Shown:
    """A gauge of what is there at the moment, whose labels come and go."""

    def __init__(
        self, name: str, told: str, labels: Sequence[str], *, registry: CollectorRegistry
    ) -> None:
        self._gauge = Gauge(f"dbos_mcp_{name}", told, labels, registry=registry)

    def clear(self) -> None:
        self._gauge.clear()

    def set(self, value: float, *labels: str) -> None:
        self._gauge.labels(*labels).set(value)


async def _seen(
    session: Session,
) -> tuple[SyncStatus, Sequence[tuple[str, str, int]], int] | None:
    """Looking at the figures is no question: it keeps nothing fresh."""
    try:
        runtime = await session.runtime()

        def read(connection: Connection) -> tuple[SyncStatus, Sequence[tuple[str, str, int]]]:
            return sync_status(connection, now=now_ms()), commands.counts(connection)

        status, counted = await runtime.read(read)
    except DbosMcpError:
        return None
    return status, counted, _wal_bytes(runtime.cache.path)


def _wal_bytes(cache: Path) -> int:
    try:
        return Path(f"{os.path.realpath(cache)}-wal").stat().st_size
    except OSError:
        return 0


def _is_error(result: HandlerResult) -> bool:
    if isinstance(result, dict):
        return bool(result.get("isError"))
    return bool(getattr(result, "is_error", False))
